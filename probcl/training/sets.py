"""Data modules of images in memory: digits, arrays, and the sets that torchvision reads."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

from torch import nn

from probcl.data import (
    DATASETS,
    Augmentation,
    ImageArrays,
    RandomAffine,
    RandomContrast,
    RandomNoise,
    SimAugment,
    load_digits,
    read_arrays,
)
from probcl.training.data import ImageData

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "STL10", "Arrays", "Digits", "FashionMNIST"]


class _AffineData(ImageData):
    """Images of any size and kind."""

    def default_augmentation(self) -> nn.Module:
        """Return affine maps, contrast and noise."""
        return Augmentation(RandomAffine(), [RandomContrast(), RandomNoise()])


class Digits(_AffineData):
    """Scikit-learn's 8x8 handwritten digits, 1,437 to train and 360 to test.

    Args:
        **kwargs: As for ``ImageData``; by default affine maps, contrast and noise augment.
    """

    def default_augmentation(self) -> nn.Module:
        """Return affine maps, contrast and more noise, for there is no texture to lose."""
        return Augmentation(RandomAffine(), [RandomContrast(), RandomNoise(0.3)])

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def load(self) -> tuple[ImageArrays, ImageArrays]:
        """Return the two parts of ``probcl.data.load_digits``."""
        return load_digits()


class Arrays(_AffineData):
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

    def load(self) -> tuple[ImageArrays, ImageArrays]:
        """Return the two parts of the file."""
        return read_arrays(self.path)


class _Named(ImageData):
    """A data set that is known by name."""

    read: ClassVar[Callable[..., tuple[ImageArrays, ...]]]
    recipe: ClassVar[Callable[[], nn.Module]] = SimAugment

    def __init__(self, root: str = "data", download: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.download = download

    def prepare_data(self) -> None:
        """Download in one process, if asked to."""
        if self.download:
            _ = self.sets

    def load(self) -> tuple[ImageArrays, ImageArrays]:
        """Return the images to train on and the images to evaluate on."""
        train, test = type(self).read(self.root, self.download)
        return train, test

    def default_augmentation(self) -> nn.Module:
        """Return SimCLR's augmentation in the images' own size."""
        return type(self).recipe()


class CIFAR10(_Named):
    """CIFAR-10: 50,000 colour images of 32x32 to train and 10,000 to test, 10 classes.

    Args:
        root: Folder that holds ``cifar-10-batches-py``.
        download: Whether to download it if it is not there.
        **kwargs: As for ``ImageData``; by default ``SimAugment(32)`` augments.
    """

    read = staticmethod(DATASETS["CIFAR10"].read)


class CIFAR100(_Named):
    """CIFAR-100: 50,000 colour images of 32x32 to train and 10,000 to test, 100 classes.

    Args:
        root: Folder that holds ``cifar-100-python``.
        download: Whether to download it if it is not there.
        **kwargs: As for ``ImageData``; by default ``SimAugment(32)`` augments.
    """

    read = staticmethod(DATASETS["CIFAR100"].read)


class MNIST(_Named):
    """MNIST: 60,000 grey digits of 28x28 to train and 10,000 to test.

    Args:
        root: Folder that holds ``MNIST/raw``.
        download: Whether to download it if it is not there.
        **kwargs: As for ``ImageData``; by default ``SimAugment(28, flip=0)`` augments.
    """

    read = staticmethod(DATASETS["MNIST"].read)
    recipe = partial(SimAugment, 28, flip=0.0)


class FashionMNIST(_Named):
    """Fashion-MNIST: 60,000 grey images of 28x28 to train and 10,000 to test, 10 classes.

    Args:
        root: Folder that holds ``FashionMNIST/raw``.
        download: Whether to download it if it is not there.
        **kwargs: As for ``ImageData``; by default ``SimAugment(28)`` augments.
    """

    read = staticmethod(DATASETS["FashionMNIST"].read)
    recipe = partial(SimAugment, 28)


class STL10(_Named):
    """STL-10: 5,000 colour images of 96x96 to train and 8,000 to test, and 100,000 unlabelled.

    Args:
        root: Folder that holds ``stl10_binary``.
        download: Whether to download it if it is not there.
        train_on: ``"labelled"``, or ``"unlabelled"`` for the 100,000, which an unsupervised
            program can train on; the evaluation keeps to the labelled ones.
        **kwargs: As for ``ImageData``; by default ``SimAugment(96)`` augments.
    """

    read = staticmethod(DATASETS["STL10"].read)
    recipe = partial(SimAugment, 96)

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        train_on: Literal["labelled", "unlabelled"] = "labelled",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, download, **kwargs)
        self.train_on = train_on
        self._unlabelled: ImageArrays | None = None

    def load(self) -> tuple[ImageArrays, ImageArrays]:
        """Return the labelled images to train on and to evaluate on."""
        wanted = self.train_on == "unlabelled"
        train, test, *unlabelled = type(self).read(self.root, self.download, wanted)
        self._unlabelled = unlabelled[0] if wanted else None
        return train, test

    def unlabelled(self) -> ImageArrays | None:
        """Return the 100,000 images, if they are to be trained on."""
        _ = self.sets
        return self._unlabelled
