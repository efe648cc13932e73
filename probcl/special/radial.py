r"""The radial integral of the projected normal, with exact first and second derivatives.

.. math:: M_d(\alpha) = \int_0^\infty s^{d-1} e^{-(s - \alpha)^2 / 2} \, ds, \qquad
          K_d(\alpha) = e^{\alpha^2 / 2} M_d(\alpha)

Both follow from leading terms about the saddle point, uniform in alpha, and a polynomial: in
float64 the expansion in 1/d, in float32 a fit of its values. Where d is too small for the
expansion, float64 takes three-term recurrences, each run in its stable direction: upwards in d
for alpha >= 0, downwards from the expansion for alpha < 0.
"""

import math
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probcl.special import chebyshev, exact
from probcl.special.autograd import constant

__all__ = ["log_radial_integral", "log_radial_ratio"]

# Smallest dimension in which the expansion alone is exact in float64, and the terms it needs.
_LEAST_DIM, _TERMS = 24, 10
# Degree of the fits for float32 before their trailing coefficients are dropped.
_FIT_DEGREE, _FIT_TOLERANCE = 48, 2e-8


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
            slope = _Slope.apply(alpha, ctx.dim)
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


def log_ratio_and_slope(alpha: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return h(alpha) and h'(alpha) as plain values; see :func:`log_radial_ratio`."""
    if dim >= _LEAST_DIM or alpha.dtype != torch.float64:
        saddle = _Saddle.at(alpha, dim)
        return saddle.log_ratio(), saddle.slope()

    positive, negative = alpha.clamp(min=0.0), alpha.clamp(max=0.0)
    ratios = _ratios_upwards(positive, dim)
    up = _log_relative(ratios[1:], first=1)
    up = up + torch.log(1.0 + torch.erf(positive * math.sqrt(0.5)))
    saddle = _Saddle.at(negative, _LEAST_DIM)
    rhos = _ratios_downwards(negative, dim, saddle)
    down = saddle.log_ratio() - _log_relative(rhos[:-1], first=dim)
    is_negative = alpha < 0
    return (
        torch.where(is_negative, down, up),
        torch.where(is_negative, rhos[0], (dim - 1) / ratios[-1]),
    )


def _curvature(alpha: Tensor, dim: int) -> Tensor:
    """Return h''(alpha) as a plain value."""
    if dim >= _LEAST_DIM or alpha.dtype != torch.float64:
        return _Saddle.at(alpha, dim).curvature()
    ratios = _ratios_upwards(alpha.clamp(min=0.0), dim)
    slope = (dim - 1) / ratios[-1]
    slope_below = (dim - 2) / ratios[-2] if dim > 2 else ratios[0]
    negative = alpha.clamp(max=0.0)
    rhos = _ratios_downwards(negative, dim, _Saddle.at(negative, _LEAST_DIM))
    return torch.where(alpha < 0, rhos[0] * (rhos[1] - rhos[0]), slope * (slope_below - slope))


def _ratios_upwards(alpha: Tensor, dim: int) -> list[Tensor]:
    """Return h'_1, then r_n = M_{n+1} / M_n for n = 1 .. dim - 1, at alpha >= 0."""
    first = torch.exp(-0.5 * alpha.square()) * math.sqrt(2.0 / math.pi)
    first = first / (1.0 + torch.erf(alpha * math.sqrt(0.5)))
    ratios = [first, first + alpha]
    for n in range(1, dim - 1):
        ratios.append(alpha + n / ratios[-1])
    return ratios


def _ratios_downwards(alpha: Tensor, dim: int, saddle: "_Saddle") -> list[Tensor]:
    """Return rho_n = K_{n+1} / K_n for n = dim .. saddle.dim, at alpha <= 0."""
    rhos = [saddle.slope()]
    for n in range(saddle.dim - 1, dim - 1, -1):
        rhos.append(n / (rhos[-1] - alpha))
    return rhos[::-1]


def _log_relative(ratios: list[Tensor], first: int) -> Tensor:
    """Return sum_n log(ratio_n / ratio_n(0)), n = first, first + 1, ..

    One log serves several ratios, few enough that their product stays in range.
    """
    group = 8
    total = torch.zeros_like(ratios[0])
    for start in range(0, len(ratios), group):
        members = range(start, min(start + group, len(ratios)))
        product = ratios[start] / math.prod([_ratio_at_zero(first + n) for n in members])
        for n in members[1:]:
            product.mul_(ratios[n])
        total.add_(product.log_())
    return total


@constant
def _ratio_at_zero(n: int) -> float:
    """Return M_{n+1}(0) / M_n(0)."""
    return math.sqrt(2.0) * math.exp(math.lgamma(0.5 * (n + 1)) - math.lgamma(0.5 * n))


class _Saddle(NamedTuple):
    """The integral about its saddle point s_0 = sqrt(d) exp(eta), uniform in alpha.

    With sinh(eta) = alpha / (2 sqrt d) and w = tanh(eta), what the leading terms leave is a
    polynomial S(w).
    """

    dim: int
    sinh: Tensor
    cosh: Tensor
    decay: Tensor  # exp(-|eta|)
    w: Tensor
    series: Tensor  # S(w)
    series_slope: Tensor  # S'(w)
    coefficients: list[float]  # of S

    @classmethod
    def at(cls, alpha: Tensor, dim: int) -> "_Saddle":
        sinh = alpha * (0.5 / math.sqrt(dim))
        cosh = torch.hypot(sinh, torch.ones_like(sinh))
        decay = (sinh.abs() + cosh).reciprocal_()
        w = sinh / cosh
        coefficients = _series(dim) if alpha.dtype == torch.float64 else _fitted_series(dim)
        value, slope = _horner(coefficients, w)
        return cls(dim, sinh, cosh, decay, w, value, slope, coefficients)

    def log_ratio(self) -> Tensor:
        return _leading(self.sinh, self.cosh, self.decay, self.dim).add_(self.series)

    def slope(self) -> Tensor:
        relative = torch.addcmul(self.w.new_ones(()), 1.0 + self.w.abs(), self._skew(), value=-1.0)
        return relative.mul_(self.decay).mul_(math.sqrt(self.dim))

    def curvature(self) -> Tensor:
        # d/d eta of the slope over d alpha / d eta; dw / d eta = 1 - w^2.
        w, first = self.w, self.series_slope
        second = _horner(exact.derivative(self.coefficients), w)[1]
        sign = torch.where(w < 0, -1.0, 1.0).to(w.dtype)
        skew_slope = 1.0 + 4.0 * w * first - 2.0 * (1.0 - w.square()) * second
        skew_slope = skew_slope / (4.0 * self.dim)
        stretch = 1.0 + w.abs()
        relative = 1.0 - stretch * self._skew()
        change = (1.0 - w.square()) * (sign * self._skew() + stretch * skew_slope)
        return -0.5 * (sign * relative + change) * self.decay / self.cosh

    def _skew(self) -> Tensor:
        """Return (1 + w) (1 - 2 (1 - w) S'(w)) / (4 d)."""
        ahead = 1.0 + self.w
        inner = torch.addcmul(ahead, ahead * (1.0 - self.w), self.series_slope, value=-2.0)
        return inner.mul_(0.25 / self.dim)


def _leading(sinh: Tensor, cosh: Tensor, decay: Tensor, dim: int) -> Tensor:
    """Return d (eta + sinh(eta) exp(-|eta|)) - (eta + log cosh(eta)) / 2."""
    size = sinh.abs()
    # |eta| = asinh(size), in a form several times as fast as torch.asinh.
    eta = torch.log1p(torch.addcmul(size, size, size / (1.0 + cosh)))
    leading = torch.copysign(eta, sinh).mul_(dim - 0.5)
    leading.add_(sinh * decay, alpha=dim)
    return leading.sub_(cosh.log(), alpha=0.5)


def _horner(coefficients: list[float], w: Tensor) -> tuple[Tensor, Tensor]:
    """Return a polynomial and its derivative at w."""
    highest, *others = torch.tensor(coefficients, dtype=w.dtype, device=w.device).flip(0).unbind()
    value, slope = highest.expand_as(w), torch.zeros_like(w)
    for coefficient in others:
        slope = torch.addcmul(value, slope, w)
        value = torch.addcmul(coefficient, value, w)
    return value, slope


@constant
def _series(dim: int) -> list[float]:
    """Return the coefficients of S(w) = sum_k (G_k(v) - G_k(1/2)) d^-k, v = (1 - w) / 2."""
    total = [Fraction(0)]
    for k, polynomial in enumerate(_corrections(_TERMS), start=1):
        total = exact.add(total, [Fraction(c) / Fraction(dim) ** k for c in polynomial])
    series = [Fraction(0)]
    for c in reversed(total):
        series = exact.add([c], exact.multiply(series, [Fraction(1, 2), Fraction(-1, 2)]))
    while len(series) > 1 and series[-1] == 0:
        series.pop()
    return [0.0, *(float(c) for c in series[1:])]


@constant
def _fitted_series(dim: int) -> list[float]:
    """Fit S(w) to the digits of float32, from its values in float64."""

    def remainder(x: Tensor) -> Tensor:
        w = 2.0 * x - 1.0
        cosh = (1.0 - w.square()).rsqrt()
        sinh = w * cosh
        value = log_ratio_and_slope(2.0 * math.sqrt(dim) * sinh, dim)[0]
        return value - _leading(sinh, cosh, 1.0 / (sinh.abs() + cosh), dim)

    series: list[float] = []
    previous, current = [0.0, 1.0], [1.0]  # T_{-1} = T_1 and T_0, as powers of w
    for c in chebyshev.fit(remainder, _FIT_DEGREE, tolerance=_FIT_TOLERANCE):
        series = exact.add(series, [c * p for p in current])
        following = exact.add([0.0, *(2.0 * p for p in current)], [-p for p in previous])
        previous, current = current, following
    return [0.0, *series[1:]]


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
        bracket = exact.add(last, exact.multiply([0, -2, 2], exact.derivative(last)))
        inner = exact.multiply([0, 1], bracket)
        for a, y in enumerate(ys):
            inner = exact.add(inner, exact.multiply(y, ys[len(ys) - 1 - a]))
        ys.append(exact.multiply([-1, 1], inner))
    return [_integrate_correction(y) for y in ys[1:]]


def _integrate_correction(y: list[int]) -> list[Fraction]:
    """Integrate -y / (2 v^2 (1 - v)) from zero; the division leaves no remainder."""
    quotient, carry = [], 0
    for coefficient in y[2:-1]:  # division by (1 - v): running sums
        carry += coefficient
        quotient.append(carry)
    return [Fraction(0)] + [Fraction(-c, 2 * (n + 1)) for n, c in enumerate(quotient)]
