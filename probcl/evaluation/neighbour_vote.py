"""The vote of the nearest neighbours: k-NN classification, and how divided the vote is."""

import torch
from torch import Tensor

from probcl.evaluation.nearest import Neighbours

__all__ = ["neighbour_vote", "vote_entropy"]


def neighbour_vote(
    neighbours: Neighbours,
    labels: Tensor,
    num_classes: int | None = None,
    k: int | None = None,
    temperature: float | None = None,
) -> Tensor:
    """Return the share of the vote that each class has among the nearest neighbours.

    ``argmax(-1)`` is the classification; of classes with equal shares it takes the smallest number,
    as scikit-learn does.

    Args:
        neighbours: Of ``N`` items, from ``nearest``.
        labels: Classes of the set that the neighbours are of, shape ``(M,)``.
        num_classes: Number ``C`` of classes; by default the largest label and one.
        k: The ``k`` nearest of the neighbours vote; by default all.
        temperature: With one, a neighbour has the weight ``exp(cosine / temperature)``; without,
            all have the same.

    Returns:
        Shares, shape ``(N, C)``.

    Raises:
        ValueError: If ``k`` is out of range.

    References:
        Wu et al. (2018), Non-parametric instance discrimination. https://arxiv.org/abs/1805.01978

    Example:
        >>> near = Neighbours(torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([[2, 0, 1]]))
        >>> neighbour_vote(near, torch.tensor([0, 0, 1]))
        tensor([[0.6667, 0.3333]])
    """
    most = neighbours.cosine.shape[-1]
    if k is not None and not 1 <= k <= most:
        raise ValueError(f"k must be from 1 to {most}, the neighbours at hand, got {k}.")
    cosine, votes = neighbours.cosine[:, :k], labels[neighbours.row[:, :k]]
    count = int(labels.max()) + 1 if num_classes is None else num_classes
    weight = torch.ones_like(cosine) if temperature is None else cosine / temperature
    weight = weight.softmax(-1)  # equal logits, equal weights
    return weight.new_zeros(len(votes), count).scatter_add_(1, votes, weight)


def vote_entropy(shares: Tensor) -> Tensor:
    """Return the entropy of the shares ``(N, C)`` of a vote, in nats; shape ``(N,)``."""
    return torch.special.entr(shares).sum(-1)
