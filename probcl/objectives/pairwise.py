"""Sums over all pairs of embeddings, without ever holding all pairs.

The pairs are visited in square tiles of the upper triangle: each tile gives its sums to its rows
and, mirrored, to its columns. The backward pass computes the tiles anew. Time is that of half the
pairs in each pass, and memory that of two tiles. A second derivative takes the matrix of all pairs.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probcl.checks import check_vectors
from probcl.objectives.collectives import all_reduce, rank_and_world
from probcl.special.autograd import grad_of_plain

__all__ = ["log_sum_exp_of_others", "pair_sums"]

# Rows of a tile: on a CPU a tile should stay in its caches, on a GPU fill the device.
_CPU_TILE, _GPU_TILE = 1024, 4096


def log_sum_exp_of_others(z: Tensor, temperature: float, group: int, gather: bool) -> Tensor:
    r"""Return ``log sum_j exp(z_i . z_j / temperature)`` over the ``j`` outside the group of ``i``.

    Args:
        z: Embeddings, shape ``(N, d)``, float32 or float64, in groups of neighbours; with
            ``gather``, those of all ranks.
        temperature: Positive number that divides the inner products.
        group: Size of the groups, a divisor of ``N``.
        gather: Whether the ranks share the work.

    Returns:
        Tensor of shape ``(N,)``, the same on every rank.

    Raises:
        ValueError: If an embedding is not finite, or too long for this temperature.
    """
    return _sums(z, temperature, group, len(z), None, gather)[0]


def pair_sums(
    z: Tensor, temperature: float, classes: Tensor, pairs: int, gather: bool
) -> tuple[Tensor, Tensor]:
    r"""Sum over the other embeddings, and over the other embeddings of the class.

    Args:
        z: Embeddings, shape ``(N, d)``, float32 or float64, sorted by class; with ``gather``,
            those of all ranks.
        temperature: Positive number that divides the inner products.
        classes: Class of each embedding, ascending integers, shape ``(N,)``.
        pairs: Number of embeddings, from the first, that are one of a pair of neighbours: the first
            sum leaves the other one out.
        gather: Whether the ranks share the work.

    Returns:
        ``log sum_j exp(z_i . z_j / temperature)`` over all others, very negative where there are
        none, and ``sum_p z_i . z_p / temperature`` over the others of the class; each of shape
        ``(N,)``, the same on every rank.

    Raises:
        ValueError: If an embedding is not finite, or too long for this temperature.
    """
    return _sums(z, temperature, 2, pairs, classes, gather)


def _sums(
    z: Tensor, temperature: float, group: int, grouped: int, classes: Tensor | None, gather: bool
) -> tuple[Tensor, Tensor]:
    dtype, shift = _exponents(z, temperature)
    rank, world = rank_and_world(gather)
    tile = min(_GPU_TILE if z.is_cuda else _CPU_TILE, math.ceil(len(z) / world))
    tile = max(tile - tile % group, group)  # so that no group is cut
    plan = _Plan(1 / temperature, shift, group, grouped, classes, tile, rank, world)
    sums, positives = all_reduce(_PairSums.apply(z.to(dtype), plan), gather)
    log_sums = sums.clamp(min=torch.finfo(dtype).tiny).log() + shift
    return log_sums.to(z.dtype), positives.to(z.dtype)


def _exponents(z: Tensor, temperature: float) -> tuple[torch.dtype, float]:
    """Choose the precision whose range holds every exponential, and the shift that centres it."""
    bound = check_vectors("z", z) / temperature
    for dtype in (torch.float32, torch.float64):
        span = -math.log(torch.finfo(dtype).tiny) - 2  # of exponents below zero
        limit = 0.6 * span
        if dtype.itemsize >= z.dtype.itemsize and bound <= limit:
            # A small bound needs no shift; else the least exponential stays just above zero, so
            # that sums are small and what divides by them keeps its digits.
            return dtype, 0.0 if bound <= span / 3 else span - bound
    raise ValueError(
        f"z has inner products up to {bound * temperature:.3g}, too large for temperature "
        f"{temperature}: normalise the embeddings, or raise the temperature above "
        f"{bound * temperature / limit:.2g}."
    )


@dataclass(frozen=True)
class _Plan:
    """How the pairs are visited."""

    scale: float
    shift: float
    group: int
    grouped: int
    classes: Tensor | None
    tile: int
    rank: int
    world: int

    def tiles(self, count: int) -> list[tuple[slice, slice]]:
        """Return this rank's share of the upper triangle's tiles."""
        starts = range(0, count, self.tile)
        slices = [slice(start, min(start + self.tile, count)) for start in starts]
        pairs = [(a, b) for i, a in enumerate(slices) for b in slices[i:]]
        return pairs[self.rank :: self.world]

    def exponentials(self, z: Tensor, rows: slice, columns: slice, buffer: Tensor) -> Tensor:
        """Compute one tile of exponentials in the buffer, zero within groups."""
        left, right = z[rows], z[columns]
        tile = buffer[: len(left) * len(right)].view(len(left), len(right))
        torch.mm(left * self.scale, right.T, out=tile)
        if self.shift:
            tile.sub_(self.shift)
        tile.exp_()
        if rows == columns:
            tile.fill_diagonal_(0)
            end = min(max(self.grouped - rows.start, 0), len(left))
            blocks = tile[:end, :end].unflatten(1, (-1, self.group)).unflatten(0, (-1, self.group))
            blocks.diagonal(dim1=0, dim2=2).zero_()
        return tile

    def plain_sums(self, z: Tensor) -> Tensor:
        """Compute this rank's share by plain operations on the matrix of all pairs."""
        index = torch.arange(len(z), device=z.device)
        groups = torch.where(index < self.grouped, index // self.group, index + len(z))
        mine = torch.zeros(len(z), len(z), dtype=torch.bool, device=z.device)
        for rows, columns in self.tiles(len(z)):
            mine[rows, columns] = mine[columns, rows] = True
        logits = self.scale * (z @ z.T)
        sums = (logits - self.shift).exp() * (mine & (groups[:, None] != groups))
        if self.classes is None:
            return torch.stack([sums.sum(1), torch.zeros_like(z[:, 0])])
        same_class = (self.classes[:, None] == self.classes) & (index[:, None] != index)
        return torch.stack([sums.sum(1), (logits * (mine & same_class)).sum(1)])

    def other_class(self, rows: slice, columns: slice) -> Tensor | None:
        """Return which pairs of a tile are not of one class; None if no pair is."""
        if self.classes is None or self.classes[rows][-1] < self.classes[columns][0]:
            return None
        other = self.classes[rows, None] != self.classes[columns]
        return other.fill_diagonal_(True) if rows == columns else other


class _PairSums(torch.autograd.Function):
    """This rank's share of both sums, ``sum_j exp(s_ij - shift)`` and ``sum_p s_ip``, ``(2, N)``.

    They share their backward pass: on separated classes the gradients of the two nearly cancel,
    pair by pair, and only the difference of the pairs' weights keeps its digits.
    """

    @staticmethod
    def forward(z: Tensor, plan: _Plan) -> Tensor:
        result = z.new_zeros(2, len(z))
        sums, positives = result
        if plan.classes is not None:
            _, classes = plan.classes.unique_consecutive(return_inverse=True)
            totals = torch.zeros_like(z).index_add_(0, classes, z)
            others = totals[classes].sub_(z)
            torch.linalg.vecdot(z, others, out=positives).mul_(plan.scale / plan.world)
        buffer = z.new_empty(min(plan.tile, len(z)) ** 2)
        for rows, columns in plan.tiles(len(z)):
            tile = plan.exponentials(z, rows, columns, buffer)
            sums[rows] += tile.sum(1)
            if rows != columns:
                sums[columns] += tile.sum(0)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Plan], output: Tensor) -> None:
        z, ctx.plan = inputs
        ctx.save_for_backward(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (z,), plan = ctx.saved_tensors, ctx.plan
        if torch.is_grad_enabled():  # a second derivative is asked for
            return grad_of_plain(plan.plain_sums, (z,), grad)[0], None
        of_sums, of_positives = grad
        total = torch.zeros_like(z)
        buffer, weights = z.new_empty(2, min(plan.tile, len(z)) ** 2)
        for rows, columns in plan.tiles(len(z)):
            tile = plan.exponentials(z, rows, columns, buffer)
            # Each pair counts for both its anchors.
            weight = weights[: tile.numel()].view_as(tile)
            torch.add(of_sums[rows, None], of_sums[columns], out=weight)
            weight.mul_(tile)
            other_class = plan.other_class(rows, columns)
            if other_class is not None:
                torch.add(of_positives[rows, None], of_positives[columns], out=tile)
                weight.add_(tile.masked_fill_(other_class, 0))
            total[rows].addmm_(weight, z[columns], alpha=plan.scale)
            if rows != columns:
                total[columns].addmm_(weight.T, z[rows], alpha=plan.scale)
        return total, None
