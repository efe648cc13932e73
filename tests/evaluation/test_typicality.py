"""Mahalanobis distances against scikit-learn, and the gate's two anchors."""

import math

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from probcl.distributions import VonMisesFisher
from probcl.evaluation.ood import fit_aggregate, fit_gate, fit_gaussians
from probcl.special import inverse_bessel_ratio
from probcl.sphere import log_area


def features(count=200):
    return torch.randn(count, 4) @ torch.randn(4, 4) + 3


def test_one_gaussian_is_scikit_learns():
    x, other = features(), features(50)
    theirs = LedoitWolf().fit(x.double())
    expected = torch.as_tensor(theirs.mahalanobis(other.double())).sqrt()
    ours = fit_gaussians(x).distance(other)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("count", "dim"), [(10, 30), (40, 20), (9000, 5)])
def test_a_covariance_is_shrunk_as_scikit_learns(count, dim):
    x = torch.randn(count, dim) @ torch.randn(dim, dim)
    root = fit_gaussians(x).root.double()
    centred = x.double() - x.double().mean(0)
    theirs = LedoitWolf(assume_centered=True, store_precision=True).fit(centred)
    expected = torch.as_tensor(theirs.precision_)
    torch.testing.assert_close(root @ root.T, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_classes_share_a_covariance_and_the_nearest_counts():
    labels = torch.arange(200) % 3
    x = features() + 20 * labels[:, None]
    fitted = fit_gaussians(x, labels + 5)
    means = torch.stack([x[labels == c].mean(0) for c in range(3)])
    theirs = LedoitWolf(assume_centered=True).fit((x - means[labels]).double())
    other = x[:20] + 0.5
    distances = torch.stack([
        torch.as_tensor(theirs.mahalanobis((other - mean).double())).sqrt() for mean in means
    ])  # fmt: skip
    expected = distances.amin(0)
    torch.testing.assert_close(fitted.distance(other).double(), expected, rtol=1e-3, atol=1e-3)


def test_a_rare_class_among_many_items_keeps_its_mean():
    labels = torch.arange(30_000) % 2 * 2  # more items than the covariance is of
    labels[1001] = 1
    x = torch.randn(30_000, 3) + 8 * labels[:, None]
    x[1001] = torch.tensor([-5.0, 5.0, 40.0])
    means = torch.stack([x[labels == c].double().mean(0) for c in range(3)])
    torch.testing.assert_close(fit_gaussians(x, labels).means, means)


def test_a_root_is_in_the_order_of_files():
    assert fit_gaussians(features()).root.is_contiguous()  # else it rounds otherwise, once read


def test_a_dead_feature_does_no_harm():
    x = torch.cat([features(), torch.zeros(200, 1)], -1)
    distances = fit_gaussians(x).distance(x)
    assert distances.isfinite().all()
    unlike = torch.cat([x[:, :4], torch.ones(200, 1)], -1)
    assert (fit_gaussians(x).distance(unlike) > distances).all()


def test_order_changes_nothing():
    x = features()
    shuffled = fit_gaussians(x[torch.randperm(200)]).distance(x)
    torch.testing.assert_close(shuffled, fit_gaussians(x).distance(x), rtol=1e-3, atol=1e-3)


def test_the_gate_has_its_anchors_and_falls():
    distances = torch.rand(1000, dtype=torch.double) + 1
    gate = fit_gate(distances)
    anchors = distances.quantile(torch.tensor([0.85, 0.985]).double())
    torch.testing.assert_close(gate(anchors), torch.tensor([0.99, 0.5]).double())
    typicality = gate(torch.linspace(0, 10, 51))  # near 0 it is 1 to the last digit
    assert (typicality.diff() <= 0).all()
    assert (typicality[10:].diff() < 0).all()
    assert 0 < typicality[-1] < 1e-6 < 0.999 < typicality[0] <= 1


def test_far_inputs_keep_their_order():
    typicality = fit_gate(torch.rand(100) + 1)(torch.tensor([20.0, 50.0, 100.0]))
    assert (typicality.diff() < 0).all()


def test_equal_distances_give_a_step():
    gate = fit_gate(torch.ones(10))
    assert gate(torch.tensor([0.5, 1.0, 2.0])).tolist() == pytest.approx([1, 0.5, 0])


def test_bad_input():
    with pytest.raises(ValueError, match="distances must have at least 2 rows"):
        fit_gate([1.0])
    with pytest.raises(ValueError, match="features must be finite, row 1"):
        fit_gaussians([[1.0], [float("nan")]])
    with pytest.raises(ValueError, match="labels must have a row for each of the 3"):
        fit_gaussians(torch.rand(3, 2), [0, 1])


def test_the_surprise_is_minus_the_log_density_of_the_mean_of_the_posteriors():
    direction = torch.nn.functional.normalize(torch.randn(30, 5, dtype=torch.double), dim=-1)
    length = torch.rand(30, dtype=torch.double) * 0.8 + 0.1
    z = torch.nn.functional.normalize(torch.randn(4, 6, 5, dtype=torch.double), dim=-1)
    posteriors = VonMisesFisher(direction, inverse_bessel_ratio(length, 5))
    log_density = posteriors.log_prob(z[..., None, :]).logsumexp(-1) - math.log(30) + log_area(5)
    found = fit_aggregate(direction, length).surprise(z)
    torch.testing.assert_close(found.double(), -log_density.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classes", [1, 3, 40])
@pytest.mark.parametrize(("offset", "scale"), [(1e6, 1.0), (1e3, 1.0), (0.0, 1e-20), (0.0, 1e10)])
def test_distances_are_right_far_from_zero_and_at_any_scale(classes, offset, scale):
    random = torch.Generator().manual_seed(classes)
    mixed = torch.randn(4, 4, generator=random).double()
    x = torch.randn(800, 4, generator=random).double() @ mixed
    y = torch.arange(800) % classes
    x = offset + scale * (x + 3 * y[:, None])
    covariance = LedoitWolf(assume_centered=True)
    means = torch.stack([x[y == c].mean(0) for c in range(classes)])
    inverse = torch.as_tensor(np.linalg.inv(covariance.fit((x - means[y]) / scale).covariance_))
    around = (x[:, None] - means) / scale
    expected = torch.einsum("nci,ij,ncj->nc", around, inverse, around).amin(-1).sqrt()
    found = fit_gaussians(x, y).distance(x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1e-20])
def test_features_that_never_change_have_no_distance_and_others_a_finite_one(value):
    x = torch.full((50, 3), value)
    gaussian = fit_gaussians(x)
    assert gaussian.distance(x).max() < 1e-3
    assert gaussian.distance(torch.randn(9, 3)).isfinite().all()
