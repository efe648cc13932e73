"""Data modules of images in files, which stay there unless they are to be read into memory."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from torch import nn
from torch.utils.data import Dataset

from probcl.data import DATASETS, ImageFiles, SimAugment, Unreadable, read_folder
from probcl.data.views import read_into_memory
from probcl.training.data import ImageData

__all__ = ["Caltech256", "Datasets", "Folder", "ImageNet", "ImageNet100", "TinyImageNet"]

_for_photographs = partial(SimAugment, 224, scale=(0.08, 1.0), strength=1.0, blur=0.5)


class Datasets(ImageData):
    """Two data sets of your own, read by workers.

    Args:
        train: Data set to train on: items that begin with an image (of PIL, or a tensor) and its
            class.
        test: Data set to evaluate on.
        **kwargs: As for ``ImageData``; by default SimCLR's augmentation for 224 pixels.
    """

    def __init__(self, train: Dataset, test: Dataset, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._given = train, test

    def load(self) -> tuple[Dataset, Dataset]:
        """Return the two data sets."""
        return self._given

    def default_augmentation(self) -> nn.Module:
        """Return SimCLR's augmentation of photographs."""
        return _for_photographs()


class _Files(ImageData):
    """Images in files, of a kind that a subclass finds."""

    recipe: ClassVar[Callable[[], nn.Module]] = _for_photographs

    def __init__(
        self, unreadable: Unreadable = "raise", in_memory: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.on_unreadable = unreadable
        self.in_memory = in_memory

    @abstractmethod
    def find(self) -> tuple[ImageFiles, ImageFiles]:
        """Return the files to train on and the files to evaluate on."""

    def load(self) -> tuple[Dataset, Dataset]:
        """Return the images, in files or in memory."""
        train, test = self.find()
        if not self.in_memory:
            return train, test
        centre = self.crop.centre_per_image()
        memory = [read_into_memory(part, centre, self.num_workers) for part in (train, test)]
        self.unreadable.update(*(skipped for _, skipped in memory))
        return memory[0][0], memory[1][0]

    def default_augmentation(self) -> nn.Module:
        """Return SimCLR's augmentation."""
        return type(self).recipe()


class Folder(_Files):
    """Images in ``path/train/CLASS/*`` and ``path/test/CLASS/*`` (or ``val`` for ``test``).

    Args:
        path: The folder.
        unreadable: ``"raise"``, or ``"skip"`` for files that cannot be decoded, which are then
            named when the run ends.
        in_memory: Whether to read all images once, in the size of a view, and keep them.
        **kwargs: As for ``ImageData``; by default SimCLR's augmentation for 224 pixels.
    """

    def __init__(
        self,
        path: str,
        unreadable: Unreadable = "raise",
        in_memory: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(unreadable, in_memory, **kwargs)
        self.path = path

    def find(self) -> tuple[ImageFiles, ImageFiles]:
        """Return the files of the folder."""
        return read_folder(self.path, self.channels or 3, self.on_unreadable)


class _NamedFiles(_Files):
    """A data set in files that is known by name."""

    read: ClassVar[Callable[..., tuple[ImageFiles, ImageFiles]]]

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        unreadable: Unreadable = "raise",
        in_memory: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(unreadable, in_memory, **kwargs)
        self.root = root
        self.download = download

    def prepare_data(self) -> None:
        """Download in one process, if asked to."""
        if self.download:
            self.find()

    def find(self) -> tuple[ImageFiles, ImageFiles]:
        """Return the files to train on and the files to evaluate on."""
        return type(self).read(self.root, self.download, unreadable=self.on_unreadable)


class TinyImageNet(_NamedFiles):
    """Tiny-ImageNet: 100,000 colour images of 64x64 to train and 10,000 to test, 200 classes.

    Args:
        root: Folder that holds ``tiny-imagenet-200``.
        download: Whether to download it if it is not there.
        unreadable: As for ``Folder``.
        in_memory: As for ``Folder``; it takes 1.4 GB.
        **kwargs: As for ``ImageData``; by default ``SimAugment(64)`` augments.
    """

    read = staticmethod(DATASETS["TinyImageNet"].read)
    recipe = partial(SimAugment, 64)


class Caltech256(_NamedFiles):
    """Caltech-256: 256 classes of photographs, 60 of each to train and the others to test.

    Args:
        root: Folder that holds ``caltech256``.
        download: Whether to download it if it is not there.
        unreadable: As for ``Folder``.
        in_memory: As for ``Folder``.
        **kwargs: As for ``ImageData``; by default SimCLR's augmentation for 224 pixels.
    """

    read = staticmethod(DATASETS["Caltech256"].read)


class ImageNet(_Files):
    """ImageNet of 2012: 1,281,167 photographs to train and 50,000 to test, 1,000 classes.

    Args:
        root: Folder with its three archives, or with ``train/WNID`` and ``val/WNID``.
        download: Refused: the licence asks each user for consent. Get the archives from
            https://image-net.org.
        unreadable: As for ``Folder``.
        in_memory: As for ``Folder``.
        **kwargs: As for ``ImageData``; by default SimCLR's augmentation for 224 pixels.
    """

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        unreadable: Unreadable = "raise",
        in_memory: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(unreadable, in_memory, **kwargs)
        if download:
            raise ValueError(
                "download: the licence of ImageNet asks each user for consent, so it is not "
                "downloaded for you: get ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
                f"ILSVRC2012_devkit_t12.tar.gz from https://image-net.org and put them in {root}."
            )
        self.root = root

    def find(self) -> tuple[ImageFiles, ImageFiles]:
        """Return the files of its training set and its validation set."""
        return DATASETS["ImageNet"].read(self.root, unreadable=self.on_unreadable)


class ImageNet100(ImageNet):
    """ImageNet-100: the images of 100 classes of ImageNet.

    Args:
        root: As for ``ImageNet``; folders of other classes need not be there.
        classes: File of the classes' WordNet ids, one to a line; by default those of Tian et al.
            (2020), Contrastive Multiview Coding.
        **kwargs: As for ``ImageNet``.
    """

    def __init__(self, root: str = "data", classes: str | None = None, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.classes = classes

    def find(self) -> tuple[ImageFiles, ImageFiles]:
        """Return the files of its classes."""
        return DATASETS["ImageNet100"].read(
            self.root, classes=self.classes, unreadable=self.on_unreadable
        )
