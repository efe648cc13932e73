"""What an import loads: no more than the room needs."""

import subprocess
import sys

import pytest

from probcl.cli import HELP

SLOW = ("arviz", "lightning", "matplotlib", "sklearn", "torchmetrics")


@pytest.mark.parametrize(
    ("room", "unloaded"),
    [
        ("distributions", (*SLOW, "torchvision", "scipy")),
        ("data", SLOW),
        ("evaluation", SLOW),
        ("lightning_cli", ("arviz", "sklearn", "pandas")),
    ],
)
def test_an_import_loads_no_more_than_it_needs(room, unloaded):
    code = f"import sys, probcl.{room}; print([m for m in {unloaded} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_help_lists_the_subcommands_there_are():
    from probcl.lightning_cli import DESCRIPTIONS, ProbclCLI

    listed = [line.split()[0] for line in HELP.splitlines() if line.startswith("  ")]
    of_lightning = set(ProbclCLI.subcommands())
    assert of_lightning == set(DESCRIPTIONS)
    others = {"compare", "report", "posterior", "evaluate", "sweep", "reproduce"}
    others |= {"datasets", "programs", "scores"}
    assert sorted(listed) == sorted(of_lightning | others)
