"""SupCon: an image's class against the rest of the batch."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus

from probcl.checks import check_labels, check_temperature
from probcl.objectives.collectives import (
    all_gather,
    all_reduce,
    check_same_batch,
    of_this_rank,
)
from probcl.objectives.pairwise import log_sum_exp_of_others, pair_sums
from probcl.precision import at_least_float32, full_precision

__all__ = ["Average", "sup_con", "sup_con_anchors"]

Average = Literal["outside", "inside"]


@full_precision
def sup_con(
    z: Tensor,
    labels: Tensor,
    temperature: float,
    gather: bool = True,
    average: Average = "outside",
) -> Tensor:
    r"""Contrast each embedding's class with the rest of the batch (SupCon, ``L_out`` or ``L_in``).

    With ``s_ij = z_i . z_j / temperature`` and ``P(i)`` the other embeddings of the class of ``i``,

        L = mean_i (1/|P(i)|) sum_{p in P(i)} [log sum_{j != i} exp(s_ij) - s_ip]

    over the anchors ``i`` that have a positive, or, with the average of the positives inside the
    logarithm,

        L = mean_i log sum_{j != i} exp(s_ij) - log (1/|P(i)|) sum_{p in P(i)} exp(s_ip)

    A class with a single member is a negative for the others and no anchor. Low precision is raised
    to float32 and autocast is switched off inside. Memory grows with the batch, not with its
    square.

    Args:
        z: Unit vectors, shape ``(*, N, d)``: all views of the batch, one after the other.
        labels: Class of each embedding, integers, shape ``(N,)``.
        temperature: Positive number that divides the cosines.
        gather: Whether the batch is that of all ranks, where a process group is initialised. The
            gradient is then exact once averaged over ranks, as DistributedDataParallel does.
        average: ``"outside"`` the logarithm (``L_out``, which pulls every positive) or ``"inside"``
            (``L_in``, which the nearest can satisfy).

    Returns:
        The loss, a scalar: the mean over the anchors with a positive and leading dimensions.

    Raises:
        ValueError: If ``labels`` are not ``(N,)`` integers, no anchor has a positive, an embedding
            is not finite, ``temperature <= 0`` or ``average`` is neither; on all ranks if their
            batches differ in size.

    References:
        Khosla et al. (2020), Supervised Contrastive Learning, equations 2 and 3.
        https://arxiv.org/abs/2004.11362

    Example:
        >>> import math
        >>> z = torch.eye(4)[[0, 0, 1, 1]]
        >>> round(sup_con(z, torch.tensor([0, 0, 1, 1]), temperature=1.0).item(), 4) == round(
        ...     math.log(1 + 2 * math.exp(-1.0)), 4)
        True
    """
    losses, is_anchor = sup_con_anchors(z, labels, temperature, gather, average)
    total = all_reduce(losses.reshape(-1, z.shape[-2]).mean(0).sum(), gather)
    return total / all_reduce(is_anchor.sum(), gather)


@full_precision
def sup_con_anchors(
    z: Tensor,
    labels: Tensor,
    temperature: float,
    gather: bool = True,
    average: Average = "outside",
) -> tuple[Tensor, Tensor]:
    """Return ``sup_con`` of each embedding, before the mean, and which are anchors.

    Args:
        z: Unit vectors, shape ``(*, N, d)``.
        labels: Class of each embedding, integers, shape ``(N,)``.
        temperature: Positive number that divides the cosines.
        gather: Whether the batch is that of all ranks.
        average: ``"outside"`` or ``"inside"`` the logarithm.

    Returns:
        Losses of this rank's embeddings, shape ``(*, N)``, zero where there is no positive, and
        whether each has one, shape ``(N,)``.

    Raises:
        ValueError: As ``sup_con``.
    """
    check_temperature(temperature)
    if average not in get_args(Average):
        raise ValueError(f"average must be 'outside' or 'inside', got {average!r}.")
    check_labels(z, labels)
    check_same_batch(labels, gather)
    labels = all_gather(labels.long(), gather)
    _, classes, members = labels.unique(return_inverse=True, return_counts=True)
    members = members[classes]
    if not (members > 1).any():
        raise ValueError(
            "labels must hold at least one class twice: no embedding has another of its class."
        )
    losses = _losses(z, classes, members, temperature, gather, average)
    return losses, of_this_rank(members > 1, gather)


def _losses(
    z: Tensor,
    classes: Tensor,
    members: Tensor,
    temperature: float,
    gather: bool,
    average: Average,
) -> Tensor:
    if z.dim() > 2:
        rest = (classes, members, temperature, gather, average)
        return torch.stack([_losses(part, *rest) for part in z])
    everyone = all_gather(at_least_float32(z), gather)
    # Classes of two come first: of such an anchor the only positive is left out of the sum, so that
    # a loss near zero keeps its digits.
    is_pair = members == 2
    classes, order = torch.where(is_pair, classes - len(classes), classes).sort()
    log_sums, positives = pair_sums(
        everyone[order], temperature, classes, int(is_pair.sum()), gather
    )
    positive = positives / (members[order] - 1).clamp(min=1)
    if average == "inside":
        positive = _averaged_inside(everyone[order], classes, positive, temperature, gather)
    excess = (log_sums - positive)[order.argsort()]
    losses = torch.where(is_pair, softplus(excess, threshold=40.0), excess)
    return of_this_rank(torch.where(members > 1, losses, 0.0), gather)


def _averaged_inside(
    z: Tensor, classes: Tensor, positive: Tensor, temperature: float, gather: bool
) -> Tensor:
    """Return the log of the mean exponential over each one's positives, class by class.

    Args:
        z: Embeddings, sorted by class, shape ``(N, d)``.
        classes: Shape ``(N,)``.
        positive: Means over the positives, which stand where a class has fewer than three.
        temperature: Positive number that divides the cosines.
        gather: Whether the ranks share the work.
    """
    parts = []
    counts = classes.unique_consecutive(return_counts=True)[1].tolist()
    for members, means in zip(z.split(counts), positive.split(counts), strict=True):
        if len(members) > 2:
            log_sums = log_sum_exp_of_others(members, temperature, 1, gather)
            means = log_sums - math.log(len(members) - 1)
        parts.append(means)
    return torch.cat(parts)
