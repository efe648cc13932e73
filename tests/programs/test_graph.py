"""Search among candidates of a graph, against the exact one."""

import pickle

import pytest
import torch

from probcl.programs import PosteriorIndex, fit_posterior
from probcl.sphere import normalize

pytestmark = pytest.mark.slow  # what the README's commands install has no usearch
pytest.importorskip("usearch", reason="needs usearch: pip install 'probcl[index]'")

DIM, CLASSES = 16, 40
CENTRES = normalize(torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(5)))


def items(count, seed):
    """Clusters, and in each of them items of noise of their own strength."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=generator)
    noise = 0.1 + 0.2 * torch.rand(count, 1, generator=generator)
    return normalize(CENTRES[y] + noise * torch.randn(count, DIM, generator=generator)), y


@pytest.fixture(scope="module")
def posterior():
    return fit_posterior(*items(1500, 0), steps=100)


@pytest.fixture(scope="module")
def gallery():
    return items(6000, 1)


def recall(found, exact):
    """Return the share of the rows of an exact search that are found."""
    return (found.row[:, :, None] == exact.row[:, None]).any(1).double().mean().item()


def test_it_finds_nearly_all_of_what_the_exact_search_finds(posterior, gallery):
    query = items(300, 2)[0]
    exact = PosteriorIndex(posterior, gallery[0]).search(query)
    few, many = (
        PosteriorIndex(posterior, gallery[0], candidates=count).search(query) for count in (20, 200)
    )
    assert recall(many, exact) > 0.98
    assert recall(few, exact) < recall(many, exact)
    assert (many.probability <= exact.probability + 1e-6).all()
    assert (many.probability.diff(dim=1) <= 0).all()
    p = posterior.gate(query)[:, None] * posterior.match_probability(query, gallery[0])
    torch.testing.assert_close(many.probability, p.detach().gather(1, many.row))


def test_each_item_is_sought_among_the_others_in_blocks(posterior, gallery):
    z = torch.cat([gallery[0][:500], gallery[0][:1]])  # the last equals the first
    exact = PosteriorIndex(posterior, z).search(k=5)
    for block in (1, 7 * 200 * DIM, 2**24):
        found = PosteriorIndex(posterior, z, block=block, candidates=200).search(k=5)
        assert not (found.row == torch.arange(501)[:, None]).any()
        assert recall(found, exact) > 0.98


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_as_many_candidates_as_items_it_is_exact(posterior, gallery, dtype):
    z = gallery[0][:80]
    exact = PosteriorIndex(posterior.to(dtype), z)
    whole = PosteriorIndex(posterior, z, candidates=1000)
    for query, k in ((items(9, 2)[0], 80), (items(1, 3)[0], 1), (None, 79)):
        found, expected = whole.search(query, k), exact.search(query, k)
        torch.testing.assert_close(found.probability, expected.probability)
        assert all(len(row.unique()) == k for row in found.row)
    posterior.float()


def test_where_the_graph_leads_to_too_few_all_are_compared(posterior, gallery):
    z = gallery[0][:1].repeat(1000, 1)
    index = PosteriorIndex(posterior, z, candidates=999)
    assert not index._graph.nearest(z[:2], 999)[1].all()
    for query in (z[:3], None):
        found = index.search(query, 999)
        assert all(len(row.unique()) == 999 for row in found.row[:3])
        assert (found.probability[:3] > 0).all()


def test_it_calibrates_and_is_pickled(posterior, gallery):
    index = PosteriorIndex(posterior, *gallery[:1], labels=gallery[1], candidates=50)
    index.calibrate(*items(400, 3), risk=0.3)
    query = items(50, 4)[0]
    found, again = index.search(query), pickle.loads(pickle.dumps(index)).search(query)
    for one, two in zip(found, again, strict=True):
        assert torch.equal(one, two)


def test_bad_input_is_refused(posterior, gallery):
    index = PosteriorIndex(posterior, gallery[0], candidates=20)
    with pytest.raises(ValueError, match="k must be from 1 to 20, the items to find, got 21"):
        index.search(gallery[0][:3], 21)
    with pytest.raises(ValueError, match="candidates must be at least 1, got 0"):
        PosteriorIndex(posterior, gallery[0], candidates=0)
