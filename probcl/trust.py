"""What a configuration that comes with somebody's weights may name: classes that are known."""

import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from inspect import isclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["check_trusted", "read_config"]

TRUSTED = ("probcl", "torch", "torchvision")

#: The most that a configuration may hold, once its references are written out.
LARGEST_FILE, MOST_NODES, DEEPEST = 2**20, 100_000, 50

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def read_config(path: str | Path) -> Any:
    """Read a YAML file of a configuration's size.

    Raises:
        ValueError: If it cannot be read, is no YAML, or is too large, too deep or, once its
            references are written out, too long for a configuration.
    """
    try:
        size = Path(path).stat().st_size
        if size > LARGEST_FILE:
            raise ValueError(f"config: {path} has {size} bytes, a configuration {LARGEST_FILE}.")
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config: {path} cannot be read as YAML ({reason}).") from error
    for count, _ in enumerate(_strings(config, str(path))):
        if count >= MOST_NODES:
            raise ValueError(f"config: {path} has more than {MOST_NODES} values: shorten it.")
    return config


def check_trusted(config: Any, source: str | Path) -> None:
    """Raise ``ValueError`` if a configuration names anything but classes that are known.

    These are the classes of probcl, torch and torchvision; no other module is imported to find out.

    Args:
        config: Values of a configuration: mappings, lists, text and numbers.
        source: Whose it is, for the error.
    """
    for key, value in _strings(config, str(source)):
        if isinstance(value, str) and _DOTTED.fullmatch(value) and not _harmless(key, value):
            raise ValueError(
                f"{source} names {value}, which is no class of {', '.join(TRUSTED)}: if you trust "
                "its author, allow it with --trust, or trust=True in Python."
            )


def _harmless(key: str, name: str) -> bool:
    root = name.partition(".")[0]
    if root not in TRUSTED:  # text with a dot, such as a file's name, unless there is such a module
        return key != "class_path" and find_spec(root) is None
    found = _find(name)
    return found is None or (isclass(found) and found.__module__.partition(".")[0] in TRUSTED)


def _find(name: str) -> Any:
    """Return what a name within the known packages stands for, or None."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute, None)
    except Exception:  # whatever a module that cannot be imported meets
        outer = _find(module) if "." in module else None
        return getattr(outer, attribute, None)


def _strings(node: Any, source: str, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Give every value within a configuration, with the key it has."""
    if depth > DEEPEST:
        raise ValueError(f"config: {source} is more than {DEEPEST} levels deep: flatten it.")
    if isinstance(node, dict | list | tuple):
        yield key, None  # counts as a value too
    if isinstance(node, dict):
        for name, value in node.items():
            yield key, name
            yield from _strings(value, source, str(name), depth + 1)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _strings(value, source, key, depth + 1)
    else:
        yield key, node
