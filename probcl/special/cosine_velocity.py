r"""How the cosine of a sample moves with the concentration, by implicit differentiation.

A distribution on the sphere with density :math:`\propto e^{\kappa T(t)}`, :math:`t = \mu^\top z`,
has the cosine density :math:`f(t) \propto e^{\kappa T(t)} (1 - t^2)^{(d-3)/2}`. Keeping the
cumulative probability of a sample fixed while :math:`\kappa` moves gives

.. math::
    \frac{dt}{d\kappa} = -\frac{\partial_\kappa F(t)}{f(t)}
        = \frac{1}{f(t)} \int_t^1 (T(s) - E[T])\, f(s)\, ds = (1 - t^2)\, H(t).

The *velocity* H is smooth and positive on all of [-1, 1], and 1/(d-1) at :math:`\kappa = 0` for
:math:`T(t) = t`. The integral is taken over the angle :math:`\theta = \arccos t`, where the
integrand is smooth for every d >= 2, on the side of the sample where its sign is constant.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from probcl.special.autograd import constant

__all__ = ["cosine_velocity"]

# Negative exponent at which the integrand is cut, and Gauss-Legendre nodes that resolve it.
_CUT_AND_NODES = {torch.float32: (17.0, 16), torch.float64: (36.0, 40)}
# T may have a logarithmic singularity at the antipode, which the density hides in high dimension:
# up to this one, the nodes crowd quadratically there.
_CROWDED_DIMS = 8


def cosine_velocity(
    versine: Tensor,
    kappa: Tensor,
    dim: int,
    statistic: Callable[[Tensor], Tensor],
    mean_statistic: Tensor,
    curvature: float,
) -> Tensor:
    r"""Compute :math:`H = (1 - t^2)^{-1}\, dt/d\kappa` for samples of the cosine t.

    Args:
        versine: Samples of 1 - t, in [0, 2], of any shape.
        kappa: Concentrations, of the same shape.
        dim: Dimension :math:`d \ge 2` of the ambient space.
        statistic: The increasing function T, as a function of the versine 1 - t.
        mean_statistic: Expectation of T under ``kappa``, of the same shape.
        curvature: Number c such that the log density of the angle bends down, per unit of
            kappa, at least like :math:`-c\,\theta^2/2`; it sets where the integral is cut.

    Returns:
        Tensor of the shape of ``versine``.

    References:
        Figurnov, Mohamed and Mnih (2018), "Implicit Reparameterization Gradients",
        https://arxiv.org/abs/1805.08498

    Example:
        >>> half = torch.tensor([0.5])
        >>> cosine_velocity(half, 0 * half, 5, lambda y: 1 - y, 0 * half, 0.4)
        tensor([0.2500])
    """
    cut, count = _CUT_AND_NODES[versine.dtype]
    nodes, weights = _gauss_legendre(count, versine.dtype, versine.device)
    largest = 2 - torch.finfo(versine.dtype).eps
    versine = versine.clamp(1e-30, largest)
    angle = 2 * torch.atan2(versine.sqrt(), (2 - versine).sqrt())
    start = statistic(versine)
    towards_loc = start >= mean_statistic
    reach = (2 * cut / (curvature * kappa + (dim - 2) + 1e-6)).sqrt()
    length = torch.minimum(reach, torch.where(towards_loc, angle, torch.pi - angle))
    step = torch.where(towards_loc, -length, length)
    if dim <= _CROWDED_DIMS:
        away = ~towards_loc.unsqueeze(-1)
        weights = torch.where(away, 2 * (1 - nodes) * weights, weights)
        nodes = torch.where(away, nodes * (2 - nodes), nodes)

    angles = angle.unsqueeze(-1) + step.unsqueeze(-1) * nodes
    versines = (2 * torch.sin(0.5 * angles).square()).clamp(max=largest)
    statistics = statistic(versines)
    exponent = kappa.unsqueeze(-1) * (statistics - start.unsqueeze(-1))
    squared_sine = versine * (2 - versine)
    if dim > 2:
        squared_sines = versines * (2 - versines)
        relative = squared_sines / squared_sine.unsqueeze(-1)
        exponent = exponent + (0.5 * dim - 1) * torch.log(relative)
    centred = statistics - mean_statistic.unsqueeze(-1)
    integral = -step * (centred * torch.exp(exponent) * weights).sum(-1)
    return integral * squared_sine.rsqrt()


@constant
def _unit_leggauss(count: int) -> tuple[list[float], list[float]]:
    nodes, weights = leggauss(count)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


@lru_cache(maxsize=8)
def _gauss_legendre(count: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return nodes and weights on [0, 1]."""
    nodes, weights = (torch.tensor(x, dtype=dtype, device=device) for x in _unit_leggauss(count))
    return nodes, weights
