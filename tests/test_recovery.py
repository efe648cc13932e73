"""Training with the expected likelihood recovers the true posterior; figures shown are measured."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECOVERY = runpy.run_path(str(ROOT / "experiments" / "recovery" / "recover.py"))


def test_the_tables_are_those_of_the_file():
    assert RECOVERY["table"]() in (ROOT / "README.md").read_text()
    notebook = json.loads((ROOT / "notebooks" / "02_programs.ipynb").read_text())
    assert any(RECOVERY["table"]() in "".join(cell["source"]) for cell in notebook["cells"])


def test_the_file_has_the_whole_configuration_of_every_method():
    record = json.loads(RECOVERY["RESULTS"].read_text())
    assert record["setting"] == RECOVERY["SETTING"]
    assert {"torch", "pyro-ppl", "probcl"} <= set(record["versions"])
    assert record["hardware"]["processor"]
    assert record["hardware"]["threads"] == 1
    assert list(record["methods"]) == list(RECOVERY["METHODS"])
    for name, method in RECOVERY["METHODS"].items():
        written = dict(record["methods"][name])
        assert len(written.pop("seeds")) == 3
        assert written == RECOVERY["configuration"](method)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_expected_likelihood_recovers_the_posterior(seed):
    figures = RECOVERY["recover"]("ExpectedLikelihood", seed)
    assert figures["concentration rank correlation"] >= 0.95
    assert figures["cosine rank correlation"] >= 0.98
    assert abs(figures["mean log bias"]) <= 0.1
