"""What differs between the configurations of runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Settings", "as_text", "settings_of", "varied"]

Settings = Mapping[str, Any]  # values by dotted name

# Where a run lies, how it is watched, and which of several alike it is.
_LEFT_OUT = {
    "run_dir", "ckpt_path", "seed_everything", "seed", "output", "evaluate", "root",
    "enable_progress_bar", "default_root_dir", "logger", "callbacks", "num_workers",
}  # fmt: skip


def settings_of(config: Any) -> dict[str, Any]:
    """Return the settings of a configuration by name, without those of no account for numbers."""
    found: dict[str, Any] = {}
    _collect(config.get("asked", config) if isinstance(config, Mapping) else {}, (), found)
    return found


def _collect(node: Any, path: tuple[str, ...], found: dict[str, Any]) -> None:
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == "class_path":
                found[".".join(path)] = str(value).rpartition(".")[2]
            elif name not in _LEFT_OUT:
                _collect(value, path if name == "init_args" else (*path, str(name)), found)
    else:
        found[".".join(path)] = node


def varied(runs: Sequence[Settings]) -> dict[str, str]:
    """Return the settings that differ among runs which have them: a short label by name.

    A setting that some runs do not have, such as an option of another program, is not varied by
    that alone.
    """
    names = dict.fromkeys(name for run in runs for name in run)
    differ = [n for n in names if len({as_text(run[n]) for run in runs if n in run}) > 1]
    last = Counter(name.rpartition(".")[2] for name in differ)
    short = {name: name.rpartition(".")[2] for name in differ}
    return {name: label if last[label] == 1 else name for name, label in short.items()}


def as_text(value: Any) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(as_text(x) for x in value)
    return "none" if value is None else str(value)
