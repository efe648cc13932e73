"""Collectives with exact gradients, so that an objective is that of the global batch.

Each is differentiated for the sum of the losses of all ranks. A loss of the global batch, or the
mean of each rank's share, then has its exact gradient once gradients are averaged over ranks, as
DistributedDataParallel does. With ``gather=False``, or alone, they do nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

__all__ = [
    "all_gather", "all_reduce", "check_same_batch", "is_distributed", "mean_over_ranks",
    "number_classes", "of_this_rank", "rank_and_world",
]  # fmt: skip

_Collective = Callable[[Tensor], Tensor]

# Their names since torch 2.14, which warns of the older ones.
GATHER, SCATTER = (
    ("all_gather_single", "reduce_scatter_single")
    if hasattr(dist, "all_gather_single")
    else ("all_gather_into_tensor", "reduce_scatter_tensor")
)


def is_distributed(gather: bool) -> bool:
    """Return whether there are other ranks, and the caller wants them heard."""
    return gather and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank_and_world(gather: bool) -> tuple[int, int]:
    """Return this process's rank and the number of ranks; 0 and 1 where it stands alone."""
    return (dist.get_rank(), dist.get_world_size()) if is_distributed(gather) else (0, 1)


def all_gather(x: Tensor, gather: bool = True) -> Tensor:
    """Join tensors ``(N, *)`` of all ranks, in their order, along the first dimension.

    The gradient is the sum over ranks of what each says of this rank's part (a reduce-scatter).
    """
    return _Exchange.apply(x, _gathered, _scattered) if is_distributed(gather) else x


def of_this_rank(x: Tensor, dim: int = 0, gather: bool = True) -> Tensor:
    """Return this rank's part of what ``all_gather`` has joined, along a dimension."""
    rank, world = rank_and_world(gather)
    return x.chunk(world, dim)[rank]


def all_reduce(x: Tensor, gather: bool = True) -> Tensor:
    """Sum tensors of one shape over all ranks; the gradient is summed too."""
    return _Exchange.apply(x, _summed, _summed) if is_distributed(gather) else x


def mean_over_ranks(x: Tensor, gather: bool = True) -> Tensor:
    """Average a tensor over all ranks, with its gradient."""
    return all_reduce(x, gather) / rank_and_world(gather)[1]


def check_same_batch(x: Tensor, gather: bool = True) -> None:
    """Raise ``ValueError`` on every rank unless the first dimension is the same on all of them."""
    if not is_distributed(gather):
        return
    lengths = _gathered(torch.tensor([len(x)], device=x.device))
    if (lengths != len(x)).any():
        raise ValueError(
            f"every rank must hold a batch of the same size, got {lengths.tolist()}: drop the last "
            "incomplete batch, or pass gather=False for the loss of each rank's own batch."
        )


def number_classes(labels: Tensor, gather: bool = True) -> tuple[Tensor, Tensor]:
    """Number the classes that any rank holds, alike on all of them.

    Args:
        labels: Class of each embedding, integers, shape ``(N,)``; ``N`` may differ between ranks.
        gather: Whether to listen to the other ranks.

    Returns:
        The labels present, ascending, shape ``(C,)``, and the number of each embedding's, ``(N,)``.
    """
    names, numbers = _numbered(labels.long())
    if not is_distributed(gather):
        return names, numbers
    counts = _gathered(names.new_tensor([len(names)]))
    padded = pad(names, (0, int(counts.max()) - len(names)))
    parts = _gathered(padded).view(len(counts), -1)
    union = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).unique()
    return union, torch.searchsorted(union, labels.long())


def _numbered(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return what ``unique`` does; on a CPU, if labels lie close, by counting, not sorting."""
    if len(labels) and labels.device.type == "cpu":  # a GPU sorts sooner than it answers
        least, most = (int(x) for x in labels.aminmax())
        if most - least < 4 * len(labels):
            present = torch.bincount(labels - least) > 0
            numbers = present.cumsum(0) - 1
            return present.nonzero()[:, 0] + least, numbers[labels - least]
    return labels.unique(return_inverse=True)


def _gathered(x: Tensor) -> Tensor:
    """Join the tensors of all ranks, which are of one shape, without a gradient."""
    gathered = x.new_empty((dist.get_world_size() * len(x), *x.shape[1:]))
    getattr(dist, GATHER)(gathered, x.contiguous())
    return gathered


def _scattered(x: Tensor) -> Tensor:
    """Sum tensors over all ranks, and return this rank's part."""
    mine = x.new_empty((len(x) // dist.get_world_size(), *x.shape[1:]))
    getattr(dist, SCATTER)(mine, x.contiguous())
    return mine


def _summed(x: Tensor) -> Tensor:
    """Sum tensors over all ranks."""
    total = x.clone()
    dist.all_reduce(total)
    return total


class _Exchange(torch.autograd.Function):
    """A collective, differentiated by another, its adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, collective: _Collective, adjoint: _Collective) -> Tensor:
        ctx.swapped = adjoint, collective
        return collective(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Exchange.apply(grad, *ctx.swapped), None, None
