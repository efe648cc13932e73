"""What needs two items is right of two, by hand, and refuses one."""

import math

import pytest
import torch

from probcl.evaluation import fit_abstention
from probcl.evaluation.clustering import ward_clustering
from probcl.evaluation.geometry import uniformity
from probcl.evaluation.information import info_nce_information_bound
from probcl.evaluation.knn import nearest_is_wrong, recall_at_1
from probcl.evaluation.ood import fit_gate, fit_gaussians, rank_correlation
from probcl.evaluation.retrieval import map_at_r

Z = torch.eye(2)  # at a right angle, and of two classes
Y = torch.tensor([0, 1])

# Each as a function of the number of items that it is given, and its value of two.
ANSWERS = {
    "fit_abstention": (
        # An item proposes, the other tests: certain of 0.9 risk to pass with no error in one.
        lambda n: fit_abstention([0.1, 0.2][:n], [0, 0][:n], risk=0.95, confidence=0.9).bound,
        0.9,
    ),
    "rank_correlation": (lambda n: rank_correlation([1.0, 2.0][:n], [5.0, 3.0][:n]), -1.0),
    # Of one Gaussian, each of two is one standard deviation from the mean.
    "fit_gaussians": (lambda n: fit_gaussians([[1.0], [3.0]][:n]).distance(torch.ones(1, 1)), 1.0),
    "fit_gate": (lambda n: fit_gate([1.0, 2.0][:n]).half, 1.985),
    "uniformity": (lambda n: uniformity(Z[:n]), -4.0),  # exp(-2 |a - b|^2)
    "ward_clustering": (lambda n: ward_clustering(Z[:n], Y[:n])["purity"], 1.0),
    "info_nce_information_bound": (
        lambda n: info_nce_information_bound(Z[:n], Z[:n], temperature=1.0),
        math.log(2) - math.log1p(math.exp(-1)),
    ),
    "nearest_is_wrong": (lambda n: nearest_is_wrong(Z[:n], Y[:n]).double().mean(), 1.0),
    "recall_at_1": (lambda n: recall_at_1(Z[:n], Y[:n]), 0.0),
    "map_at_r": (lambda n: map_at_r(Z[:n], 0 * Y[:n])[0], 1.0),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_two_items_are_enough_and_one_is_not(name):
    answer, expected = ANSWERS[name]
    assert float(answer(2)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="must have at least 2 rows, got 1"):
        answer(1)
