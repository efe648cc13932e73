"""No file of any kind that is read, however damaged, does more than raise one sentence."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from probcl.cli_arguments import with_config
from probcl.data import read_arrays
from probcl.hub import LARGEST_IMAGE, Pretrained
from probcl.report import compare_runs
from probcl.runs import read_history
from probcl.training.checkpoint_io import WholeCheckpointIO

WORKER = Path(__file__).with_name("fuzz_worker.py")
ROOT = WORKER.parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
PROGRAM = {
    "class_path": "probcl.programs.VSimCLR",
    "init_args": {"encoder": {"class_path": "probcl.nn.ConvNet", "init_args": {"widths": [4]}}},
}


@pytest.mark.parametrize("share", [1, pytest.param(10, marks=pytest.mark.battery)])
def test_damaged_files_are_read_or_refused_in_one_sentence(share, tmp_path):
    """By a process of its own, whose memory is measured; a callable would leave a file."""
    command = [sys.executable, str(WORKER), str(tmp_path), str(share), "0"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    table = "\n".join(f"{kind:20} {counts}" for kind, counts in said["counts"].items())
    print(f"{table}\npeak of memory: {said['peak_mib']:.0f} MiB")
    assert sum(sum(counts.values()) for counts in said["counts"].values()) >= 300 * share
    assert said["wrong"] == []
    assert not said["called"]


@pytest.mark.parametrize("flag", [1, 0x20])  # encrypted; a patch
def test_an_archive_of_a_kind_that_is_not_known_is_named(flag, tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, train_images=np.zeros(3))
    content = bytearray(path.read_bytes())
    for place in (6, content.index(b"PK\x01\x02") + 8):
        content[place] |= flag
    path.write_bytes(content)
    with pytest.raises((RuntimeError, NotImplementedError)), zipfile.ZipFile(path) as file:
        file.read("train_images.npy")
    with pytest.raises(ValueError, match=r"train_images in .* is damaged"):
        read_arrays(path)


def test_a_checkpoint_of_more_than_weights_and_numbers_is_refused(tmp_path):
    torch.save({"global_step": 1, "own": Path("of a class")}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is no checkpoint of weights and numbers"):
        WholeCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other": 1}, "is not the configuration of a program"),
        ({"image_shape": [1, 0, 8]}, "image_shape must be up to three whole numbers above 0"),
        ({"image_shape": "8"}, "image_shape must be"),
        ({"image_shape": [3, LARGEST_IMAGE, 1]}, f"for at most {LARGEST_IMAGE} values"),
        ({"image_shape": [8]}, r"image_shape: the program takes no images of shape \(8,\): "),
        (
            {"program": PROGRAM | {"init_args": {"encoder": 3}}},
            r"^program: this configuration cannot be built: [^\n]*\.$",
        ),
    ],
)
def test_a_shared_configuration_that_makes_no_program_is_refused(change, message, tmp_path):
    Pretrained(PROGRAM, (1, 8, 8)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        Pretrained.from_pretrained(tmp_path)


@pytest.mark.parametrize("arguments", ["text", 3, [1]])
def test_options_of_a_data_set_that_are_none_are_left_to_the_parser(arguments, tmp_path):
    data = {"class_path": "probcl.training.Arrays", "init_args": arguments}
    config = {"model": {"program": PROGRAM}, "data": data, "trainer": {}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    _, option = with_config(["predict"], tmp_path / "config.yaml", trust=False)
    assert option.startswith("--config=")


@pytest.mark.parametrize(
    "metrics",
    [{"knn/top1": {}}, {"knn/top1": "x"}, {"knn/top1": float("nan")}, {"x": 10**400}, ["x"], 3],
)
@pytest.mark.parametrize("record", [False, True])
def test_metrics_that_are_no_numbers_are_refused(metrics, record, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"metrics": metrics} if record else metrics))
    with pytest.raises(ValueError, match=r"run\.json holds no metrics: name the folder of a run"):
        compare_runs([path], tmp_path / "compare.html")


def test_the_last_line_of_a_history_may_have_no_end(tmp_path):
    """As a process that was killed leaves it: the number may lack its last digits."""
    (tmp_path / "metrics.csv").write_text("epoch,loss,step\n0,2.5,10\n1,2.2")
    assert read_history(tmp_path)["loss"].tolist() == [2.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epoch,loss\nx,1.0\n", "is not a history"),
        (b"loss\n1.0\n", "is not a history"),
        (b"epoch,loss\n\xff,1.0\n", "is not a history"),
        (b"epoch,loss\n1,1.0,3.0,\n2,y\n", "are not of one training"),
        (b"epoch,loss,kl_z\n1,1.0\n", "are not of one training"),
    ],
)
def test_a_history_that_is_none_is_named(content, message, tmp_path):
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"metrics\.csv .*{message}.*: remove"):
        read_history(tmp_path)
