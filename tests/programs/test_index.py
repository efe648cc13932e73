"""Search by match probability, against the whole matrix, and when it is to be trusted."""

import io
import pickle
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch

from probcl.evaluation import Embeddings
from probcl.programs import PosteriorIndex, fit_posterior
from probcl.sphere import normalize

DIM, CLASSES = 8, 5
CENTRES = normalize(torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(5)))


def items(count, seed):
    """Embeddings about a centre of their class, each with a noise of its own strength."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=generator)
    noise = 0.1 + 0.5 * torch.rand(count, 1, generator=generator)
    return normalize(CENTRES[y] + noise * torch.randn(count, DIM, generator=generator)), y


@pytest.fixture(scope="module")
def posterior():
    return fit_posterior(*items(400, 0), steps=60)


@pytest.fixture(scope="module")
def gallery():
    return items(101, 1)


def whole(posterior, query, gallery):
    """Return the matrix that a search never holds."""
    with torch.no_grad():
        gate = posterior.gate(query).cpu()
        return gate[:, None] * posterior.match_probability(query, gallery).cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 7, 101])
@pytest.mark.parametrize("block", [60, 1500, 2**24])
def test_it_finds_what_the_whole_matrix_holds(posterior, gallery, dtype, k, block):
    posterior = deepcopy(posterior).to(dtype)
    query = items(37, 2)[0]
    found = PosteriorIndex(posterior, gallery[0], block=block).search(query, k)
    expected = whole(posterior, query, gallery[0])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(
        found.probability, expected.topk(k).values, rtol=tolerance, atol=tolerance / 10
    )
    torch.testing.assert_close(
        expected.gather(1, found.row), found.probability, rtol=tolerance, atol=tolerance / 10
    )
    assert all(len(row.unique()) == k for row in found.row)
    assert found.probability.dtype == dtype and found.accepted is None


def test_pairs_may_be_held_one_by_one(posterior, gallery):
    found = PosteriorIndex(posterior, gallery[0][:9], block=1).search(gallery[0][:3], 4)
    expected = whole(posterior, gallery[0][:3], gallery[0][:9])
    torch.testing.assert_close(found.probability, expected.topk(4).values, rtol=1e-5, atol=1e-6)


def test_no_more_pairs_are_held_than_the_block_allows(posterior, gallery):
    index = PosteriorIndex(posterior, gallery[0], block=300)
    seen = []
    hook = index._link.register_forward_hook(lambda _, pairs, out: seen.append(out.numel()))
    index.search(items(50, 2)[0])
    hook.remove()
    assert max(seen) <= 300
    assert sum(seen) == 50 * 101  # each pair once


@pytest.mark.parametrize("block", [40, 2**24])
def test_without_a_query_each_item_is_sought_among_the_others(posterior, gallery, block):
    z = torch.cat([gallery[0], gallery[0][:1]])  # the last equals the first
    index = PosteriorIndex(posterior, z, block=block)
    found = index.search(k=101)
    expected = whole(posterior, z, z).fill_diagonal_(-1)
    torch.testing.assert_close(found.probability, expected.topk(101).values, rtol=1e-5, atol=1e-6)
    assert not (found.row == torch.arange(102)[:, None]).any()
    by_cosine = (z @ z.T).fill_diagonal_(-1).argmax(-1)
    assert by_cosine[0] == 101 and 101 in found.row[0]


def test_an_item_that_equals_the_query_is_found_like_any_other(posterior, gallery):
    z = gallery[0]
    index = PosteriorIndex(posterior, torch.cat([z, z]))
    found = index.search(z[:20], k=202)
    at = (found.row % 101 == torch.arange(20)[:, None]).nonzero()[:, 1].view(20, 2)
    p = found.probability.gather(1, at)
    torch.testing.assert_close(p[:, 0], p[:, 1])


def test_arrays_and_embeddings_and_posteriors_are_the_same_gallery(posterior, gallery):
    z, query = gallery[0], items(10, 2)[0]
    found = PosteriorIndex(posterior, z).search(query, 5)
    for other in (z.numpy(), Embeddings(z), posterior(z), z.double()):
        again = PosteriorIndex(posterior, other).search(query.numpy(), 5)
        torch.testing.assert_close(again.probability, found.probability)


def test_an_encoder_sees_the_images_of_gallery_and_query():
    z, y = items(300, 0)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Identity())
    posterior = fit_posterior(z.view(-1, 1, 2, 4), y, encoder=encoder, steps=5)
    new = items(20, 1)[0]
    found = PosteriorIndex(posterior, z.view(-1, 1, 2, 4)).search(new.view(-1, 1, 2, 4), 3)
    expected = whole(posterior, new.view(-1, 1, 2, 4), z.view(-1, 1, 2, 4))
    torch.testing.assert_close(found.probability, expected.topk(3).values, rtol=1e-5, atol=1e-6)


def test_partners_are_found_among_the_other_kind():
    generator = torch.Generator().manual_seed(0)
    z, noise = normalize(torch.randn(2, 200, DIM, generator=generator))
    other = normalize(z + 0.3 * noise)
    of_items, of_partners = fit_posterior(z, pairs=other, steps=20)
    index = PosteriorIndex(of_items, of_partners(other))
    found = index.search(z, k=1)
    assert (found.row[:, 0] == torch.arange(200)).double().mean() > 0.7
    expected = whole(of_items, z, of_partners(other))
    torch.testing.assert_close(found.probability[:, 0], expected.amax(-1), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="query is needed where the gallery is a posterior"):
        index.search()


def test_an_index_is_pickled(posterior, gallery):
    index = PosteriorIndex(posterior, gallery[0], labels=gallery[1])
    index.calibrate(*items(400, 3), risk=0.5)
    query = items(20, 2)[0]
    file = io.BytesIO()
    torch.save(index, file)
    file.seek(0)
    for again in (pickle.loads(pickle.dumps(index)), torch.load(file, weights_only=False)):
        for one, two in zip(index.search(query), again.search(query), strict=True):
            assert torch.equal(one, two)
        assert again.abstention == index.abstention


def test_candidates_say_what_they_need(posterior, gallery, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(ValueError, match=r"needs usearch: pip install 'probcl\[index\]'"):
        PosteriorIndex(posterior, gallery[0], candidates=20)


def test_an_unlike_query_has_no_probable_match(posterior, gallery):
    index = PosteriorIndex(posterior, gallery[0])
    likely, unlike = index.search(gallery[0]), index.search(30 * gallery[0])
    assert (unlike.probability < likely.probability).all()
    assert unlike.probability.max() < 0.01
    assert (index.search(1e15 * gallery[0]).probability == 0).all()


def test_the_risk_among_those_accepted_is_kept(posterior, gallery):
    """Over 50 sets of queries the error rate of new ones is rarely above the level."""
    index = PosteriorIndex(posterior, gallery[0], labels=gallery[1])
    new, y = items(20_000, 3)
    found = index.search(new, k=1)
    wrong, first = gallery[1][found.row[:, 0]] != y, found.probability[:, 0]
    risk = 0.6 * wrong.double().mean().item()
    above, coverage = 0, []
    for seed in range(50):
        rule = index.calibrate(*items(400, 100 + seed), risk)
        accepted = rule(first)
        above += wrong[accepted].double().mean().item() > risk
        coverage.append(accepted.double().mean().item())
    assert above <= 11  # of 50 with probability .1 each, 11 is above the 99th percentile
    assert np.mean(coverage) > 0.3
    found = index.search(new, k=2)
    assert found.accepted.equal(accepted)


def test_a_query_whose_class_the_gallery_lacks_is_an_error_if_accepted(posterior, gallery):
    index = PosteriorIndex(posterior, gallery[0], labels=gallery[1])
    new, y = items(400, 3)
    with_known = index.calibrate(new, y, risk=0.4)
    lone = torch.where(torch.arange(400) % 4 == 0, CLASSES, y)
    assert index.calibrate(new, lone, risk=0.4).threshold > with_known.threshold
    with pytest.raises(ValueError, match="risk must be at least 1 to be shown"):
        index.calibrate(new, torch.full_like(y, CLASSES))
    assert index.abstention is not None  # that of the last that could be reached


def test_queries_that_are_in_the_gallery_are_no_test(posterior, gallery):
    index = PosteriorIndex(posterior, gallery[0], labels=gallery[1])
    with pytest.warns(UserWarning, match="100 of the first 100 equal an item of the gallery"):
        index.calibrate(*gallery, risk=0.5)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda p, z, y: PosteriorIndex((p, p), z), "posterior must be one .* got tuple"),
        (lambda p, z, y: PosteriorIndex(p, z[:, :5]), "gallery: embeddings must have 8 numbers"),
        (lambda p, z, y: PosteriorIndex(p, 0 * z), "gallery: embeddings must have a direction"),
        (lambda p, z, y: PosteriorIndex(p, z, labels=y[:3]), "labels must have a row for each of"),
        (lambda p, z, y: PosteriorIndex(p, z, block=0), "block must be at least 1, got 0"),
        (lambda p, z, y: PosteriorIndex(p, z).search(z[:, 1:]), "query: embeddings must have 8"),
        (lambda p, z, y: PosteriorIndex(p, z).search(z, 0), "k must be from 1 to 101"),
        (lambda p, z, y: PosteriorIndex(p, z).search(z, 102), "k must be from 1 to 101"),
        (lambda p, z, y: PosteriorIndex(p, z).search(k=101), "k must be from 1 to 100"),
        (lambda p, z, y: PosteriorIndex(p, z).calibrate(z, y), "labels of the gallery are needed"),
        (
            lambda p, z, y: PosteriorIndex(p, z, labels=y).calibrate(None, y),
            "query must be items that are not in the gallery",
        ),
        (
            lambda p, z, y: PosteriorIndex(p, z, labels=y).calibrate(-z, y[1:]),
            "labels must have a row for each of the 101 items, got 100",
        ),
        (
            lambda p, z, y: PosteriorIndex(p, z, labels=y).calibrate(-z, y, risk=1.5),
            "risk must be above 0 and below 1, got 1.5",
        ),
        (
            lambda p, z, y: PosteriorIndex(fit_posterior(z, steps=1), z),
            "match probabilities need matches for the likelihood",
        ),
        (
            lambda p, z, y: PosteriorIndex(p, fit_posterior(z[:, :5], steps=1)(z[:, :5])),
            r"gallery must have batch shape \(M,\) and event shape \(8,\)",
        ),
    ],
)
def test_bad_input_is_refused(posterior, gallery, call, error):
    with pytest.raises(ValueError, match=error):
        call(posterior, *gallery)
