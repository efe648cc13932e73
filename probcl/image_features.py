"""Features of a data set of images by an encoder that is named, kept on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import resize

from probcl.checks import check_count
from probcl.data import DATASETS, class_names, read_folder
from probcl.data.views import as_image
from probcl.evaluation.features import cached_features
from probcl.nn import encoder_by_name
from probcl.randomness import seeded

__all__ = ["encode_data"]

_IN_COLOUR = ("timm:", "torchvision:")  # encoders that take images in colour only


def encode_data(
    encoder: str,
    data: str,
    features: Path,
    *,
    root: Path = Path("data"),
    size: int | None = None,
    download: bool = False,
    seed: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return features and classes of the training and the test images of a data set.

    Classes are names where the data set has such, else numbers.

    Args:
        encoder: Its name, as ``encoder_by_name`` takes it.
        data: One of ``DATASETS``, or a folder with ``train/CLASS/*`` and ``test/CLASS/*``.
        features: Folder of ``train.npy`` and ``test.npy``, to write or to go on with.
        root: Folder that holds the data set.
        size: Height and width to resize images to.
        download: Whether to download the data set.
        seed: Seed of an encoder with random weights.

    Raises:
        ValueError: If there is no such encoder or data set, or they do not fit.
    """
    if size is not None:
        check_count("size", size)
    if data in DATASETS:
        sets = DATASETS[data].read(root, download)
    elif Path(data).is_dir():
        sets = read_folder(data)
    else:
        raise ValueError(f"data must be one of {', '.join(DATASETS)}, or a folder, got {data!r}.")
    with seeded(seed):
        network = encoder_by_name(encoder)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    encoded = []
    for name, part in zip(("train", "test"), sets, strict=False):
        images = _Images(part, size, encoder.startswith(_IN_COLOUR))
        values = cached_features(network, images, features / f"{name}.npy", progress=False)
        labels, classes = np.asarray(part.labels), class_names(part)
        encoded.append((np.asarray(values), np.array(classes)[labels] if classes else labels))
    return encoded


class _Images(Dataset):
    """Images of a data set of one size, and in colour where that is asked for."""

    def __init__(self, images: Any, size: int | None, colour: bool) -> None:
        self.images, self.size, self.colour = images, size, colour

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        item = self.images[row][0]
        if isinstance(item, str):
            raise ValueError(f"the image {item} cannot be read: repair or remove it.")
        image = as_image(item)
        if self.colour and len(image) == 1:
            image = image.expand(3, -1, -1)
        return image if self.size is None else resize(image, [self.size] * 2, antialias=True)
