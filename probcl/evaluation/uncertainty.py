"""Uncertainty scores: larger means less certain."""

from contextlib import suppress

import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.distributions import Distribution

__all__ = [
    "LIBRARY_SCORE",
    "SCORES",
    "mean_resultant_length",
    "nearest_cosine",
    "posterior_scores",
    "severity_correlation",
    "shift_auroc",
]

#: The posterior's own score, free of the joint scale of its parameters.
LIBRARY_SCORE = "entropy"

#: What each score is.
SCORES = {
    "entropy": "entropy of the posterior over the sphere (nats)",
    "log_det_k": "log det K, the paper's score; it changes with the joint scale of (mu, K), "
    "which the posterior does not",
    "nearest_cosine": "1 - largest cosine to a training embedding (needs no posterior)",
    "max_probability": "1 - largest probability of the linear probe (needs labels)",
}


def posterior_scores(posterior: Distribution) -> dict[str, Tensor]:
    """Return what a posterior says of its own uncertainty.

    Args:
        posterior: Distribution over the sphere, of batch shape ``(N,)``.

    Returns:
        Scores by name, each of shape ``(N,)``; none for a point.
    """
    scores = {}
    with suppress(NotImplementedError):
        scores["entropy"] = posterior.entropy()
    if hasattr(posterior, "loc") and hasattr(posterior, "scale"):
        variances = posterior.scale.square().expand(posterior.loc.shape)
        scores["log_det_k"] = variances.log().sum(-1)
    return scores


def mean_resultant_length(posterior: Distribution, num_samples: int = 64) -> Tensor:
    """Return the length of E[z], in closed form or from samples; shape ``(N,)``.

    Args:
        posterior: Distribution over the sphere, of batch shape ``(N,)``.
        num_samples: Samples where there is no closed form. The square of the length is then the
            mean cosine of two different ones, without bias.
    """
    with suppress(AttributeError, NotImplementedError):
        return posterior.mean_resultant_length  # type: ignore[attr-defined]
    total = posterior.sample((num_samples,)).sum(0).square().sum(-1)
    return ((total - num_samples) / (num_samples * (num_samples - 1))).clamp_min(0).sqrt()


def nearest_cosine(embedding: Tensor, train: Tensor, block: int = 4096) -> Tensor:
    """Return ``1 - max_j z_i . t_j``, the distance of embeddings ``(N, d)`` to a training set.

    Args:
        embedding: Unit vectors, shape ``(N, d)``.
        train: Unit vectors of the training set, shape ``(M, d)``.
        block: Number of embeddings compared at a time.
    """
    parts = [1 - (part @ train.T).amax(-1) for part in embedding.split(block)]
    return torch.cat(parts)


def shift_auroc(familiar: Tensor, unfamiliar: Tensor) -> float:
    """Return the probability that an unfamiliar input's score exceeds a familiar one's."""
    is_unfamiliar = torch.cat([torch.zeros(len(familiar)), torch.ones(len(unfamiliar))])
    return float(roc_auc_score(is_unfamiliar, torch.cat([familiar, unfamiliar])))


def severity_correlation(scores: dict[int, Tensor]) -> float:
    """Return Spearman's rank correlation of the score with the severity, over all images.

    A constant score has no ranks: it tells nothing of the severity, and gets 0.

    Args:
        scores: Scores of the same images at each severity, each of shape ``(N,)``.
    """
    severity = torch.cat([torch.full((len(s),), level) for level, s in scores.items()])
    values = torch.cat(list(scores.values()))
    if values.min() == values.max():
        return 0.0
    return float(spearmanr(severity, values).statistic)
