"""What all tests share: a seed, and Pyro's own checks switched on."""

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded_and_validated():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled():
        yield


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param
