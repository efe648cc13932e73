"""SupCon: an image's class against the rest of the batch."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from probcl.checks import break_graph, check_choice, check_labels, check_temperature, check_views
from probcl.objectives.collectives import all_gather, mean_over_ranks, of_this_rank
from probcl.objectives.pairwise import Reduction, pair_sums, scaled_items
from probcl.precision import full_precision

__all__ = ["Average", "sup_con"]

Average = Literal["outside", "inside"]


@full_precision
def sup_con(
    z: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    *,
    average: Average = "outside",
    reduction: Reduction = "mean",
    gather: bool = True,
) -> Tensor:
    r"""Contrast each embedding's class with the rest of the batch (SupCon, ``L_out`` or ``L_in``).

    With ``s_ij = z_i . z_j / temperature`` and ``P(i)`` the other embeddings of the class of ``i``,

        L = mean_i (1/|P(i)|) sum_{p in P(i)} [log sum_{j != i} exp(s_ij) - s_ip]

    over the anchors ``i`` that have a positive, or, with the average of the positives inside the
    logarithm,

        L = mean_i log sum_{j != i} exp(s_ij) - log (1/|P(i)|) sum_{p in P(i)} exp(s_ip)

    Of a single view, a class with one image is a negative for the others and no anchor.

    Args:
        z: Unit vectors, shape ``(*, V, B, d)``: ``V >= 1`` views of ``B`` images.
        labels: Class of each image, integers, shape ``(B,)``.
        temperature: As for ``info_nce``.
        average: ``"outside"`` the logarithm (``L_out``, which pulls every positive) or ``"inside"``
            (``L_in``, which the nearest can satisfy).
        reduction: As for ``info_nce``, the mean over the anchors with a positive.
        gather: As for ``info_nce``.

    Returns:
        The loss, a scalar; with ``reduction="none"`` that of each embedding of this rank,
        ``(*, V, B)``, zero where there is no positive.

    Raises:
        ValueError: If shapes do not fit, ``labels`` are not integers, no anchor has a positive, an
            embedding is not a unit vector, or ``temperature`` is not positive or below 0.0024, too
            low for float64; on all ranks alike, also if their batches differ in size.

    References:
        Khosla et al. (2020), Supervised Contrastive Learning, equations 2 and 3.
        https://arxiv.org/abs/2004.11362

    Example:
        >>> z = torch.eye(2).expand(2, 2, 2)
        >>> sup_con(z, torch.tensor([0, 1]), temperature=1.0)  # log(1 + 2 / e)
        tensor(0.5514)
    """
    check_choice("average", average, Average)
    check_choice("reduction", reduction, Reduction)
    largest = 1 / check_temperature(temperature)
    check_views("z", z)
    check_labels(z, labels)
    break_graph("sup_con looks at its labels: compile it without fullgraph=True.")
    items = scaled_items(z, temperature, gather)
    views = items.shape[2]
    labels = all_gather(labels.long(), gather).repeat_interleave(views)
    _, classes, members = labels.unique(return_inverse=True, return_counts=True)
    members = members[classes]
    is_anchor = members > 1
    if not is_anchor.any():
        raise ValueError(
            "labels must hold at least one class twice: no embedding has another of its class."
        )
    losses = _losses(items.flatten(1, 2), classes, members, largest, gather, average)
    losses = torch.where(is_anchor, losses, 0.0)
    mine = of_this_rank(losses.unflatten(1, (-1, views)), 1, gather)
    if reduction == "mean":
        return mean_over_ranks(mine.mean(), gather) / is_anchor.to(mine.dtype).mean()
    return mine.mT.reshape(z.shape[:-1])


def _losses(
    z: Tensor, classes: Tensor, members: Tensor, largest: float, gather: bool, average: Average
) -> Tensor:
    """Return the losses ``(S, N)``, of any value where a class has one member."""
    # Classes of two come first: of such an anchor the only positive is left out of the sum, so that
    # a loss near zero keeps its digits.
    is_pair = members == 2
    classes, order = torch.where(is_pair, classes - len(classes), classes).sort()
    z = z.index_select(1, order)
    log_sums, positives = pair_sums(
        z, largest, group=2, grouped=int(is_pair.sum()), classes=classes, gather=gather
    )
    positive = positives / (members[order] - 1).clamp(min=1)
    if average == "inside":
        positive = _averaged_inside(z, classes, positive, largest, gather)
    excess = (log_sums - positive).index_select(1, order.argsort())
    return torch.where(is_pair, softplus(excess, threshold=40.0), excess)


def _averaged_inside(
    z: Tensor, classes: Tensor, positive: Tensor, largest: float, gather: bool
) -> Tensor:
    """Return the log mean exponential over the positives, of embeddings sorted by class.

    The means over the positives stand where a class has fewer than three.
    """
    parts = []
    counts = classes.unique_consecutive(return_counts=True)[1].tolist()
    for members, means in zip(z.split(counts, 1), positive.split(counts, 1), strict=True):
        size = members.shape[1]
        if size > 2:
            log_sums, _ = pair_sums(members.contiguous(), largest, gather=gather)
            means = log_sums - math.log(size - 1)
        parts.append(means)
    return torch.cat(parts, 1)
