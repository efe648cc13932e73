"""Training with the expected likelihood recovers the true posterior, for three seeds."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "recovery" / "recover.py"


@pytest.fixture(scope="module")
def recover():
    spec = importlib.util.spec_from_file_location("recover", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.recover


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_expected_likelihood_recovers_the_posterior(recover, seed):
    figures = recover("ExpectedLikelihood", seed)
    assert figures["concentration rank correlation"] >= 0.95
    assert figures["cosine rank correlation"] >= 0.98
    assert abs(figures["mean log bias"]) <= 0.1
