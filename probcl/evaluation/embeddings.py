"""What an encoder says of items: the arrays that evaluation works on."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from probcl.checks import as_integers, as_labels, as_matrix, as_values
from probcl.distributions import Point, as_posterior
from probcl.evaluation.progress import track
from probcl.evaluation.subsets import in_blocks
from probcl.sphere import normalize

__all__ = ["Embeddings", "check_severities"]

_LEAST, _MOST = 1e-30, 1e15  # of the largest number


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
        gate: How much the posterior of each item means, from 0 to 1, shape ``(N,)``, if it has a
            gate.

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
        gate: Any = None,
    ) -> None:
        self.embedding = _in_range("embedding", as_matrix("embedding", embedding))
        count, dim = self.embedding.shape
        self.labels: Any = None if labels is None else as_labels("labels", labels, count)
        self.has_features = features is not None
        self.features = self.embedding
        if features is not None:
            self.features = _in_range("features", as_matrix("features", features, count))
        self._rows = None if rows is None else as_integers("rows", rows, count)
        if self._rows is not None and len(self._rows.unique()) < count:
            raise ValueError("rows must all be different, got one twice: give each item its own.")
        blocks = [posterior] if isinstance(posterior, Distribution) else list(posterior or ())
        blocks = [as_posterior(block) for block in blocks]
        for block in blocks:
            if len(block.batch_shape) != 1 or block.event_shape != (dim,):
                raise ValueError(
                    f"posterior must have batch shape (N,) and event shape ({dim},), got "
                    f"{tuple(block.batch_shape)} and {tuple(block.event_shape)}."
                )
        described = sum(block.batch_shape[0] for block in blocks)
        if blocks and described != count:
            raise ValueError(f"posterior must be of the {count} items, got {described}.")
        points = all(isinstance(block, Point) for block in blocks)
        self.posterior: tuple[Any, ...] = () if points else tuple(blocks)
        self._order: Any = slice(None)
        #: Gates of the posteriors, in float64, shape ``(N,)``; None where they have none.
        self.gate: Any = None
        if gate is not None:
            self.gate = as_values("gate", gate, count)
            if self.gate.min() < 0 or self.gate.max() > 1:
                least, most = self.gate.aminmax()
                raise ValueError(f"gate must be from 0 to 1, got {least:g} to {most:g}.")

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def rows(self) -> Tensor:
        """Row of each item in its data set, shape ``(N,)``."""
        return torch.arange(len(self)) if self._rows is None else self._rows

    @property
    def labelled(self) -> bool:
        """Whether there are labels, of two classes at least."""
        return self.labels is not None and len(self.labels.unique()) > 1

    @cached_property
    def direction(self) -> Tensor:
        """Unit vectors of the embeddings, shape ``(N, d)``."""
        return normalize(self.embedding)

    @property
    def apart(self) -> tuple[Tensor, ...]:
        """Features and direction; the embedding alone where there are no features."""
        if not self.has_features:
            return (self.embedding,)
        return self.features, self.direction.to(self.features.dtype)

    @property
    def joint(self) -> Tensor:
        """Features and direction beside each other; the embedding where there are no features."""
        return torch.cat(self.apart, -1)

    @cached_property
    def length(self) -> Tensor:
        """Lengths of the embeddings before they are normalised, in float64, shape ``(N,)``."""
        # In float64, as squares may overflow.
        norm = partial(torch.linalg.vector_norm, dim=-1, dtype=torch.double)
        return in_blocks(norm, self.embedding)

    @cached_property
    def mean_resultant_length(self) -> Tensor:
        """Mean resultant lengths of the posteriors, shape ``(N,)``."""
        return self.each(lambda q: q.mean_resultant_length)

    def each(self, compute: Callable[[Any], Tensor]) -> Tensor:
        """Return ``compute`` of every posterior, ``(N,)``; it maps a block of ``B`` to ``(B,)``."""
        with torch.no_grad():
            values = [compute(q).cpu() for q in track("posteriors", self.posterior)]
        return torch.cat(values)[self._order]

    def sorted(self) -> "Embeddings":
        """Return the items in the order of their rows; the posteriors stay in their blocks."""
        if (self.rows.diff() > 0).all():
            return self
        order = self.rows.argsort()
        other = Embeddings(
            self.embedding[order],
            None if self.labels is None else self.labels[order],
            self.features[order] if self.has_features else None,
            self.posterior,
            self.rows[order],
            None if self.gate is None else self.gate[order],
        )
        other._order = torch.arange(len(self))[self._order][order]
        return other

    @classmethod
    def concatenate(cls, parts: "Sequence[Embeddings]") -> "Embeddings":
        """Join the embeddings of batches into one set; what one of them lacks is left out."""
        whole = cls(
            joined([part.embedding for part in parts]),
            joined([part.labels for part in parts]),
            joined([part.features if part.has_features else None for part in parts]),
            [q for p in parts for q in p.posterior] if all(p.posterior for p in parts) else (),
            joined([part._rows for part in parts]),
            joined([part.gate for part in parts]),
        )
        if whole.posterior:
            # A part's posteriors are in the order in which they came.
            starts = accumulate((len(part) for part in parts), initial=0)
            orders = [torch.arange(len(part))[part._order] for part in parts]
            whole._order = torch.cat([o + start for o, start in zip(orders, starts, strict=False)])
        return whole


def _in_range(name: str, x: Tensor) -> Tensor:
    """Return numbers whose squares float32 holds, or raise ``ValueError``."""
    largest = torch.stack(x.aminmax()).abs().max()
    if not _LEAST <= largest <= _MOST and largest:
        raise ValueError(
            f"{name} must be from {_LEAST:g} to {_MOST:g} in size, its largest number is "
            f"{largest:g}: divide by its scale."
        )
    return x


def joined(parts: list[Any]) -> Any:
    """Return tensors in one, or None if one of them is missing."""
    return None if any(part is None for part in parts) else torch.cat(parts)


def check_severities(name: str, rows: Mapping[int, Tensor]) -> None:
    """Raise ``ValueError`` unless the items are the same at every severity, by their rows."""
    if rows and min(rows) < 1:
        raise ValueError(
            f"corrupted[{name!r}] must have severities of at least 1, got {min(rows)}: the test "
            "items themselves are those of severity 0."
        )
    items = [part.sort().values for part in rows.values()]
    if not all(torch.equal(part, items[0]) for part in items):
        raise ValueError(
            f"corrupted[{name!r}] must have the same rows at every severity, got "
            f"{[len(part) for part in items]} items that are not the same: leave the others out."
        )
