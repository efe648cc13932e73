"""Nearest neighbours, their vote, and retrieval: against scikit-learn and brute force."""

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from probcl.evaluation import (
    map_at_r,
    nearest,
    nearest_is_wrong,
    neighbour_vote,
    recall_at_1,
    vote_entropy,
)
from probcl.sphere import normalize


@pytest.mark.parametrize("block", [2**24, 64], ids=["one block", "small blocks"])
def test_nearest_equals_the_whole_matrix(dtype, block):
    query, reference = torch.randn(20, 4, dtype=dtype), torch.randn(30, 4, dtype=dtype)
    found = nearest(query, reference, 5, block)
    torch.testing.assert_close(found.cosine, (query @ reference.T).topk(5).values)
    within = nearest(reference, k=3, block=block)
    matrix = (reference @ reference.T).fill_diagonal_(-torch.inf)
    torch.testing.assert_close(within.cosine, matrix.topk(3).values)
    assert (within.row != torch.arange(30)[:, None]).all()


@pytest.mark.parametrize("k", [0, 31])
def test_nearest_refuses_a_number_out_of_range(k):
    with pytest.raises(ValueError, match="k must be from 1 to 30"):
        nearest(torch.rand(2, 4), torch.rand(30, 4), k)


@pytest.mark.parametrize("k", [1, 5, 9])
def test_the_vote_is_scikit_learns(k):
    z = normalize(torch.randn(90, 4, dtype=torch.double))
    labels = torch.randint(3, (60,))
    theirs = KNeighborsClassifier(k, metric="cosine").fit(z[:60], labels)
    shares = neighbour_vote(nearest(z[60:], z[:60], 9), labels, k=k)
    torch.testing.assert_close(shares, torch.as_tensor(theirs.predict_proba(z[60:])))
    assert torch.equal(shares.argmax(-1), torch.as_tensor(theirs.predict(z[60:])))


def test_the_vote_by_temperature_equals_a_loop():
    z, labels = normalize(torch.randn(40, 3)), torch.randint(4, (30,))
    found = nearest(z[30:], z[:30], 6)
    shares = neighbour_vote(found, labels, num_classes=5, temperature=0.1)
    for i in range(10):
        weights = torch.exp(found.cosine[i] / 0.1)
        for c in range(5):
            expected = weights[labels[found.row[i]] == c].sum() / weights.sum()
            torch.testing.assert_close(shares[i, c], expected)
    expected = torch.distributions.Categorical(shares).entropy()
    torch.testing.assert_close(vote_entropy(shares), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="k must be from 1 to 6"):
        neighbour_vote(found, labels, k=7)


def test_retrieval_equals_brute_force():
    z, labels = normalize(torch.randn(60, 3, dtype=torch.double)), torch.randint(4, (60,))
    labels[7] = 9  # alone
    right, average = [], []
    for i in range(60):
        order = sorted((j for j in range(60) if j != i), key=lambda j: -(z[i] @ z[j]).item())
        right.append(labels[order[0]] == labels[i])
        r = int((labels == labels[i]).sum()) - 1
        hits = [int(labels[j] == labels[i]) for j in order[:r]]
        precision = [sum(hits[: n + 1]) / (n + 1) for n in range(r)]
        average.append(sum(p * h for p, h in zip(precision, hits, strict=True)) / r if r else 0.0)
    assert nearest_is_wrong(z, labels).tolist() == [not value for value in right]
    assert recall_at_1(z, labels) == pytest.approx(sum(right) / 60)
    assert map_at_r(z, labels) == (pytest.approx(sum(average) / 60), 60)
    assert map_at_r(z, labels, queries=7)[1] == 7


def test_a_class_of_two_is_found_whole():
    z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0], [-0.8, -0.6]])
    assert map_at_r(z, torch.tensor([0, 0, 1, 1])) == (1.0, 4)
    assert recall_at_1(z[:2], torch.tensor([0, 0])) == 1.0
    assert map_at_r(z[:2], torch.tensor([0, 0])) == (1.0, 2)


def test_order_changes_nothing():
    z, labels = normalize(torch.randn(50, 3)), torch.randint(4, (50,))
    order = torch.randperm(50)
    assert map_at_r(z[order], labels[order])[0] == pytest.approx(map_at_r(z, labels)[0])
    assert torch.equal(
        nearest_is_wrong(z[order], labels[order]), nearest_is_wrong(z, labels)[order]
    )


def test_bad_input():
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        recall_at_1(torch.ones(1, 2), torch.zeros(1).long())
    with pytest.raises(ValueError, match="labels must be integers"):
        recall_at_1(torch.rand(3, 2), torch.rand(3))
    with pytest.raises(ValueError, match="reference must have 2 numbers in each row, as the othe"):
        nearest(torch.rand(3, 2), torch.rand(3, 4))
    with pytest.raises(ValueError, match="temperature must be a finite number above 0, got 0"):
        neighbour_vote(nearest(torch.rand(3, 2)), torch.arange(3), temperature=0)
    with pytest.raises(ValueError, match="row for each of the 3 items, got 2"):
        map_at_r(torch.rand(3, 2), torch.zeros(2).long())
