"""The run that `probcl fit` makes without arguments, held to its bars."""

import json
from pathlib import Path

import pytest

from probcl.cli import main

BARS = {
    "probe/top1": 0.97,
    "knn/top1": 0.96,
    "unc/auroc_inverted/entropy": 0.85,
    "unc/auroc_rotated/entropy": 0.85,
    "unc/auroc_shuffled/entropy": 0.85,
}


@pytest.mark.slow
def test_the_default_run_meets_its_bars(tmp_path, monkeypatch):
    """Of seed 0; what all three seeds reached is in experiments/digits, and tested there."""
    monkeypatch.chdir(tmp_path)
    main(["fit", "--trainer.enable_progress_bar=false"])
    metrics = json.loads(Path("runs/vsimclr-digits-seed0/metrics.json").read_text())
    for name, bar in BARS.items():
        assert metrics[name] >= bar, name
    assert metrics["cal/ece"] <= 0.03
