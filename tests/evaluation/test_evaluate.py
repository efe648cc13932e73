"""The whole evaluation, on embeddings whose quality and uncertainty are known."""

from dataclasses import replace

import pytest
import torch

from probcl.distributions import VonMisesFisher
from probcl.evaluation import LIBRARY_SCORE, QUESTIONS, SCORES, Embeddings, Evaluator, Scorer
from probcl.evaluation.evaluate import watch
from probcl.evaluation.nearest import nearest
from probcl.evaluation.neighbour_vote import neighbour_vote, vote_entropy
from probcl.evaluation.posterior_scores import draw, mean_resultant_length, posterior_scores
from probcl.evaluation.probe import fit_linear_probe
from probcl.sphere import normalize

DIM, CLASSES = 8, 4
CENTRES = normalize(torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(0)))


def images(count, noise=None, shift=0.0, seed=1):
    """Images of classes on the sphere, each with noise of its own that its posterior knows."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    if noise is None:
        noise = 0.1 + 0.5 * torch.rand(count, generator=generator)
    error = torch.randn(count, DIM, generator=generator) * noise[:, None]
    features = 3 * (CENTRES[labels] + error) + shift
    posterior = VonMisesFisher(normalize(features), noise**-2.0)
    samples = draw(posterior)
    part = Embeddings(
        posterior.loc, features, labels, torch.arange(count),
        scores=posterior_scores(posterior, samples),
        length=mean_resultant_length(posterior, samples), norm=features.norm(dim=-1),
    )  # fmt: skip
    return part, samples


def point(part):
    return replace(part, scores={}, length=None)


@pytest.fixture(scope="module")
def evaluation():
    evaluator = Evaluator(images(400)[0])
    evaluator.add_test(*images(100, seed=2))
    evaluator.add_unfamiliar("shifted", *images(100, shift=3.0, seed=3))
    for severity in (1, 2, 3):
        noise = torch.full((50,), 0.3 * severity)
        part, samples = images(50, noise, seed=4)
        evaluator.add_corrupted("noisy", severity, part, samples)
    return evaluator.result()


def test_every_score_is_there_and_answers_every_question(evaluation):
    # Von Mises-Fisher posteriors have no log det K.
    assert evaluation.answers.keys() == SCORES.keys() - {"log_det_k"}
    for answers in evaluation.answers.values():
        assert answers.keys() == QUESTIONS.keys() - {"truth"}
        for answer in answers.values():
            assert answer.lower <= answer.value <= answer.upper


def test_the_entropy_knows_what_it_should(evaluation):
    answers = evaluation.answers[LIBRARY_SCORE]
    assert answers["ambiguity"].value > 0.7
    assert answers["retrieval_error"].value > 0.6
    assert answers["corruption"].value > 0.8
    assert evaluation.answers["mahalanobis"]["out_of_distribution"].value > 0.95
    assert evaluation.answers["trust"]["out_of_distribution"].value > 0.95
    assert evaluation.answers["trust"]["ambiguity"].value > 0.7


def test_metrics_have_names_and_are_finite(evaluation):
    metrics = evaluation.metrics
    assert all(torch.tensor(value).isfinite() for value in metrics.values())
    answer = evaluation.answers["entropy"]["out_of_distribution"].value
    assert metrics["unc/out_of_distribution"] == answer
    assert metrics["unc/auroc_shifted"] == answer
    assert "unc/auroc_shifted/mahalanobis" in metrics
    assert metrics["unc/spearman_noisy"] == evaluation.answers["entropy"]["corruption"].value
    for group in ("probe", "knn", "few_shot", "retrieval", "cluster", "cal", "conformal",
                  "collapse", "geometry", "information", "shift", "unc"):  # fmt: skip
        assert any(name.startswith(f"{group}/") for name in metrics), group
    assert set(evaluation.shift["noisy"]) == {1, 2, 3}


def test_corrupted_images_are_compared_with_themselves(evaluation):
    levels = evaluation.by_severity["noisy"]["entropy"]
    assert list(levels) == [0, 1, 2, 3]
    assert torch.equal(levels[0], evaluation.test.scores["entropy"][:50])


def test_batches_and_their_order_change_nothing(evaluation):
    evaluator = Evaluator(images(400)[0])
    part, samples = images(100, seed=2)
    for rows in (slice(30, 100), slice(0, 30)):
        some = Embeddings(
            part.embedding[rows], part.features[rows], part.labels[rows], part.index[rows],
            scores={name: values[rows] for name, values in part.scores.items()},
            length=part.length[rows], norm=part.norm[rows],
        )  # fmt: skip
        evaluator.add_test(some, samples[:, rows])
    again = evaluator.result()
    for name in ("probe/top1", "cal/ece", "retrieval/recall_at_1", "collapse/effective_rank"):
        assert again.quality[name] == pytest.approx(evaluation.quality[name], rel=1e-5)
    for score, answers in again.answers.items():
        value = evaluation.answers[score]["ambiguity"].value
        assert answers["ambiguity"].value == pytest.approx(value, abs=1e-6)


def test_scores_against_the_training_images_equal_their_definitions():
    train, (part, samples) = images(200)[0], images(40, seed=5)
    scores = Scorer.fit(train)(part, samples)
    cosine = part.embedding @ train.embedding.T
    fifth = cosine.sort(descending=True).values[:, 4]
    torch.testing.assert_close(scores["nearest_cosine"], 1 - fifth.double())
    found = nearest(part.embedding, train.embedding, 20)
    shares = neighbour_vote(found, train.labels, temperature=0.1)
    torch.testing.assert_close(scores["vote_entropy"], vote_entropy(shares).double())
    probe = fit_linear_probe(train.features, train.labels)
    confidence = probe.probabilities(part.features).amax(-1)
    torch.testing.assert_close(
        scores["max_probability"], 1 - confidence.double(), atol=1e-5, rtol=0
    )
    gated = 1 - (1 - scores["max_probability"]) * (1 - scores["atypicality"])
    torch.testing.assert_close(scores["trust"], gated)
    assert torch.equal(scores["embedding_norm"], -part.norm.double())
    # The density of the aggregate posterior, of which each part is von Mises-Fisher here.
    mixture = VonMisesFisher(train.embedding[:, None], (1 / _noise(train))[:, None] ** 2)
    log_p = torch.stack([mixture.log_prob(z).logsumexp(0) for z in samples[:8]]).mean(0)
    difference = scores["aggregate_surprise"] + log_p.double()
    torch.testing.assert_close(difference, difference.mean().expand(40), atol=2e-2, rtol=0)


def _noise(part):
    return (-part.scores["concentration"]) ** -0.5


def test_points_have_the_scores_that_need_no_posterior():
    train, (part, samples) = point(images(200)[0]), images(40, seed=5)
    scores = Scorer.fit(train)(point(part), samples)
    needed = {name for name, score in SCORES.items() if score.needs in ("labels", "nothing")}
    assert scores.keys() == needed


def test_one_class_leaves_out_what_needs_labels():
    train, (part, samples) = images(200)[0], images(40, seed=5)
    train, part = (replace(p, labels=torch.zeros_like(p.labels)) for p in (train, part))
    evaluator = Evaluator(train)
    evaluator.add_test(part, samples)
    evaluation = evaluator.result(spread=-(part.scores["concentration"] ** -1.0))
    assert evaluation.answers["entropy"]["truth"].value == pytest.approx(1)
    needed = {name for name, score in SCORES.items() if score.needs in ("posterior", "nothing")}
    assert evaluation.answers.keys() == needed - {"log_det_k"}
    assert list(evaluation.answers["entropy"]) == ["truth"]
    assert all(torch.tensor(value).isfinite() for value in evaluation.metrics.values())


def test_a_class_only_in_the_test_set_is_an_error_and_never_a_nan():
    evaluator = Evaluator(images(200)[0])
    part, samples = images(40, seed=5)
    evaluator.add_test(replace(part, labels=part.labels + 3), samples)
    evaluation = evaluator.result()
    assert 0 < evaluation.quality["probe/top5"] < 1
    assert "cal/ece" not in evaluation.quality
    assert all(torch.tensor(value).isfinite() for value in evaluation.metrics.values())


@pytest.mark.parametrize(("trained", "tested"), [(2, 1), (8, 2), (12, 5)])
def test_a_handful_of_images_is_evaluated_too(trained, tested):
    evaluator = Evaluator(images(trained)[0])
    evaluator.add_test(*images(tested, seed=2))
    metrics = evaluator.result().metrics
    assert all(torch.tensor(value).isfinite() for value in metrics.values())


def test_one_image_is_not_enough_to_compare_with():
    with pytest.raises(ValueError, match="train must have at least 2 rows, got 1"):
        Evaluator(images(1)[0])


def test_watching_is_quick_and_says_the_same(evaluation):
    watched = watch(images(400)[0], images(100, seed=2)[0])
    assert watched["knn_top1"] == evaluation.quality["knn/top1"]
    assert watched["probe_top1"] == evaluation.quality["probe/top1"]
