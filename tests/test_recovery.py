"""Training with the expected likelihood recovers the true posterior; its record is whole."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECOVERY = runpy.run_path(str(ROOT / "experiments" / "recovery" / "recover.py"))


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


def assert_recovered(figures):
    assert figures["concentration rank correlation"] >= 0.95
    assert figures["cosine rank correlation"] >= 0.98
    assert abs(figures["mean log bias"]) <= 0.1


def test_every_seed_on_record_recovers_the_posterior():
    seeds = json.loads(RECOVERY["RESULTS"].read_text())["methods"]["ExpectedLikelihood"]["seeds"]
    for figures in seeds.values():
        assert_recovered(figures)


@pytest.mark.slow
def test_expected_likelihood_recovers_the_posterior(monkeypatch):
    """By a training from the start, of one seed, and of fewer steps than those on record."""
    methods = RECOVERY["METHODS"]
    monkeypatch.setitem(
        methods, "ExpectedLikelihood", methods["ExpectedLikelihood"]._replace(steps=1000)
    )
    assert_recovered(RECOVERY["recover"]("ExpectedLikelihood", 0))
