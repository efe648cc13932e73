"""Files that are whole: written beside their target, put on disk, then renamed onto it."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = [
    "digest", "has_its_checksums", "is_partial", "read_tensors", "replacing", "write_tensors",
    "write_whole",
]  # fmt: skip

_PARTIAL = ".partial-"
_FOLDER = 0x10  # among the attributes of a record of a zip file


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give the name of a file to write, which takes the place of another once it is on disk.

    Until then, and if the writing fails, what was there before stays as it was. The file lies
    beside the other, so that it is of the same file system.

    Args:
        path: The file to replace, or to make.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with replacing(path) as partial:
        ...     count = partial.write_text("1 2 3")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('1 2 3', 1)
    """
    path = Path(path)
    partial = path.with_name(_PARTIAL + path.name)
    try:
        yield partial
        _synchronise(partial)
        os.replace(partial, path)
        _synchronise(path.parent)  # else a crash may undo the renaming
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: str | Path, text: str) -> None:
    """Write a text to a file that never stands there half-written."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def has_its_checksums(path: str | Path) -> bool:
    """Tell whether every record of a zip file, such as a checkpoint, is as it was written.

    ``torch.load`` does not look at the checksums that ``torch.save`` writes.
    """
    try:
        with zipfile.ZipFile(path) as file:
            # No checksum covers the mark of a folder, for which torch would read other bytes.
            folders = [record for record in file.infolist() if record.external_attr & _FOLDER]
            return not folders and file.testzip() is None
    except Exception:  # whatever the parsers of a damaged file meet
        return False


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None
) -> None:
    """Write tensors by name to a safetensors file, with their digest and other words about them."""
    plain = torch.contiguous_format  # a stride of its own may stay where there is one item
    own = {name: x.detach().cpu().clone(memory_format=plain) for name, x in tensors.items()}
    with replacing(path) as partial:
        save_file(own, partial, {"format": "pt", "sha256": digest(own), **(about or {})})


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a safetensors file, and the words about them.

    Raises:
        ValueError: If the file is not whole, or a tensor is not of the digest written with it.
    """
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole file of weights ({error}): fetch it anew.") from error
    if "sha256" in about and about["sha256"] != digest(tensors):  # others' files have none
        raise ValueError(f"{path} is not as it was written: fetch it anew.")
    return tensors, about


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of tensors."""
    whole = sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        whole.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def is_partial(path: Path) -> bool:
    """Tell whether a file was left by a process that ended while it wrote it."""
    return path.name.startswith(_PARTIAL)


def _synchronise(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
