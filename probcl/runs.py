"""The folders of runs: made without ever writing into one in use, found again, and recorded."""

import csv
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from io import StringIO
from itertools import count, takewhile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from probcl.files import has_its_checksums, is_partial, write_whole
from probcl.trust import read_config

__all__ = [
    "CLASSES",
    "OF_THE_END",
    "PROBCL",
    "TENSORBOARD",
    "config_of_run",
    "discard_if_unused",
    "environment",
    "is_whole",
    "lock_run_dir",
    "make_run_dir",
    "newest_checkpoint",
    "newest_run",
    "not_writable",
    "read_history",
    "read_metrics",
    "record_of_run",
    "set_aside",
    "without_places",
    "write_classes",
    "write_metrics",
]

fcntl: Any = None
with suppress(ImportError):  # Windows has none
    fcntl = importlib.import_module("fcntl")

#: What runs the command in a process of its own, before its arguments.
PROBCL = (sys.executable, "-c", "from probcl.cli import main; main()")

#: File with the names of a run's classes, where they have such.
CLASSES = "classes.json"

#: Files that tell of the end of a training, not of its course.
OF_THE_END = ("metrics.json", "environment.json", "report.html", "report.safetensors")

#: Folder of TensorBoard's log within that of a run.
TENSORBOARD = "tensorboard"

#: File by which a run that goes on keeps others out of its folder.
LOCK = ".lock"

# What a run's numbers may depend on.
LIBRARIES = (
    "probcl", "torch", "torchvision", "pyro-ppl", "lightning", "numpy", "scipy", "scikit-learn",
)  # fmt: skip


def make_run_dir(chosen: str | None, name: str) -> tuple[Path, IO[str]]:
    """Make the folder of a run, without ever writing into one that is in use.

    Args:
        chosen: The folder asked for; it must be new or empty.
        name: Name of the folder in ``runs`` if none is asked for; a number is added if taken.

    Returns:
        The folder and its lock, as ``lock_run_dir`` gives it.

    Raises:
        ValueError: If the folder asked for is in use, or it cannot be written.
    """
    try:
        if chosen:
            path = Path(chosen)
            path.mkdir(parents=True, exist_ok=True)
        else:
            path = _make_first_free(Path("runs") / name)
    except OSError as error:
        raise not_writable(Path(chosen or "runs"), error) from error
    if not _is_unused(path):
        raise ValueError(
            f"run_dir: the folder {path} holds another run: choose a new one, nothing saved "
            "is overwritten."
        )
    return path, lock_run_dir(path)


def lock_run_dir(path: Path) -> IO[str]:
    """Take the folder of a run for this process alone.

    Args:
        path: The folder, which gets a file ``.lock``.

    Returns:
        That file. The lock goes when it is closed, or when the process ends, however it does.

    Raises:
        ValueError: If another process has it, or it cannot be written.
    """
    try:
        file = (path / LOCK).open("a+")
    except OSError as error:
        raise not_writable(path, error) from error
    try:
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        with file:
            raise ValueError(
                f"run_dir: another run{file.read()} writes to the folder {path}: wait until it "
                "ends, or choose another folder."
            ) from None
    except OSError:
        pass  # a file system without locks
    file.truncate(0)
    file.write(f", process {os.getpid()} of {platform.node()},")
    file.flush()
    return file


def newest_run(name: str) -> Path | None:
    """Return the newest of the folders that ``make_run_dir`` made in ``runs`` for a name."""
    made = list(takewhile(Path.exists, _numbered(Path("runs") / name)))
    return made[-1] if made else None


def newest_checkpoint(run_dir: Path) -> tuple[Path | None, list[Path]]:
    """Return the checkpoint of a run that is furthest on, and those that are not whole.

    Args:
        run_dir: Folder of the run, which need not be there.
    """
    found = [p for p in sorted((run_dir / "checkpoints").glob("*.ckpt")) if not is_partial(p)]
    steps = {path: _step(path) for path in found if not path.name.startswith("best")}
    whole = [path for path, step in steps.items() if step is not None]
    newest = max(whole, key=lambda path: steps[path] or 0, default=None)
    return newest, [path for path, step in steps.items() if step is None]


def is_whole(path: Path) -> bool:
    """Tell whether a file is a checkpoint that can be loaded."""
    return _step(path) is not None


def set_aside(path: Path, leave: bool = False) -> None:
    """Give a file another name, with a number, so that what follows it does not overwrite it.

    Args:
        path: The file, which need not be there.
        leave: Whether it stays until something takes its place, and the other is a copy.
    """
    if not path.is_file():
        return
    named = (path.with_stem(f"{path.stem}-{number}") for number in count(1))
    other = next(other for other in named if not other.exists())
    if leave:
        write_whole(other, path.read_text(encoding="utf-8"))
    else:
        path.rename(other)


def discard_if_unused(path: Path) -> None:
    """Remove the folder of a run that never began."""
    if _is_unused(path, "config.yaml"):  # which is written before the first step
        shutil.rmtree(path)


def config_of_run(ckpt_path: str) -> Path | None:
    """Return the configuration of the run that a checkpoint lies in, if it has one."""
    config = Path(ckpt_path).absolute().parent.parent / "config.yaml"
    return config if config.is_file() else None


def read_history(run_dir: Path) -> dict[str, np.ndarray]:
    """Read the epochs and each logged term of a training from its ``metrics.csv``.

    A training that was taken up again has left its earlier parts beside it, ``metrics-1.csv`` and
    so on; an epoch that is in several is read from the last.

    Args:
        run_dir: Folder of the run; an empty history is returned where it did not train.

    Returns:
        Values by column, each of shape ``(E,)``, the columns ``epoch`` and ``loss`` first.

    Raises:
        ValueError: If a part is not as it was written, but for a last line that has no end.
    """
    path = run_dir / "metrics.csv"
    epochs: dict[int, dict[str, str]] = {}
    for part in (*sorted(run_dir.glob("metrics-*.csv"), key=_part), path):
        if part.is_file():
            epochs |= _epochs(part)
    rows = [epochs[epoch] for epoch in sorted(epochs)]
    if not rows:
        return {}
    # Columns of other callbacks share the file, and are empty in these rows or not terms.
    names = sorted(n for n in rows[0] if n in ("contrastive", "y") or n.startswith("kl_"))
    try:
        return {n: np.array([float(row[n]) for row in rows]) for n in ("epoch", "loss", *names)}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} and its parts are not of one training: remove them.") from error


def _epochs(path: Path) -> dict[int, dict[str, str]]:
    """Read the rows of a history that have a loss, by epoch."""
    try:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a killed process may not have ended its last line
        rows = [row for row in csv.DictReader(StringIO(whole), restkey="") if row.get("loss")]
        return {int(row["epoch"]): row for row in rows}
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a history as it was written: remove it.") from error


def write_classes(run_dir: Path, classes: Sequence[str]) -> None:
    """Write the names of a run's classes, by number, into its folder, if there are any."""
    if classes:
        write_whole(run_dir / CLASSES, json.dumps(list(classes)))


def write_metrics(run_dir: Path, metrics: Mapping[str, float]) -> None:
    """Write the numbers of a run, and what they were measured with: versions and hardware.

    Args:
        run_dir: Folder of the run, which gets ``metrics.json``, and ``environment.json`` with the
            digest of the former.
        metrics: Numbers by name.
    """
    text = _as_json(dict(metrics))
    around = environment() | {"metrics_sha256": sha256(text.encode()).hexdigest()}
    write_whole(run_dir / "metrics.json", text)
    write_whole(run_dir / "environment.json", _as_json(around))


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def read_metrics(run_dir: Path) -> dict[str, Any]:
    """Read the numbers of a run.

    Raises:
        ValueError: If there are none, or they are not as they were written.
    """
    metrics = read_config(run_dir / "metrics.json", kind=dict)
    if (run_dir / "environment.json").is_file():
        written = read_config(run_dir / "environment.json", kind=dict).get("metrics_sha256")
        if written not in (None, sha256((run_dir / "metrics.json").read_bytes()).hexdigest()):
            raise ValueError(f"{run_dir / 'metrics.json'} is not as it was written: test it anew.")
    return metrics


def record_of_run(run_dir: Path) -> dict[str, Any]:
    """Return what a published figure must carry: the whole of the run that it comes from.

    Args:
        run_dir: Folder of a run that was evaluated.

    Returns:
        ``config``, ``versions``, ``hardware`` and ``metrics``.
    """
    config = without_places(read_config(run_dir / "config.yaml", kind=dict))
    for place in ("run_dir", "ckpt_path"):
        config.pop(place, None)
    around = read_config(run_dir / "environment.json", kind=dict)
    around.pop("metrics_sha256", None)
    return {"config": config, **around, "metrics": read_metrics(run_dir)}


def without_places(node: Any) -> Any:
    """Return a configuration without folders: where files lay is no part of what was measured."""
    if isinstance(node, dict):
        return {name: without_places(value) for name, value in node.items()}
    if isinstance(node, list):
        return [without_places(value) for value in node]
    return Path(node).name if isinstance(node, str) and Path(node).is_absolute() else node


def environment() -> dict[str, Any]:
    """Return the versions, the commit and the hardware that numbers are measured with."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    hardware = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }
    return {"versions": versions, "commit": _commit(), "hardware": hardware}


def _commit() -> str | None:
    """Return the commit of the checkout that this code is of; None of an installed one."""
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", checkout, "rev-parse", "--short=12", "HEAD"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _processor() -> str:
    """Return the model of the processor, which Linux names in a file only."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(models), platform.processor() or platform.machine())


def _part(path: Path) -> int:
    """Return the number of a part of the history."""
    return int(path.stem.rpartition("-")[2])


def _is_unused(path: Path, *also: str) -> bool:
    """Tell whether a folder holds no more than what there is before a run's first number."""
    known = (LOCK, TENSORBOARD, *also)
    return all(entry.name in known or is_partial(entry) for entry in path.iterdir())


def not_writable(path: Path, error: OSError, argument: str = "run_dir") -> ValueError:
    """Return the error that names the folder of an argument, which cannot be written."""
    return ValueError(
        f"{argument}: the folder {path} cannot be written ({error.strerror}): choose another."
    )


def _make_first_free(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for numbered in _numbered(path):
        with suppress(FileExistsError):  # another run may make the same at this moment
            numbered.mkdir()
            return numbered
    raise AssertionError


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in count(2))


def _step(path: Path) -> int | None:
    """Return the step of a checkpoint, or None if it is not as it was written."""
    if not has_its_checksums(path):
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    except Exception:  # whatever the parsers of a torn file meet
        return None
