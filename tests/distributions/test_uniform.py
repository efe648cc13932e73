"""Tests of the uniform distribution beyond the shared battery."""

import pytest
import torch

from probcl.distributions import HypersphericalUniform
from probcl.sphere import log_area


def test_moments_and_density(tables) -> None:
    for row in tables("uniform"):
        d = HypersphericalUniform(row["d"], dtype=torch.float64)
        expected = float(row["entropy"])
        z = d.sample((3,))
        assert abs(d.entropy().item() - expected) <= 1e-13 * max(1, abs(expected))
        assert torch.allclose(d.log_prob(z), -d.entropy(), rtol=1e-14)
        assert torch.equal(d.mean, torch.zeros_like(z[0]))
        assert d.mean_resultant_length == 0
        assert torch.allclose(d.variance.sum(), torch.ones((), dtype=torch.float64))


def test_density_keeps_a_graph() -> None:
    z = torch.tensor([1.0, 0.0], requires_grad=True)
    log_prob = HypersphericalUniform(2).log_prob(z)
    log_prob.backward()
    assert torch.equal(z.grad, torch.zeros(2))
    assert abs(log_prob.item() + log_area(2)) < 1e-6


def test_dimension_is_checked() -> None:
    with pytest.raises(ValueError, match="dim has dimension 1, but a sphere needs at least 2"):
        HypersphericalUniform(1)
