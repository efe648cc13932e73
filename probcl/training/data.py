"""What every data module does: views for training, plain images for evaluation."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms.v2.functional import rgb_to_grayscale

from probcl.data import (
    Augmentation,
    Degrade,
    ImageArrays,
    RandomResizedCrop,
    SimAugment,
    as_float,
    check_classes,
)
from probcl.data.views import CroppedBatch, CroppedViews, collate_views
from probcl.training.order import ShuffledRows, TrainingLoader, derived_seed

__all__ = ["Batch", "ImageData"]

MAX_WORKERS = 8


class Batch(NamedTuple):
    """Views of ``B`` images, their labels and their rows in the data set.

    Where not one of a batch's files could be read there are no views, and ``B`` is 0.

    Attributes:
        views: Shape ``(V, B, channels, height, width)``; a list of ``V`` tensors where their sizes
            differ.
        labels: Classes, shape ``(B,)``; None where the images have none.
        rows: Shape ``(B,)``.
    """

    views: Tensor | list[Tensor]
    labels: Tensor | None
    rows: Tensor


class ImageData(LightningDataModule, ABC):
    """Labelled images, in memory or in files, and views of them made on the device.

    Images in memory (``ImageArrays``) lie on the device as bytes, where it has the room, and are
    augmented there a whole batch at a time. Of any other data set, workers read and crop one image
    at a time, and the rest of the augmentation follows on the device.

    A data set of your own is a subclass with ``load()``.

    Args:
        augmentation: Module that turns a batch of images into a batch of views in [0, 1]: an
            ``Augmentation`` such as ``SimAugment``, or for images in memory any module; by default
            that of the data set.
        batch_size: Images in a batch; each gives ``views`` views.
        views: Views of each image in training.
        degraded_views: How many of them, the last ones, are degraded: blurred, covered, flattened
            or made noisy (``probcl.data.Degrade``). With one, a posterior learns to be unsure of
            images that lack something; 0 for none.
        validation: Share of the training images to hold out, from 0 to less than 1. On them the
            embedding is watched during training; with 0, on images that it is trained on.
        monitored: Number of images on which it is watched, and of as many again to compare them
            with; 0 for none.
        channels: 3 to repeat the one channel of grey images, 1 to take their colour away; None to
            leave them as they are.
        num_workers: Processes that read images in files; by default one a core, at most 8.
        unfamiliar: Another data set, of images of one size with these: its test images are inputs
            that the uncertainty should notice. Some are made of the test images in any case.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        augmentation: nn.Module | None = None,
        batch_size: int = 256,
        views: int = 2,
        degraded_views: int = 0,
        validation: float = 0.0,
        monitored: int = 2000,
        channels: Literal[1, 3] | None = None,
        num_workers: int | None = None,
        unfamiliar: "ImageData | None" = None,
    ) -> None:
        super().__init__()
        if num_workers is None:
            num_workers = min(os.cpu_count() or 1, MAX_WORKERS)
        for name, number, least in (
            ("batch_size", batch_size, 2),
            ("views", views, 2),
            ("monitored", monitored, 0),
            ("num_workers", num_workers, 0),
        ):
            if number < least:
                raise ValueError(f"{name} must be at least {least}, got {number}.")
        if not 0 <= degraded_views <= views:
            raise ValueError(
                f"degraded_views must be from 0 to {views}, the views, got {degraded_views}."
            )
        if not 0 <= validation < 1:
            raise ValueError(f"validation must be a share from 0 to less than 1, got {validation}.")
        self.augment: Any = self.default_augmentation() if augmentation is None else augmentation
        self.batch_size = batch_size
        self.views = views
        self.degraded_views = degraded_views
        self.degrade = Degrade()
        self.validation = validation
        self.monitored = monitored
        self.channels = channels
        self.num_workers = num_workers
        self.unfamiliar = unfamiliar
        self.seed = 0
        self._passes = 0  # over the training images, where there is no Trainer to count them
        #: Files that could not be read and were left out.
        self.unreadable: set[str] = set()
        self._sets: tuple[Dataset, Dataset] | None = None
        self._watched: list[Dataset] = []

    @abstractmethod
    def load(self) -> tuple[Dataset, Dataset]:
        """Return the images to train on and the images to evaluate on.

        Both are ``ImageArrays``, or both data sets of items that begin with an image (of PIL, or a
        tensor) and its label.
        """

    def default_augmentation(self) -> nn.Module:
        """Return the augmentation of this data set where none is asked for."""
        return SimAugment()

    def unlabelled(self) -> ImageArrays | None:
        """Return images without labels to train on instead of the labelled ones, if there are."""
        return None

    @property
    def set_name(self) -> str:
        """Name of the images in a report: of those in a file or folder, its own."""
        path = getattr(self, "path", None)
        return Path(path).stem if path else type(self).__name__.lower()

    @property
    def sets(self) -> tuple[Dataset, Dataset]:
        """Return the training set and the test set, loaded on first use."""
        if self._sets is None:
            self._sets = self.load()
            check_classes(*self._sets)
        return self._sets

    @property
    def truth(self) -> Tensor | None:
        """Return the true concentration of each test image, ``(N,)``, where it is known."""
        return None

    @property
    def example(self) -> Tensor:
        """Return one training image as a batch, from which lazy layers take their sizes."""
        images = self._loader(self._plain(self.sets[0]), batch_size=1, num_workers=0)
        first = next((batch for batch in images if len(batch[0])), None)
        if first is None:
            raise ValueError(f"not one of the {len(images)} images to train on can be read.")
        return self._with_channels(self._views(first, training=False)[0]).cpu()

    def setup(self, stage: str) -> None:
        """Load the images, part off those held out, and check that the rest fill a batch."""
        if stage == "fit":
            self.seed = torch.initial_seed()
        self._check_channels()
        train, unlabelled = self.sets[0], self.unlabelled()
        count = len(train)  # type: ignore[arg-type]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
        held_out = round(self.validation * count)
        watched = min(self.monitored, held_out or count // 2, count - held_out)
        rows = order[-watched:], order[:watched]  # those held out come first in the order
        self._watched = [Subset(self._plain(train), part) for part in rows if watched]
        if unlabelled is None:
            self._fit, self._fit_rows = self._cropped(train), sorted(order[held_out:])
        else:
            self._fit, self._fit_rows = unlabelled, list(range(len(unlabelled)))
        count = len(self._fit_rows) // self.world_size
        if count < self.batch_size:
            on_each = "" if self.world_size == 1 else f" for each of {self.world_size} devices"
            raise ValueError(
                f"batch_size is {self.batch_size}, but the data set has {count} training "
                f"images{on_each}: set --data.batch_size to {count} or less."
            )
        if self.trainer is not None:
            strange = None if self.unfamiliar is None else self.unfamiliar.sets[1]
            for part in (*self.sets, unlabelled, strange):
                if isinstance(part, ImageArrays):
                    part.reside(self.trainer.strategy.root_device)

    def _check_channels(self) -> None:
        train, test = self.sets
        if isinstance(train, ImageArrays) and isinstance(test, ImageArrays):
            channels = train.images.shape[1], test.images.shape[1]
            if channels[0] != channels[1] and self.channels is None:
                raise ValueError(
                    f"the training images have {channels[0]} channels and the test images "
                    f"{channels[1]}: give both the same, or set --data.channels."
                )

    def train_dataloader(self) -> DataLoader:
        """Return shuffled batches of full size: a contrastive loss depends on the batch's."""
        rank = 0 if self.trainer is None else self.trainer.global_rank
        rows = ShuffledRows(self._fit_rows, self.batch_size, self.seed, rank, self.world_size)
        return TrainingLoader(self._fit, rows, self._position, **self._options(self._fit))

    def val_dataloader(self) -> list[DataLoader]:
        """Return the images to compare with, and those on which the embedding is watched."""
        return [self._loader(part) for part in self._watched]

    def test_dataloader(self) -> list[DataLoader]:
        """Return the training set, from which evaluation learns its probe, and the test set.

        After them come the images of another data set, if there are any.
        """
        strange = [] if self.unfamiliar is None else [self.unfamiliar.sets[1]]
        return [self._loader(self._plain(part)) for part in (*self.sets, *strange)]

    def predict_dataloader(self) -> list[DataLoader]:
        """Return the training set and the test set."""
        return self.test_dataloader()[:2]

    @property
    def world_size(self) -> int:
        """Number of processes that train together, each with batches of its own."""
        return 1 if self.trainer is None else self.trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        """Return the seed, from which the order of the images and all random draws follow."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the seed of the training that is to go on."""
        self.seed = state_dict["seed"]

    def _batches_done(self) -> int:
        if self.trainer is None:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.completed

    def _position(self) -> tuple[int, int]:
        """Return the epoch, and the number of its batches that are done."""
        if self.trainer is None:
            self._passes += 1
            return self._passes - 1, 0
        return divmod(self._batches_done(), int(self.trainer.num_training_batches))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Seed the random draws of a step of the training."""
        if self.trainer is not None and self.trainer.training:
            step, rank = self._batches_done(), self.trainer.global_rank
            torch.manual_seed(derived_seed(self.seed, step, rank))
        return batch

    def on_after_batch_transfer(self, batch: tuple, dataloader_idx: int) -> Batch:
        """Make views on the device: augmented ones in training, else the image itself."""
        if isinstance(batch, CroppedBatch):
            self.unreadable.update(batch.unreadable)
            if not batch.views:
                return Batch([], batch.labels, batch.rows)
        training = self.trainer is not None and self.trainer.training
        views = [self._with_channels(view) for view in self._views(batch, training)]
        if training and self.degraded_views:
            last = [self.degrade(view) for view in views[-self.degraded_views :]]
            views[-self.degraded_views :] = last
        if self.trainer is not None:  # bytes have become float32: the weights may be wider or not
            views = [self.trainer.precision_plugin.convert_input(view) for view in views]
        one_size = len({view.shape for view in views}) == 1
        return Batch(torch.stack(views) if one_size else views, batch[1], batch[2])

    def _views(self, batch: tuple, training: bool) -> list[Tensor]:
        """Return the views of a batch, each in [0, 1]."""
        images, cropped = batch[0], isinstance(batch, CroppedBatch)
        if not training:
            images = images[0] if cropped else images
            whole = self._has_crop and not cropped
            return [self.crop.whole(images) if whole else as_float(images)]
        if cropped:
            return [self.augment.view(view) for view in images]
        if not isinstance(self.augment, Augmentation):
            return [self.augment(as_float(images)) for _ in range(self.views)]
        return [self.augment.view(images, crop) for crop in self.augment.crops(self.views)]

    def _with_channels(self, view: Tensor) -> Tensor:
        if self.channels == 3 and view.shape[1] == 1:
            return view.expand(-1, 3, -1, -1)
        return rgb_to_grayscale(view) if self.channels == 1 else view

    @property
    def crop(self) -> RandomResizedCrop:
        """Return the augmentation's crop, or raise ``ValueError`` if it has none."""
        if not self._has_crop:
            raise ValueError(
                f"augmentation {type(self.augment).__name__} has no RandomResizedCrop, which "
                "images in files need: use SimAugment, or an Augmentation that begins with one."
            )
        return self.augment.crop

    @property
    def _has_crop(self) -> bool:
        return isinstance(getattr(self.augment, "crop", None), RandomResizedCrop)

    def _plain(self, part: Dataset) -> Dataset:
        """Return a data set for evaluation: one in memory as it is, of others the centres."""
        if isinstance(part, ImageArrays):
            return part
        return CroppedViews(part, [self.crop.centre_per_image()])

    def _cropped(self, part: Dataset) -> Dataset:
        """Return a data set for training: one in memory as it is, of others the views' crops."""
        if isinstance(part, ImageArrays):
            return part
        _ = self.crop  # raises if there is none
        crops = self.augment.crops(self.views)
        return CroppedViews(part, [crop.per_image() for crop in crops])

    def _loader(self, data: Dataset, batch_size: int | None = None, **options: Any) -> DataLoader:
        # A generator of its own: else each pass over the data would draw from the global one.
        options = self._options(data) | {"generator": torch.Generator()} | options
        return DataLoader(data, batch_size=batch_size or self.batch_size, **options)

    def _options(self, data: Dataset) -> dict[str, Any]:
        source = data.dataset if isinstance(data, Subset) else data
        if isinstance(source, ImageArrays):
            return {"collate_fn": _identity}
        return {
            "collate_fn": collate_views,
            "num_workers": self.num_workers,
            "pin_memory": self.trainer is not None
            and self.trainer.strategy.root_device.type == "cuda",
        }


def _identity(batch: Any) -> Any:
    """Pass on a batch that the data set has already put together."""
    return batch
