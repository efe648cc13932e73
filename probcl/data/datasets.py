"""Data sets of images, in memory and in files, and what is asked of them."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.ImageOps import exif_transpose
from torch import Tensor
from torch.utils.data import Dataset, Subset

from probcl.checks import as_labels, check_choice

__all__ = [
    "FORMATS", "LABELS", "MAX_PIXELS", "ImageArrays", "ImageFiles", "Unreadable", "check_classes",
    "checked_images", "class_names", "decode_image", "in_eight_bits",
]  # fmt: skip

#: What to do with a file that cannot be decoded.
Unreadable = Literal["raise", "skip"]

# Evaluation keeps a column for every class number.
LARGEST_CLASS = 100_000

# The largest image that is decoded: 8192 x 8192, of 200 MB. A file of some bytes can declare more.
MAX_PIXELS = 2**26

#: The formats of image files that are decoded, by PIL.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")

#: Columns that may hold the label of an item, the first that there is.
LABELS = ("label", "labels", "fine_label")

_MODES = {1: "L", 3: "RGB"}


class ImageArrays(Dataset):
    """Images held in memory, with or without labels, fetched a batch at a time.

    Args:
        images: Shape ``(N, channels, height, width)``, or a sequence of N images of one size:
            integers in 0..255, or floating-point numbers in [0, 1].
        labels: Classes, integers from 0, shape ``(N,)``; at least two classes. Without labels,
            an item has ``None`` in the label's place.
        name: What error messages put before ``images`` and ``labels``.
        classes: Names of the classes, by number; none where they are numbers only.

    Raises:
        ValueError: If an argument is not as described, of finite pixels.

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
        classes: Sequence[str] = (),
    ) -> None:
        self.images = checked_images(images, f"{name}images")
        self.labels = _checked_labels(labels, f"{name}labels", len(self.images))
        self.classes = list(classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None, Tensor]:
        label = None if self.labels is None else self.labels[index]
        return self.images[index], label, torch.as_tensor(index)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return images, labels and indices of a batch, in one indexing operation."""
        index = torch.as_tensor(indices, dtype=torch.long).to(self.images.device, non_blocking=True)
        labels = None if self.labels is None else self.labels[index]
        return self.images[index], labels, index

    def reside(self, device: torch.device) -> None:
        """Move the images to a device for good, if they take at most half of its free memory."""
        if device.type == "cuda" and 2 * self.images.nbytes > torch.cuda.mem_get_info(device)[0]:
            return
        self.images = self.images.to(device)
        self.labels = None if self.labels is None else self.labels.to(device)


class ImageFiles(Dataset):
    """Images in files, with or without labels, each decoded when a loader's worker asks for it.

    An item is ``(image, label, row)``: a PIL image of the file's own size, its class or ``None``,
    and its place in the data set.

    Args:
        paths: N image files.
        labels: Classes, integers from 0, shape ``(N,)``; at least two classes; or none.
        channels: 3 for colour, 1 for grey: every image is converted.
        unreadable: What to do with a file that cannot be decoded: ``"raise"``, or ``"skip"``, by
            which its item has its path, a ``str``, in the image's place, for a batch to drop.
        max_pixels: The most pixels that a file may declare.
        classes: Names of the classes, by number; none where they are numbers only.

    Raises:
        ValueError: If an argument is not as described; on fetching an item, if its file cannot be
            decoded.
        OSError: On fetching an item, if its file cannot be opened, which is never skipped.
    """

    def __init__(
        self,
        paths: Sequence[str | Path] | np.ndarray,
        labels: Tensor | np.ndarray | Sequence[int] | None = None,
        channels: int = 3,
        unreadable: Unreadable = "raise",
        max_pixels: int = MAX_PIXELS,
        classes: Sequence[str] = (),
    ) -> None:
        if len(paths) == 0:
            raise ValueError("paths must name at least one image file, got none.")
        if channels not in _MODES:
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels}.")
        check_choice("unreadable", unreadable, Unreadable)
        # One array, not a list of a million strings: a forked worker that reads a Python object
        # writes its reference count, and so copies the page of memory it shares with the parent.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.labels = _checked_labels(labels, "labels", len(paths))
        self.channels = channels
        self.unreadable = unreadable
        self.max_pixels = max_pixels
        self.classes = list(classes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image | str, int | None, int]:
        path = os.fsdecode(self.paths[index])
        label = None if self.labels is None else int(self.labels[index])
        content = Path(path).read_bytes()
        try:
            image = decode_image(content, _MODES[self.channels], self.max_pixels)
            return image, label, index
        except Exception as error:  # decoders raise whatever their parsers meet
            if self.unreadable == "skip":
                return path, label, index
            raise ValueError(
                f"{path} cannot be decoded ({error}): repair or remove it, or set unreadable to "
                "'skip'."
            ) from error


def check_classes(train: Dataset, test: Dataset) -> None:
    """Raise ``ValueError`` if a test set has a class that the train set lacks.

    Labels are what a data set keeps as ``labels`` or ``targets``, as those of torchvision do; of
    one that keeps none, or that changes them on their way, nothing is known before it is read.
    """
    known, tested = _labels_of(train), _labels_of(test)
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


def _labels_of(data: Dataset) -> np.ndarray | None:
    if isinstance(data, Subset):
        labels = _labels_of(data.dataset)
        return None if labels is None else labels[np.asarray(data.indices)]
    labels = getattr(data, "labels", getattr(data, "targets", None))
    changed = getattr(data, "target_transform", None) is not None
    if labels is None or changed or np.shape(labels) != (len(data),):  # type: ignore[arg-type]
        return None
    return np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)


def class_names(data: Dataset) -> list[str]:
    """Return the names of the classes, by number; none of a data set that keeps none.

    They are what a data set keeps as ``classes``, as those of torchvision do, or as ``names`` of
    its labels among ``features``, as those of Hugging Face do; of one that changes its labels on
    their way nothing is known.
    """
    if isinstance(data, Subset):
        return class_names(data.dataset)
    features = getattr(data, "features", None)
    columns = features if isinstance(features, Mapping) else {}
    label = next((columns[name] for name in LABELS if name in columns), None)
    names = getattr(label, "names", getattr(data, "classes", None))
    changed = getattr(data, "target_transform", None) is not None
    if changed or not isinstance(names, list | tuple) or not all(isinstance(x, str) for x in names):
        return []
    # A folder's name need not be text that can be written.
    return [name.encode(errors="replace").decode() for name in names]


def decode_image(content: bytes, mode: str = "RGB", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the content of an image file, upright; of an animation, the first picture.

    It is turned as its EXIF orientation says, and what is transparent shows white.

    Args:
        content: A file of one of ``FORMATS``.
        mode: ``RGB`` or ``L``, into which the image is converted.
        max_pixels: The most pixels that a file may declare; PIL refuses more than 178 million.

    Raises:
        Exception: Whatever PIL's decoders raise where the content is damaged or incomplete;
            ``ValueError`` if it is no image, or has more bits or pixels than it may.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)  # reads the header only
    except UnidentifiedImageError:  # its message names the buffer
        raise ValueError(f"it is no file of {', '.join(FORMATS)}") from None
    with image:
        if image.width * image.height > max_pixels:
            raise ValueError(
                f"it declares {image.width}x{image.height} pixels, more than {max_pixels}: "
                "shrink it, or raise max_pixels"
            )
        exif_transpose(image, in_place=True)
        return in_eight_bits(image, mode)


def in_eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to ``RGB`` or ``L`` on white; raise ``ValueError`` if PIL would clip it."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"its pixels are {image.mode!r}, not of 8 bits: convert it")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        ground.paste(image, mask=image)  # in place: a small file may declare a large image
        image = ground
    return image.convert(mode)


def _numbers(name: str, values: Tensor | np.ndarray | Sequence) -> Tensor:
    if isinstance(values, Tensor):
        tensor = values.detach().cpu()
        if tensor.dtype == torch.bool or tensor.is_complex():
            raise ValueError(f"{name} must be real numbers, got {tensor.dtype}: convert them.")
        if tensor.is_floating_point() or tensor.dtype == torch.uint8:
            return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        return tensor.long()
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be real numbers, got {array.dtype}: convert them.")
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    if array.dtype.kind != "f" and array.dtype != np.uint8:
        array = array.astype(np.int64)  # torch has few operations of unsigned integers
    # Of this machine's bytes, and without a step backwards, which torch has not.
    return torch.as_tensor(np.require(array, array.dtype.newbyteorder("="), "C"))


def _stacked(images: Sequence | np.ndarray, name: str) -> np.ndarray:
    shapes = [tuple(np.shape(image)) for image in images]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"{name} must all have one size, got {shapes[0]} at index 0 and {shape} at index "
                f"{index}: resize them."
            )
    return np.stack([np.asarray(image) for image in images]) if shapes else np.empty(0)


def checked_images(values: Tensor | np.ndarray | Sequence, name: str) -> Tensor:
    """Return images of type ``uint8`` or ``float32`` as they should be, or say what is wrong."""
    if not isinstance(values, Tensor | np.ndarray) or values.dtype == object:
        values = _stacked(values, name)  # NumPy's message does not say which image differs
    images = _numbers(name, values)
    shape = tuple(images.shape)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"{name} must have shape (N, channels, height, width) with at least one image, "
            f"got {shape}."
        )
    if shape[-1] in (1, 3, 4) and shape[1] > 4:
        raise ValueError(
            f"{name} must have shape (N, channels, height, width), got {shape} with the channels "
            "last: transpose them, by images.transpose(0, 3, 1, 2)."
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
            f"[{images.min().item():.4g}, {images.max().item():.4g}]: rescale them, or leave out "
            "their normalisation."
        )
    return images.float()


def _checked_labels(
    values: Tensor | np.ndarray | Sequence[int] | None, name: str, count: int
) -> Tensor | None:
    if values is None:
        return None
    labels = as_labels(name, _numbers(name, values), count)
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
    return labels
