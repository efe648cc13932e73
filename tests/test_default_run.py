"""The run that `probcl fit` makes without arguments, held to its bars for three seeds."""

import json
from pathlib import Path

import pytest

from probcl.cli import main


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_run_meets_its_bars(seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", f"--seed_everything={seed}", "--trainer.enable_progress_bar=false"])
    metrics = json.loads(Path(f"runs/vsimclr-digits-seed{seed}/metrics.json").read_text())
    assert metrics["probe/top1"] >= 0.97
    assert metrics["knn/top1"] >= 0.96
    assert metrics["cal/ece"] <= 0.03
    assert metrics["unc/auroc_inverted"] >= 0.80
