"""What belongs to CIFAR-10 and comes from others, as their authors ship it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probcl.data.datasets import ImageArrays, ImageFiles

__all__ = [
    "cifar10c_corruptions", "read_cifar10c", "read_cifar10h", "read_cifar10n", "read_image_list",
]  # fmt: skip

_TEST, _CLASSES = 10_000, 10  # images of CIFAR-10's test set


def cifar10c_corruptions(folder: str | Path) -> list[str]:
    """Return the names of the corruptions in a folder of CIFAR-10-C or CIFAR-100-C, sorted.

    Raises:
        ValueError: If there are none.
    """
    names = sorted(path.stem for path in Path(folder).glob("*.npy") if path.stem != "labels")
    if not names:
        raise ValueError(f"folder must hold CIFAR-10-C, as fog.npy and labels.npy, got {folder}.")
    return names


def read_cifar10c(folder: str | Path, corruption: str, severity: int) -> ImageArrays:
    """Read the test images of CIFAR-10-C (or CIFAR-100-C) of one corruption and severity.

    Args:
        folder: Where ``labels.npy`` and an array for each corruption are, ``(50000, 32, 32, 3)``.
        corruption: One of ``cifar10c_corruptions``.
        severity: From 1 to 5.

    Raises:
        ValueError: If there is no such corruption or severity, or a file is not as it is shipped.

    References:
        Hendrycks and Dietterich (2019), https://arxiv.org/abs/1903.12261; the data:
        https://zenodo.org/records/2535967
    """
    names = cifar10c_corruptions(folder)
    if corruption not in names:
        raise ValueError(f"corruption must be one of {', '.join(names)}, got {corruption!r}.")
    if severity not in range(1, 6):
        raise ValueError(f"severity must be from 1 to 5, got {severity}.")
    images = _array(Path(folder) / f"{corruption}.npy", (5 * _TEST, 32, 32, 3))
    labels = _array(Path(folder) / "labels.npy", (5 * _TEST,))
    rows = slice((severity - 1) * _TEST, severity * _TEST)
    own = torch.from_numpy(np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2)))
    return ImageArrays(own, torch.from_numpy(labels[rows].astype(np.int64)))


def read_cifar10h(path: str | Path) -> Tensor:
    """Read how many people named each class of CIFAR-10's test images, ``(10000, 10)``.

    Args:
        path: ``cifar10h-counts.npy``, or the shares, ``cifar10h-probs.npy``.

    Raises:
        ValueError: If the file is not as it is shipped.

    References:
        Peterson et al. (2019), https://arxiv.org/abs/1908.07086; the data:
        https://github.com/jcpeterson/cifar-10h
    """
    votes = _array(Path(path), (_TEST, _CLASSES)).astype(np.float64)
    if not np.isfinite(votes).all() or votes.min() < 0 or votes.sum(1).min() <= 0:
        raise ValueError(f"{path} must hold votes of at least 0, and one for every image.")
    return torch.from_numpy(votes)


def read_cifar10n(path: str | Path) -> dict[str, Tensor]:
    """Read people's labels of CIFAR-10's (or CIFAR-100's) training images, each ``(50000,)``.

    Args:
        path: ``CIFAR-10_human.pt``.

    Returns:
        By the names in the file: ``clean_label``, ``aggre_label``, ``worse_label``,
        ``random_label1`` to ``3``.

    Raises:
        ValueError: If the file is not as it is shipped.

    References:
        Wei et al. (2022), Learning with noisy labels revisited.
        https://arxiv.org/abs/2110.12088; the data: https://github.com/UCSC-REAL/cifar-10-100n
    """
    arrays: list[Any] = [np.ndarray, np.dtype, *{type(np.dtype(t)) for t in ("i8", "i4", "u1")}]
    rebuild: Any = np.zeros(1).__reduce__()[0]
    old = (rebuild, "numpy.core.multiarray._reconstruct")  # as before NumPy 2
    try:
        with torch.serialization.safe_globals([*arrays, rebuild, old]):
            content = torch.load(path, weights_only=True)
        labels = {str(name): torch.as_tensor(value).long() for name, value in content.items()}
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # whatever the parser of a file that is not so meets
        raise ValueError(f"{path} is not CIFAR-10_human.pt as its authors ship it.") from error
    wrong = [name for name, values in labels.items() if values.shape != (50_000,)]
    if not labels or wrong:
        raise ValueError(f"{path} must hold 50,000 labels of each kind, {wrong} has others.")
    return labels


def read_image_list(path: str | Path, root: str | Path) -> ImageFiles:
    """Return the images of a list such as OpenOOD's: a path and a class in each line.

    Args:
        path: The list; a class of -1, or none, is not known, and then no class of the list is.
        root: Folder that the paths are within.

    Raises:
        ValueError: If the list cannot be read, or a line is not as described.

    References:
        Zhang et al. (2023), OpenOOD v1.5. https://arxiv.org/abs/2306.09301
    """
    paths, labels = [], []
    try:
        content = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}.") from error
    # Not splitlines: a name may hold what Unicode takes for the end of a line.
    for number, text in enumerate(content.split("\n"), 1):
        line = text.rsplit(maxsplit=1)  # a path may hold spaces
        if not all(part.removeprefix("-").isdecimal() for part in line[1:]):
            raise ValueError(f"{path}: line {number} must have a path and a class, got {line}.")
        if line:
            paths.append(str(Path(root) / line[0]))
            labels.append(int(line[1]) if len(line) == 2 else -1)
    return ImageFiles(paths, None if min(labels, default=-1) < 0 else labels)


def _array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Open an array on disk; raise ``ValueError`` unless it has a shape."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    if array.shape != shape:
        raise ValueError(f"{path} must be of shape {shape}, got {array.shape}.")
    return array
