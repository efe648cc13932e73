"""Sums over all pairs of embeddings, without ever holding all pairs of a large batch.

The pairs are visited in tiles of the upper triangle: each tile gives its sums to its rows and,
mirrored, to its columns. The backward pass keeps the first tiles, as many as a fixed amount of
memory holds, and computes the others anew. A second derivative takes the matrix of all pairs.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from probcl.checks import check_unit
from probcl.memory import keep_freed_memory
from probcl.objectives.collectives import all_gather, all_reduce, check_same_batch, rank_and_world
from probcl.precision import at_least_float32
from probcl.special.autograd import grad_of_plain

__all__ = ["Reduction", "pair_sums", "scaled_items"]

Reduction = Literal["mean", "none"]

# Numbers in a tile: on a CPU it should stay in a core's cache, on a GPU fill the device.
_CPU_TILE, _GPU_TILE = 2**18, 2**24
_LEAST_SIDE = 256  # of a tile: many samples at once take more memory, not many small steps
_CPU_KEPT, _GPU_KEPT = 6 * 2**20, 2**25  # numbers kept for the backward pass, at most


def scaled_items(z: Tensor, temperature: float | Tensor, gather: bool) -> Tensor:
    r"""Return the embeddings image by image, scaled so that their inner products are the logits.

    Args:
        z: Unit vectors, shape ``(*, V, B, d)``.
        temperature: As for ``info_nce``.
        gather: Whether to join the images of all ranks.

    Returns:
        ``z / sqrt(temperature)``, in float32 at least, shape ``(S, B, V, d)``, ``*`` as one.

    Raises:
        ValueError: On every rank, if a vector of any is not of unit length or batches differ.
    """
    items = at_least_float32(z).reshape(math.prod(z.shape[:-3]), *z.shape[-3:]).movedim(2, 0)
    check_same_batch(items, gather)
    items = all_gather(items, gather)
    check_unit("z", items, z.dtype)
    if isinstance(temperature, Tensor):
        scale: float | Tensor = temperature.to(items).rsqrt()
    else:
        scale = temperature**-0.5
    return items.movedim(0, 1).clone(memory_format=torch.contiguous_format).mul_(scale)


def pair_sums(
    z: Tensor,
    largest: float,
    *,
    group: int = 1,
    grouped: int | None = None,
    classes: Tensor | None = None,
    gather: bool = True,
    side: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Sum over the other embeddings, and return the positives that the sum may leave out.

    Args:
        z: Embeddings whose inner products are the logits, shape ``(S, N, d)``, float32 or float64;
            with ``gather``, those of all ranks.
        largest: Bound of the logits' magnitude, ``1 / temperature``.
        group: Size of the groups of neighbours that the first sum leaves out.
        grouped: Number of embeddings, from the first, that are in groups, a multiple of ``group``;
            None for all.
        classes: Class of each embedding, ascending integers, shape ``(N,)``; None if positives are
            the others of the group.
        gather: Whether the ranks share the work.
        side: Side of the tiles; None for what suits the device.

    Returns:
        ``log sum_j exp(z_i . z_j)`` over all others, ``(S, N)``, very negative where there are
        none; and with classes ``sum_p z_i . z_p`` over the others of the class, ``(S, N)``, without
        them ``z_i . z_p`` for each ``p`` of the group, also ``i``, of which every embedding then
        has one: ``(group, S, N)``. They are the same on every rank.

    Raises:
        ValueError: If the logits are too large for float64.
    """
    if not (z.is_cuda or torch.compiler.is_compiling()):
        keep_freed_memory()
    dtype, shift = _exponents(z.dtype, largest)
    rank, world = rank_and_world(gather)
    samples, count, _ = z.shape
    area, kept = (_GPU_TILE, _GPU_KEPT) if z.is_cuda else (_CPU_TILE, _CPU_KEPT)
    if side is None:
        most = max(math.isqrt(area // max(samples, 1)), _LEAST_SIDE)
        side = math.ceil(count / max(math.ceil(count / most), world))  # all alike
    side = math.ceil(side / group) * group  # so that no group is cut
    side = min(side, count)
    grouped = count if grouped is None else grouped
    plan = _Plan(shift, group, grouped, side, kept // (samples * side**2), rank, world)
    result = all_reduce(_PairSums.apply(z.to(dtype), classes, plan)[0], gather)
    log_sums = result[0].clamp(min=torch.finfo(dtype).tiny).log() + shift
    positives = result[1:] if classes is None else result[1]
    return log_sums.to(z.dtype), positives.to(z.dtype)


def _exponents(least: torch.dtype, largest: float) -> tuple[torch.dtype, float]:
    """Choose the precision whose range holds every exponential, and the shift that centres it."""
    for dtype in (torch.float32, torch.float64):
        span = -math.log(torch.finfo(dtype).tiny) - 2  # of exponents below zero
        limit = 0.6 * span
        if dtype.itemsize >= least.itemsize and largest <= limit:
            # A small bound needs no shift; else the least exponential stays just above zero, so
            # that sums are small and what divides by them keeps its digits.
            return dtype, 0.0 if largest <= span / 3 else span - largest
    raise ValueError(f"temperature must be at least {1 / limit:.2g}, got {1 / largest:.3g}.")


@dataclass(frozen=True)
class _Plan:
    """How the pairs are visited."""

    shift: float
    group: int
    grouped: int
    side: int
    kept: int  # tiles kept for the backward pass, at most
    rank: int
    world: int

    def tiles(self, count: int) -> list[tuple[slice, slice]]:
        """Return this rank's share of the upper triangle's tiles."""
        starts = range(0, count, self.side)
        slices = [slice(start, min(start + self.side, count)) for start in starts]
        pairs = [(a, b) for i, a in enumerate(slices) for b in slices[i:]]
        return pairs[self.rank :: self.world]

    def exponentials(
        self, z: Tensor, rows: slice, columns: slice, out: Tensor, within: Tensor | None = None
    ) -> Tensor:
        """Compute one tile of exponentials, zero within groups, whose logits go elsewhere."""
        torch.bmm(z[:, rows], z[:, columns].mT, out=out)
        blocks = self.blocks(out, rows.start) if rows == columns else None
        if within is not None and blocks is not None:
            self.by_member(within[..., rows]).copy_(blocks)
        if self.shift:
            out.sub_(self.shift)
        out.exp_()
        if blocks is not None:
            out.diagonal(dim1=1, dim2=2).zero_()
            blocks.zero_()
        return out

    def blocks(self, tile: Tensor, start: int) -> Tensor:
        """View the pairs within groups of a tile on the diagonal, ``(S, group, group, n)``."""
        end = min(max(self.grouped - start, 0), tile.shape[1])
        blocks = tile[:, :end, :end].unflatten(2, (-1, self.group)).unflatten(1, (-1, self.group))
        return blocks.diagonal(dim1=1, dim2=3)

    def by_member(self, within: Tensor) -> Tensor:
        """View positives ``(group, S, N)`` as ``blocks`` are."""
        return within.unflatten(2, (-1, self.group)).permute(1, 3, 0, 2)

    def plain_sums(self, z: Tensor, classes: Tensor | None) -> Tensor:
        """Compute this rank's share by plain operations on the matrix of all pairs."""
        count = z.shape[1]
        index = torch.arange(count, device=z.device)
        groups = torch.where(index < self.grouped, index // self.group, index + count)
        mine = torch.zeros(count, count, dtype=torch.bool, device=z.device)
        for rows, columns in self.tiles(count):
            mine[rows, columns] = mine[columns, rows] = True
        logits = z @ z.mT
        sums = (logits - self.shift).exp() * (mine & (groups[:, None] != groups))
        if classes is None:
            within = self.blocks(logits * mine, 0).permute(2, 0, 3, 1).flatten(2)
            return torch.cat([sums.sum(-1)[None], within])
        same_class = (classes[:, None] == classes) & (index[:, None] != index)
        return torch.stack([sums.sum(-1), (logits * (mine & same_class)).sum(-1)])


def _same_class(classes: Tensor | None, rows: slice, columns: slice) -> Tensor | None:
    """Return which pairs of a tile are of one class; None if no pair is."""
    if classes is None or classes[rows][-1] < classes[columns][0]:
        return None
    same = classes[rows, None] == classes[columns]
    return same.fill_diagonal_(False) if rows == columns else same


def _like_tile(memory: Tensor, z: Tensor, rows: slice, columns: slice) -> Tensor:
    """Return the first numbers of some memory in the shape of a tile."""
    shape = len(z), rows.stop - rows.start, columns.stop - columns.start
    return memory[: math.prod(shape)].view(shape)


class _PairSums(torch.autograd.Function):
    """This rank's share of sum and positives, ``(1 + P, S, N)``; and the exponentials it keeps.

    They share their backward pass: on separated classes the gradients of the two nearly cancel,
    pair by pair, and only the difference of the pairs' weights keeps its digits.
    """

    @staticmethod
    def forward(z: Tensor, classes: Tensor | None, plan: _Plan) -> tuple[Tensor, Tensor]:
        samples, count, _ = z.shape
        result = z.new_zeros(1 + (plan.group if classes is None else 1), samples, count)
        sums, positives = result[0], result[1:]
        if classes is not None:
            _, classes = classes.unique_consecutive(return_inverse=True)
            totals = torch.zeros_like(z).index_add_(1, classes, z)
            others = totals[:, classes].sub_(z)
            torch.linalg.vecdot(z, others, out=positives[0]).div_(plan.world)
        within = positives if classes is None else None
        tiles = plan.tiles(count)
        kept = min(plan.kept, len(tiles))
        memory = z.new_empty(min(kept + 1, len(tiles)), samples * plan.side**2)
        for index, (rows, columns) in enumerate(tiles):
            part = _like_tile(memory[min(index, kept)], z, rows, columns)
            tile = plan.exponentials(z, rows, columns, part, within)
            sums[:, rows] += tile.sum(2)
            if rows != columns:
                sums[:, columns] += tile.sum(1)
        return result, memory[:kept]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        z, classes, ctx.plan = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # of zeros as large as what is kept
        ctx.save_for_backward(z, classes, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, None, None]:
        if grad is None:
            return None, None, None
        (z, classes, kept), plan = ctx.saved_tensors, ctx.plan
        if torch.is_grad_enabled():  # a second derivative is asked for
            plain = partial(plan.plain_sums, classes=classes)
            return grad_of_plain(plain, (z,), grad)[0], None, None
        of_sums, of_positives = grad[0], grad[1:]
        total = torch.zeros_like(z)
        scratch, weights = z.new_empty(2, len(z) * plan.side**2)
        for index, (rows, columns) in enumerate(plan.tiles(z.shape[1])):
            spare = _like_tile(scratch, z, rows, columns)
            if index < len(kept):
                tile = _like_tile(kept[index], z, rows, columns)
            else:
                tile = plan.exponentials(z, rows, columns, spare)
            # Each pair counts for both its anchors.
            weight = _like_tile(weights, z, rows, columns)
            torch.add(of_sums[:, None, columns], of_sums[:, rows, None], out=weight)
            weight.mul_(tile)
            if classes is None and rows == columns:
                within = plan.by_member(of_positives[..., rows])
                plan.blocks(weight, rows.start).add_(within).add_(within.transpose(1, 2))
            same_class = _same_class(classes, rows, columns)
            if same_class is not None:
                own = of_positives[0]
                torch.add(own[:, None, columns], own[:, rows, None], out=spare)
                weight.addcmul_(spare, same_class.to(z.dtype))
            total[:, rows].baddbmm_(weight, z[:, columns])
            if rows != columns:
                total[:, columns].baddbmm_(weight.mT, z[:, rows])
        return total, None, None
