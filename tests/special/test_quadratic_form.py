"""Tests of the special functions behind the divergences."""

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from scipy import integrate, special, stats

from probcl.special import chebyshev
from probcl.special.isotropic import (
    isotropic_kl_rest,
    isotropic_kl_uniform,
    relative_mean_resultant,
)
from probcl.special.log_laplace import (
    diagonal_log_laplace,
    diagonal_sums,
    full_log_laplace,
    scaled_square,
)
from probcl.special.quadratic_form import digamma_minus_log


def test_chebyshev_reproduces_a_smooth_function() -> None:
    coefficients = chebyshev.fit(torch.exp, degree=20, tolerance=1e-14)
    x = torch.linspace(0, 1, 50, dtype=torch.float64)
    assert len(coefficients) < 20
    assert torch.allclose(chebyshev.evaluate(coefficients, x), x.exp(), rtol=1e-14)


def test_chebyshev_derivative() -> None:
    x = torch.linspace(0, 1, 50, dtype=torch.float64)
    slope = chebyshev.derivative(chebyshev.fit(torch.exp, degree=20))
    assert torch.allclose(chebyshev.evaluate(slope, x), x.exp(), rtol=1e-12)
    assert chebyshev.derivative((2.0,)) == (0.0,)


def test_digamma_minus_log(dtype: torch.dtype) -> None:
    for x in (0.5, 1.0, 3.25, 40.0, 1e3, 1e6):
        with mpmath.workdps(40):
            expected = float(mpmath.digamma(mpmath.mpf(x)) - mpmath.log(mpmath.mpf(x)))
        actual = digamma_minus_log(torch.tensor(x, dtype=dtype)).item()
        assert math.isclose(actual, expected, abs_tol=4 * torch.finfo(dtype).eps * (1 + 8 / x))


@pytest.mark.parametrize("dim", [2, 3, 8, 32, 200])
@pytest.mark.parametrize("kappa", [0.0, 0.7, 6.0, 40.0])
def test_isotropic_kl_is_its_mean_log_and_the_rest(dim: int, kappa: float) -> None:
    # A Poisson mixture of central chi-squared variables.
    rate = kappa**2 / 2
    reach = int(12 * math.sqrt(rate)) + 40
    counts = range(max(0, int(rate) - reach), int(rate) + reach)
    mean_log = sum(stats.poisson.pmf(k, rate) * special.digamma(dim / 2 + k) for k in counts)
    expected = 0.5 * dim * (mean_log + math.log(2.0 / dim))  # E log(X / d)
    kappa2 = torch.tensor(kappa**2, dtype=torch.float64)
    actual = isotropic_kl_uniform(kappa2, dim) - isotropic_kl_rest(kappa2, dim)
    assert math.isclose(actual.item(), expected, abs_tol=1e-12 * dim)


@pytest.mark.parametrize("dim", [2, 8, 64])
@pytest.mark.parametrize("function", [isotropic_kl_uniform, isotropic_kl_rest])
def test_isotropic_gradients(function: Callable, dim: int) -> None:
    kappa2 = torch.tensor([0.3, 5.0, 2e3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: function(x, dim), kappa2, eps=1e-5, atol=1e-8)
    assert torch.autograd.gradgradcheck(lambda x: function(x, dim), kappa2)
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(function(zero, dim), zero)
    # One-sided, as there is nothing below zero, and of second order.
    near, far = ((function(zero + step, dim) - function(zero, dim)) / step for step in (1e-5, 2e-5))
    assert math.isclose(slope.item(), (2 * near - far).item(), abs_tol=1e-8)


@pytest.mark.parametrize("dim", [2, 7, 31, 64])
def test_mean_resultant_closed_form(dim: int) -> None:
    # E cos = kappa Gamma((d+1)/2) / (sqrt 2 Gamma(d/2 + 1)) 1F1(1/2; d/2 + 1; -kappa^2/2).
    for kappa in (0.0, 0.01, 1.0, 5.0, 25.0):
        log_gammas = special.gammaln((dim + 1) / 2) - special.gammaln(dim / 2 + 1)
        hypergeometric = special.hyp1f1(0.5, dim / 2 + 1, -(kappa**2) / 2)
        expected = math.exp(log_gammas) / math.sqrt(2) * hypergeometric
        kappa2 = torch.tensor(kappa**2, dtype=torch.float64)
        assert math.isclose(relative_mean_resultant(kappa2, dim).item(), expected, rel_tol=1e-11)


def test_isotropic_kl_by_integration_over_the_circle() -> None:
    for kappa in (0.3, 2.0, 7.0):

        def density(angle: float, kappa: float = kappa) -> float:
            alpha = kappa * math.cos(angle)
            tail = alpha * math.sqrt(2 * math.pi) * stats.norm.cdf(alpha)
            return math.exp(-(kappa**2) / 2) / (2 * math.pi) * (1 + tail * math.exp(alpha**2 / 2))

        def integrand(angle: float) -> float:
            p = density(angle)
            return p * math.log(2 * math.pi * p)

        expected = 2 * integrate.quad(integrand, 0, math.pi, epsabs=1e-13, limit=200)[0]
        actual = isotropic_kl_uniform(torch.tensor(kappa**2, dtype=torch.float64), 2).item()
        assert math.isclose(actual, expected, rel_tol=1e-10)


def example(dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    variance = torch.rand(2, dim, dtype=torch.float64) + 0.1
    loc = torch.randn(2, dim, dtype=torch.float64)
    return variance, loc, torch.tensor([[0.01, 0.5, 3.0]] * 2, dtype=torch.float64)


@pytest.mark.parametrize("dim", [3, 8])
def test_diagonal_log_laplace(dim: int) -> None:
    variance, loc, tau = example(dim)
    x = tau[..., None]
    stretched = 1 + 2 * x * variance[:, None]
    expected = -(stretched.log() / 2 + x * loc[:, None].square() / stretched).sum(-1)
    assert torch.allclose(diagonal_log_laplace(variance, loc.square(), tau), expected, rtol=1e-13)
    inputs = (variance.requires_grad_(), loc.square().requires_grad_())
    assert torch.autograd.gradcheck(lambda v, m: diagonal_log_laplace(v, m, tau), inputs)
    assert torch.autograd.gradgradcheck(lambda v, m: diagonal_log_laplace(v, m, tau), inputs)


@pytest.mark.parametrize("spectrum", ["distinct", "repeated"])
def test_full_log_laplace_gradients(spectrum: str) -> None:
    variance, loc, tau = example(3)
    if spectrum == "repeated":
        variance = torch.ones_like(variance)
    matrix = torch.diag_embed(variance).requires_grad_()
    inputs = (matrix, loc.requires_grad_())

    def symmetric(matrix: torch.Tensor, loc: torch.Tensor) -> torch.Tensor:
        return full_log_laplace((matrix + matrix.mT) / 2, loc, tau)

    expected = diagonal_log_laplace(variance, loc.square(), tau)
    assert torch.allclose(symmetric(*inputs), expected, rtol=1e-13)
    assert torch.autograd.gradcheck(symmetric, inputs)
    assert torch.autograd.gradgradcheck(symmetric, inputs)


def test_fused_sums_and_squares() -> None:
    variance, loc, _ = example(5)
    inputs = (variance.requires_grad_(), loc.square().requires_grad_())
    assert torch.autograd.gradcheck(diagonal_sums, inputs)
    assert torch.autograd.gradgradcheck(diagonal_sums, inputs)
    factor = torch.tensor([[2.0], [0.5]], dtype=torch.float64)
    leaf = loc.clone().requires_grad_()
    assert torch.equal(scaled_square(leaf, factor), (leaf * factor).square())
    assert torch.autograd.gradcheck(lambda x: scaled_square(x, factor), leaf)
    assert torch.autograd.gradgradcheck(lambda x: scaled_square(x, factor), leaf)
