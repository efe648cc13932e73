"""Images held in memory, with or without labels."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor
from torch.utils.data import Dataset, Subset

from probcl.data.packed import decode_packed

__all__ = ["ImageArrays", "check_classes", "read_arrays", "read_packed"]

# Evaluation keeps a column for every class number.
LARGEST_CLASS = 100_000

_PLAIN = ("train_images", "train_labels", "test_images", "test_labels")
_PACKED = ("jpeg", "offset", "label", "split")


class ImageArrays(Dataset):
    """Images held in memory, with or without labels, fetched a batch at a time.

    Args:
        images: Shape ``(N, channels, height, width)``, or a sequence of N images of one size:
            integers in 0..255, or floating-point numbers in [0, 1].
        labels: Classes, integers from 0, shape ``(N,)``; at least two classes. Without labels,
            an item has ``None`` in the label's place.
        name: What error messages put before ``images`` and ``labels``.

    Raises:
        ValueError: If the shapes do not match, the images differ in size, a pixel is NaN,
            infinite or out of range, the labels are not integers from 0 or there is one class
            only.

    Example:
        >>> data = ImageArrays(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
        >>> images, labels, index = data.__getitems__([2, 3])
        >>> images.shape, labels, index
        (torch.Size([2, 1, 8, 8]), tensor([0, 1]), tensor([2, 3]))
    """

    def __init__(
        self,
        images: Tensor | np.ndarray | Sequence,
        labels: Tensor | np.ndarray | Sequence[int] | None = None,
        name: str = "",
    ) -> None:
        self.images = _checked_images(images, f"{name}images")
        self.labels = (
            None if labels is None else checked_labels(labels, f"{name}labels", len(self.images))
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None, Tensor]:
        label = None if self.labels is None else self.labels[index]
        return self.images[index], label, torch.as_tensor(index)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return images, labels and indices of a batch, in one indexing operation."""
        index = torch.as_tensor(indices).to(self.images.device, non_blocking=True)
        labels = None if self.labels is None else self.labels[index]
        return self.images[index], labels, index

    def reside(self, device: torch.device) -> None:
        """Move the images to a device for good, if they take at most half of its free memory."""
        if device.type == "cuda" and 2 * self.images.nbytes > torch.cuda.mem_get_info(device)[0]:
            return
        self.images = self.images.to(device)
        self.labels = None if self.labels is None else self.labels.to(device)


def read_arrays(path: str | Path) -> tuple[ImageArrays, ImageArrays]:
    """Read a train and a test set from an ``.npz`` file, of arrays or of packed image files.

    Args:
        path: File with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``,
            each as ``ImageArrays`` takes them; or with ``jpeg``, ``offset``, ``label`` and
            ``split``, as ``read_packed`` takes them.

    Returns:
        The train set and the test set.

    Raises:
        ValueError: If there is no such file, it is not ``.npz``, an array is missing or bad.
    """
    with _open(path) as file:
        if "jpeg" not in file:
            train_images, train_labels, test_images, test_labels = _take(path, file, _PLAIN)
            return _pair(train_images, train_labels, test_images, test_labels)
    return read_packed(path)


def read_packed(path: str | Path) -> tuple[ImageArrays, ImageArrays]:
    """Read a train and a test set from an ``.npz`` file of packed JPEG or PNG files.

    Args:
        path: File with ``jpeg``, all image files one after another, bytes of shape ``(bytes,)``;
            ``offset``, where each begins and the last one ends, shape ``(N + 1,)``; ``label``,
            classes from 0, shape ``(N,)``; ``split``, 0 to train and 1 to test, shape ``(N,)``.

    Returns:
        The train set and the test set, images of type ``uint8``, ``(N, 3, height, width)``.

    Raises:
        ValueError: If there is no such file, it is not ``.npz``, an array is missing or bad, an
            image cannot be decoded or has a size of its own, or a split is empty.
    """
    with _open(path) as file:
        jpeg, offset, label, split = _take(path, file, _PACKED)
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
    return _pair(images[train], label[train], images[test], label[test])


def _pair(
    train_images: Any, train_labels: Any, test_images: Any, test_labels: Any
) -> tuple[ImageArrays, ImageArrays]:
    train = ImageArrays(train_images, train_labels, "train_")
    test = ImageArrays(test_images, test_labels, "test_")
    check_classes(train, test)
    return train, test


def _open(path: str | Path) -> NpzFile:
    if not Path(path).is_file():
        raise ValueError(f"path: there is no file {path}.")
    try:
        file = np.load(path)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"path: {path} is not an .npz file that NumPy can read.") from error
    if not isinstance(file, NpzFile):
        raise ValueError(
            f"path: {path} is not an .npz file but a single array: save named arrays, with savez."
        )
    return file


def _take(path: str | Path, file: NpzFile, names: tuple[str, ...]) -> list[np.ndarray]:
    arrays = []
    for name in names:
        if name not in file:
            raise ValueError(
                f"path: {path} has no array {name!r}: it needs {', '.join(_PLAIN)}, or, of packed "
                f"image files, {', '.join(_PACKED)}."
            )
        try:
            arrays.append(file[name])
        except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
            if "allow_pickle" in str(error):
                raise ValueError(
                    f"path: {name} in {path} is an array of objects, not of numbers: images must "
                    "all have one size, in one array, so resize them."
                ) from error
            raise ValueError(f"path: {name} in {path} is damaged: write the file anew.") from error
    return arrays


def _numbers(name: str, values: Tensor | np.ndarray | Sequence) -> Tensor:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be real numbers, got {array.dtype}: convert them.")
    wide = array.dtype.kind == "u" and array.dtype.itemsize > 1  # few operations in torch
    return torch.as_tensor(array.astype(np.int64) if wide else array)


def _stacked(images: Sequence | np.ndarray, name: str) -> np.ndarray:
    shapes = [tuple(np.shape(image)) for image in images]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"{name} must all have one size, got {shapes[0]} at index 0 and {shape} at index "
                f"{index}: resize them."
            )
    return np.stack([np.asarray(image) for image in images]) if shapes else np.empty(0)


def _checked_images(values: Tensor | np.ndarray | Sequence, name: str) -> Tensor:
    if not isinstance(values, Tensor | np.ndarray) or values.dtype == object:
        values = _stacked(values, name)  # NumPy's message does not say which image differs
    images = _numbers(name, values)
    if images.dim() != 4 or 0 in images.shape:
        raise ValueError(
            f"{name} must have shape (N, channels, height, width) with at least one image, "
            f"got {tuple(images.shape)}."
        )
    if images.dtype == torch.uint8:
        return images.contiguous()
    if not images.is_floating_point():
        if images.min() < 0 or images.max() > 255:
            raise ValueError(
                f"{name} of integers must be in 0..255, got values in "
                f"{int(images.min())}..{int(images.max())}: rescale them."
            )
        return images.to(torch.uint8)
    bad = ~images.isfinite().flatten(1).all(-1)
    if bad.any():
        raise ValueError(
            f"{name} must be finite: {int(bad.sum())} of {len(images)} images have NaN or infinite "
            f"pixels, the first at index {int(bad.nonzero()[0])}: remove or repair them."
        )
    if images.min() < 0 or images.max() > 1:
        raise ValueError(
            f"{name} of floating-point numbers must be in [0, 1], got values in "
            f"[{images.min().item():.4g}, {images.max().item():.4g}]: rescale them."
        )
    return images.float()


def checked_labels(values: Tensor | np.ndarray | Sequence[int], name: str, count: int) -> Tensor:
    """Return the labels of ``count`` images as integers of type ``int64``, or say what is wrong."""
    labels = _numbers(name, values)
    if labels.shape != (count,):
        raise ValueError(
            f"{name} must have shape ({count},), one for each image, got {tuple(labels.shape)}."
        )
    if labels.is_floating_point():
        raise ValueError(
            f"{name} must be integers from 0, got {labels.dtype}: convert them to class indices."
        )
    if labels.min() < 0:
        raise ValueError(
            f"{name} must be integers from 0, got {int(labels.min())}: number the classes from 0."
        )
    if labels.max() >= LARGEST_CLASS:
        raise ValueError(
            f"{name} must be below {LARGEST_CLASS}, got {int(labels.max())}: number the classes "
            "from 0 without gaps."
        )
    if labels.min() == labels.max():
        raise ValueError(
            f"{name} must hold at least two classes, all {count} are {int(labels[0])}: "
            "contrastive learning and its evaluation need something to tell apart."
        )
    return labels.long()


def check_classes(train: Dataset, test: Dataset) -> None:
    """Raise ``ValueError`` if a test set has a class that the train set lacks.

    Labels are what a data set keeps as ``labels`` or ``targets``, as those of torchvision do; of
    one that keeps none, or that changes them on their way, nothing is known before it is read.
    """
    known, tested = labels_of(train), labels_of(test)
    if known is None or tested is None:
        return
    missing = np.setdiff1d(tested, known).tolist()
    if missing:
        classes = "class" if len(missing) == 1 else "classes"
        names = ", ".join(map(str, missing[:5])) + (" and more" if len(missing) > 5 else "")
        raise ValueError(
            f"test labels must be among the training labels, which lack {classes} {names}: number "
            "the classes alike in both, or leave out the images that training has no class for."
        )


def labels_of(data: Dataset) -> np.ndarray | None:
    """Return the labels that a data set keeps, shape ``(N,)``, or None."""
    if isinstance(data, Subset):
        labels = labels_of(data.dataset)
        return None if labels is None else labels[np.asarray(data.indices)]
    labels = getattr(data, "labels", getattr(data, "targets", None))
    changed = getattr(data, "target_transform", None) is not None
    if labels is None or changed or np.shape(labels) != (len(data),):  # type: ignore[arg-type]
        return None
    return np.asarray(labels)
