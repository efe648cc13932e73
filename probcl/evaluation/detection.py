"""Detection: does a score tell unfamiliar inputs, errors and corruption? Larger: less certain."""

from collections.abc import Mapping
from typing import Any

import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from probcl.checks import as_truths, as_values, require_two

__all__ = [
    "auroc",
    "average_precision",
    "error_auroc",
    "false_positive_rate",
    "rank_correlation",
    "severity_correlation",
]


def auroc(familiar: Any, unfamiliar: Any) -> float:
    """Return the probability that an unfamiliar input's score exceeds a familiar one's.

    Equal scores count half, so that a constant score has 0.5.

    Args:
        familiar: Scores, shape ``(N,)``.
        unfamiliar: Scores, shape ``(M,)``.

    Example:
        >>> auroc([0.1, 0.4], [0.4, 0.9])
        0.875
    """
    return float(roc_auc_score(*_pooled(familiar, unfamiliar)))


def average_precision(familiar: Any, unfamiliar: Any) -> float:
    """Return the area under the precision-recall curve, the unfamiliar to be found (AUPR).

    A constant score has the share of the unfamiliar.

    Args:
        familiar: Scores, shape ``(N,)``.
        unfamiliar: Scores, shape ``(M,)``.
    """
    return float(average_precision_score(*_pooled(familiar, unfamiliar)))


def false_positive_rate(familiar: Any, unfamiliar: Any, recall: float = 0.95) -> float:
    """Return the share of familiar inputs flagged where ``recall`` of the unfamiliar are (FPR95).

    An input is flagged if its score is at least the threshold, so a constant score has 1.

    Args:
        familiar: Scores, shape ``(N,)``.
        unfamiliar: Scores, shape ``(M,)``.
        recall: Share of the unfamiliar to be flagged at least, above 0 and at most 1.

    Example:
        >>> false_positive_rate([0.1, 0.2, 0.3, 0.6], [0.5, 0.7])
        0.25
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be above 0 and at most 1, got {recall}.")
    known, strange = as_values("familiar", familiar), as_values("unfamiliar", unfamiliar)
    caught = int(-(-recall * len(strange) // 1))  # as many must be flagged
    threshold = strange.sort(descending=True).values[caught - 1]
    return (known >= threshold).double().mean().item()


def error_auroc(score: Any, error: Any) -> float:
    """Return the probability that the score of an error exceeds that of a success.

    Where there are no errors, or nothing else, there is nothing to tell apart, and it is 0.5.

    Args:
        score: Shape ``(N,)``.
        error: Truth values, shape ``(N,)``.

    Example:
        >>> error_auroc([0.1, 0.9, 0.5], [False, True, False])
        1.0
    """
    values = as_values("score", score)
    wrong = as_truths("error", error, len(values))
    if wrong.all() or not wrong.any():
        return 0.5
    return float(roc_auc_score(wrong, values))


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
    """Return Spearman's rank correlation of a score with a known quantity.

    Where one of the two is constant there are no ranks, and it is 0.

    Args:
        score: Shape ``(N,)``, of two items at least.
        other: Shape ``(N,)``.

    Example:
        >>> rank_correlation([0.1, 0.2, 0.9], [1.0, 2.0, 3.0])
        1.0
    """
    values = as_values("score", score)
    require_two("score", values)
    known = as_values("other", other, len(values))
    if values.min() == values.max() or known.min() == known.max():
        return 0.0
    return float(spearmanr(values, known).statistic)


def _pooled(familiar: Any, unfamiliar: Any) -> tuple[Tensor, Tensor]:
    known, strange = as_values("familiar", familiar), as_values("unfamiliar", unfamiliar)
    truth = torch.cat([torch.zeros(len(known)), torch.ones(len(strange))])
    return truth, torch.cat([known, strange])
