"""Kullback-Leibler divergences and bounds between distributions on the sphere."""

from torch import Tensor

from probcl.distributions.projected_normal import ProjectedNormal

__all__ = ["gaussian_bound"]


def gaussian_bound(q: ProjectedNormal) -> Tensor:
    r"""Bound KL(PN(mu, S) || Uniform) from above by KL(N(mu, S) || N(0, I))."""
    variance = q.scale.square()
    return 0.5 * (variance + q.loc.square() - 1 - variance.log()).sum(-1)
