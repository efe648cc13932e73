"""What a configuration that comes with somebody's weights may name: classes that are known."""

import json
import os
import re
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from inspect import isclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from torch.optim import Optimizer

__all__ = ["check_trusted", "read_config"]

#: The most that a configuration may hold, once its references are written out.
LARGEST_FILE, MOST_VALUES, DEEPEST = 2**18, 10_000, 50

# Whose torch modules and optimizers are known; and where other classes are too.
_PACKAGES = ("probcl", "torch", "torchvision")
_KINDS = (nn.Module, Optimizer)
_ROOMS = tuple(
    f"probcl.{room}." for room in ("data", "distributions", "infer", "nn", "programs", "training")
)

_ENDINGS = ("npz", "npy", "parquet")

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is built
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # in no text, but in files of arrays
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def read_config(path: str | Path, trust: bool = False, kind: type = object) -> Any:
    """Read a file of a configuration's size: JSON where its name ends so, else YAML.

    Args:
        path: The file.
        trust: Whether it may be of any size.
        kind: What it must hold, ``dict`` or ``list``; by default anything.

    Raises:
        ValueError: If it cannot be read, is no such file, holds another kind, or is too large, too
            deep or, once its references are written out, too long for a configuration.
    """
    path = Path(path)
    read = json.loads if path.suffix == ".json" else partial(yaml.load, Loader=_Loader)
    try:
        size = path.stat().st_size if path.is_file() else 0
        if size > LARGEST_FILE and not trust:
            raise ValueError(f"it has {size} bytes, {LARGEST_FILE} is the limit without trust")
        content = read(path.read_text(encoding="utf-8"))
        for count, _ in enumerate(_values(content)):
            if count >= MOST_VALUES and not trust:
                raise ValueError(f"{MOST_VALUES} values are the limit without trust")
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read: it is more than {DEEPEST} deep.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(content, kind):
        held = type(content).__name__
        raise ValueError(f"{path} must hold a {kind.__name__}, got {held}: write it anew.")
    return content


def check_trusted(config: Any, source: str | Path) -> None:
    """Raise ``ValueError`` if a configuration names anything but classes that are known.

    These are the classes of probcl, and of torch and torchvision the modules
    (``torch.nn.Module``) and optimizers. Nothing else is imported to find out.

    Args:
        config: Values of a configuration: mappings, lists, text and numbers.
        source: Whose it is, for the error.
    """
    for key, value in _values(config):
        if not isinstance(value, str):
            continue
        if _is_configuration(value):
            raise ValueError(f"{source} has more configuration in a text, {key}: write it out.")
        if _DOTTED.fullmatch(value.strip()) and not _harmless(key, value.strip()):
            raise ValueError(
                f"{source} names {value}, which is no class of {', '.join(_PACKAGES)}: if you "
                "trust its author, allow it with --trust, or trust=True in Python."
            )


def _is_configuration(text: str) -> bool:
    """Tell whether a parser may take a text for values, or for the name of a file of values."""
    path = os.path.expanduser(text)
    if os.path.isfile(path):
        with open(path, "rb") as file:
            return _CONTROL.search(file.read(LARGEST_FILE)) is None
    if not re.search(r"[:{\[]", text):
        return False
    try:
        return isinstance(yaml.load(text, Loader=_Loader), dict | list)
    except (yaml.YAMLError, RecursionError):
        return False


def _harmless(key: str, name: str) -> bool:
    root = name.partition(".")[0]
    if root not in _PACKAGES:
        # A text with a dot, such as the name of a file, unless there is such a module. Nothing that
        # can be imported from one is called as files of arrays are.
        is_file = name.rpartition(".")[2] in _ENDINGS
        return key != "class_path" and (is_file or find_spec(root) is None)
    found = _find(name)
    if not isclass(found):
        return found is None
    where = f"{found.__module__}."
    known = issubclass(found, _KINDS) and where.partition(".")[0] in _PACKAGES
    return known or where.startswith(_ROOMS)


def _find(name: str) -> Any:
    """Return what a name within the known packages stands for, or None."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute, None)
    except Exception:  # whatever a module that cannot be imported meets
        outer = _find(module) if "." in module else None
        return getattr(outer, attribute, None)


def _values(node: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Give every value within a configuration, with the key it has."""
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(node, dict):
        yield key, None
        for name, value in node.items():
            yield key, name
            yield from _values(value, str(name), depth + 1)
    elif isinstance(node, list | tuple):
        yield key, None
        for value in node:
            yield from _values(value, key, depth + 1)
    else:
        yield key, node
