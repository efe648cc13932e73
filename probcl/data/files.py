"""Images in files on a disk, decoded when they are asked for."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from probcl.data.arrays import checked_labels
from probcl.data.packed import decode_image

__all__ = ["ImageFiles", "Unreadable", "read_folder"]

#: What to do with a file that cannot be decoded.
Unreadable = Literal["raise", "skip"]

#: Paths and labels.
Listed = tuple[list, list]

_MODES = {1: "L", 3: "RGB"}


class ImageFiles(Dataset):
    """Labelled images in files, each decoded when it is asked for, in a loader's worker.

    An item is ``(image, label, row)``: a PIL image of the file's own size, its class and its place
    in the data set, both ``int``. Where ``unreadable`` is ``"skip"``, the item of a file that
    cannot be decoded has the file's path, a ``str``, in the image's place: what puts a batch
    together can drop it, and say which it was.

    Args:
        paths: N image files.
        labels: Classes, integers from 0, shape ``(N,)``; at least two classes.
        channels: 3 for colour, 1 for grey: every image is converted.
        unreadable: ``"raise"`` or ``"skip"``: what to do with a file that cannot be decoded.

    Raises:
        ValueError: If there are no paths, the labels do not match them or are not integers from 0,
            or another argument has a value of its own; on fetching an item, if its file cannot be
            decoded.
        OSError: On fetching an item, if its file cannot be opened, which is never skipped.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = [f"{folder}/{name}.png" for name in ("cat", "dog")]
        ...     for path in paths:
        ...         Image.new("RGB", (8, 6)).save(path)
        ...     image, label, row = ImageFiles(paths, [0, 1])[1]
        >>> image.size, label, row
        ((8, 6), 1, 1)
    """

    def __init__(
        self,
        paths: Sequence[str | Path] | np.ndarray,
        labels: Tensor | np.ndarray | Sequence[int],
        channels: int = 3,
        unreadable: Unreadable = "raise",
    ) -> None:
        if len(paths) == 0:
            raise ValueError("paths must name at least one image file, got none.")
        if channels not in _MODES:
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels}.")
        if unreadable not in ("raise", "skip"):
            raise ValueError(f"unreadable must be 'raise' or 'skip', got {unreadable!r}.")
        # One array, not a list of a million strings: a forked worker that reads a Python object
        # writes its reference count, and so copies the page of memory it shares with the parent.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.labels = checked_labels(labels, "labels", len(paths))
        self.channels = channels
        self.unreadable = unreadable

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image | str, int, int]:
        path = os.fsdecode(self.paths[index])
        label = int(self.labels[index])
        content = Path(path).read_bytes()
        try:
            return decode_image(content, _MODES[self.channels]), label, index
        except Exception as error:  # decoders raise whatever their parsers meet
            if self.unreadable == "skip":
                return path, label, index
            raise ValueError(
                f"{path} cannot be decoded ({error}): repair or remove it, or set unreadable to "
                "'skip'."
            ) from error


def read_folder(
    path: str | Path, channels: int = 3, unreadable: Unreadable = "raise"
) -> tuple[ImageFiles, ImageFiles]:
    """Find a train and a test set in a folder that has a folder for each class.

    Args:
        path: Folder with the images ``train/CLASS/*`` and ``test/CLASS/*``, or ``val/CLASS/*`` in
            place of the latter. The classes are numbered in the order of their names.
        channels: 3 for colour, 1 for grey: every image is converted.
        unreadable: ``"raise"`` or ``"skip"``, as for ``ImageFiles``.

    Returns:
        The train set and the test set, with the same numbers for the same classes.

    Raises:
        ValueError: If a folder is missing or a class has no images, there is one class only, or
            the test set has a class that the train set lacks.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"path: there is no folder {root}.")
    train, test = root / "train", root / "test"
    if not test.is_dir():
        test = root / "val"
    for part, names in ((train, "train"), (test, "test or val")):
        if not part.is_dir():
            raise ValueError(
                f"path: {root} has no folder {names}: it needs the images as train/CLASS/* and "
                "test/CLASS/*."
            )
    numbers = number_classes(train)
    there = number_classes(test)
    for name in there:
        if name not in numbers:
            raise ValueError(
                f"path: class {name!r} of {test} is not in {train}: add it there, or remove it."
            )
    there = {name: numbers[name] for name in there}
    return pair(list_images(train, numbers), list_images(test, there), channels, unreadable)


def number_classes(folder: Path, count: int | None = None) -> dict[str, int]:
    """Number the folders within a folder, two or more or ``count``, in the order of their names."""
    try:
        numbers = find_classes(folder)[1]
    except FileNotFoundError:
        numbers = {}
    if count is not None and len(numbers) != count:
        raise ValueError(
            f"{folder} has {len(numbers)} class folders in place of {count}: it was not unpacked "
            "to the end, so delete it and unpack its archive anew."
        )
    if len(numbers) < 2:
        raise ValueError(
            f"{folder} has {', '.join(map(repr, numbers)) or 'nothing'} for class folders: "
            "contrastive learning and its evaluation need two or more to tell apart."
        )
    return numbers


def list_images(folder: Path, numbers: Mapping[str, int]) -> Listed:
    """List the image files ``folder/CLASS/*`` of every class named, and their numbers."""
    found = make_dataset(folder, dict(numbers), IMG_EXTENSIONS, allow_empty=True)
    filled = {number for _, number in found}
    for name, number in numbers.items():
        if number not in filled:
            raise ValueError(
                f"{folder / name} holds no image files ({', '.join(IMG_EXTENSIONS)}), or is not "
                "there: fill it, or leave the class out."
            )
    return [path for path, _ in found], [number for _, number in found]


def pair(
    train: Listed, test: Listed, channels: int, unreadable: Unreadable
) -> tuple[ImageFiles, ImageFiles]:
    """Return the train set and the test set of what was listed."""
    return ImageFiles(*train, channels, unreadable), ImageFiles(*test, channels, unreadable)
