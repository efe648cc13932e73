r"""Divergence of projected normals from the uniform, and its Gaussian bound.

With delta^2 = mu' Sigma^-1 mu and x ~ N(mu, Sigma), for every covariance

.. math:: \mathrm{KL} = \mathrm{KL}_{iso}(\delta) - \tfrac12 \log |\Sigma|
          - \tfrac d2 \left(E \log \chi'^2_d(\delta^2) - E \log |x|^2\right)
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from probcl.distributions.covariance import Isotropic
from probcl.precision import full_precision
from probcl.special.isotropic import isotropic_kl_uniform, isotropic_mean_log
from probcl.special.quadratic_form import mean_log_over_mean

if TYPE_CHECKING:
    from probcl.distributions.projected_normal import ProjectedNormal

__all__ = ["gaussian_kl", "kl_to_uniform", "tight_gaussian_kl"]


@full_precision
def kl_to_uniform(q: "ProjectedNormal") -> Tensor:
    """Return KL(q || Uniform), exactly up to quadrature, shape ``(*B,)``."""
    dim = q.event_shape[0]
    if isinstance(q.covariance, Isotropic):
        return isotropic_kl_uniform(q.covariance.mahalanobis(q.loc), dim)
    form = q.covariance.quadratic_form(q.loc)
    mean_log = mean_log_over_mean(form, dim)
    delta2 = form.mahalanobis
    reference = isotropic_mean_log(delta2, dim)
    scale = torch.log(form.mean / (dim + delta2)) - form.log_geometric
    return isotropic_kl_uniform(delta2, dim) + 0.5 * dim * (scale + mean_log - reference)


@full_precision
def gaussian_kl(q: "ProjectedNormal") -> Tensor:
    """Return KL(N(mu, Sigma) || N(0, I)), shape ``(*B,)``; an upper bound of the exact KL."""
    dim = q.event_shape[0]
    second_moment = q.covariance.trace(dim) + _squared_norm(q.loc)
    return 0.5 * (second_moment - dim) - q.covariance.half_log_det(dim)


@full_precision
def tight_gaussian_kl(q: "ProjectedNormal") -> Tensor:
    """Return the least of KL(N(c mu, c^2 Sigma) || N(0, I)) over c > 0, shape ``(*B,)``."""
    dim = q.event_shape[0]
    factor = q.covariance.centring()
    loc, covariance = q.loc * factor, q.covariance.scaled(factor)
    second_moment = covariance.trace(dim) + _squared_norm(loc)
    return 0.5 * dim * torch.log(second_moment / dim) - covariance.half_log_det(dim)


def _squared_norm(x: Tensor) -> Tensor:
    return torch.linalg.vecdot(x, x)
