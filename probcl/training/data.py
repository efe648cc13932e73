"""Data modules: batches of augmented views for training, of plain images for evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from probcl.data import (
    ImageArrays,
    RandomAffine,
    RandomContrast,
    RandomNoise,
    load_digits,
    read_arrays,
)

__all__ = ["Arrays", "Batch", "Digits", "ImageData"]


class Batch(NamedTuple):
    """Views ``(V, B, channels, height, width)``, labels and rows in the data set ``(B,)``."""

    views: Tensor
    labels: Tensor
    rows: Tensor


class ImageData(LightningDataModule, ABC):
    """Labelled images in memory, augmented on the device a whole batch at a time.

    A data set of your own is a subclass with ``load()``.

    Args:
        augmentations: Modules that turn a batch of images in [0, 1] into a batch of views, one
            after the other; by default ``RandomAffine``, ``RandomContrast`` and ``RandomNoise``.
        batch_size: Images in a batch; each gives ``views`` views.
        views: Views of each image in training.
    """

    def __init__(
        self,
        augmentations: Sequence[nn.Module] | None = None,
        batch_size: int = 256,
        views: int = 2,
    ) -> None:
        super().__init__()
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, got {batch_size}.")
        if views < 2:
            raise ValueError(f"views must be at least 2, got {views}.")
        if augmentations is None:
            augmentations = (RandomAffine(), RandomContrast(), RandomNoise())
        self.augment = nn.Sequential(*augmentations)
        self.batch_size = batch_size
        self.views = views
        self._sets: tuple[ImageArrays, ImageArrays] | None = None

    @abstractmethod
    def load(self) -> tuple[ImageArrays, ImageArrays]:
        """Return the images to train on and the images to evaluate on."""

    def setup(self, stage: str) -> None:
        """Load the images, and check that they fill a batch."""
        train, test = self.sets
        if train.images.shape[1] != test.images.shape[1]:
            raise ValueError(
                f"the training images have {train.images.shape[1]} channels and the test images "
                f"{test.images.shape[1]}: give both the same."
            )
        if len(train) < self.batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}, but the data set has {len(train)} training "
                f"images: set --data.batch_size to {len(train)} or less."
            )

    @property
    def sets(self) -> tuple[ImageArrays, ImageArrays]:
        """Return the training set and the test set, loaded on first use."""
        if self._sets is None:
            self._sets = self.load()
        return self._sets

    @property
    def example(self) -> Tensor:
        """Return one training image as a batch, from which lazy layers take their sizes."""
        return _as_float(self.sets[0].images[:1])

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches of full size: a contrastive loss depends on the batch's."""
        return self._loader(self.sets[0], training=True)

    def test_dataloader(self) -> list[DataLoader]:
        """Return the training set, from which evaluation learns its probe, and the test set."""
        return [self._loader(part) for part in self.sets]

    def predict_dataloader(self) -> list[DataLoader]:
        """Return the training set and the test set."""
        return self.test_dataloader()

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor, Tensor], dataloader_idx: int
    ) -> Batch:
        """Make views on the device: augmented ones in training, else the image itself."""
        images, labels, rows = batch
        images = _as_float(images)
        if self.trainer is not None and self.trainer.training:
            views = torch.stack([self.augment(images) for _ in range(self.views)])
        else:
            views = images.unsqueeze(0)
        return Batch(views, labels, rows)

    def _loader(self, data: ImageArrays, training: bool = False) -> DataLoader:
        return DataLoader(
            data,
            batch_size=self.batch_size,
            shuffle=training,
            drop_last=training,
            collate_fn=_identity,
        )


class Digits(ImageData):
    """Scikit-learn's 8x8 handwritten digits, 1,437 to train and 360 to test."""

    def load(self) -> tuple[ImageArrays, ImageArrays]:
        """Return the two parts of ``probcl.data.load_digits``."""
        return load_digits()


class Arrays(ImageData):
    """Images and labels from an ``.npz`` file.

    Args:
        path: File with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``:
            images ``(N, channels, height, width)``, integers in 0..255 or floats in [0, 1]; labels
            ``(N,)``, integers.
        augmentations: As for ``ImageData``.
        batch_size: Images in a batch; each gives ``views`` views.
        views: Views of each image in training.
    """

    def __init__(
        self,
        path: str,
        augmentations: Sequence[nn.Module] | None = None,
        batch_size: int = 256,
        views: int = 2,
    ) -> None:
        super().__init__(augmentations, batch_size, views)
        self.path = path

    def load(self) -> tuple[ImageArrays, ImageArrays]:
        """Return the two parts of the file."""
        return read_arrays(self.path)


def _as_float(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


def _identity(batch: Any) -> Any:
    """Pass on a batch that the data set has already put together."""
    return batch
