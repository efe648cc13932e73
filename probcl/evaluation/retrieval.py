"""Retrieval: how well the nearest of a set of items are of a query's class."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probcl.checks import as_labels, as_matrix, check_count
from probcl.evaluation.progress import track
from probcl.evaluation.subsets import evenly_spaced

__all__ = ["Retrieval", "map_at_r", "retrieval"]

_BLOCK = 2**20  # cosines that are sorted at once


class Retrieval(NamedTuple):
    """Means over queries. ``R`` is the number of items of a query's class.

    Attributes:
        recall_at_1: Share of the queries whose nearest item is of their class.
        recall: Share of them that have an item of their class among the ``k`` nearest.
        r_precision: Share of the ``R`` nearest that are of the class.
        map_at_r: Average precision among the ``R`` nearest.
        mean_average_precision: Average precision over all items.
        mean_reciprocal_rank: One divided by the place of the first item of the class.
        queries: The number of queries that the means are over.
    """

    recall_at_1: float
    recall: float
    r_precision: float
    map_at_r: float
    mean_average_precision: float
    mean_reciprocal_rank: float
    queries: int


def retrieval(
    query: Any,
    labels: Any,
    reference: Any = None,
    reference_labels: Any = None,
    *,
    k: int = 10,
    leave_out_lone: bool = False,
    queries: int | None = None,
) -> Retrieval:
    """Rank a set of items for each query by their inner product, for unit vectors the cosine.

    Among equal ones those of other classes come first.

    Args:
        query: Unit vectors, shape ``(N, d)``.
        labels: Classes of the queries, ``(N,)``.
        reference: The set, shape ``(M, d)``; by default the queries, each without itself.
        reference_labels: Classes of the set, ``(M,)``; they come with it.
        k: For ``recall``.
        leave_out_lone: Whether queries whose class no item has are left out; else they count 0.
        queries: Take at most so many, evenly spaced; None for all.

    Raises:
        ValueError: If a set comes without its classes, every query is left out, or an argument
            does not fit.

    References:
        Musgrave et al. (2020), A metric learning reality check. https://arxiv.org/abs/2003.08505

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, -0.8], [0.0, 1.0]])
        >>> found = retrieval(z, torch.tensor([0, 0, 0, 1]))
        >>> found.recall_at_1, found.map_at_r, found.queries
        (0.75, 0.625, 4)
        >>> retrieval(z, torch.tensor([0, 0, 0, 1]), leave_out_lone=True).recall_at_1
        1.0
    """
    if (reference is None) != (reference_labels is None):
        raise ValueError("reference and reference_labels must be given together, or neither.")
    own, y = as_matrix("query", query), as_labels("labels", labels, len(query))
    itself = reference is None
    given = own if itself else reference
    others = as_matrix("reference", given, least=1 + itself, dim=own.shape[1]).to(own.dtype)
    classes = y if itself else as_labels("reference_labels", reference_labels, len(others))
    size = classes.bincount(minlength=int(y.max()) + 1)[y] - int(itself)
    rows = torch.arange(len(own))
    if leave_out_lone:
        rows = rows[size > 0]
        if not len(rows):
            raise ValueError("leave_out_lone leaves no query: no item is of the class of one.")
    if queries is not None:
        rows = rows[evenly_spaced(len(rows), check_count("queries", queries))]
    check_count("k", k)
    total = torch.zeros(6, dtype=torch.double)
    for part in track("retrieval", rows.split(max(1, _BLOCK // len(others)))):
        cosine = own[part] @ others.T
        same = classes == y[part, None]
        lower = cosine.masked_fill(same, -torch.inf)
        if itself:
            same[torch.arange(len(part)), part] = False  # the query is no item
        most = max(int(size[part].max()), 1)
        place = _places(cosine.masked_fill_(~same, -torch.inf), lower, most)
        total += _measures(place, size[part], k).sum(1)
    return Retrieval._make([*(total / len(rows)).tolist(), len(rows)])


def _places(same: Tensor, others: Tensor, most: int) -> Tensor:
    """Return the places of the items of a query's class, the nearest first, ``(N, most)``.

    Args:
        same: Cosines ``(N, M)`` to the items of the query's class, minus infinity for the rest.
        others: Those to items of other classes, minus infinity for the rest.
        most: How many places are asked for; a query with fewer items has what there is, and more.
    """
    # NumPy sorts numbers alone, without their places, in a tenth of PyTorch's time.
    found = torch.from_numpy(np.sort(same.numpy())).flip(-1)[:, :most].contiguous()
    ahead = torch.from_numpy(np.sort(others.numpy()))
    before = ahead.shape[1] - torch.searchsorted(ahead, found)
    return before + torch.arange(1, found.shape[1] + 1)


def map_at_r(embedding: Any, labels: Any, queries: int = 1000) -> tuple[float, int]:
    """Return the mean average precision among the ``R`` nearest, ``R`` the others of the class.

    An item whose class has no other member finds none, and counts as 0.

    Args:
        embedding: Unit vectors, shape ``(N, d)``.
        labels: Classes, shape ``(N,)``.
        queries: The mean is over at most so many items, evenly spaced.

    Returns:
        The mean, and the number of items that it is over.

    References:
        Musgrave et al. (2020), A metric learning reality check. https://arxiv.org/abs/2003.08505

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, -0.8], [0.0, 1.0]])
        >>> map_at_r(z, torch.tensor([0, 0, 0, 1]))
        (0.625, 4)
    """
    z = as_matrix("embedding", embedding, least=2)
    found = retrieval(z, labels, queries=queries)
    return found.map_at_r, found.queries


def _measures(place: Tensor, size: Tensor, k: int) -> Tensor:
    """Return each measure ``(6, N)`` from the places ``(N, P)`` of a query's ``size`` items."""
    order = torch.arange(1, place.shape[1] + 1)
    there = order <= size[:, None]
    precision = (order / place.double()).masked_fill(~there, 0.0)
    near = there & (place <= size[:, None])
    first, found, count = place[:, 0], there[:, 0], size.clamp_min(1)
    return torch.stack([
        (found & (first == 1)).double(),
        (found & (first <= k)).double(),
        near.sum(-1) / count.double(),
        (precision * near).sum(-1) / count,
        precision.sum(-1) / count,
        found / first.double(),
    ])  # fmt: skip
