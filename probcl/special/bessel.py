r"""Modified Bessel functions of the orders the sphere needs, with their own autograd.

Write :math:`t` for one coordinate of a uniform point of :math:`S^{d-1}`. Everything the von
Mises-Fisher distribution needs derives from its cumulant generating function

.. math::
    \Phi_d(\kappa) = \log E[e^{\kappa t}]
                   = \log\left[\Gamma(d/2)\,(2/\kappa)^{d/2-1} I_{d/2-1}(\kappa)\right],
    \qquad \Phi_d' = A_d = I_{d/2} / I_{d/2-1}.

Two ingredients give all digits for every :math:`\kappa`, without a branch on the batch:

* for orders :math:`\nu = d/2 - 1 \ge 16`, Debye's expansion in :math:`1/\nu`, uniform over
  :math:`\kappa` (DLMF 10.41), written so that no two large terms cancel;
* below, the recurrence from :math:`d + 2` down to :math:`d`, in which every term is positive:
  :math:`A_d/\kappa = 1/(d + \kappa A_{d+2})`.

A quantity that tends to a constant comes with its *deficit* (:math:`\kappa - \Phi_d`,
:math:`1 - A_d`), which stays accurate where a subtraction by the caller would not.
"""

from fractions import Fraction
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from probcl.special import exact
from probcl.special.autograd import as_floating, constant, widen, with_derivative

__all__ = [
    "bessel_ratio",
    "bessel_ratio_deficit",
    "bessel_ratio_derivative",
    "bessel_ratio_over_kappa",
    "inverse_bessel_ratio",
    "log_bessel",
    "log_bessel_deficit",
    "log_bessel_divergence",
]

_LOWEST_DEBYE_ORDER = 16
_DEBYE_TERMS = 14
_NEWTON_STEPS = 6


def log_bessel(kappa: Tensor, dim: int) -> Tensor:
    r"""Compute the log of the normalised modified Bessel function :math:`\Phi_d(\kappa)`.

    .. math:: \Phi_d(\kappa) = \log[\Gamma(d/2)\,(2/\kappa)^{d/2-1} I_{d/2-1}(\kappa)]

    It is 0 at :math:`\kappa = 0`, accurate in relative terms near it, and its derivative is
    :func:`bessel_ratio`.

    Args:
        kappa: Concentrations, non-negative, of any shape.
        dim: Dimension :math:`d \ge 2` of the ambient space.

    Returns:
        Tensor of the shape and dtype of ``kappa``.

    Example:
        >>> log_bessel(torch.tensor([0.0, 2.0]), dim=3)  # log(sinh(2) / 2)
        tensor([0.0000, 0.5952])
    """
    return with_derivative(kappa, dim, lambda k, d: _Bessel(k, d).log, bessel_ratio)


def log_bessel_deficit(kappa: Tensor, dim: int) -> Tensor:
    r"""Compute :math:`\kappa - \Phi_d(\kappa)`, accurate for large :math:`\kappa` too.

    It grows like :math:`(d-1)/2 \log\kappa`; arguments as of :func:`log_bessel`.

    Example:
        >>> log_bessel_deficit(torch.tensor(1e5), dim=3)  # log(2e5)
        tensor(12.2061)
    """
    return with_derivative(kappa, dim, lambda k, d: _Bessel(k, d).log_deficit, bessel_ratio_deficit)


def log_bessel_divergence(kappa: Tensor, dim: int) -> Tensor:
    r"""Compute :math:`\kappa A_d(\kappa) - \Phi_d(\kappa)`, the divergence from the uniform.

    It is the Kullback-Leibler divergence of a von Mises-Fisher distribution of concentration
    :math:`\kappa` from the uniform distribution: :math:`\kappa^2/(2d)` for small :math:`\kappa`.
    Arguments as of :func:`log_bessel`.

    Example:
        >>> log_bessel_divergence(torch.tensor([1e-3, 10.0]), dim=3)
        tensor([1.6667e-07, 1.9957e+00])
    """
    return with_derivative(
        kappa,
        dim,
        lambda k, d: _Bessel(k, d).divergence,
        lambda k, d: k * bessel_ratio_derivative(k, d),
    )


def bessel_ratio(kappa: Tensor, dim: int) -> Tensor:
    r"""Compute the mean resultant length :math:`A_d = I_{d/2}(\kappa)/I_{d/2-1}(\kappa)`.

    It lies in [0, 1); arguments as of :func:`log_bessel`.

    Example:
        >>> bessel_ratio(torch.tensor([0.0, 2.0]), dim=3)  # coth(2) - 1/2
        tensor([0.0000, 0.5373])
    """
    return with_derivative(kappa, dim, lambda k, d: _Bessel(k, d).ratio, bessel_ratio_derivative)


def bessel_ratio_deficit(kappa: Tensor, dim: int) -> Tensor:
    r"""Compute :math:`1 - A_d(\kappa)`, accurate in relative terms for large :math:`\kappa` too.

    It lies in (0, 1]; arguments as of :func:`log_bessel`.

    Example:
        >>> bessel_ratio_deficit(torch.tensor(1e5), dim=3)
        tensor(1.0000e-05)
    """
    return with_derivative(
        kappa,
        dim,
        lambda k, d: _Bessel(k, d).ratio_deficit,
        lambda k, d: -bessel_ratio_derivative(k, d),
    )


def bessel_ratio_over_kappa(kappa: Tensor, dim: int) -> Tensor:
    r"""Compute :math:`A_d(\kappa)/\kappa`, which is :math:`1/d` at :math:`\kappa = 0`.

    It lies in (0, 1/d]; arguments as of :func:`log_bessel`.

    Example:
        >>> bessel_ratio_over_kappa(torch.tensor(0.0), dim=4)
        tensor(0.2500)
    """
    return _Bessel(widen(kappa), dim).ratios_over_kappa[-1].to(as_floating(kappa))


def bessel_ratio_derivative(kappa: Tensor, dim: int) -> Tensor:
    r"""Compute :math:`A_d'(\kappa)`, the variance of the cosine of a von Mises-Fisher sample.

    It equals :math:`1 - A_d^2 - (d-1) A_d/\kappa`, without that formula's cancellation;
    arguments as of :func:`log_bessel`.

    Example:
        >>> bessel_ratio_derivative(torch.tensor(2.0), dim=5)
        tensor(0.1474)
    """
    return _Bessel(widen(kappa), dim).ratio_derivative.to(as_floating(kappa))


def inverse_bessel_ratio(ratio: Tensor, dim: int) -> Tensor:
    r"""Compute the :math:`\kappa` at which :math:`A_d(\kappa)` is a mean resultant length.

    By Newton's method from the approximation :math:`r (d - r^2) / (1 - r^2)`. There is no
    derivative: it is meant for estimates from moments.

    Args:
        ratio: Lengths in [0, 1), of any shape; above ``1 - 1e-6`` they count as that.
        dim: Dimension :math:`d \ge 2` of the ambient space.

    Returns:
        Tensor of the shape and dtype of ``ratio``.

    References:
        Banerjee et al. (2005), https://www.jmlr.org/papers/v6/banerjee05a.html

    Example:
        >>> inverse_bessel_ratio(torch.tensor([0.0, 0.5373]), dim=3)
        tensor([0.0000, 1.9999])
    """
    r = widen(ratio.detach()).clamp(0, 1 - 1e-6)
    kappa = r * (dim - r.square()) / (1 - r.square())
    for _ in range(_NEWTON_STEPS):
        step = (bessel_ratio(kappa, dim) - r) / bessel_ratio_derivative(kappa, dim)
        kappa = torch.maximum(kappa - step, kappa / 4)
    return kappa.to(as_floating(ratio))


class _Once:
    """A property computed once; torch.compile refuses the lock of functools.cached_property."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __get__(self, instance: Any, owner: type) -> Any:
        value = self.function(instance)
        setattr(instance, self.function.__name__, value)
        return value


class _Bessel:
    """The functions of this module at one ``kappa``, sharing what they have in common.

    The order is raised to ``order`` for Debye's expansion, which is a polynomial in
    p = nu / R, with R = sqrt(nu^2 + kappa^2) the ``radius``, and steps back down to ``dim``. No
    square of kappa is formed, which could overflow.
    """

    def __init__(self, kappa: Tensor, dim: int) -> None:
        steps = max(0, _LOWEST_DEBYE_ORDER - (dim - 1) // 2)
        self.kappa, self.dim = kappa, dim
        self.lower_dims = range(dim + 2 * (steps - 1), dim - 2, -2)
        self.order = dim / 2 - 1 + steps
        self.radius = torch.hypot(kappa, torch.full_like(kappa, self.order))
        self.p = self.order / self.radius
        self.weights, self.tail = _debye_coefficients(self.order)

    @_Once
    def weight(self) -> Tensor:
        return 0.5 + _polynomial(self.weights, self.p)

    @_Once
    def ratios_over_kappa(self) -> list[Tensor]:
        """A / kappa in the raised dimension and in every one below it, down to ``dim``."""
        ratios = [1 / (self.radius + self.order) - self.weight / self.radius / self.radius]
        for lower in self.lower_dims:
            ratios.append(1 / (lower + self.kappa * (self.kappa * ratios[-1])))
        return ratios

    @_Once
    def ratio(self) -> Tensor:
        return self.kappa * self.ratios_over_kappa[-1]

    @_Once
    def ratio_deficit(self) -> Tensor:
        # 1 - kappa / (R + nu), with R - kappa = nu^2 / (R + kappa).
        leading = self.order * (1 + self.order / (self.radius + self.kappa))
        leading = leading / (self.radius + self.order)
        deficit = leading + self.kappa / self.radius * self.weight / self.radius
        for lower, ratio in zip(self.lower_dims, self.ratios_over_kappa[1:], strict=True):
            deficit = (lower - self.kappa * deficit) * ratio
        return deficit

    @_Once
    def ratio_derivative(self) -> Tensor:
        p = self.p
        slope = _polynomial([power * c for power, c in enumerate(self.weights)], p)
        bracket = self.order / (1 + p) + self.weight * (1 - 2 * p**2) + (1 - p**2) * slope
        derivative = bracket / self.radius / self.radius
        for lower, ratio in zip(self.lower_dims, self.ratios_over_kappa[1:], strict=True):
            derivative = (lower - self.kappa * (self.kappa * derivative)) * ratio**2
        return derivative

    @_Once
    def excess(self) -> Tensor:
        """(R - nu) / nu, accurate for small kappa."""
        return self.kappa / (self.radius + self.order) * (self.kappa / self.order)

    @_Once
    def correction(self) -> Tensor:
        """What is subtracted from the leading exponent nu [excess - log1p(excess / 2)]."""
        tail = _polynomial(self.tail, self.p)
        return 0.5 * torch.log1p(self.excess) + self.excess * self.p * tail

    @_Once
    def log_steps(self) -> Tensor:
        """The steps log(1 + kappa A_{n+2} / n) from the raised dimension to ``dim``, summed."""
        total = torch.zeros_like(self.kappa)
        for lower, ratio in zip(self.lower_dims, self.ratios_over_kappa[:-1], strict=True):
            total = total + torch.log1p(self.kappa * (self.kappa * ratio) / lower)
        return total

    @_Once
    def log(self) -> Tensor:
        leading = self.order * (self.excess - torch.log1p(self.excess / 2))
        return leading - self.correction + self.log_steps

    @_Once
    def log_deficit(self) -> Tensor:
        # kappa - nu * excess = kappa - R + nu, with the two large terms cancelled by hand.
        linear = 0.5 * self.kappa * (1 + self.kappa / (self.radius + self.order))
        linear = self.order * (linear / (0.5 * self.radius + 0.5 * self.kappa))
        leading = linear + self.order * torch.log1p(self.excess / 2)
        return leading + self.correction - self.log_steps

    @_Once
    def divergence(self) -> Tensor:
        # Two forms of one function: the first is exact for small, the second for large kappa.
        near = self.kappa * self.ratio - self.log
        far = self.log_deficit - self.kappa * self.ratio_deficit
        return torch.where(self.kappa < self.dim, near, far)


def _polynomial(coefficients: list[float], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


@constant
def _debye_coefficients(order: float) -> tuple[list[float], list[float]]:
    r"""Collapse Debye's expansion at one order into two polynomials in p.

    With :math:`S(p)` the logarithm of the series and :math:`y = S'`, they are :math:`p\,y(p)` and
    :math:`(S(1) - S(p))/(p - 1)` with its sign turned: the second is divided exactly, so that the
    logarithm vanishes at kappa = 0 to the last digit.
    """
    derivative: list[Fraction] = []
    for k, term in enumerate(_debye_derivative_terms(), start=1):
        derivative = exact.add(derivative, [c / Fraction(order) ** k for c in term])
    while abs(derivative[-1]) <= Fraction(1, 10**19):
        derivative.pop()
    integral = [c / (power + 1) for power, c in enumerate(derivative)]
    tail = list(accumulate(reversed(integral)))[::-1]
    return [0.0, *map(float, derivative)], list(map(float, tail))


@cache
def _debye_derivative_terms() -> list[list[Fraction]]:
    r"""Compute the coefficients of the polynomials y_k of :math:`S'(p) = \sum_k y_k(p) \nu^{-k}`.

    Bessel's equation for the logarithm of the series gives :math:`y_1 = (1 - 5p^2)/8` and
    :math:`2 y_{k+1} = (p^2(1-p^2) y_k)' + p^2(1-p^2) \sum_{a+b=k} y_a y_b`.
    """
    half_weight = [0, 0, Fraction(1, 2), 0, Fraction(-1, 2)]
    terms = [[Fraction(1, 8), Fraction(0), Fraction(-5, 8)]]
    while len(terms) < _DEBYE_TERMS:
        following = exact.derivative(exact.multiply(half_weight, terms[-1]))
        for left, right in zip(terms[:-1], reversed(terms[:-1]), strict=True):
            product = exact.multiply(half_weight, exact.multiply(left, right))
            following = exact.add(following, product)
        terms.append(following)
    return terms
