"""Abstention: a threshold of certainty that keeps the risk among the accepted below a level."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from probcl.checks import as_truths, as_values

__all__ = ["Abstention", "fit_abstention"]

_PROPOSE = 4  # one item in four


@dataclass(frozen=True)
class Abstention:
    """A rule that accepts what is certain enough.

    Args:
        threshold: Certainties of at least this are accepted; minus infinity accepts all.
        risk: Level that the error rate among the accepted stays below.
        confidence: Probability that it does.
        bound: Upper confidence bound of the error rate among the accepted, at most ``risk``.
        coverage: Share accepted of the items that the threshold was tested on.
    """

    threshold: float
    risk: float
    confidence: float
    bound: float
    coverage: float

    def __call__(self, certainty: Any) -> Tensor:
        """Tell which of the certainties ``(N,)`` are accepted, ``(N,)``."""
        return as_values("certainty", certainty) >= self.threshold


def fit_abstention(
    certainty: Any, error: Any, risk: float = 0.1, confidence: float = 0.9
) -> Abstention:
    r"""Choose the lowest threshold at which the error rate among the accepted is below a level.

        P( P(error | certainty >= threshold) <= risk ) >= confidence

    The outer probability is over the items here, which must be independent draws of the same kind
    as those to come; of the certainty nothing is assumed. A quarter of the items, at random,
    proposes thresholds, from the one that looks safest down; the others test them in that order by
    the exact binomial bound of Clopper and Pearson, up to the first that fails.

    Args:
        certainty: The higher, the more certain; shape ``(N,)``.
        error: Whether each item is an error, shape ``(N,)``.
        risk: Level of the error rate, above 0 and below 1.
        confidence: Above 0 and below 1.

    Raises:
        ValueError: If no threshold passes, or an argument does not fit.

    References:
        Angelopoulos et al. (2021), Learn then Test: split fixed-sequence testing.
        https://arxiv.org/abs/2110.01052

    Example:
        >>> certainty = torch.linspace(0, 1, 1000)
        >>> rule = fit_abstention(certainty, certainty < 0.3, risk=0.1)
        >>> 0.2 < rule.threshold < 0.3, rule.bound <= 0.1
        (True, True)
    """
    for name, level in (("risk", risk), ("confidence", confidence)):
        if not 0 < level < 1:
            raise ValueError(f"{name} must be above 0 and below 1, got {level}.")
    values = as_values("certainty", certainty, least=2)
    wrong = as_truths("error", error, len(values))
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    few = max(1, len(values) // _PROPOSE)
    some, others = (
        (values[rows].numpy(), wrong[rows].numpy()) for rows in (order[:few], order[few:])
    )
    proposed = np.unique(some[0])[::-1]
    first = int(np.argmin(_bounds(*some, proposed, confidence)[0]))
    thresholds = np.append(proposed[first:-1], -np.inf)  # the last accepts all
    bounds, coverage = _bounds(*others, thresholds, confidence)
    failed = bounds > risk
    passed = int(np.argmax(failed)) if failed.any() else len(failed)
    if not passed:
        raise ValueError(
            f"risk must be at least {np.ceil(1e4 * bounds[0]) / 1e4:g} to be shown with confidence "
            f"{confidence} by these {len(values)} items, got {risk}: raise it, or give more items."
        )
    best = passed - 1
    return Abstention(
        float(thresholds[best]), risk, confidence, float(bounds[best]), float(coverage[best])
    )


def _bounds(
    certainty: np.ndarray, error: np.ndarray, thresholds: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return upper bounds of the error rate from thresholds on, and the shares accepted."""
    order = np.argsort(-certainty)
    accepted = np.searchsorted(-certainty[order], -thresholds, side="right")
    errors = np.append(0, np.cumsum(error[order]))[accepted]
    right = accepted - errors
    bound = betaincinv(errors + 1, np.maximum(right, 1), confidence)
    return np.where(right > 0, bound, 1.0), accepted / len(certainty)
