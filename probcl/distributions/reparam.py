"""A reparametriser that frees latent directions from the sphere."""

from typing import Any

import torch
from pyro import distributions as dist
from pyro import sample
from pyro.infer.reparam.reparam import Reparam, ReparamMessage, ReparamResult
from torch import Tensor

from probcl.distributions.support import is_sphere
from probcl.sphere import log_area, normalize

__all__ = ["SphereReparam"]


class SphereReparam(Reparam):
    r"""Replace a latent direction by a free vector, so that AutoGuides and HMC apply.

    A site ``z`` with any distribution p on the unit sphere becomes the direction
    :math:`z = x/|x|` of an auxiliary site ``z_normal`` with the standard normal distribution on
    R^d, whose direction is uniform. The remaining factor :math:`p(z)/\mathrm{uniform}(z)` is
    added to the log density at ``z``, so the posterior of z is exactly that of the original
    model, and x never has to leave the neighbourhood of :math:`|x| = \sqrt d`. Observed sites
    are left as they are.

    Raises:
        ValueError: If the site is not on the sphere.

    References:
        Gorinova, Moore and Hoffman (2020), "Automatic Reparameterisation of Probabilistic
        Programs", https://arxiv.org/abs/1906.03028

    Example:
        >>> import pyro
        >>> from probcl.distributions.von_mises_fisher import VonMisesFisher
        >>> @pyro.poutine.reparam(config={"direction": SphereReparam()})
        ... def model():
        ...     return pyro.sample("direction", VonMisesFisher(torch.tensor([1.0, 0.0, 0.0]), 5.0))
        >>> trace = pyro.poutine.trace(model).get_trace()
        >>> trace.nodes["direction_normal"]["value"].shape
        torch.Size([3])
    """

    def apply(self, msg: ReparamMessage) -> ReparamResult:
        """Return the site as a deterministic one whose log density is that of p / uniform."""
        fn: Any = msg["fn"]
        value = msg["value"]
        if msg["is_observed"]:
            return {"fn": fn, "value": value, "is_observed": True}
        if not is_sphere(fn.support):
            raise ValueError(
                f"SphereReparam is for sites on the sphere, but {msg['name']!r} has the support"
                f" {fn.support}; take the site out of the config."
            )
        dim = fn.event_shape[-1]
        standard = dist.Normal(_zeros(fn), 1.0).to_event(fn.event_dim)
        # Any vector in the direction of a given initial value does.
        given = None if value is None else value * dim**0.5
        x = sample(f"{msg['name']}_normal", standard, obs=given, infer={"is_observed": False})
        if value is None:
            value = normalize(x)
        log_uniform = -log_area(dim) * fn.event_shape[:-1].numel()
        log_ratio = fn.log_prob(value) - log_uniform
        new_fn = dist.Delta(value, log_ratio, event_dim=fn.event_dim)
        return {"fn": new_fn, "value": value, "is_observed": True}


def _zeros(fn: dist.TorchDistribution) -> Tensor:
    """Build zeros of the shape, dtype and device of the samples of ``fn``."""
    base = fn
    while isinstance(base, dist.Independent):
        base = base.base_dist
    like = getattr(base, "loc", None)
    if like is None:
        with torch.no_grad():
            like = base.sample()
    return torch.zeros(fn.shape(), dtype=like.dtype, device=like.device)
