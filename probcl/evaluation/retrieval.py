"""Retrieval: are the images nearest to one of its class?"""

from typing import Any

import torch
from torch import Tensor

from probcl.checks import as_labels, as_matrix, require_two
from probcl.evaluation.nearest import nearest

__all__ = ["map_at_r", "nearest_is_wrong", "recall_at_1"]


def nearest_is_wrong(embedding: Any, labels: Any) -> Tensor:
    """Tell for each item whether its nearest other item is of another class; shape ``(N,)``.

    Args:
        embedding: Unit vectors, shape ``(N, d)``.
        labels: Classes, shape ``(N,)``.

    Raises:
        ValueError: If there are fewer than two items, or an argument does not fit.
    """
    z = as_matrix("embedding", embedding)
    require_two("embedding", z)
    y = as_labels("labels", labels, len(z))
    return y[nearest(z).row[:, 0]] != y


def recall_at_1(embedding: Any, labels: Any) -> float:
    """Return the share of items whose nearest other item is of their class.

    Args:
        embedding: Unit vectors, shape ``(N, d)``.
        labels: Classes, shape ``(N,)``.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, -0.8], [0.0, 1.0]])
        >>> recall_at_1(z, torch.tensor([0, 0, 0, 1]))
        0.75
    """
    return 1 - nearest_is_wrong(embedding, labels).double().mean().item()


def map_at_r(embedding: Any, labels: Any, queries: int = 1000) -> tuple[float, int]:
    """Return the mean average precision among the ``R`` nearest, ``R`` the others of the class.

    An item whose class has no other member finds none, and counts as 0.

    Args:
        embedding: Unit vectors, shape ``(N, d)``.
        labels: Classes, shape ``(N,)``.
        queries: Largest number of items that the mean is over; they are evenly spaced.

    Returns:
        The mean, and the number of items that it is over.

    References:
        Musgrave et al. (2020), A metric learning reality check. https://arxiv.org/abs/2003.08505

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, -0.8], [0.0, 1.0]])
        >>> map_at_r(z, torch.tensor([0, 0, 0, 1]))
        (0.625, 4)
    """
    z = as_matrix("embedding", embedding)
    require_two("embedding", z)
    y = as_labels("labels", labels, len(z))
    rows = torch.linspace(0, len(z) - 1, min(queries, len(z))).round().long()
    others = y.bincount()[y] - 1
    scores = []
    for part in rows.split(64):
        cosine = z[part] @ z.T
        cosine[torch.arange(len(part)), part] = -torch.inf
        r = others[part]
        found = cosine.topk(max(1, int(r.max())), dim=-1).indices
        place = torch.arange(1, found.shape[1] + 1)
        hit = ((y[found] == y[part][:, None]) & (place <= r[:, None])).double()
        precision = hit.cumsum(-1) / place
        scores.append((precision * hit).sum(-1) / r.clamp_min(1))
    return torch.cat(scores).mean().item(), len(rows)
