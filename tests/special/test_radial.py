"""Tests of the radial integral against 45-digit tables, mpmath and closed forms."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcl.special import log_radial_integral, log_radial_ratio

# Errors allowed relative to max(1, |value|), for values and first derivatives.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6}


def relative_error(actual: torch.Tensor, expected: str | float) -> float:
    expected = float(expected)
    return abs(actual.item() - expected) / max(1.0, abs(expected))


def derivatives(function, alpha: float, dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return a function's value and first two derivatives."""
    x = torch.tensor(alpha, dtype=dtype, requires_grad=True)
    value = function(x, dim)
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    return [value.detach(), first.detach(), second]


def test_reference_table(tables, dtype: torch.dtype) -> None:
    for row in tables("log_radial"):
        value, first, second = derivatives(log_radial_integral, row["alpha"], row["d"], dtype)
        assert relative_error(value, row["log_M"]) < TOLERANCE[dtype], row
        assert relative_error(first, row["dlog_M"]) < TOLERANCE[dtype], row
        assert relative_error(second, row["d2log_M"]) < 10 * TOLERANCE[dtype], row


def parabolic_cylinder(alpha: float, dim: int) -> tuple[float, float]:
    """Return the log ratio h and its derivative from mpmath's parabolic cylinder D_{-d}."""
    with mpmath.workdps(50):
        x = mpmath.mpf(alpha)

        def integral(d: int) -> mpmath.mpf:
            return mpmath.exp(-x * x / 4) * mpmath.gamma(d) * mpmath.pcfd(-d, -x)

        at_zero = mpmath.mpf(2) ** (mpmath.mpf(dim) / 2 - 1) * mpmath.gamma(mpmath.mpf(dim) / 2)
        value = integral(dim)
        log_ratio, slope = mpmath.log(value / at_zero), integral(dim + 1) / value - x
        if alpha < 0:  # K_d instead of M_d
            log_ratio, slope = log_ratio + x * x / 2, slope + x
        return float(log_ratio), float(slope)


@pytest.mark.parametrize("dim", [2, 3, 9, 10, 11, 23, 24, 25, 100])
def test_agrees_with_parabolic_cylinder_functions(dim: int, dtype: torch.dtype) -> None:
    # Dimensions on both sides of each switch of method, arguments across many sizes.
    for alpha in (-300.0, -7.25, -1.0, -0.0009765625, 0.0, 0.25, 2.5, 11.0, 250.0):
        value, first, _ = derivatives(log_radial_ratio, alpha, dim, dtype)
        expected, expected_first = parabolic_cylinder(alpha, dim)
        assert relative_error(value, expected) < TOLERANCE[dtype], alpha
        assert relative_error(first, expected_first) < TOLERANCE[dtype], alpha


def test_closed_form_on_the_circle() -> None:
    alpha = torch.linspace(-3, 3, 13, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    mass = normal.cdf(alpha) * math.sqrt(2 * math.pi)
    expected = torch.log(torch.exp(-alpha.square() / 2) + alpha * mass)
    assert torch.allclose(log_radial_integral(alpha, 2), expected, rtol=0, atol=1e-12)


@given(st.floats(-1e3, 1e3), st.integers(2, 2000))
def test_three_term_recurrence(alpha: float, dim: int) -> None:
    # M_{d+2} = alpha M_{d+1} + d M_d; both sides divided by the largest term.
    x = torch.tensor(alpha, dtype=torch.float64)
    low, middle, high = (log_radial_integral(x, d).item() for d in (dim, dim + 1, dim + 2))
    # Each log is a sum of terms of this size.
    scale = 1.0 + alpha**2 + math.lgamma(dim) + abs(high)
    left = 1.0
    right = alpha * math.exp(middle - high) + dim * math.exp(low - high)
    conditioning = abs(alpha) * math.exp(middle - high) + 1.0
    assert abs(left - right) < 1e-14 * scale * conditioning


@pytest.mark.parametrize("dim", [2, 8, 24, 128])
def test_derivatives_by_finite_differences(dim: int) -> None:
    alpha = torch.tensor([-30.0, -2.0, -0.5, 0.5, 2.0, 30.0], dtype=torch.float64)
    alpha.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_radial_integral(x, dim), alpha)
    assert torch.autograd.gradgradcheck(lambda x: log_radial_integral(x, dim), alpha)


def test_under_vmap_and_grad() -> None:
    alpha = torch.linspace(-2, 2, 5, dtype=torch.float64)
    slope = torch.func.vmap(torch.func.grad(lambda x: log_radial_integral(x, 7)))(alpha)
    leaf = alpha.clone().requires_grad_()
    (expected,) = torch.autograd.grad(log_radial_integral(leaf, 7).sum(), leaf)
    assert torch.allclose(slope, expected, atol=1e-15)


def test_small_dimension_is_rejected() -> None:
    with pytest.raises(ValueError, match="dim must be at least 2, got 1"):
        log_radial_ratio(torch.zeros(1), 1)
