"""The divergence of a latent's posterior from its prior, by the estimator of choice."""

from typing import Any, Literal

import torch
from pyro.distributions import Categorical, Delta
from torch import Tensor
from torch.distributions import kl_divergence

from probcl.distributions import HypersphericalUniform, ProjectedNormal
from probcl.distributions.kl import gaussian_bound

__all__ = ["KL", "divergence"]

KL = Literal["auto", "exact", "gaussian_bound", "monte_carlo"]


def divergence(name: str, q: Any, p: Any, z: Tensor, estimator: KL) -> Tensor:
    """Return KL(q || p), or an estimate or bound of it, of the distributions' batch shape.

    Args:
        name: Name of the latent site, for messages.
        q: Posterior.
        p: Prior.
        z: Sample of the posterior.
        estimator: As for ``ContrastiveELBO``; a posterior without reparametrised samples has its
            exact divergence whatever is asked for.

    Raises:
        ValueError: If the estimator does not fit the pair.
        NotImplementedError: If ``q`` has no reparametrised samples and no exact divergence.
    """
    if q.has_rsample and estimator == "gaussian_bound":
        if not (isinstance(q, ProjectedNormal) and isinstance(p, HypersphericalUniform)):
            raise ValueError(
                "kl='gaussian_bound' is for a ProjectedNormal against a uniform prior, got "
                f"{type(q).__name__} against {type(p).__name__} at site {name!r}: use kl='auto'."
            )
        return gaussian_bound(q)
    exact = None if q.has_rsample and estimator == "monte_carlo" else _exact(q, p)
    if exact is not None:
        return exact
    if not q.has_rsample:
        raise NotImplementedError(
            f"ContrastiveELBO cannot differentiate the guide's site {name!r}: a "
            f"{type(q).__name__} has no reparametrised samples, and no exact divergence from "
            f"{type(p).__name__} is registered. Use a posterior with has_rsample=True."
        )
    if estimator == "exact":
        raise ValueError(
            f"no exact divergence of {type(q).__name__} from {type(p).__name__} is registered, for "
            f"site {name!r}: use kl='auto'."
        )
    return q.log_prob(z) - p.log_prob(z)


def _exact(q: Any, p: Any) -> Tensor | None:
    """Return the divergence where there is a formula."""
    if isinstance(q, Categorical) and isinstance(p, Categorical):
        # Stock PyTorch gives infinity where a probability underflows, though its log does not.
        ratio = (q.logits - p.logits).masked_fill(q.logits == -torch.inf, 0.0)
        return (q.logits.exp() * ratio).sum(-1)
    if isinstance(q, Delta):
        return q.log_density - p.log_prob(q.v)  # an AutoGuide's density of what it transforms
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None
