"""Data modules: sets known by name, arrays, folders, data sets of your own, and synthetic data."""

import logging
from collections.abc import Sequence
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms.v2 import Identity

from probcl.data import (
    DATASETS,
    Augmentation,
    ConjugateGenerator,
    ImageArrays,
    RandomAffine,
    RandomContrast,
    RandomNoise,
    SimAugment,
    read_arrays,
    read_folder,
)
from probcl.data.datasets import MAX_PIXELS
from probcl.data.readers import sizes_in_folder
from probcl.data.views import CroppedViews
from probcl.distributions import VonMisesFisher
from probcl.randomness import seeded
from probcl.training.datamodule import ImageData

logger = logging.getLogger("probcl")

# The views that are made of images whose size says nothing else; and from what size as of
# photographs, with a blur.
LARGEST_VIEW, SMALL_VIEW = 224, 96

_ITEMS_SEEN = 8  # by which the size of views is chosen

__all__ = ["Arrays", "Datasets", "Folder", "Named", "Synthetic"]


class Named(ImageData):
    """A data set of ``probcl.data.DATASETS``, by its name there.

    Args:
        name: One of ``DATASETS``, such as ``"CIFAR10"``.
        root: Folder that holds it.
        download: Whether to download it if it is not there.
        options: More arguments of its row's ``read``, such as ``unlabelled`` for ``"STL10"``.
        **kwargs: As for ``ImageData``; by default its row's augmentation.

    Raises:
        ValueError: If there is no data set of that name.

    Example:
        >>> data = Named("Digits", batch_size=64)
        >>> [len(part) for part in data.sets]
        [1437, 360]
    """

    def __init__(
        self,
        name: str,
        root: str = "data",
        download: bool = False,
        options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if name not in DATASETS:
            raise ValueError(f"name must be one of {', '.join(DATASETS)}, got {name!r}.")
        self.source = DATASETS[name]
        super().__init__(**kwargs)
        self.name: str = name
        self.root = root
        self.download = download
        self.options = options or {}

    @property
    def set_name(self) -> str:
        """Name of the data set in small letters."""
        return self.name.lower()

    def prepare_data(self) -> None:
        """Download in one process, if asked to."""
        if self.download:
            self.load()

    def load(self) -> tuple[Dataset, ...]:
        """Read the data set from its folder."""
        return self.source.read(self.root, self.download, **self.options)

    def default_augmentation(self) -> nn.Module:
        """Return the augmentation of the data set's row."""
        return self.source.augmentation()


class Arrays(ImageData):
    """Images and labels from an ``.npz`` file, of arrays or of packed JPEG files.

    Args:
        path: File with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``:
            images ``(N, channels, height, width)``, integers in 0..255 or floats in [0, 1]; labels
            ``(N,)``, integers. Or with ``jpeg``, ``offset``, ``label`` and ``split``, as
            ``probcl.data.read_arrays`` takes them.
        **kwargs: As for ``ImageData``; by default affine maps, contrast and noise augment.
    """

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def load(self) -> tuple[Dataset, ...]:
        """Return the two parts of the file."""
        return read_arrays(self.path)

    def default_augmentation(self) -> nn.Module:
        """Return an augmentation of images of any size and kind."""
        return Augmentation(RandomAffine(), [RandomContrast(), RandomNoise()])


class Folder(ImageData):
    """Images in ``path/train/CLASS/*`` and ``path/test/CLASS/*`` (or ``val`` for ``test``).

    Args:
        path: The folder.
        unreadable: ``"raise"``, or ``"skip"`` for files that cannot be decoded, which are then
            named when the run ends.
        max_pixels: The most pixels that a file may declare.
        **kwargs: As for ``ImageData``; by default SimCLR's augmentation, for views as large as the
            pictures, 224 pixels at most.
    """

    def __init__(
        self,
        path: str,
        unreadable: Literal["raise", "skip"] = "raise",
        max_pixels: int = MAX_PIXELS,
        **kwargs: Any,
    ) -> None:
        self.path = path
        self.on_unreadable: Literal["raise", "skip"] = unreadable
        self.max_pixels = max_pixels
        super().__init__(**kwargs)

    def load(self) -> tuple[Dataset, ...]:
        """Return the files of the folder."""
        channels = self.channels or 3
        return read_folder(self.path, channels, self.on_unreadable, self.max_pixels)

    def default_augmentation(self) -> nn.Module:
        """Return SimCLR's augmentation in the size of the pictures."""
        return _augmentation(sizes_in_folder(self.path), self.path)


class Datasets(ImageData):
    """Two data sets of your own, read by workers.

    Args:
        train: Data set to train on: items that begin with an image (of PIL, or a tensor) and its
            class, or that have them as the columns ``image`` and ``label``.
        test: Data set to evaluate on.
        **kwargs: As for ``ImageData``; by default SimCLR's augmentation, for views as large as the
            first images, 224 pixels at most.
    """

    def __init__(self, train: Dataset, test: Dataset, **kwargs: Any) -> None:
        self._given = train, test
        super().__init__(**kwargs)

    def load(self) -> tuple[Dataset, ...]:
        """Return the two data sets."""
        return self._given

    def default_augmentation(self) -> nn.Module:
        """Return SimCLR's augmentation in the size of the images."""
        train = self._given[0]
        plain = CroppedViews(train, [Identity()])
        items = (plain[row][0] for row in range(min(len(train), _ITEMS_SEEN)))  # type: ignore[arg-type]
        sizes = [tuple(item[0].shape[-2:]) for item in items if not isinstance(item, str)]
        return _augmentation(sizes, type(train).__name__)


def _augmentation(sizes: Sequence[tuple[int, ...]], source: str) -> nn.Module:
    """Return SimCLR's augmentation for views of the usual size of images, and say what that is."""
    shorter = round(median(map(min, sizes))) if sizes else LARGEST_VIEW
    size = min(shorter, LARGEST_VIEW)
    if sizes:
        logger.info(
            "%s: views of %dx%d pixels, by the shorter side of %d of its images, %d; "
            "data.augmentation chooses another.", source, size, size, len(sizes), shorter,
        )  # fmt: skip
    small = size < SMALL_VIEW
    return SimAugment(size) if small else SimAugment(size, (0.08, 1.0), strength=1.0, blur=0.5)


class _Items(ImageArrays):
    """Hidden directions, each with one view for evaluation and its true concentration."""

    def __init__(self, source: ConjugateGenerator, count: int, seed: int) -> None:
        with seeded(seed):
            views, _, concentration, latent = source.sample(count, views=1)
        self.images = torch.cat([latent, views[0]], -1)
        self.concentration = concentration[0]
        self.labels = torch.zeros(count, dtype=torch.long)


class Synthetic(ImageData):
    """Views of hidden directions by ``ConjugateGenerator``, in place of images.

    A view is a vector of ``dim + 1`` numbers: take ``MLP`` for the encoder, and a posterior in the
    dimension ``dim``. There are no classes; the report gives the rank correlation of every score
    with the true spread, and that of the entropy before the encoder was trained.

    Args:
        dim: Dimension of the directions.
        low: The lowest concentration.
        high: The highest concentration.
        items: Number of items to train on; every step draws new views of them.
        tested: Number of items to test on.
        **kwargs: As for ``ImageData``; augmentation, channels and degraded views mean nothing here.
    """

    def __init__(
        self,
        dim: int = 10,
        low: float = 16.0,
        high: float = 32.0,
        items: int = 20_000,
        tested: int = 2000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.source = ConjugateGenerator(dim, (low, high))
        self.items = items
        self.tested = tested

    def load(self) -> tuple[_Items, _Items]:
        """Draw the items, always the same."""
        return _Items(self.source, self.items, 1), _Items(self.source, self.tested, 2)

    @property
    def true_concentration(self) -> Tensor:
        """True concentration of each test item, shape ``(tested,)``."""
        test = self.sets[1]
        assert isinstance(test, _Items)
        return test.concentration

    def _whole(self, batch: tuple) -> Tensor:
        return batch[0][:, self.dim :]

    def _views(self, batch: tuple) -> list[Tensor]:
        low, high = self.source.concentration
        latent = batch[0][:, : self.dim].cpu().float()  # where and as the generator is
        views = []
        for _ in range(self.views):
            share = torch.rand(len(latent), dtype=torch.float32)
            concentration = low * (high / low) ** share
            loc = VonMisesFisher(latent, concentration, validate_args=False).sample()
            views.append(self.source.mix(loc, concentration).to(batch[0]))
        return views
