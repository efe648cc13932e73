"""What every data module does: views for training, whole images for evaluation."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms.v2.functional import rgb_to_grayscale

from probcl.checks import check_count
from probcl.data import (
    Augmentation,
    Degrade,
    ImageArrays,
    ImageFiles,
    RandomResizedCrop,
    SimAugment,
    as_float,
    check_classes,
    class_names,
)
from probcl.data.views import (
    CroppedBatch,
    CroppedViews,
    Sized,
    collate_views,
    read_into_memory,
)
from probcl.randomness import reseed
from probcl.training.batch import TEST, TRAIN, Batch, Part, as_small_as_others
from probcl.training.evaluation import CHANGED, CORRUPTED, EVALUATION_BATCH, changed
from probcl.training.sampler import Batches, Place, blocks, derived_seed, shuffled_batches

__all__ = ["ImageData"]

MAX_WORKERS = 8


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
        batch_size: Images in a batch of one device; each gives ``views`` views.
        views: Views of each image in training.
        degraded_views: How many of them, the last ones, are degraded: blurred, covered, flattened
            or made noisy (``probcl.data.Degrade``). With one, a posterior learns to be unsure of
            images that lack something; 0 for none.
        validation: Share of the training images to hold out, from 0 to less than 1. On them the
            embedding is monitored during training; with 0, on images that it is trained on.
        monitored: Number of images on which it is monitored, and of as many again to compare them
            with; 0 for none.
        corrupted: Number of test images, evenly spaced, that an evaluation embeds with every
            corruption at every severity; 0 for none.
        out_of_distribution: Another data set, of images of one size with these: its test images
            are inputs that the uncertainty should notice. Some are made of the test images in any
            case.
        channels: 3 to repeat the one channel of grey images, 1 to take their colour away; None to
            leave them as they are.
        in_memory: Whether to read images in files once, in the size of a view, and keep them.
        num_workers: Processes that read images in files; by default one a core, at most 8.

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
        corrupted: int = 1000,
        out_of_distribution: "ImageData | None" = None,
        channels: Literal[1, 3] | None = None,
        in_memory: bool = False,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        if num_workers is None:
            num_workers = min(os.cpu_count() or 1, MAX_WORKERS)
        if not 0 <= degraded_views <= views:
            raise ValueError(
                f"degraded_views must be from 0 to {views}, the views, got {degraded_views}."
            )
        if not 0 <= validation < 1:
            raise ValueError(f"validation must be a share from 0 to less than 1, got {validation}.")
        self.augment: Any = self.default_augmentation() if augmentation is None else augmentation
        self.batch_size = check_count("batch_size", batch_size, least=2)
        self.views = check_count("views", views, least=2)
        self.degraded_views = degraded_views
        self.degrade = Degrade()
        self.validation = validation
        self.monitored = check_count("monitored", monitored, least=0)
        self.corrupted = check_count("corrupted", corrupted, least=0)
        self.out_of_distribution = out_of_distribution
        self.channels = channels
        self.in_memory = in_memory
        self.num_workers = check_count("num_workers", num_workers, least=0)
        self.seed = 0
        self._begun = Place()
        self._passes = 0  # over the training images, where there is no Trainer to count them
        #: Image files without labels, for ``predict``.
        self.pictures: list[str] = []
        #: Files that could not be read and were left out.
        self.unreadable: set[str] = set()
        self._sets: tuple[Dataset, ...] | None = None
        self._monitored: list[Dataset] = []

    @abstractmethod
    def load(self) -> tuple[Dataset, ...]:
        """Return the images to train on and the images to evaluate on.

        Each is an ``ImageArrays``, or a data set of items that begin with an image (of PIL, or a
        tensor) and its label. A third one, of images without labels, is trained on in place of the
        first, which a probe and the neighbours still learn from. What the first keeps as
        ``classes`` are the names of the classes, by number.
        """

    def default_augmentation(self) -> nn.Module:
        """Return the augmentation of this data set where none is asked for."""
        return SimAugment()

    @property
    def set_name(self) -> str:
        """Name of the images in a report: of those in a file or folder, its own."""
        path = getattr(self, "path", None)
        return Path(path).stem if path else type(self).__name__.lower()

    @property
    def sets(self) -> tuple[Dataset, ...]:
        """What ``load`` returns, loaded on first use."""
        if self._sets is None:
            sets = tuple(self._resident(part) for part in self.load())
            check_classes(*sets[:2])
            self._sets = sets
        return self._sets

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by number; none where they are numbers only."""
        return class_names(self.sets[0])

    def _resident(self, part: Dataset) -> Dataset:
        if isinstance(part, ImageArrays) or not self.in_memory:
            return part
        images, skipped = read_into_memory(part, self.crop.centre_per_image(), self.num_workers)
        self.unreadable.update(skipped)
        return images

    @property
    def true_concentration(self) -> Tensor | None:
        """True concentration of each test image, shape ``(N,)``, where it is known."""
        return None

    @property
    def example(self) -> Tensor:
        """One training image as a batch, from which lazy layers take their sizes."""
        images = self._loader(self._plain(self.sets[0]), batch_size=1, num_workers=0)
        first = next((batch for batch in images if len(batch[0])), None)
        if first is None:
            raise ValueError(f"not one of the {len(images)} images to train on can be read.")
        return self._with_channels(self._whole(first)).cpu()

    def setup(self, stage: str) -> None:
        """Load the images, part off those held out, and check that the rest fill a batch."""
        if stage == "fit":
            self.seed = torch.initial_seed()
        train, _, *unlabelled = self.sets
        self._check_channels()
        count = len(train)  # type: ignore[arg-type]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
        held_out = round(self.validation * count)
        monitored = min(self.monitored, held_out or count // 2, count - held_out)
        rows = order[-monitored:], order[:monitored]  # those held out come first in the order
        self._monitored = [Subset(self._plain(train), part) for part in rows if monitored]
        if unlabelled:
            self._fit, self._fit_rows = self._cropped(unlabelled[0]), range(len(unlabelled[0]))  # type: ignore[arg-type]
        else:
            self._fit, self._fit_rows = self._cropped(train), sorted(order[held_out:])  # type: ignore[assignment]
        count = len(self._fit_rows) // self.world_size
        if count < self.batch_size:
            on_each = "" if self.world_size == 1 else f" for each of {self.world_size} devices"
            fix = f"set batch_size to {count} or less" if count > 1 else "set validation lower"
            there = f"the data set has {count} training images{on_each}"
            raise ValueError(f"batch_size is {self.batch_size}, but {there}: {fix}.")
        if self.trainer is not None:
            other = self.out_of_distribution
            for part in (*self.sets, *(() if other is None else other.sets[1:2])):
                if isinstance(part, ImageArrays):
                    part.reside(self.trainer.strategy.root_device)

    def _check_channels(self) -> None:
        parts = (part for part in self.sets[:2] if isinstance(part, ImageArrays))
        channels = [part.images.shape[1] for part in parts]
        if len(set(channels)) > 1 and self.channels is None:
            raise ValueError(
                f"the training images have {channels[0]} channels and the test images "
                f"{channels[1]}: give both the same, or set channels."
            )

    def train_dataloader(self) -> Batches:
        """Return shuffled batches of full size: a contrastive loss depends on the batch's."""
        together = self.batch_size * self.world_size
        return Batches(len(self._fit_rows) // together, self._epoch)

    def _epoch(self) -> DataLoader:
        """Return the batches that are left of the epoch in which the training stands."""
        epoch, done, *_ = self._place()
        if isinstance(self._fit, CroppedViews):
            self._fit.seed = derived_seed(self.seed, epoch)
        batches = shuffled_batches(
            self._fit_rows, self.batch_size, self.seed, epoch, self.rank, self.world_size
        )
        return self._loader(self._fit, batch_sampler=batches[done:])

    def val_dataloader(self) -> list[Batches]:
        """Return the images to compare with, and those on which the embedding is monitored."""
        parts = zip(self._monitored, (TRAIN, TEST), strict=False)
        return [self._evaluated(images, [part]) for images, part in parts]

    def test_dataloader(self) -> list[Batches]:
        """Return the training set, from which evaluation learns its probe, and the test set.

        With the test set come its changes that are out of distribution; after it, those of its
        images that are corrupted, and the images of another data set. Where the Trainer limits the
        batches of a test, the changes are left out.
        """
        train, test = (self._plain(part) for part in self.sets[:2])
        count = check_count("the number of test images", len(test))  # type: ignore[arg-type]
        limit = 1.0 if self.trainer is None else self.trainer.limit_test_batches
        limited = limit != 1 or isinstance(limit, int)  # 1.0 is all of them, 1 is one
        whole = self.example.dim() == 4 and not limited  # else vectors
        loaders = [self._evaluated(train, [TRAIN])]
        loaders.append(self._evaluated(test, [TEST, *CHANGED] if whole else [TEST]))
        if whole and self.corrupted:
            rows = sorted({i * count // self.corrupted for i in range(self.corrupted)})
            loaders.append(self._evaluated(test, CORRUPTED, rows))
        if self.out_of_distribution is not None:
            other = self.out_of_distribution
            part = Part("out_of_distribution", other.set_name)
            loaders.append(self._evaluated(self._plain(other.sets[1]), [part]))
        return loaders

    def predict_dataloader(self) -> list[Batches]:
        """Return the training set, and the test set or the ``pictures`` in its place."""
        train, test = self._plain(self.sets[0]), self._plain(self.sets[1])
        if self.pictures:
            channels, height, width = self.example.shape[1:]
            files = ImageFiles(self.pictures, None, channels, "skip")
            centre = self.crop.centre_per_image() if self._has_crop else Sized(height, width)
            test = CroppedViews(files, [centre])
        return [self._evaluated(train, [TRAIN]), self._evaluated(test, [TEST])]

    def _evaluated(
        self, images: Dataset, parts: Sequence[Part], rows: Sequence[int] | None = None
    ) -> Batches:
        """Return each block of images once for every part of an evaluation that it belongs to."""
        rows = range(len(images)) if rows is None else rows  # type: ignore[arg-type]
        # A rank that has none takes an empty one: Lightning would have it leave the others alone.
        sampler = blocks(rows, EVALUATION_BATCH, self.rank, self.world_size) or [[]]
        loader = self._loader(images, batch_sampler=sampler)
        return Batches(
            len(sampler) * len(parts), lambda: ((block, part) for block in loader for part in parts)
        )

    @property
    def world_size(self) -> int:
        """Number of processes that work together, each on batches of its own."""
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def rank(self) -> int:
        """Number of this process among them."""
        return 0 if self.trainer is None else self.trainer.global_rank

    def state_dict(self) -> dict[str, Any]:
        """Return the seed, from which order and draws follow, and how far the training is."""
        return {"seed": self.seed, **self._place()._asdict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the seed and the place of the training that is to go on."""
        place = dict(state_dict)
        self.seed = place.pop("seed")
        self._begun = Place(**place)

    def _batches_done(self) -> int:
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.completed

    def _place(self) -> Place:
        """Return how far the training is."""
        if self.trainer is None:
            self._passes += 1
            return Place(self._passes - 1)
        per_epoch = int(self.trainer.num_training_batches)
        place = self._begun.after(self._batches_done(), per_epoch)
        overfit = self.trainer.overfit_batches  # type: ignore[attr-defined]
        return place._replace(epoch=0) if overfit else place

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Seed the random draws of a step of the training."""
        if self.trainer is not None and self.trainer.training:
            seed = derived_seed(self.seed, self._batches_done(), self.rank)
            reseed(seed, self.trainer.strategy.root_device)
        return batch

    def on_after_batch_transfer(self, batch: tuple, dataloader_idx: int) -> Batch:
        """Make views on the device: augmented ones in training, else the image or its change."""
        part = None
        if isinstance(batch[-1], Part):
            batch, part = batch
        if isinstance(batch, CroppedBatch):
            self.unreadable.update(batch.unreadable)
            batch = batch if part else as_small_as_others(batch, self.trainer)
        if not len(batch[2]):
            return Batch([], batch[1], batch[2], part)
        if part is None:
            views = [self._with_channels(view) for view in self._views(batch)]
            if self.degraded_views:
                last = [self.degrade(view) for view in views[-self.degraded_views :]]
                views[-self.degraded_views :] = last
        else:
            image = self._with_channels(self._whole(batch))
            views = [changed(image, batch[2], part)]
        if self.trainer is not None:  # bytes have become float32: the weights may be wider or not
            views = [self.trainer.precision_plugin.convert_input(view) for view in views]
        one_size = len({view.shape for view in views}) == 1
        return Batch(torch.stack(views) if one_size else views, batch[1], batch[2], part)

    def _views(self, batch: tuple) -> list[Tensor]:
        """Return the augmented views of a batch, each in [0, 1]."""
        images = batch[0]
        if isinstance(batch, CroppedBatch):
            return [self.augment.view(view) for view in images]
        if not isinstance(self.augment, Augmentation):
            return [self.augment(as_float(images)) for _ in range(self.views)]
        return [self.augment.view(images, crop) for crop in self.augment.crops(self.views)]

    def _whole(self, batch: tuple) -> Tensor:
        """Return the images of a batch as they are, in the size of a view, in [0, 1]."""
        if isinstance(batch, CroppedBatch):
            return as_float(batch.views[0])
        return self.crop.whole(batch[0]) if self._has_crop else as_float(batch[0])

    def _with_channels(self, view: Tensor) -> Tensor:
        if self.channels == 3 and view.shape[1] == 1:
            return view.expand(-1, 3, -1, -1)
        return rgb_to_grayscale(view) if self.channels == 1 else view

    @property
    def crop(self) -> RandomResizedCrop:
        """The augmentation's crop.

        Raises:
            ValueError: If it has none.
        """
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

    def _loader(self, data: Dataset, **options: Any) -> DataLoader:
        # A generator of its own: else each pass over the data would draw from the global one.
        options = {"generator": torch.Generator()} | options
        source = data.dataset if isinstance(data, Subset) else data
        if isinstance(source, ImageArrays):
            return DataLoader(data, collate_fn=lambda batch: batch, **options)  # as it is
        options.setdefault("num_workers", self.num_workers)
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(data, collate_fn=collate_views, pin_memory=on_gpu, **options)
