"""Training on real photographs, and on folders of images, by the command."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from probcl.cli import main
from probcl.cli_arguments import with_our_names
from probcl.runs import read_history

QUICK = ["--trainer.enable_progress_bar=false", "--data.num_workers=0", "--evaluate=false"]


def rows_of(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """The first 2,000 images of CIFAR-10 to train on and 500 to test on, in a packed file."""
    folder = Path(os.environ.get("PROBCL_DATA", Path(__file__).parents[3] / "shared/data"))
    if not (folder / "cifar10.npz").is_file():
        pytest.skip("needs CIFAR-10 as packed JPEG files, cifar10.npz in the folder PROBCL_DATA")
    with np.load(folder / "cifar10.npz") as file:
        jpeg, offset, label, split = (file[n] for n in ("jpeg", "offset", "label", "split"))
    chosen = [*range(2000), *range(50_000, 50_500)]
    parts = [jpeg[offset[i] : offset[i + 1]] for i in chosen]
    path = tmp_path_factory.mktemp("cifar") / "part.npz"
    np.savez(
        path,
        jpeg=np.concatenate(parts),
        offset=np.cumsum([0, *map(len, parts)]),
        label=label[chosen],
        split=split[chosen],
    )
    return path


@pytest.mark.parametrize("program", ["VSimCLR", pytest.param("VarCon", marks=pytest.mark.slow)])
def test_two_epochs_on_photographs_teach_something(program, cifar, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([
        "fit", *QUICK, "--trainer.max_epochs=2", "--evaluate=true",
        "--trainer.limit_test_batches=100",  # enough, and no changes of the images
        f"--model.program={program}", "--model.program.encoder=ConvNet",
        "--model.program.encoder.widths=[16, 32, 64]", "--data=Arrays", f"--data.path={cifar}",
        "--data.augmentation=SimAugment", "--data.batch_size=100", "--data.monitored=0",
    ])  # fmt: skip
    (run,) = Path("runs").iterdir()
    loss = read_history(run)["loss"]
    assert loss[1] < loss[0]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["knn/top1"] >= 0.10 + 0.06  # chance, and four standard deviations of 500 images
    assert metrics["probe/top1"] >= 0.10 + 0.12


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of small photographs of two classes, and the options to fit it."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 5)):
        for label, name in enumerate(("ant", "bee")):
            place = Path("images", part, name)
            place.mkdir(parents=True)
            for number in range(count):
                sides = random.integers(20, 40, 2)
                pixels = random.integers(0, 120, (*sides, 3)) + 120 * label
                Image.fromarray(pixels.astype("uint8")).save(place / f"{number}.jpg")
    return [
        "fit", *QUICK, "--trainer.max_epochs=1", "--data=Folder", "--data.path=images",
        "--data.batch_size=8", "--data.augmentation=SimAugment", "--data.augmentation.size=16",
    ]  # fmt: skip


def test_a_folder_of_images_trains_and_names_what_it_left_out(folder, capsys):
    broken = Path("images/train/ant/3.jpg")
    broken.write_bytes(broken.read_bytes()[:200])
    main([*folder, "--data.unreadable=skip", "--evaluate=true", "--data.corrupted=0"])
    assert f"left out 1 files that cannot be read: {broken}" in capsys.readouterr().out
    (run,) = Path("runs").iterdir()
    assert run.name == "vsimclr-folder-seed0"
    assert (run / "report.html").exists()


def test_a_class_of_ours_is_meant_where_torchvision_has_one_of_that_name(folder):
    assert with_our_names(["fit", "--data=Folder", "--data.path", "CIFAR10"]) == [
        "fit", "--data=probcl.training.Folder", "--data.path", "CIFAR10",
    ]  # fmt: skip
    given = ["--model.program.encoder", "ResNet", "--data.root=MNIST", "--run_dir=ResNet"]
    assert with_our_names(given) == [given[0], "probcl.nn.ResNet", *given[2:]]


def test_a_residual_network_trains_as_a_cluster_would(folder):
    main([
        *folder, "--data.num_workers=1", "--model.program.encoder=ResNet",
        "--model.program.encoder.depth=18", "--model.program.encoder.stem=cifar",
        "--model.channels_last=true", "--trainer.precision=bf16-mixed",
        "--model.optimizer=SGD", "--model.optimizer.lr=0.1", "--model.optimizer.momentum=0.9",
        "--model.decay_all=false", "--trainer.gradient_clip_val=1.0",
        "--trainer.accumulate_grad_batches=3", "--data.in_memory=true",
    ])  # fmt: skip
    (run,) = Path("runs").iterdir()
    weights = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert weights["program.encoder.conv1.weight"].shape == (64, 3, 3, 3)
    assert weights["program.encoder.conv1.weight"].dtype == torch.float32


def test_what_is_monitored_is_in_the_history(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([
        "fit", *QUICK, "--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=2",
        "--model.program=ProbabilisticVarCon", "--model.program.temperature=0.2",
        "--data.validation=0.1", "--run_dir=run",
    ])  # fmt: skip
    rows = rows_of(Path("run"))
    trained = [row for row in rows if row["loss"]]
    monitored = [row for row in rows if row["val/knn_top1"]]
    assert [row["epoch"] for row in trained] == list("0123")
    assert [row["epoch"] for row in monitored] == list("13")
    for row in trained:
        assert 0.18 <= float(row["tau2"]) <= 0.22  # temperature 0.2, epsilon 0.02
        assert float(row["images_per_second"]) > 0
        assert float(row["memory_gib"]) > 0
    for row in monitored:
        assert 0 < float(row["val/mean_resultant_length"]) < 1
        assert 0.2 < float(row["val/knn_top1"]) <= 1  # chance: 0.1
        assert 0.2 < float(row["val/probe_top1"]) <= 1
        assert float(row["val/effective_rank"]) >= 1


def empty_class(folder):
    Path("images/train/cow").mkdir()
    return folder


def corrupt(folder):
    path = Path("images/test/bee/1.jpg")
    path.write_bytes(b"no image")
    return [*folder, "--evaluate=true"]


def corrupt_for_a_worker(folder):
    return [*corrupt(folder), "--data.num_workers=1"]


def a_weight_that_is_not_finite(folder):
    return [
        *folder, "--model.program=SimCLR", "--model.optimizer=SGD", "--model.optimizer.lr=1e30",
        "--model.optimizer.weight_decay=1e30",
        "--trainer.check_val_every_n_epoch=1", "--data.batch_size=24",
    ]  # fmt: skip


def no_file_can_be_read(folder):
    for path in Path("images/train").rglob("*.jpg"):
        path.write_bytes(b"no image")
    return [*folder, "--data.unreadable=skip"]


def unequal_sizes(folder):
    parts = [p.read_bytes() for p in sorted(Path("images").rglob("*.jpg"))]
    np.savez(
        "packed.npz",
        jpeg=np.frombuffer(b"".join(parts), np.uint8),
        offset=np.cumsum([0, *map(len, parts)]),
        label=np.arange(len(parts)) % 2,
        split=np.arange(len(parts)) % 3 // 2,
    )
    return ["fit", *QUICK, "--data=Arrays", "--data.path=packed.npz", "--data.batch_size=8"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (empty_class, "images/train/cow holds no image files"),
        (corrupt, "images/test/bee/1.jpg cannot be decoded"),
        (corrupt_for_a_worker, "images/test/bee/1.jpg cannot be decoded"),
        (no_file_can_be_read, "not one of the 24 images to train on can be read"),
        (a_weight_that_is_not_finite, "are not finite in epoch 0"),
        (unequal_sizes, "images must all have one size"),
        (lambda folder: [*folder, "--data.batch_size=25"], "batch_size to 24 or less"),
        (lambda folder: [*folder, "--data.path=none"], "there is no folder none"),
        (lambda folder: [*folder, "--data.augmentation=RandomNoise"], "has no RandomResizedCrop"),
        (
            lambda folder: [*folder, "--data.channels=1", "--model.program.encoder=ResNet"],
            "the images have 1 channel, the encoder ResNet takes 3",
        ),
        (
            lambda folder: ["fit", *QUICK, "--model.program.encoder=ResNet"],
            "set the encoder's channels to 1",
        ),
        (
            lambda folder: [*folder, "--model.program.encoder=TorchvisionModel",
                            "--model.program.encoder.name=resnet19"],
            "resnet18",
        ),
        (lambda folder: ["fit", *QUICK, "--data=CIFAR10"], "set download to True"),
        (
            lambda folder: ["fit", *QUICK, "--data=ImageNet", "--data.download=true"],
            "the licence of ImageNet asks each user for consent",
        ),
        (lambda folder: ["fit", *QUICK, "--data=ImageNet"], "ILSVRC2012_img_train.tar"),
        (
            lambda folder: ["fit", *QUICK, "--trainer.accelerator=gpu"],
            "accelerator: PyTorch finds no GPU on this machine: set --trainer.accelerator cpu",
        ),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(arguments, message, folder, capsys):
    given = arguments(folder)
    if "--trainer.accelerator=gpu" in given and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SystemExit) as stopped:
        main(given)
    told = stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert not any(Path().rglob("report.html"))
