r"""Expectations under an isotropic projected normal: functions of one number and of d.

With kappa = |mu| / sigma, q = kappa^2 / d and t = q / (1 + q), the divergence from the uniform
and the mean resultant length are elementary leading terms, right to 1/d at kappa = 0 and in
rate as kappa grows, plus a smooth remainder in t, fitted once per dimension.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from probcl.special import chebyshev
from probcl.special.autograd import constant, with_derivative
from probcl.special.quadratic_form import QuadraticForm, mean_log_over_mean
from probcl.special.radial import log_ratio_and_slope

__all__ = ["isotropic_kl_rest", "isotropic_kl_uniform", "relative_mean_resultant"]

_QUADRATURE_NODES = 512


def isotropic_kl_uniform(kappa2: Tensor, dim: int) -> Tensor:
    r"""Return the divergence of an isotropic projected normal from the uniform.

    .. math:: \mathrm{KL}(\mathrm{PN}(\mu, \sigma^2 I) \,\|\, \mathrm{Uniform}(S^{d-1}))
              = \mathbb{E}[h(\kappa u) + \ldots], \qquad \kappa = |\mu| / \sigma

    Args:
        kappa2: Squared concentration ``|mu|^2 / sigma^2 >= 0``, any shape.
        dim: Dimension ``d >= 2`` of the ambient space.

    Returns:
        The divergence, shape of ``kappa2``; differentiable.

    Example:
        >>> isotropic_kl_uniform(torch.tensor([0.0, 9.0]), 128)
        tensor([0.0000, 4.3337])
    """
    return with_derivative(kappa2, dim, _kl, _kl_slope)


def isotropic_kl_rest(kappa2: Tensor, dim: int) -> Tensor:
    r"""Return what the divergence of an isotropic projected normal has beside a mean log.

    .. math:: \mathrm{KL}(\mathrm{PN}(m, I) \,\|\, \mathrm{Uniform}(S^{d-1}))
              - \tfrac d2 \, E \log(|x|^2 / d), \qquad x \sim N(m, I), \quad |m|^2 = \kappa^2

    Args:
        kappa2: As for ``isotropic_kl_uniform``.
        dim: Dimension ``d >= 2``.

    Returns:
        The rest, shape of ``kappa2``; differentiable.

    Example:
        >>> isotropic_kl_rest(torch.tensor(0.0), 2)  # Euler's constant
        tensor(0.5772)
    """
    return with_derivative(kappa2, dim, _rest, _rest_slope)


def relative_mean_resultant(kappa2: Tensor, dim: int) -> Tensor:
    r"""Return the mean resultant length divided by kappa, smooth through kappa = 0.

    .. math:: \mathbb{E}[z] = r(\kappa^2) \, \mu / \sigma, \qquad
              z \sim \mathrm{PN}(\mu, \sigma^2 I)

    Args:
        kappa2: Squared concentration ``|mu|^2 / sigma^2 >= 0``, any shape.
        dim: Dimension ``d >= 2`` of the ambient space.

    Returns:
        The ratio r, shape of ``kappa2``; differentiable.

    Example:
        >>> relative_mean_resultant(torch.tensor(0.0), 2)  # sqrt(pi / 8)
        tensor(0.6267)
    """
    total = dim + kappa2
    remainder = chebyshev.evaluate(_series(dim).resultant, kappa2 / total)
    return total.rsqrt() * (1.0 + remainder)


def _kl(kappa2: Tensor, dim: int) -> Tensor:
    q = kappa2 / dim
    t = q / (1.0 + q)
    return _leading_kl(q, dim) + t * chebyshev.evaluate(_series(dim).kl, t)


def _kl_slope(kappa2: Tensor, dim: int) -> Tensor:
    q = kappa2 / dim
    t, series = q / (1.0 + q), _series(dim).kl
    slope = chebyshev.evaluate(series, t) + t * chebyshev.evaluate(_slopes(series), t)
    return 0.5 / (1.0 + q) + _bounded_slope(q, slope) / dim


def _rest(kappa2: Tensor, dim: int) -> Tensor:
    q = kappa2 / dim
    return _bounded(q) + chebyshev.evaluate(_series(dim).rest, q / (1.0 + q))


def _rest_slope(kappa2: Tensor, dim: int) -> Tensor:
    q = kappa2 / dim
    slope = chebyshev.evaluate(_slopes(_series(dim).rest), q / (1.0 + q))
    return _bounded_slope(q, slope) / dim


def _leading_kl(q: Tensor, dim: int) -> Tensor:
    return 0.5 * dim * torch.log1p(q) + _bounded(q)


def _bounded(q: Tensor) -> Tensor:
    """Return the leading terms of the divergence that do not grow with the dimension."""
    t = q / (1.0 + q)
    return 0.5 * (t.square() - torch.log1p(0.5 * q))


def _bounded_slope(q: Tensor, slope: Tensor) -> Tensor:
    """Return the derivative in q of these and of a remainder, whose derivative in t is given."""
    share = 1.0 / (1.0 + q)  # 1 - t, and dt / dq is its square
    return (q * share + slope) * share.square() - 0.5 / (2.0 + q)


class _Series(NamedTuple):
    """Chebyshev series over t in [0, 1] of what the leading terms leave."""

    kl: tuple[float, ...]  # of the divergence, divided by t
    resultant: tuple[float, ...]
    rest: tuple[float, ...]


@constant
def _series(dim: int) -> _Series:
    points: dict[str, Tensor] = {}

    def kl_remainder(t: Tensor) -> Tensor:
        q = t / (1.0 - t)
        kl, points["resultant"] = _by_quadrature(dim * q, dim)
        points["kl"] = kl - _leading_kl(q, dim)
        return points["kl"] / t

    def resultant_remainder(t: Tensor) -> Tensor:
        return points["resultant"] * t.rsqrt() - 1.0

    def rest_remainder(t: Tensor) -> Tensor:
        return points["kl"] - 0.5 * dim * _mean_log(dim * t / (1.0 - t), dim)

    degree, tolerance = _degree(dim), 1e-14 * dim
    return _Series(
        chebyshev.fit(kl_remainder, degree, tolerance),
        chebyshev.fit(resultant_remainder, degree, tolerance=1e-14),
        chebyshev.fit(rest_remainder, degree, tolerance),
    )


_slopes = constant(chebyshev.derivative)


def _by_quadrature(kappa2: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Integrate over the cosine tanh(y) of the angle, with measure sech(y)^{d-1} dy.

    The trapezoidal rule in y converges exponentially; the measure is normalised by the same
    rule. For small kappa the integrands are rewritten with the normalisations E_q[p / q] = 1 and
    E_uniform[cos] = 0, so that they do not cancel.
    """
    kappa = kappa2.sqrt()[:, None]
    reach = math.acosh(math.exp(44.0 / (dim - 1)))
    centre = torch.asinh(kappa / math.sqrt(dim))
    small = kappa2[:, None] < min(dim, 64)
    start = torch.where(small, -reach, centre - reach)
    unit = torch.linspace(0.0, 1.0, _QUADRATURE_NODES, dtype=torch.float64)
    width = centre + reach - start
    y = start + width * unit

    cosine = torch.tanh(y)
    log_ratio, _ = log_ratio_and_slope(kappa * cosine, dim)
    distance = torch.where(y > 0, kappa / torch.cosh(y), kappa)
    log_density = log_ratio - 0.5 * distance.square()
    log_sech = -(y.abs() + torch.log1p(torch.exp(-2.0 * y.abs())) - math.log(2.0))
    uniform = torch.exp((dim - 1) * log_sech)
    own = torch.exp((dim - 1) * log_sech + log_density)
    mass = torch.where(small, uniform, own).sum(-1)

    divergence = log_density + torch.where(small, torch.expm1(-log_density.clamp(min=-700)), 0.0)
    excess = torch.where(small, uniform * torch.expm1(log_density), own)
    return (own * divergence).sum(-1) / mass, (excess * cosine).sum(-1) / mass


def _mean_log(kappa2: Tensor, dim: int) -> Tensor:
    """Return E log(X / E X) for a noncentral chi-squared X with d degrees of freedom, ``(n,)``."""
    total, zero = dim + kappa2, torch.zeros_like(kappa2)

    def log_laplace(tau: Tensor) -> Tensor:
        stretched = 1.0 + 2.0 * tau
        return -0.5 * dim * stretched.log() - tau * kappa2[..., None] / stretched

    form = QuadraticForm(
        total, 2.0 * total + 2.0 * kappa2, zero, kappa2, kappa2, kappa2, log_laplace
    )
    return mean_log_over_mean(form, dim)


def _degree(dim: int) -> int:
    return 24 if dim >= 32 else 160
