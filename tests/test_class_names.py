"""The names of classes: from folders and data sets to all that is written of their images."""

import json
import os
from html import unescape
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from probcl.cli import main
from probcl.data import class_names, load_digits, read_folder
from probcl.evaluation import Embeddings
from probcl.image_features import encode_data
from probcl.predictions import write_predictions
from probcl.training import Folder

NAMES = ["a & <b>", "zoë", "日本"]  # in the order of their numbers
QUIET = "--trainer.enable_progress_bar=false"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with digits 0, 1 and 2 under other names."""
    root = tmp_path_factory.mktemp("pictures")
    for part, data, count in zip(("train", "test"), load_digits(), (90, 30), strict=True):
        rows = torch.nonzero(data.labels < len(NAMES)).flatten()[:count]
        for row in rows.tolist():
            path = root / part / NAMES[int(data.labels[row])] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((data.images[row, 0] * 255).byte().numpy()).save(path)
    return root


def test_a_run_tells_them_in_every_file(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", "--data=Folder", f"--data.path={pictures}", "--data.batch_size=32", QUIET,
          "--data.corrupted=0", "--trainer.max_epochs=1", "--run_dir=run"])  # fmt: skip
    assert json.loads((tmp_path / "run/classes.json").read_text()) == NAMES
    page = unescape((tmp_path / "run/report.html").read_text())
    for name in NAMES:
        assert f'<th scope="row">{name}</th>' in page or "None: no test item is given" in page
        assert f"<b>{name}</b>" in page  # beside its tiles
        assert f">{name}</text>" in page  # on the map
        assert f", class {name}, the probe says " in page
    assert "<b>a &amp; &lt;b&gt;</b>" in (tmp_path / "run/report.html").read_text()
    checkpoint = "--ckpt_path=run/checkpoints/last.ckpt"
    main(["test", checkpoint, QUIET, "--run_dir=again"])
    main(["predict", checkpoint, QUIET, "--run_dir=all"])
    for run in ("again", "all"):
        assert json.loads((tmp_path / run / "classes.json").read_text()) == NAMES
    images = f"--images={pictures / 'test' / NAMES[2]}"
    main(["predict", checkpoint, QUIET, images, "--output=new.npz", "--run_dir=new"])
    with np.load("new.npz") as file:
        assert set(file["class"]) <= set(NAMES)
        assert (file["class"] == NAMES[2]).mean() > 0.5


def test_features_of_images_have_them_for_classes(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("probcl.image_features.encoder_by_name", lambda name: torch.nn.Flatten())
    for part, (features, labels) in zip(
        read_folder(pictures), encode_data("mine", str(pictures), tmp_path), strict=True
    ):
        assert len(features) == len(labels)
        assert labels.tolist() == [NAMES[number] for number in part.labels]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_data_module_keeps_them(pictures, in_memory):
    data = Folder(str(pictures), in_memory=in_memory, num_workers=0)
    assert data.classes == NAMES


def test_data_sets_of_torchvision_keep_them(pictures):
    data = ImageFolder(pictures / "train")
    assert class_names(data) == class_names(Subset(data, [0, 1])) == NAMES
    assert class_names(ImageFolder(pictures / "train", target_transform=lambda y: 2 - y)) == []
    assert class_names(load_digits()[0]) == []
    assert class_names(SimpleNamespace(classes=3)) == []
    assert class_names(SimpleNamespace(classes=[("tench", "Tinca tinca")])) == []


def test_data_sets_of_hugging_face_keep_them():
    features = {"image": object(), "label": SimpleNamespace(names=NAMES)}
    assert class_names(SimpleNamespace(features=features)) == NAMES
    assert class_names(SimpleNamespace(features={"image": object(), "label": object()})) == []


def test_a_name_that_is_no_text_can_be_written():
    (name,) = class_names(SimpleNamespace(classes=[os.fsdecode(b"caf\xe9")]))
    assert name == "caf?"


def test_fewer_names_than_classes_are_not_used(tmp_path):
    z, y = np.eye(3).repeat(4, 0), np.arange(3).repeat(4)
    path = tmp_path / "said.npz"
    write_predictions(path, ["a", "b", "c"], Embeddings(z, y), Embeddings(np.eye(3)), NAMES[:2])
    with np.load(path) as file:
        assert file["class"].tolist() == [0, 1, 2]
