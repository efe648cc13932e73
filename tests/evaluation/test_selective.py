"""Risk and coverage by hand, by brute force over orders, and what ties and duplicates do."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcl.evaluation.knn import nearest_is_wrong
from probcl.evaluation.ood import error_auroc
from probcl.evaluation.selective import retrieval_error_auroc, risk_coverage
from probcl.sphere import normalize

pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=6)


def test_by_hand():
    curve = risk_coverage([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1])
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert curve.best.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert curve.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert curve.excess_area == pytest.approx(1 / 8)
    assert curve.generalised_area == pytest.approx((0 + 1 + 1 + 2) / 16)
    assert [curve.coverage_at(r) for r in (0.0, 0.34, 0.5)] == [0.25, 0.75, 1.0]
    assert risk_coverage([0.1, 0.2], [1, 1]).coverage_at(0.5) == 0.0


@given(pairs)
def test_ties_are_the_mean_over_their_orders(items):
    score, error = np.array(items, float).T
    orders = [o for o in permutations(range(len(score))) if np.all(np.diff(score[list(o)]) >= 0)]
    accepted = np.arange(1, len(score) + 1)
    expected = np.mean([error[list(o)].cumsum() / accepted for o in orders], axis=0)
    np.testing.assert_allclose(risk_coverage(score, error).risk, expected)


@given(pairs, st.randoms())
def test_order_changes_nothing(items, random):
    score, error = zip(*items, strict=True)
    other = zip(*random.sample(items, len(items)), strict=True)
    assert risk_coverage(*other).area == pytest.approx(risk_coverage(score, error).area)


def test_any_monotone_map_of_the_score_gives_the_same_curve():
    score, error = torch.rand(50), torch.rand(50)
    one, other = risk_coverage(score, error), risk_coverage(score.exp(), error)
    assert torch.equal(one.risk, other.risk)


def test_a_constant_score_has_the_mean_risk_throughout():
    curve = risk_coverage(torch.zeros(8), [0, 1, 0, 1, 0, 0, 0, 0])
    torch.testing.assert_close(curve.risk, torch.full((8,), 0.25, dtype=torch.double))


def test_the_best_score_has_no_excess():
    error = torch.rand(30)
    assert risk_coverage(error, error).excess_area == pytest.approx(0)


def test_retrieval_errors_are_those_of_the_nearest():
    z, labels, score = normalize(torch.randn(40, 3)), torch.randint(3, (40,)), torch.rand(40)
    expected = error_auroc(score, nearest_is_wrong(z, labels))
    assert retrieval_error_auroc(score, z, labels) == expected


def test_bad_input():
    with pytest.raises(ValueError, match="score must be finite, row 1"):
        risk_coverage([0.0, float("nan")], [0, 1])
    with pytest.raises(ValueError, match="error must have a row for each of the 2 items, got 3"):
        risk_coverage([0.0, 1.0], [0, 1, 1])


@pytest.mark.parametrize("count", [100, 200, 137])
def test_the_whole_of_a_tie_is_accepted_at_its_own_risk(count):
    for errors in range(1, count):
        error = torch.arange(count) < errors
        assert risk_coverage(torch.zeros(count), error).coverage_at(errors / count) == 1.0
