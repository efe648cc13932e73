"""Bessel functions of the sphere against multiprecision arithmetic."""

import math
import random

import mpmath
import pytest
import torch

from probcl.special import bessel

mpmath.mp.dps = 60
DIMS = [2, 3, 4, 5, 8, 31, 32, 33, 34, 35, 36, 128, 513, 2048]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-7}


def exact(name: str, kappa: float, dim: int) -> mpmath.mpf:
    """Evaluate a function of the module by its definition."""
    k, order = mpmath.mpf(kappa), mpmath.mpf(dim) / 2 - 1
    bessel_i = mpmath.besseli(order, k)
    ratio = mpmath.besseli(order + 1, k) / bessel_i
    log = mpmath.log(mpmath.gamma(order + 1) * (2 / k) ** order * bessel_i)
    return {
        "log_bessel": log,
        "log_bessel_deficit": k - log,
        "log_bessel_divergence": k * ratio - log,
        "bessel_ratio": ratio,
        "bessel_ratio_deficit": 1 - ratio,
        "bessel_ratio_over_kappa": ratio / k,
        "bessel_ratio_derivative": 1 - ratio**2 - (dim - 1) * ratio / k,
    }[name]


def exact_second_derivative_of_ratio(kappa: float, dim: int) -> mpmath.mpf:
    ratio, slope = (exact(n, kappa, dim) for n in ("bessel_ratio", "bessel_ratio_derivative"))
    k = mpmath.mpf(kappa)
    return -2 * ratio * slope - (dim - 1) * (slope / k - ratio / k**2)


def random_kappas(count: int) -> list[float]:
    generator = random.Random(0)
    return [10 ** generator.uniform(-4, 5.5) for _ in range(count)]


# The inverse has its own definition, and its own tests: test_inverse_bessel_ratio.py.
FUNCTIONS = [name for name in bessel.__all__ if name != "inverse_bessel_ratio"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_are_accurate_in_relative_terms(name: str, dtype: torch.dtype) -> None:
    for dim in DIMS:
        kappa = torch.tensor(random_kappas(4), dtype=dtype)
        values = getattr(bessel, name)(kappa, dim)
        assert values.dtype == dtype
        for k, value in zip(kappa.tolist(), values.tolist(), strict=True):
            reference = exact(name, k, dim)
            assert abs(value - reference) <= TOLERANCE[dtype] * abs(reference), (dim, k)


@pytest.mark.parametrize(
    ("name", "derivative"),
    [
        ("log_bessel", "bessel_ratio"),
        ("log_bessel_deficit", "bessel_ratio_deficit"),
        ("bessel_ratio", "bessel_ratio_derivative"),
    ],
)
def test_first_derivatives(name: str, derivative: str) -> None:
    for dim in DIMS:
        kappa = torch.tensor(random_kappas(3), dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(getattr(bessel, name)(kappa, dim).sum(), kappa)
        for k, value in zip(kappa.tolist(), grad.tolist(), strict=True):
            reference = exact(derivative, k, dim)
            assert abs(value - reference) <= 1e-12 * abs(reference), (dim, k)


def test_higher_derivatives() -> None:
    for dim in DIMS:
        kappa = torch.tensor(random_kappas(3), dtype=torch.float64, requires_grad=True)
        value = bessel.log_bessel(kappa, dim).sum()
        for order in range(3):
            (derivative,) = torch.autograd.grad(value, kappa, create_graph=True)
            value = derivative.sum()
            for k, found in zip(kappa.tolist(), derivative.tolist(), strict=True):
                reference = (
                    exact("bessel_ratio", k, dim),
                    exact("bessel_ratio_derivative", k, dim),
                    exact_second_derivative_of_ratio(k, dim),
                )[order]
                assert abs(found - reference) <= 1e-10 * abs(reference), (dim, k, order)


def test_at_zero_everything_has_its_limit() -> None:
    for dim in DIMS:
        zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
        assert bessel.log_bessel(zero, dim).item() == 0
        assert bessel.log_bessel_deficit(zero, dim).item() == 0
        assert bessel.log_bessel_divergence(zero, dim).item() == 0
        assert bessel.bessel_ratio(zero, dim).item() == 0
        assert bessel.bessel_ratio_deficit(zero, dim).item() == pytest.approx(1, abs=1e-15)
        assert bessel.bessel_ratio_over_kappa(zero, dim).item() == pytest.approx(1 / dim, rel=1e-14)
        (slope,) = torch.autograd.grad(bessel.log_bessel(zero, dim), zero, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, zero)
        assert slope.item() == 0
        assert curvature.item() == pytest.approx(1 / dim, rel=1e-14)


def test_closed_forms_in_three_dimensions() -> None:
    kappa = torch.tensor([0.3, 2.0, 15.0], dtype=torch.float64)
    torch.testing.assert_close(
        bessel.log_bessel(kappa, 3), torch.log(torch.sinh(kappa) / kappa), rtol=1e-14, atol=0
    )
    torch.testing.assert_close(
        bessel.bessel_ratio(kappa, 3), 1 / torch.tanh(kappa) - 1 / kappa, rtol=1e-13, atol=0
    )


def test_extreme_concentrations_stay_finite_and_right() -> None:
    kappa = torch.tensor([1e-30, 1e8, 1e30], dtype=torch.float64)
    for dim in (2, 3, 128):
        leading = kappa * bessel.bessel_ratio_deficit(kappa, dim)
        torch.testing.assert_close(
            leading[1:], torch.full((2,), (dim - 1) / 2, dtype=torch.float64), rtol=1e-6, atol=0
        )
        divergence = bessel.log_bessel_divergence(kappa, dim)
        assert divergence[0].item() == pytest.approx(1e-60 / (2 * dim), rel=1e-10)
        assert torch.isfinite(divergence).all()
        growth = (divergence[2] - divergence[1]).item()
        assert growth == pytest.approx((dim - 1) / 2 * math.log(1e22), rel=1e-6)


def test_forms_of_the_divergence_agree_where_they_meet() -> None:
    for dim in DIMS:
        around = torch.tensor([dim * (1 - 1e-12), dim, dim * (1 + 1e-12)], dtype=torch.float64)
        values = bessel.log_bessel_divergence(around, dim)
        assert (values.diff().abs() <= 1e-11 * values[0]).all()


@pytest.mark.parametrize("dim", [2, 5, 64])
def test_gradcheck(dim: int) -> None:
    kappa = torch.tensor([0.0, 0.4, 3.0, 70.0], dtype=torch.float64, requires_grad=True)
    for name in FUNCTIONS:
        function = getattr(bessel, name)
        torch.autograd.gradcheck(lambda k, f=function: f(k, dim), kappa)
        torch.autograd.gradgradcheck(lambda k, f=function: f(k, dim), kappa)


def test_vmap_and_shapes() -> None:
    kappa = torch.rand(4, 3) * 10
    direct = bessel.log_bessel(kappa, 6)
    assert direct.shape == (4, 3)
    torch.testing.assert_close(torch.vmap(lambda k: bessel.log_bessel(k, 6))(kappa), direct)
    assert bessel.bessel_ratio(torch.zeros(0), 6).shape == (0,)
