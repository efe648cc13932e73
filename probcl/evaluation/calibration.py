"""Calibration: is a predicted probability the frequency with which it comes true?

And scaling of logits, learned on held-out items, by which it becomes so. Every measure takes
``probabilities`` of shape ``(N, C)`` and the true classes, ``labels`` of shape ``(N,)``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probcl.checks import as_labels, as_probabilities, as_truths, as_values, check_count

__all__ = [
    "Reliability", "Scaling", "adaptive_calibration_error", "brier_score", "calibration_error",
    "classwise_calibration_error", "event_calibration_error", "fit_temperature", "fit_vector",
    "maximum_calibration_error", "negative_log_likelihood", "smooth_calibration_error",
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
    """Accuracy as a smooth function of confidence, over a grid of ``G`` of those seen.

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
    seen = (counts.unflatten(-1, (_GRID, 2)).sum(-1) > 0).nonzero()[:, 0]
    shown = slice(int(seen[0]), int(seen[-1]) + 1)
    density = mass[shown] / mass[shown].sum()
    return Reliability(mean[shown], accuracy[shown], band[0][shown], band[1][shown], density)


def smooth_calibration_error(probabilities: Any, labels: Any, bandwidth: float = 0.05) -> float:
    """Return the error of ``smooth_reliability``: a calibration error without bins."""
    return smooth_reliability(probabilities, labels, bandwidth, resamples=1).error


@dataclass(frozen=True)
class Scaling:
    """An affine map of each class's logit.

    Args:
        weight: Of all logits, shape ``()``, or of each class's, ``(C,)``.
        bias: Shape ``()`` or ``(C,)``.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits ``(*, C)``; one of minus infinity stays."""
        scaled = logits * self.weight.to(logits) + self.bias.to(logits)
        return torch.where(logits.isneginf(), -torch.inf, scaled)


def fit_temperature(logits: Any, labels: Any) -> Scaling:
    """Fit the temperature that makes held-out labels likely; the order of classes stays.

    The logarithm of the temperature has a standard normal prior: without one, items that are all
    right would send it to zero.

    Args:
        logits: Shape ``(N, C)``, minus infinity for a class that was not seen.
        labels: Classes, shape ``(N,)``.

    Returns:
        A scaling whose ``weight`` is one divided by the temperature.

    Raises:
        ValueError: If a label's logit is minus infinity, or one is not a number.

    References:
        Guo et al. (2017), On calibration of modern neural networks. https://arxiv.org/abs/1706.04599

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
        >>> round((1 / fit_temperature(logits, torch.tensor([0, 0, 0, 1])).weight).item(), 3)
        1.393
    """
    return _fit(logits, labels, per_class=False)


def fit_vector(logits: Any, labels: Any) -> Scaling:
    """Fit a weight and a bias for each class's logit that make held-out labels likely.

    The biases and the logarithms of the weights have standard normal priors; arguments, errors and
    source are those of ``fit_temperature``.

    Raises:
        ValueError: If a label's logit is minus infinity, or one is not a number.
    """
    return _fit(logits, labels, per_class=True)


@torch.inference_mode(False)
@torch.enable_grad()
def _fit(logits: Any, labels: Any, per_class: bool) -> Scaling:
    values = torch.as_tensor(logits).detach().cpu().double().clone()  # of no inference mode
    y = as_labels("labels", labels, len(values)).clone()
    if values.isnan().any() or values.isposinf().any():
        raise ValueError("logits must be numbers or minus infinity, got NaN or infinity.")
    if not values.gather(1, y[:, None]).isfinite().all():
        raise ValueError(
            "logits must be finite for the class of each item, got minus infinity: leave out items "
            "of classes that were not seen."
        )
    unseen = values.isneginf()
    finite = torch.where(unseen, 0.0, values)
    shape = (values.shape[1],) if per_class else ()
    log_weight = torch.zeros(shape, dtype=torch.double, requires_grad=True)
    bias = torch.zeros(shape, dtype=torch.double, requires_grad=per_class)
    fitted = [log_weight, bias] if per_class else [log_weight]
    optimizer = torch.optim.LBFGS(
        fitted, max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        scaled = (finite * log_weight.exp() + bias).masked_fill(unseen, -torch.inf)
        prior = torch.stack([p.square().sum() for p in fitted]).sum() / (2 * len(y))
        loss = torch.nn.functional.cross_entropy(scaled, y) + prior
        loss.backward()
        return loss

    optimizer.step(closure)
    return Scaling(log_weight.detach().exp(), bias.detach())


def _checked(probabilities: Any, labels: Any) -> tuple[Tensor, Tensor]:
    p = as_probabilities("probabilities", probabilities)
    y = as_labels("labels", labels, len(p))
    if y.max() >= p.shape[1]:
        raise ValueError(
            f"labels must be below {p.shape[1]}, the columns of probabilities, got {int(y.max())}."
        )
    return p, y


def _confidence(probabilities: Any, labels: Any) -> tuple[Tensor, Tensor]:
    p, y = _checked(probabilities, labels)
    confidence, predicted = p.max(-1)
    return confidence, (predicted == y).double()


def _error(confidence: Tensor, correct: Tensor, bins: int) -> Tensor:
    gaps, counts = _gaps(confidence, correct, bins)
    return (gaps * counts).sum() / counts.sum()


def _gaps(confidence: Tensor, correct: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Return |accuracy - confidence| and the count of each bin that is not empty."""
    # Right ends belong to their bin, as in the paper.
    edges = torch.linspace(0, 1, check_count("bins", bins) + 1, dtype=torch.double)[1:-1]
    member = torch.bucketize(confidence.contiguous(), edges)
    counts = member.bincount(minlength=bins).double()
    sums = torch.zeros(bins, dtype=torch.double).index_add_(0, member, correct - confidence)
    filled = counts > 0
    return (sums[filled] / counts[filled]).abs(), counts[filled]
