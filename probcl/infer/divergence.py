"""The divergence of a latent's posterior from its prior, by the estimator of choice."""

from typing import Any, Literal

import torch
from pyro.distributions import Categorical, Delta, Independent
from torch import Tensor
from torch.distributions import kl_divergence

from probcl.distributions import HypersphericalUniform, ProjectedNormal
from probcl.distributions.kl import gaussian_bound

__all__ = ["KL", "divergence"]

KL = Literal["auto", "exact", "gaussian_bound", "monte_carlo"]


def divergence(name: str, q: Any, p: Any, estimator: KL) -> Tensor | None:
    """Return KL(q || p), or a bound of it, of the distributions' batch shape.

    Args:
        name: Name of the latent site, for messages.
        q: Posterior.
        p: Prior.
        estimator: As for ``ContrastiveELBO``; a posterior without reparametrised samples has its
            exact divergence whatever is asked for.

    Returns:
        The divergence; None if the densities at the sample are to stand for it, which for a point
        is exact.

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
    if _is_point(q) or (q.has_rsample and estimator == "monte_carlo"):
        return None
    exact = _exact(q, p)
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
    return None


def _is_point(q: Any) -> bool:
    """Return whether all of a posterior lies at its sample: what an AutoGuide transforms."""
    while isinstance(q, Independent):
        q = q.base_dist
    return isinstance(q, Delta)


def _exact(q: Any, p: Any) -> Tensor | None:
    """Return the divergence where there is a formula."""
    if isinstance(q, Categorical) and isinstance(p, Categorical):
        # Stock PyTorch gives infinity where a probability underflows, though its log does not.
        ratio = (q.logits - p.logits).masked_fill(q.logits == -torch.inf, 0.0)
        return (q.logits.exp() * ratio).sum(-1)
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None
