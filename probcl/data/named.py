"""Data sets known by name: downloaded where they may be, verified, and read.

Folders are laid out as torchvision lays them out, and its checksums hold.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

from probcl.data.augment.recipes import Augmentation, SimAugment
from probcl.data.augment.simple import RandomAffine, RandomContrast, RandomNoise
from probcl.data.datasets import ImageArrays, ImageFiles, Unreadable, check_classes, class_names
from probcl.data.readers import Listed, list_images, number_classes, pair

__all__ = ["DATASETS", "Source", "load_digits"]

Files = tuple[ImageFiles, ImageFiles]

_TINY_IMAGENET = {
    "url": "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "md5": "90528d7ca1a48142e341f4ef8d21d0de",  # its makers publish none: other libraries'
}


class Source(NamedTuple):
    """A data set known by name.

    Attributes:
        meaning: What it holds, and in which folder of the root.
        read: ``read(root, download=False, **options)`` returns the train set, the test set and,
            where it is asked for, a set without labels. It raises ``ValueError`` if files are
            missing or damaged, or a download fails.
        augmentation: Makes the augmentation that suits the images.
        in_memory: Whether the sets are ``ImageArrays``; if not, they are ``ImageFiles``, and
            ``read`` has their option ``unreadable``.
    """

    meaning: str
    read: Callable[..., tuple[Any, ...]]
    augmentation: Callable[[], nn.Module] = SimAugment
    in_memory: bool = True


def load_digits() -> tuple[ImageArrays, ImageArrays]:
    """Return scikit-learn's 1,797 handwritten digits as a train and a test set, fixed, stratified.

    Images are of shape ``(N, 1, 8, 8)``, in [0, 1].

    References:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
        Learning Repository.

    Example:
        >>> train, test = load_digits()
        >>> len(train), len(test)
        (1437, 360)
    """
    # No other data set needs scikit-learn, which takes a third as long to import as torch.
    from sklearn.datasets import load_digits as read_uci_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = read_uci_digits(return_X_y=True)
    images = torch.as_tensor(pixels / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    train, test = train_test_split(
        torch.arange(len(labels)), test_size=360, stratify=labels, random_state=0
    )
    targets = torch.as_tensor(labels)
    return ImageArrays(images[train], targets[train]), ImageArrays(images[test], targets[test])


def _read_arrays(
    kind: type, root: str | Path, download: bool = False
) -> tuple[ImageArrays, ImageArrays]:
    """Read a data set of torchvision's that has a training part and another in memory."""
    parts = []
    for part in _read(kind, root, download, [{"train": True}, {"train": False}]):
        pixels = np.asarray(part.data)  # (N, height, width), or (N, height, width, 3)
        images = pixels.reshape(*pixels.shape[:3], -1).transpose(0, 3, 1, 2)
        # Those of MNIST say the number twice, "0 - zero".
        classes = () if kind is datasets.MNIST else class_names(part)
        parts.append(ImageArrays(images, part.targets, classes=classes))
    check_classes(*parts)
    return parts[0], parts[1]


def _read_stl10(
    root: str | Path, download: bool = False, unlabelled: bool = False
) -> tuple[ImageArrays, ...]:
    """Read STL-10, and if asked to the images without labels too, 2.8 GB."""
    names = ("train", "test", "unlabeled") if unlabelled else ("train", "test")
    parts = _read(datasets.STL10, root, download, [{"split": name} for name in names])
    classes = class_names(parts[0])
    train, test = (ImageArrays(part.data, part.labels, classes=classes) for part in parts[:2])
    check_classes(train, test)
    return (train, test, *(ImageArrays(part.data) for part in parts[2:]))


def _read_tiny_imagenet(
    root: str | Path, download: bool = False, unreadable: Unreadable = "raise"
) -> Files:
    """Find Tiny-ImageNet; its validation set is the test set here.

    Labels of its own test set were never published.
    """
    folder = Path(root).expanduser() / "tiny-imagenet-200"
    images = folder / "val" / "images"
    with _explained("Tiny-ImageNet", folder.parent, download):
        if download and not folder.is_dir():
            download_and_extract_archive(download_root=folder.parent, **_TINY_IMAGENET)
        lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
        there = set(os.listdir(images))
    numbers = number_classes(folder / "train", 200)
    test = Listed()
    for line in lines:
        name, wnid, *_ = [*line.split("\t"), ""]
        if name not in there or wnid not in numbers:
            raise ValueError(
                f"root: {line!r} in {folder / 'val' / 'val_annotations.txt'} names no image or no "
                "class that is there: unpack the archive anew."
            )
        test.paths.append(images / name)
        test.labels.append(numbers[wnid])
    return pair(list_images(folder / "train", numbers), test, 3, unreadable)


def _read_caltech256(
    root: str | Path, download: bool = False, unreadable: Unreadable = "raise"
) -> Files:
    """Find Caltech-256, without its 257th folder, clutter.

    It has no official split. This one is drawn once for all, with a fixed seed: 60 images of each
    class to train, the largest number in common use.
    """
    root = Path(root).expanduser()
    folder = root / "caltech256" / "256_ObjectCategories"
    with _explained("Caltech-256", root, download):
        if download:
            datasets.Caltech256(root, download=True)
        os.listdir(folder)
    numbers = number_classes(folder, 257)
    del numbers["257.clutter"]
    # NumPy promises that RandomState, unlike its new generators, draws the same for ever.
    random = np.random.RandomState(0)
    parts = Listed(classes=list(numbers)), Listed()
    for name, number in numbers.items():
        found = np.array(sorted((folder / name).glob("*.jpg")))
        order = random.permutation(len(found))
        for part, rows in zip(parts, (order[:60], order[60:]), strict=True):
            part.paths.extend(found[np.sort(rows)].tolist())
            part.labels.extend([number] * len(rows))
    return pair(*parts, 3, unreadable)


_IMAGENET = "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz"


def _read_imagenet(
    root: str | Path, download: bool = False, unreadable: Unreadable = "raise"
) -> Files:
    """Find ImageNet of 2012, as ``train/WNID/*`` and ``val/WNID/*`` or in its three archives.

    The archives are verified and unpacked on first use. Its validation set is the test set here;
    classes are numbered in the order of their WordNet ids.
    """
    root = _unpacked(root, download)
    return _imagenet(root, number_classes(root / "train", 1000), unreadable)


def _read_imagenet100(
    root: str | Path,
    download: bool = False,
    classes: str | Path | None = None,
    unreadable: Unreadable = "raise",
) -> Files:
    """Find the images of some classes of ImageNet; folders of others need not be there."""
    source = Path(classes) if classes else files("probcl.data") / "imagenet100.txt"
    try:
        wnids = source.read_text().split()
    except (OSError, ValueError) as error:
        raise ValueError(f"classes: cannot read {classes}: give a file of WordNet ids.") from error
    if len(set(wnids)) < 2:
        raise ValueError(f"classes: {classes} names fewer than two classes: give one on each line.")
    return _imagenet(_unpacked(root, download), wnids, unreadable)


def _read(kind: type, root: str | Path, download: bool, splits: list[dict]) -> list:
    root = Path(root).expanduser()
    with _explained(kind.__name__, root, download):
        return [kind(root, download=download, **split) for split in splits]


@contextmanager
def _explained(name: str, root: Path, download: bool) -> Iterator[None]:
    """Put into a sentence what torchvision raises where files are missing or damaged."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, LookupError, AssertionError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"root: {name} could not be downloaded to {root} and read there ({reason}): check the "
            "network, or delete what is damaged there and try again."
            if download
            else f"root: {root} does not hold {name}, whole and undamaged: give the folder that "
            "does, or set download to True."
        ) from error


def _unpacked(root: str | Path, download: bool) -> Path:
    """Return the folder that holds ImageNet's ``train`` and ``val``, unpacked if need be."""
    root = Path(root).expanduser()
    if download:
        raise ValueError(
            "download: the licence of ImageNet asks each user for consent, so it is not downloaded "
            f"for you: get {_IMAGENET} from https://image-net.org and put them in {root}."
        )
    for split in ("train", "val"):
        try:
            if not (root / split).is_dir():
                datasets.ImageNet(root, split)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"root: {root} has no folder {split}, and archives of ImageNet are missing or "
                "damaged there: accept its licence (research and education, not commerce) at "
                f"https://image-net.org, and put {_IMAGENET} into {root}."
            ) from error
    return root


def _imagenet(root: Path, wnids: Iterable[str], unreadable: Unreadable) -> Files:
    numbers = {wnid: number for number, wnid in enumerate(sorted(set(wnids)))}
    train, test = (list_images(root / part, numbers) for part in ("train", "val"))
    return pair(train, test, 3, unreadable)


_photographs = partial(SimAugment, 224, scale=(0.08, 1.0), strength=1.0, blur=0.5)

#: Data sets by name.
DATASETS: dict[str, Source] = {
    "Digits": Source(
        "Handwritten digits, grey, 8x8: 1,437 to train, 360 to test; they come with scikit-learn",
        lambda root, download=False: load_digits(),
        # More noise than elsewhere, for there is no texture to lose.
        lambda: Augmentation(RandomAffine(), [RandomContrast(), RandomNoise(0.3)])),
    # Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images,
    # https://www.cs.toronto.edu/~kriz/cifar.html.
    "CIFAR10": Source(
        "Photographs of 10 classes, 32x32: 50,000 to train, 10,000 to test; cifar-10-batches-py",
        partial(_read_arrays, datasets.CIFAR10)),
    "CIFAR100": Source(
        "Photographs of 100 classes, 32x32: 50,000 to train, 10,000 to test; cifar-100-python",
        partial(_read_arrays, datasets.CIFAR100)),
    # LeCun, Bottou, Bengio and Haffner (1998), Gradient-Based Learning Applied to Document
    # Recognition, https://doi.org/10.1109/5.726791.
    "MNIST": Source("Handwritten digits, grey, 28x28: 60,000 to train, 10,000 to test; MNIST/raw",
        partial(_read_arrays, datasets.MNIST), partial(SimAugment, 28, flip=0.0)),
    # Xiao, Rasul and Vollgraf (2017), Fashion-MNIST: a Novel Image Dataset for Benchmarking
    # Machine Learning Algorithms, https://arxiv.org/abs/1708.07747.
    "FashionMNIST": Source(
        "Clothes of 10 classes, grey, 28x28: 60,000 to train, 10,000 to test; FashionMNIST/raw",
        partial(_read_arrays, datasets.FashionMNIST), partial(SimAugment, 28)),
    # Coates, Lee and Ng (2011), An Analysis of Single-Layer Networks in Unsupervised Feature
    # Learning, https://proceedings.mlr.press/v15/coates11a.html.
    "STL10": Source(
        "Photographs of 10 classes, 96x96: 5,000 to train, 8,000 to test, with unlabelled=True "
        "100,000 without labels; stl10_binary",
        _read_stl10, partial(SimAugment, 96)),
    # Le and Yang (2015), Tiny ImageNet Visual Recognition Challenge,
    # http://cs231n.stanford.edu/tiny-imagenet-200.zip.
    "TinyImageNet": Source(
        "Photographs of 200 classes, 64x64: 100,000 to train, 10,000 to test; tiny-imagenet-200",
        _read_tiny_imagenet, partial(SimAugment, 64), in_memory=False),
    # Griffin, Holub and Perona (2007), Caltech-256 Object Category Dataset,
    # https://data.caltech.edu/records/nyy15-4j048.
    "Caltech256": Source(
        "Photographs of 256 classes: 60 of each to train, the others to test; caltech256",
        _read_caltech256, _photographs, in_memory=False),
    # Russakovsky et al. (2015), ImageNet Large Scale Visual Recognition Challenge,
    # https://arxiv.org/abs/1409.0575.
    "ImageNet": Source(
        "Photographs of 1,000 classes: 1,281,167 to train, 50,000 to test; its archives, or train/ "
        "and val/",
        _read_imagenet, _photographs, in_memory=False),
    # Tian, Krishnan and Isola (2020), Contrastive Multiview Coding,
    # https://arxiv.org/abs/1906.05849; its classes: https://github.com/HobbitLong/CMC.
    "ImageNet100": Source(
        "Photographs of 100 classes of ImageNet, or of those in a file of WordNet ids, classes",
        _read_imagenet100, _photographs, in_memory=False),
}  # fmt: skip
