r"""The radial integral of the projected normal, with exact first and second derivatives.

.. math:: M_d(\alpha) = \int_0^\infty s^{d-1} e^{-(s - \alpha)^2 / 2} \, ds, \qquad
          K_d(\alpha) = e^{\alpha^2 / 2} M_d(\alpha)

For large d both follow from an expansion in 1/d about the saddle point, uniform in alpha; for
small d from three-term recurrences, each run in its stable direction: upwards in d for
alpha >= 0, downwards from the expansion for alpha < 0.
"""

import math
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["log_radial_integral", "log_radial_ratio"]

# Smallest dimension in which the expansion alone is exact, and the terms it then needs.
_EXPANSION = {torch.float64: (24, 10), torch.float32: (10, 4)}


def log_radial_integral(alpha: Tensor, dim: int) -> Tensor:
    r"""Return the log radial integral of the projected normal.

    .. math:: \log M_d(\alpha) = \log \int_0^\infty s^{d-1} e^{-(s - \alpha)^2 / 2} \, ds

    Args:
        alpha: Signed distance of the mean along the ray, any shape, all real values.
        dim: Dimension ``d >= 2`` of the ambient space.

    Returns:
        The log integral, shape of ``alpha``; differentiable twice.

    Raises:
        ValueError: If ``dim`` is less than 2.

    Example:
        >>> log_radial_integral(torch.zeros(1), 4)  # log 2
        tensor([0.6931])
    """
    at_zero = (0.5 * dim - 1.0) * math.log(2.0) + math.lgamma(0.5 * dim)
    negative_part = torch.where(alpha < 0, alpha, 0.0)
    return log_radial_ratio(alpha, dim) - 0.5 * negative_part.square() + at_zero


def log_radial_ratio(alpha: Tensor, dim: int) -> Tensor:
    r"""Return the radial integral relative to its value at zero, without its Gaussian factor.

    .. math::
        h(\alpha) = \log \frac{M_d(\alpha)}{M_d(0)} \text{ for } \alpha \ge 0, \qquad
        h(\alpha) = \log \frac{K_d(\alpha)}{K_d(0)} \text{ for } \alpha < 0

    Both branches grow only like a logarithm, so that no digit is lost far out. They meet at
    zero with equal values and first derivatives.

    Args:
        alpha: Signed distance of the mean along the ray, any shape, all real values.
        dim: Dimension ``d >= 2`` of the ambient space.

    Returns:
        The log ratio, shape of ``alpha``; differentiable twice.

    Raises:
        ValueError: If ``dim`` is less than 2.

    Example:
        >>> log_radial_ratio(torch.zeros(2), 128)
        tensor([0., 0.])
    """
    if dim < 2:
        raise ValueError(f"dim must be at least 2, got {dim}; the circle is the smallest sphere.")
    return _LogRatio.apply(alpha, dim)[0]


class _LogRatio(torch.autograd.Function):
    """h and h' together; h' is saved for the backward pass and not differentiable itself."""

    generate_vmap_rule = True

    @staticmethod
    def forward(alpha: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        return log_ratio_and_slope(alpha, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        alpha, ctx.dim = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(alpha, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        alpha, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for
            slope = radial_slope(alpha, ctx.dim)
        return grad * slope, None


class _Slope(torch.autograd.Function):
    """h' with h'' as its derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(alpha: Tensor, dim: int) -> Tensor:
        return log_ratio_and_slope(alpha, dim)[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        alpha, ctx.dim = inputs
        ctx.save_for_backward(alpha)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * _curvature(ctx.saved_tensors[0], ctx.dim), None


def radial_slope(alpha: Tensor, dim: int) -> Tensor:
    """Return h'(alpha), differentiable once; see :func:`log_radial_ratio`."""
    return _Slope.apply(alpha, dim)


def log_ratio_and_slope(alpha: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return h(alpha) and h'(alpha) as plain values; see :func:`log_radial_ratio`."""
    least_dim, _ = _EXPANSION[alpha.dtype]
    if dim >= least_dim:
        expansion = _Expansion.at(alpha, dim)
        return expansion.log_ratio(), expansion.slope()

    positive, negative = alpha.clamp(min=0.0), alpha.clamp(max=0.0)
    ratios = _ratios_upwards(positive, dim)
    up = _log_relative(ratios[1:], first=1)
    up = up + torch.log(1.0 + torch.erf(positive * math.sqrt(0.5)))
    expansion = _Expansion.at(negative, least_dim)
    rhos = _ratios_downwards(negative, dim, expansion)
    down = expansion.log_ratio() - _log_relative(rhos[:-1], first=dim)
    is_negative = alpha < 0
    return (
        torch.where(is_negative, down, up),
        torch.where(is_negative, rhos[0], (dim - 1) / ratios[-1]),
    )


def _curvature(alpha: Tensor, dim: int) -> Tensor:
    """Return h''(alpha) as a plain value."""
    least_dim, _ = _EXPANSION[alpha.dtype]
    if dim >= least_dim:
        return _Expansion.at(alpha, dim).curvature()
    ratios = _ratios_upwards(alpha.clamp(min=0.0), dim)
    slope = (dim - 1) / ratios[-1]
    slope_below = (dim - 2) / ratios[-2] if dim > 2 else ratios[0]
    negative = alpha.clamp(max=0.0)
    rhos = _ratios_downwards(negative, dim, _Expansion.at(negative, least_dim))
    return torch.where(alpha < 0, rhos[0] * (rhos[1] - rhos[0]), slope * (slope_below - slope))


def _ratios_upwards(alpha: Tensor, dim: int) -> list[Tensor]:
    """Return h'_1, then r_n = M_{n+1} / M_n for n = 1 .. dim - 1, at alpha >= 0."""
    first = torch.exp(-0.5 * alpha.square()) * math.sqrt(2.0 / math.pi)
    first = first / (1.0 + torch.erf(alpha * math.sqrt(0.5)))
    ratios = [first, first + alpha]
    for n in range(1, dim - 1):
        ratios.append(alpha + n / ratios[-1])
    return ratios


def _ratios_downwards(alpha: Tensor, dim: int, expansion: "_Expansion") -> list[Tensor]:
    """Return rho_n = K_{n+1} / K_n for n = dim .. expansion.dim, at alpha <= 0."""
    rhos = [expansion.slope()]
    for n in range(expansion.dim - 1, dim - 1, -1):
        rhos.append(n / (rhos[-1] - alpha))
    return rhos[::-1]


def _log_relative(ratios: list[Tensor], first: int) -> Tensor:
    """Return sum_n log(ratio_n / ratio_n(0)), n = first, first + 1, ..

    One log serves several ratios, few enough that their product stays in range.
    """
    group = 8 if ratios[0].dtype == torch.float64 else 4
    total = torch.zeros_like(ratios[0])
    for start in range(0, len(ratios), group):
        members = range(start, min(start + group, len(ratios)))
        product = ratios[start] / math.prod(_ratio_at_zero(first + n) for n in members)
        for n in members[1:]:
            product.mul_(ratios[n])
        total.add_(product.log_())
    return total


@cache
def _ratio_at_zero(n: int) -> float:
    """Return M_{n+1}(0) / M_n(0)."""
    return math.sqrt(2.0) * math.exp(math.lgamma(0.5 * (n + 1)) - math.lgamma(0.5 * n))


class _Expansion(NamedTuple):
    """The expansion in 1/d about the saddle point s_0 = sqrt(d) exp(eta)."""

    dim: int
    eta: Tensor
    decay: Tensor  # exp(-|eta|)
    v: Tensor  # 1 / (1 + exp(2 eta))
    one_minus_v: Tensor
    series: Tensor  # S_d(v) - S_d(1/2)
    series_slope: Tensor  # S_d'(v)
    coefficients: tuple[float, ...]  # of the polynomial S_d

    @classmethod
    def at(cls, alpha: Tensor, dim: int) -> "_Expansion":
        eta = torch.asinh(alpha / (2.0 * math.sqrt(dim)))
        decay = torch.exp(-eta.abs())
        larger = 1.0 / (1.0 + decay.square())
        smaller = decay.square() * larger
        v = torch.where(eta < 0, larger, smaller)
        one_minus_v = torch.where(eta < 0, smaller, larger)
        coefficients = _series(dim, _EXPANSION[alpha.dtype][1])
        value, slope = _horner(coefficients, v)
        return cls(dim, eta, decay, v, one_minus_v, value, slope, coefficients)

    def log_ratio(self) -> Tensor:
        distance = self.eta.abs()
        half_gap = 0.5 * torch.expm1(-2.0 * distance)
        leading = self.dim * (distance - half_gap)
        leading = torch.where(self.eta < 0, -leading, leading)
        width = self.eta.clamp(min=0.0) + 0.5 * torch.log(1.0 + half_gap)
        return leading - width + self.series

    def slope(self) -> Tensor:
        larger = torch.maximum(self.v, self.one_minus_v)
        relative = 1.0 - larger * self._skew() / self.dim
        return math.sqrt(self.dim) * self.decay * relative

    def curvature(self) -> Tensor:
        # d/d eta of the slope over d alpha / d eta; dv / d eta = -2 v (1 - v).
        derivative = tuple(n * c for n, c in enumerate(self.coefficients))[1:]
        first, second = _horner(derivative, self.v)
        v, one_minus_v = self.v, self.one_minus_v
        larger = torch.maximum(v, one_minus_v)
        sign = torch.where(self.eta < 0, -1.0, 1.0).to(v.dtype)
        skew_slope = one_minus_v * (2.0 * first + 2.0 * v * second) - (1.0 + 2.0 * v * first)
        change = 2.0 * v * one_minus_v * (sign * self._skew() - larger * skew_slope) / self.dim
        relative = 1.0 - larger * self._skew() / self.dim
        return -(sign * relative + change) * self.decay.square() * larger

    def _skew(self) -> Tensor:
        return self.one_minus_v * (1.0 + 2.0 * self.v * self.series_slope)


def _horner(coefficients: tuple[float, ...], v: Tensor) -> tuple[Tensor, Tensor]:
    """Return a polynomial and its derivative at v."""
    value = torch.full_like(v, coefficients[-1])
    slope = torch.zeros_like(v)
    for coefficient in reversed(coefficients[:-1]):
        slope = torch.addcmul(value, slope, v)
        value.mul_(v).add_(coefficient)
    return value, slope


@cache
def _series(dim: int, terms: int) -> tuple[float, ...]:
    """Return the coefficients of S_d(v) - S_d(1/2) = sum_k (G_k(v) - G_k(1/2)) d^-k."""
    total = [Fraction(0)] * (3 * terms + 2)
    for k, polynomial in enumerate(_corrections(terms), start=1):
        for power, coefficient in enumerate(polynomial):
            total[power] += coefficient / Fraction(dim) ** k
    total[0] = -sum((c / Fraction(2) ** power for power, c in enumerate(total)), start=Fraction(0))
    while len(total) > 1 and total[-1] == 0:
        total.pop()
    return tuple(float(c) for c in total)


@cache
def _corrections(terms: int) -> list[list[Fraction]]:
    """Return the coefficients of the polynomials G_1(v) .. G_terms(v), exactly.

    Substituting the expansion in the differential equation of M_d gives integer polynomials
    y_1 = -v (1 - v),
    y_{j+1} = -(1 - v) [v (y_j - 2 v (1 - v) y_j') + sum_{a=1..j} y_a y_{j+1-a}],
    and then G_k' = -y_{k+1} / (2 v^2 (1 - v)) with G_k(0) = 0. At v = 1 they become Stirling's
    series for Gamma(d), a check of the whole.
    """
    ys = [[0, -1, 1]]
    for _ in range(terms):
        last = ys[-1]
        derivative = [power * c for power, c in enumerate(last)][1:]
        bracket = _add(last, _multiply([0, -2, 2], derivative))
        inner = _multiply([0, 1], bracket)
        for a, y in enumerate(ys):
            inner = _add(inner, _multiply(y, ys[len(ys) - 1 - a]))
        ys.append(_multiply([-1, 1], inner))
    return [_integrate_correction(y) for y in ys[1:]]


def _integrate_correction(y: list[int]) -> list[Fraction]:
    """Integrate -y / (2 v^2 (1 - v)) from zero; the division leaves no remainder."""
    quotient, carry = [], 0
    for coefficient in y[2:-1]:  # division by (1 - v): running sums
        carry += coefficient
        quotient.append(carry)
    return [Fraction(0)] + [Fraction(-c, 2 * (n + 1)) for n, c in enumerate(quotient)]


def _add(p: list[int], q: list[int]) -> list[int]:
    size = max(len(p), len(q))
    return [
        a + b for a, b in zip(p + [0] * (size - len(p)), q + [0] * (size - len(q)), strict=True)
    ]


def _multiply(p: list[int], q: list[int]) -> list[int]:
    product = [0] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            product[i + j] += a * b
    return product
