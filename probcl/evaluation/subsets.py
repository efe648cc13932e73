"""Some of the items: those that stand for all of them, and those that are at work at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["evenly_spaced", "held_out_rows", "in_blocks"]

_ROWS = 4096


def evenly_spaced(count: int, most: int) -> Tensor:
    """Return at most so many rows of ``count``, evenly spaced from the first to the last.

    Example:
        >>> evenly_spaced(9, 3)
        tensor([0, 4, 8])
    """
    # In float64: float32 has not every row beyond 16 million, and would leave the last of them.
    return torch.linspace(0, count - 1, min(most, count), dtype=torch.double).round().long()


def held_out_rows(count: int, one_in: int) -> tuple[Tensor, Tensor]:
    """Return rows of ``count``, ascending: one in so many at random, held out, and the rest.

    Where fewer than two would be held out, both are all.

    Example:
        >>> held, rest = held_out_rows(100, 10)
        >>> len(held), len(rest)
        (10, 90)
    """
    if count < 2 * one_in:
        return torch.arange(count), torch.arange(count)
    # Not every tenth: classes may come in turn.
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    held, rest = order.split([count // one_in, count - count // one_in])
    return held.sort().values, rest.sort().values


def in_blocks(compute: Callable[..., Tensor], *items: Tensor) -> Tensor:
    """Return ``compute`` of items, ``(N, *)`` each, of some at a time: what it takes stays small.

    Example:
        >>> in_blocks(lambda part: part.square().sum(-1), torch.ones(3, 2))
        tensor([2., 2., 2.])
    """
    parts = zip(*(x.split(_ROWS) for x in items), strict=True)
    first = compute(*next(parts))
    # In place: small results between large temporaries would keep the memory of these.
    found = first.new_empty(len(items[0]), *first.shape[1:])
    found[: len(first)] = first
    for part, out in zip(parts, found.split(_ROWS)[1:], strict=True):
        out.copy_(compute(*part))
    return found
