"""Nearest neighbours on the sphere, exact, in blocks that fit into little memory."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Neighbours", "nearest"]

# Cosines that are held at once: 64 MiB in float32.
_BLOCK = 2**24


class Neighbours(NamedTuple):
    """The nearest of a set to each of ``N`` directions, the nearest first.

    Attributes:
        cosine: Shape ``(N, k)``.
        row: Rows of the set, shape ``(N, k)``.
    """

    cosine: Tensor
    row: Tensor


def nearest(query: Tensor, reference: Tensor | None = None, k: int = 1) -> Neighbours:
    """Find the ``k`` vectors of a set with the largest inner product, for unit vectors the cosine.

    Among equal ones the order is not defined.

    Args:
        query: Shape ``(N, d)``.
        reference: The set, shape ``(M, d)``; by default the query itself, where none is its own
            neighbour.
        k: Number of neighbours, at most ``M``, or ``N - 1`` without a reference.

    Raises:
        ValueError: If ``k`` is out of range.

    Example:
        >>> nearest(torch.eye(3), torch.tensor([[0.6, 0.8, 0.0]])).cosine[:, 0]
        tensor([0.6000, 0.8000, 0.0000])
    """
    others = query if reference is None else reference
    most = len(others) - (reference is None)
    if not 1 <= k <= most:
        raise ValueError(f"k must be from 1 to {most}, the number of others, got {k}.")
    rows = max(1, _BLOCK // len(others))
    parts = []
    for start in range(0, len(query), rows):
        cosine = query[start : start + rows] @ others.T
        if reference is None:
            own = torch.arange(len(cosine))
            cosine[own, own + start] = -torch.inf
        parts.append(cosine.topk(k, dim=-1))
    return Neighbours(torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts]))
