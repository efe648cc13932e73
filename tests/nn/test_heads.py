"""Heads without a hidden layer."""

import pytest
import torch
from torch import nn

from probcl.nn import MLP, PointHead, PowerSphericalHead, ProjectedNormalHead, VonMisesFisherHead
from probcl.sphere import normalize

FEATURES = torch.randn(6, 7)


def test_a_perceptron_without_hidden_units_is_a_linear_map():
    projection = MLP(5, hidden=None)
    outputs = projection(FEATURES)
    assert set(projection.state_dict()) == {"0.weight", "0.bias"}
    expected = FEATURES @ projection[0].weight.T + projection[0].bias
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(PointHead(projection)(FEATURES).mean, normalize(expected))


def test_a_perceptron_keeps_the_names_and_draws_of_its_weights():
    torch.manual_seed(0)
    projection = MLP(5, 16)
    projection(FEATURES)
    torch.manual_seed(0)
    second, first = nn.Linear(16, 5), nn.Linear(7, 16)  # the lazy one draws its weights last
    expected = nn.Sequential(first, nn.ReLU(), second).state_dict()
    assert list(projection.state_dict()) == list(expected)
    assert all(torch.equal(projection.state_dict()[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "head",
    [
        lambda: ProjectedNormalHead(5, None, covariance="isotropic"),
        lambda: ProjectedNormalHead(5, None),
        lambda: ProjectedNormalHead(5, None, covariance="low_rank", rank=2),
        lambda: VonMisesFisherHead(5, None),
        lambda: PowerSphericalHead(5, None),
    ],
)
def test_heads_without_hidden_units_are_linear(head):
    head = head()
    posterior = head(FEATURES)
    assert not any(isinstance(module, nn.ReLU) for module in head.modules())
    loc = nn.functional.linear(FEATURES, head.loc[0].weight, head.loc[0].bias)
    torch.testing.assert_close(normalize(posterior.loc), normalize(loc))
    posterior.rsample().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
