"""InfoNCE and SupCon, computed in at least float32 whatever the inputs' precision."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["check_temperature", "info_nce", "sup_con"]


def check_temperature(temperature: float) -> float:
    """Return ``temperature``, or raise ``ValueError`` unless it is a finite positive number."""
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}.")
    return temperature


def info_nce(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    r"""Contrast each embedding's other view with the rest of the batch (symmetric NT-Xent).

    With the ``N = 2B`` embeddings ``z = [z1, z2]`` and ``s_ij = z_i . z_j / temperature``,

        L = (1/N) sum_i log(1 + sum_{j != i, p(i)} exp(s_ij - s_ip(i)))

    where ``p(i)`` is the other view of ``i``. This is the usual cross-entropy over the ``N - 1``
    candidates, written so that a value near zero keeps its digits at low temperatures.

    Args:
        z1: Unit vectors of the first view, shape ``(*, B, d)``, ``B >= 2``.
        z2: Unit vectors of the second view, shape ``(*, B, d)``.
        temperature: Positive number that divides the cosines.

    Returns:
        The loss, a scalar: the mean over all anchors and leading dimensions.

    Raises:
        ValueError: If the shapes differ, the batch holds one item or ``temperature <= 0``.

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
    check_temperature(temperature)
    if z1.shape != z2.shape:
        raise ValueError(
            f"z1 and z2 must have the same shape, got {tuple(z1.shape)} and {tuple(z2.shape)}."
        )
    if z1.dim() < 2 or z1.shape[-2] < 2:
        raise ValueError(
            f"z1 must have shape (*, B, d) with B >= 2 items to contrast, got {tuple(z1.shape)}."
        )
    batch = z1.shape[-2]
    logits = _cosines(torch.cat([z1, z2], dim=-2)) / temperature
    other_view = torch.arange(2 * batch, device=z1.device).roll(batch)
    positive = logits.gather(-1, other_view.expand(logits.shape[:-1]).unsqueeze(-1))
    not_negative = torch.eye(2 * batch, dtype=torch.bool, device=z1.device)
    not_negative = not_negative | not_negative.roll(batch, dims=0)
    negatives = logits.masked_fill(not_negative, -torch.inf).logsumexp(-1)
    # The default threshold of 20 would cost float64 its last digits.
    return softplus(negatives - positive.squeeze(-1), threshold=40.0).mean()


def sup_con(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    r"""Contrast each embedding's class with the rest of the batch (SupCon, ``L_out``).

    With ``s_ij = z_i . z_j / temperature`` and ``P(i)`` the other embeddings of the class of ``i``,

        L = mean_i (1/|P(i)|) sum_{p in P(i)} [log sum_{j != i} exp(s_ij) - s_ip]

    over the anchors ``i`` that have a positive.

    Args:
        z: Unit vectors, shape ``(*, N, d)``.
        labels: Class of each embedding, integers, shape ``(N,)``.
        temperature: Positive number that divides the cosines.

    Returns:
        The loss, a scalar: the mean over the anchors with a positive and leading dimensions.

    Raises:
        ValueError: If ``labels`` does not have shape ``(N,)``, no anchor has a positive or
            ``temperature <= 0``.

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
    check_temperature(temperature)
    if labels.shape != z.shape[-2:-1]:
        raise ValueError(
            f"labels must have shape ({z.shape[-2]},), one for each embedding, "
            f"got {tuple(labels.shape)}."
        )
    itself = torch.eye(len(labels), dtype=torch.bool, device=z.device)
    is_positive = (labels[:, None] == labels) & ~itself
    positives = is_positive.sum(-1)
    has_positive = positives > 0
    if not has_positive.any():
        raise ValueError(
            "labels must hold at least one class twice: no embedding has another of its class."
        )
    logits = _cosines(z) / temperature
    log_total = logits.masked_fill(itself, -torch.inf).logsumexp(-1)
    mean_positive = (logits * is_positive).sum(-1) / positives.clamp(min=1)
    return (log_total - mean_positive)[..., has_positive].mean()


def _cosines(z: Tensor) -> Tensor:
    """Return all pairs of inner products, in float32 or wider, outside autocast."""
    with torch.autocast(z.device.type, enabled=False):
        z = z if z.dtype == torch.float64 else z.float()
        return z @ z.mT
