"""Arguments of the command before they are parsed: names of ours, and what they imply."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

import probcl.data
import probcl.infer
import probcl.nn
import probcl.programs
import probcl.training
from probcl.data import DATASETS
from probcl.runs import config_of_run
from probcl.trust import check_trusted, read_config

__all__ = [
    "config_beside",
    "names_a_run",
    "program_of",
    "with_config",
    "with_our_names",
]

# What a test needs of a run's configuration; the rest, such as where to write, is not taken over.
_NEEDED = {
    "model": ("program", "kl", "channels_last"),
    "data": ("class_path", "init_args"),
    "trainer": ("precision", "deterministic"),
}

# Import paths of our classes by name.
OUR_CLASSES = {
    name: f"{room.__name__}.{name}"
    for room in (probcl.data, probcl.infer, probcl.nn, probcl.programs, probcl.training)
    for name in room.__all__
}

# Arguments by which a run is another one than the default run.
_NAMES_A_RUN = r"(-c|--config|--data|--model|--model\.program)(\.class_path)?(=|$)"

# Options whose value may be the name of a class; others, such as --data.root, take any text.
_TAKES_A_CLASS = r"--data$|--data\.augmentation|--data\.out_of_distribution$|--model\."

# An argument of a class that is itself an argument of a class.
_OF_AN_INNER_CLASS = r"(--model\.program\.\w+|--data\.\w+)(?:\.init_args)?\.(\w+)"


def names_a_run(args: list[str]) -> bool:
    """Tell whether the arguments name a program, data or a configuration: not the default run."""
    return any(re.match(_NAMES_A_RUN, arg) for arg in args)


def _options(args: list[str]) -> Iterator[tuple[str, str]]:
    """Give the options among the arguments, each with its value, after a space or ``=``."""
    for arg, following in pairwise([*args, ""]):
        option, equals, value = arg.partition("=")
        if option.startswith("-"):
            yield option, value if equals else following


def config_beside(args: list[str]) -> Path | None:
    """Return the configuration beside the checkpoint of a test, unless the arguments name one."""
    options = dict(_options(args))
    if args[0] not in ("test", "predict") or {"-c", "--config"} & options.keys():
        return None
    return config_of_run(options.get("--ckpt_path", ""))


def with_config(args: list[str], path: Path, trust: bool) -> list[str]:
    """Begin the arguments with what is needed of a run's configuration.

    Raises:
        ValueError: If it is not one, or names a class that is not known, unless it is trusted.
    """
    whole = read_config(path, trust)
    if not isinstance(whole, dict) or not all(isinstance(whole.get(k), dict) for k in _NEEDED):
        raise ValueError(f"ckpt_path: {path} is not the configuration of a run.")
    config = {
        part: {name: whole[part][name] for name in names if name in whole[part]}
        for part, names in _NEEDED.items()
    }
    if not trust:
        check_trusted(config, path)
    _without_downloads(config["data"])
    config["seed_everything"] = whole.get("seed_everything", 0)
    return [args[0], f"--config={yaml.safe_dump(config)}", *args[1:]]


def _without_downloads(data: dict[str, Any]) -> None:
    """Leave it to the command line to say that data may be downloaded."""
    options = data.get("init_args")
    if not isinstance(options, dict):  # the parser says what is wrong with others
        return
    if "download" in options:
        options["download"] = False
    if isinstance(options.get("out_of_distribution"), dict):
        _without_downloads(options["out_of_distribution"])


def with_our_names(args: list[str]) -> list[str]:
    """Put the import path for the name of a class of ours, which torchvision may have too.

    A data set's name stands for ``Named`` with that name; and ``null`` stays null for an argument
    of a class within a class, where jsonargparse would make a text of it.
    """
    expanded: list[str] = []
    args = [
        "Named" if b == "--data.help" and a in DATASETS else a for b, a in pairwise(["", *args])
    ]
    for before, arg in pairwise(["", *args]):
        option, equals, value = arg.partition("=") if "=" in arg else (before, "", arg)
        name = value
        inner = re.fullmatch(_OF_AN_INNER_CLASS, option)
        if inner and value == "null":
            if not equals:
                expanded.pop()  # the option, which stands by itself
            expanded.append(f'{inner[1]}={{"init_args": {{"{inner[2]}": null}}}}')
            continue
        if re.match(_TAKES_A_CLASS, option):
            name = "probcl.training.Named" if value in DATASETS else OUR_CLASSES.get(value, value)
        expanded.append(f"{option}={name}" if equals else name)
        if name != value and value in DATASETS:
            expanded.append(f"{option}.name={value}")
    return expanded


def program_of(args: list[str]) -> dict[str, Any]:
    """Return the program that the arguments or their configurations name last, with an encoder."""
    path = "probcl.programs.VSimCLR"
    for option, value in _options(args):
        if option in ("--model.program", "--model.program.class_path"):
            with suppress(yaml.YAMLError):
                named = yaml.safe_load(value) if value.startswith("{") else value
                path = _class_path(named) or path
        elif option in ("-c", "--config"):
            # A file, or what one holds; of one that is not there or no YAML, the parser says so.
            with suppress(KeyError, TypeError, yaml.YAMLError):
                config = read_config(value) if os.path.isfile(value) else yaml.safe_load(value)
                path = _class_path(config["model"]["program"]) or path
    module, _, name = OUR_CLASSES.get(path, path).rpartition(".")
    try:
        arguments = signature(getattr(import_module(module), name)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):  # the parser says what is wrong
        return {"class_path": "probcl.programs.VSimCLR"}
    encoder = {"encoder": {"class_path": "probcl.nn.ConvNet"}}
    return {
        "class_path": f"{module}.{name}",
        "init_args": encoder if "encoder" in arguments else {},
    }


def _class_path(program: Any) -> str | None:
    """Return the class that a program names, by itself or in a mapping; None if it names none."""
    path = program.get("class_path") if isinstance(program, dict) else program
    return path if isinstance(path, str) else None
