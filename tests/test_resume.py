"""A run that ends early goes on as if it had not, bit for bit."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import cloud_io as io

from probcl.cli import main
from probcl.runs import OF_THE_END, read_history
from probcl.training.checkpoint_io import WholeCheckpointIO
from probcl.training.history import History

STEPS = 11  # batches of 128 in an epoch of the digits
COMMON = [
    "fit", "--trainer.max_epochs=4", "--trainer.enable_progress_bar=false",
    "--trainer.deterministic=true", "--trainer.check_val_every_n_epoch=2",
    "--data.batch_size=128", "--data.monitored=100", "--evaluate=false",
]  # fmt: skip
SMALL = ["--model.program.encoder=ConvNet", "--model.program.encoder.widths=[4, 8]"]
PROGRAMS = {
    "VSimCLR": [
        "--model.program=VSimCLR", "--model.annealing=probcl.infer.LinearAnnealing",
        "--model.annealing.steps=30",
    ],
    "VarCon": ["--model.program=VarCon", "--model.program.learn_epsilon=true"],
    "Match": ["--model.program=Match", "--model.program.memory=600"],
}  # fmt: skip
# A callback that sends the process a signal after a batch.
END = """
import os
from lightning.pytorch import Callback

class End(Callback):
    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_train_batch_end(self, trainer, *_):
        if trainer.fit_loop.total_batch_idx + 1 == self.step:
            os.kill(os.getpid(), self.number)
"""


def command(program, *options):
    return [*COMMON, *PROGRAMS[program], *SMALL, *options]


def end(step, number):
    Path("ending.py").write_text(END)
    return [
        "--trainer.callbacks=ending.End", f"--trainer.callbacks.step={step}",
        f"--trainer.callbacks.number={int(number)}",
    ]  # fmt: skip


def checkpoint(run):
    return torch.load(Path(run, "checkpoints/last.ckpt"), weights_only=True)


def assert_equal(one, other):
    """Assert that two nested states are equal bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    else:
        assert one == other


def assert_same_training(run, other):
    one, two = checkpoint(run), checkpoint(other)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_equal(one[part], two[part])


@pytest.fixture(
    scope="module", params=["VSimCLR", "VarCon", pytest.param("Match", marks=pytest.mark.slow)]
)
def whole(request, tmp_path_factory):
    """A program, and the folder of its run that was not interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    main(command(request.param, f"--run_dir={run}"))
    return request.param, run


@pytest.mark.parametrize("whole", ["VSimCLR"], indirect=True)
def test_killed_at_any_step_it_goes_on_to_the_same_weights(whole, tmp_path, monkeypatch):
    program, run = whole
    monkeypatch.chdir(tmp_path)
    step = int(np.random.default_rng().integers(STEPS + 1, 4 * STEPS))
    script = str(Path(sys.executable).with_name("probcl"))
    killed = [script, *command(program, "--ckpt_path=last", *end(step, signal.SIGKILL))]
    done = subprocess.run(killed, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "the run begins anew" in done.stdout
    (folder,) = Path("runs").iterdir()
    before = checkpoint(folder)["global_step"]
    assert before == step // STEPS * STEPS or before == (step - 1) // STEPS * STEPS
    main(command(program, "--ckpt_path=last", "--trainer.callbacks=null"))
    assert [path.name for path in Path("runs").iterdir()] == [folder.name]
    assert_same_training(folder, run)


@pytest.mark.parametrize(
    "option", ["accumulate_grad_batches=3", "precision=64-true", "precision=bf16-mixed"]
)
def test_no_option_of_the_trainer_costs_a_bit(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = (f"--trainer.{option}", "--trainer.max_epochs=2")
    main(command("VSimCLR", "--run_dir=run", *options))
    with pytest.raises(SystemExit):
        main(command("VSimCLR", "--run_dir=mine", *options, *end(STEPS + 5, signal.SIGTERM)))
    main(["fit", "--run_dir=mine", "--ckpt_path=last", "--trainer.callbacks=null"])
    assert_same_training("mine", "run")


def test_a_checkpoint_that_is_refused_leaves_its_run_as_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(command("VSimCLR", "--run_dir=run", "--trainer.max_epochs=1"))
    Path("run/metrics.json").write_text("{}")
    before = {p.name: p.read_bytes() for p in Path("run").iterdir() if p.is_file()}
    last = ["fit", "--run_dir=run", "--ckpt_path=last", "--trainer.enable_progress_bar=false"]
    with pytest.raises(SystemExit, match="the checkpoint is not of this program"):
        main([*last, "--model.program=SupCon", "--model.annealing=null"])
    assert {p.name: p.read_bytes() for p in Path("run").iterdir() if p.is_file()} == before
    capsys.readouterr()
    main([*last, "--trainer.max_epochs=2"])
    assert "going on from run/checkpoints/last.ckpt" in capsys.readouterr().out
    assert checkpoint("run")["epoch"] == 1
    assert Path("run/metrics-1.csv").exists() and Path("run/metrics-1.json").exists()


def test_told_to_stop_it_saves_and_goes_on_in_the_middle_of_an_epoch(
    whole, tmp_path, monkeypatch, capsys
):
    program, run = whole
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(command(program, "--run_dir=mine", *end(2 * STEPS + 4, signal.SIGTERM)))
    assert stopped.value.code == 143
    assert "told to stop" in capsys.readouterr().out
    assert not Path("mine/pretrained").exists()
    recent = torch.load("mine/checkpoints/recent.ckpt", weights_only=True)
    assert recent["global_step"] == 2 * STEPS + 4
    main(["fit", "--run_dir=mine", "--ckpt_path=last", "--trainer.callbacks=null"])
    assert "going on from mine/checkpoints/recent.ckpt" in capsys.readouterr().out
    assert_same_training("mine", run)
    assert Path("mine/pretrained").exists()
    assert Path("mine/metrics-1.csv").exists()  # nothing of the first part is lost
    assert Path("mine/config-1.yaml").exists()
    history = read_history(Path("mine"))
    assert history["epoch"].tolist() == [0, 1, 2, 3]
    uninterrupted = read_history(run)
    for name, values in uninterrupted.items():
        np.testing.assert_array_equal(history[name][[0, 1, 3]], values[[0, 1, 3]])


SLOW = """
import os, signal, torch
from torch.utils.data import Dataset

class Slow(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, row):
        if row == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return torch.zeros(1, 8, 8, dtype=torch.uint8), row % 2
"""


def test_told_to_stop_before_the_first_step_it_ends_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("slow.py").write_text(SLOW)
    data = ["--data=Datasets", "--data.train=slow.Slow", "--data.test=slow.Slow"]
    with pytest.raises(SystemExit) as stopped:
        main([
            "fit", "--model.program=SimCLR", *data, "--data.in_memory=true", "--data.batch_size=20",
            "--data.num_workers=0", "--run_dir=mine", "--trainer.enable_progress_bar=false",
        ])  # fmt: skip
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "told to stop before the first step" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_torn_checkpoint_gives_way_to_the_newest_whole_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = command("VSimCLR", "--run_dir=mine")
    with pytest.raises(SystemExit):
        main([*arguments, *end(STEPS + 2, signal.SIGTERM)])
    last = Path("mine/checkpoints/last.ckpt")
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    main([*arguments, "--ckpt_path=last", "--trainer.max_epochs=2", "--trainer.callbacks=null"])
    told = " ".join(capsys.readouterr().out.split())
    assert "mine/checkpoints/last.ckpt is not a whole checkpoint: it is left out" in told
    assert "going on from mine/checkpoints/recent.ckpt" in told
    assert checkpoint("mine")["global_step"] == 2 * STEPS


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save, calls = io.torch.save, []

    def fills_up(obj, target, *rest, **options):
        calls.append(obj)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return save(obj, target, *rest, **options)

    monkeypatch.setattr(io.torch, "save", fills_up)
    with pytest.raises(SystemExit, match="the disk is full: the last whole checkpoint stays"):
        main(command("VSimCLR", "--run_dir=mine"))
    assert len(calls) == 2
    assert checkpoint("mine")["global_step"] == STEPS


def test_the_best_epochs_are_kept_where_images_are_held_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(command("VSimCLR", "--data.validation=0.1", "--run_dir=mine"))
    best = sorted(path.name for path in Path("mine/checkpoints").glob("best*"))
    assert best == ["best-epoch=1.ckpt", "best-epoch=3.ckpt"]


def test_a_finished_run_is_evaluated_later(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--trainer.max_epochs=1", "--trainer.limit_test_batches=30"]
    main(command("VSimCLR", *few))
    run = Path("runs/vsimclr-digits-seed0")
    assert not (run / "report.html").exists()
    trained = checkpoint(run)
    main(command("VSimCLR", *few, "--ckpt_path=last", "--evaluate=true"))
    assert (run / "report.html").exists()
    assert_equal(trained["state_dict"], checkpoint(run)["state_dict"])


def test_numbers_are_those_of_the_weights_beside_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = ["--trainer.limit_test_batches=30", "--run_dir=mine"]
    more = [*few, "--ckpt_path=last"]
    main(command("VSimCLR", *few, "--trainer.max_epochs=1", "--evaluate=true"))
    first = json.loads(Path("mine/metrics.json").read_text())
    main(command("VSimCLR", *more, "--trainer.max_epochs=3", "--evaluate=true"))
    second = json.loads(Path("mine/metrics.json").read_text())
    assert second["probe/top1"] != first["probe/top1"]
    assert json.loads(Path("mine/metrics-1.json").read_text()) == first  # nothing is lost
    assert f"{second['probe/top1']:.4f}" in Path("mine/pretrained/README.md").read_text()
    main(command("VSimCLR", *more, "--trainer.max_epochs=4"))
    assert not any(Path("mine", name).exists() for name in OF_THE_END)
    with pytest.raises(SystemExit, match="mine holds no metrics"):
        main(["compare", "mine"])


@pytest.mark.parametrize("reference", [[], ["--model.reference_batch_size=128"]])
def test_another_batch_size_goes_on_along_the_schedule_of_epochs(tmp_path, monkeypatch, reference):
    """As a run of the larger batch from the start does: steps in each epoch, learning rate."""
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.enable_progress_bar=false", "--evaluate=false", *SMALL, *reference]
    large = ["--data.batch_size=256", "--trainer.max_epochs=6"]
    main(["fit", "--model.program=VSimCLR", "--run_dir=whole", *options, *large])
    main([
        "fit", "--model.program=VSimCLR", "--run_dir=mine", *options, "--trainer.max_epochs=2",
        "--data.batch_size=128",
    ])  # fmt: skip
    rates = []
    monkeypatch.setattr(
        "probcl.training.ContrastiveModule.on_train_epoch_start",
        lambda self: rates.append(self.optimizers().param_groups[0]["lr"]),
    )
    main(["fit", "--run_dir=mine", "--ckpt_path=last", *large])
    scale = 2 if reference else 1
    cosine = [0.5 * (1 + np.cos(np.pi * epoch / 6)) * 3e-3 * scale for epoch in range(2, 6)]
    np.testing.assert_allclose(rates, cosine, rtol=1e-12)
    assert (
        checkpoint("mine")["global_step"] == 2 * STEPS + 4 * checkpoint("whole")["global_step"] // 6
    )
    assert len(read_history(Path("mine"))["epoch"]) == 6


def test_another_batch_size_within_an_epoch_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(command("VSimCLR", "--run_dir=mine", *end(STEPS + 3, signal.SIGTERM)))
    Path("mine/checkpoints/last.ckpt").unlink()
    with pytest.raises(SystemExit, match="within an epoch of 11 batches, which now has 5: go on"):
        main([*command("VSimCLR", "--run_dir=mine", "--ckpt_path=last"), "--data.batch_size=256"])


def test_the_row_of_an_epoch_is_on_disk_before_its_checkpoint(tmp_path, monkeypatch):
    """So that a run that is killed in between, and goes on with the next epoch, has it."""
    monkeypatch.chdir(tmp_path)
    save, before = WholeCheckpointIO.save_checkpoint, []

    def note(self, checkpoint, path, **options):
        if Path(path).name == "last.ckpt":
            before.append((checkpoint["epoch"], read_history(tmp_path / "run")))
        save(self, checkpoint, path, **options)

    monkeypatch.setattr(WholeCheckpointIO, "save_checkpoint", note)
    main(command("VSimCLR", "--trainer.max_epochs=2", "--run_dir=run"))
    after = read_history(tmp_path / "run")
    assert [epoch for epoch, _ in before] == [0, 1]
    for epoch, history in before:
        assert history.keys() == after.keys()
        for name, column in history.items():
            np.testing.assert_array_equal(column, after[name][: epoch + 1])


@pytest.mark.parametrize("moment", ["before", "amid", "after"])
def test_a_history_is_whole_whenever_its_run_ends(tmp_path, moment):
    history = History(tmp_path)
    history.log_metrics({"epoch": 0, "loss": 2.0}, 9)
    history.finalize()
    if moment != "before":
        history.write_ahead({"epoch": 1, "loss": 1.5, "step": 19, "late": 3.0})
    if moment == "after":
        history.log_metrics({"epoch": 1, "loss": 1.5, "late": 3.0}, 19)
    history.finalize("failed")
    known = [2.0] if moment == "before" else [2.0, 1.5]
    np.testing.assert_array_equal(read_history(tmp_path)["loss"], known)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(lines) == 1 + len(known)
