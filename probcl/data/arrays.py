"""Labelled images held in memory."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["ImageArrays", "read_arrays"]

# Evaluation keeps a column for every class number.
LARGEST_CLASS = 100_000


class ImageArrays(Dataset):
    """Labelled images held in memory, fetched a batch at a time.

    Args:
        images: Shape ``(N, channels, height, width)``: integers in 0..255, or floating-point
            numbers in [0, 1].
        labels: Classes, integers from 0, shape ``(N,)``; at least two classes.
        name: What error messages put before ``images`` and ``labels``.

    Raises:
        ValueError: If the shapes do not match, a pixel is NaN, infinite or out of range, the
            labels are not integers from 0 or there is one class only.

    Example:
        >>> data = ImageArrays(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
        >>> images, labels, index = data.__getitems__([2, 3])
        >>> images.shape, labels, index
        (torch.Size([2, 1, 8, 8]), tensor([0, 1]), tensor([2, 3]))
    """

    def __init__(
        self, images: Tensor | np.ndarray, labels: Tensor | np.ndarray, name: str = ""
    ) -> None:
        self.images = _checked_images(_numbers(f"{name}images", images), f"{name}images")
        self.labels = _checked_labels(
            _numbers(f"{name}labels", labels), f"{name}labels", len(self.images)
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.images[index], self.labels[index], torch.as_tensor(index)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, labels and indices of a batch, in one indexing operation."""
        index = torch.as_tensor(indices)
        return self.images[index], self.labels[index], index


def read_arrays(path: str | Path) -> tuple[ImageArrays, ImageArrays]:
    """Read a train and a test set from an ``.npz`` file.

    Args:
        path: File with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``,
            each as ``ImageArrays`` takes them.

    Returns:
        The train set and the test set.

    Raises:
        ValueError: If there is no such file, it is not ``.npz``, an array is missing or bad.
    """
    names = ("train_images", "train_labels", "test_images", "test_labels")
    if not Path(path).is_file():
        raise ValueError(f"path: there is no file {path}.")
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, ValueError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        raise ValueError(f"path: {path} is not an .npz file that NumPy can read.") from error
    for name in names:
        if name not in arrays:
            raise ValueError(f"path: {path} has no array {name!r}: it needs {', '.join(names)}.")
    train_images, train_labels, test_images, test_labels = (arrays[name] for name in names)
    return (
        ImageArrays(train_images, train_labels, "train_"),
        ImageArrays(test_images, test_labels, "test_"),
    )


def _numbers(name: str, values: Tensor | np.ndarray) -> Tensor:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be real numbers, got {array.dtype}: convert them.")
    wide = array.dtype.kind == "u" and array.dtype.itemsize > 1  # few operations in torch
    return torch.as_tensor(array.astype(np.int64) if wide else array)


def _checked_images(images: Tensor, name: str) -> Tensor:
    if images.dim() != 4 or 0 in images.shape:
        raise ValueError(
            f"{name} must have shape (N, channels, height, width) with at least one image, "
            f"got {tuple(images.shape)}."
        )
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


def _checked_labels(labels: Tensor, name: str, count: int) -> Tensor:
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
