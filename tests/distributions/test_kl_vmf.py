"""Divergences between von Mises-Fisher, Power Spherical and the uniform."""

import math

import mpmath
import numpy as np
import pytest
import scipy.integrate
import torch
from torch.distributions import kl_divergence

from probcl.distributions import HypersphericalUniform, PowerSpherical, VonMisesFisher
from probcl.special import bessel_ratio_derivative
from probcl.sphere import log_area, normalize

FAMILIES = [VonMisesFisher, PowerSpherical]
both = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def directions(dim: int, cosine: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two unit vectors with a given cosine."""
    mu = torch.eye(dim, dtype=dtype)[0]
    nu = cosine * mu + math.sqrt(1 - cosine**2) * torch.eye(dim, dtype=dtype)[1]
    return mu, normalize(nu)


def exact_bessel(kappa: float, dim: int) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Return log E exp(kappa t) under the uniform, and the ratio A."""
    k, order = mpmath.mpf(kappa), mpmath.mpf(dim) / 2 - 1
    bessel_i = mpmath.besseli(order, k)
    log = mpmath.log(mpmath.gamma(order + 1) * (2 / k) ** order * bessel_i)
    return log, mpmath.besseli(order + 1, k) / bessel_i


def exact_power_divergence(kappa: float, dim: int) -> mpmath.mpf:
    k, beta = mpmath.mpf(kappa), mpmath.mpf(dim - 1) / 2
    log = (
        mpmath.loggamma(2 * beta + k)
        + mpmath.loggamma(beta)
        - mpmath.loggamma(beta + k)
        - mpmath.loggamma(2 * beta)
    )
    return log - k * (mpmath.digamma(2 * beta + k) - mpmath.digamma(beta + k))


def exact_cosine(q, p) -> mpmath.mpf:
    """1 - |mu - nu|^2 / 2 without rounding: the vectors are unit to rounding only."""
    chord = sum(
        (mpmath.mpf(x) - mpmath.mpf(y)) ** 2
        for x, y in zip(q.loc.tolist(), p.loc.tolist(), strict=True)
    )
    return 1 - chord / 2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("cosine", [1.0, 0.999, 0.2, -1.0])
@pytest.mark.parametrize("dim", [2, 3, 128])
@both
def test_against_von_mises_fisher(family, dim, cosine, dtype, tolerance) -> None:
    mu, nu = directions(dim, cosine, dtype)
    for kappa, other in [(0.01, 0.3), (3.0, 2.0), (700.0, 5.0), (40.0, 9e4), (1e5, 1e5)]:
        q = family(mu, torch.tensor(kappa, dtype=dtype))
        p = VonMisesFisher(nu, torch.tensor(other, dtype=dtype))
        found = kl_divergence(q, p)
        assert found.dtype == dtype
        with mpmath.workdps(50):
            k, o = q.concentration.item(), p.concentration.item()
            if family is VonMisesFisher:
                log, ratio = exact_bessel(k, dim)
                own = k * ratio - log
            else:
                own, ratio = exact_power_divergence(k, dim), k / (mpmath.mpf(k) + dim - 1)
            reference = own + exact_bessel(o, dim)[0] - o * ratio * exact_cosine(q, p)
        assert abs(found.item() - reference) <= tolerance * max(1, abs(reference)), (kappa, other)


@pytest.mark.parametrize("dim", [2, 3, 9])
@both
def test_against_numerical_integration(family, dim) -> None:
    """Along one axis, so that the integral is over one angle."""
    theta = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    z = torch.zeros(len(theta), dim, dtype=torch.float64)
    z[:, 0], z[:, 1] = theta.cos(), theta.sin()
    mu = torch.eye(dim, dtype=torch.float64)[0]
    belt = math.exp(log_area(dim - 1)) * theta.sin() ** (dim - 2)
    for kappa, other, sign in [(2.0, 3.0, 1), (8.0, 1.0, -1)]:
        q, p = family(mu, kappa), VonMisesFisher(sign * mu, other)
        integrand = belt * q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z))
        reference = scipy.integrate.simpson(integrand.numpy(), x=theta.numpy())
        assert kl_divergence(q, p).item() == pytest.approx(reference, rel=1e-7)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@both
def test_uniform_is_accurate_in_relative_terms(family, dtype, tolerance) -> None:
    for dim in (2, 5, 128):
        for kappa in (1e-6, 1e-3, 1.0, 1e3, 1e5):
            q = family(torch.eye(dim, dtype=dtype)[0], torch.tensor(kappa, dtype=dtype))
            with mpmath.workdps(50):
                k = q.concentration.item()
                if family is VonMisesFisher:
                    log, ratio = exact_bessel(k, dim)
                    reference = k * ratio - log
                else:
                    reference = exact_power_divergence(k, dim)
            found = kl_divergence(q, HypersphericalUniform(dim)).item()
            assert abs(found - reference) <= tolerance * reference, (dim, kappa)


def test_small_concentration_limit() -> None:
    for dim in (2, 16):
        q = VonMisesFisher(torch.eye(dim)[0], 1e-8)
        found = kl_divergence(q, HypersphericalUniform(dim)).item()
        assert found == pytest.approx(1e-16 / (2 * dim), rel=1e-6)


def test_zero_between_equals_and_near_it_the_fisher_information() -> None:
    for dim in (2, 3, 64):
        for kappa in (0.5, 30.0, 2e4):
            loc = normalize(torch.randn(dim, dtype=torch.float64))
            q = VonMisesFisher(loc, kappa)
            assert abs(kl_divergence(q, q).item()) < 1e-13
            near = VonMisesFisher(loc, kappa * (1 + 1e-3))
            fisher_information = bessel_ratio_derivative(q.concentration, dim).item()
            expected = 0.5 * fisher_information * (kappa * 1e-3) ** 2
            assert kl_divergence(q, near).item() == pytest.approx(expected, rel=2e-3)


@both
def test_shapes_gradients_and_errors(family) -> None:
    loc = normalize(torch.randn(5, 4, dtype=torch.float64)).requires_grad_()
    nu = normalize(torch.randn(5, 4, dtype=torch.float64)).requires_grad_()
    kappa = torch.tensor([0.0, 0.5, 3.9, 4.1, 300.0], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([1.0, 0.0, 4.1, 3.9, 200.0], dtype=torch.float64, requires_grad=True)

    def divergence(loc, kappa, nu, other):
        q = family(loc, kappa, validate_args=False)
        return kl_divergence(q, VonMisesFisher(nu, other, validate_args=False))

    def to_uniform(kappa):
        return kl_divergence(family(loc.detach(), kappa, validate_args=False), uniform)

    uniform = HypersphericalUniform(4)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        check(divergence, (loc, kappa, nu, other))
        check(to_uniform, (kappa,))
    q = family(loc, kappa, validate_args=False)
    assert kl_divergence(q, uniform).shape == (5,)
    assert kl_divergence(q, uniform.expand([3, 1])).shape == (3, 5)
    assert kl_divergence(q.expand([3, 5]), VonMisesFisher(nu, other)).shape == (3, 5)
    np.testing.assert_allclose(
        kl_divergence(q, uniform).detach(), log_area(4) - q.entropy().detach(), rtol=1e-12
    )
    with pytest.raises(ValueError, match="dimensions 4 and 3"):
        kl_divergence(q, HypersphericalUniform(3))
    with pytest.raises(ValueError, match="dimensions 4 and 3"):
        kl_divergence(q, VonMisesFisher(torch.eye(3)[0], 1.0))
