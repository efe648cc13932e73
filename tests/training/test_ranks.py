"""A training on several ranks, by torchrun and gloo, is that of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from probcl.runs import read_history

HERE = Path(__file__).parent
WORKER = HERE / "ranks_worker.py"
PROGRAMS = ("VSimCLR", "VSupCon", "VarCon")
DIM = 16
ENVIRONMENT = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}


def write_images(folder):
    """Write a data set in which one file in three is cut off."""
    random = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 10)):
        for name in "ab":
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                path = folder / part / name / f"{number}.png"
                Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
                if random.random() < 1 / 3:
                    path.write_bytes(path.read_bytes()[:100])


def train(folder, world):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={world}", str(WORKER), str(folder)]
    if world == 1:
        command = [sys.executable, str(WORKER), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone"), 1)[0]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    write_images(folder / "images")
    return train(folder, request.param)


@pytest.mark.parametrize("name", PROGRAMS)
def test_twenty_steps_lead_to_the_weights_of_one_process(name, alone, ranks):
    for rank in ranks:
        assert rank[name].keys() == alone[name].keys()
        for key, weight in alone[name].items():
            torch.testing.assert_close(rank[name][key], weight, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_loss_that_is_logged_is_that_of_the_whole_batch(name, alone, ranks):
    for rank in ranks:
        torch.testing.assert_close(rank[f"{name}, loss"], alone[f"{name}, loss"], rtol=1e-6, atol=0)


def test_the_numbers_of_an_evaluation_are_those_of_one_process(alone, ranks):
    assert len(alone["metrics"]) > 200
    assert ranks[0]["metrics"] == alone["metrics"]
    assert all(rank["metrics"] is None for rank in ranks[1:])


def test_what_varcon_sends_depends_on_the_classes_alone(ranks):
    for rank in ranks:
        small, large = (rank["VarCon, sent"][size] for size in (10, 40))
        assert small == large
        # The sums and counts of five classes of 128 dimensions, and their number and names.
        assert small == {"all_reduce": [5 * (128 + 1)], "all_gather_into_tensor": [1, 5]}


def test_info_nce_sends_its_embeddings_once_forward_and_once_backward(ranks):
    for rank in ranks:
        for size in (10, 40):
            sent = rank["VSimCLR, sent"][size]
            embeddings = 2 * size * DIM
            assert sent["all_gather_into_tensor"].count(embeddings) == 1
            assert sent["reduce_scatter_tensor"] == [len(ranks) * embeddings]
            # Beside them the size of the batch, and three numbers for each anchor of all ranks:
            # what the tiles, which the ranks share, add to its denominator, and its logits with
            # the two views of its image; and their gradients.
            assert sorted(sent["all_gather_into_tensor"]) == [1, embeddings]
            # And a number each for the shrinkage of cosines and, in the first step, the means.
            anchors = [3 * 2 * size * len(ranks)] * 2
            assert sent["all_reduce"] == [1] * (2 if size == 10 else 1) + anchors


def test_files_that_are_cut_off_leave_ranks_in_step(ranks):
    first, *others = (rank["files"] for rank in ranks)
    assert set(first["sizes"]) == {0, 1, 2}
    for other in others:
        assert other["sizes"] == first["sizes"]
        for name, weight in first["weights"].items():
            torch.testing.assert_close(other["weights"][name], weight, rtol=0, atol=0)
            assert weight.isfinite().all()


@pytest.mark.slow
def test_ranks_draw_different_samples_from_a_loader_of_any_kind(ranks):
    steps = 8 // len(ranks)  # of two epochs, four images each
    within = [draw for rank in ranks for draw in rank["draws"]["within"]]
    assert len(within) == len(set(within)) == len(ranks) * steps
    assert len({rank["draws"]["after"] for rank in ranks}) == 1  # what else is drawn goes on


def test_the_command_trains_on_two_devices_and_reports_once(tmp_path):
    script = str(Path(sys.executable).with_name("probcl"))
    options = [
        "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false",
        "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp",
        "--data.batch_size=64", "--data.validation=0.1", "--data.monitored=50",
        "--data.corrupted=0",
    ]  # fmt: skip
    done = subprocess.run(
        [script, "fit", *options], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: runs/vsimclr-digits-seed0/report.html") == 1
    (run,) = (tmp_path / "runs").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["probe/top1"] > 0.5
    history = read_history(run)
    assert np.isfinite(history["loss"]).all()
    assert (run / "checkpoints/last.ckpt").exists()
    assert (run / "pretrained/model.safetensors").exists()
