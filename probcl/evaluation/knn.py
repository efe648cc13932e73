"""Nearest neighbours on the sphere: exact search in blocks, and their vote."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probcl.checks import as_labels, as_matrix, check_temperature
from probcl.evaluation.progress import track

__all__ = [
    "Neighbours", "nearest", "nearest_is_wrong", "neighbour_vote", "recall_at_1",
    "vote_entropy",
]  # fmt: skip

_GROUP = 32
_SIDE = 512


class Neighbours(NamedTuple):
    """Cosines to the nearest of a set, and their rows there, the nearest first, ``(N, k)`` each."""

    cosine: Tensor
    row: Tensor


def nearest(query: Any, reference: Any = None, k: int = 1, block: int = 2**22) -> Neighbours:
    """Find the ``k`` vectors of a set with the largest inner product, for unit vectors the cosine.

    Among equal ones the order is not defined.

    Args:
        query: Shape ``(N, d)``.
        reference: The set, shape ``(M, d)``; by default the query itself, where none is its own
            neighbour.
        k: Number of neighbours, at most ``M``, or ``N - 1`` without a reference.
        block: How many inner products are held at once: 16 MiB in float32 by default.

    Raises:
        ValueError: If ``k`` is out of range, or an argument does not fit.

    Example:
        >>> nearest(torch.eye(3), torch.tensor([[0.6, 0.8, 0.0]])).cosine[:, 0]
        tensor([0.6000, 0.8000, 0.0000])
    """
    own = as_matrix("query", query)
    dim = own.shape[1]
    others = own if reference is None else as_matrix("reference", reference, dim=dim).to(own.dtype)
    most = len(others) - (reference is None)
    if not 1 <= k <= most:
        raise ValueError(f"k must be from 1 to {most}, the number of others, got {k}.")
    rows = max(1, block // len(others))
    if reference is None and k == 1:
        return _nearest_other(own, max(1, min(_SIDE, math.isqrt(block))))
    # In place: small results between large temporaries would keep the memory of these.
    found = Neighbours(own.new_empty(len(own), k), torch.empty(len(own), k, dtype=torch.long))
    for start in track("nearest neighbours", range(0, len(own), rows)):
        cosine = own[start : start + rows] @ others.T
        if reference is None:
            itself = torch.arange(len(cosine))
            cosine[itself, itself + start] = -torch.inf
        for values, out in zip(_largest(cosine, k), found, strict=True):
            out[start : start + rows] = values
    return found


def _largest(values: Tensor, k: int) -> Neighbours:
    """Return what ``topk`` does, with the ``k`` largest sought in the ``k`` best groups alone."""
    groups = values.shape[1] // _GROUP
    if groups <= k:
        return Neighbours(*values.topk(k, dim=-1))
    many = groups * _GROUP
    best = values[:, :many].unflatten(1, (_GROUP, groups)).amax(1).topk(k, dim=-1).indices
    columns = (best[:, None] + groups * torch.arange(_GROUP)[:, None]).flatten(1)
    rest = torch.arange(many, values.shape[1]).expand(len(values), -1)
    columns = torch.cat([columns, rest], 1)
    found, place = values.gather(1, columns).topk(k, dim=-1)
    return Neighbours(found, columns.gather(1, place))


def _nearest_other(own: Tensor, side: int) -> Neighbours:
    """Return the nearest of the others, each pair of items looked at once, in square tiles.

    The largest of a tile is found several times as fast as its place, which only the nearest
    needs: so the tiles that hold these are looked through again.
    """
    parts = own.split(side)
    best = own.new_full((len(own),), -torch.inf)
    tile = torch.zeros(len(own), dtype=torch.long)
    tiles = list(zip(parts, best.split(side), tile.split(side), strict=True))
    for first in track("nearest neighbours", range(len(parts))):
        for second in range(first, len(parts)):
            product = parts[first] @ parts[second].T
            if first == second:
                product.diagonal().fill_(-torch.inf)
            for dim, (_, value, place), other in (
                (1, tiles[first], second), (0, tiles[second], first)
            ):  # fmt: skip
                largest = product.amax(dim)
                place.masked_fill_(largest > value, other)
                torch.maximum(value, largest, out=value)
    found = Neighbours(own.new_empty(len(own), 1), torch.empty(len(own), 1, dtype=torch.long))
    for number, part in enumerate(parts):
        items = (tile == number).nonzero()[:, 0]
        if not len(items):
            continue
        product, start = own[items] @ part.T, number * side
        itself = items // side == number
        product[itself, items[itself] - start] = -torch.inf
        value, place = product.max(1, keepdim=True)
        found.cosine[items], found.row[items] = value, place + start
    return found


def neighbour_vote(
    neighbours: Neighbours,
    labels: Any,
    num_classes: int | None = None,
    k: int | None = None,
    temperature: float | None = None,
) -> Tensor:
    """Return the share ``(N, C)`` of the vote that each class has among the nearest neighbours.

    ``argmax(-1)`` is the classification; of classes with equal shares it takes the smallest number,
    as scikit-learn does.

    Args:
        neighbours: Of ``N`` items, from ``nearest``.
        labels: Classes of the set that the neighbours are of, shape ``(M,)``.
        num_classes: Number ``C`` of classes; by default the largest label and one.
        k: How many of the neighbours vote; by default all.
        temperature: With one, a neighbour has the weight ``exp(cosine / temperature)``; without,
            all have the same.

    Raises:
        ValueError: If ``k`` or ``temperature`` is out of range, or an argument does not fit.

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
    classes = as_labels("labels", labels, num_classes=num_classes)
    cosine, votes = neighbours.cosine[:, :k], classes[neighbours.row[:, :k]]
    count = int(classes.max()) + 1 if num_classes is None else num_classes
    weight = torch.ones_like(cosine)
    if temperature is not None:
        check_temperature(temperature)
        weight = cosine / temperature
    weight = weight.softmax(-1)  # equal logits, equal weights
    return weight.new_zeros(len(votes), count).scatter_add_(1, votes, weight)


def vote_entropy(shares: Any) -> Tensor:
    """Return the entropy of the shares ``(N, C)`` of a vote, in nats; shape ``(N,)``."""
    return torch.special.entr(torch.as_tensor(shares)).sum(-1)


def nearest_is_wrong(embedding: Any, labels: Any) -> Tensor:
    """Tell for each of the unit vectors ``(N, d)`` if its nearest other is of another class.

    Raises:
        ValueError: If there are fewer than two items, or an argument does not fit.
    """
    z = as_matrix("embedding", embedding, least=2)
    y = as_labels("labels", labels, len(z))
    return y[nearest(z).row[:, 0]] != y


def recall_at_1(embedding: Any, labels: Any) -> float:
    """Return the share of unit vectors ``(N, d)`` whose nearest other is of their class.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, -0.8], [0.0, 1.0]])
        >>> recall_at_1(z, torch.tensor([0, 0, 0, 1]))
        0.75
    """
    return 1 - nearest_is_wrong(embedding, labels).double().mean().item()
