"""Selective prediction: the risk that is left where the least certain are turned away."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probcl.checks import as_values
from probcl.evaluation.knn import nearest_is_wrong
from probcl.evaluation.ood import error_auroc

__all__ = ["RiskCoverage", "retrieval_error_auroc", "risk_coverage"]


@dataclass(frozen=True)
class RiskCoverage:
    """Risk among the items accepted, the most certain first, those of one score in random order.

    Args:
        coverage: Share of the items accepted, ``1/N`` to 1, shape ``(N,)``.
        risk: Mean error among them, shape ``(N,)``.
        best: The risk if the items were accepted in the order of their errors, shape ``(N,)``.
    """

    coverage: Tensor
    risk: Tensor
    best: Tensor

    @property
    def area(self) -> float:
        """Mean of the risk over the coverages (AURC)."""
        return self.risk.mean().item()

    @property
    def excess_area(self) -> float:
        """AURC less that of the best order (E-AURC), of Geifman et al. (2019)."""
        return (self.risk - self.best).mean().item()

    @property
    def generalised_area(self) -> float:
        """Mean of risk times coverage (AUGRC), of Traub et al. (2024)."""
        return (self.risk * self.coverage).mean().item()

    def coverage_at(self, risk: float) -> float:
        """Return the largest coverage whose risk is at most ``risk``; 0 if there is none."""
        allowed = (self.risk <= risk).nonzero()
        return self.coverage[allowed[-1, 0]].item() if len(allowed) else 0.0


def risk_coverage(score: Any, error: Any) -> RiskCoverage:
    """Return the risk against the coverage, for any score and any loss.

    Args:
        score: Uncertainty, shape ``(N,)``.
        error: Whether each item is an error, or its loss, at least 0; shape ``(N,)``.

    Raises:
        ValueError: If the lengths differ, or a value is not finite.

    References:
        Geifman et al. (2019), https://arxiv.org/abs/1805.08206; Traub et al. (2024),
        https://arxiv.org/abs/2407.01032

    Example:
        >>> curve = risk_coverage([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])
        >>> curve.risk.tolist(), curve.coverage_at(0.1)
        ([0.0, 0.0, 0.3333333333333333, 0.5], 0.5)
    """
    values = as_values("score", score)
    losses = as_values("error", error, len(values))
    _, group, size = values.unique(return_inverse=True, return_counts=True)
    # Within a tie the mean over the orders of its items; at its end no rounding is left over.
    total = torch.zeros(len(size), dtype=torch.double).index_add_(0, group, losses)
    accepted = torch.arange(1, len(values) + 1, dtype=torch.double)
    end, before = size.cumsum(0), total.cumsum(0) - total
    tie = torch.arange(len(size)).repeat_interleave(size)
    place = accepted - (end - size)[tie]
    risk = (before[tie] + total[tie] * (place / size[tie])) / accepted
    best = losses.sort().values.cumsum(0) / accepted
    return RiskCoverage(accepted / len(values), risk, best)


def retrieval_error_auroc(score: Any, embedding: Any, labels: Any) -> float:
    """Return R-AUROC: does the score tell unit vectors whose nearest other is of another class?

    References:
        Kirchhof et al. (2023), URL: a representation learning benchmark for transferable
        uncertainty estimates. https://arxiv.org/abs/2307.03810
    """
    return error_auroc(score, nearest_is_wrong(embedding, labels))
