"""Agreement with people: does uncertainty rise where they disagree?"""

from typing import Any

import torch
from torch import Tensor

from probcl.checks import as_matrix, as_probabilities, as_values
from probcl.evaluation.ood import rank_correlation

__all__ = ["human_cross_entropy", "human_entropy", "human_entropy_correlation"]


def human_entropy(votes: Any) -> Tensor:
    """Return the entropy of the people's votes for each item, in nats; shape ``(N,)``.

    Args:
        votes: How many people named each class, shape ``(N, C)``.

    Raises:
        ValueError: If an item has no vote, or a negative one.

    Example:
        >>> human_entropy(torch.tensor([[4, 0], [2, 2]]))
        tensor([0.0000, 0.6931], dtype=torch.float64)
    """
    return torch.special.entr(_shares(votes)).sum(-1)


def human_entropy_correlation(score: Any, votes: Any) -> float:
    """Return Spearman's correlation of a score with the entropy of people's votes.

    Where one of the two is constant there are no ranks, and the correlation is 0.

    Args:
        score: Uncertainty, shape ``(N,)``.
        votes: How many people named each class, shape ``(N, C)``.

    References:
        Peterson et al. (2019), CIFAR-10H. https://arxiv.org/abs/1908.07086
    """
    entropy = human_entropy(votes)
    return rank_correlation(as_values("score", score, len(entropy)), entropy)


def human_cross_entropy(probabilities: Any, votes: Any) -> float:
    """Return the mean cross-entropy of the predictions to the people's votes, in nats.

    Args:
        probabilities: Shape ``(N, C)``; below 1e-38 they count as that.
        votes: How many people named each class, shape ``(N, C)``.

    References:
        Peterson et al. (2019), CIFAR-10H. https://arxiv.org/abs/1908.07086
    """
    shares = _shares(votes)
    log_p = as_probabilities("probabilities", probabilities, len(shares)).clamp_min(1e-38).log()
    return -(shares * log_p).sum(-1).mean().item()


def _shares(votes: Any) -> Tensor:
    counts = as_matrix("votes", votes).double()
    if counts.min() < 0:
        raise ValueError(f"votes must not be negative, got {counts.min().item():g}.")
    totals = counts.sum(-1, keepdim=True)
    empty = (totals[:, 0] == 0).nonzero()
    if len(empty):
        raise ValueError(f"votes must hold a vote for each item, row {int(empty[0])} has none.")
    return counts / totals
