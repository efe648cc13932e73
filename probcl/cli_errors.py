"""Answers to bad input: one clear sentence in place of a usage or a traceback."""

import errno
import re
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser
from safetensors import SafetensorError

from probcl.cli_help import program_names, short_help
from probcl.data import DATASETS

__all__ = ["LOST_RANK", "Parser", "answer_to_bad_input"]

#: What to say where one of several processes that train together has died.
LOST_RANK = (
    "another process of this training has died, of which its own message or the system's log may "
    "say why: the last whole checkpoint stays; go on with --ckpt_path last."
)

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# How PyTorch says that, by each of its backends, and that the memory of a device is full.
_LOST_RANK = re.compile(r"Dist\w*Error|gloo/transport")
_NO_MEMORY = re.compile(r"OutOfMemoryError|can't allocate memory")

# How PyTorch begins the message of an error that a loader's worker has met.
_FROM_WORKER = "Caught ValueError in DataLoader worker"


class Parser(LightningArgumentParser):
    """Parser that answers bad input with one sentence, and a call for help briefly."""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Return the help, without lists of classes of other libraries where any would do."""
        if "--trainer" in self._option_string_actions:  # fit, test and predict
            return short_help(self, self.get_defaults())
        return re.sub(r",\s+known\s+subclasses:\s+([^)]*)", _if_ours, super().format_help())

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the reason and exit with status 2."""
        sys.stderr.write(f"probcl: error: {_sentence(message)}\n")
        sys.exit(2)


def _if_ours(classes: re.Match) -> str:
    """Return a list of classes unless it names one that is not of this package."""
    names = re.sub(r"\s", "", classes[1]).split(",")
    return classes[0] if all(name.startswith("probcl.") for name in names) else ""


def _sentence(message: str) -> str:
    """Turn a message of the parser into one sentence."""
    message = " ".join(message.split())
    key = re.search(r'Parser key "([\w.]+)"', message)
    name = re.search(r"given class_path '([^']+)'|import path string: (\S+)", message)
    wrong = re.search(
        r"Expected an? (?:<class '(\w+)'>|typing\.(.+?\]))\. Got value: (.*)", message
    )
    if key and name:
        known = ""
        if key[1].endswith("program"):
            known = f"one of {', '.join(program_names())}, or "
        elif key[1].endswith(("data", "out_of_distribution")):
            known = f"one of {', '.join(sorted(DATASETS))}, or "
        missing = name[1] or name[2]
        if missing.startswith("lightly."):
            return f"{key[1]}: {missing} needs lightly: pip install 'probcl[baselines]'."
        return (
            f"{key[1]}: there is no class {missing}: name {known}a class by its import path, as "
            "package.module.Class."
        )
    union = re.search(r"Union subtypes Subtypes: \[(.*?)\] Errors:.* Given value: (.*)", message)
    if key and union:
        return f"{key[1]} must be {_in_words(union[1])}, got {union[2]}."
    if key and wrong:
        return f"{key[1]} must be {_in_words(wrong[1] or wrong[2])}, got {wrong[3]}."
    if message.startswith("unrecognized arguments"):
        return f"{message}: see probcl fit --help for those there are."
    return message


def _in_words(kinds: str) -> str:
    """Return types as a parser names them, without what is of Python's own."""
    kinds = re.sub(r"(?:typing\.)?Literal\[(.*?)\]", r"\1", kinds)
    kinds = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", kinds)
    kinds = re.sub(r", (?=NoneType)|NoneType", "", kinds)
    return f"one of {kinds}" if "," in kinds else kinds


def answer_to_bad_input(error: BaseException | None) -> str | None:
    """Return what to say where an error is an answer to bad input rather than a defect."""
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = frames and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
        if isinstance(error, KeyboardInterrupt):
            return "interrupted: the run has no report; its last checkpoint stays."
        full = getattr(error, "errno", None) in _DISK_FULL or "No space left" in str(error)
        if isinstance(error, OSError | SafetensorError) and full:
            return (
                "the disk is full: the last whole checkpoint stays; make room, and go on with "
                "--ckpt_path last."
            )
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid"):
            return (
                "a process that reads images was killed, which the system does where memory runs "
                "out: set --data.num_workers to fewer, or to 0; then go on with --ckpt_path last."
            )
        if isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned"):
            return str(error).splitlines()[0]
        if isinstance(error, RuntimeError) and _LOST_RANK.search(f"{type(error)} {error}"):
            return LOST_RANK
        if isinstance(error, RuntimeError) and _NO_MEMORY.search(f"{type(error)} {error}"):
            return (
                "the memory does not suffice: set --data.batch_size to fewer images, or take a "
                "smaller encoder; then go on with --ckpt_path last."
            )
        if isinstance(error, RuntimeError) and "Error(s) in loading state_dict" in str(error):
            first = str(error).splitlines()[1].strip()
            return f"the checkpoint is not of this program and encoder: {first}"
        if isinstance(error, MisconfigurationException) and "backend found" in str(error):
            return (
                "accelerator: PyTorch finds no GPU on this machine: set --trainer.accelerator cpu, "
                "or install its drivers."
            )
        if isinstance(error, MisconfigurationException) and "machine only has" in str(error):
            asked, there = (len(re.findall(r"\d+", line)) for line in str(error).split("\n"))
            return (
                f"trainer.devices: {asked} GPUs are asked for, and this machine has {there}: set "
                f"--trainer.devices {there} and --data.batch_size to the share of each."
            )
        if isinstance(error, ValueError) and str(error).startswith(_FROM_WORKER):
            *traceback_lines, last = str(error).strip().splitlines()
            file = [line for line in traceback_lines if line.lstrip().startswith("File ")][-1]
            if str(Path(__file__).parent) in file:
                return last.removeprefix("ValueError: ")
        if isinstance(error, MisconfigurationException) or (ours and isinstance(error, ValueError)):
            return str(error).splitlines()[0]  # Pyro adds the shapes of the trace below
        error = error.__cause__ or error.__context__
    return None
