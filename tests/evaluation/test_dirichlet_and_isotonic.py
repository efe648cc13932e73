"""Dirichlet and isotonic maps against SciPy and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from probcl.evaluation import (
    calibration_error,
    fit_dirichlet,
    fit_isotonic,
    fit_vector,
    negative_log_likelihood,
)


@pytest.fixture(scope="module")
def held_out():
    """Logits that are too sure, of three classes, one of which is taken for another."""
    random = torch.Generator().manual_seed(0)
    truth = torch.randn(2000, 3, generator=random, dtype=torch.double)
    labels = torch.distributions.Categorical(logits=truth).sample()
    return 3 * truth + torch.tensor([0.0, 1.0, 0.0]), labels


def test_dirichlet_is_the_optimum_of_its_objective(held_out):
    logits, labels = held_out
    found = fit_dirichlet(logits, labels)
    log_p, y = log_softmax(logits.numpy(), 1), labels.numpy()

    def objective(flat):
        change, bias = flat[:9].reshape(3, 3), flat[9:]
        scores = log_softmax(log_p @ (np.eye(3) + change).T + bias, 1)
        return -scores[np.arange(len(y)), y].mean() + (flat**2).sum() / (2 * len(y))

    expected = minimize(objective, np.zeros(12), method="BFGS", options={"gtol": 1e-8}).x
    np.testing.assert_allclose(found.weight, np.eye(3) + expected[:9].reshape(3, 3), atol=1e-4)
    np.testing.assert_allclose(found.bias, expected[9:], atol=1e-4)


@pytest.mark.parametrize("fit", [fit_vector, fit_dirichlet])
def test_a_class_that_was_not_seen_stays_impossible(held_out, fit):
    logits, labels = held_out
    unseen = torch.full((len(logits), 1), -torch.inf, dtype=torch.double)
    with_one = torch.cat([logits[:, :1], unseen, logits[:, 1:]], 1)
    scaled = fit(with_one, labels + (labels > 0))(with_one)
    assert scaled[:, 1].isneginf().all()
    torch.testing.assert_close(
        scaled[:, [0, 2, 3]].softmax(-1), fit(logits, labels)(logits).softmax(-1), atol=1e-4, rtol=0
    )


def test_each_calibrates_new_items(held_out):
    logits, labels = held_out
    train, test = slice(0, 1000), slice(1000, None)
    before = logits[test].softmax(-1)
    after = fit_dirichlet(logits[train], labels[train])(logits[test]).softmax(-1)
    assert negative_log_likelihood(after, labels[test]) < negative_log_likelihood(
        before, labels[test]
    )
    isotonic = fit_isotonic(logits[train].softmax(-1), labels[train])(before)
    for p in (after, isotonic):
        torch.testing.assert_close(p.sum(-1), torch.ones(1000, dtype=torch.double))
        assert calibration_error(p, labels[test]) < 0.5 * calibration_error(before, labels[test])


def test_isotonic_is_that_of_scikit_learn(held_out):
    from sklearn.isotonic import IsotonicRegression

    logits, labels = held_out
    p = logits.softmax(-1)
    each = [
        IsotonicRegression(out_of_bounds="clip").fit(p[:, c], labels == c).predict(p[:, c])
        for c in range(3)
    ]
    expected = np.stack(each, 1)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(fit_isotonic(p, labels)(p), expected, atol=1e-6)


def test_of_probabilities_that_all_vanish_every_class_is_as_likely():
    fitted = fit_isotonic(
        torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.2, 0.8]]), torch.tensor([1, 1, 1])
    )
    fitted = type(fitted)(tuple((x, np.zeros_like(y)) for x, y in fitted.curves))
    assert fitted(torch.tensor([[0.5, 0.5]])).tolist() == [[0.5, 0.5]]


def test_of_many_classes_dirichlet_is_fitted_to_the_end():
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1500, 50, generator=random, dtype=torch.double)
    labels = torch.distributions.Categorical(logits=logits / 3).sample()
    found = fit_dirichlet(logits, labels)
    change = (found.weight - torch.eye(50)).requires_grad_()
    bias = found.bias.clone().requires_grad_()
    scores = logits.log_softmax(-1) @ (torch.eye(50).double() + change).T + bias
    prior = (change.square().sum() + bias.square().sum()) / (2 * len(labels))
    (torch.nn.functional.cross_entropy(scores, labels) + prior).backward()
    assert max(change.grad.abs().max(), bias.grad.abs().max()) < 1e-6
