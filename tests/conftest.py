"""What all tests share: a seed, Pyro's own checks switched on, and reference values."""

import fcntl
import json
import os
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of two test processes on two cores

import numpy as np
import pyro
import pytest
import torch
from hypothesis import settings
from torch import Tensor

from probcl.cli import main
from probcl.data import load_digits

settings.register_profile("ours", deadline=None)  # no test depends on the time it takes
settings.load_profile("ours")


@pytest.fixture(autouse=True)
def _seeded_and_validated():
    pyro.clear_param_store()
    pyro.set_rng_seed(20)
    with pyro.validation_enabled():
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that all tests read: the default one, of two epochs.

    The test processes share it; the first that needs it makes it, and others wait.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "trained" / "vsimclr-digits-seed0"
    with (shared / "trained.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        if not (folder / "report.html").exists():
            main(["fit", "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false",
                  "--data.corrupted=30", f"--run_dir={folder}"])  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options by which the command takes a few of the digits only."""
    path = tmp_path_factory.mktemp("small") / "images.npz"
    train, test = (part.images for part in load_digits())
    labels = [part.labels for part in load_digits()]
    np.savez(path, train_images=train[:200], train_labels=labels[0][:200],
             test_images=test[:100], test_labels=labels[1][:100])  # fmt: skip
    return ["--data=Arrays", f"--data.path={path}", "--data.batch_size=100",
            "--data.corrupted=30"]  # fmt: skip


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
