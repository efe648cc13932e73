"""What optional dependencies add; each test says what to install where one is missing."""

import pytest

from probcl.cli import main
from probcl.runs import read_history

pytestmark = pytest.mark.slow  # what the README's commands install has none of them

QUICK = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--evaluate=false"]


def test_lars_of_lightly_trains(tmp_path):
    pytest.importorskip("lightly", reason="needs lightly: pip install 'probcl[baselines]'")
    main([
        "fit", *QUICK, "--model.optimizer=lightly.utils.lars.LARS", "--model.optimizer.lr=0.3",
        "--model.optimizer.weight_decay=1e-4", "--model.decay_all=false",
        f"--run_dir={tmp_path / 'run'}",
    ])  # fmt: skip
    assert len(read_history(tmp_path / "run")["loss"]) == 1


def test_an_encoder_of_timm_trains(tmp_path):
    pytest.importorskip("timm", reason="needs timm: pip install 'probcl[encoders]'")
    main([
        "fit", *QUICK, "--model.program.encoder=TimmModel", "--data.channels=3",
        "--model.program.encoder.name=test_efficientnet", f"--run_dir={tmp_path / 'run'}",
    ])  # fmt: skip
    assert len(read_history(tmp_path / "run")["loss"]) == 1


def test_tensorboard_logs_beside_the_run(tmp_path):
    reason = "needs TensorBoard: pip install 'probcl[tensorboard]'"
    pytest.importorskip("tensorboard", reason=reason)
    main(["fit", *QUICK, f"--run_dir={tmp_path / 'run'}"])
    assert any(tmp_path.glob("run/tensorboard/events.out.tfevents.*"))
