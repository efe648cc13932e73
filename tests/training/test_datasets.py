"""Data modules of files, of data sets known by name, of data sets of one's own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2

from probcl.cli import main
from probcl.data import (
    DATASETS,
    Augmentation,
    ImageArrays,
    RandomNoise,
    RandomResizedCrop,
    SimAugment,
)
from probcl.data.views import CroppedBatch
from probcl.training import Arrays, Batch, Datasets, Folder, Named, Synthetic
from probcl.training.batch import TEST, TRAIN


def batches(data, stage, loader=None):
    data.setup("fit")
    loaders = getattr(data, f"{stage}_dataloader")()
    chosen = loaders if loader is None else loaders[loader]
    made = [data.on_after_batch_transfer(batch, 0) for batch in chosen]
    return [batch for batch in made if batch.part in (None, TRAIN, TEST)]


def rows_of(parts):
    return torch.cat([batch.rows for batch in parts]).tolist()


@pytest.fixture
def folder(tmp_path):
    """A folder of 30 images to train and 12 to test, of three classes and many sizes."""
    random = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(("ant", "bee", "cat")):
            place = tmp_path / part / name
            place.mkdir(parents=True)
            for number in range(count):
                sides = random.integers(20, 40, 2)
                pixels = random.integers(0, 80, (*sides, 3)) + 80 * label
                Image.fromarray(pixels.astype("uint8")).save(place / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_cropped_by_workers_and_changed_on_the_device(folder, workers):
    data = Folder(str(folder), augmentation=SimAugment(16), batch_size=8, num_workers=workers)
    parts = batches(data, "train")
    assert [batch.views.shape for batch in parts] == [(2, 8, 3, 16, 16)] * 3
    for batch in parts:
        assert isinstance(batch, Batch)
        assert torch.equal(batch.labels, batch.rows // 10)
        assert not torch.equal(batch.views[0], batch.views[1])
    test = batches(data, "test", 1)
    assert rows_of(test) == list(range(12))
    brightness = torch.cat([batch.views[0] for batch in test]).mean((1, 2, 3)) * 255
    assert torch.equal((brightness / 80).long(), torch.arange(12) // 4)
    assert data.example.shape == (1, 3, 16, 16)


def test_the_centre_of_a_file_is_what_torchvision_cuts(folder):
    data = Folder(str(folder), augmentation=SimAugment(16), num_workers=0, batch_size=30)
    batch = batches(data, "test", 1)[0]
    image = Image.open(folder / "test" / "ant" / "0.png")
    centre = v2.Compose([v2.ToImage(), v2.Resize(18), v2.CenterCrop(16)])
    torch.testing.assert_close(batch.views[0, 0] * 255, centre(image).float(), rtol=0, atol=1e-3)


def test_files_may_be_read_into_memory_once(folder):
    data = Folder(str(folder), augmentation=SimAugment(16), in_memory=True, batch_size=8)
    data.num_workers = 0
    train, test = data.sets
    assert isinstance(train, ImageArrays)
    assert train.images.shape == (30, 3, 16, 16)
    assert torch.equal(test.labels, torch.arange(12) // 4)


@pytest.mark.parametrize("in_memory", [False, True])
def test_unreadable_files_are_left_out_and_named(folder, in_memory):
    broken = folder / "train" / "bee" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    options = {"augmentation": SimAugment(16), "batch_size": 5, "num_workers": 0}
    data = Folder(str(folder), unreadable="skip", in_memory=in_memory, **options)
    parts = batches(data, "train")
    assert len(rows_of(parts)) in (25, 29)
    assert data.unreadable == {str(broken)}
    data = Folder(str(folder), in_memory=in_memory, **options)
    with pytest.raises(ValueError, match=r"bee/3.png cannot be decoded"):
        batches(data, "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_follow_from_the_seed_whoever_reads_them(folder, workers):
    views = []
    for number_of_workers in (0, workers):
        torch.manual_seed(4)
        data = Folder(
            str(folder),
            augmentation=Augmentation(RandomResizedCrop(12)),
            batch_size=10,
            num_workers=number_of_workers,
        )
        data.setup("fit")
        loader = data.train_dataloader()
        views.append([torch.stack(batch.views) for _ in range(2) for batch in loader])
    assert all(torch.equal(*pair) for pair in zip(*views, strict=True))
    assert not torch.equal(views[0][0], views[0][3])


def test_a_batch_of_which_no_file_can_be_read_is_empty(folder):
    for number in range(9):
        (folder / "train" / "ant" / f"{number}.png").write_bytes(b"none")
    for number in range(4):
        (folder / "test" / "cat" / f"{number}.png").write_bytes(b"none")
    data = Folder(
        str(folder), augmentation=SimAugment(16), batch_size=4, num_workers=0, unreadable="skip"
    )
    (batch,) = batches(data, "test", 1)
    assert torch.equal(batch.labels, torch.arange(8) // 4)
    nothing = CroppedBatch([], batch.labels[:0], batch.rows[:0], ["cat.png"])
    assert data.on_after_batch_transfer((nothing, TEST), 0).size == 0
    assert data.example.shape == (1, 3, 16, 16)  # the first that can be read
    train, test = Folder(
        str(folder), augmentation=SimAugment(16), in_memory=True, num_workers=0, unreadable="skip"
    ).sets
    assert torch.equal(train.labels, torch.arange(9, 30) // 10)
    assert torch.equal(test.labels, torch.arange(8) // 4)


class Pairs(Dataset):
    """A data set as a user writes one: tensors of any size, and labels."""

    def __init__(self, channels=3):
        self.channels = channels

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.rand(self.channels, 20 + index, 30 - index), index % 2


def test_data_sets_of_ones_own_are_taken():
    data = Datasets(
        Pairs(), Pairs(), augmentation=SimAugment(8), batch_size=10, num_workers=0, monitored=5
    )
    parts = batches(data, "train")
    assert [batch.views.shape for batch in parts] == [(2, 10, 3, 8, 8)] * 2
    assert all(torch.equal(batch.labels, batch.rows % 2) for batch in parts)
    assert len(rows_of(batches(data, "val", 1))) == 5


def test_files_need_a_crop():
    data = Datasets(Pairs(), Pairs(), augmentation=RandomNoise(), batch_size=10)
    with pytest.raises(ValueError, match="RandomNoise has no RandomResizedCrop, which images in"):
        data.setup("fit")


class Mixed(Pairs):
    def __getitem__(self, index):
        return torch.rand(1 + 2 * (index % 2), 20, 20), index % 2


def test_images_of_different_channels_are_refused():
    data = Datasets(Mixed(), Mixed(), augmentation=SimAugment(8), batch_size=10, num_workers=0)
    with pytest.raises(ValueError, match="images must all have as many channels, got 1 and 3"):
        batches(data, "train")


def test_an_augmentation_of_ones_own_begins_with_the_crop(folder):
    augment = Augmentation(RandomResizedCrop(10, flip=0.0), [RandomNoise(0.1)])
    data = Folder(str(folder), augmentation=augment, batch_size=10, num_workers=0)
    assert batches(data, "train")[0].views.shape[-1] == 10


class TestNamed:
    """Every row of the table, by its name."""

    @pytest.mark.parametrize("name", DATASETS)
    def test_it_has_the_augmentation_of_its_row(self, name):
        data = Named(name)
        assert repr(data.augment) == repr(DATASETS[name].augmentation())
        assert data.set_name == name.lower()

    def test_its_options_reach_its_reader(self, monkeypatch):
        def read(root, download, unlabelled):
            assert (root, download, unlabelled) == ("data", False, True)
            images = torch.rand(30, 3, 12, 12)
            labelled = ImageArrays(images, torch.arange(30) % 5)
            return labelled, labelled, ImageArrays(images)

        row = DATASETS["STL10"]._replace(read=read, augmentation=lambda: SimAugment(8))
        monkeypatch.setitem(DATASETS, "STL10", row)
        data = Named("STL10", options={"unlabelled": True}, batch_size=10)
        assert all(b.labels is None for b in batches(data, "train"))

    def test_there_must_be_such_a_name(self):
        with pytest.raises(
            ValueError, match=r"name must be one of Digits, CIFAR10.*, got 'digits'"
        ):
            Named("digits")


def test_a_test_class_that_training_lacks_is_refused_before_any_work(tmp_path):
    images, labels = np.zeros((30, 1, 8, 8)), np.arange(30) % 3
    path = tmp_path / "images.npz"
    np.savez(
        path, train_images=images, train_labels=labels, test_images=images, test_labels=labels + 5
    )
    with pytest.raises(ValueError, match=r"the training labels, which lack class.* 5"):
        Arrays(str(path)).setup("fit")

    train, test = (ImageArrays(images, labels + shift) for shift in (0, 1))
    data = Datasets(train, test, augmentation=SimAugment(8), batch_size=10)
    with pytest.raises(ValueError, match=r"the training labels, which lack class.* 3"):
        data.setup("fit")


class TestSynthetic:
    """Data with a known posterior: was it recovered?"""

    def test_items_are_always_the_same_and_views_always_new(self):
        data, again = (Synthetic(items=50, tested=20, batch_size=10) for _ in range(2))
        for part, other in zip(data.sets, again.sets, strict=True):
            assert torch.equal(part.images, other.images)
        fixed, other = (batches(data, "test", 0)[0].views for _ in range(2))
        assert fixed.shape == (1, 50, 11)
        assert torch.equal(fixed, other)
        views = batches(data, "train")[0].views
        assert views.shape == (2, 10, 11)
        assert not torch.equal(views[0], views[1])

    def test_the_truth_is_that_of_the_generator(self):
        data = Synthetic(tested=30, batch_size=10)
        (batch,) = batches(data, "test", 1)
        _, concentration = data.source.unmix(batch.views[0])
        truth = data.true_concentration
        torch.testing.assert_close(truth, concentration, rtol=1e-3, atol=1e-3)
        assert truth.min() >= 16
        assert truth.max() <= 32

    def test_a_training_is_held_against_the_truth_and_the_untrained_encoder(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        main([
            "fit", "--data=Synthetic", "--data.tested=300", "--data.items=5000",
            "--model.program=ExpectedLikelihood", "--model.program.encoder=MLP",
            "--model.program.posterior=VonMisesFisherHead", "--model.program.posterior.dim=10",
            "--trainer.max_epochs=6", "--trainer.enable_progress_bar=false", "--run_dir=run",
        ])  # fmt: skip
        metrics = json.loads(Path("run/metrics.json").read_text())
        assert metrics["unc/truth/entropy"] > 0.9
        assert abs(metrics["truth/rank_correlation_untrained"]) < 0.5


@pytest.mark.parametrize(("size", "expected"), [((28, 30), 28), ((90, 70), 70), ((400, 300), 224)])
def test_views_are_as_large_as_the_pictures(tmp_path, size, expected, caplog):
    """And it is said, with what chooses another size."""
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", size).save(tmp_path / part / name / f"{number}.png")
    with caplog.at_level("INFO", logger="probcl"):
        data = Folder(str(tmp_path), batch_size=4, num_workers=0)
    assert f"views of {expected}x{expected} pixels" in caplog.text
    assert "data.augmentation chooses another" in caplog.text
    assert data.example.shape == (1, 3, expected, expected)
    own = Datasets(*data.load(), batch_size=4, num_workers=0)
    assert own.example.shape == (1, 3, expected, expected)
