"""The run that `probcl fit` makes without arguments, held to its bars."""

import json
import os
from pathlib import Path

import pytest

from probcl.cli import main
from probcl.reproduce import prediction_interval

RECORDS = sorted((Path(__file__).parents[1] / "experiments/machines").glob("*-seed*.json"))
BARS = {
    "probe/top1": 0.97,
    "knn/top1": 0.96,
    "unc/auroc_inverted/entropy": 0.90,
    "unc/auroc_rotated/entropy": 0.80,
    "unc/auroc_shuffled/entropy": 0.90,
}
# Of a run these depend on the seed and the machine: another must lie where those on record say.
SPREAD = [f"unc/auroc_{name}/entropy" for name in ("inverted", "rotated", "shuffled", "noise_only")]


@pytest.mark.slow
def test_the_default_run_meets_its_bars(tmp_path, monkeypatch):
    """Of seed 0; what ten seeds reached is in experiments/machines, and held to bars of its own.

    The folder of such a run that is there already may be given, to be held to the bars.
    """
    run = os.environ.get("PROBCL_DEFAULT_RUN")
    if run is None:
        monkeypatch.chdir(tmp_path)
        main(["fit", "--trainer.enable_progress_bar=false"])
        run = "runs/vsimclr-digits-seed0"
    metrics = json.loads(Path(run, "metrics.json").read_text())
    for name, bar in BARS.items():
        assert metrics[name] >= bar, name
    runs = [json.loads(path.read_text())["metrics"] for path in RECORDS]
    for name in SPREAD:
        assert metrics[name] in prediction_interval([run[name] for run in runs], 0.99), name
    assert metrics["cal/ece"] <= 0.03
