"""Detection by a score, against scikit-learn, SciPy and counts by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from probcl.evaluation.ood import (
    auroc,
    average_precision,
    error_auroc,
    false_positive_rate,
    severity_correlation,
)

numbers = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@given(numbers, numbers)
def test_auroc_counts_pairs(inside, outside):
    pairs = [(u > f) + 0.5 * (u == f) for u in outside for f in inside]
    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs))


@given(numbers, numbers, st.randoms())
def test_order_and_duplicates_change_nothing(inside, outside, random):
    for measure in (auroc, average_precision, false_positive_rate):
        value = measure(inside, outside)
        shuffled = (
            random.sample(inside, len(inside)),
            random.sample(outside, len(outside)),
        )
        assert measure(*shuffled) == pytest.approx(value)
        if measure is not false_positive_rate:  # a twentieth of a few is not that of twice as many
            assert measure(inside * 2, outside * 2) == pytest.approx(value)


def test_measures_are_scikit_learns():
    known, strange = torch.randn(200), torch.randn(100) + 1
    truth = torch.cat([torch.zeros(200), torch.ones(100)])
    scores = torch.cat([known, strange])
    assert auroc(known, strange) == pytest.approx(roc_auc_score(truth, scores))
    expected = average_precision_score(truth, scores)
    assert average_precision(known, strange) == pytest.approx(expected)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert false_positive_rate(known, strange) == pytest.approx(false[true >= 0.95][0])
    assert error_auroc(scores, truth) == auroc(known, strange)


def test_false_positives_by_hand():
    assert false_positive_rate([0, 1, 2, 3], [2.0, 5.0]) == 0.5
    assert false_positive_rate([0, 1, 2, 3], [2.0, 5.0], recall=0.5) == 0
    assert false_positive_rate([0, 1], [0.5] * 20) == 0.5


@pytest.mark.parametrize("count", [100, 180, 200])
def test_no_more_are_flagged_than_the_recall_asks_for(count):
    outside = torch.arange(1.0, count + 1)
    share = count * 55 // 100  # 0.55 times the count rounds up
    below, at = count - share + 0.5, count - share + 1.5
    assert false_positive_rate([below, at], outside, recall=0.55) == 0.5


def test_a_constant_score_has_the_documented_limits():
    constant = torch.ones(4)
    assert auroc(constant, constant) == 0.5
    assert average_precision(constant, constant) == 0.5
    assert false_positive_rate(constant, constant) == 1
    assert error_auroc(constant, [0, 1, 0, 1]) == 0.5
    assert severity_correlation({0: constant, 1: constant}) == 0


@pytest.mark.parametrize("error", [[False] * 3, [True] * 3])
def test_without_errors_there_is_nothing_to_tell(error):
    assert error_auroc([0.1, 0.2, 0.3], error) == 0.5


def test_severity_correlation_is_spearmans_over_all_images():
    levels = {s: torch.randn(20) + 0.3 * s for s in range(4)}
    severity = torch.arange(4).repeat_interleave(20)
    expected = spearmanr(severity, torch.cat(list(levels.values()))).statistic
    assert severity_correlation(levels) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc([], [1.0]), "in_distribution must have shape"),
        (lambda: auroc([1.0], [float("nan")]), "out_of_distribution must be finite, row 0"),
        (lambda: false_positive_rate([1.0], [1.0], recall=0), "recall must be above 0"),
        (lambda: error_auroc([1.0, 2.0], [True]), "row for each of the 2 items, got 1"),
        (lambda: error_auroc([1.0, 2.0], [0.5, 1.0]), "only true and false"),
        (lambda: severity_correlation({0: [1.0]}), "two severities at least"),
        (lambda: average_precision([[1.0]], [1.0]), r"shape \(N,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
