"""Embeddings for a posterior, from arrays or images, and classes that are not all known."""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probcl.checks import as_values
from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.features import encode_batch
from probcl.evaluation.probe import fit_linear_probe
from probcl.programs.bank import Bank
from probcl.programs.concentration import ConcentrationHead, LastColumns, perceptron
from probcl.programs.matches import Link
from probcl.programs.posthoc import check_directions

__all__ = ["Reader", "with_labels"]

_BATCH = 256
_MOST = 2**30  # numbers that may be held at once
_FEWEST = 20  # labels that the classes of other items may be predicted from


@dataclass(frozen=True)
class Reader:
    """Reads items: arrays, or images by an encoder.

    Args:
        encoder: Images to features; None for arrays.
        projection: Features to the embedding.
    """

    encoder: nn.Module | None
    projection: nn.Module | None

    def read(self, name: str, items: Any, features: Any = None) -> Embeddings:
        """Return items as embeddings, or raise ``ValueError``."""
        if self.encoder is not None:
            own = torch.cat(list(self._encoded(name, items)))
            if self.projection is None:
                return Embeddings(own)
            device = next(self.projection.parameters(), own).device
            parts = [self.projection(x.to(device)).float().cpu() for x in own.split(4096)]
            return Embeddings(torch.cat(parts), features=own)
        try:
            read = items if isinstance(items, Embeddings) else Embeddings(items, features=features)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if read.embedding.shape[1] < 2:
            raise ValueError(f"{name} must have 2 numbers at least, got {read.embedding.shape[1]}.")
        check_directions(read.embedding, name)
        return read

    def _encoded(self, name: str, images: Any) -> Iterator[Tensor]:
        first = 0
        encoder: Any = self.encoder
        for batch in _batches(images):
            yield encode_batch(encoder, batch, first)
            first += len(batch)
        if not first:
            raise ValueError(f"{name} must hold one batch at least, got none.")

    def like(self, name: str, items: Any, train: Embeddings, kin: bool = True) -> Embeddings:
        """Return more items, or raise ``ValueError`` unless they have as many numbers.

        Args:
            name: Of the argument.
            items: As ``read`` takes them.
            train: The training items.
            kin: Whether they have features of the same kind too.
        """
        read = self.read(name, items)
        own, other = read.embedding.shape[1], train.embedding.shape[1]
        if own != other:
            raise ValueError(f"{name} must have {other} numbers, as embeddings, got {own}.")
        own, other = read.features.shape[1], train.features.shape[1]
        if kin and own != other:
            raise ValueError(f"{name} must have {other} features, as embeddings, got {own}.")
        return read

    def copies(self, views: Any, items: Any, train: Embeddings, passes: int) -> list[Embeddings]:
        """Return changed copies of the items, or raise ``ValueError``."""
        if views is None:
            return []
        if callable(views):
            if self.encoder is None:
                raise ValueError("views must be arrays where there is no encoder, got a function.")
            if isinstance(items, Iterator):
                raise ValueError(
                    "items must be a tensor or a loader where views are a function: what gives "
                    "them once cannot be read again."
                )
            again = (_changed(items, views) for _ in range(passes))
            return [self.like("views", batches, train) for batches in again]
        parts = [self.like(f"views[{i}]", part, train) for i, part in enumerate(views)]
        for number, part in enumerate(parts):
            if len(part) != len(train):
                raise ValueError(
                    f"views[{number}] must have a row for each of the {len(train)} items, got "
                    f"{len(part)}."
                )
        return parts

    def head(
        self,
        bank: Bank,
        names: tuple[str, ...],
        inputs: dict[str, Tensor],
        hidden: int,
        start: float,
        link: Link | None,
    ) -> ConcentrationHead:
        """Return a head that is not fitted yet."""
        network = perceptron(torch.cat([inputs[name] for name in names], -1), hidden, start)
        dim, apart = bank.embedding.shape[1], len(bank.mean) - bank.embedding.shape[1]
        if self.encoder is None:
            return ConcentrationHead(LastColumns(dim), bank, names, network, link, apart)
        projection = nn.Identity() if self.projection is None else self.projection
        return ConcentrationHead(projection, bank, names, network, link)


def _changed(images: Any, change: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    from probcl.data import as_float  # loads torchvision, which takes as long as torch

    for batch in _batches(images):
        yield change(as_float(batch))


def _batches(images: Any) -> Iterator[Tensor]:
    for batch in images.split(_BATCH) if isinstance(images, Tensor) else images:
        yield batch if isinstance(batch, Tensor) else batch[0]


def with_labels(items: Embeddings, labels: Any) -> tuple[Embeddings, int]:
    """Return items with classes, predicted where they are -1, and how many were known.

    Raises:
        ValueError: If ``labels`` are not classes, or too few are known.
    """
    values = as_values("labels", items.labels if labels is None else labels, len(items))
    if (values != values.round()).any() or values.min() < -1:
        raise ValueError("labels must be classes, integers of at least 0, or -1 where not known.")
    y = values.long()
    known = y >= 0
    count = int(y.max()) + 1
    # Each item has a probability of each class, also of those that there are none of.
    if len(y) * count > _MOST and count > 2 * len(y.unique()):
        raise ValueError(
            f"labels must be numbered without large gaps, got {int(y.max())} for {len(y)} items: "
            "number the classes by np.unique(labels, return_inverse=True)[1]."
        )
    counts = y[known].unique(return_counts=True)[1]
    if len(counts) < 2:
        raise ValueError(
            f"labels must hold two classes at least, got {len(counts)}: leave labels out to fit "
            "to neighbours."
        )
    if counts.amax() < 2:
        raise ValueError("labels must hold a class of two items at least: no two items match.")
    items = copy(items)
    items.labels = y
    if not known.all():
        if known.sum() < _FEWEST:
            raise ValueError(
                f"labels must be known of {_FEWEST} items at least to predict the others, got "
                f"{int(known.sum())}."
            )
        probe = fit_linear_probe(items.features[known], y[known])
        items.labels = torch.where(known, y, probe.predict(items.features))
    return items, int(known.sum())
