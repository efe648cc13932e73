"""The command, end to end: what a run leaves behind, and what bad input is told."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import device_parser
from lightning.pytorch.accelerators import CUDAAccelerator

from probcl.cli import main
from probcl.data import load_digits
from probcl.report import read_history

QUICK = ["--trainer.max_epochs=2", "--trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with the same seed, one of another program, a test and a prediction."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", *QUICK])
        main(["fit", *QUICK])
        twin = ["--model.program=SimCLR", "--data.unfamiliar=Digits", "--run_dir=twin"]
        main(["fit", *QUICK, *twin])
        checkpoint = "--ckpt_path=runs/vsimclr-digits-seed0/checkpoints/last.ckpt"
        main(["test", checkpoint, "--run_dir=tested", "--trainer.enable_progress_bar=false"])
        main(["predict", checkpoint, "--trainer.enable_progress_bar=false"])
    return folder


def without_times(path):
    metrics = json.loads(path.read_text())
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def test_a_run_leaves_what_it_says(runs):
    run = runs / "runs/vsimclr-digits-seed0"
    for name in ("config.yaml", "checkpoints/last.ckpt", "metrics.csv", "metrics.json"):
        assert (run / name).stat().st_size > 0
    metrics = json.loads((run / "metrics.json").read_text())
    expected = ["probe/top1", "knn/top1", "cal/ece", "collapse/effective_rank", "time/fit_s"]
    expected += ["retrieval/map_at_r", "cluster/purity", "few_shot/top1_of_5", "shift/top1"]
    for question in ("unc/auroc_inverted", "unc/spearman_gaussian_blur", "unc/retrieval_error"):
        expected += [question, f"{question}/log_det_k", f"{question}/nearest_cosine"]
    assert metrics.keys() >= set(expected)
    assert all(np.isfinite(list(metrics.values())))
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for row in rows:
        assert float(row["loss"]) == pytest.approx(
            float(row["contrastive"]) + float(row["kl_z"]), rel=1e-5
        )


def test_the_report_stands_alone_and_shows_every_picture(runs):
    page = (runs / "runs/vsimclr-digits-seed0/report.html").read_text()
    assert page.count('src="data:image/svg+xml;base64,') == 8
    assert not re.search(r'(src|href)="(?!data:)', page)
    for word in ("log_det_k", "Reliability", "Singular spectrum", "temperature", "out of distri"):
        assert word in page


def test_the_same_seed_gives_the_same_metrics(runs):
    first, second = (runs / f"runs/vsimclr-digits-seed0{end}/metrics.json" for end in ("", "-2"))
    assert without_times(first) == without_times(second)


def test_the_deterministic_twin_leaves_out_in_words_what_has_no_meaning(runs):
    metrics = json.loads((runs / "twin/metrics.json").read_text())
    assert "probe/top1" in metrics
    assert "unc/auroc_inverted/nearest_cosine" in metrics
    assert "unc/auroc_inverted" not in metrics
    itself = metrics["unc/auroc_digits/nearest_cosine"]  # the test images
    assert itself == pytest.approx(0.5)
    assert not any("log_det_k" in name for name in metrics)
    page = (runs / "twin/report.html").read_text()
    assert "This program is deterministic" in page


def test_a_checkpoint_alone_gives_the_metrics_of_its_run(runs):
    fitted = without_times(runs / "runs/vsimclr-digits-seed0/metrics.json")
    assert without_times(runs / "tested/metrics.json") == fitted
    assert "did not train" in (runs / "tested/report.html").read_text()


def test_predict_writes_one_file_of_arrays(runs):
    with np.load(runs / "runs/vsimclr-digits-seed0-predict/embeddings.npz") as file:
        arrays = dict(file)
    train, test = load_digits()
    assert arrays["embedding"].shape == (1797, 128)
    np.testing.assert_allclose(np.linalg.norm(arrays["embedding"], axis=1), 1, rtol=1e-5)
    loc = arrays["posterior_loc"]
    np.testing.assert_allclose(
        arrays["embedding"], loc / np.linalg.norm(loc, axis=1, keepdims=True), rtol=1e-4, atol=1e-6
    )
    assert arrays["posterior_scale"].shape == (1797, 128)
    np.testing.assert_allclose(
        arrays["uncertainty_log_det_k"], 2 * np.log(arrays["posterior_scale"]).sum(1), rtol=1e-4
    )
    for split, data in (("train", train), ("test", test)):
        rows = arrays["split"] == split
        assert np.array_equal(arrays["index"][rows], np.arange(len(data)))
        assert np.array_equal(arrays["label"][rows], data.labels)


def test_a_class_of_the_users_own_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mypackage.py").write_text(
        "import pyro.distributions as dist\n"
        "import torch\n"
        "class MyPrior(torch.nn.Module):\n"
        "    def forward(self):\n"
        "        return dist.ProjectedNormal(torch.ones(4))\n"
        "class MyHead(torch.nn.Module):\n"
        "    def __init__(self, width: int):\n"
        "        super().__init__()\n"
        "        self.linear = torch.nn.LazyLinear(width)\n"
        "    def forward(self, features):\n"
        "        return dist.ProjectedNormal(self.linear(features))\n"
    )
    main([
        "fit", "--model.program", "VSupCon", "--model.program.temperature", "0.1",
        "--model.program.prior", "mypackage.MyPrior", "--data", "Digits",
        "--model.program.posterior", "mypackage.MyHead", "--model.program.posterior.width", "4",
        *QUICK,
    ])  # fmt: skip
    config = Path("runs/vsupcon-digits-seed0/config.yaml").read_text()
    assert "mypackage.MyPrior" in config
    assert "mypackage.MyHead" in config
    assert "temperature: 0.1" in config


@pytest.mark.parametrize(
    "options",
    [
        ["VarCon", "--model.program.learn_epsilon=true"],
        ["ProbabilisticVarCon", "--model.program.prior=VonMisesFisherMixturePrior"],
        ["MCInfoNCE", "--model.program.num_samples=2"],
        ["MCSupCon", "--model.program.posterior=PowerSphericalHead"],
        ["ExpectedLikelihood", "--model.program.positive_concentration=20"],
        [
            "SupExpectedLikelihood", "--model.program.posterior=ProjectedNormalHead",
            "--model.program.posterior.covariance=isotropic",
        ],
        ["CrossEntropy", "--model.program.num_classes=10"],
        [
            "VSupCon", "--model.program.posterior=ProjectedNormalHead",
            "--model.program.posterior.covariance=low_rank",
        ],
        [
            "VSimCLR", "--data.views=3", "--model.program.num_samples=2",
            "--model.annealing=probcl.infer.LinearAnnealing", "--model.annealing.steps=10",
        ],
    ],
    ids=lambda options: options[0],
)  # fmt: skip
def test_every_method_is_named_in_the_command(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", "--model.program", *options, *QUICK])
    (report,) = Path().rglob("report.html")
    metrics = json.loads(report.with_name("metrics.json").read_text())
    assert all(np.isfinite(list(metrics.values())))
    history = read_history(report.with_name("metrics.csv"))
    terms = [values for name, values in history.items() if name not in ("epoch", "loss")]
    np.testing.assert_allclose(sum(terms), history["loss"], rtol=1e-5)


def test_annealing_follows_the_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([
        "fit", *QUICK, "--trainer.max_epochs=2", "--model.annealing=probcl.infer.LinearAnnealing",
        "--model.annealing.steps=10000",
    ])  # fmt: skip
    main(["fit", *QUICK, "--trainer.max_epochs=2"])
    kl = [
        np.genfromtxt(run / "metrics.csv", delimiter=",", names=True)["kl_z"]
        for run in (Path("runs/vsimclr-digits-seed0"), Path("runs/vsimclr-digits-seed0-2"))
    ]
    assert 0 < np.nanmax(kl[0]) < 1e-2 * np.nanmin(kl[1])


def test_the_console_shows_our_lines_only(tmp_path):
    command = [str(Path(sys.executable).with_name("probcl")), "fit", "--trainer.max_epochs=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for unwanted in ("GPU", "TPU", "Tip", "lightning", "Warning", "max_epochs"):
        assert unwanted not in done.stdout
    assert done.stdout.rstrip().endswith("report: runs/vsimclr-digits-seed0/report.html")


def arrays_file(**changes):
    """Write a small data set with some arrays replaced, and return the options to fit it."""
    images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 4
    arrays = {f"{part}_{name}": value for part in ("train", "test")
              for name, value in (("images", images), ("labels", labels))}  # fmt: skip
    np.savez("images.npz", **(arrays | changes))
    return ["--data=Arrays", "--data.path=images.npz", "--data.batch_size=20"]


BAD_PIXEL = torch.rand(40, 1, 8, 8).index_fill(0, torch.tensor(3), float("nan"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--model.progam=VSimCLR"], "unrecognized arguments: --model.progam"),
        (["fit", "--model.program=VSimCLRR"], "there is no class VSimCLRR: name one of "),
        (
            ["fit", "--model.program=no.such.Thing"],
            "model.program: there is no class no.such.Thing",
        ),
        (["fit", "--model.program.prior=no.Prior"], "there is no class no.Prior"),
        (["fit", "--model.program.temperature=0"], "temperature must be a finite number above 0"),
        (["fit", "--model.program.temperature=abc"], "temperature must be float, got abc"),
        (
            ["fit", "--model.program=VarCon", "--model.program.epsilon=1"],
            "epsilon must lie between",
        ),
        (["fit", "--model.program=CrossEntropy"], "num_classes"),
        (["fit", "--model.program.num_samples=0"], "num_samples must be at least 1, got 0"),
        (["fit", "--trainer.devices=0"], "devices"),
        (["fit", "--trainer.max_epochs=-3"], "You passed in -3"),
        (["fit", "--config=none.yaml"], "File does not exist"),
        (["fit", "--data.batch_size=5000"], "set --data.batch_size to 1437 or less"),
        (["fit", "--run_dir=used"], "used holds another run"),
        (["fit", "--run_dir=used/file/below"], "used/file/below cannot be written"),
        (["test"], "test needs the checkpoint of a run"),
        (["test", "--ckpt_path=none/last.ckpt"], "there is no checkpoint none/last.ckpt"),
        (["predict", "--ckpt_path=none/last.ckpt"], "there is no checkpoint none/last.ckpt"),
        (lambda: ["fit", *arrays_file(train_labels=np.zeros(40, int))], "at least two classes"),
        (lambda: ["fit", *arrays_file(train_labels=np.full(40, 0.5))], "labels must be integers"),
        (lambda: ["fit", *arrays_file(train_images=BAD_PIXEL)], "1 of 40 images have NaN"),
        (["fit", "--data=Arrays", "--data.path=none.npz"], "there is no file none.npz"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_no_run(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("used").mkdir()
    Path("used/file").write_text("something")
    with pytest.raises(SystemExit) as stopped:
        main(arguments() if callable(arguments) else arguments)
    told = stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err
    assert stopped.value.code not in (0, None)
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert not any(Path().rglob("report.html"))
    assert not any(Path().glob("runs/*"))
    assert Path("used/file").read_text() == "something"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model.program=CrossEntropy", "--model.program.num_classes=9"],
            "labels must lie between 0 and num_classes - 1 = 8, got 0 to 9",
        ),
        (["--model.program.posterior=VonMisesFisherHead", "--model.kl=gaussian_bound"], "use kl="),
        (
            ["--model.program.prior=UniformPrior", "--model.program.prior.dim=3"],
            "the prior has dimension 3, the posterior 128",
        ),
    ],
)
def test_what_only_training_can_tell_gets_one_sentence_too(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *QUICK, *options])
    assert message in stopped.value.code
    assert len(stopped.value.code.splitlines()) == 1
    assert not any(Path().rglob("report.html"))


def test_a_bad_checkpoint_gets_one_sentence(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = runs / "runs/vsimclr-digits-seed0"
    whole = (run / "checkpoints/last.ckpt").read_bytes()
    for content in (whole[:1000], b"hello"):
        Path("part.ckpt").write_bytes(content)
        with pytest.raises(SystemExit, match=r"part.ckpt is not a whole checkpoint"):
            main(["test", f"--config={run}/config.yaml", "--run_dir=x", "--ckpt_path=part.ckpt"])
    Path("alone.ckpt").write_bytes(whole)
    with pytest.raises(SystemExit, match=r"no config.yaml of the run that alone.ckpt is of"):
        main(["test", "--ckpt_path=alone.ckpt"])
    with pytest.raises(SystemExit, match="the checkpoint is not of this program"):
        main(["test", f"--ckpt_path={run}/checkpoints/last.ckpt", "--model.program=SimCLR"])
    assert not any(Path().rglob("report.html"))


def test_more_gpus_than_there_are_get_one_sentence(tmp_path, monkeypatch):
    """A machine with one GPU, as Lightning would find it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(device_parser, "_get_all_available_gpus", lambda **_: [0])
    with pytest.raises(SystemExit, match=r"devices: 8 GPUs are asked for, and this machine has 1"):
        main(["fit", *QUICK, "--trainer.accelerator=gpu", "--trainer.devices=8"])
    assert not any(Path().glob("runs/*"))


def test_a_checkpoint_holds_each_weight_once(runs):
    path = runs / "runs/vsimclr-digits-seed0/checkpoints/last.ckpt"
    names = torch.load(path, weights_only=True)["state_dict"]
    assert all(name.startswith("program.") for name in names)


def test_callbacks_and_loggers_of_the_users_own_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([
        "fit", *QUICK, "--trainer.callbacks=LearningRateMonitor", "--trainer.log_every_n_steps=1",
        "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=mine",
    ])  # fmt: skip
    assert any(Path("mine").rglob("metrics.csv"))
    assert Path("runs/vsimclr-digits-seed0/report.html").exists()


def test_a_development_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", *QUICK, "--trainer.fast_dev_run=true"])
    assert not any(Path().glob("runs/*"))


def test_what_is_not_finite_stops_the_run_without_a_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="z must be finite, got 512 of 512 embeddings"):
        main(["fit", *QUICK, "--model.optimizer=SGD", "--model.optimizer.lr=1e30"])
    assert not any(Path().rglob("report.html"))
    assert not any(Path().rglob("metrics.json"))


def test_a_defect_is_not_taken_for_bad_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text(
        "import torch\n"
        "class Broken(torch.nn.Module):\n"
        "    def forward(self):\n"
        "        raise ValueError('a defect of the prior')\n"
    )
    with pytest.raises(ValueError, match="a defect of the prior"):
        main(["fit", *QUICK, "--model.program.prior=broken.Broken"])
