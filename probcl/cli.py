"""The command ``probcl``: what costs little; the rest is imported when it is asked for."""

import gc
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from probcl import __version__
from probcl.arguments import Parser

__all__ = ["main"]

HELP = """\
usage: probcl COMMAND [options]

Probabilistic contrastive learning on the hypersphere.

  fit        train a program, evaluate it and write a report
  test       evaluate a checkpoint and write a report
  predict    write what a checkpoint says of images to one file
  report     write the report of a run anew, from what its folder holds
  compare    set runs side by side on one page
  posterior  fit a posterior to embeddings in a file, or of an encoder, and write a report
  evaluate   write a report on embeddings in a file, without fitting
  sweep      make runs that differ in a few options, as a grid or a search
  reproduce  make the run of a record again, and compare its numbers
  datasets   list the data sets that --data takes by name
  programs   list the programs that fit can train
  scores     list the scores of uncertainty, each with the question that it answers

probcl fit                              train VSimCLR on handwritten digits
probcl fit --model.program SupCon       train another program, with its own defaults
probcl fit --data CIFAR10               train on another data set
probcl fit --evaluate false             train only; probcl test gives the numbers later
probcl fit --print_config               show every value that can be set
probcl posterior embeddings.npz         which of these embeddings can be trusted?
probcl COMMAND --help                   show every option of a command
probcl --version                        show the version
"""


def main(args: list[str] | None = None) -> None:
    """Run the command ``probcl``.

    Args:
        args: Arguments after the command's name; by default the process's own.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # so that classes of the user's own are found by name
    try:
        _run(sys.argv[1:] if args is None else args, args is None)
    except KeyboardInterrupt:
        sys.exit("probcl: error: interrupted.")


def _run(given: list[str], for_good: bool) -> None:
    """Run the command that is named first; ``for_good`` as for ``_imported``."""
    if not given or given[0] in ("-h", "--help"):
        print(HELP, end="")
    elif given[0] == "--version":
        print(f"probcl {__version__}")
    elif given[0] in ("datasets", "programs", "scores"):
        parser = Parser(prog=f"probcl {given[0]}", description=f"List the {given[0]}.")
        parser.parse_args(given[1:])
        import_module("probcl.cli_help").print_table(given[0])
    elif given[0] in ("compare", "report"):
        {"compare": _compare, "report": _report}[given[0]](given[1:])
    elif given[0] in ("posterior", "evaluate"):
        _imported("probcl.embedding_commands", for_good).run(given[0], given[1:])
    elif given[0] in ("reproduce", "sweep"):
        import_module(f"probcl.{given[0]}").run(given[1:])
    elif given[0] in ("fit", "test", "predict") or given[0].startswith("-"):
        _imported("probcl.lightning_cli", for_good).run(given)
    else:
        sys.exit(f"probcl: error: there is no command {given[0]}: see probcl --help.")


def _imported(name: str, for_good: bool) -> ModuleType:
    """Import a large module, and look for no garbage among what stays: that takes two seconds.

    Args:
        name: Its name.
        for_good: Whether the process has nothing else to do, so that what there is now will stay.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        if for_good:
            gc.freeze()
        if was_on:
            gc.enable()


def _compare(args: list[str]) -> None:
    """Run ``probcl compare``."""
    parser = Parser(prog="probcl compare", description="Set runs side by side on one page.")
    which = "folders of runs, their metrics.json, or records of experiments"
    parser.add_argument("runs", nargs="+", type=Path, help=which)
    page = "page to write (default: compare.html, also where there is one)"
    parser.add_argument("--output", type=Path, default=Path("compare.html"), help=page)
    chosen = parser.parse_args(args)
    from probcl.report import compare_runs

    try:
        compare_runs(chosen.runs, chosen.output)
    except ValueError as error:
        sys.exit(f"probcl: error: {error}")


def _report(args: list[str]) -> None:
    """Run ``probcl report``."""
    about = "Write the report of a run anew, from what its folder holds: nothing is computed again."
    parser = Parser(prog="probcl report", description=about)
    parser.add_argument("run", type=Path, help="folder of a run that was evaluated")
    chosen = parser.parse_args(args)
    from probcl.report import rewrite_report

    try:
        print(f"report: {rewrite_report(chosen.run)}")
    except ValueError as error:
        sys.exit(f"probcl: error: {error}")
