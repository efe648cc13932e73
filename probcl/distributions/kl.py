"""Every exact divergence between distributions on the sphere, and the named bounds.

Importing this module registers the exact pairs with ``torch.distributions.kl_divergence``.
A bound is never registered: ask for it by its name.
"""

import torch
from torch import Tensor
from torch.distributions.kl import register_kl

from probcl.distributions.power_spherical import PowerSpherical
from probcl.distributions.projected_normal import ProjectedNormal
from probcl.distributions.projected_normal_kl import (
    gaussian_kl,
    kl_to_uniform,
    tight_gaussian_kl,
)
from probcl.distributions.rotationally_symmetric import RotationallySymmetric
from probcl.distributions.uniform import HypersphericalUniform
from probcl.distributions.von_mises_fisher import VonMisesFisher
from probcl.special.bessel import (
    bessel_ratio,
    bessel_ratio_deficit,
    log_bessel,
    log_bessel_deficit,
)
from probcl.special.scalar_function import widen

__all__ = ["gaussian_bound"]


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
    return tight_gaussian_kl(q) if tight else gaussian_kl(q)


@register_kl(ProjectedNormal, HypersphericalUniform)
def _projected_normal_uniform(q: ProjectedNormal, p: HypersphericalUniform) -> Tensor:
    _check_same_dim(q.event_shape[0], p.dim)
    return kl_to_uniform(q)


@register_kl(HypersphericalUniform, HypersphericalUniform)
def _uniform_uniform(q: HypersphericalUniform, p: HypersphericalUniform) -> Tensor:
    _check_same_dim(q.dim, p.dim)
    return q.entropy() - p.entropy()


@register_kl(VonMisesFisher, HypersphericalUniform)
@register_kl(PowerSpherical, HypersphericalUniform)
def _rotationally_symmetric_uniform(q: RotationallySymmetric, p: HypersphericalUniform) -> Tensor:
    _check_same_dim(q.dim, p.dim)
    divergence = q._divergence_from_uniform()
    return divergence.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


@register_kl(VonMisesFisher, VonMisesFisher)
def _von_mises_fisher_pair(q: VonMisesFisher, p: VonMisesFisher) -> Tensor:
    _check_same_dim(q.dim, p.dim)
    dim, kappa, other = q.dim, widen(q.concentration), widen(p.concentration)
    ratio, deficit = bessel_ratio(kappa, dim), bessel_ratio_deficit(kappa, dim)
    # The same difference twice: the first is exact for small, the second for large kappa.
    near = log_bessel(other, dim) - log_bessel(kappa, dim) - (other - kappa) * ratio
    far = log_bessel_deficit(kappa, dim) - log_bessel_deficit(other, dim)
    far = far - (kappa - other) * deficit
    radial = torch.where(torch.maximum(kappa, other) < dim, near, far)
    return _as_result(radial + other * ratio * _half_chord(q, p), q, p)


@register_kl(PowerSpherical, VonMisesFisher)
def _power_spherical_von_mises_fisher(q: PowerSpherical, p: VonMisesFisher) -> Tensor:
    _check_same_dim(q.dim, p.dim)
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


def _check_same_dim(q_dim: int, p_dim: int) -> None:
    if q_dim != p_dim:
        raise ValueError(
            f"kl_divergence needs both distributions on one sphere, got dimensions {q_dim} and"
            f" {p_dim}; make them equal."
        )
