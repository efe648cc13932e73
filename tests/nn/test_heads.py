"""Heads: projections, where their posteriors start, and what they refuse; priors alike."""

import pytest
import torch
from torch import nn

from probcl.nn import (
    MLP,
    BatchNormMLP,
    PointHead,
    PowerSphericalHead,
    ProjectedNormalHead,
    VonMisesFisherHead,
    VonMisesFisherMixturePrior,
    VonMisesFisherPrior,
)
from probcl.sphere import normalize

FEATURES = torch.randn(6, 7)
HEADS = {
    "point": lambda hidden: PointHead(MLP(5, hidden)),
    "isotropic": lambda hidden: ProjectedNormalHead(5, hidden, covariance="isotropic"),
    "diagonal": lambda hidden: ProjectedNormalHead(5, hidden),
    "low rank": lambda hidden: ProjectedNormalHead(5, hidden, covariance="low_rank", rank=2),
    "von Mises-Fisher": lambda hidden: VonMisesFisherHead(5, hidden),
    "Power Spherical": lambda hidden: PowerSphericalHead(5, hidden),
}


def test_a_perceptron_without_hidden_units_is_a_linear_map():
    projection = MLP(5, hidden=None)
    outputs = projection(FEATURES)
    assert set(projection.state_dict()) == {"0.weight", "0.bias"}
    expected = FEATURES @ projection[0].weight.T + projection[0].bias
    torch.testing.assert_close(outputs, expected)


def test_a_perceptron_keeps_the_names_and_draws_of_its_weights():
    torch.manual_seed(0)
    projection = MLP(5, 16)
    projection(FEATURES)
    torch.manual_seed(0)
    second, first = nn.Linear(16, 5), nn.Linear(7, 16)  # the lazy one draws its weights last
    expected = nn.Sequential(first, nn.ReLU(), second).state_dict()
    assert list(projection.state_dict()) == list(expected)
    assert all(torch.equal(projection.state_dict()[name], expected[name]) for name in expected)


def test_batch_normalisation_stands_before_each_rectifier():
    layers = list(BatchNormMLP(3, hidden=8, layers=3))
    kinds = [nn.LazyLinear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.LazyLinear]
    assert [type(layer) for layer in layers] == kinds
    with pytest.raises(ValueError, match="layers must be at least 2, got 1"):
        BatchNormMLP(layers=1)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_projects_features_to_what_it_normalises(name):
    head = HEADS[name](None)
    posterior = head(FEATURES)
    linear = (head.projection if name == "point" else head.loc)[0]
    expected = nn.functional.linear(FEATURES, linear.weight, linear.bias)
    torch.testing.assert_close(head.project(FEATURES), expected)
    torch.testing.assert_close(normalize(posterior.loc), normalize(expected))
    assert not any(isinstance(module, nn.ReLU) for module in head.modules())
    posterior.rsample().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_a_point_head_takes_features_of_any_shape_to_batch_normalisation():
    head = PointHead(BatchNormMLP(3, hidden=8))
    features = torch.randn(2, 6, 7)
    projection = head.project(features)
    assert projection.shape == (2, 6, 3)
    flat = head.projection(features.flatten(0, 1))
    torch.testing.assert_close(projection.flatten(0, 1), flat)
    assert PointHead(nn.Identity()).dim is None
    with torch.autocast("cpu", torch.bfloat16):
        assert head(features).loc.dtype == torch.float32


def test_the_heads_start_where_they_are_told():
    features = torch.randn(200, 8)
    for head in (VonMisesFisherHead(5, 16, 24.0), PowerSphericalHead(5, 16, 24.0)):
        concentration = head(features).concentration
        assert 12 < concentration.median() < 48
    assert 3 < VonMisesFisherHead(6, 16)(features).concentration.median() < 12
    q = ProjectedNormalHead(5, 16, covariance="low_rank", rank=2)(features)
    assert q.cov_factor.shape == (200, 5, 2)
    assert ProjectedNormalHead(5, 16, covariance="isotropic")(features).scale.shape == (200, 1)


def test_bad_settings_are_named():
    for bad in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="concentration must be a finite number above 0"):
            VonMisesFisherHead(concentration=bad)
    with pytest.raises(ValueError, match="covariance must be 'isotropic' or 'diagonal' or 'low_ra"):
        ProjectedNormalHead(covariance="full")
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        ProjectedNormalHead(covariance="low_rank", rank=0)
    with pytest.raises(ValueError, match="components must be at least 1, got 0"):
        VonMisesFisherMixturePrior(components=0)
    with pytest.raises(ValueError, match="concentration must be a finite number of at least 0"):
        VonMisesFisherPrior(concentration=-1.0)
