"""Gamma ratios of the Power Spherical distribution against multiprecision arithmetic."""

import random

import mpmath
import pytest
import torch

from probcl.special import gamma_ratio

mpmath.mp.dps = 60
DIMS = [2, 3, 4, 5, 8, 32, 33, 34, 35, 128, 513, 2048]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-7}


def exact(name: str, kappa: float, dim: int) -> mpmath.mpf:
    """Evaluate a function of the module by its definition."""
    k, beta = mpmath.mpf(kappa), mpmath.mpf(dim - 1) / 2
    gammas = [mpmath.loggamma(x) for x in (2 * beta + k, beta, beta + k, 2 * beta)]
    deficit = gammas[0] + gammas[1] - gammas[2] - gammas[3]
    slope = mpmath.digamma(2 * beta + k) - mpmath.digamma(beta + k)
    return {
        "log_power_deficit": deficit,
        "log_power_deficit_derivative": slope,
        "log_power_divergence": deficit - k * slope,
    }[name]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", gamma_ratio.__all__)
def test_values_are_accurate_in_relative_terms(name: str, dtype: torch.dtype) -> None:
    generator = random.Random(0)
    for dim in DIMS:
        kappa = torch.tensor([10 ** generator.uniform(-4, 5.5) for _ in range(5)], dtype=dtype)
        values = getattr(gamma_ratio, name)(kappa, dim)
        assert values.dtype == dtype
        for k, value in zip(kappa.tolist(), values.tolist(), strict=True):
            reference = exact(name, k, dim)
            assert abs(value - reference) <= TOLERANCE[dtype] * abs(reference), (dim, k)


@pytest.mark.parametrize("dim", [2, 5, 64])
def test_gradcheck(dim: int) -> None:
    kappa = torch.tensor([0.0, 0.4, 3.0, 70.0], dtype=torch.float64, requires_grad=True)
    for name in gamma_ratio.__all__:
        function = getattr(gamma_ratio, name)
        torch.autograd.gradcheck(lambda k, f=function: f(k, dim), kappa)
        torch.autograd.gradgradcheck(lambda k, f=function: f(k, dim), kappa)


def test_forms_of_the_divergence_agree_where_they_meet() -> None:
    for dim in DIMS:
        meeting = max(16, (dim - 1) / 2)
        for switch in (meeting, meeting + 0.5):
            around = torch.tensor([1 - 1e-12, 1, 1 + 1e-12], dtype=torch.float64) * switch
            values = gamma_ratio.log_power_divergence(around, dim)
            assert (values.diff().abs() <= 1e-11 * values[0]).all()
