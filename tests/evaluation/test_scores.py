"""Each score against its definition, computed another way, in float64 and float32."""

import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression

from probcl.distributions import Point, PowerSpherical, ProjectedNormal, VonMisesFisher
from probcl.evaluation import SCORES, Embeddings, evaluate, fit_gate
from probcl.evaluation.query import Query, Reference
from probcl.evaluation.scores import compute_score
from probcl.sphere import normalize

DIM, CLASSES = 6, 3


def given(count, seed, dtype=torch.double, family=VonMisesFisher):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    noise = 0.2 + 0.6 * torch.rand(count, generator=generator)
    z = torch.eye(DIM)[labels] + torch.randn(count, DIM, generator=generator) * noise[:, None]
    z, features = z.to(dtype), torch.cat([z, z.abs()], -1).to(dtype)
    gate = torch.rand(count, generator=generator)
    q = family(normalize(z), noise.to(dtype) ** -2)
    return Embeddings(z, labels, features, q, gate=gate)


@pytest.fixture(scope="module", params=[torch.double, torch.float], ids=["float64", "float32"])
def query(request):
    reference = Reference(given(200, 0, request.param))
    return Query(given(40, 1, request.param), reference)


def close(score, query, expected, atol=1e-5):
    torch.testing.assert_close(compute_score(score, query), expected.double(), atol=atol, rtol=1e-4)


def test_neighbours_vote_and_distance(query):
    train = query.reference
    cosine = normalize(query.embedding) @ normalize(train.embedding).T
    nearest = cosine.sort(descending=True)
    close("nearest_cosine", query, 1 - nearest.values[:, 4])
    weight = (nearest.values[:, :20] / 0.1).exp()
    vote = torch.stack([
        (weight * (train.labels[nearest.indices[:, :20]] == c)).sum(-1) for c in range(CLASSES)
    ], -1) / weight.sum(-1, keepdim=True)  # fmt: skip
    close("vote_entropy", query, torch.distributions.Categorical(vote).entropy())
    mean, scale = train.features.mean(0), train.features.std(0, correction=0)
    theirs = LogisticRegression(tol=1e-9, max_iter=10_000)
    theirs.fit((train.features - mean) / scale, train.labels)
    p = torch.as_tensor(theirs.predict_proba((query.features - mean) / scale))
    close("max_probability", query, 1 - p.amax(-1), atol=2e-4)
    agreement = 1 - (p * vote).sum(-1)
    close("agreement", query, agreement, atol=2e-4)
    close("trust", query, 1 - (1 - agreement) * query.typicality, atol=2e-4)


def test_mahalanobis_and_the_gate(query):
    train = query.reference
    joint = [torch.cat([q.features, normalize(q.embedding)], -1).double() for q in (train, query)]
    held_out, rest = train.split
    assert len(held_out) == 20
    assert torch.cat([held_out, rest]).sort().values.tolist() == list(range(200))
    mean, scale = joint[0][rest].mean(0), joint[0][rest].std(0, correction=0)
    known, new = ((values - mean) / scale for values in joint)
    theirs = LedoitWolf().fit(known[rest])
    distances = [torch.as_tensor(theirs.mahalanobis(x)).sqrt() for x in (known[held_out], new)]
    close("mahalanobis", query, distances[1], atol=1e-3)
    gate = fit_gate(distances[0])(distances[1])
    torch.testing.assert_close(query.typicality, gate, atol=1e-2, rtol=1e-2)
    near = 1 - (normalize(train.embedding)[held_out] @ normalize(train.embedding)[rest].T)
    near = near.sort().values[:, 4]
    rank = (near[:, None] <= compute_score("nearest_cosine", query)).double().mean(0)
    close("trust_without_labels", query, 1 - (1 - rank) * query.typicality, atol=0.051)


def test_of_posteriors(query):
    train, q = query.reference, query.posterior[0]
    close("entropy", query, q.entropy())
    close("mean_resultant_length", query, 1 - q.mean_resultant_length)
    close("gate", query, 1 - query.given.gate)
    cosine, rows = (normalize(query.embedding) @ normalize(train.embedding).T).topk(20)
    product = cosine * train.posterior[0].mean_resultant_length[rows]
    product = product * q.mean_resultant_length[:, None]
    five = product.sort(descending=True).values[:, :5].mean(-1)
    close("expected_cosine", query, 1 - five)
    mixture = train.posterior[0].expand([200])
    z = q.draw(8)
    log_p = torch.stack([mixture.log_prob(x[:, None]).logsumexp(-1) for x in z]).mean(0)
    difference = compute_score("aggregate_surprise", query) + log_p
    torch.testing.assert_close(
        difference, difference.mean().expand(40), atol=1e-3, rtol=0, check_dtype=False
    )
    p = train.embedding_probe.probabilities(torch.cat([q.draw(8, seed) for seed in range(8)]))
    total = torch.distributions.Categorical(p.mean(0)).entropy()
    close("predictive_entropy", query, total, atol=1e-4)
    expected = torch.distributions.Categorical(p).entropy().mean(0)
    close("mutual_information", query, total - expected, atol=1e-4)


def test_the_gated_length_is_that_of_the_mixture_with_the_uniform(query):
    """By samples of the mixture, which is the posterior with the probability of the gate."""
    gate = query.gate
    torch.manual_seed(0)
    z = query.posterior[0].sample((20_000,)).double()
    uniform = normalize(torch.randn_like(z))
    drawn = torch.where((torch.rand(20_000, 40) < gate)[..., None], z, uniform)
    close("gated_resultant_length", query, 1 - drawn.mean(0).norm(dim=-1), atol=0.02)
    exact = 1 - gate * query.posterior[0].mean_resultant_length
    close("gated_resultant_length", query, exact)
    assert (compute_score("gated_resultant_length", query) >= compute_score("gate", query)).all()


def test_the_length_before_normalisation(query):
    close("embedding_norm", query, -query.embedding.norm(dim=-1))
    z = normalize(torch.randn(40, 4))
    evaluation = evaluate(z, None, z + 1e-5 * torch.randn(40, 4), None, metrics=[])
    assert "embedding_norm" not in evaluation.scores
    assert evaluation.left_out["embedding_norm"] == "cannot be had of these items"


def scores_of(posterior):
    loc = torch.ones(posterior.batch_shape[0], posterior.event_shape[0])
    items = Embeddings(loc, posterior=posterior)
    query = Query(items, Reference(items))
    return {name: compute_score(name, query) for name in ("entropy", "log_det_k")}


def test_the_entropy_is_free_of_the_joint_scale_and_log_det_k_is_not():
    loc, scale = torch.randn(5, 8), torch.rand(5, 8) + 0.5
    one, ten = (scores_of(ProjectedNormal(c * loc, c * scale)) for c in (1.0, 10.0))
    torch.testing.assert_close(one["entropy"], ten["entropy"], atol=1e-4, rtol=1e-5)
    shift = 2 * 8 * torch.log(torch.tensor(10.0)).double()
    torch.testing.assert_close(ten["log_det_k"], one["log_det_k"] + shift, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["diagonal", "low rank", "full"])
def test_log_det_k_is_that_of_the_covariance(form):
    loc = torch.randn(4, 5)
    factor, diagonal = torch.randn(4, 5, 2), torch.rand(4, 5) + 0.5
    covariance = factor @ factor.mT + torch.diag_embed(diagonal)
    posterior = {
        "diagonal": lambda: ProjectedNormal(loc, diagonal.sqrt()),
        "low rank": lambda: ProjectedNormal(loc, cov_factor=factor, cov_diag=diagonal),
        "full": lambda: ProjectedNormal(loc, scale_tril=torch.linalg.cholesky(covariance)),
    }[form]()
    expected = torch.diag_embed(diagonal) if form == "diagonal" else covariance
    found = scores_of(posterior)["log_det_k"]
    torch.testing.assert_close(found, expected.logdet().double(), rtol=1e-5, atol=1e-5)


def test_points_say_nothing_and_other_families_do():
    one = given(30, 0)
    point = Embeddings(one.embedding, one.labels, one.features, Point(normalize(one.embedding)))
    assert point.posterior == ()
    needed = {name for name, score in SCORES.items() if "posterior" not in score.needs}
    assert evaluate(point, None, point, None, metrics=[]).scores.keys() == needed
    other = given(30, 0, family=PowerSpherical)
    scores = evaluate(other, None, other, None, metrics=[]).scores
    assert scores.keys() == SCORES.keys() - {"log_det_k"}
