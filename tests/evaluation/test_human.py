"""Agreement with people, by hand and with SciPy; the votes on CIFAR-10's test images, if there."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy, spearmanr

from probcl.evaluation import human_cross_entropy, human_entropy, rank_correlation

VOTES = torch.tensor([[10, 0, 0], [5, 5, 0], [2, 3, 5], [9, 1, 0]])


def test_entropy_and_correlation_are_scipys():
    expected = entropy(VOTES.numpy(), axis=1)
    np.testing.assert_allclose(human_entropy(VOTES), expected, atol=1e-12)
    score = torch.tensor([0.1, 0.9, 0.4, 0.2])
    assert rank_correlation(score, human_entropy(VOTES)) == spearmanr(score, expected).statistic
    assert rank_correlation(torch.ones(4), human_entropy(VOTES)) == 0
    assert rank_correlation(score, human_entropy(torch.ones(4, 3))) == 0


def test_cross_entropy_by_hand():
    p = torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.25, 0.25]])
    expected = -(np.log(0.8) + (np.log(0.5) + np.log(0.25)) / 2) / 2
    assert human_cross_entropy(p, VOTES[:2]) == pytest.approx(expected, rel=1e-6)
    shares = VOTES / VOTES.sum(-1, keepdim=True)
    assert human_cross_entropy(shares, VOTES) == pytest.approx(human_entropy(VOTES).mean().item())


def test_bad_input():
    with pytest.raises(ValueError, match="row 1 has none"):
        human_entropy([[1, 0], [0, 0]])
    with pytest.raises(ValueError, match="must not be negative"):
        human_entropy([[1, -1]])
    with pytest.raises(ValueError, match="row for each of the 2 items, got 4"):
        rank_correlation([0.1, 0.2], human_entropy(VOTES))


def test_people_on_cifar_10():
    default = Path(__file__).parents[3] / "shared/data"
    path = Path(os.environ.get("PROBCL_DATA", default)) / "cifar10h_counts.npy"
    if not path.exists():
        pytest.skip("CIFAR-10H is not there: set PROBCL_DATA to a folder with cifar10h_counts.npy")
    votes = np.load(path)
    disagreement = human_entropy(votes)
    assert disagreement.shape == (10_000,)
    assert 0.15 < disagreement.mean() < 0.25
