"""Features of images by a frozen encoder, kept on disk: encoded once, and resumed after a kill."""

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from probcl.checks import check_count
from probcl.evaluation.progress import progress_bar, track
from probcl.evaluation.subsets import evenly_spaced
from probcl.files import digest, write_whole
from probcl.modes import in_evaluation

__all__ = ["cached_features"]

_BLOCK = 256  # rows that are on record together
_COMPARED = 16  # images by whose pixels a data set is known


def cached_features(
    encoder: nn.Module,
    images: Any,
    path: str | Path,
    *,
    batch_size: int = _BLOCK,
    progress: bool = True,
) -> np.ndarray:
    """Encode a data set once, and return its features from the disk ever after.

    The encoder runs in eval mode without gradients. After every 256 images their features are on
    disk, with a checksum beside them: a run that was killed goes on from there, and a damaged block
    is encoded again. The file is bound to the weights of the encoder and the settings that it
    prints, and to the number of images, their size, and the pixels of 16 of them.

    Args:
        encoder: Images ``(N, channels, height, width)`` to features ``(N, F)``.
        images: A tensor or array ``(N, channels, height, width)``, or a data set with a length,
            whose items are images or begin with one: of PIL, arrays ``(height, width, channels)``
            or tensors ``(channels, height, width)``. Integers in 0..255 become floats in [0, 1];
            floats stay as they are.
        path: File ``.npy`` to write, beside it ``.npy.json`` with what it rests on.
        batch_size: Images that are encoded at once, at most 256.
        progress: Whether to show a bar.

    Returns:
        A memory map of the file, float32 of shape ``(N, F)``, to read.

    Raises:
        ValueError: If the file holds the features of another encoder or of other images, or the
            features are no finite matrix.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "features.npy"
        >>> cached_features(nn.Flatten(), torch.rand(3, 1, 2, 2), path, progress=False).shape
        (3, 4)
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"path must end in .npy, got {path}.")
    if not 1 <= batch_size <= _BLOCK:
        raise ValueError(f"batch_size must be from 1 to {_BLOCK}, got {batch_size}.")
    count = check_count("the number of images", len(images))
    about = _about(encoder, images)
    path.parent.mkdir(parents=True, exist_ok=True)
    dim, sums = _on_record(path, about)
    whole = _opened(path, (count, dim))
    with progress_bar(progress), torch.no_grad(), in_evaluation(encoder):
        for block, start in enumerate(track("features", range(0, count, _BLOCK))):
            rows = range(start, min(start + _BLOCK, count))
            if whole is not None and sums[block] == crc32(whole[start : rows.stop].tobytes()):
                continue
            parts = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
            batches = [encode_batch(encoder, _batch(images, part), part[0]) for part in parts]
            features = torch.cat(batches).numpy()
            if dim not in (None, features.shape[1]):
                raise ValueError(_refusal(path, "another encoder"))
            if whole is None:
                dim = features.shape[1]
                _write_record(path, about, dim, sums)  # first: without it a file is not ours
                whole = np.lib.format.open_memmap(path, "w+", np.float32, (count, dim))
            # Not through the memory map: there a full disk ends the process.
            with path.open("r+b") as file:
                file.seek(whole.offset + start * features[0].nbytes)
                file.write(features.tobytes())
            sums[block] = crc32(features.tobytes())
            _write_record(path, about, dim, sums)
    return np.load(path, mmap_mode="r")


def encode_batch(encoder: nn.Module, images: Tensor, first: int = 0) -> Tensor:
    """Return the features ``(N, F)`` of a batch in float32 on the CPU.

    Args:
        encoder: Images to features; they are sent to its device.
        images: Shape ``(N, channels, height, width)``, integers in 0..255 or floats.
        first: Row of the first of them in their data set, for the error.

    Raises:
        ValueError: If the features are no finite matrix with a row for each image.
    """
    from probcl.data import as_float  # loads torchvision, which takes as long as torch

    device = next(encoder.parameters(), torch.zeros(0)).device
    features = encoder(as_float(images).to(device))
    if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(images):
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"encoder must map {len(images)} images to features of shape ({len(images)}, F), got "
            f"{got}."
        )
    features = features.detach().float().cpu()
    bad = (~features.isfinite()).any(-1).nonzero()
    if len(bad):
        raise ValueError(
            f"encoder must give finite features, those of image {first + int(bad[0])} are not."
        )
    return features


def _batch(images: Any, rows: range) -> Tensor:
    """Return images of a data set as a tensor ``(N, channels, height, width)``."""
    if isinstance(images, Tensor):
        return images[rows.start : rows.stop]
    if isinstance(images, np.ndarray):
        return torch.tensor(images[rows.start : rows.stop])
    batch = [_image(images[row], row) for row in rows]
    for row, image in zip(rows, batch, strict=True):
        if _kind(image) != _kind(batch[0]):
            raise ValueError(
                f"images must all have one size, got {_kind(batch[0])} at row {rows[0]} and "
                f"{_kind(image)} at row {row}: resize or convert them."
            )
    return torch.stack(batch)


def _image(item: Any, row: int) -> Tensor:
    from probcl.data.views import as_image

    try:
        return as_image(item[0] if isinstance(item, tuple | list) else item)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"images must hold images, or tuples that begin with one: row {row} does not ({error})."
        ) from error


def _kind(image: Tensor) -> str:
    return f"{' x '.join(map(str, image.shape))} of {str(image.dtype).removeprefix('torch.')}"


def _about(encoder: nn.Module, images: Any) -> dict[str, Any]:
    """Return what features rest on: digests of the encoder and of some images, and their size."""
    count = len(images)
    rows = evenly_spaced(count, _COMPARED).tolist()
    compared = {str(row): _batch(images, range(row, row + 1))[0] for row in rows}
    if any(is_lazy(parameter) for parameter in encoder.parameters()):
        with torch.no_grad(), in_evaluation(encoder):
            encode_batch(encoder, compared["0"][None])  # its layers take their sizes
    # Buffers too that are in no state dict, such as the mean by which images are standardised.
    numbers = dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    return {
        # In its text are settings that no weight tells, such as a stride.
        "encoder": digest({repr(encoder): torch.zeros(0), **numbers}),
        "count": count,
        "size": _kind(compared["0"]),
        "pixels": digest(compared),
    }


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _write_record(path: Path, about: dict[str, Any], dim: int | None, sums: list) -> None:
    write_whole(_record(path), json.dumps({**about, "dim": dim, "crc32": sums}))


def _refusal(path: Path, what: str) -> str:
    return f"path: {path} holds features of {what}: choose another name, or delete it."


def _on_record(path: Path, about: dict[str, Any]) -> tuple[int | None, list[int | None]]:
    """Return the number of features and the checksum of each block, where they are known."""
    record = _record(path)
    if not record.exists():
        if path.exists():
            raise ValueError(f"path: {path} is there, without {record.name}: choose another name.")
        return None, [None] * -(-about["count"] // _BLOCK)
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        dim, sums = known.pop("dim"), known.pop("crc32")
        if known.keys() != about.keys() or len(sums) != -(-known["count"] // _BLOCK) or dim < 1:
            raise ValueError("what it should hold is not there")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"path: {record} is damaged: delete it, and {path.name}.") from error
    held = {
        "encoder": "another encoder",
        "count": f"{known['count']} images, not of {about['count']}",
        "size": f"images of {known['size']}, not of {about['size']}",
        "pixels": "other images, or of such as change at random",
    }
    for name, what in held.items():
        if known[name] != about[name]:
            raise ValueError(_refusal(path, what))
    return dim, sums


def _opened(path: Path, shape: tuple[int, int | None]) -> np.memmap | None:
    """Return a memory map of features of a shape, None where there is no such file."""
    try:
        whole = np.lib.format.open_memmap(path, "r")
    except (OSError, ValueError, EOFError):  # not there, or damaged
        return None
    return whole if whole.shape == shape and whole.dtype == np.float32 else None
