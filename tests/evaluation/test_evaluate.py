"""The whole evaluation, on embeddings whose quality and uncertainty are known."""

import math

import numpy as np
import pytest
import torch

from probcl.distributions import ProjectedNormal, VonMisesFisher
from probcl.evaluation import (
    GROUPS,
    METRICS,
    QUESTIONS,
    SCORES,
    Embeddings,
    Metric,
    Score,
    evaluate,
    few_shot_accuracy,
    monitor,
)
from probcl.evaluation.query import Reference
from probcl.sphere import normalize

DIM, CLASSES = 8, 4
CENTRES = normalize(torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(0)))


def items(count, noise=None, shift=0.0, seed=1, posterior=True):
    """Items of classes on the sphere, each with noise of its own that its posterior knows."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    if noise is None:
        noise = 0.1 + 0.5 * torch.rand(count, generator=generator)
    error = torch.randn(count, DIM, generator=generator) * noise[:, None]
    features = 3 * (CENTRES[labels] + error) + shift
    q = VonMisesFisher(normalize(features), noise**-2.0) if posterior else None
    gate = torch.sigmoid(1 - features.mean(-1)) if posterior else None
    return Embeddings(features, labels, features.clone(), q, gate=gate)


def changed():
    return {
        "out_of_distribution": {"shifted": items(100, shift=3.0, seed=3)},
        "corrupted": {
            "noisy": {s: items(50, torch.full((50,), 0.3 * s), seed=4) for s in (1, 2, 3)}
        },
    }


def part(given, rows):
    """Some items as a batch, with their rows."""
    q = given.posterior[0]
    return Embeddings(
        given.embedding[rows],
        given.labels[rows],
        given.features[rows],
        VonMisesFisher(q.loc[rows], q.concentration[rows]),
        given.rows[rows],
        given.gate[rows],
    )


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(items(400), None, items(100, seed=2), None, **changed())


def test_every_score_is_there_and_answers_every_question(evaluation):
    # Von Mises-Fisher posteriors have no log det K.
    assert evaluation.answers.keys() == SCORES.keys() - {"log_det_k"} == evaluation.scores.keys()
    assert set(evaluation.left_out.values()) == {"cannot be had of these items"}
    assert evaluation.left_out.keys() == {"log_det_k", "probe/top5"}
    for answers in evaluation.answers.values():
        assert answers.keys() == QUESTIONS.keys() - {"truth"}
        for answer in answers.values():
            assert answer.lower <= answer.value <= answer.upper


def test_scores_know_what_they_should(evaluation):
    answers = evaluation.answers
    assert answers["entropy"]["ambiguity"].value > 0.7
    assert answers["entropy"]["retrieval_error"].value > 0.6
    assert answers["entropy"]["corruption"].value > 0.8
    assert answers["mahalanobis"]["out_of_distribution"].value > 0.95
    assert answers["trust"]["out_of_distribution"].value > 0.95
    assert answers["trust"]["ambiguity"].value > 0.7
    assert answers["agreement"]["retrieval_error"].value > 0.7


def test_metrics_have_names_and_are_finite(evaluation):
    metrics = evaluation.metrics
    assert np.isfinite(list(metrics.values())).all()
    assert metrics.keys() - set(METRICS) == {k for k in metrics if k.startswith("unc/")}
    assert all(k.count("/") == 2 for k in metrics if k.startswith("unc/"))
    answer = evaluation.answers["entropy"]["out_of_distribution"].value
    assert metrics["unc/out_of_distribution/entropy"] == answer
    assert metrics["unc/auroc_shifted/entropy"] == answer
    corruption = evaluation.answers["entropy"]["corruption"].value
    assert metrics["unc/spearman_noisy/entropy"] == corruption
    assert {name.partition("/")[0] for name in METRICS} == GROUPS.keys()
    assert {score.question for score in SCORES.values()} <= QUESTIONS.keys()


def test_corrupted_items_are_compared_with_themselves(evaluation):
    levels = evaluation.by_severity["noisy"]["entropy"]
    assert list(levels) == [0, 1, 2, 3]
    assert torch.equal(levels[0], evaluation.scores["entropy"][:50])
    assert set(evaluation.shift["noisy"]) == {1, 2, 3}


def test_how_classes_are_numbered_changes_nothing():
    y = torch.arange(200) % 4
    z = torch.eye(8)[y] + 0.3 * torch.randn(200, 8)
    given = z[:120], z[120:]
    few, many = (evaluate(given[0], of[:120], given[1], of[120:]).metrics for of in (y, 7 * y + 13))
    assert few.keys() == many.keys()  # of four classes there is no top 5
    assert many == pytest.approx(few, abs=2e-3)


def test_sorted_parts_keep_their_posteriors():
    def part(first):
        rows = torch.tensor([first + 2, first, first + 1])
        z = normalize(torch.randn(3, 4))
        return Embeddings(z, posterior=VonMisesFisher(z, rows + 1.0), rows=rows)

    parts = part(0), part(10)
    whole = Embeddings.concatenate(parts).sorted()
    again = Embeddings.concatenate([part.sorted() for part in parts])
    assert torch.equal(whole.rows, again.rows)
    assert torch.equal(whole.mean_resultant_length, again.mean_resultant_length)
    lengths = VonMisesFisher(torch.eye(4)[:1], whole.rows + 1.0).mean_resultant_length
    torch.testing.assert_close(whole.mean_resultant_length, lengths)


def test_sorted_parts_whose_rows_interleave_keep_their_posteriors():
    def part(rows):
        z = normalize(torch.randn(3, 4))
        return Embeddings(z, posterior=VonMisesFisher(z, torch.tensor(rows) + 1.0), rows=rows)

    parts = part([4, 0, 2]).sorted(), part([5, 1, 3]).sorted()
    whole = Embeddings.concatenate(parts).sorted()
    lengths = VonMisesFisher(torch.eye(4)[:1], torch.arange(6) + 1.0).mean_resultant_length
    torch.testing.assert_close(whole.mean_resultant_length, lengths)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({1: 30, 3: 80}, r"same rows at every severity, got \[30, 80\] items"),
        ({0: 30}, "severities of at least 1, got 0"),
    ],
)
def test_severities_that_cannot_be_compared_are_named(levels, message):
    z, y = torch.randn(100, 4), torch.arange(100) % 2
    parts = {level: Embeddings(z[:rows], rows=torch.arange(rows)) for level, rows in levels.items()}
    with pytest.raises(ValueError, match=rf"corrupted\['blur'\] must have.*{message}"):
        evaluate(z, y, z, y, corrupted={"blur": parts})


def test_labels_that_would_fill_the_memory_are_named():
    with pytest.raises(ValueError, match=r"train: labels must be at most 16,777,216, got 1000.*np"):
        evaluate(torch.randn(4, 2), [0, 1, 0, 10**13], torch.randn(2, 2), [0, 1])
    assert len(Embeddings(torch.randn(2, 2), rows=[3, 10**13])) == 2


def test_batches_and_their_order_change_nothing(evaluation):
    def shuffled(given, seed, size):
        order = torch.randperm(len(given), generator=torch.Generator().manual_seed(seed))
        return Embeddings.concatenate([part(given, rows) for rows in order.split(size)])

    change = changed()
    again = evaluate(
        shuffled(items(400), 0, 32),
        None,
        shuffled(items(100, seed=2), 1, 17),
        None,
        out_of_distribution={
            name: shuffled(given, 2, 10) for name, given in change["out_of_distribution"].items()
        },
        corrupted={
            name: {s: shuffled(given, s, 7) for s, given in levels.items()}
            for name, levels in change["corrupted"].items()
        },
    )
    assert again.metrics == pytest.approx(evaluation.metrics, abs=1e-5)
    assert torch.equal(again.test.rows, torch.arange(100))
    for score, values in again.scores.items():
        torch.testing.assert_close(values, evaluation.scores[score], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.tensor])
def test_arrays_of_ones_own_are_enough(kind):
    train, test = items(200), items(80, seed=2)
    arrays = [kind(given.embedding.numpy()) for given in (train, test)]
    evaluation = evaluate(arrays[0], train.labels.tolist(), arrays[1], test.labels.numpy())
    assert evaluation.metrics["knn/top1"] > 0.8
    needed = {name for name, score in SCORES.items() if "posterior" not in score.needs}
    assert evaluation.scores.keys() == needed
    assert evaluation.left_out["entropy"] == "needs posteriors"


def test_a_row_of_ones_own_is_taken_up(monkeypatch):
    monkeypatch.setitem(
        SCORES, "first", Score("the first feature", "ambiguity", (), lambda q: q.features[:, 0])
    )
    monkeypatch.setitem(METRICS, "mine/two", Metric("two", lambda q: 2, needs=()))
    test = items(40, seed=2)
    evaluation = evaluate(items(60), None, test, None, scores=["first"], metrics=["mine/two"])
    assert torch.equal(evaluation.scores["first"], test.features[:, 0].double())
    assert evaluation.metrics["mine/two"] == 2
    assert "unc/ambiguity/first" in evaluation.metrics


def test_without_labels_or_with_one_class_what_needs_them_is_left_out():
    train, test = items(200), items(40, seed=5)
    for labels in (None, torch.zeros(200, dtype=torch.long)):
        without = [
            Embeddings(p.embedding, None if labels is None else labels[: len(p)],
                       p.features, p.posterior, gate=p.gate)
            for p in (train, test)
        ]  # fmt: skip
        truth = test.posterior[0].concentration
        evaluation = evaluate(without[0], None, without[1], None, true_concentration=truth)
        assert evaluation.answers["entropy"]["truth"].value == pytest.approx(1)
        needed = {name for name, score in SCORES.items() if "labels" not in score.needs}
        assert evaluation.answers.keys() == needed - {"log_det_k"}
        assert list(evaluation.answers["entropy"]) == ["truth"]
        assert "collapse/effective_rank" in evaluation.metrics
        assert evaluation.left_out["probe/top1"] == "needs labels of two classes at least"
        assert np.isfinite(list(evaluation.metrics.values())).all()


@pytest.mark.parametrize(("trained", "tested"), [(4, 1), (8, 2), (12, 5)])
def test_a_handful_of_items_is_evaluated_too(trained, tested):
    metrics = evaluate(items(trained), None, items(tested, seed=2), None).metrics
    assert np.isfinite(list(metrics.values())).all()


X, Y = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X, Y, X, Y[:5]), {}, "test: labels must have a row for each of the 6 items, got 5"),
        ((X, Y, X * [1, np.nan, 1], Y), {}, "test: embedding must be finite, row 0 is not"),
        ((X, Y % 2, X, Y), {}, "test_labels must be among .* lack class 2"),
        ((X[0], Y, X, Y), {}, r"train: embedding must have shape \(N, D\), not empty, got \(3,\)"),
        ((X, Y / 2, X, Y), {}, "train: labels must be integers"),
        ((X, Y, X[:, :2], Y), {}, "test must have an embedding of 3 numbers, as train, got 2"),
        ((X[:1], Y[:1], X, Y), {}, "train must have at least 2 rows"),
        ((X, Y, X, Y), {"scores": ["entropi"]}, "scores has no 'entropi': choose among entropy,"),
        ((X, Y, X, Y), {"metrics": ["top1"]}, "metrics has no 'top1'"),
        ((X, Y, X, Y), {"scores": ["entropy"]}, "'entropy' needs posteriors, which are not there"),
        ((X, Y * 0, X, Y * 0), {"metrics": ["knn/top1"]}, "needs labels of two classes"),
        ((X, Y, X, Y), {"true_concentration": [1.0]}, "true_concentration must have a row"),
        ((X, Y, X, Y), {"out_of_distribution": {"far": X[:, 0]}}, r"out_of_distribution\['far'\]"),
        ((X, np.array(list("abcabc")), X, Y), {}, "train: labels must be numbers, got <U1"),
        ((X, Y, X[:4], Y[:4]), {"corrupted": {"fog": {1: X}}}, r"corrupted\['fog'\]\[1\] must"),
    ],
)
def test_bad_input_is_refused_before_any_work(arguments, options, message, monkeypatch):
    monkeypatch.setattr(Reference, "__init__", None)
    with pytest.raises(ValueError, match=message):
        evaluate(*arguments, **options)


def test_sets_are_of_one_kind():
    with pytest.raises(ValueError, match="train must have a posterior too, as test, or neither"):
        evaluate(items(8, posterior=False), None, items(8), None)
    bare = {"far": torch.ones(3, DIM)}
    with pytest.raises(ValueError, match=r"out_of_distribution\['far'\] must have features too"):
        evaluate(items(8), None, items(8), None, out_of_distribution=bare)


def test_bad_embeddings():
    with pytest.raises(ValueError, match="posterior must be of the 6 items, got 5"):
        Embeddings(X, posterior=ProjectedNormal(torch.ones(5, 3)))
    with pytest.raises(ValueError, match=r"posterior must have batch shape \(N,\) and event shape"):
        Embeddings(X, posterior=ProjectedNormal(torch.ones(6, 4)))
    with pytest.raises(ValueError, match="rows must all be different"):
        Embeddings(X, rows=Y)
    with pytest.raises(ValueError, match="gate must be from 0 to 1, got 0 to 2"):
        Embeddings(X, gate=Y)
    with pytest.raises(ValueError, match="gate must have a row for each of the 6 items, got 5"):
        Embeddings(X, gate=Y[:5] / 2)


def test_the_monitor_is_quick_and_says_the_same(evaluation):
    monitored = monitor(items(400), items(100, seed=2))
    assert monitored["knn_top1"] == evaluation.metrics["knn/top1"]
    assert monitored["probe_top1"] == evaluation.metrics["probe/top1"]
    assert monitored["effective_rank"] == evaluation.metrics["collapse/effective_rank"]
    assert 0 < monitored["mean_resultant_length"] < 1


def test_the_bar_changes_nothing(evaluation, capsys):
    shown = evaluate(items(400), None, items(100, seed=2), None, progress=True, **changed())
    assert shown.metrics == evaluation.metrics


def test_metrics_of_several_numbers_are_their_means():
    train, test = items(200), items(100, seed=2)
    evaluation = evaluate(train, None, test, None, corrupted=changed()["corrupted"])
    for shots in (1, 5):
        each = few_shot_accuracy(train.features, train.labels, test.features, test.labels, shots)
        assert evaluation.metrics[f"few_shot/top1_of_{shots}"] == sum(each) / len(each)
    for measure in ("top1", "nll", "ece"):
        each = [level[measure] for level in evaluation.shift["noisy"].values()]
        assert evaluation.metrics[f"shift/{measure}"] == pytest.approx(np.mean(each))
    directions = normalize(test.embedding).numpy()
    each = [np.linalg.norm(directions[test.labels == c].mean(0)) for c in range(CLASSES)]
    assert evaluation.metrics["geometry/class_concentration"] == pytest.approx(np.mean(each))


def test_two_pairs_of_a_class_are_enough_for_a_bound():
    z = torch.eye(4).repeat_interleave(2, 0)[:4]
    few = Embeddings(z, torch.tensor([0, 0, 1, 1]), z)
    bound = evaluate(few, None, few, None).metrics["information/info_nce_bound"]
    # Each of the two sees its partner at a cosine of 1 and the other at 0, at temperature .1.
    assert bound == pytest.approx(math.log(2) - math.log1p(math.exp(-10)))


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_collapsed_encoder_is_evaluated_too(value):
    z, y = torch.full((60, 8), value), torch.arange(60) % 3
    found = evaluate(z, y, z, y, out_of_distribution={"noise": torch.randn(60, 8)})
    assert found.metrics["unc/auroc_noise/mahalanobis"] == 1.0
    assert all(math.isfinite(x) for x in found.metrics.values())
