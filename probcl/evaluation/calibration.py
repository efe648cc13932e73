"""Calibration: is a predicted probability the frequency with which it comes true?

Every measure takes ``probabilities`` of shape ``(N, C)`` and the true classes, ``labels`` of shape
``(N,)``. What is learned on held-out items, by which it becomes so, is in ``scaling``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probcl.checks import as_labels, as_probabilities, as_truths, as_values, check_count

__all__ = [
    "Reliability", "adaptive_calibration_error", "brier_score", "calibration_error",
    "classwise_calibration_error", "event_calibration_error", "maximum_calibration_error",
    "negative_log_likelihood", "root_mean_square_calibration_error", "smooth_calibration_error",
    "smooth_reliability",
]  # fmt: skip

_SMALLEST = 1e-38
_GRID = 200  # cells of the confidence, for the smooth diagram


def negative_log_likelihood(probabilities: Any, labels: Any) -> float:
    """Return the mean of ``-log p(y)``, in nats.

    A probability below 1e-38 counts as that, so that a class held for impossible costs 87.5 nats.

    Example:
        >>> round(negative_log_likelihood(torch.full((3, 4), 0.25), torch.tensor([0, 1, 3])), 4)
        1.3863
    """
    p, y = _checked(probabilities, labels)
    return -p.gather(1, y[:, None]).clamp_min(_SMALLEST).log().mean().item()


def brier_score(probabilities: Any, labels: Any) -> float:
    """Return the mean over items of ``sum_c (p_c - [y = c])^2``, from 0 to 2.

    Example:
        >>> brier_score(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, 0]))
        0.25
    """
    p, y = _checked(probabilities, labels)
    own = p.gather(1, y[:, None])[:, 0]
    return (p.square().sum(-1) - 2 * own + 1).mean().item()


def calibration_error(probabilities: Any, labels: Any, bins: int = 15) -> float:
    """Return |accuracy - confidence| in bins of equal width, the mean over items (ECE).

    References:
        Guo et al. (2017), On calibration of modern neural networks. https://arxiv.org/abs/1706.04599
    """
    return _error(*_confidence(probabilities, labels), bins).item()


def event_calibration_error(probabilities: Any, happened: Any, bins: int = 15) -> float:
    """Return |share that happened - probability| in bins of equal width, the mean over events.

    Args:
        probabilities: Of each event, such as that two items match, shape ``(N,)``.
        happened: Truth values, shape ``(N,)``.
        bins: Their number.

    Example:
        >>> round(event_calibration_error([0.9, 0.9], [True, False]), 6)
        0.4
    """
    p = as_values("probabilities", probabilities)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probabilities must be from 0 to 1, got {p.min():g} to {p.max():g}.")
    return _error(p, as_truths("happened", happened, len(p)).double(), bins).item()


def maximum_calibration_error(probabilities: Any, labels: Any, bins: int = 15) -> float:
    """Return the largest |accuracy - confidence| of the bins of ``calibration_error`` (MCE)."""
    return _gaps(*_confidence(probabilities, labels), bins)[0].max().item()


def root_mean_square_calibration_error(
    probabilities: Any, labels: Any, bins: int = 15, debiased: bool = True
) -> float:
    """Return the root of the mean over items of (accuracy - confidence)^2 of their bin.

    Few items in a bin make it too large, by the variance of their accuracy, which is subtracted
    where it can be estimated; what then is below zero counts as zero.

    Args:
        probabilities: Shape ``(N, C)``.
        labels: Classes, shape ``(N,)``.
        bins: Their number, of equal width.
        debiased: Whether to subtract the variance.

    References:
        Kumar et al. (2019), Verified uncertainty calibration. https://arxiv.org/abs/1909.10155
    """
    confidence, correct = _confidence(probabilities, labels)
    member, counts = _binned(confidence, bins)
    squares = _means(correct - confidence, member, counts).square()
    if debiased:
        accuracy = _means(correct, member, counts)
        squares = squares - (accuracy * (1 - accuracy) / (counts - 1)).where(counts > 1, 0.0)
    return ((squares * counts).sum() / counts.sum()).clamp_min(0).sqrt().item()


def adaptive_calibration_error(probabilities: Any, labels: Any, bins: int = 15) -> float:
    """Return the mean |accuracy - confidence| over bins of equally many items, give or take one.

    Items of one confidence, to six decimals, share their mean, so that their order does not count.

    References:
        Nixon et al. (2019), Measuring calibration in deep learning. https://arxiv.org/abs/1904.01685
    """
    confidence, correct = _confidence(probabilities, labels)
    _, tie, size = confidence.round(decimals=6).unique(return_inverse=True, return_counts=True)
    gap = torch.zeros(len(size), dtype=torch.double).index_add_(0, tie, correct - confidence) / size
    parts = gap.repeat_interleave(size).tensor_split(min(bins, len(tie)))
    return sum(abs(part.sum().item()) for part in parts) / len(tie)


def classwise_calibration_error(probabilities: Any, labels: Any, bins: int = 15) -> float:
    """Return the calibration error of each class's probability, the mean over the classes.

    References:
        Kull et al. (2019), Beyond temperature scaling. https://arxiv.org/abs/1910.12656
    """
    p, y = _checked(probabilities, labels)
    errors = [_error(values, (y == label).double(), bins) for label, values in enumerate(p.T)]
    return torch.stack(errors).mean().item()


@dataclass(frozen=True)
class Reliability:
    """Accuracy as a smooth function of confidence, over a grid of ``G`` near those seen.

    Args:
        confidence: Shape ``(G,)``.
        accuracy: Shape ``(G,)``.
        lower: Below lie 2.5 % of the bootstrap resamples, shape ``(G,)``.
        upper: Above lie 2.5 % of them, shape ``(G,)``.
        density: Share of the items at each confidence, shape ``(G,)``.
    """

    confidence: Tensor
    accuracy: Tensor
    lower: Tensor
    upper: Tensor
    density: Tensor

    @property
    def error(self) -> float:
        """Mean |accuracy - confidence| over the items: a calibration error without bins."""
        return (self.density * (self.accuracy - self.confidence).abs()).sum().item()


def smooth_reliability(
    probabilities: Any, labels: Any, bandwidth: float = 0.05, resamples: int = 200, seed: int = 0
) -> Reliability:
    """Return the reliability diagram, smoothed by a Gaussian kernel instead of put into bins.

    Confidence and success are smoothed alike, over 200 cells that are reflected at 0 and 1.

    Args:
        probabilities: Shape ``(N, C)``.
        labels: Classes, shape ``(N,)``.
        bandwidth: Standard deviation of the kernel.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resamples.

    References:
        Blasiok and Nakkiran (2023), Smooth ECE. https://arxiv.org/abs/2309.12236
    """
    confidence, correct = _confidence(probabilities, labels)
    cell = (confidence * _GRID).long().clamp(max=_GRID - 1)
    # A resample needs only how many items of a cell, right and wrong, are drawn.
    kind = 2 * cell + correct.long()
    counts = kind.bincount(minlength=2 * _GRID).double()
    means = torch.zeros(2 * _GRID, dtype=torch.double).index_add_(0, kind, confidence)
    means = means / counts.clamp_min(1)
    random, share = np.random.default_rng(seed), (counts / len(kind)).numpy()
    drawn = torch.as_tensor(random.multinomial(len(kind), share, resamples)).double()
    # The weight of each cell for each place, reflected at 0 and 1.
    places = (torch.arange(_GRID, dtype=torch.double) + 0.5) / _GRID
    images = torch.stack([places, -places, 2 - places])
    kernel = (-0.5 * ((images[..., None] - places) / bandwidth).square()).exp().sum(0)

    def curve(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        halves = counts.unflatten(-1, (_GRID, 2))
        mass = halves.sum(-1) @ kernel
        right = halves[..., 1] @ kernel / mass
        mean = (counts * means).unflatten(-1, (_GRID, 2)).sum(-1) @ kernel / mass
        return right, mean, mass

    accuracy, mean, mass = curve(counts)
    band = curve(drawn)[0].nan_to_num(0.5).quantile(torch.tensor([0.025, 0.975]).double(), dim=0)
    # Half of the kernel about the least and the largest confidence lies beyond them, and counts.
    shown = mass > 1e-12 * mass.max()
    density = mass[shown] / mass[shown].sum()
    return Reliability(mean[shown], accuracy[shown], band[0][shown], band[1][shown], density)


def smooth_calibration_error(probabilities: Any, labels: Any, bandwidth: float = 0.05) -> float:
    """Return the error of ``smooth_reliability``: a calibration error without bins."""
    return smooth_reliability(probabilities, labels, bandwidth, resamples=1).error


def _checked(probabilities: Any, labels: Any) -> tuple[Tensor, Tensor]:
    p = as_probabilities("probabilities", probabilities)
    return p, as_labels("labels", labels, *p.shape)


def _confidence(probabilities: Any, labels: Any) -> tuple[Tensor, Tensor]:
    p, y = _checked(probabilities, labels)
    confidence, predicted = p.max(-1)
    return confidence, (predicted == y).double()


def _error(confidence: Tensor, correct: Tensor, bins: int) -> Tensor:
    gaps, counts = _gaps(confidence, correct, bins)
    return (gaps * counts).sum() / counts.sum()


def _gaps(confidence: Tensor, correct: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Return |accuracy - confidence| and the count of each bin that is not empty."""
    member, counts = _binned(confidence, bins)
    return _means(correct - confidence, member, counts).abs(), counts


def _binned(confidence: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Return which of the bins that are not empty each item is in, and their counts."""
    # Right ends belong to their bin, as in the paper.
    edges = torch.linspace(0, 1, check_count("bins", bins) + 1, dtype=torch.double)[1:-1]
    member = torch.bucketize(confidence.contiguous(), edges)
    _, member, counts = member.unique(return_inverse=True, return_counts=True)
    return member, counts.double()


def _means(values: Tensor, member: Tensor, counts: Tensor) -> Tensor:
    return torch.zeros_like(counts).index_add_(0, member, values) / counts
