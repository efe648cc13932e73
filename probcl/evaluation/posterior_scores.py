"""What a posterior says of its own uncertainty. Larger: less certain."""

from contextlib import suppress

import torch
from torch import Tensor
from torch.distributions import Distribution

from probcl.randomness import seeded

__all__ = ["draw", "mean_resultant_length", "posterior_scores"]

_CAP = 0.95


def draw(posterior: Distribution, count: int = 64) -> Tensor:
    """Draw from a posterior, always with the same seed; the global random state is left alone.

    Args:
        posterior: Distribution over the sphere, of batch shape ``(N,)``.
        count: Number ``S`` of samples of each.

    Returns:
        Shape ``(S, N, d)``.
    """
    with seeded(0), torch.no_grad():
        return posterior.sample(torch.Size([count]))


def mean_resultant_length(posterior: Distribution, samples: Tensor | None = None) -> Tensor:
    """Return the length of E[z], in closed form or from samples; shape ``(N,)``.

    Args:
        posterior: Distribution over the sphere, of batch shape ``(N,)``.
        samples: Used where there is no closed form, shape ``(S, N, d)``; drawn if not given. The
            square of the length is then the mean cosine of two different ones, without bias.
    """
    with suppress(AttributeError, NotImplementedError):
        return posterior.mean_resultant_length  # type: ignore[attr-defined]
    z = draw(posterior) if samples is None else samples
    total = z.sum(0).square().sum(-1)
    return ((total - len(z)) / (len(z) * (len(z) - 1))).clamp_min(0).sqrt()


def posterior_scores(posterior: Distribution, samples: Tensor | None = None) -> dict[str, Tensor]:
    """Return the scores that follow from a posterior alone.

    ``entropy``, ``mean_resultant_length``, ``cap_radius``; ``log_det_k`` of projected normals, the
    score of the VCL paper, which is not invariant to the joint scaling of ``(mu, K)`` to
    ``(c mu, c^2 K)``, while the posterior is, and was measured to have the wrong sign on many
    questions; ``concentration`` where there is one. ``SCORES`` says what each is.

    Args:
        posterior: Distribution over the sphere, of batch shape ``(N,)``.
        samples: Of it, shape ``(S, N, d)``; drawn if not given.

    Returns:
        Scores by name, each of shape ``(N,)``; none for a point.

    Example:
        >>> from probcl.distributions import VonMisesFisher
        >>> posterior = VonMisesFisher(torch.eye(3), torch.tensor([1.0, 10.0, 100.0]))
        >>> scores = posterior_scores(posterior)
        >>> list(scores)
        ['entropy', 'mean_resultant_length', 'cap_radius', 'concentration']
        >>> bool((scores["cap_radius"].diff() < 0).all())
        True
    """
    z = draw(posterior) if samples is None else samples
    if torch.equal(z[0], z[-1]):  # a point
        return {}
    scores: dict[str, Tensor] = {}
    with suppress(NotImplementedError):
        scores["entropy"] = posterior.entropy()
    scores["mean_resultant_length"] = 1 - mean_resultant_length(posterior, z)
    direction = torch.nn.functional.normalize(getattr(posterior, "loc", z.sum(0)), dim=-1)
    # An angle from its chord: arccos would lose half the digits of a small one.
    chord = torch.linalg.vector_norm(z - direction, dim=-1)
    scores["cap_radius"] = 2 * (_quantile(chord, _CAP) / 2).clamp(max=1).asin()
    covariance = getattr(posterior, "covariance", None)
    if covariance is not None:
        half = covariance.half_log_det(posterior.event_shape[0])
        scores["log_det_k"] = (2 * half).expand(posterior.batch_shape)
    if hasattr(posterior, "concentration"):
        scores["concentration"] = -posterior.concentration
    # A distribution of the user's own may have something else by one of these names.
    return {n: value for n, value in scores.items() if value.shape == posterior.batch_shape}


def _quantile(values: Tensor, level: float) -> Tensor:
    """Return the ceil(level S)-th smallest of ``(S, N)``: faster than to interpolate."""
    rank = min(len(values), -int(-level * len(values) // 1))
    return values.kthvalue(rank, dim=0).values
