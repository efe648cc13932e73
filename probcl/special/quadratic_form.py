r"""The mean log of a Gaussian quadratic form, E log |x|^2 for x ~ N(mu, Sigma).

With the Laplace transform L(tau) = E exp(-tau |x|^2), Frullani's integral gives the mean log
relative to a gamma variable Y of the same mean, and nearly the same variance:

.. math:: E \log |x|^2 = E \log Y + \int_0^\infty (L_Y(\tau) - L(\tau)) \frac{d\tau}{\tau}

The difference is smooth and decays on both sides in log tau, on the left as tau^3 only. With
log tau = u - exp(-u) / 2 it falls there faster than exponentially, so that the trapezoidal rule,
which converges exponentially, takes two thirds of the nodes.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["QuadraticForm", "digamma_minus_log", "mean_log_over_mean", "unit_vector_rule"]


class QuadraticForm(NamedTuple):
    """What the quadrature has to know of |x|^2, x ~ N(mu, Sigma); tensors of shape (*B,)."""

    mean: Tensor  # tr Sigma + |mu|^2
    variance: Tensor  # 2 tr Sigma^2 + 4 mu' Sigma mu
    log_geometric: Tensor  # log det Sigma / d
    squared_mean: Tensor  # |mu|^2
    stretch: Tensor  # mu' Sigma mu
    mahalanobis: Tensor  # mu' Sigma^-1 mu
    log_laplace: Callable[[Tensor], Tensor]  # tau (*B, n) -> log E exp(-tau |x|^2), (*B, n)


def _rule(dtype: torch.dtype, dim: int) -> tuple[int, float, float, float]:
    """Return nodes, lower end of u, decay at the upper end, and the least shape of Y."""
    if dtype == torch.float64:
        return (48, -3.0, 30.0, 16.0) if dim >= 8 else (112, -3.1, 36.0, 8.0)
    if dim >= 32:
        return 8, -1.0, 12.0, 4.0
    return (16, -2.1, 18.0, 8.0) if dim >= 8 else (32, -2.3, 18.0, 8.0)


def mean_log_over_mean(form: QuadraticForm, dim: int) -> Tensor:
    r"""Return E log(X / E X) for the quadratic form X = |x|^2, x ~ N(mu, Sigma).

    Args:
        form: The quadratic form X, of batch shape ``(*B,)``.
        dim: Dimension ``d`` of x.

    Returns:
        The mean log, never positive, shape ``(*B,)``; gradients flow through all parts of
        the form, while the nodes of the quadrature count as constants.
    """
    nodes, lower, decay, least_shape = _rule(form.mean.dtype, dim)
    fixed = _constants(form)
    upper = _upper_end(fixed, decay, dim)
    unit = torch.linspace(0.0, 1.0, nodes, dtype=upper.dtype, device=upper.device)
    u = lower + (upper - lower)[..., None] * unit
    bend = 0.5 * torch.exp(-u)
    tau = torch.exp(u - bend) / fixed.mean[..., None]
    step = (upper - lower) / (nodes - 1)
    shape = form.mean.square() / form.variance
    shape = torch.where(shape > least_shape, shape, least_shape)
    scaled = tau * (form.mean / shape)[..., None]
    gamma = torch.exp(-shape[..., None] * torch.log1p(scaled))
    difference = gamma - torch.exp(form.log_laplace(tau))
    return digamma_minus_log(shape) + step * ((1.0 + bend) * difference).sum(-1)


def unit_vector_rule(form: QuadraticForm, dim: int) -> tuple[Tensor, Tensor]:
    r"""Return nodes and weights by which to integrate the mean of x / |x|, x ~ N(mu, Sigma).

    .. math:: E \frac{x}{|x|} = \frac{2}{\sqrt \pi} \int_0^\infty L(s^2)
              (I + 2 s^2 \Sigma)^{-1} \mu \, ds

    With s proportional to exp(u - exp(-u)) the integrand decays on both sides in u, where the
    trapezoidal rule converges exponentially.

    Args:
        form: The quadratic form |x|^2, of batch shape ``(*B,)``.
        dim: Dimension ``d`` of x.

    Returns:
        Nodes tau = s^2, constants of shape ``(*B, n)``, and weights, which include L, of the
        vectors ``(I + 2 tau Sigma)^-1 mu``.
    """
    wide = form.mean.dtype == torch.float64
    count, lower, decay = (160, -3.7, 36.0) if wide else (48, -3.2, 24.0)
    fixed = _constants(form)
    upper = 0.5 * _upper_end(fixed, decay, dim)
    unit = torch.linspace(0.0, 1.0, count, dtype=upper.dtype, device=upper.device)
    u = lower + (upper - lower)[..., None] * unit
    step = (upper - lower)[..., None] / (count - 1)
    s = torch.exp(u - torch.exp(-u)) / fixed.mean.sqrt()[..., None]
    weights = (2.0 / math.sqrt(math.pi)) * step * (1.0 + torch.exp(-u)) * s
    tau = s.square()
    return tau, weights * torch.exp(form.log_laplace(tau))


def _constants(form: QuadraticForm) -> QuadraticForm:
    """Detach what the nodes depend on; torch.jit.trace would look through torch.no_grad."""
    return form._replace(
        mean=form.mean.detach(),
        log_geometric=form.log_geometric.detach(),
        squared_mean=form.squared_mean.detach(),
        stretch=form.stretch.detach(),
    )


def _upper_end(form: QuadraticForm, decay: float, dim: int) -> Tensor:
    """Return log(tau E X) beyond which L(tau) < exp(-decay).

    Two bounds hold: L(tau) <= (1 + 2 tau g)^(-d/2), with g the geometric mean of the
    eigenvalues, and L(tau) <= exp(-tau |mu|^2 / (1 + 2 tau mu' Sigma mu / |mu|^2)), by Jensen.
    """
    log_mean = form.mean.log()
    by_spread = math.log(math.expm1(2.0 * decay / dim) / 2.0) - form.log_geometric + log_mean
    tiny = torch.finfo(log_mean.dtype).tiny
    squared_mean = form.squared_mean.clamp(min=tiny)
    left = squared_mean - 2.0 * decay * form.stretch / squared_mean
    by_mean = math.log(decay) - left.clamp(min=tiny).log() + log_mean
    return torch.minimum(by_spread, by_mean)


def digamma_minus_log(x: Tensor) -> Tensor:
    """Return digamma(x) - log(x) for x > 0, without cancellation for large x.

    Args:
        x: Positive values, any shape.

    Returns:
        The difference, about -1 / (2 x); shape of ``x``; differentiable.

    Example:
        >>> digamma_minus_log(torch.tensor(1.0))  # minus Euler's constant
        tensor(-0.5772)
    """
    steps = 8.0
    shifted = x + steps
    inverse = 1.0 / shifted
    square = inverse.square()
    series = 1.0 / 252.0 - square * (1.0 / 240.0 - square / 132.0)
    tail = -inverse * (0.5 + inverse * (1.0 / 12.0 - square * (1.0 / 120.0 - square * series)))
    skipped = x[..., None] + torch.arange(steps, dtype=x.dtype, device=x.device)
    return tail + torch.log1p(steps / x) - skipped.reciprocal().sum(-1)
