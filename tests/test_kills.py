"""Runs that are killed at random moments leave a whole checkpoint, and go on to equal weights."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from probcl.training.checkpoint_io import WholeCheckpointIO

WORKER = Path(__file__).with_name("kill_worker.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(WORKER.parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.mark.battery
def test_killed_fifty_times_a_run_goes_on_to_the_same_weights(tmp_path):
    command = [sys.executable, str(WORKER), str(tmp_path), "50"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    said = json.loads(done.stdout)
    assert said["kills"] >= 50
    assert said["full disks"] > 0


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.battery)])
def test_every_flipped_bit_of_a_checkpoint_that_changes_a_weight_is_found(count, tmp_path):
    weights = {f"layer{n}": torch.randn(8, 9, generator=torch.manual_seed(n)) for n in range(12)}
    path = tmp_path / "last.ckpt"
    checkpoints = WholeCheckpointIO()
    checkpoints.save_checkpoint({"global_step": 1, "state_dict": weights}, path)
    whole, random = path.read_bytes(), np.random.default_rng()
    found, changes = 0, 0
    for _ in range(count):
        torn = bytearray(whole)
        torn[random.integers(len(torn))] ^= 1 << int(random.integers(8))
        changes += not same(torn, weights)
        path.write_bytes(torn)
        try:
            assert same(checkpoints.load_checkpoint(path), weights)
        except ValueError:
            found += 1
    print(f"{count} flipped bits, {found} found; {changes} change a weight or cannot be loaded")
    assert found >= changes > 0


def test_a_record_that_is_marked_as_a_folder_is_found(tmp_path):
    """No checksum covers the mark, and torch reads other bytes for the record."""
    weights = {"layer": torch.ones(8, 9)}
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"global_step": 1, "state_dict": weights}, path)
    torn = bytearray(path.read_bytes())
    torn[torn.rindex(b"archive/data/0") - 46 + 38] ^= 0x10
    assert not same(torn, weights)
    path.write_bytes(torn)
    with pytest.raises(ValueError, match="is not a whole checkpoint"):
        WholeCheckpointIO().load_checkpoint(path)


def same(checkpoint, weights):
    """Tell whether a checkpoint, or its content, can be loaded and has these weights."""
    if isinstance(checkpoint, bytearray):
        try:
            checkpoint = torch.load(io.BytesIO(checkpoint), weights_only=True)
        except Exception:
            return False
    try:
        return all(torch.equal(checkpoint["state_dict"][name], w) for name, w in weights.items())
    except (KeyError, TypeError):
        return False
