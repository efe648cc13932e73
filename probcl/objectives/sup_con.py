"""SupCon: an image's class against the rest of the batch."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from probcl.objectives.checks import check_labels, check_temperature
from probcl.objectives.gather import (
    all_gather,
    all_reduce,
    check_same_batch,
    of_this_rank,
)
from probcl.objectives.tiles import pair_sums
from probcl.precision import at_least_float32, full_precision

__all__ = ["sup_con", "sup_con_anchors"]


@full_precision
def sup_con(z: Tensor, labels: Tensor, temperature: float, gather: bool = True) -> Tensor:
    r"""Contrast each embedding's class with the rest of the batch (SupCon, ``L_out``).

    With ``s_ij = z_i . z_j / temperature`` and ``P(i)`` the other embeddings of the class of ``i``,

        L = mean_i (1/|P(i)|) sum_{p in P(i)} [log sum_{j != i} exp(s_ij) - s_ip]

    over the anchors ``i`` that have a positive: a class with a single member is a negative for the
    others and no anchor. Low precision is raised to float32 and autocast is switched off inside.
    Memory grows with the batch, not with its square.

    Args:
        z: Unit vectors, shape ``(*, N, d)``: all views of the batch, one after the other.
        labels: Class of each embedding, integers, shape ``(N,)``.
        temperature: Positive number that divides the cosines.
        gather: Whether the batch is that of all ranks, where a process group is initialised. The
            gradient is then exact once averaged over ranks, as DistributedDataParallel does.

    Returns:
        The loss, a scalar: the mean over the anchors with a positive and leading dimensions.

    Raises:
        ValueError: If ``labels`` are not ``(N,)`` integers, no anchor has a positive, an embedding
            is not finite or ``temperature <= 0``; on all ranks if their batches differ in size.

    References:
        Khosla et al. (2020), Supervised Contrastive Learning, equation 2.
        https://arxiv.org/abs/2004.11362

    Example:
        >>> import math
        >>> z = torch.eye(4)[[0, 0, 1, 1]]
        >>> round(sup_con(z, torch.tensor([0, 0, 1, 1]), temperature=1.0).item(), 4) == round(
        ...     math.log(1 + 2 * math.exp(-1.0)), 4)
        True
    """
    losses, is_anchor = sup_con_anchors(z, labels, temperature, gather)
    total = all_reduce(losses.reshape(-1, z.shape[-2]).mean(0).sum(), gather)
    return total / all_reduce(is_anchor.sum(), gather)


@full_precision
def sup_con_anchors(
    z: Tensor, labels: Tensor, temperature: float, gather: bool = True
) -> tuple[Tensor, Tensor]:
    """Return ``sup_con`` of each embedding, before the mean, and which are anchors.

    Args:
        z: Unit vectors, shape ``(*, N, d)``.
        labels: Class of each embedding, integers, shape ``(N,)``.
        temperature: Positive number that divides the cosines.
        gather: Whether the batch is that of all ranks.

    Returns:
        Losses of this rank's embeddings, shape ``(*, N)``, zero where there is no positive, and
        whether each has one, shape ``(N,)``.

    Raises:
        ValueError: As ``sup_con``.
    """
    check_temperature(temperature)
    check_labels(z, labels)
    check_same_batch(labels, gather)
    labels = all_gather(labels.long(), gather)
    _, classes, members = labels.unique(return_inverse=True, return_counts=True)
    members = members[classes]
    if not (members > 1).any():
        raise ValueError(
            "labels must hold at least one class twice: no embedding has another of its class."
        )
    losses = _losses(z, classes, members, temperature, gather)
    return losses, of_this_rank(members > 1, gather)


def _losses(
    z: Tensor, classes: Tensor, members: Tensor, temperature: float, gather: bool
) -> Tensor:
    if z.dim() > 2:
        return torch.stack([_losses(part, classes, members, temperature, gather) for part in z])
    everyone = all_gather(at_least_float32(z), gather)
    # Classes of two come first: of such an anchor the only positive is left out of the sum, so that
    # a loss near zero keeps its digits.
    is_pair = members == 2
    classes, order = torch.where(is_pair, classes - len(classes), classes).sort()
    log_sums, positives = pair_sums(
        everyone[order], temperature, classes, int(is_pair.sum()), gather
    )
    excess = (log_sums - positives / (members[order] - 1).clamp(min=1))[order.argsort()]
    losses = torch.where(is_pair, softplus(excess, threshold=40.0), excess)
    return of_this_rank(torch.where(members > 1, losses, 0.0), gather)
