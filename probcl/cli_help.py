"""What the command tells of what there is: the tables by name, and the options of a subcommand."""

import textwrap
from argparse import Action, ArgumentParser
from collections.abc import Iterator
from inspect import isabstract, isclass
from typing import Any

__all__ = ["TABLES", "print_table", "program_names", "short_help"]

_WIDTH = 80
_COLUMN = 24  # where the text on an option begins

_TRAINER = (
    "Options of Lightning's Trainer, each after --trainer. (--print_config shows their values, "
    "https://lightning.ai/docs/pytorch/stable/common/trainer.html what they mean):"
)

#: What to say of options whose own text is for programmers, or names every class there is.
_SHORTER = {
    "help": "Show this.",
    "config": "File of options, YAML or JSON; several are laid over each other.",
    "print_config": "Print every value that can be set, and end.",
    "seed_everything": "Seed of every random draw; true for a random one.",
    "model.program": "What is trained, one of {programs}; or a class of your own by its import "
    "path. --model.program.help NAME shows its options.",
    "model.optimizer": "Optimizer, of torch or by its import path, such as "
    "lightly.utils.lars.LARS. --model.optimizer.help NAME shows its options.",
    "data": "Images: a data set, one of {datasets}; or Folder, Arrays, Datasets, Synthetic. "
    "--data.help NAME shows its options, such as --data.batch_size.",
    "weights_only": "Whether a checkpoint may hold tensors and numbers only.",
}
_CHECKPOINT = {
    "fit": "Checkpoint to go on from; last for the newest whole one of this run.",
    "test": "Checkpoint of a run, runs/NAME/checkpoints/last.ckpt.",
}


def program_names() -> list[str]:
    """Return the names of the programs that ``probcl fit`` can train."""
    from probcl import programs

    found = {name: getattr(programs, name) for name in programs.__all__ if name != "PostHoc"}
    return sorted(
        name for name, program in found.items()
        if isclass(program) and issubclass(program, programs.Program) and not isabstract(program)
    )  # fmt: skip


def _programs() -> dict[str, str]:
    from probcl import programs

    docs = {name: getattr(programs, name).__doc__ or "" for name in program_names()}
    return {name: doc.strip().partition("\n")[0] for name, doc in docs.items()}


def _datasets() -> dict[str, str]:
    from probcl.data import DATASETS

    return {name: source.meaning for name, source in DATASETS.items()}


def _scores() -> dict[str, str]:
    from probcl.evaluation import SCORES

    return {name: f"{score.meaning} [{score.question}]" for name, score in SCORES.items()}


#: Tables that the command prints, by its subcommand.
TABLES = {"datasets": _datasets, "programs": _programs, "scores": _scores}


def print_table(name: str) -> None:
    """Print the rows of a table of ``TABLES``, a line each."""
    rows = TABLES[name]()
    width = max(map(len, rows))
    for row, meaning in rows.items():
        print(f"{row:{width}}  {' '.join(meaning.replace('``', '').split())}")


def short_help(parser: ArgumentParser, defaults: Any) -> str:
    """Return the help of ``fit``, ``test`` or ``predict``: our options, and the Trainer's names.

    Args:
        parser: The parser of the subcommand.
        defaults: Value of each option by its name, as ``get`` finds it.
    """
    name = parser.prog.rpartition(" ")[2]
    lines = [
        f"usage: probcl {name} [options]",
        "",
        *textwrap.wrap(parser.description or "", _WIDTH),
    ]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if not a.dest.endswith(".help")]
        trainer = [a.dest.partition(".")[2] for a in actions if a.dest.startswith("trainer.")]
        if trainer:
            names = textwrap.wrap(", ".join(trainer), _WIDTH, initial_indent="  ",
                                  subsequent_indent="  ", break_long_words=False)  # fmt: skip
            lines += ["", *textwrap.wrap(_TRAINER, _WIDTH), *names]
        elif actions:
            lines.append("")
            for action in actions:
                lines += _option(action, name, defaults.get(action.dest))
    return "\n".join(lines) + "\n"


def _option(action: Action, command: str, default: Any) -> Iterator[str]:
    """Give the lines of an option: its names, what it takes, what it is and its default."""
    if action.dest == "model":  # a file of a part of the options, which --config is of all
        return
    text = _SHORTER.get(action.dest, action.help or "")
    if action.dest == "ckpt_path":
        text = _CHECKPOINT["fit" if command == "fit" else "test"]
    if "{" in text:
        text = text.format(programs=", ".join(program_names()), datasets=", ".join(_datasets()))
    value = default if isinstance(default, str | float | int) else _class_of(default)
    if value is not None and action.dest not in ("help", "print_config"):
        text += f" (default: {str(value).lower() if isinstance(value, bool) else value})"
    names = ", ".join(option for option in action.option_strings if option[-1] != "+")
    takes = f" {action.metavar}" if str(action.metavar).startswith("{") else ""
    first = f"{f'  {names}{takes}':{_COLUMN}}"
    if len(first) > _COLUMN or first[-1] != " ":
        yield first.rstrip()
        first = " " * _COLUMN
    yield from textwrap.wrap(text.replace("``", ""), _WIDTH, initial_indent=first,
                             subsequent_indent=" " * _COLUMN)  # fmt: skip


def _class_of(default: Any) -> str | None:
    """Return the name of the class that a default is made of, if it is one."""
    path = default.get("class_path") if hasattr(default, "get") else None
    return path and (default["init_args"].get("name") or path.rpartition(".")[2])
