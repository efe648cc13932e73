"""The table of every program on the digits: that of its files, and above the bar."""

import json
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "experiments/digits"
TABLE = runpy.run_path(str(FOLDER / "table.py"))


def test_the_readme_has_the_table_of_the_files():
    assert TABLE["table"]() in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("program", TABLE["PROGRAMS"])
def test_each_seed_of_each_program_classifies_the_digits(program):
    runs = [json.loads(path.read_text()) for path in FOLDER.glob(f"{program.lower()}-seed*.json")]
    assert len(runs) == 3
    assert min(run["probe/top1"] for run in runs) >= 0.95
