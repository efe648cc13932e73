"""Views of images that do not fit in memory: cropped one by one, by the workers that read them."""

from collections.abc import Callable, Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_image

from probcl.data.datasets import LABELS, ImageArrays, checked_images, class_names, in_eight_bits
from probcl.randomness import reseed

__all__ = ["CroppedBatch", "CroppedViews", "Sized", "as_image", "collate_views", "read_into_memory"]


class CroppedBatch(NamedTuple):
    """Views of a batch, cropped but not changed otherwise.

    Attributes:
        views: A tensor ``(B, channels, size, size)`` of bytes for each view.
        labels: Classes, shape ``(B,)``; None where an image has none.
        rows: Rows of the images in their data set, shape ``(B,)``.
        unreadable: Files that could not be read, and are left out.
    """

    views: list[Tensor]
    labels: Tensor | None
    rows: Tensor
    unreadable: list[str]


class CroppedViews(Dataset):
    """Views of the images of a data set, each by a transform of its own.

    Once the attribute ``seed`` is set, the random draws of an image follow from it and the image's
    row alone.

    Args:
        data: Data set of items that begin with an image and its class, or ``None``. An image is
            one of PIL, an array ``(height, width, channels)`` or a tensor ``(channels, height,
            width)``, integers in 0..255 or floats in [0, 1]; or the path of an unreadable file.
            Items of named columns, as those of Hugging Face's data sets, have ``image`` and
            ``label``.
        transforms: A transform of one image for each view.

    Raises:
        ValueError: On fetching an item, if it is anything else.
    """

    def __init__(self, data: Dataset, transforms: Sequence[Callable]) -> None:
        self.data = data
        self.seed: int | None = None
        self.transforms = [
            v2.Compose([transform, v2.ToDtype(torch.uint8, scale=True)]) for transform in transforms
        ]

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, row: int) -> tuple[list[Tensor] | str, Any, int]:
        """Return the views, the label and the row of an image, or the path in place of views."""
        item = self.data[row]
        if isinstance(item, Mapping):
            item = _of_columns(item, row)
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise ValueError(
                "the data set must hold pairs of an image and its class, got "
                f"{type(item).__name__} at row {row}: return them as a tuple."
            )
        if isinstance(item[0], str):
            return item[0], None, row
        image, label = _checked_image(item[0], row), _as_label(item[1], row)
        with torch.random.fork_rng(devices=[], enabled=self.seed is not None):
            if self.seed is not None:
                reseed((self.seed + row) % 2**63, torch.device("cpu"))
            views = [transform(image).as_subclass(Tensor) for transform in self.transforms]
        return views, label, row


class Sized(nn.Module):
    """Leave images as they are, which must have the one size of those that were trained on."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = height, width

    def forward(self, image: Tensor) -> Tensor:
        """Return the image ``(channels, height, width)``, or raise ``ValueError``."""
        if tuple(image.shape[-2:]) != self.size:
            raise ValueError(
                f"images must be of {self.size[0]}x{self.size[1]} pixels, as those trained on, got "
                f"{image.shape[-2]}x{image.shape[-1]}: resize them."
            )
        return image


def _of_columns(item: Mapping, row: int) -> tuple[Any, Any]:
    """Return the image and the label of an item of named columns."""
    images = [name for name in ("image", "img") if name in item]
    labels = [name for name in LABELS if name in item]
    if not images or not labels:
        raise ValueError(
            "the data set must hold an image and its class, as the columns image and label, got "
            f"{', '.join(map(str, item))} at row {row}: rename them."
        )
    return item[images[0]], item[labels[0]]


def as_image(image: Any) -> Tensor:
    """Return an image, of PIL, an array or a tensor, as a tensor ``(channels, height, width)``."""
    if isinstance(image, Image.Image):
        image = image if image.mode in ("L", "RGB") else in_eight_bits(image, "RGB")
    return to_image(image).as_subclass(Tensor)


def _checked_image(image: Any, row: int) -> Tensor:
    try:
        return checked_images(as_image(image)[None], "images")[0]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the image at row {row} of the data set cannot be used: {error}"
        ) from error


def _as_label(label: Any, row: int) -> int | None:
    try:
        number = None if label is None else index(label)
    except TypeError:
        number = -1
    if number is not None and number < 0:
        raise ValueError(
            f"labels must be integers from 0, got {label} at row {row}: number the classes from 0."
        )
    return number


def collate_views(items: Sequence[tuple[list[Tensor] | str, Any, int]]) -> CroppedBatch:
    """Put items of ``CroppedViews`` together, without those that could not be read.

    Where none could be read there are no views.

    Raises:
        ValueError: If the images do not all have one size and as many channels.
    """
    readable = [(item[0], *item[1:]) for item in items if not isinstance(item[0], str)]
    unreadable = [item[0] for item in items if isinstance(item[0], str)]
    channels = {view.shape[0] for views, _, _ in readable for view in views}
    if len(channels) > 1:
        raise ValueError(
            f"images must all have as many channels, got {' and '.join(map(str, sorted(channels)))}"
            ": convert them to one mode."
        )
    views = []
    for parts in zip(*(views for views, _, _ in readable), strict=True):
        for part in parts:
            _check_size(part.shape, parts[0].shape)
        views.append(torch.stack(parts))
    known = [label for _, label, _ in readable if label is not None]
    labels = torch.tensor(known, dtype=torch.long) if len(known) == len(readable) else None
    rows = torch.tensor([row for _, _, row in readable], dtype=torch.long)
    return CroppedBatch(views, labels, rows, unreadable)


def _check_size(size: torch.Size, first: torch.Size) -> None:
    if size != first:
        raise ValueError(
            f"images must all have one size and as many channels, got {' x '.join(map(str, first))}"
            f" and {' x '.join(map(str, size))}: resize them, and convert them to one mode."
        )


def read_into_memory(
    data: Dataset, transform: Callable, num_workers: int
) -> tuple[ImageArrays, list[str]]:
    """Return the images of a data set, transformed to one size, and the files that are unreadable.

    Args:
        data: As for ``CroppedViews``.
        transform: Transform of one image; the results must have one size.
        num_workers: Processes that read.

    Raises:
        ValueError: If none can be read.
    """
    loader = DataLoader(
        CroppedViews(data, [transform]), 256, num_workers=num_workers, collate_fn=collate_views
    )
    images: Tensor | None = None
    labels, unreadable, filled = [], [], 0
    for batch in loader:
        unreadable += batch.unreadable
        if batch.views:
            if images is None:
                # In place, batch by batch: a list of what workers send would keep their files open.
                images = batch.views[0].new_empty(len(data), *batch.views[0].shape[1:])  # type: ignore[arg-type]
            _check_size(batch.views[0].shape[1:], images.shape[1:])
            images[filled : filled + len(batch.rows)] = batch.views[0]
            filled += len(batch.rows)
            labels.append(batch.labels)
    if images is None:
        among = f", {unreadable[0]} among them" if unreadable else ": there is none"
        raise ValueError(f"not one of the images can be read{among}.")
    known = [part for part in labels if part is not None]
    whole = torch.cat(known) if len(known) == len(labels) else None
    arrays = ImageArrays(images[:filled], classes=class_names(data))
    arrays.labels = whole  # unchecked, as those of a data set are: one unlike it may have one class
    return arrays, unreadable
