"""What optional dependencies add; each test says what to install where one is missing."""

from pathlib import Path

import pytest

from probcl.cli import main

QUICK = ["--trainer.max_epochs=2", "--trainer.enable_progress_bar=false"]


def test_lars_of_lightly_trains(tmp_path, monkeypatch):
    pytest.importorskip("lightly", reason="needs lightly: pip install 'probcl[baselines]'")
    monkeypatch.chdir(tmp_path)
    main([
        "fit", *QUICK, "--model.optimizer=lightly.utils.lars.LARS", "--model.optimizer.lr=0.3",
        "--model.optimizer.weight_decay=1e-4", "--model.decay_all=false",
    ])  # fmt: skip
    assert any(Path("runs").rglob("report.html"))


def test_tensorboard_logs_beside_the_run(tmp_path, monkeypatch):
    reason = "needs TensorBoard: pip install 'probcl[tensorboard]'"
    pytest.importorskip("tensorboard", reason=reason)
    monkeypatch.chdir(tmp_path)
    main(["fit", *QUICK])
    assert any(Path("runs").rglob("tensorboard/events.out.tfevents.*"))
