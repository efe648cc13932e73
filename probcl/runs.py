"""The folders of runs: made without ever writing into one in use, and found again."""

import shutil
from collections.abc import Iterator
from itertools import count, takewhile
from pathlib import Path

import torch

__all__ = [
    "TENSORBOARD",
    "config_of_run",
    "discard_if_unused",
    "is_whole",
    "make_run_dir",
    "newest_checkpoint",
    "newest_run",
    "set_aside",
]

#: Folder of TensorBoard's log within that of a run.
TENSORBOARD = "tensorboard"


def make_run_dir(chosen: str | None, name: str) -> Path:
    """Make the folder of a run, without ever writing into one that is in use.

    Args:
        chosen: The folder asked for; it must be new or empty.
        name: Name of the folder in ``runs`` if none is asked for; a number is added if taken.

    Raises:
        ValueError: If the folder asked for is in use, or it cannot be written.
    """
    path = Path(chosen) if chosen else _first_free(Path("runs") / name)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ValueError(
                f"run_dir: the folder {path} holds another run: choose a new one, nothing saved "
                "is overwritten."
            )
        (path / ".writable").touch()
        (path / ".writable").unlink()
    except OSError as error:
        raise ValueError(
            f"run_dir: the folder {path} cannot be written ({error.strerror}): choose another "
            "with --run_dir."
        ) from error
    return path


def newest_run(name: str) -> Path | None:
    """Return the newest of the folders that ``make_run_dir`` made in ``runs`` for a name."""
    made = list(takewhile(Path.exists, _numbered(Path("runs") / name)))
    return made[-1] if made else None


def newest_checkpoint(run_dir: Path) -> tuple[Path | None, list[Path]]:
    """Return the checkpoint of a run that is furthest on, and those that are not whole.

    Args:
        run_dir: Folder of the run, which need not be there.
    """
    found = sorted((run_dir / "checkpoints").glob("*.ckpt"))
    steps = {path: _step(path) for path in found if not path.name.startswith("best")}
    whole = [path for path, step in steps.items() if step is not None]
    newest = max(whole, key=lambda path: steps[path] or 0, default=None)
    return newest, [path for path, step in steps.items() if step is None]


def is_whole(path: Path) -> bool:
    """Tell whether a file is a checkpoint that can be loaded."""
    return _step(path) is not None


def set_aside(path: Path) -> None:
    """Give a file another name, with a number, so that what follows it does not overwrite it."""
    if path.is_file():
        named = (path.with_stem(f"{path.stem}-{number}") for number in count(1))
        path.rename(next(other for other in named if not other.exists()))


def discard_if_unused(path: Path) -> None:
    """Remove the folder of a run that never began.

    Args:
        path: The folder; it stays if it holds anything but TensorBoard's log, which begins before
            the first number.
    """
    if {entry.name for entry in path.iterdir()} <= {TENSORBOARD}:
        shutil.rmtree(path)


def config_of_run(ckpt_path: str) -> Path | None:
    """Return the configuration of the run that a checkpoint lies in, if it has one."""
    config = Path(ckpt_path).absolute().parent.parent / "config.yaml"
    return config if config.is_file() else None


def _first_free(path: Path) -> Path:
    return next(numbered for numbered in _numbered(path) if not numbered.exists())


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in count(2))


def _step(path: Path) -> int | None:
    """Return the step of a checkpoint, or None if it cannot be loaded."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    except Exception:  # whatever the parsers of a torn file meet
        return None
