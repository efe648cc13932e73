"""What belongs to CIFAR-10, from files written as its authors ship them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from probcl.data import (
    cifar10c_corruptions,
    read_cifar10c,
    read_cifar10h,
    read_cifar10n,
    read_image_list,
)

COUNT = 50_000
VOTES = Path(os.environ.get("PROBCL_DATA", "../shared/data")) / "cifar10h_counts.npy"


@pytest.fixture(scope="module")
def corrupted(tmp_path_factory):
    """Images whose first pixel has the severity and the row within it; sparse on the disk."""
    folder = tmp_path_factory.mktemp("cifar10c")
    fog = np.lib.format.open_memmap(
        folder / "fog.npy", "w+", dtype=np.uint8, shape=(COUNT, 32, 32, 3)
    )
    for severity in range(5):
        fog[10_000 * severity + 7, 0, 1] = severity + 1, 2, 3
    fog.flush()
    np.save(folder / "labels.npy", (np.arange(COUNT) % 10).astype(np.uint8))
    return folder


def test_a_severity_of_a_corruption_has_its_images(corrupted):
    assert cifar10c_corruptions(corrupted) == ["fog"]
    data = read_cifar10c(corrupted, "fog", 4)
    assert data.images.shape == (10_000, 3, 32, 32)
    assert data.images[7, :, 0, 1].tolist() == [4, 2, 3]
    assert data.labels[:3].tolist() == [0, 1, 2]


def test_what_is_not_there_is_told(corrupted, tmp_path):
    with pytest.raises(ValueError, match="corruption must be one of fog, got 'snow'"):
        read_cifar10c(corrupted, "snow", 1)
    with pytest.raises(ValueError, match="severity must be from 1 to 5, got 6"):
        read_cifar10c(corrupted, "fog", 6)
    with pytest.raises(ValueError, match="folder must hold CIFAR-10-C"):
        cifar10c_corruptions(tmp_path)
    np.save(tmp_path / "labels.npy", np.zeros(3))
    np.save(tmp_path / "fog.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"fog\.npy must be of shape \(50000, 32, 32, 3\)"):
        read_cifar10c(tmp_path, "fog", 1)
    with pytest.raises(ValueError, match="cannot be read"):
        read_cifar10h(tmp_path / "none.npy")


def test_votes_are_read(tmp_path):
    votes = np.random.default_rng(0).integers(0, 9, (10_000, 10)) + 1
    np.save(tmp_path / "cifar10h-counts.npy", votes)
    assert read_cifar10h(tmp_path / "cifar10h-counts.npy").tolist()[0] == votes[0].tolist()
    np.save(tmp_path / "none.npy", np.zeros((10_000, 10)))
    with pytest.raises(ValueError, match="must hold votes of at least 0, and one for every image"):
        read_cifar10h(tmp_path / "none.npy")


@pytest.mark.skipif(not VOTES.is_file(), reason="CIFAR-10H is not there: set PROBCL_DATA")
def test_the_real_votes_are_read():
    assert 47 <= read_cifar10h(VOTES).sum(-1).min() <= read_cifar10h(VOTES).sum(-1).max() <= 63


def test_noisy_labels_are_read(tmp_path):
    labels = np.arange(COUNT) % 10
    path = tmp_path / "CIFAR-10_human.pt"
    torch.save({"clean_label": labels, "worse_label": labels.astype(np.int32)}, path)
    found = read_cifar10n(path)
    assert list(found) == ["clean_label", "worse_label"]
    assert all(torch.equal(values, torch.as_tensor(labels)) for values in found.values())
    torch.save({"clean_label": labels[:3]}, path)
    with pytest.raises(ValueError, match="must hold 50,000 labels of each kind"):
        read_cifar10n(path)
    torch.save({"clean_label": Path("labels")}, path)  # a class that is not data
    with pytest.raises(ValueError, match=r"is not CIFAR-10_human\.pt as its authors ship it"):
        read_cifar10n(path)


def test_a_list_of_images_is_read(tmp_path):
    (tmp_path / "airplane").mkdir()
    for number in (1, 2):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"airplane/{number}.png")
    file = tmp_path / "test.txt"
    file.write_text("airplane/1.png 0\n\nairplane/2.png 3\n")
    data = read_image_list(file, tmp_path)
    assert data.labels.tolist() == [0, 3]
    assert data[1][0].getpixel((0, 0)) == (2, 0, 0)
    file.write_text("airplane/1.png -1\nairplane/2.png -1\n")
    assert read_image_list(file, tmp_path).labels is None
    (tmp_path / "airplane/1.png").rename(tmp_path / "airplane/a jet.png")
    file.write_text("airplane/a jet.png 3\nairplane/2.png 0\n")
    assert read_image_list(file, tmp_path)[0][0].getpixel((0, 0)) == (1, 0, 0)
    name = "airplane/a\x85b.png"
    (tmp_path / "airplane/2.png").rename(tmp_path / name)
    file.write_text(f"\ufeff{name} 1\r\nairplane/a jet.png 3\n", encoding="utf-8")
    assert read_image_list(file, tmp_path).labels.tolist() == [1, 3]
    file.write_bytes(b"airplane/\xe9.png 1\n")
    with pytest.raises(ValueError, match=r"test\.txt cannot be read as text"):
        read_image_list(file, tmp_path)
    file.write_text("\n\nairplane/1.png zero\n")
    with pytest.raises(ValueError, match=r"line 3 must have a path and a class, got \['airplane"):
        read_image_list(file, tmp_path)
