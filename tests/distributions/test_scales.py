"""Entropies, divergences and means at every scale that a float holds, against exact limits."""

import math

import pytest
import torch
from torch.distributions import kl_divergence

from probcl.distributions import (
    HypersphericalUniform,
    PowerSpherical,
    ProjectedNormal,
    VonMisesFisher,
)
from probcl.sphere import log_area, normalize

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
KINDS = ["isotropic", "diagonal", "full", pytest.param("low rank", marks=pytest.mark.slow)]
every_dim = pytest.mark.parametrize("dim", [2, pytest.param(3, marks=pytest.mark.slow), 64])


def exponents(dtype: torch.dtype, count: int) -> list[float]:
    finfo = torch.finfo(dtype)
    lowest, highest = math.log2(finfo.tiny) + 1, math.log2(finfo.max) - 4
    return torch.linspace(lowest, highest, count, dtype=torch.float64).floor().tolist()


def covariance(kind: str, scale: torch.Tensor, dim: int) -> dict[str, torch.Tensor]:
    """Return a covariance of a kind and an overall scale."""
    widths = torch.linspace(0.5, 1.0, dim, dtype=scale.dtype)
    return {
        "isotropic": {"scale": scale},
        "diagonal": {"scale": scale * widths},
        "full": {"scale_tril": scale * (torch.diag(widths) + 0.1 * torch.ones(dim, dim).tril(-1))},
        "low rank": {
            "cov_factor": scale * 0.3 * torch.ones(dim, 1, dtype=scale.dtype),
            "cov_diag": scale**2 * widths,
        },
    }[kind]


@every_dtype
@every_dim
@pytest.mark.parametrize("kind", KINDS)
def test_projected_normal(kind: str, dim: int, dtype: torch.dtype) -> None:
    """Far out KL = (d - 1) log |loc| + a constant of Sigma: a doubling adds (d - 1) log 2."""
    direction = normalize(torch.linspace(1.0, 2.0, dim, dtype=dtype))
    uniform, far = HypersphericalUniform(dim, dtype=dtype), 30.0
    for by_scale in exponents(dtype, 4):
        if kind == "low rank" and abs(by_scale) >= -0.49 * math.log2(torch.finfo(dtype).tiny):
            continue  # cov_diag is the square of the scale
        given = covariance(kind, torch.tensor(2.0, dtype=dtype) ** by_scale, dim)
        anchor = None
        for by_loc in exponents(dtype, 6):
            loc = (direction * 2.0**by_loc).requires_grad_()
            q = ProjectedNormal(loc, **given)
            kl = kl_divergence(q, uniform)
            assert kl.isfinite() and kl > -1e-5 and q.entropy().isfinite()
            assert torch.autograd.grad(kl, loc)[0].isfinite().all()
            assert (q.mean_resultant_length - 1).abs() < 1e-5 or by_loc < by_scale + far
            if by_loc > by_scale + far:
                rest = kl.double() - (dim - 1) * math.log(2) * (by_loc - by_scale)
                anchor = rest if anchor is None else anchor
                torch.testing.assert_close(rest, anchor, rtol=0, atol=2e-6 * (1 + kl.item()))
            if by_loc < by_scale - far and kind == "isotropic":
                assert kl < 1e-6


@every_dtype
@every_dim
@pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical])
def test_rotationally_symmetric(family: type, dim: int, dtype: torch.dtype) -> None:
    """At high concentrations both are normal in the tangent space, of variances 1/k and 2/k."""
    loc, variance = normalize(torch.ones(dim, dtype=dtype)), 2 if family is PowerSpherical else 1
    uniform = HypersphericalUniform(dim, dtype=dtype)
    for exponent in exponents(dtype, 12):
        concentration = torch.tensor(2.0**exponent, dtype=dtype, requires_grad=True)
        q = family(loc, concentration)
        kl = kl_divergence(q, uniform)
        assert kl.isfinite() and q.entropy().isfinite() and q.variance.isfinite().all()
        assert torch.autograd.grad(kl, concentration)[0].isfinite()
        assert q.rsample().isfinite().all() and q.mean.isfinite().all()
        if exponent > 40:
            log_variance = math.log(2 * math.pi * math.e * variance) - exponent * math.log(2)
            entropy = torch.tensor(0.5 * (dim - 1) * log_variance, dtype=dtype)
            torch.testing.assert_close(q.entropy(), entropy, rtol=1e-6, atol=1e-6)
        if exponent < -40:
            torch.testing.assert_close(q.entropy(), torch.tensor(log_area(dim), dtype=dtype))
