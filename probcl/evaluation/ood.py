"""Out of distribution: does a score tell, and how far do items lie from the training set?

In every score the larger is the less certain. ``in_distribution`` are the scores ``(N,)`` of some
items, ``out_of_distribution`` those ``(M,)`` of others. Functions import scikit-learn when they
run: it takes a third as long to import as torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import rankdata, spearmanr
from torch import Tensor

from probcl.checks import as_labels, as_matrix, as_truths, as_values
from probcl.evaluation.geometry import class_sums
from probcl.evaluation.subsets import evenly_spaced, in_blocks
from probcl.special import inverse_bessel_ratio, log_bessel

__all__ = [
    "Aggregate", "Gate", "Gaussians", "auroc", "average_precision", "error_auroc",
    "false_positive_rate", "fit_aggregate", "fit_gate", "fit_gaussians", "rank_correlation",
    "severity_correlation",
]  # fmt: skip

_LARGEST = 20_000
_BLOCK = 4096  # rows in float64 at once
_MIXTURE = 2048
_NEAR, _FAR = 0.85, 0.985  # quantiles of the distances of clean items


def auroc(in_distribution: Any, out_of_distribution: Any) -> float:
    """Return the probability that the score of an item out of distribution is the larger one.

    Equal scores count half, so that a constant score has 0.5.

    Example:
        >>> auroc([0.1, 0.4], [0.4, 0.9])
        0.875
    """
    inside = as_values("in_distribution", in_distribution)
    outside = as_values("out_of_distribution", out_of_distribution)
    rank = rankdata(torch.cat([inside, outside]), "average")  # Mann and Whitney's statistic
    above = rank[len(inside) :].sum() - len(outside) * (len(outside) + 1) / 2
    return float(above / (len(inside) * len(outside)))


def average_precision(in_distribution: Any, out_of_distribution: Any) -> float:
    """Return the area under the precision-recall curve (AUPR), out of distribution to be found.

    A constant score has the share of the items out of distribution.
    """
    from sklearn.metrics import average_precision_score

    inside = as_values("in_distribution", in_distribution)
    outside = as_values("out_of_distribution", out_of_distribution)
    truth = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))])
    return float(average_precision_score(truth, torch.cat([inside, outside])))


def false_positive_rate(
    in_distribution: Any, out_of_distribution: Any, recall: float = 0.95
) -> float:
    """Return the share of items in distribution above a threshold that most others reach (FPR95).

    An item is flagged if its score is at least the threshold, so a constant score has 1. ``recall``
    is the share of the items out of distribution that are flagged at least.

    Example:
        >>> false_positive_rate([0.1, 0.2, 0.3, 0.6], [0.5, 0.7])
        0.25
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be above 0 and at most 1, got {recall}.")
    inside = as_values("in_distribution", in_distribution)
    outside = as_values("out_of_distribution", out_of_distribution)
    flagged = math.ceil(recall * len(outside) - 1e-9)  # a product may round up
    threshold = outside.sort(descending=True).values[flagged - 1]
    return (inside >= threshold).double().mean().item()


def error_auroc(score: Any, error: Any) -> float:
    """Return the probability that the score of an error exceeds that of a success.

    Where there are no errors, or nothing else, there is nothing to tell apart, and it is 0.5.
    ``score`` and the truth values ``error`` have shape ``(N,)``.

    Example:
        >>> error_auroc([0.1, 0.9, 0.5], [False, True, False])
        1.0
    """
    values = as_values("score", score)
    wrong = as_truths("error", error, len(values))
    if wrong.all() or not wrong.any():
        return 0.5
    return auroc(values[~wrong], values[wrong])


def severity_correlation(scores: Mapping[int, Any]) -> float:
    """Return Spearman's rank correlation of the score with the severity, over all images.

    A constant score has no ranks: it tells nothing of the severity, and gets 0.

    Args:
        scores: Scores of images by severity, each of shape ``(N,)``; of two severities at least.

    Raises:
        ValueError: If there is only one severity.
    """
    if len(scores) < 2:
        raise ValueError(f"scores must be of two severities at least, got {list(scores)}.")
    levels = {level: as_values(f"scores[{level}]", values) for level, values in scores.items()}
    severity = torch.cat([torch.full((len(s),), float(level)) for level, s in levels.items()])
    return rank_correlation(torch.cat(list(levels.values())), severity)


def rank_correlation(score: Any, other: Any) -> float:
    """Return Spearman's rank correlation of a score ``(N,)`` with a known quantity ``(N,)``.

    Where one of the two is constant there are no ranks, and it is 0.

    Example:
        >>> rank_correlation([0.1, 0.2, 0.9], [1.0, 2.0, 3.0])
        1.0
    """
    values = as_values("score", score, least=2)
    known = as_values("other", other, len(values))
    if values.min() == values.max() or known.min() == known.max():
        return 0.0
    return float(spearmanr(values, known).statistic)


@dataclass(frozen=True)
class Gaussians:
    """One Gaussian of the features, or one for each class, with a covariance in common.

    Args:
        means: Shape ``(C, F)``; features are centred in their precision.
        root: Matrix whose square, ``root root'``, is the inverse of the covariance; ``(F, F)``.
    """

    means: Tensor
    root: Tensor

    def distance(self, features: Tensor) -> Tensor:
        """Return the Mahalanobis distance of features ``(N, F)`` to the nearest mean, ``(N,)``."""
        return in_blocks(self._distance, features)

    def _distance(self, features: Tensor) -> Tensor:
        nearest = self.means
        if len(nearest) > 1:
            centre = nearest.mean(0)
            near = torch.cdist(self._whitened(features, centre), self._whitened(nearest, centre))
            nearest = nearest[near.argmin(-1)]
        # Again from the nearest, without the rounding of a difference of squares.
        whitened = self._whitened(features, nearest)
        return torch.linalg.vector_norm(whitened, dim=-1, dtype=torch.double).to(self.root)

    def _whitened(self, features: Tensor, centre: Tensor) -> Tensor:
        # Centred in the precision of the means: far from zero float32 would round it away.
        return (features.to(self.means) - centre).to(self.root) @ self.root


def fit_gaussians(features: Any, labels: Any | None = None) -> Gaussians:
    """Fit Gaussians: means of all items, the covariance shrunk, of at most 20,000 evenly spaced.

    Args:
        features: Shape ``(N, F)``.
        labels: Classes, shape ``(N,)``; without them there is one Gaussian.

    References:
        Ledoit and Wolf (2004), https://doi.org/10.1016/S0047-259X(03)00096-4; Lee et al.
        (2018), https://arxiv.org/abs/1807.03888
    """
    x = as_matrix("features", features, least=2)
    y = torch.zeros(len(x), dtype=torch.long)
    if labels is not None:
        y = as_labels("labels", labels, len(x)).unique(return_inverse=True)[1]
    means = class_sums(x, y) / y.bincount()[:, None]
    covariance = _shrunk_covariance(x, y, means)
    spread = covariance.diagonal().mean()
    if not spread > 1e-24 * means.square().mean():  # but rounding: distances are as they are
        spread = torch.ones_like(spread)
    # A feature that never changes, as of a dead unit, would leave no inverse.
    floor = 1e-6 * spread
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(floor).rsqrt()
    # In the order in which it is read from a file: in another a product rounds otherwise.
    return Gaussians(means, root.float().contiguous())


def _shrunk_covariance(x: Tensor, y: Tensor, means: Tensor) -> Tensor:
    """Return the covariance within classes, shrunk to a multiple of the identity."""
    # Not by scikit-learn, which holds all squares at once.
    rows, dim = evenly_spaced(len(x), _LARGEST), x.shape[1]
    covariance, fourth = means.new_zeros(dim, dim), means.new_zeros(())
    for some in rows.split(_BLOCK):
        centred = x[some].double().sub_(means[y[some]])
        covariance.addmm_(centred.T, centred)
        fourth += centred.square().sum(-1).square().sum()
    covariance /= len(rows)
    scale, square = covariance.trace() / dim, covariance.square().sum()
    noise = (fourth / len(rows) - square) / len(rows)  # in the covariance's entries, squared
    spread = square - dim * scale.square()  # of its eigenvalues
    share = (noise / spread).clamp(0, 1) if spread > 0 else torch.zeros_like(spread)
    covariance *= 1 - share
    covariance.diagonal().add_(share * scale)
    return covariance


@dataclass(frozen=True)
class Gate:
    """How typical an item of some distance is, from 1 near the training items to 0 far away.

        w(D) = 1 / (1 + (D / D_far)^p),  w(D_near) = 0.99

    ``D_near`` and ``D_far`` are the .85 and .985 quantiles of the distances of clean items that
    were held out: most of them are left alone, and ``w`` is 0.5 where three in 200 are as far.

    Args:
        half: The distance ``D_far`` at which ``w`` is 0.5.
        power: The exponent ``p``.
    """

    half: float
    power: float

    def __call__(self, distances: Tensor) -> Tensor:
        """Map distances ``(N,)`` to typicality in [0, 1], in float64."""
        ratio = (distances.double() / self.half).clamp_min(1e-30).log()
        return torch.sigmoid(-self.power * ratio)


def fit_gate(distances: Any) -> Gate:
    """Fit the gate to the distances of clean items that were held out, shape ``(N,)``."""
    values = as_values("distances", distances, least=2)
    near, far = values.quantile(torch.tensor([_NEAR, _FAR], dtype=torch.double)).tolist()
    spread = max(math.log(far / near), 1e-3) if near > 0 else 1.0
    return Gate(max(far, 1e-30), math.log(99) / spread)


@dataclass(frozen=True)
class Aggregate:
    """The mean of posteriors, each as the von Mises-Fisher of its mean E[z].

    Args:
        pull: Concentration times direction of each, shape ``(M, d)``.
        log_weight: Log of each one's normaliser and share, shape ``(M,)``.
    """

    pull: Tensor
    log_weight: Tensor

    def surprise(self, samples: Tensor) -> Tensor:
        """Return -log density, mean over samples ``(S, N, d)``; shape ``(N,)``."""
        rows = max(1, 2**18 // (len(samples) * len(self.pull)))  # what a processor's cache holds
        parts = []
        for z in samples.to(self.pull).split(rows, dim=1):
            terms = torch.addmm(self.log_weight, z.flatten(0, 1), self.pull.T)
            largest = terms.amax(-1, keepdim=True)
            # Terms below e^-60 of the largest add nothing, and denormal numbers are slow.
            rest = terms.sub_(largest).clamp_(min=-60).exp_().sum(-1).log()
            parts.append(-(rest + largest[:, 0]).view(len(samples), -1).mean(0))
        return torch.cat(parts)


def fit_aggregate(direction: Tensor, length: Tensor) -> Aggregate:
    """Fit the mean of posteriors of mean directions ``(N, d)`` and resultant lengths ``(N,)``.

    At most 2,048 of them, evenly spaced, stand for all.
    """
    rows = evenly_spaced(len(length), _MIXTURE)
    dim = direction.shape[1]
    kappa = inverse_bessel_ratio(length[rows].double(), dim)
    # The density with respect to the uniform: 1 / (its mean of exp(kappa t)).
    log_weight = -log_bessel(kappa, dim) - math.log(len(rows))
    return Aggregate((kappa[:, None] * direction[rows]).float(), log_weight.float())
