"""Calibration against torchmetrics, scikit-learn and values by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from probcl.evaluation import (
    adaptive_calibration_error,
    brier_score,
    calibration_error,
    classwise_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
    root_mean_square_calibration_error,
    smooth_calibration_error,
    smooth_reliability,
)

MEASURES = (
    adaptive_calibration_error,
    brier_score,
    calibration_error,
    classwise_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
)


def predictions(count=500, classes=4, sharpness=2.0):
    """Labels drawn from the probabilities themselves: calibrated, if ``sharpness`` were 1."""
    logits = torch.randn(count, classes, dtype=torch.double)
    labels = torch.distributions.Categorical(logits=logits).sample()
    return (sharpness * logits).softmax(-1), labels


@pytest.mark.parametrize("bins", [10, 15])
def test_errors_in_bins_are_those_of_torchmetrics(bins):
    p, y = predictions()
    expected = {norm: multiclass_calibration_error(p, y, 4, bins, norm) for norm in ("l1", "max")}
    assert calibration_error(p, y, bins) == pytest.approx(expected["l1"].item(), abs=1e-6)
    assert maximum_calibration_error(p, y, bins) == pytest.approx(expected["max"].item(), abs=1e-6)


def test_the_classwise_error_is_the_mean_of_binary_ones():
    p, y = predictions()
    # torchmetrics takes the probability of class 1 for the confidence, as is meant here.
    binary = [
        binary_calibration_error(p[:, c].contiguous(), (y == c).long(), 15).item() for c in range(4)
    ]
    assert classwise_calibration_error(p, y) == pytest.approx(sum(binary) / 4, abs=1e-6)


def test_likelihood_and_brier_score():
    p, y = predictions()
    assert negative_log_likelihood(p, y) == pytest.approx(log_loss(y, p, labels=range(4)))
    one_hot = torch.nn.functional.one_hot(y, 4)
    assert brier_score(p, y) == pytest.approx((p - one_hot).square().sum(-1).mean().item())


def test_by_hand():
    # Two bins in use: confidence 0.9 with accuracy 1/2, confidence 0.6 with accuracy 1.
    p, y = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]], [0, 1, 1, 1]
    assert calibration_error(p, y, 10) == pytest.approx(0.4)
    assert maximum_calibration_error(p, y, 10) == pytest.approx(0.4)
    assert adaptive_calibration_error(p, y, 2) == pytest.approx(0.4)
    assert adaptive_calibration_error(p, y, 1) == pytest.approx(0.0, abs=1e-7)
    assert calibration_error([[0.25, 0.75]], [1], 1) == pytest.approx(0.25)


def test_a_class_held_for_impossible_has_the_documented_cost():
    cost = negative_log_likelihood([[1.0, 0.0]], [1])
    assert cost == pytest.approx(-math.log(1e-38))
    assert brier_score([[1.0, 0.0]], [1]) == 2


@given(st.integers(0, 2**31))
def test_order_and_duplicates_change_nothing(seed):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(12, 3, generator=generator, dtype=torch.double)
    p, y = p / p.sum(-1, keepdim=True), torch.randint(3, (12,), generator=generator)
    order = torch.randperm(12, generator=generator)
    for measure in MEASURES:
        assert measure(p[order], y[order]) == pytest.approx(measure(p, y))
        if measure is not adaptive_calibration_error:  # its bins hold as many items each
            assert measure(p.repeat(2, 1), y.repeat(2)) == pytest.approx(measure(p, y))


@pytest.mark.parametrize("measure", [*MEASURES, smooth_calibration_error])
def test_ties_are_averaged(measure):
    labels = (torch.arange(1000) < 500).long()  # sorted by class, one prediction for all
    p = torch.tensor([0.1, 0.9]).double().expand(1000, 2)
    value = measure(p, labels)
    for seed in range(3):
        order = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))
        assert measure(p, labels[order]) == pytest.approx(value, abs=1e-12)
    rounded = p + 1e-9 * torch.rand(1000, 1) * torch.tensor([1, -1])  # ties but for rounding
    assert measure(rounded, labels) == pytest.approx(value, abs=1e-8)
    if "error" in measure.__name__ and measure is not classwise_calibration_error:
        assert value == pytest.approx(0.4, abs=0.01)


def test_the_band_of_the_smooth_diagram_is_free_of_order():
    p, y = predictions()
    order = torch.randperm(500)
    one, other = smooth_reliability(p, y), smooth_reliability(p[order], y[order])
    torch.testing.assert_close(one.lower, other.lower)
    torch.testing.assert_close(one.upper, other.upper)


def test_the_smooth_diagram_finds_the_true_accuracy_within_its_band():
    p, y = predictions(100_000, 2, sharpness=3.0)
    curve = smooth_reliability(p, y, bandwidth=0.02)  # a wide one would bend the curve
    inner = (curve.confidence > 0.6) & (curve.confidence < 0.95)
    odds = (curve.confidence / (1 - curve.confidence)).log() / 3.0  # before they were sharpened
    truth = torch.sigmoid(odds)
    assert (curve.accuracy - truth)[inner].abs().max() < 0.03
    assert ((curve.lower <= curve.accuracy) & (curve.accuracy <= curve.upper)).all()
    assert (curve.upper - curve.lower)[inner].max() < 0.1
    assert curve.density.sum().item() == pytest.approx(1)
    expected = calibration_error(p, y, 30)
    assert curve.error == pytest.approx(expected, abs=0.02)


def test_calibrated_predictions_have_a_small_error():
    p, y = predictions(20_000, 3, sharpness=1.0)
    assert smooth_reliability(p, y).error < 0.01
    assert calibration_error(p, y) < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_softmaxes_of_half_precision_are_probabilities(dtype):
    logits, y = torch.randn(1000, 10), torch.randint(10, (1000,))
    half = calibration_error(logits.to(dtype).softmax(-1), y)
    assert half == pytest.approx(calibration_error(logits.softmax(-1), y), abs=0.02)
    with pytest.raises(ValueError, match="sum to one"):
        calibration_error(logits.to(dtype).exp(), y)


@pytest.mark.parametrize("measure", [*MEASURES, smooth_reliability])
@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([[0.5, 0.4]], [0], "sum to one in each row, row 0 sums to 0.9"),
        ([[1.5, -0.5]], [0], "must not be negative, got -0.5"),
        ([[0.5, 0.5]], [0, 1], "row for each of the 1 items, got 2"),
        ([[0.5, 0.5]], [2], "labels must be below 2"),
        ([[float("nan"), 0.5]], [0], "finite, row 0"),
        ([], [], "not empty"),
    ],
)
def test_bad_input(measure, p, y, message):
    with pytest.raises(ValueError, match=message):
        measure(p, y)


@pytest.mark.parametrize("debiased", [False, True])
def test_the_root_mean_square_error_is_that_of_torchmetrics(debiased):
    from torchmetrics.functional.classification.calibration_error import (
        _ce_compute,
        _multiclass_calibration_error_update,
    )

    random = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(500, 4, generator=random, dtype=torch.double)
    y = torch.distributions.Categorical(logits=logits / 2).sample()
    confidence, correct = _multiclass_calibration_error_update(logits.softmax(-1), y)
    theirs = _ce_compute(confidence.double(), correct.double(), 15, "l2", debiased)
    ours = root_mean_square_calibration_error(logits.softmax(-1), y, debiased=debiased)
    assert ours == pytest.approx(theirs.item(), abs=1e-6)


def test_the_debiased_error_of_calibrated_items_is_small():
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(20_000, 4, generator=random, dtype=torch.double)
    y = torch.distributions.Categorical(logits=logits).sample()
    p = logits.softmax(-1)
    plain, debiased = (root_mean_square_calibration_error(p, y, debiased=d) for d in (False, True))
    assert debiased < plain < 0.02


def test_the_smooth_error_counts_the_ends_whole():
    p = torch.tensor([[0.5, 0.5]] * 500 + [[1.0, 0.0]] * 500)
    y = torch.tensor([1] * 500 + [0] * 500)
    expected = calibration_error(p, y)  # all differences are of one sign
    assert smooth_calibration_error(p, y) == pytest.approx(expected, rel=1e-6)
