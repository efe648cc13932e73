"""InfoNCE: an image's other views against the rest of the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from probcl.checks import check_temperature
from probcl.objectives.collectives import (
    all_gather,
    check_same_batch,
    mean_over_ranks,
    of_this_rank,
    rank_and_world,
)
from probcl.objectives.pairwise import log_sum_exp_of_others
from probcl.precision import at_least_float32, full_precision

__all__ = ["info_nce", "info_nce_anchors"]


@full_precision
def info_nce(
    z1: Tensor,
    z2: Tensor,
    temperature: float,
    more_views: Sequence[Tensor] = (),
    gather: bool = True,
) -> Tensor:
    r"""Contrast each embedding's other view with the rest of the batch (symmetric NT-Xent).

    With ``s_ij = z_i . z_j / temperature``, ``P(i)`` the other views of the image of ``i`` and
    ``N(i)`` all views of all other images,

        L = mean_i mean_{p in P(i)} log(1 + sum_{j in N(i)} exp(s_ij - s_ip))

    For two views this is the usual cross-entropy over the other embeddings of the batch, written so
    that a value near zero keeps its digits at low temperatures. Low precision is raised to float32
    and autocast is switched off inside. Memory grows with the batch, not with its square.

    Args:
        z1: Unit vectors of the first view, shape ``(*, B, d)``, ``B >= 2``.
        z2: Unit vectors of the second view, shape ``(*, B, d)``.
        temperature: Positive number that divides the cosines.
        more_views: Further views, each of shape ``(*, B, d)``.
        gather: Whether the batch is that of all ranks, where a process group is initialised. The
            gradient is then exact once averaged over ranks, as DistributedDataParallel does.

    Returns:
        The loss, a scalar: the mean over all anchors and leading dimensions.

    Raises:
        ValueError: If shapes differ, the batch holds one item, an embedding is not finite or
            ``temperature <= 0``; on all ranks if their batches differ in size.

    References:
        Chen et al. (2020), A Simple Framework for Contrastive Learning of Visual
        Representations, equation 1. https://arxiv.org/abs/2002.05709

    Example:
        >>> import math
        >>> z = torch.eye(4)
        >>> round(info_nce(z, z, temperature=1.0).item(), 4) == round(
        ...     math.log(1 + 6 * math.exp(-1.0)), 4)
        True
    """
    views = [z1, z2, *more_views]
    for number, view in enumerate(views[1:], start=2):
        if view.shape != z1.shape:
            raise ValueError(
                f"z1 and z{number} must have the same shape, got {tuple(z1.shape)} and "
                f"{tuple(view.shape)}."
            )
    losses = info_nce_anchors(torch.stack(views, dim=-3), temperature, gather)
    return mean_over_ranks(losses.mean(), gather)


@full_precision
def info_nce_anchors(z: Tensor, temperature: float, gather: bool = True) -> Tensor:
    """Return ``info_nce`` of each anchor, before the mean.

    Args:
        z: Unit vectors, shape ``(*, V, B, d)`` with ``V >= 2`` views of ``B`` images.
        temperature: Positive number that divides the cosines.
        gather: Whether the negatives are those of all ranks.

    Returns:
        Losses of this rank's anchors, shape ``(*, V, B)``.

    Raises:
        ValueError: As ``info_nce``.
    """
    check_temperature(temperature)
    if z.dim() < 3 or z.shape[-3] < 2:
        raise ValueError(f"z must hold at least 2 views, shape (*, V, B, d), got {tuple(z.shape)}.")
    if z.shape[-2] * rank_and_world(gather)[1] < 2:
        raise ValueError(
            f"the batch must hold B >= 2 images to contrast, got views of shape "
            f"{tuple(z.shape[-2:])}."
        )
    if z.dim() > 3:
        return torch.stack([info_nce_anchors(part, temperature, gather) for part in z])
    check_same_batch(z[0], gather)
    # Views of an image become neighbours: a group that the sums leave out.
    items = at_least_float32(z).transpose(0, 1).contiguous()
    views = len(z)
    everyone = all_gather(items, gather).flatten(0, 1)
    negatives = log_sum_exp_of_others(everyone, temperature, views, gather)
    mine = of_this_rank(negatives, gather).unflatten(0, items.shape[:2])
    positives = items @ items.mT / temperature
    # The default threshold of 20 would cost float64 its last digits.
    losses = softplus(mine[..., None] - positives, threshold=40.0)
    itself = torch.eye(views, dtype=torch.bool, device=z.device)
    return (losses.masked_fill(itself, 0.0).sum(-1) / (views - 1)).T
