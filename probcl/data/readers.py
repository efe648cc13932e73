"""Readers of images of your own: from an ``.npz`` file, or from folders of image files."""

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from probcl.data.datasets import (
    FORMATS,
    MAX_PIXELS,
    ImageArrays,
    ImageFiles,
    Unreadable,
    check_classes,
    decode_image,
)

__all__ = [
    "Listed", "decode_packed", "list_images", "list_pictures", "number_classes", "pair",
    "read_arrays", "read_folder", "sizes_in_folder",
]  # fmt: skip

_PLAIN = ("train_images", "train_labels", "test_images", "test_labels")
_PACKED = ("jpeg", "offset", "label", "split")
# The most that an .npz file may hold once unpacked: a small one can declare more.
MOST_BYTES = (
    os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if hasattr(os, "sysconf")
    else sys.maxsize
)
_BLOCK = 64  # images decoded by a thread at a time
_CLASSES_SEEN, _FILES_SEEN = 20, 5  # of each, by which the size of views is chosen
_ENDINGS = (*IMG_EXTENSIONS, ".gif", ".jfif")


def read_arrays(path: str | Path) -> tuple[ImageArrays, ImageArrays]:
    """Read a train and a test set from an ``.npz`` file, of arrays or of packed image files.

    Args:
        path: File with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``,
            each as ``ImageArrays`` takes them. Or with ``jpeg``, JPEG or PNG files one after
            another, bytes of shape ``(bytes,)``; ``offset``, where each begins and the last one
            ends, shape ``(N + 1,)``; ``label``, classes from 0, shape ``(N,)``; ``split``, 0 to
            train and 1 to test, shape ``(N,)``.

    Returns:
        The train set and the test set; of packed files, the images are ``(N, 3, height, width)``
        of type ``uint8``.

    Raises:
        ValueError: If the file is not as described, an image cannot be decoded, the test set has a
            class that the train set lacks, or the memory does not suffice.
    """
    try:
        with _open(path) as file:
            if "jpeg" in file:
                arrays = _unpacked(*_take(path, file, _PACKED))
            else:
                arrays = _take(path, file, _PLAIN)
        train_images, train_labels, test_images, test_labels = arrays
        train = ImageArrays(train_images, train_labels, "train_")
        test = ImageArrays(test_images, test_labels, "test_")
    except MemoryError as error:
        raise ValueError(f"path: {path} needs more memory than there is ({error}).") from error
    check_classes(train, test)
    return train, test


def _open(path: str | Path) -> NpzFile:
    if not Path(path).is_file():
        raise ValueError(f"path: there is no file {path}.")
    try:
        file = np.load(path)
    except MemoryError:
        raise
    except Exception as error:  # whatever the parsers of a damaged file meet
        raise ValueError(f"path: {path} is not an .npz file that NumPy can read.") from error
    if not isinstance(file, NpzFile):
        raise ValueError(
            f"path: {path} is not an .npz file but a single array: save named arrays, with savez."
        )
    return file


def _take(path: str | Path, file: NpzFile, names: tuple[str, ...]) -> list[Any]:
    parts = file.zip.infolist() if file.zip else ()
    size = sum(part.file_size for part in parts)
    if size > MOST_BYTES:
        raise ValueError(
            f"path: {path} holds {size} bytes once unpacked, more than the memory of this machine, "
            f"{MOST_BYTES}: split it, or save images as files."
        )
    arrays = []
    for name in names:
        if name not in file:
            raise ValueError(
                f"path: {path} has no array {name!r}: it needs {', '.join(_PLAIN)}, or, of packed "
                f"image files, {', '.join(_PACKED)}."
            )
        try:
            arrays.append(file[name])
        except MemoryError:
            raise
        except Exception as error:  # whatever the parsers of a damaged file meet
            if "allow_pickle" in str(error):
                raise ValueError(
                    f"path: {name} in {path} is an array of objects, not of numbers: images must "
                    "all have one size, in one array, so resize them."
                ) from error
            raise ValueError(f"path: {name} in {path} is damaged: write the file anew.") from error
    return arrays


def _unpacked(
    jpeg: np.ndarray, offset: np.ndarray, label: np.ndarray, split: np.ndarray
) -> list[Any]:
    for name, values in (("label", label), ("split", split)):
        if values.shape != (offset.size - 1,):
            raise ValueError(
                f"{name} must have shape ({offset.size - 1},), one less than offset has, got "
                f"{values.shape}: give one for each image."
            )
    train, test = split == 0, split == 1
    if not (train | test).all() or not train.any() or not test.any():
        raise ValueError(
            "split must be 0 for the images to train on and 1 for those to test on, some of each, "
            f"got the values {np.unique(split).tolist()[:5]}: mark the images so."
        )
    images = decode_packed(jpeg, offset)
    return [images[train], label[train], images[test], label[test]]


def decode_packed(jpeg: np.ndarray, offset: np.ndarray) -> Tensor:
    """Decode the files of images of one size, ``jpeg`` and ``offset`` as of ``read_arrays``."""
    offset = _checked_offset(jpeg, offset)
    first = _decoded(jpeg, offset, 0)
    images = np.empty((len(offset) - 1, *first.shape), np.uint8)

    def fill(start: int) -> None:
        for index in range(start, min(start + _BLOCK, len(images))):
            image = _decoded(jpeg, offset, index)
            if image.shape != first.shape:
                sizes = [f"{height}x{width}" for _, height, width in (first.shape, image.shape)]
                raise ValueError(
                    f"images must all have one size, got {sizes[0]} at index 0 and {sizes[1]} at "
                    f"index {index}: resize them."
                )
            images[index] = image

    with ThreadPoolExecutor() as threads:  # PIL's decoders release the interpreter's lock
        for _ in threads.map(fill, range(0, len(images), _BLOCK)):
            pass  # an error of a thread is raised here
    return torch.from_numpy(images)


def _checked_offset(jpeg: np.ndarray, offset: np.ndarray) -> np.ndarray:
    if jpeg.dtype != np.uint8 or jpeg.ndim != 1:
        raise ValueError(
            f"jpeg must hold bytes of type uint8 in one dimension, got {jpeg.dtype} of shape "
            f"{jpeg.shape}: concatenate the files."
        )
    if offset.dtype.kind not in "iu" or offset.ndim != 1 or len(offset) < 2:
        raise ValueError(
            "offset must hold N + 1 integers for N >= 1 images, got "
            f"{offset.dtype} of shape {offset.shape}: give where each file begins, and the end."
        )
    offset = offset.astype(np.int64)
    short = np.flatnonzero(np.diff(offset) <= 0)
    if len(short):
        index = int(short[0])
        raise ValueError(
            f"offset must increase, got {offset[index]} at index {index} and {offset[index + 1]} "
            "after it: no image file is empty."
        )
    if offset[0] < 0 or offset[-1] > len(jpeg):
        raise ValueError(
            f"offset must be in 0..{len(jpeg)}, the length of jpeg, got {offset[0]}.."
            f"{offset[-1]}: the file is incomplete, or the offsets belong to another."
        )
    return offset


def _decoded(jpeg: np.ndarray, offset: np.ndarray, index: int) -> np.ndarray:
    """Return the pixels of an image, shape ``(3, height, width)``."""
    content = jpeg[offset[index] : offset[index + 1]].tobytes()
    try:
        return np.asarray(decode_image(content)).transpose(2, 0, 1)
    except Exception as error:  # decoders raise whatever their parsers meet
        raise ValueError(
            f"jpeg: the image at index {index} cannot be decoded ({error}): repair or remove it."
        ) from error


def read_folder(
    path: str | Path,
    channels: int = 3,
    unreadable: Unreadable = "raise",
    max_pixels: int = MAX_PIXELS,
) -> tuple[ImageFiles, ImageFiles]:
    """Find a train and a test set in a folder that has a folder for each class.

    Args:
        path: Folder with the images ``train/CLASS/*`` and ``test/CLASS/*``, or ``val/CLASS/*`` in
            place of the latter. The classes are numbered in the order of their names.
        channels: 3 for colour, 1 for grey: every image is converted.
        unreadable: ``"raise"`` or ``"skip"``, as for ``ImageFiles``.
        max_pixels: The most pixels that a file may declare.

    Returns:
        The train set and the test set, with the same numbers and names for the same classes.

    Raises:
        ValueError: If a folder is missing, a class has no images or is in the test set only, or
            there is one class.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"path: there is no folder {root}: give another.")
    train = root / "train"
    test = root / ("test" if (root / "test").is_dir() else "val")
    for part, names in ((train, "train"), (test, "test or val")):
        if not part.is_dir():
            raise ValueError(
                f"path: {root} has no folder {names}: it needs the images as train/CLASS/* and "
                "test/CLASS/*."
            )
    numbers, tested = number_classes(train), number_classes(test)
    for name in tested:
        if name not in numbers:
            raise ValueError(
                f"path: class {name!r} of {test} is not in {train}: add it there, or remove it."
            )
    parts = list_images(train, numbers), list_images(test, {n: numbers[n] for n in tested})
    others = [entry.path for part in (train, test) for entry in _entries(part)
              if entry.name not in numbers]  # fmt: skip
    others += [path for part in parts for path in part.others]
    _warn_of(others, "path", root)
    return pair(*parts, channels, unreadable, max_pixels)


def sizes_in_folder(path: str | Path) -> list[tuple[int, int]]:
    """Return the width and the height that some of the pictures in a folder declare."""
    train, sizes = Path(path).expanduser() / "train", []
    for folder in _entries(train)[:_CLASSES_SEEN] if train.is_dir() else ():
        inside = _within(folder.path) if folder.is_dir() else ()
        files = (entry for entry in inside if entry.name.lower().endswith(_ENDINGS))
        for entry in islice(files, _FILES_SEEN):
            with suppress(OSError), Image.open(entry.path, formats=FORMATS) as image:
                sizes.append(image.size)
    return sizes


def list_pictures(path: str | Path) -> list[str]:
    """Return the image files in a folder and in those within it, without labels, sorted.

    Hidden ones and links to folders are left out, and what is no image file, with a warning.

    Raises:
        ValueError: If there is no such folder, or it holds no image file.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"images: there is no folder {root}.")
    listed = Listed()
    _list(root, None, listed)
    _warn_of(listed.others, "images", root)
    if not listed.paths:
        raise ValueError(f"images: {root} holds no image files ({', '.join(_ENDINGS)}).")
    return listed.paths


@dataclass
class Listed:
    """Image files, the numbers and names of their classes, and what else lies beside them."""

    paths: list = field(default_factory=list)
    labels: list = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def number_classes(folder: Path, count: int | None = None) -> dict[str, int]:
    """Number the folders within a folder, two or more or ``count``, in the order of their names."""
    names = []
    for entry in _entries(folder) if folder.is_dir() else ():
        # A class may be a link to a folder elsewhere, but not to one that holds it.
        circle = entry.is_symlink() and folder.resolve().is_relative_to(os.path.realpath(entry))
        if os.path.isdir(entry) and not circle:
            names.append(entry.name)
    if count is not None and len(names) != count:
        raise ValueError(
            f"{folder} has {len(names)} class folders in place of {count}: it was not unpacked "
            "to the end, so delete it and unpack its archive anew."
        )
    if len(names) < 2:
        raise ValueError(
            f"{folder} has {len(names)} class folders: contrastive learning and its evaluation "
            "need two or more to tell apart."
        )
    return {name: number for number, name in enumerate(names)}


def list_images(folder: Path, numbers: Mapping[str, int]) -> Listed:
    """List the image files ``folder/CLASS/*`` of every class named, and their numbers."""
    listed = Listed(classes=list(numbers))
    for name, number in numbers.items():
        before = len(listed.paths)
        if (folder / name).is_dir():
            _list(folder / name, number, listed)
        if len(listed.paths) == before:
            raise ValueError(
                f"{folder / name} holds no image files ({', '.join(_ENDINGS)}), or is not there: "
                "fill it, or leave the class out."
            )
    return listed


def _list(folder: Path, number: int | None, listed: Listed) -> None:
    for entry in _within(folder):
        # Pipes and broken links are none; most are plain files, of which no more is asked.
        regular = entry.is_file(follow_symlinks=False) or os.path.isfile(entry)
        if regular and entry.name.lower().endswith(_ENDINGS):
            listed.paths.append(entry.path)
            listed.labels.append(number)
        else:
            listed.others.append(entry.path)


def _warn_of(others: list[str], argument: str, root: Path) -> None:
    if others:
        warnings.warn(
            f"{argument}: left out of {root}: {len(others)} that are no image files, such as "
            f"{others[0]}; those end in {', '.join(_ENDINGS)}, and are no links to folders.",
            stacklevel=3,
        )


def _within(folder: str | Path) -> Iterator[os.DirEntry]:
    """Yield what is in a folder and in those within it; links to folders are not followed."""
    folders = []
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        else:
            yield entry
    for inner in folders:
        yield from _within(inner)


def _entries(folder: str | Path) -> list[os.DirEntry]:
    """List what a folder has, in the order of the names, but for what is hidden."""
    with os.scandir(folder) as entries:
        seen = (entry for entry in entries if not entry.name.startswith("."))
        return sorted(seen, key=lambda entry: entry.name)


def pair(
    train: Listed,
    test: Listed,
    channels: int = 3,
    unreadable: Unreadable = "raise",
    max_pixels: int = MAX_PIXELS,
) -> tuple[ImageFiles, ImageFiles]:
    """Return the train set and the test set of what was listed, classes by the names of the first.

    The other arguments are those of ``ImageFiles``.
    """
    first, second = (
        ImageFiles(x.paths, x.labels, channels, unreadable, max_pixels, train.classes)
        for x in (train, test)
    )
    return first, second
