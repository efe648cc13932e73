"""The folders of runs: made without ever writing into one in use, and found again."""

import shutil
from itertools import count
from pathlib import Path

__all__ = ["TENSORBOARD", "config_of_run", "discard_if_unused", "make_run_dir"]

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
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return path if not path.exists() else next(p for p in numbered if not p.exists())
