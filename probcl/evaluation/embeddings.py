"""What an encoder says of items: the arrays that evaluation works on, and their checks."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from probcl.checks import as_labels, as_matrix, require_two
from probcl.distributions import Point, as_posterior

__all__ = ["Embeddings", "Sets"]


class Embeddings:
    """Embeddings of ``N`` items and what else is known of them, NumPy or PyTorch, on the CPU.

    Args:
        embedding: Shape ``(N, d)``, before it is normalised where its length tells something; unit
            vectors do too.
        labels: Classes, integers of at least 0, shape ``(N,)``.
        features: Output of the backbone, shape ``(N, F)``; by default the embedding.
        posterior: Distribution over the sphere of batch shape ``(N,)``, or several whose batches
            add up to ``N``, as they came; points say nothing and are left out.
        rows: Row of each item in its data set, all different, shape ``(N,)``; by default 0, 1, ...
            By it evaluation sorts the items, so that batches and their order change nothing.

    Raises:
        ValueError: If an argument is not finite, or does not have a row for each item.

    Example:
        >>> import numpy as np
        >>> len(Embeddings(np.ones((3, 2)), labels=[0, 1, 1]))
        3
    """

    def __init__(
        self,
        embedding: Any,
        labels: Any = None,
        features: Any = None,
        posterior: Distribution | Sequence[Distribution] | None = None,
        rows: Any = None,
    ) -> None:
        self.embedding = as_matrix("embedding", embedding)
        count = len(self.embedding)
        self.labels = None if labels is None else as_labels("labels", labels, count)
        given = features is not None
        self.features = as_matrix("features", features, count) if given else self.embedding
        self._rows = None if rows is None else as_labels("rows", rows, count)
        if self._rows is not None and len(self._rows.unique()) < count:
            raise ValueError("rows must all be different, got one twice: give each item its own.")
        blocks = [posterior] if isinstance(posterior, Distribution) else list(posterior or ())
        blocks = [as_posterior(block) for block in blocks]
        points = all(isinstance(block, Point) for block in blocks)
        self.posterior: tuple[Any, ...] = () if points else tuple(blocks)
        for block in blocks:
            if len(block.batch_shape) != 1 or block.event_shape != self.embedding.shape[1:]:
                raise ValueError(
                    f"posterior must have batch shape (N,) and event shape "
                    f"({self.embedding.shape[1]},), got {tuple(block.batch_shape)} and "
                    f"{tuple(block.event_shape)}."
                )
        described = sum(block.batch_shape[0] for block in blocks)
        if blocks and described != count:
            raise ValueError(f"posterior must be of the {count} items, got {described}.")

    @property
    def rows(self) -> Tensor:
        """Row of each item in its data set, shape ``(N,)``."""
        return torch.arange(len(self)) if self._rows is None else self._rows

    @property
    def labelled(self) -> bool:
        """Whether there are labels, of two classes at least."""
        return self.labels is not None and len(self.labels.unique()) > 1

    @property
    def has_features(self) -> bool:
        """Whether the features are others than the embedding."""
        return self.features is not self.embedding

    def __len__(self) -> int:
        return len(self.embedding)

    @classmethod
    def concatenate(cls, parts: "Sequence[Embeddings]") -> "Embeddings":
        """Join the embeddings of batches into one set; what one of them lacks is left out."""

        def joined(values: list[Tensor | None]) -> Tensor | None:
            present = [value for value in values if value is not None]
            return torch.cat(present) if len(present) == len(values) else None

        return cls(
            joined([part.embedding for part in parts]),
            joined([part.labels for part in parts]),
            joined([part.features for part in parts])
            if all(part.has_features for part in parts)
            else None,
            [block for part in parts for block in part.posterior]
            if all(part.posterior for part in parts)
            else None,
            joined([part._rows for part in parts]),
        )


@dataclass(frozen=True)
class Sets:
    """The sets of items that an evaluation is of.

    Args:
        train: What others are compared with.
        test: What is measured.
        out_of_distribution: Sets unlike the training set, by name.
        corrupted: Test items, corrupted, by name and severity; their rows are those of the test.

    Raises:
        ValueError: If the sets are not of one kind, or classes or rows are not known.
    """

    train: Embeddings
    test: Embeddings
    out_of_distribution: dict[str, Embeddings]
    corrupted: dict[tuple[str, int], Embeddings]

    @classmethod
    def of(
        cls,
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        out_of_distribution: Mapping[str, Any],
        corrupted: Mapping[str, Mapping[int, Any]],
    ) -> "Sets":
        """Make sets of arrays, those of ``train`` and ``test`` with their labels."""
        return cls(
            _embeddings("train", *train),
            _embeddings("test", *test),
            {n: _embeddings(_outside(n), part) for n, part in out_of_distribution.items()},
            {
                (n, severity): _embeddings(_corrupted(n, severity), part)
                for n, levels in corrupted.items()
                for severity, part in levels.items()
            },
        )

    def __post_init__(self) -> None:
        require_two("train", self.train.embedding)
        others = {"test": self.test}
        others |= {_outside(name): part for name, part in self.out_of_distribution.items()}
        others |= {_corrupted(*key): part for key, part in self.corrupted.items()}
        for name, part in others.items():
            _require_alike(name, part, self.train)
        if self.train.labels is not None and self.test.labels is not None:
            unknown = self.test.labels[~torch.isin(self.test.labels, self.train.labels)]
            if len(unknown):
                raise ValueError(
                    f"test_labels must be among those of the training items, which lack class "
                    f"{int(unknown[0])}: leave out the items of classes that training lacks."
                )
        for key, part in self.corrupted.items():
            if not torch.isin(part.rows, self.test.rows).all():
                raise ValueError(
                    f"{_corrupted(*key)} must have rows of the test items: give Embeddings with "
                    "rows."
                )

    @property
    def there(self) -> set[str]:
        """What there is of what scores and metrics need."""
        given = {
            "labels": self.train.labelled,
            "test labels": self.train.labelled and self.test.labelled,
            "posterior": bool(self.train.posterior),
            "corrupted": bool(self.corrupted),
        }
        return {need for need, is_given in given.items() if is_given}


def _outside(name: str) -> str:
    return f"out_of_distribution[{name!r}]"


def _corrupted(name: str, severity: int) -> str:
    return f"corrupted[{name!r}][{severity}]"


def _embeddings(name: str, value: Any, labels: Any = None) -> Embeddings:
    """Return a set as ``Embeddings``, or raise ``ValueError`` that begins with its name."""
    try:
        if not isinstance(value, Embeddings):
            return Embeddings(value, labels)
        if labels is None:
            return value
        labelled = copy(value)
        labelled.labels = as_labels("labels", labels, len(value))
        return labelled
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _require_alike(name: str, part: Embeddings, train: Embeddings) -> None:
    for what in ("embedding", "features"):
        own, other = getattr(part, what).shape[1], getattr(train, what).shape[1]
        if own != other:
            raise ValueError(f"{name} must have an {what} of {other} numbers, as train, got {own}.")
    for what, own, other in (
        ("features", part.has_features, train.has_features),
        ("a posterior", bool(part.posterior), bool(train.posterior)),
    ):
        if own != other:
            has, lacks = (name, "train") if own else ("train", name)
            raise ValueError(f"{lacks} must have {what} too, as {has}, or neither.")
