"""How much the samples of posteriors shrink cosines."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from probcl.distributions import ProjectedNormal
from probcl.distributions.covariance import Isotropic
from probcl.distributions.posterior import SphereDistribution
from probcl.objectives.collectives import mean_over_ranks

__all__ = ["corrected", "expected_shrinkage"]

# Mean resultant length below which a correction would amplify noise more than it saves of signal.
_LEAST = 0.5
_LEAST_TEMPERATURE = 0.005  # twice what InfoNCE and SupCon bear


@torch.no_grad()
def expected_shrinkage(q: Distribution, samples: int = 2) -> Tensor:
    r"""Return by how much cosines shrink where posterior samples stand for their directions.

        E[z_i . z_j] = rho_i rho_j mu_i . mu_j,  E[z_i . w] = rho_i mu_i . w

    for independent samples and unit vectors ``mu`` and ``w``, ``rho`` the mean resultant length: so
    ``mean(rho^2)`` over the batch of all ranks for cosines of two samples, and its root for those
    of one and a fixed vector. It is exact for a von Mises-Fisher, a Power Spherical and an
    isotropic projected normal; another projected normal is taken for the isotropic one with its
    trace (off by less than 0.001 at ``d = 128``, 0.05 at ``d = 2``, where scales differ threefold),
    and of any other posterior two samples are drawn for an estimate.

    Args:
        q: Posteriors of any batch shape.
        samples: 1 or 2, how many of a cosine's two vectors are samples.

    Returns:
        A number from 0.25 or 0.5 to 1, shape ``()``, without gradient: of posteriors wider than
        ``rho = 0.5`` the noise in the samples outweighs what is lost, and it goes no further.
    """
    if isinstance(q, ProjectedNormal) and not isinstance(q.normal_covariance, Isotropic):
        dim = q.dim
        scale = (q.normal_covariance.trace(dim) / dim).sqrt().unsqueeze(-1)
        q = ProjectedNormal(q.loc, scale, validate_args=False)
    if isinstance(q, SphereDistribution):
        squared = q.mean_resultant_length.square()
    else:
        squared = torch.linalg.vecdot(q.sample(), q.sample())
    # A number that is not finite is for the objective to name: the temperature is not at fault.
    mean = mean_over_ranks(squared.mean()).nan_to_num(1.0)
    return mean.clamp(_LEAST**2, 1.0) ** (samples / 2)


def corrected(temperature: float | Tensor, shrinkage: Tensor) -> Tensor:
    """Return ``temperature * shrinkage``, but no less than 0.005 or a temperature that is lower.

    So posteriors that come near the uniform end no training; of them the correction is partial.

    Args:
        temperature: Positive number; a tensor, learned, is at least 0.01.
        shrinkage: That of ``expected_shrinkage``.
    """
    fixed = isinstance(temperature, float)
    least = min(temperature, _LEAST_TEMPERATURE) if fixed else _LEAST_TEMPERATURE
    return (temperature * shrinkage).clamp(min=least)
