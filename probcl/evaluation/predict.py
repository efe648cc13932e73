"""What is said of new items, of which no class is known: their classes and their scores."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.query import Query, Reference
from probcl.evaluation.scores import SCORES, compute_score

__all__ = ["Prediction", "predict"]


class Prediction(NamedTuple):
    """What is said of ``N`` items, in the order of their rows.

    Attributes:
        probabilities: Class probabilities of the linear probe, ``(N, C)``; ``(N, 0)`` if there is
            none.
        scores: Uncertainty scores by name, each of shape ``(N,)``.
    """

    probabilities: Tensor
    scores: dict[str, Tensor]


def predict(
    train: Any, train_labels: Any, new: Any, *, scores: Iterable[str] | None = None
) -> Prediction:
    """Return the classes and the uncertainty of new items.

    Args:
        train: Training items, as ``evaluate`` takes them.
        train_labels: Their classes, ``(M,)``; None for those of ``train``.
        new: Items of which no class is known, ``(N, d)``, or ``Embeddings``.
        scores: Names, of ``SCORES``; by default all that can be had.

    Raises:
        ValueError: If an argument does not fit, or a score is not known.

    Example:
        >>> y = torch.arange(40) % 2
        >>> z = torch.eye(3)[y] + 0.1 * torch.randn(40, 3)
        >>> predict(z, y, torch.eye(3)).probabilities.argmax(-1)[:2]
        tensor([0, 1])
    """
    known = train if isinstance(train, Embeddings) else Embeddings(train, train_labels)
    items = new if isinstance(new, Embeddings) else Embeddings(new)
    names = list(SCORES if scores is None else scores)
    for name in names:
        if name not in SCORES:
            raise ValueError(f"scores has no {name!r}: choose among {', '.join(SCORES)}.")
    query = Query(items, Reference(known), "new items")
    there = {"labels": known.labelled, "posterior": bool(known.posterior and items.posterior)}
    with torch.no_grad():
        wanted = (name for name in names if all(there[need] for need in SCORES[name].needs))
        found = {name: compute_score(name, query) for name in wanted}
        probabilities = query.probabilities if known.labelled else torch.empty(len(items), 0)
    return Prediction(probabilities, {k: v for k, v in found.items() if v is not None})
