"""Entropies of labels and of people's votes, and mutual information, each estimator by its name."""

import math
from typing import Any

import torch
from scipy.special import digamma
from torch import Tensor

from probcl.checks import (
    as_labels,
    as_matrix,
    as_probabilities,
    check_count,
    check_temperature,
)  # fmt: skip
from probcl.evaluation.calibration import negative_log_likelihood
from probcl.evaluation.subsets import evenly_spaced

__all__ = [
    "human_cross_entropy", "human_entropy", "info_nce_information_bound", "ksg_information",
    "label_entropy", "probe_information",
]  # fmt: skip


def label_entropy(labels: Any) -> float:
    """Return the entropy of the frequencies of the classes ``(N,)``, in nats."""
    counts = as_labels("labels", labels).bincount().double()
    return torch.special.entr(counts / counts.sum()).sum().item()


def human_entropy(votes: Any) -> Tensor:
    """Return the entropy ``(N,)`` of people's votes, in nats.

    Args:
        votes: How many people named each class of an item, at least one in all, shape ``(N, C)``.

    Raises:
        ValueError: If an item has no vote, or a negative one.

    Example:
        >>> human_entropy(torch.tensor([[4, 0], [2, 2]]))
        tensor([0.0000, 0.6931], dtype=torch.float64)
    """
    return torch.special.entr(_shares(votes)).sum(-1)


def human_cross_entropy(probabilities: Any, votes: Any) -> float:
    """Return the mean cross-entropy of the predictions to the people's votes, in nats.

    Args:
        probabilities: Shape ``(N, C)``; below 1e-38 they count as that.
        votes: As for ``human_entropy``.

    References:
        Peterson et al. (2019), CIFAR-10H. https://arxiv.org/abs/1908.07086
    """
    shares = _shares(votes)
    log_p = as_probabilities("probabilities", probabilities, len(shares)).clamp_min(1e-38).log()
    return -(shares * log_p).sum(-1).mean().item()


def _shares(votes: Any) -> Tensor:
    counts = as_matrix("votes", votes).double()
    if counts.min() < 0:
        raise ValueError(f"votes must not be negative, got {counts.min().item():g}.")
    totals = counts.sum(-1, keepdim=True)
    empty = (totals[:, 0] == 0).nonzero()
    if len(empty):
        raise ValueError(f"votes must hold a vote for each item, row {int(empty[0])} has none.")
    return counts / totals


def probe_information(probabilities: Any, labels: Any) -> float:
    """Return the variational lower bound of I(z; y) by a probe, in nats.

        I(z; y) >= H(y) - E[-log p(y | z)]

    It is below zero where the probe is worse than the frequencies of the classes.

    Args:
        probabilities: Of a probe that was fitted on other items, shape ``(N, C)``.
        labels: Classes, shape ``(N,)``.

    References:
        Barber and Agakov (2003), The IM algorithm; Poole et al. (2019),
        https://arxiv.org/abs/1905.06922

    Example:
        >>> round(probe_information(torch.eye(2)[[0, 1, 0, 1]], torch.tensor([0, 1, 0, 1])), 4)
        0.6931
    """
    return label_entropy(labels) - negative_log_likelihood(probabilities, labels)


def info_nce_information_bound(
    first: Any, second: Any, temperature: float = 0.1, batch: int = 512
) -> float:
    """Return the InfoNCE lower bound of the information two views share, in nats.

        I(a; b) >= log K - E[-log exp(a_i.b_i / t) / sum_j exp(a_i.b_j / t)]

    It cannot exceed ``log K``, ``K`` the number of items in a batch.

    Args:
        first: Unit vectors, shape ``(N, d)``.
        second: Their partners, shape ``(N, d)``: of another view, or another image of the class.
        temperature: The ``t``, above 0.
        batch: The ``K``, 2 at least; what is left over is not used, unless there are fewer items.

    Raises:
        ValueError: If an argument is out of range, or does not fit.

    References:
        van den Oord et al. (2018), https://arxiv.org/abs/1807.03748
    """
    a = as_matrix("first", first, least=2)
    b = as_matrix("second", second, len(a), dim=a.shape[1])
    check_temperature(temperature)
    size = min(check_count("batch", batch, least=2), len(a))
    losses = []
    for rows in torch.arange(len(a) // size * size).split(size):
        log_p = (a[rows].double() @ b[rows].double().T / temperature).log_softmax(-1)
        losses.append(-log_p.diagonal().mean())
    return math.log(size) - torch.stack(losses).mean().item()


def ksg_information(embedding: Any, labels: Any, k: int = 3, largest: int = 5000) -> float:
    """Return the estimate of I(z; y) from the distances of neighbours, in nats.

        psi(N) + psi(k) - <psi(N_y)> - <psi(m)>

    with ``m`` the number of items within the distance of an item's ``k``-th nearest of its class.
    It is biased downwards in many dimensions.

    Args:
        embedding: Shape ``(N, d)``.
        labels: Classes, shape ``(N,)``; an item that is alone in its class tells nothing and is not
            counted, as Ross defines it.
        k: Number of neighbours; of a class with fewer, all.
        largest: At most so many items, evenly spaced.

    Raises:
        ValueError: If no class has two members.

    References:
        Ross (2014), Mutual information between discrete and continuous data sets.
        https://doi.org/10.1371/journal.pone.0087357
    """
    z = as_matrix("embedding", embedding)
    y = as_labels("labels", labels, len(z))
    rows = evenly_spaced(len(z), largest)
    z, y = z[rows].double(), y[rows]
    counts = y.bincount()
    kept = counts[y] > 1
    if not kept.any():
        raise ValueError("labels must name a class of two members at least, got none.")
    z, y = z[kept], y[kept]
    z = z - z.median(0).values  # by which a few far items move nothing
    square, used = torch.empty(len(z), dtype=torch.double), torch.empty(len(z))
    for label in y.unique():
        own = (y == label).nonzero()[:, 0]
        near = min(k, len(own) - 1)
        square[own] = _squares(z[own], z[own]).kthvalue(near + 1, dim=-1).values
        used[own] = float(near)
    # Just within the radius, so that the k-th neighbour itself is counted through the rounding of
    # each pair, which grows with its lengths.
    radius, lengths = square * (1 + 2e-9), 1e-13 * z.square().sum(-1)
    within = torch.cat([
        (_squares(part, z).sub_(lengths) <= r[:, None]).sum(-1)
        for part, r in zip(z.split(512), (radius + lengths).split(512), strict=True)
    ])  # fmt: skip
    mean_class = digamma(counts[y].numpy()).mean()
    estimate = digamma(len(z)) + digamma(used.numpy()).mean() - mean_class
    return max(0.0, float(estimate - digamma((within - 1).clamp_min(1).numpy()).mean()))


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """Return squared distances, by a product of matrices."""
    lengths = a.square().sum(-1)[:, None] + b.square().sum(-1)
    return lengths.addmm_(a, b.T, alpha=-2).clamp_min_(0)
