r"""Ratios of gamma functions that normalise the Power Spherical distribution.

Write :math:`t` for one coordinate of a uniform point of :math:`S^{d-1}` and
:math:`\beta = (d-1)/2`, so that :math:`(1+t)/2` follows Beta(:math:`\beta, \beta`). With

.. math::
    L_d(\kappa) = -\log E\left[\left(\tfrac{1+t}{2}\right)^\kappa\right]
                = \log\frac{\Gamma(2\beta + \kappa)\,\Gamma(\beta)}
                           {\Gamma(\beta + \kappa)\,\Gamma(2\beta)},

everything follows from :math:`L_d` and its derivatives. Differences of ``lgamma`` would lose every
digit for large :math:`\kappa`; Stirling's series is subtracted term by term instead, after a shift
of both arguments by the recurrence of the gamma function.
"""

import math

import torch
from torch import Tensor

from probcl.special.autograd import widen, with_derivative

__all__ = [
    "log_power_deficit",
    "log_power_deficit_derivative",
    "log_power_divergence",
]

_LOWEST_STIRLING_ARGUMENT = 16
# B_2k / (2k (2k - 1)) for the powers x^-1, x^-3, ... of Stirling's series for log Gamma(x).
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_POWERS = (1, 3, 5, 7, 9, 11, 13)


def log_power_deficit(kappa: Tensor, dim: int) -> Tensor:
    r"""Compute :math:`L_d(\kappa) = -\log E[((1+t)/2)^\kappa]` for a uniform cosine t.

    Args:
        kappa: Concentrations, non-negative, of any shape.
        dim: Dimension :math:`d \ge 2` of the ambient space.

    Returns:
        Tensor of the shape and dtype of ``kappa``; 0 at ``kappa = 0``, then growing like
        :math:`(d-1)/2 \log\kappa`.

    Example:
        >>> log_power_deficit(torch.tensor([0.0, 1.0, 2.0]), dim=3).exp()
        tensor([1., 2., 3.])
    """
    return with_derivative(kappa, dim, _deficit, log_power_deficit_derivative)


def log_power_deficit_derivative(kappa: Tensor, dim: int) -> Tensor:
    r"""Compute :math:`L_d' = \psi(2\beta + \kappa) - \psi(\beta + \kappa)`.

    It is minus the mean of :math:`\log((1+t)/2)` under the Power Spherical distribution;
    arguments as of :func:`log_power_deficit`.

    Example:
        >>> log_power_deficit_derivative(torch.tensor(0.0), dim=3)
        tensor(1.)
    """
    wide = widen(kappa)
    beta, start, shift = _arguments(dim)
    low, high = wide + start, wide + start + beta
    value = torch.log1p(beta / low) + 0.5 * beta / (low * high)
    for power, coefficient in zip(_POWERS, _STIRLING, strict=True):
        value = value + power * coefficient * (low ** (-power - 1) - high ** (-power - 1))
    for i in range(shift):
        value = value + beta / ((wide + beta + i) * (wide + 2 * beta + i))
    return value.to(kappa.dtype)


def log_power_divergence(kappa: Tensor, dim: int) -> Tensor:
    r"""Compute :math:`L_d(\kappa) - \kappa L_d'(\kappa)`, the divergence from the uniform.

    It is the Kullback-Leibler divergence of a Power Spherical distribution of concentration
    :math:`\kappa` from the uniform distribution, accurate for small and large :math:`\kappa`;
    arguments as of :func:`log_power_deficit`.

    Example:
        >>> log_power_divergence(torch.tensor([0.0, 1.0]), dim=3)  # log(2) - 1/2
        tensor([0.0000, 0.1931])
    """
    return with_derivative(kappa, dim, _divergence, _divergence_derivative)


def _arguments(dim: int) -> tuple[float, float, int]:
    """Return beta, the least argument given to Stirling's series, and the shift up to it."""
    beta = (dim - 1) / 2
    shift = max(0, math.ceil(_LOWEST_STIRLING_ARGUMENT - beta))
    return beta, beta + shift, shift


def _deficit(kappa: Tensor, dim: int) -> Tensor:
    beta, low, shift = _arguments(dim)
    high = low + beta
    value = (high - 0.5) * torch.log1p(kappa / high) - (low - 0.5) * torch.log1p(kappa / low)
    value = value + kappa * torch.log1p(beta / (low + kappa))
    for power, coefficient in zip(_POWERS, _STIRLING, strict=True):
        value = value + coefficient * ((high + kappa) ** -power - high**-power)
        value = value - coefficient * ((low + kappa) ** -power - low**-power)
    for i in range(shift):
        value = value + torch.log1p(kappa / (beta + i)) - torch.log1p(kappa / (2 * beta + i))
    return value


def _divergence(kappa: Tensor, dim: int) -> Tensor:
    beta, low, shift = _arguments(dim)
    high = low + beta
    # x (u - log1p(u)) with u = kappa / x: for large kappa both arguments give a kappa, dropped.
    near = low * _minus_log1p(kappa / low) - high * _minus_log1p(kappa / high)
    far = high * torch.log1p(kappa / high) - low * torch.log1p(kappa / low)
    value = torch.where(kappa < low, near, far)
    value = value + _divergence_remainder(kappa, low) - _divergence_remainder(kappa, high)
    if shift:
        steps = torch.arange(shift, dtype=kappa.dtype, device=kappa.device)
        terms = _log1p_minus_ratio(kappa.unsqueeze(-1) / (beta + steps))
        terms = terms - _log1p_minus_ratio(kappa.unsqueeze(-1) / (2 * beta + steps))
        value = value + terms.sum(-1)
    return value


def _divergence_remainder(kappa: Tensor, x: float) -> Tensor:
    """Sum what Stirling's series adds to x (u - log1p(u)) in kappa psi - log Gamma, at one x."""
    u = (kappa / x).unsqueeze(-1)
    v = u / (1 + u)
    powers = kappa.new_tensor(_POWERS)
    coefficients = kappa.new_tensor([c * x**-m for m, c in zip(_POWERS, _STIRLING, strict=True)])
    # 1 - (1 - v)^m (1 + m v), of second order in v
    second_order = -torch.expm1(-(powers * _minus_log1p(-v) + _minus_log1p(powers * v)))
    return 0.5 * _log1p_minus_ratio(kappa / x) + (coefficients * second_order).sum(-1)


def _divergence_derivative(kappa: Tensor, dim: int) -> Tensor:
    """Compute kappa times the difference of trigamma at kappa + beta and kappa + 2 beta."""
    wide = widen(kappa)
    beta, start, shift = _arguments(dim)
    low, high = wide + start, wide + start + beta
    value = beta / (low * high) * (1 + 0.5 / low + 0.5 / high)
    for power, coefficient in zip(_POWERS, _STIRLING, strict=True):
        factor = power * (power + 1) * coefficient
        value = value + factor * (low ** (-power - 2) - high ** (-power - 2))
    for i in range(shift):
        low, high = wide + beta + i, wide + 2 * beta + i
        value = value + beta / (low * high) * (1 / low + 1 / high)
    return (wide * value).to(kappa.dtype)


def _log1p_minus_ratio(u: Tensor) -> Tensor:
    """Compute log(1 + u) - u / (1 + u) for u >= 0."""
    ratio = u / (1 + u)
    return torch.where(u < 0.4, _minus_log1p(-ratio), torch.log1p(u) - ratio)


def _minus_log1p(u: Tensor) -> Tensor:
    """Compute u - log(1 + u) for u > -1, accurate in relative terms near 0."""
    small = u.abs() < 0.3
    near = torch.where(small, u, torch.zeros_like(u))
    half = near / (2 + near)  # log(1 + u) = 2 atanh(half)
    square = half * half
    series = torch.full_like(u, 1 / 25)
    for odd in range(23, 1, -2):
        series = series * square + 1 / odd
    near_value = near * half - 2 * half * square * series
    return torch.where(small, near_value, u - torch.log1p(u))
