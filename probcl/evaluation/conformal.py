"""Conformal prediction: sets of classes that hold the true one as often as asked for."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from probcl.checks import as_labels, as_probabilities
from probcl.evaluation.subsets import in_blocks

__all__ = ["ConformalSets", "class_coverage", "fit_conformal", "set_coverage", "set_size"]

Method = Literal["threshold", "adaptive", "regularised"]
METHODS: tuple[Method, ...] = get_args(Method)

# Of a regularised set, each class beyond so many costs so much: the paper's for many classes.
_FREE, _PENALTY = 5, 0.01


@dataclass(frozen=True)
class ConformalSets:
    """A rule that gives each item a set of classes.

    Args:
        threshold: Classes of nonconformity up to it are in the set.
        method: How nonconformity is measured, as ``fit_conformal`` takes it.
    """

    threshold: float
    method: Method

    def __call__(self, probabilities: Any) -> Tensor:
        """Map probabilities ``(N, C)`` to sets, truth values of shape ``(N, C)``."""
        p = as_probabilities("probabilities", probabilities)
        most = self.threshold + 1e-12
        return in_blocks(lambda part: _nonconformity(part, self.method) <= most, p)


def fit_conformal(
    probabilities: Any, labels: Any, coverage: float = 0.9, method: Method = "threshold"
) -> ConformalSets:
    """Choose the threshold by which new sets hold the true class with a probability.

    The sets of items that are exchangeable with the held-out ones hold their class with a
    probability of at least ``coverage``, whatever the classifier is worth.

    Args:
        probabilities: Of held-out items, shape ``(N, C)``.
        labels: Their classes, shape ``(N,)``.
        coverage: Above 0 and below 1. With fewer than ``coverage / (1 - coverage)`` items every
            class is in every set.
        method: ``"threshold"``: classes of the highest probabilities, the smallest sets;
            ``"adaptive"``: as many as sum up to a mass, larger where the item is harder (APS);
            ``"regularised"``: the same, where every class beyond the fifth adds 0.01 (RAPS), so
            that no set gets large by a tail of unlikely classes.

    Raises:
        ValueError: If ``coverage`` or ``method`` is out of range, or an argument does not fit.

    References:
        Sadinle et al. (2019), https://arxiv.org/abs/1609.00451; Romano et al. (2020),
        https://arxiv.org/abs/2006.02544; Angelopoulos et al. (2021),
        https://arxiv.org/abs/2009.14193
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must be above 0 and below 1, got {coverage}.")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    p = as_probabilities("probabilities", probabilities)
    y = as_labels("labels", labels, *p.shape)

    def of_class(p: Tensor, y: Tensor) -> Tensor:
        return _nonconformity(p, method).gather(1, y[:, None])[:, 0]

    own = in_blocks(of_class, p, y).sort().values
    rank = math.ceil((len(own) + 1) * coverage - 1e-9)
    return ConformalSets(own[rank - 1].item() if rank <= len(own) else math.inf, method)


def set_coverage(sets: Tensor, labels: Any) -> float:
    """Return the share of the sets ``(N, C)`` that hold the class, ``(N,)``, of their item."""
    y = as_labels("labels", labels, *sets.shape)
    return sets.gather(1, y[:, None]).double().mean().item()


def class_coverage(sets: Tensor, labels: Any) -> dict[int, float]:
    """Return for each class that there is the share of its items' sets that hold it.

    Args:
        sets: Truth values, shape ``(N, C)``.
        labels: Classes, shape ``(N,)``.

    Example:
        >>> class_coverage(torch.tensor([[True, False], [True, False]]), torch.tensor([0, 1]))
        {0: 1.0, 1: 0.0}
    """
    y = as_labels("labels", labels, *sets.shape)
    held = sets.gather(1, y[:, None])[:, 0].double()
    return {int(label): held[y == label].mean().item() for label in y.unique()}


def set_size(sets: Tensor) -> float:
    """Return the mean number of classes in the sets ``(N, C)``."""
    return sets.sum(-1).double().mean().item()


def _nonconformity(p: Tensor, method: Method) -> Tensor:
    if method == "threshold":
        return 1 - p
    values, order = p.sort(-1, descending=True)
    mass = values.cumsum(-1)  # of a class and all that are likelier
    if method == "regularised":
        place = torch.arange(1, p.shape[-1] + 1)
        mass = mass + _PENALTY * (place - _FREE).clamp_min(0)
    return torch.empty_like(mass).scatter_(1, order, mass)
