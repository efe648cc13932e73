"""What the command says, and what it keeps from being said."""

import logging
import sys
import warnings

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console

from probcl.cli_errors import LOST_RANK

__all__ = ["rank", "say", "show_our_lines_only"]


def rank() -> int:
    """Return the number of this process among those that train together."""
    return getattr(rank_zero_only, "rank", None) or 0


def say(text: str) -> None:
    """Print a line, on one of several processes."""
    if not rank():
        Console(highlight=False).print(text, markup=False, soft_wrap=True)


def show_our_lines_only() -> None:
    """Silence the frameworks' hints and notices; their errors still show."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "pyro"):
        logging.getLogger(name).setLevel(logging.ERROR)
    observer = logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script")
    observer.setLevel(logging.INFO)
    observer.addFilter(_say_lost_rank)
    warnings.filterwarnings("ignore", module=r"lightning\b")
    ours = logging.getLogger("probcl")
    ours.setLevel(logging.ERROR if rank() else logging.INFO)
    if not ours.handlers:
        ours.addHandler(logging.StreamHandler())


def _say_lost_rank(_: logging.LogRecord) -> bool:
    """Say in our words that Lightning ends this process because another one has died."""
    sys.stderr.write(f"probcl: error: {LOST_RANK}\n")
    return False
