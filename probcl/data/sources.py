"""Data sets known by name: downloaded where they may be, verified, and read.

Folders are laid out as torchvision lays them out, and its checksums hold.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path

import numpy as np
from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

from probcl.data.arrays import ImageArrays
from probcl.data.files import ImageFiles, Listed, Unreadable, list_images, number_classes, pair

__all__ = [
    "read_caltech256",
    "read_cifar10",
    "read_cifar100",
    "read_fashion_mnist",
    "read_imagenet",
    "read_imagenet100",
    "read_mnist",
    "read_stl10",
    "read_tiny_imagenet",
]

Arrays = tuple[ImageArrays, ImageArrays]
Files = tuple[ImageFiles, ImageFiles]

_TINY_IMAGENET = {
    "url": "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "md5": "90528d7ca1a48142e341f4ef8d21d0de",  # its makers publish none: other libraries'
}


def read_cifar10(root: str | Path, download: bool = False) -> Arrays:
    """Read CIFAR-10: 50,000 images to train and 10,000 to test, of 10 classes.

    Args:
        root: Folder that holds ``cifar-10-batches-py``.
        download: Whether to download what is missing.

    Returns:
        The train set and the test set, ``(N, 3, 32, 32)`` of type ``uint8``.

    Raises:
        ValueError: If files are missing or differ from their checksums, or the download fails.

    References:
        Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images,
        https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    return _train_and_test(datasets.CIFAR10, root, download)


def read_cifar100(root: str | Path, download: bool = False) -> Arrays:
    """Read CIFAR-100, in ``cifar-100-python``: as ``read_cifar10``, of 100 classes."""
    return _train_and_test(datasets.CIFAR100, root, download)


def read_mnist(root: str | Path, download: bool = False) -> Arrays:
    """Read MNIST: 60,000 handwritten digits to train and 10,000 to test.

    Args:
        root: Folder that holds ``MNIST/raw``; original ``.gz`` files there count as downloaded.
        download: Whether to download and unpack what is missing.

    Returns:
        The train set and the test set, ``(N, 1, 28, 28)`` of type ``uint8``.

    Raises:
        ValueError: If files are missing or damaged, or the download fails.

    References:
        LeCun, Bottou, Bengio and Haffner (1998), Gradient-Based Learning Applied to Document
        Recognition, https://doi.org/10.1109/5.726791.
    """
    return _train_and_test(datasets.MNIST, root, download)


def read_fashion_mnist(root: str | Path, download: bool = False) -> Arrays:
    """Read Fashion-MNIST, pictures of clothes, in ``FashionMNIST/raw``: as ``read_mnist``.

    References:
        Xiao, Rasul and Vollgraf (2017), Fashion-MNIST: a Novel Image Dataset for Benchmarking
        Machine Learning Algorithms, https://arxiv.org/abs/1708.07747.
    """
    return _train_and_test(datasets.FashionMNIST, root, download)


def read_stl10(
    root: str | Path, download: bool = False, unlabelled: bool = True
) -> tuple[ImageArrays, ...]:
    """Read STL-10: 5,000 images to train and 8,000 to test of 10 classes, 100,000 without labels.

    Args:
        root: Folder that holds ``stl10_binary``.
        download: As for ``read_cifar10``; what it raises is too.
        unlabelled: Whether to read the images without labels too, 2.8 GB.

    Returns:
        The train set, the test set and the unlabelled set, ``(N, 3, 96, 96)`` of type ``uint8``.

    References:
        Coates, Lee and Ng (2011), An Analysis of Single-Layer Networks in Unsupervised Feature
        Learning, https://proceedings.mlr.press/v15/coates11a.html.
    """
    names = ("train", "test", "unlabeled") if unlabelled else ("train", "test")
    parts = _read(datasets.STL10, root, download, [{"split": name} for name in names])
    labelled = (ImageArrays(part.data, part.labels) for part in parts[:2])
    return (*labelled, *(ImageArrays(part.data) for part in parts[2:]))


def read_tiny_imagenet(
    root: str | Path, download: bool = False, unreadable: Unreadable = "raise"
) -> Files:
    """Find Tiny-ImageNet: 100,000 images to train and 10,000 to test, 64x64, of 200 classes.

    Its validation set is the test set here: labels of its own test set were never published.

    Args:
        root: Folder that holds ``tiny-imagenet-200``.
        download: As for ``read_cifar10``; what it raises is too.
        unreadable: ``"raise"`` or ``"skip"``, as for ``ImageFiles``.

    Returns:
        The train set and the test set; classes are numbered in the order of their WordNet ids.

    References:
        Le and Yang (2015), Tiny ImageNet Visual Recognition Challenge,
        http://cs231n.stanford.edu/tiny-imagenet-200.zip.
    """
    folder = Path(root).expanduser() / "tiny-imagenet-200"
    images = folder / "val" / "images"
    with _explained("Tiny-ImageNet", folder.parent, download):
        if download and not folder.is_dir():
            download_and_extract_archive(download_root=folder.parent, **_TINY_IMAGENET)
        lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
        there = set(os.listdir(images))
    numbers = number_classes(folder / "train", 200)
    paths, labels = [], []
    for line in lines:
        name, wnid, *_ = [*line.split("\t"), ""]
        if name not in there or wnid not in numbers:
            raise ValueError(
                f"root: {line!r} in {folder / 'val' / 'val_annotations.txt'} names no image or no "
                "class that is there: unpack the archive anew."
            )
        paths.append(images / name)
        labels.append(numbers[wnid])
    return pair(list_images(folder / "train", numbers), (paths, labels), 3, unreadable)


def read_caltech256(
    root: str | Path, download: bool = False, unreadable: Unreadable = "raise"
) -> Files:
    """Find Caltech-256: 60 images of each of 256 classes to train, the others to test.

    The data set has no official split. This one is drawn once for all, with a fixed seed; 60 is the
    largest number in common use. The 257th folder, clutter, is left out.

    Args:
        root: Folder that holds ``caltech256/256_ObjectCategories``.
        download: As for ``read_cifar10``; what it raises is too.
        unreadable: ``"raise"`` or ``"skip"``, as for ``ImageFiles``.

    Returns:
        The train set and the test set.

    References:
        Griffin, Holub and Perona (2007), Caltech-256 Object Category Dataset,
        https://data.caltech.edu/records/nyy15-4j048.
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
    parts: tuple[Listed, Listed] = ([], []), ([], [])
    for name, number in numbers.items():
        found = np.array(sorted((folder / name).glob("*.jpg")))
        order = random.permutation(len(found))
        for (paths, labels), rows in zip(parts, (order[:60], order[60:]), strict=True):
            paths += found[np.sort(rows)].tolist()
            labels += [number] * len(rows)
    return pair(*parts, 3, unreadable)


def read_imagenet(root: str | Path, unreadable: Unreadable = "raise") -> Files:
    """Find ImageNet of 2012: 1,281,167 images to train and 50,000 to test, of 1,000 classes.

    Its validation set is the test set here. Its licence is a personal one: no reader downloads it.

    Args:
        root: Folder that holds its three archives, which are verified and unpacked on first use,
            or the images as ``train/WNID/*`` and ``val/WNID/*``.
        unreadable: ``"raise"`` or ``"skip"``, as for ``ImageFiles``.

    Returns:
        The train set and the test set; classes are numbered in the order of their WordNet ids.

    Raises:
        ValueError: If archives are missing or differ from their checksums, or a class is missing.

    References:
        Russakovsky et al. (2015), ImageNet Large Scale Visual Recognition Challenge,
        https://arxiv.org/abs/1409.0575.
    """
    root = _unpacked(root)
    return _imagenet(root, number_classes(root / "train", 1000), unreadable)


def read_imagenet100(
    root: str | Path, classes: str | Path | None = None, unreadable: Unreadable = "raise"
) -> Files:
    """Find ImageNet-100: the images of 100 classes of ImageNet.

    Args:
        root: As for ``read_imagenet``; folders of other classes need not be there.
        classes: File of WordNet ids, one to a line; by default those of Tian et al.
        unreadable: As for ``read_imagenet``; what it returns and raises is too.

    References:
        Tian, Krishnan and Isola (2020), Contrastive Multiview Coding,
        https://arxiv.org/abs/1906.05849; the classes: https://github.com/HobbitLong/CMC.
    """
    source = Path(classes) if classes else files("probcl.data") / "imagenet100.txt"
    try:
        wnids = source.read_text().split()
    except (OSError, ValueError) as error:
        raise ValueError(f"classes: cannot read {classes}: give a file of WordNet ids.") from error
    if len(set(wnids)) < 2:
        raise ValueError(f"classes: {classes} names less than two classes: give one on each line.")
    return _imagenet(_unpacked(root), wnids, unreadable)


def _train_and_test(kind: type, root: str | Path, download: bool) -> Arrays:
    parts = []
    for part in _read(kind, root, download, [{"train": True}, {"train": False}]):
        pixels = np.asarray(part.data)  # (N, height, width), or (N, height, width, 3)
        images = pixels.reshape(*pixels.shape[:3], -1).transpose(0, 3, 1, 2)
        parts.append(ImageArrays(images, part.targets))
    return parts[0], parts[1]


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
            "does, or --data.download true."
        ) from error


def _unpacked(root: str | Path) -> Path:
    """Return the folder that holds ImageNet's ``train`` and ``val``, unpacked if need be."""
    root = Path(root).expanduser()
    for split in ("train", "val"):
        try:
            if not (root / split).is_dir():
                datasets.ImageNet(root, split)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"root: {root} has no folder {split}, and archives of ImageNet are missing or "
                "damaged there: accept its licence (research and education, not commerce) at "
                "https://image-net.org, and put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar "
                f"and ILSVRC2012_devkit_t12.tar.gz into {root}."
            ) from error
    return root


def _imagenet(root: Path, wnids: Iterable[str], unreadable: Unreadable) -> Files:
    numbers = {wnid: number for number, wnid in enumerate(sorted(set(wnids)))}
    train, test = (list_images(root / part, numbers) for part in ("train", "val"))
    return pair(train, test, 3, unreadable)
