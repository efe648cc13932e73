"""The linear probe against scikit-learn's logistic regression; accuracies against torchmetrics."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torchmetrics.functional.classification import multiclass_accuracy

from probcl.evaluation.probe import (
    accuracy,
    fit_linear_probe,
    multi_label_accuracy,
    top_k_accuracy,
)


def blobs(count=300, classes=4, dim=6):
    labels = torch.arange(count) % classes
    return 2 * torch.randn(classes, dim)[labels] + torch.randn(count, dim) * 3 + 5, labels


@pytest.mark.parametrize("penalty", [1.0, 30.0])
def test_it_is_scikit_learns_logistic_regression(penalty):
    x, y = blobs()
    mean, scale = x.mean(0), x.std(0, correction=0)
    theirs = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=10_000)
    theirs.fit((x - mean) / scale, y)
    expected = torch.as_tensor(theirs.predict_proba((x - mean) / scale)).float()
    ours = fit_linear_probe(x, y, penalty=penalty).probabilities(x)
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=0)


def test_stochastic_gradients_come_to_the_same():
    x, y = blobs(2000)
    exact = fit_linear_probe(x, y).probabilities(x)
    with torch.inference_mode():  # as Lightning evaluates
        near = fit_linear_probe(x, y, exact_up_to=10, epochs=300).probabilities(x)
    assert (near - exact).abs().max() < 0.03


def test_a_class_that_was_not_seen_is_never_predicted():
    x, y = blobs()
    probe = fit_linear_probe(x, 2 * y, num_classes=9)
    assert probe.logits(x).shape == (300, 9)
    assert probe.logits(x)[:, [1, 3, 5, 7, 8]].isneginf().all()
    assert not (probe.predict(x) % 2).any()


def test_a_constant_feature_does_no_harm():
    x, y = blobs()
    wide = torch.cat([x, torch.full((300, 1), 7.0)], -1)
    ours, without = fit_linear_probe(wide, y), fit_linear_probe(x, y)
    torch.testing.assert_close(ours.logits(wide), without.logits(x), atol=1e-4, rtol=1e-4)


def test_duplicates_and_order_change_nothing():
    x, y = blobs()
    order = torch.randperm(300)
    one = fit_linear_probe(x, y).probabilities(x)
    other = fit_linear_probe(x[order], y[order]).probabilities(x)
    twice = fit_linear_probe(x.repeat(2, 1), y.repeat(2), penalty=2.0).probabilities(x)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    torch.testing.assert_close(one, twice, atol=1e-4, rtol=0)


@pytest.mark.parametrize("k", [1, 3])
def test_top_k_is_that_of_torchmetrics(k):
    scores, labels = torch.randn(50, 6).softmax(-1), torch.randint(6, (50,))
    expected = multiclass_accuracy(scores, labels, 6, top_k=k, average="micro").item()
    assert top_k_accuracy(scores, labels, k) == pytest.approx(expected)


def test_ties_count_in_the_share_of_their_orders():
    assert top_k_accuracy(torch.ones(2, 4), torch.tensor([0, 3]), k=1) == 0.25
    assert top_k_accuracy(torch.ones(2, 4), torch.tensor([0, 3]), k=3) == 0.75


def test_accuracy_and_multi_label_accuracy_by_hand():
    assert accuracy([0, 1, 1], [0, 1, 2]) == pytest.approx(2 / 3)
    allowed = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]]).bool()
    assert multi_label_accuracy([1, 0, 0, 0], allowed) == (pytest.approx(2 / 3), 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_linear_probe(torch.rand(4, 2), torch.zeros(4).long()), "two classes"),
        (lambda: fit_linear_probe(torch.rand(4, 2), torch.arange(3)), "row for each of the 4"),
        (lambda: fit_linear_probe(torch.full((4, 2), torch.nan), torch.arange(4)), "finite, row 0"),
        (lambda: fit_linear_probe(torch.rand(4, 2), torch.arange(4), 2), "num_classes must be"),
        (lambda: top_k_accuracy(torch.rand(4, 3), torch.zeros(4).long(), 4), "k must be from 1"),
        (lambda: top_k_accuracy(torch.full((2, 3), torch.nan), [0, 1], 1), "got NaN or infinity"),
        (
            lambda: fit_linear_probe(torch.full((4, 2), torch.nan), torch.arange(4), exact_up_to=1),
            "features must be finite",
        ),
        (lambda: multi_label_accuracy([3], torch.ones(1, 2)), "predicted must be below 2"),
        (lambda: multi_label_accuracy([0], torch.zeros(1, 2).bool()), "one image at least"),
        (lambda: accuracy([0, 1], [0]), "row for each of the 1 items"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("size", [1e-33, 1e-8])
def test_a_number_that_hardly_varies_beside_the_others_is_not_blown_up(size):
    x, y = blobs()
    dead = torch.cat([x, size * torch.randn(len(x), 1)], -1)
    probe = fit_linear_probe(dead, y)
    dead[:, -1] = 0.05  # as where a sample of a posterior is drawn about it
    torch.testing.assert_close(
        probe.logits(dead), fit_linear_probe(x, y).logits(x), atol=0.5, rtol=0
    )


def test_of_two_classes_the_penalty_is_half_of_scikit_learns():
    x, y = blobs()
    x, y = x[y < 2], y[y < 2]
    scaled = (x - x.mean(0)) / x.std(0, correction=0)
    for penalty in (0.5, 4.0):
        theirs = LogisticRegression(C=2 / penalty, tol=1e-8, max_iter=1000).fit(scaled, y)
        ours = fit_linear_probe(x, y, penalty=penalty).probabilities(x)
        np.testing.assert_allclose(ours, theirs.predict_proba(scaled), atol=2e-4)


def test_arrays_of_numpy_are_large_too():
    x, y = blobs()
    given = [fit_linear_probe(v, y, exact_up_to=1, epochs=3).weight for v in (x, x.numpy())]
    assert torch.equal(*given)
