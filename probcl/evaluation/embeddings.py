"""What an encoder says of a set of items: the arrays that evaluation works on."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from probcl.checks import as_labels, as_matrix
from probcl.distributions import Point, as_posterior

__all__ = ["Embeddings"]


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

    def with_labels(self, labels: Any) -> "Embeddings":
        """Return the same items with these labels, shape ``(N,)``."""
        other = copy(self)
        other.labels = as_labels("labels", labels, len(self))
        return other

    def __len__(self) -> int:
        return len(self.embedding)

    @classmethod
    def concatenate(cls, parts: "Sequence[Embeddings]") -> "Embeddings":
        """Join the embeddings of batches into one set; what one of them lacks is left out."""

        def joined(values: list[Tensor | None]) -> Tensor | None:
            present = [value for value in values if value is not None]
            return torch.cat(present) if len(present) == len(values) else None

        own = [part.features is not part.embedding for part in parts]
        return cls(
            joined([part.embedding for part in parts]),
            joined([part.labels for part in parts]),
            joined([part.features for part in parts]) if all(own) else None,
            [block for part in parts for block in part.posterior]
            if all(part.posterior for part in parts)
            else None,
            joined([part._rows for part in parts]),
        )
