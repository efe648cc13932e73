"""The command, end to end: what a run leaves behind, and what bad input is told."""

import csv
import gc
import json
import re
import subprocess
import sys
from importlib.metadata import version
from inspect import Parameter, isabstract, isclass, signature
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.fabric.utilities import device_parser
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator

from probcl import programs
from probcl.cli import _imported, main
from probcl.data import DATASETS, load_digits
from probcl.evaluation import SCORES
from probcl.runs import read_history, record_of_run

QUICK = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--evaluate=false"]
PROGRAMS = [
    name for name in programs.__all__
    if isclass(found := getattr(programs, name)) and issubclass(found, programs.Program)
    and not isabstract(found) and name != "PostHoc"  # is fitted after training
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def twin(trained, tmp_path_factory):
    """The run of ``trained`` again, not evaluated; then its test, with other batches."""
    folder = tmp_path_factory.mktemp("twin")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", *QUICK, "--trainer.max_epochs=2", "--data.corrupted=30", "--run_dir=twin"])
        checkpoint = "--ckpt_path=twin/checkpoints/last.ckpt"
        main(["test", checkpoint, "--data.batch_size=100", "--trainer.enable_progress_bar=false"])
        main(["predict", checkpoint, "--trainer.enable_progress_bar=false"])
    return folder


def printed(capsys, *options):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *options, "--print_config"])
    assert not stopped.value.code
    return yaml.safe_load(capsys.readouterr().out)


def numbers(run):
    metrics = json.loads((run / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def weights(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    "null",
    [
        [".initial_resultant_length=null"],
        [".initial_resultant_length", "null"],
        [".init_args.initial_resultant_length=null"],
    ],
)
def test_null_is_null_of_a_class_within_a_class_too(capsys, null):
    head = "--model.program.posterior"
    null = [head + null[0], *null[1:]]
    options = [f"{head}=ProjectedNormalHead", f"{head}.dim=7", *null, f"{head}.hidden=5"]
    config = printed(capsys, "--model.program=VSimCLR", *options)
    found = config["model"]["program"]["init_args"]["posterior"]["init_args"]
    assert (found["initial_resultant_length"], found["dim"], found["hidden"]) == (None, 7, 5)


def test_a_program_with_its_arguments_in_one_mapping(capsys):
    program = {"class_path": "SimCLR", "init_args": {"temperature": 0.3}}
    found = printed(capsys, f"--model.program={json.dumps(program)}")["model"]["program"]
    assert found["class_path"] == "probcl.programs.SimCLR"
    assert found["init_args"]["temperature"] == 0.3
    assert found["init_args"]["encoder"]["class_path"] == "probcl.nn.ConvNet"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_by_name_has_its_published_defaults(name, capsys):
    init = printed(capsys, f"--model.program={name}")["model"]["program"]["init_args"]
    assert init.pop("encoder")["class_path"] == "probcl.nn.ConvNet"
    parameters = signature(getattr(programs, name)).parameters
    defaults = {n: p.default for n, p in parameters.items() if n != "encoder"}
    assert init == {n: None if d is Parameter.empty else d for n, d in defaults.items()}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (0.2, 2)),
        (["--model.program.temperature=0.1", "--data.batch_size=64"], (0.1, 2)),
        (["--model.program=VSimCLR"], (0.07, 1)),
        (["--data=CIFAR10"], (0.07, 1)),
        (["--config=mine.yaml"], (0.07, 1)),
        (["--config=theirs.yaml"], (0.05, 16)),
        (["--config=mine.yaml", "--model.program=MCInfoNCE"], (0.05, 16)),
        (["--config=theirs.yaml", "--model.program=VSimCLR"], (0.07, 1)),
    ],
)
def test_the_recipe_of_the_default_run_holds_where_nothing_is_named(
    options, expected, here, capsys
):
    Path("mine.yaml").write_text("trainer: {max_epochs: 3}")
    Path("theirs.yaml").write_text("model: {program: {class_path: probcl.programs.MCInfoNCE}}")
    init = printed(capsys, *options)["model"]["program"]["init_args"]
    assert (init["temperature"], init["num_samples"]) == expected


def test_a_data_set_by_name(capsys):
    for options in (["--data=CIFAR10"], ["--data", "CIFAR10"]):
        data = printed(capsys, *options, "--data.out_of_distribution=STL10")["data"]
        assert data["class_path"] == "probcl.training.Named"
        assert data["init_args"]["name"] == "CIFAR10"
        assert data["init_args"]["out_of_distribution"]["init_args"]["name"] == "STL10"


def test_a_run_leaves_what_it_says(trained):
    for name in ("config.yaml", "checkpoints/last.ckpt", "metrics.csv", "environment.json"):
        assert (trained / name).stat().st_size > 0
    metrics = json.loads((trained / "metrics.json").read_text())
    expected = ["probe/top1", "knn/top1", "cal/ece", "collapse/effective_rank", "time/fit_s"]
    expected += ["retrieval/map_at_r", "cluster/purity", "few_shot/top1_of_5", "shift/top1"]
    for question in ("auroc_inverted", "spearman_gaussian_blur", "retrieval_error"):
        expected += [f"unc/{question}/{s}" for s in ("entropy", "log_det_k", "nearest_cosine")]
    assert metrics.keys() >= set(expected)
    assert all(name.count("/") == 2 for name in metrics if name.startswith("unc/"))
    assert all(np.isfinite(list(metrics.values())))
    record = record_of_run(trained)
    assert list(record) == ["config", "versions", "commit", "hardware", "metrics"]
    assert record["metrics"] == metrics
    assert record["config"]["model"]["program"]["init_args"]["num_samples"] == 2
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["hardware"]["threads"] == torch.get_num_threads()
    with (trained / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for row in rows:
        assert float(row["loss"]) == pytest.approx(
            float(row["contrastive"]) + float(row["kl_z"]), rel=1e-5
        )


def test_the_report_stands_alone_and_shows_every_picture(trained):
    page = (trained / "report.html").read_text()
    errors = 360 * (1 - json.loads((trained / "metrics.json").read_text())["probe/top1"])
    pictures = 5 if errors < 9.5 else 7  # no curves of few errors
    assert page.count('src="data:image/svg+xml;base64,') == pictures
    assert page.count('<g class="point') == 360  # the map has every test item
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    for word in ("log_det_k", "Reliability", "Singular spectrum", "temperature", "pyro-ppl"):
        assert word in page


def test_a_run_evaluated_later_with_other_batches_has_the_same_numbers(trained, twin):
    one, two = weights(trained), weights(twin / "twin")
    assert one.keys() == two.keys()
    assert all(name.startswith("program.") for name in one)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not (twin / "twin/report.html").exists()
    assert (twin / "twin/pretrained/model.safetensors").exists()
    assert numbers(twin / "runs/twin-test") == numbers(trained)
    assert "did not train" in (twin / "runs/twin-test/report.html").read_text()


def test_predict_writes_one_file_of_arrays(twin):
    with np.load(twin / "runs/twin-predict/embeddings.npz") as file:
        arrays = dict(file)
    train, test = load_digits()
    assert arrays["embedding"].shape == (1797, 128)
    assert arrays["mean_direction"].shape == (1797, 128)
    np.testing.assert_allclose(np.linalg.norm(arrays["mean_direction"], axis=1), 1, rtol=1e-5)
    for name in ("mean_resultant_length", "entropy", "posterior_scale"):
        assert len(arrays[name]) == 1797
        assert np.isfinite(arrays[name]).all()
    for split, data in (("train", train), ("test", test)):
        rows = arrays["split"] == split
        assert np.array_equal(arrays["row"][rows], np.arange(len(data)))
        assert np.array_equal(arrays["label"][rows], data.labels)


def test_numbers_outlive_an_error_in_the_drawing(small, here, monkeypatch):
    """Of the deterministic twin, without what has no meaning for it, and of a set of its own."""

    def fail(*_):
        raise ValueError("no picture")

    monkeypatch.setattr("probcl.report.run.sections_of", fail)
    images = small[1].partition("=")[2]
    itself = ["--data.out_of_distribution=Arrays", f"--data.out_of_distribution.path={images}"]
    with pytest.raises(ValueError, match="no picture"):
        main(["fit", *QUICK, *small, *itself, "--model.program=SimCLR", "--evaluate=true"])
    run = here / "runs/simclr-arrays-seed0"
    assert (run / "pretrained/README.md").exists()
    assert not (run / "report.html").exists()
    metrics = numbers(run)
    assert "unc/auroc_inverted/nearest_cosine" in metrics
    assert "unc/auroc_inverted/entropy" not in metrics
    assert metrics["unc/auroc_images/nearest_cosine"] == pytest.approx(0.5)
    assert not any("log_det_k" in name for name in metrics)


def test_evaluation_can_be_limited_to_nothing(here):
    main(["fit", *QUICK, "--evaluate=true", "--trainer.limit_test_batches=0", "--run_dir=run"])
    assert not Path("run/metrics.json").exists()
    with pytest.raises(SystemExit, match="limit_test_batches must be above 0 for test, got 0"):
        main([
            "test", "--ckpt_path=run/checkpoints/last.ckpt", "--trainer.limit_test_batches=0",
        ])  # fmt: skip


def test_a_class_of_the_users_own_is_found_by_name(here):
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
    for text in ("mypackage.MyPrior", "mypackage.MyHead", "temperature: 0.1"):
        assert text in config


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
def test_every_method_is_named_in_the_command(options, here):
    main(["fit", "--model.program", *options, *QUICK])
    (run,) = here.glob("runs/*")
    history = read_history(run)
    assert len(history["loss"]) == 1
    terms = [values for name, values in history.items() if name not in ("epoch", "loss")]
    np.testing.assert_allclose(sum(terms), history["loss"], rtol=1e-5)


def test_annealing_follows_the_step(here):
    slow = ["--model.annealing=probcl.infer.LinearAnnealing", "--model.annealing.steps=10000"]
    main(["fit", *QUICK, *slow, "--run_dir=slow"])
    main(["fit", *QUICK, "--run_dir=whole"])
    slow, whole = (read_history(here / run)["kl_z"] for run in ("slow", "whole"))
    assert 0 < slow.max() < 1e-2 * whole.min()


def test_the_console_shows_our_lines_only(here):
    command = [str(Path(sys.executable).with_name("probcl")), "fit"]
    command += ["--trainer.max_epochs=1", "--evaluate=false"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for unwanted in ("GPU", "TPU", "Tip", "lightning", "Warning", "max_epochs"):
        assert unwanted not in done.stdout
    assert done.stdout.rstrip().endswith("last.ckpt gives the numbers.")


def test_help_names_every_command_and_costs_little(here):
    code = (
        "import sys; from probcl.cli import main; main(['--help']); import probcl;"
        "assert not {'torch', 'lightning', 'numpy'} & sys.modules.keys();"
        "assert 'distributions' in dir(probcl) and probcl.sphere.normalize"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("fit", "test", "predict", "compare", "sweep", "datasets", "programs", "scores"):
        assert f"\n  {name} " in done.stdout
    assert len(done.stdout.splitlines()) <= 40


def test_the_version_is_that_of_the_package(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"probcl {version('probcl')}\n"


@pytest.mark.parametrize(
    ("table", "names"),
    [("datasets", DATASETS), ("programs", set(PROGRAMS)), ("scores", SCORES)],
)
def test_a_table_is_listed_a_row_a_line_with_its_meaning(table, names, capsys):
    main([table])
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert {name for name, _ in rows} == set(names)
    assert all(len(meaning) > 10 for _, meaning in rows)


def test_a_command_that_is_not_there_gets_one_sentence():
    with pytest.raises(SystemExit) as stopped:
        main(["trian"])
    assert stopped.value.code == "probcl: error: there is no command trian: see probcl --help."


@pytest.mark.slow
def test_listing_the_tables_does_not_load_lightning(here):
    code = (
        "import sys; from probcl.cli import main; main(['programs']); main(['scores']);"
        "main(['datasets']); assert not {'lightning', 'jsonargparse'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_help_on_a_command_fits_in_120_lines_and_names_every_option(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert not stopped.value.code
    told = capsys.readouterr().out
    assert len(told.splitlines()) <= 120
    assert max(map(len, told.splitlines())) <= 80
    for option in ("--model.program ", "--model.kl ", "--data ", "--ckpt_path ", "--run_dir "):
        assert f"\n  {option}" in told
    for name in signature(Trainer).parameters:
        assert re.search(rf"\b{name}\b", told)
    for name in [*PROGRAMS, *DATASETS]:
        assert name in told
    assert "known subclasses" not in told
    assert ("--images" in told) == (command == "predict")


def test_help_on_a_data_set_is_that_of_those_known_by_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--data.help", "Digits"])
    assert not stopped.value.code
    assert "--data.batch_size" in capsys.readouterr().out


def test_help_on_an_optimizer_lists_no_foreign_classes(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--model.optimizer.help", "AdamW"])
    told = capsys.readouterr().out
    assert "--model.optimizer.weight_decay" in told
    assert "subclasses" not in told


def test_help_on_a_program_is_short(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--model.program.help", "VSimCLR"])
    told = capsys.readouterr().out
    assert "--model.program.temperature" in told
    assert "subclasses" not in told
    assert len(told.splitlines()) < 60


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
        (["fit", "--trainer.devices=x.y"], "trainer takes no such argument: `devices`"),
        (["fit", "--trainer.precision=7"], "trainer.precision must be one of 64, 32, 16,"),
        (["fit", "--trainer.max_epochs=x"], "trainer.max_epochs must be int, got x."),
        (["fit", "--model.kl=exactt"], "model.kl must be one of 'auto', 'exact', 'gaussian_bo"),
        (["fit", "--seed_everything=-1"], "seed_everything must be from 0 to 2^32 - 1, got -1"),
        (["fit", "--data.validation=0.999"], "has 1 training images: set validation lower"),
        (
            [
                "fit",
                "--model.program.posterior=ProjectedNormalHead",
                "--model.program.posterior.dim=0",
            ],
            "dim must be at least 2, got 0",
        ),
        (["fit", "--trainer.max_epochs=-3"], "You passed in -3"),
        (["fit", "--config=none.yaml"], "File does not exist"),
        (["fit", "--config=x: ["], "config"),
        (["fit", "--data.batch_size=5000"], "batch_size to 1437 or less"),
        (["fit", "--data=CIFAR11"], "there is no class CIFAR11: name one of "),
        (["fit", "--run_dir=used"], "used holds another run"),
        (["fit", "--run_dir=used/file/below"], "used/file/below cannot be written"),
        (["test"], "test needs the checkpoint of a run"),
        (["test", "--ckpt_path=none/last.ckpt"], "there is no checkpoint none/last.ckpt"),
        (["predict", "--ckpt_path=none/last.ckpt"], "there is no checkpoint none/last.ckpt"),
        (lambda: ["fit", *arrays_file(train_labels=np.zeros(40, int))], "at least two classes"),
        (lambda: ["fit", *arrays_file(train_labels=np.full(40, 0.5))], "labels must be integers"),
        (lambda: ["fit", *arrays_file(train_images=BAD_PIXEL)], "1 of 40 images have NaN"),
        (["fit", "--data=Arrays", "--data.path=none.npz"], "there is no file none.npz"),
        (["compare", "none"], "none holds no metrics: name the folder of a run"),
        (["fti"], "fti"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_no_run(arguments, message, here, capsys):
    Path("used").mkdir()
    Path("used/file").write_text("something")
    with pytest.raises(SystemExit) as stopped:
        main(arguments() if callable(arguments) else arguments)
    told = stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err
    assert stopped.value.code not in (0, None)
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert not any(here.glob("runs/*"))
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
        (["--model.optimizer.lr=-1"], "optimizer takes no such argument: Invalid learning rate"),
        (["--model.optimizer.weight_decay=-1"], "no such argument: Invalid weight_decay value"),
    ],
)
def test_what_only_training_can_tell_gets_one_sentence_too(options, message, here):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *QUICK, *options])
    assert message in stopped.value.code
    assert len(stopped.value.code.splitlines()) == 1


def test_predictions_are_written_of_images_alone(trained, here):
    with pytest.raises(SystemExit, match=r"output is for --images, got mine\.npz without"):
        main(["predict", f"--ckpt_path={trained}/checkpoints/last.ckpt", "--output=mine.npz"])


@pytest.mark.parametrize("command", ["compare", "sweep", "reproduce", "evaluate"])
def test_an_interrupted_command_ends_in_one_sentence(command, here, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("probcl.cli._run", interrupted)
    with pytest.raises(SystemExit, match=r"probcl: error: interrupted\."):
        main([command])


def test_a_bad_checkpoint_gets_one_sentence(trained, here):
    whole = (trained / "checkpoints/last.ckpt").read_bytes()
    for content in (whole[:1000], b"hello"):
        Path("part.ckpt").write_bytes(content)
        with pytest.raises(SystemExit, match=r"part.ckpt is not a whole checkpoint"):
            main(
                ["test", f"--config={trained}/config.yaml", "--run_dir=x", "--ckpt_path=part.ckpt"]
            )
    Path("alone.ckpt").write_bytes(whole)
    with pytest.raises(SystemExit, match=r"no config.yaml of the run that alone.ckpt is of"):
        main(["test", "--ckpt_path=alone.ckpt"])
    with pytest.raises(SystemExit, match="the checkpoint is not of this program"):
        main(["test", f"--ckpt_path={trained}/checkpoints/last.ckpt", "--model.program=SimCLR"])
    assert not any(here.rglob("report.html"))


def test_more_gpus_than_there_are_get_one_sentence(here, monkeypatch):
    """A machine with one GPU, as Lightning would find it."""
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(device_parser, "_get_all_available_gpus", lambda **_: [0])
    with pytest.raises(SystemExit, match=r"devices: 8 GPUs are asked for, and this machine has 1"):
        main(["fit", *QUICK, "--trainer.accelerator=gpu", "--trainer.devices=8"])
    assert not any(here.glob("runs/*"))


def test_callbacks_and_loggers_of_the_users_own_are_kept(here):
    main([
        "fit", *QUICK, "--trainer.callbacks=LearningRateMonitor", "--trainer.log_every_n_steps=1",
        "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=mine",
    ])  # fmt: skip
    assert any(Path("mine").rglob("metrics.csv"))
    assert Path("runs/vsimclr-digits-seed0/metrics.csv").exists()


def test_a_development_run_leaves_nothing(small, here):
    main(["fit", *QUICK, *small, "--evaluate=true", "--trainer.fast_dev_run=true"])
    main(["fit", *QUICK, *small, "--trainer.fast_dev_run=true"])
    assert not any(here.glob("runs/*"))


def test_what_is_not_finite_stops_the_run(here):
    with pytest.raises(SystemExit, match=r"z must be finite, got (\d+) of \1 embeddings"):
        main([
            "fit", *QUICK, "--trainer.max_epochs=2", "--model.optimizer=SGD",
            "--model.optimizer.lr=1e30",
        ])  # fmt: skip
    assert not any(here.rglob("pretrained"))


def test_a_defect_is_not_taken_for_bad_input(here):
    Path("broken.py").write_text(
        "import torch\n"
        "class Broken(torch.nn.Module):\n"
        "    def forward(self):\n"
        "        raise ValueError('a defect of the prior')\n"
    )
    with pytest.raises(ValueError, match="a defect of the prior"):
        main(["fit", *QUICK, "--model.program.prior=broken.Broken"])


def test_importing_leaves_the_garbage_collector_as_it_was():
    frozen = gc.get_freeze_count()
    try:
        for on in (True, False):
            (gc.enable if on else gc.disable)()
            assert _imported("json", for_good=False).__name__ == "json"
            assert gc.isenabled() is on
            assert gc.get_freeze_count() == frozen
        _imported("json", for_good=True)
        assert gc.get_freeze_count() > frozen
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.parametrize("command", ["compare", "report", "sweep", "reproduce", "evaluate"])
def test_options_that_are_not_there_get_one_sentence(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--nothing=1"])
    if stopped.value.code == 2:  # else it is the sentence itself
        assert capsys.readouterr().err.splitlines()[1:] == []
    else:
        assert len(str(stopped.value.code).splitlines()) == 1
