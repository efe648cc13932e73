"""What all tests share: a seed, Pyro's own checks switched on, and reference values."""

import json
from functools import cache
from pathlib import Path

import pyro
import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def _seeded_and_validated():
    pyro.clear_param_store()
    pyro.set_rng_seed(20)
    with pyro.validation_enabled():
        yield


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@cache
def reference(table: str) -> list[dict]:
    """Return one table of values computed with 45 digits; inputs are hexadecimal floats."""
    path = Path(__file__).parent / "data" / "projected_normal.json"
    return json.loads(path.read_text())[table]


def exact(x: object, dtype: torch.dtype = torch.float64) -> Tensor:
    """Turn nested lists of hexadecimal floats or decimal strings into a tensor."""
    if isinstance(x, list):
        return torch.stack([exact(item, dtype) for item in x])
    number = float.fromhex(x) if isinstance(x, str) and "0x" in x else float(x)
    return torch.tensor(number, dtype=dtype)


@pytest.fixture(scope="session")
def tables():
    """Give access to the reference tables by name."""
    return reference


@pytest.fixture(scope="session")
def parse():
    """Give access to the parser of their numbers."""
    return exact
