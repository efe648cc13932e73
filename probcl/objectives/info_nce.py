"""InfoNCE: an image's other views against the rest of the batch."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from probcl.checks import check_choice, check_temperature, check_views
from probcl.objectives.collectives import mean_over_ranks, of_this_rank
from probcl.objectives.pairwise import Reduction, pair_sums, scaled_items
from probcl.precision import full_precision

__all__ = ["info_nce"]


@full_precision
def info_nce(
    z: Tensor, temperature: float | Tensor, *, reduction: Reduction = "mean", gather: bool = True
) -> Tensor:
    r"""Contrast each embedding's other views with the rest of the batch (symmetric NT-Xent).

    With ``s_ij = z_i . z_j / temperature``, ``P(i)`` the other views of the image of ``i`` and
    ``N(i)`` all views of all other images,

        L = mean_i mean_{p in P(i)} log(1 + sum_{j in N(i)} exp(s_ij - s_ip))

    For two views this is the usual cross-entropy over the other embeddings of the batch, written so
    that a value near zero keeps its digits at low temperatures, down to 0.0024. ``torch.compile``
    makes one graph of it where the temperature is a number, which then takes ``z`` unchecked.

    Args:
        z: Unit vectors, shape ``(*, V, B, d)``: ``V >= 2`` views of ``B >= 2`` images.
        temperature: Positive number that divides the cosines, or a tensor of shape ``()``, which
            may be learned.
        reduction: ``"mean"`` over all anchors and leading dimensions, or ``"none"``.
        gather: Whether the batch is that of all ranks, where a process group is initialised. The
            gradient is then exact once averaged over ranks, as DistributedDataParallel does.

    Returns:
        The loss, a scalar; with ``reduction="none"`` that of each anchor of this rank,
        ``(*, V, B)``.

    Raises:
        ValueError: If shapes do not fit, an embedding is not a unit vector, or ``temperature`` is
            not positive or below 0.0024, too low for float64; on all ranks alike, also if their
            batches differ in size.

    References:
        Chen et al. (2020), A Simple Framework for Contrastive Learning of Visual
        Representations, equation 1. https://arxiv.org/abs/2002.05709

    Example:
        >>> info_nce(torch.eye(4).expand(2, 4, 4), temperature=1.0)  # log(1 + 6 / e)
        tensor(1.1654)
    """
    check_choice("reduction", reduction, Reduction)
    largest = 1 / check_temperature(temperature)
    check_views("z", z, least=2)
    items = scaled_items(z, temperature, gather)
    if items.shape[1] < 2:
        raise ValueError(
            f"the batch must hold B >= 2 images to contrast, got z of shape {tuple(z.shape)}."
        )
    # Views of an image are neighbours: a group that the sums leave out.
    views = items.shape[2]
    log_sums, positives = pair_sums(items.flatten(1, 2), largest, group=views, gather=gather)
    excess = of_this_rank(log_sums - positives, -1, gather).unflatten(-1, (-1, views))
    itself = torch.eye(views, dtype=torch.bool, device=z.device)[:, None, None]
    # The default threshold of 20 would cost float64 its last digits.
    losses = softplus(excess, threshold=40.0).masked_fill(itself, 0.0).sum(0).mT / (views - 1)
    if reduction == "mean":
        return mean_over_ranks(losses.mean(), gather)
    return losses.view(z.shape[:-1])
