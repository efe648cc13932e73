"""Every exact divergence between distributions on the sphere, and the named bounds.

Importing this module registers the exact pairs with ``torch.distributions.kl_divergence``.
A bound is never registered: ask for it by its name.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions.kl import register_kl

from probcl.distributions.posterior import SphereDistribution
from probcl.distributions.power_spherical import PowerSpherical
from probcl.distributions.projected_normal import ProjectedNormal
from probcl.distributions.rotationally_symmetric import RotationallySymmetric
from probcl.distributions.uniform import HypersphericalUniform
from probcl.distributions.von_mises_fisher import VonMisesFisher
from probcl.precision import full_precision
from probcl.special.autograd import widen
from probcl.special.bessel import (
    bessel_ratio,
    bessel_ratio_deficit,
    log_bessel,
    log_bessel_deficit,
)

__all__ = ["gaussian_bound"]

Divergence = Callable[[Any, Any], Tensor]


def gaussian_bound(q: ProjectedNormal, tight: bool = False) -> Tensor:
    r"""Bound the divergence of a projected normal from the uniform by that of its normal.

    .. math:: \mathrm{KL}(\mathrm{PN}(\mu, \Sigma) \,\|\, \mathrm{Uniform})
              \le \mathrm{KL}(N(c \mu, c^2 \Sigma) \,\|\, N(0, I)) \text{ for every } c > 0

    It holds because normalising N(0, I) gives the uniform. At c = 1 it is the regulariser of
    Jeong, Kim and Hero (2025), "Probabilistic Variational Contrastive Learning",
    https://arxiv.org/abs/2506.10159; unlike the divergence it depends on the joint scale of
    (mu, Sigma), and so pins it.

    Args:
        q: Projected normal of batch shape ``(*B,)``.
        tight: Whether to take the least bound over c, which depends on the ratio only.

    Returns:
        The bound, shape ``(*B,)``.

    Raises:
        TypeError: If ``q`` is not a ProjectedNormal.

    Example:
        >>> import torch
        >>> q = ProjectedNormal(torch.tensor([1.0, 0.0, 0.0]), scale=0.5)
        >>> gaussian_bound(q), gaussian_bound(q, tight=True)
        (tensor(1.4544), tensor(1.2709))
    """
    if not isinstance(q, ProjectedNormal):
        raise TypeError(
            f"gaussian_bound is defined for ProjectedNormal, got {type(q).__name__};"
            " use torch.distributions.kl_divergence for other posteriors."
        )
    return _gaussian_bound(q, tight)


@full_precision
def _gaussian_bound(q: ProjectedNormal, tight: bool) -> Tensor:
    loc, covariance = q.loc, q.normal_covariance
    if tight:
        factor = covariance.centring()
        loc, covariance = loc * factor, covariance.scaled(factor)
    second_moment = covariance.trace(q.dim) + torch.linalg.vecdot(loc, loc)
    excess = q.dim * torch.log(second_moment / q.dim) if tight else second_moment - q.dim
    return 0.5 * excess - covariance.half_log_det(q.dim)


def _register(q_type: type, p_type: type) -> Callable[[Divergence], Divergence]:
    """Register an exact divergence: of one sphere, and of the batch shape of both together."""

    def decorate(divergence: Divergence) -> Divergence:
        @register_kl(q_type, p_type)
        def checked(q: SphereDistribution, p: SphereDistribution) -> Tensor:
            if q.dim != p.dim:
                raise ValueError(
                    "kl_divergence needs both distributions on one sphere, got dimensions"
                    f" {q.dim} and {p.dim}; make them equal."
                )
            return divergence(q, p).expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))

        return divergence

    return decorate


@_register(SphereDistribution, HypersphericalUniform)
def _uniform(q: SphereDistribution, p: HypersphericalUniform) -> Tensor:
    return q._divergence_from_uniform()


@_register(VonMisesFisher, VonMisesFisher)
def _von_mises_fisher_pair(q: VonMisesFisher, p: VonMisesFisher) -> Tensor:
    dim, kappa, other = q.dim, widen(q.concentration), widen(p.concentration)
    ratio, deficit = bessel_ratio(kappa, dim), bessel_ratio_deficit(kappa, dim)
    # The same difference twice: the first is exact for small, the second for large kappa.
    near = log_bessel(other, dim) - log_bessel(kappa, dim) - (other - kappa) * ratio
    far = log_bessel_deficit(kappa, dim) - log_bessel_deficit(other, dim)
    far = far - (kappa - other) * deficit
    radial = torch.where(torch.maximum(kappa, other) < dim, near, far)
    return _as_result(radial + other * ratio * _half_chord(q, p), q, p)


@_register(PowerSpherical, VonMisesFisher)
def _power_spherical_von_mises_fisher(q: PowerSpherical, p: VonMisesFisher) -> Tensor:
    dim, kappa, other = q.dim, widen(q.concentration), widen(p.concentration)
    ratio = kappa / (kappa + (dim - 1))
    deficit = (dim - 1) / (kappa + (dim - 1))
    # E[other * mu . z] - log normaliser, in a form for small and one for large concentrations.
    near = log_bessel(other, dim) - other * ratio
    far = other * deficit - log_bessel_deficit(other, dim)
    cross = torch.where(other < dim, near, far) + other * ratio * _half_chord(q, p)
    return _as_result(q._divergence_from_uniform() + cross, q, p)


def _half_chord(q: RotationallySymmetric, p: RotationallySymmetric) -> Tensor:
    """Compute 1 - cos of the angle between the two directions, as |mu - nu|^2 / 2."""
    return 0.5 * widen(q.loc - p.loc).square().sum(-1)


def _as_result(divergence: Tensor, q: RotationallySymmetric, p: RotationallySymmetric) -> Tensor:
    return divergence.to(torch.promote_types(q.loc.dtype, p.loc.dtype))
