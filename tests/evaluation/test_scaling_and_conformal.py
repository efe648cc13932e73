"""Scaling of logits against SciPy's minimiser; conformal sets against their guarantee."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar

from probcl.evaluation.calibration import negative_log_likelihood
from probcl.evaluation.conformal import class_coverage, fit_conformal, set_coverage, set_size
from probcl.evaluation.knn import nearest, neighbour_vote
from probcl.evaluation.probe import top_k_accuracy
from probcl.evaluation.scaling import (
    Scaling,
    fit_dirichlet,
    fit_isotonic,
    fit_temperature,
    fit_vector,
)


def overconfident(count=400, classes=3):
    logits = torch.randn(count, classes, dtype=torch.double)
    labels = torch.distributions.Categorical(logits=logits).sample()
    return 3 * logits, labels


def objective(logits, labels, log_weight, bias):
    log_weight, bias = torch.as_tensor(log_weight), torch.as_tensor(bias)
    loss = torch.nn.functional.cross_entropy(logits * log_weight.exp() + bias, labels)
    prior = log_weight.square().sum() + bias.square().sum()
    return (loss + prior / (2 * len(labels))).item()


def test_a_scaling_is_affine_in_each_logit_and_an_impossible_class_stays_so():
    scaling = Scaling(torch.tensor([2.0, 0.5]), torch.tensor([1.0, -3.0]))
    logits = torch.tensor([[1.0, 4.0], [-torch.inf, 2.0]])
    assert scaling(logits).tolist() == [[3.0, -1.0], [-torch.inf, -2.0]]


def test_the_temperature_is_the_minimisers():
    logits, labels = overconfident()
    best = minimize_scalar(lambda w: objective(logits, labels, w, 0.0), bracket=(-2.0, 0.0))
    scaling = fit_temperature(logits, labels)
    assert scaling.weight.log().item() == pytest.approx(best.x, abs=1e-5)
    assert 1 / scaling.weight.item() == pytest.approx(3, rel=0.2)
    assert torch.equal(scaling(logits).argmax(-1), logits.argmax(-1))


def test_the_vector_is_the_minimisers():
    logits, labels = overconfident()
    best = minimize(lambda w: objective(logits, labels, w[:3], w[3:]), np.zeros(6))
    scaling = fit_vector(logits, labels)
    found = objective(logits, labels, scaling.weight.log(), scaling.bias)
    assert found == pytest.approx(best.fun, abs=1e-7)


@pytest.mark.parametrize("fit", [fit_temperature, fit_vector, fit_dirichlet])
def test_the_likelihood_gets_better_and_classes_never_seen_stay_so(fit):
    logits, labels = overconfident()
    unseen = torch.cat([logits, torch.full((400, 1), -torch.inf)], -1)
    with torch.inference_mode():  # as Lightning evaluates
        scaled = fit(unseen, labels)(unseen).softmax(-1)
    assert scaled.isfinite().all()
    assert (scaled[:, 3] == 0).all()
    before = negative_log_likelihood(logits.softmax(-1), labels)
    assert negative_log_likelihood(scaled, labels) < before


@pytest.mark.parametrize("fit", [fit_temperature, fit_vector, fit_dirichlet])
def test_perfect_predictions_do_not_run_away(fit):
    logits = 5 * torch.eye(3)[torch.arange(30) % 3]
    assert fit(logits, torch.arange(30) % 3).weight.max() < 10


def test_integers_are_logits_as_well():
    logits, labels = torch.tensor([[3, 1, 0], [0, 2, 1]]), torch.tensor([0, 1])
    scaling = fit_temperature(logits, labels)
    assert torch.equal(scaling(logits), scaling(logits.float()))


@pytest.mark.parametrize(
    "call",
    [
        lambda p, y: fit_temperature(p.log(), y),
        lambda p, y: fit_conformal(p, y),
        lambda p, y: fit_isotonic(p, y),
        lambda p, y: set_coverage(p > 0.5, y),
        lambda p, y: class_coverage(p > 0.5, y),
        lambda p, y: top_k_accuracy(p, y, 1),
        lambda p, y: neighbour_vote(nearest(p, p), y, num_classes=3),
    ],
)
def test_a_class_beyond_the_columns_is_refused(call):
    with pytest.raises(ValueError, match="labels must be below 3, the number of classes, got 5"):
        call(torch.eye(3).add(1).div(4), torch.tensor([0, 1, 5]))


def test_bad_logits():
    with pytest.raises(ValueError, match="numbers or minus infinity"):
        fit_temperature(torch.full((2, 2), torch.nan), [0, 1])
    with pytest.raises(ValueError, match="must be finite for the class of each item"):
        fit_vector(torch.tensor([[-torch.inf, 0.0]]), [0])


def test_the_threshold_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
    sets = fit_conformal(p, [0, 0, 0, 0], coverage=0.6)  # the 3rd of four
    assert sets.threshold == pytest.approx(0.3)
    assert sets([[0.65, 0.35], [0.75, 0.25], [0.5, 0.5]]).tolist() == [
        [False, False], [True, False], [False, False],
    ]  # fmt: skip
    assert fit_conformal(p, [0, 0, 0, 0], coverage=0.9).threshold == math.inf


def test_adaptive_sets_by_hand():
    p = torch.tensor([[0.5, 0.3, 0.2]]).repeat(9, 1)
    sets = fit_conformal(p, [1] * 9, coverage=0.8, method="adaptive")
    assert sets.threshold == pytest.approx(0.8)
    assert sets([[0.5, 0.3, 0.2]]).tolist() == [[True, True, False]]


@pytest.mark.parametrize("method", ["threshold", "adaptive"])
def test_the_coverage_is_what_was_asked_for(method):
    covered, size = [], []
    for _ in range(40):
        logits, labels = overconfident(600, 5)
        p = logits.softmax(-1)
        sets = fit_conformal(p[:300], labels[:300], 0.9, method)(p[300:])
        covered.append(set_coverage(sets, labels[300:]))
        size.append(set_size(sets))
    # 90 % at least; the mean over 40 times 300 has a standard error of about 0.4 %.
    assert 0.885 < sum(covered) / 40 < 0.925
    assert 1 < sum(size) / 40 < 5


def test_bad_conformal_input():
    with pytest.raises(ValueError, match="coverage must be above 0 and below 1, got 1"):
        fit_conformal([[0.5, 0.5]], [0], coverage=1)
    with pytest.raises(ValueError, match="method must be one of threshold, adaptive"):
        fit_conformal([[0.5, 0.5]], [0], method="none")


def test_regularised_sets_cost_more_beyond_the_fifth_class():
    p = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.09, 0.08, 0.05, 0.03], dtype=torch.double)
    sets = fit_conformal(p.expand(9, -1), [6] * 9, coverage=0.8, method="regularised")
    # Mass up to the seventh class, and two classes beyond the fifth.
    assert sets.threshold == pytest.approx(0.97 + 0.02)
    adaptive = fit_conformal(p.expand(9, -1), [6] * 9, coverage=0.8, method="adaptive")
    few = torch.full((1, 40), 1 / 40, dtype=torch.double)
    assert set_size(sets(few)) < set_size(adaptive(few))


@pytest.mark.parametrize("method", ["threshold", "adaptive", "regularised"])
def test_every_class_has_its_coverage(method):
    torch.manual_seed(0)
    logits = 2 * torch.randn(4000, 20, dtype=torch.double)
    y = torch.distributions.Categorical(logits=logits).sample()
    sets = fit_conformal(logits[:2000].softmax(-1), y[:2000], 0.9, method)(
        logits[2000:].softmax(-1)
    )
    each = class_coverage(sets, y[2000:])
    count = y[2000:].bincount(minlength=20)
    mean = sum(each[label] * int(count[label]) for label in each) / 2000
    assert mean == pytest.approx(set_coverage(sets, y[2000:]))
    assert 0.87 < mean < 0.93
    assert min(each.values()) > 0.6
