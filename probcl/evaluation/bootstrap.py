"""Bootstrap intervals: how far a number would move with other test images."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from probcl.checks import as_truths, as_values
from probcl.evaluation.ood import auroc, error_auroc, rank_correlation, severity_correlation

__all__ = [
    "Interval", "auroc_interval", "bootstrap_interval", "correlation_interval",
    "error_auroc_interval", "severity_interval",
]  # fmt: skip

_RESAMPLES = 200
_BINS = 1000  # of ranks; within one, scores count as equal in the resamples


class Interval(NamedTuple):
    """The value of a number on the items themselves, and the 95 % interval of its bootstrap."""

    value: float
    lower: float
    upper: float


def bootstrap_interval(
    statistic: Callable[..., float], *arrays: Tensor, resamples: int = _RESAMPLES, seed: int = 0
) -> Interval:
    """Return any statistic of items, with the interval of its bootstrap.

    Args:
        statistic: Takes the arrays.
        *arrays: Each with a row for each of ``N`` items; rows are drawn together.
        resamples: Number of resamples.
        seed: Seed of the draws.

    Raises:
        ValueError: If there is no item, or the arrays have different numbers of rows.

    Example:
        >>> bootstrap_interval(lambda x: x.mean().item(), torch.ones(5))
        Interval(value=1.0, lower=1.0, upper=1.0)
    """
    generator = torch.Generator().manual_seed(seed)
    counts = [len(array) for array in arrays]
    if len(set(counts)) != 1 or not counts[0]:
        raise ValueError(f"arrays must have a row for each item, one at least, got {counts} rows.")
    count = counts[0]
    drawn = []
    for _ in range(resamples):
        rows = torch.randint(count, (count,), generator=generator)
        drawn.append(statistic(*(array[rows] for array in arrays)))
    return _interval(statistic(*arrays), torch.tensor(drawn, dtype=torch.double))


def auroc_interval(in_distribution: Any, *out_of_distribution: Any, seed: int = 0) -> Interval:
    """Return ``auroc`` with its interval, all sets resampled.

    Args:
        in_distribution: Scores, shape ``(N,)``.
        *out_of_distribution: Scores of one or several sets, each of shape ``(M,)``; of several, the
            mean.
        seed: Seed of the draws.
    """
    inside = as_values("in_distribution", in_distribution)
    if not out_of_distribution:
        raise ValueError("out_of_distribution must be of one set at least, got none.")
    values, draws = [], []
    for scores in out_of_distribution:
        outside = as_values("out_of_distribution", scores)
        rank = torch.as_tensor(rankdata(torch.cat([inside, outside]), "average"))
        bins = ((rank - 0.5) / len(rank) * _BINS).long().clamp(0, _BINS - 1)
        random = np.random.default_rng(seed)  # those inside are the same draw for every set
        drawn, others = (
            _resampled(part.bincount(minlength=_BINS), random)
            for part in bins.split([len(inside), len(outside)])
        )
        below = drawn.cumsum(-1) - drawn / 2
        draws.append((others * below).sum(-1) / (len(inside) * len(outside)))
        values.append(auroc(inside, outside))
    return _interval(sum(values) / len(values), torch.stack(draws).mean(0))


def error_auroc_interval(score: Any, error: Any, seed: int = 0) -> Interval:
    """Return ``error_auroc`` with its interval, errors and successes each resampled."""
    values = as_values("score", score)
    wrong = as_truths("error", error, len(values))
    if wrong.all() or not wrong.any():
        value = error_auroc(values, wrong)
        return Interval(value, value, value)
    return auroc_interval(values[~wrong], values[wrong], seed=seed)


def correlation_interval(score: Any, other: Any, seed: int = 0) -> Interval:
    """Return ``rank_correlation`` with its interval, the ranks of all items those of each draw."""
    value = rank_correlation(score, other)
    x, y = as_values("score", score), as_values("other", other)
    return _interval(value, _resampled_correlations(x[None], y[None], seed))


def severity_interval(*scores: Mapping[int, Any], seed: int = 0) -> Interval:
    """Return ``severity_correlation`` with its interval, items resampled with all severities.

    Args:
        *scores: Scores of the same items by severity, each of shape ``(N,)``, for one or several
            corruptions; of several, the mean.
        seed: Seed of the draws.
    """
    if not scores:
        raise ValueError("scores must be of one corruption at least, got none.")
    values, draws = [], []
    for levels in scores:
        values.append(severity_correlation(levels))
        table = torch.stack([as_values("scores", level) for level in levels.values()])
        severity = torch.tensor(list(levels), dtype=torch.double)[:, None].expand_as(table)
        draws.append(_resampled_correlations(table, severity, seed))
    return _interval(sum(values) / len(values), torch.stack(draws).mean(0))


def _resampled_correlations(x: Tensor, y: Tensor, seed: int) -> Tensor:
    """Return Spearman's correlation of pairs ``(L, N)`` in each resample of the ``N`` items."""
    x, y = (torch.as_tensor(rankdata(v, "average")).view(v.shape) for v in (x, y))
    x, y = x - x.mean(), y - y.mean()
    # Five sums for each item are all that a resample needs.
    sums = torch.stack([x * y, x, y, x * x, y * y], -1).mean(0)
    # By one seed, the same items for every score and corruption.
    drawn = _counts(len(sums), seed) @ sums / len(sums)
    xy, x, y, xx, yy = drawn.unbind(-1)
    of_x, of_y = xx - x * x, yy - y * y
    # Where all ranks drawn are equal there is but rounding, and no correlation.
    varies = (of_x > 1e-12 * xx) & (of_y > 1e-12 * yy)
    correlation = (xy - x * y) / (of_x * of_y).where(varies, 1.0).sqrt()
    return correlation.where(varies, 0.0).clamp(-1, 1)


@lru_cache(maxsize=1)
def _counts(items: int, seed: int) -> Tensor:
    """Return how often each item is in each resample, shape ``(resamples, items)``."""
    return _resampled(torch.ones(items, dtype=torch.long), np.random.default_rng(seed))


def _resampled(counts: Tensor, random: np.random.Generator) -> Tensor:
    """Return how many items of each bin are in each resample, shape ``(resamples, bins)``."""
    items, bins = int(counts.sum()), len(counts)
    if items > bins:
        drawn = random.multinomial(items, counts.double() / items, _RESAMPLES)
    else:  # few items are drawn sooner than many bins are filled
        own = torch.arange(bins).repeat_interleave(counts).numpy()
        places = own[random.integers(items, size=(_RESAMPLES, items))]
        places += bins * np.arange(_RESAMPLES)[:, None]
        drawn = np.bincount(places.ravel(), minlength=_RESAMPLES * bins).reshape(-1, bins)
    return torch.as_tensor(drawn).double()


def _interval(value: float, drawn: Tensor) -> Interval:
    lower, upper = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return Interval(value, min(lower, value), max(upper, value))
