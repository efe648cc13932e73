"""What a step takes, from a data module of ours or from any loader."""

from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from probcl.data.views import CroppedBatch

__all__ = ["TEST", "TRAIN", "Batch", "Part", "as_batch", "as_small_as_others"]


class Part(NamedTuple):
    """Which images of an evaluation a batch holds.

    Attributes:
        kind: Those that a probe learns from and neighbours are looked for among, those to evaluate
            on, inputs unlike them, or corrupted ones.
        name: Of the inputs or of the corruption.
        severity: Of the corruption.
    """

    kind: Literal["train", "test", "out_of_distribution", "corrupted"]
    name: str = ""
    severity: int = 0


TRAIN, TEST = Part("train"), Part("test")


class Batch(NamedTuple):
    """Views of ``B`` images, their labels and their rows in the data set.

    Where not one of a batch's files could be read there are no views, and ``B`` is 0.

    Attributes:
        views: Shape ``(V, B, channels, height, width)``; a list of ``V`` tensors where their sizes
            differ.
        labels: Classes, shape ``(B,)``; None where the images have none.
        rows: Shape ``(B,)``; None where they are not known.
        part: Which images of an evaluation they are; None in training.
    """

    views: Tensor | list[Tensor]
    labels: Tensor | None
    rows: Tensor | None
    part: Part | None = None

    @property
    def size(self) -> int:
        """Number ``B`` of images."""
        return len(self.views[0]) if len(self.views) else 0


def as_batch(given: Any, loader: int | None = None) -> Batch:
    """Return what any loader gives as a ``Batch``.

    Args:
        given: A ``Batch``, or ``(views, labels, ...)``, or views only. In training, views are a
            tensor ``(V, B, ...)`` or a sequence of ``V`` tensors; in evaluation a tensor of images
            ``(B, ...)`` will do.
        loader: Number of the loader in evaluation: the first has the images that a probe learns
            from, the second those to evaluate on, and others inputs unlike them; None in training.

    Raises:
        ValueError: If it is something else.

    Example:
        >>> images, labels = torch.rand(2, 4, 1, 8, 8), torch.arange(4)
        >>> as_batch([images, labels]).size, as_batch(list(images)).labels
        (4, None)
        >>> as_batch((images[0], labels), loader=1).part.kind
        'test'
    """
    if isinstance(given, Batch):
        return given
    views, labels = given, None
    if isinstance(given, list | tuple) and len(given) > 1 and _are_labels(given[1]):
        views, labels = given[:2]
    parts = views if isinstance(views, list | tuple) else [views]
    others = [part for part in parts if not isinstance(part, Tensor)]
    if others:
        got = type(others[0]).__name__
        raise ValueError(
            f"a batch must be views, a tensor or a list of tensors, or (views, labels), got {got}: "
            "give the loader a collate_fn."
        )
    if loader is None:
        return Batch(views, labels, None)
    if isinstance(views, Tensor) and views.dim() < 5:
        views = views[None]
    beyond = Part("out_of_distribution", f"loader {loader}")
    return Batch(views, labels, None, (TRAIN, TEST, beyond)[min(loader, 2)])


def as_small_as_others(batch: CroppedBatch, trainer: Trainer | None) -> CroppedBatch:
    """Return as many images as the rank has that lacks the most: ranks compare in one size."""
    if trainer is None or trainer.world_size == 1:
        return batch
    count = torch.tensor(len(batch.rows), device=trainer.strategy.root_device)
    least = int(trainer.strategy.reduce(count, reduce_op="min"))
    labels = None if batch.labels is None else batch.labels[:least]
    views = [view[:least] for view in batch.views]
    return CroppedBatch(views, labels, batch.rows[:least], batch.unreadable)


def _are_labels(value: Any) -> bool:
    return value is None or (
        isinstance(value, Tensor) and value.dim() == 1 and not torch.is_floating_point(value)
    )
