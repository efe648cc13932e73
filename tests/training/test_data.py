"""Data modules: what a batch holds, in training and in evaluation, from memory and from files."""

from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import Precision
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from probcl.data import (
    Augmentation,
    ImageArrays,
    MultiCrop,
    RandomNoise,
    RandomResizedCrop,
    SimAugment,
)
from probcl.training import Batch, Datasets, Folder, ImageData, Named
from probcl.training.sampler import shuffled_batches


class Memory(ImageData):
    """Images whose pixels tell their row."""

    def __init__(self, count=50, size=12, **kwargs):
        super().__init__(**kwargs)
        self.count, self.size = count, size

    def load(self):
        images = torch.arange(self.count)[:, None, None, None].expand(-1, 3, self.size, self.size)
        labels = torch.arange(self.count) % 5
        return ImageArrays(images, labels), ImageArrays(images[:20], labels[:20])


class Trainer:
    """As much of a Trainer as a data module asks for."""

    global_rank, world_size, num_training_batches = 0, 1, 10**6
    overfit_batches, limit_test_batches = 0.0, 0.5  # without changes of the test images
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    precision_plugin = Precision()

    def __init__(self, training):
        self.training = training
        progress = SimpleNamespace(total=SimpleNamespace(completed=0))
        self.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))


def batches(data, training, loader):
    data.trainer = Trainer(training)
    data.setup("fit")
    return [data.on_after_batch_transfer(batch, 0) for batch in loader(data)]


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


def test_training_gives_full_shuffled_batches_of_views():
    data = Memory(batch_size=16, views=3, augmentation=SimAugment(8))
    parts = batches(data, True, ImageData.train_dataloader)
    assert [batch.views.shape for batch in parts] == [(3, 16, 3, 8, 8)] * 3
    rows = rows_of(parts)
    assert len(set(rows)) == 48
    assert rows != sorted(rows)
    for batch in parts:
        assert torch.equal(batch.labels, batch.rows % 5)
        assert batch.views.dtype == torch.float32
        assert not torch.equal(batch.views[0], batch.views[1])


def test_evaluation_gives_every_image_once_as_it_is():
    data = Memory(batch_size=16, augmentation=SimAugment(12))
    for loader, count in zip((0, 1), (50, 20), strict=True):
        parts = batches(data, False, lambda d, i=loader: d.test_dataloader()[i])
        assert rows_of(parts) == list(range(count))
        views = torch.cat([batch.views for batch in parts], 1)
        assert views.shape == (1, count, 3, 12, 12)
        torch.testing.assert_close(views[0, :, 0, 0, 0], torch.arange(count) / 255)


def test_evaluation_is_in_the_size_of_the_views():
    data = Memory(augmentation=SimAugment(6), batch_size=10)
    assert batches(data, False, lambda d: d.test_dataloader()[1])[0].views.shape[-1] == 6
    assert data.example.shape == (1, 3, 6, 6)


def test_any_module_may_augment_images_in_memory():
    data = Memory(augmentation=RandomNoise(0.3), batch_size=10)
    batch = batches(data, True, ImageData.train_dataloader)[0]
    assert batch.views.shape == (2, 10, 3, 12, 12)
    assert not torch.equal(batch.views[0], batch.views[1])


def test_views_of_different_sizes_come_as_a_list():
    augment = MultiCrop(sizes=(8, 4), counts=(2, 3))
    data = Memory(augmentation=augment, batch_size=10)
    views = batches(data, True, ImageData.train_dataloader)[0].views
    assert [tuple(view.shape) for view in views] == [(10, 3, 8, 8)] * 2 + [(10, 3, 4, 4)] * 3


def test_images_held_out_are_watched_and_not_trained_on():
    data = Memory(validation=0.2, monitored=8, batch_size=10, augmentation=SimAugment(8))
    trained = set(rows_of(batches(data, True, ImageData.train_dataloader)))
    assert len(trained) == 40
    bank, watched = (
        rows_of(batches(data, False, lambda d, i=i: d.val_dataloader()[i])) for i in (0, 1)
    )
    assert len(bank) == len(watched) == 8
    assert trained.isdisjoint(watched)
    assert trained.issuperset(bank)


@pytest.mark.parametrize(("monitored", "expected"), [(0, 0), (7, 7), (10_000, 25)])
def test_without_validation_two_parts_of_the_training_images_are_watched(monitored, expected):
    data = Memory(monitored=monitored, batch_size=10, augmentation=SimAugment(8))
    data.setup("fit")
    loaders = data.val_dataloader()
    rows = [rows_of(batches(data, False, lambda d, i=i: [*d.val_dataloader()[i]]))
            for i in range(len(loaders))]  # fmt: skip
    assert [len(part) for part in rows] == ([expected] * 2 if expected else [])
    assert not rows or set(rows[0]).isdisjoint(rows[1])


def test_most_images_may_be_held_out_and_none_is_compared_with_itself():
    data = Memory(validation=0.8, monitored=40, batch_size=10, augmentation=SimAugment(8))
    trained = set(rows_of(batches(data, True, ImageData.train_dataloader)))
    bank, watched = (
        rows_of(batches(data, False, lambda d, i=i: d.val_dataloader()[i])) for i in (0, 1)
    )
    assert len(bank) == len(watched) == len(trained) == 10
    assert trained == set(bank)
    assert trained.isdisjoint(watched)


def test_the_order_follows_from_the_seed_and_changes_with_the_epoch():
    def orders(seed):
        torch.manual_seed(seed)
        data = Memory(batch_size=16, augmentation=SimAugment(8))
        data.setup("fit")
        loader = data.train_dataloader()
        return [[row for batch in loader for row in batch[2].tolist()] for _ in range(2)]

    first, second = orders(1)
    assert first != second
    assert orders(1) == [first, second]
    assert orders(2)[0] != first


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_batches_of_one_process(world_size):
    options = {"seed": 5, "epoch": 3}
    whole = shuffled_batches(range(100, 200), 12, **options)
    parts = [
        shuffled_batches(
            range(100, 200), 12 // world_size, **options, rank=r, world_size=world_size
        )
        for r in range(world_size)
    ]
    assert [list(chain(*batches)) for batches in zip(*parts, strict=True)] == whole
    assert len(whole) == 8


def test_images_on_the_device_give_an_example_on_the_cpu(monkeypatch):
    data = Memory(batch_size=10, augmentation=RandomNoise())
    data.sets[0].reside(torch.device("meta"))
    assert data.sets[0].images.device.type == "meta"
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape))
    assert data.example.device.type == "cpu"


def test_training_and_test_images_must_have_as_many_channels():
    class Mismatched(Memory):
        def load(self):
            train, test = super().load()
            return train, ImageArrays(test.images[:, :1], test.labels)

    with pytest.raises(ValueError, match="have 3 channels and the test images 1: give both"):
        Mismatched(batch_size=10).setup("fit")
    data = Mismatched(batch_size=10, channels=3, augmentation=SimAugment(8))
    assert batches(data, False, lambda d: d.test_dataloader()[1])[0].views.shape[2] == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_be_chosen(channels):
    class Other(Memory):
        def load(self):
            parts = super().load()
            return [ImageArrays(p.images[:, : 4 - channels], p.labels) for p in parts]

    data = Other(batch_size=10, channels=channels, augmentation=SimAugment(8))
    assert batches(data, True, ImageData.train_dataloader)[0].views.shape[2] == channels
    assert data.example.shape[1] == channels


class Unlabelled(Memory):
    def load(self):
        return *super().load(), ImageArrays(torch.zeros(30, 3, 12, 12))


def test_unlabelled_images_are_trained_on_and_the_labelled_ones_evaluated():
    data = Unlabelled(batch_size=10, augmentation=SimAugment(8))
    assert all(b.labels is None for b in batches(data, True, ImageData.train_dataloader))
    assert len(rows_of(batches(data, False, lambda d: d.test_dataloader()[0]))) == 50


@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_cropped_by_workers_and_changed_on_the_device(folder, workers):
    data = Folder(str(folder), augmentation=SimAugment(16), batch_size=8, num_workers=workers)
    parts = batches(data, True, ImageData.train_dataloader)
    assert [batch.views.shape for batch in parts] == [(2, 8, 3, 16, 16)] * 3
    for batch in parts:
        assert isinstance(batch, Batch)
        assert torch.equal(batch.labels, batch.rows // 10)
        assert not torch.equal(batch.views[0], batch.views[1])
    test = batches(data, False, lambda d: d.test_dataloader()[1])
    assert rows_of(test) == list(range(12))
    brightness = torch.cat([batch.views[0] for batch in test]).mean((1, 2, 3)) * 255
    assert torch.equal((brightness / 80).long(), torch.arange(12) // 4)
    assert data.example.shape == (1, 3, 16, 16)


def test_the_centre_of_a_file_is_what_torchvision_cuts(folder):
    data = Folder(str(folder), augmentation=SimAugment(16), num_workers=0, batch_size=30)
    batch = batches(data, False, lambda d: d.test_dataloader()[1])[0]
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
    parts = batches(data, True, ImageData.train_dataloader)
    assert len(rows_of(parts)) in (25, 29)
    assert data.unreadable == {str(broken)}
    data = Folder(str(folder), in_memory=in_memory, **options)
    with pytest.raises(ValueError, match=r"bee/3.png cannot be decoded"):
        batches(data, True, ImageData.train_dataloader)


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
    parts = batches(data, False, lambda d: d.test_dataloader()[1])
    assert [len(batch.rows) for batch in parts] == [4, 4, 0]
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
    parts = batches(data, True, ImageData.train_dataloader)
    assert [batch.views.shape for batch in parts] == [(2, 10, 3, 8, 8)] * 2
    assert all(torch.equal(batch.labels, batch.rows % 2) for batch in parts)
    assert len(rows_of(batches(data, False, lambda d: d.val_dataloader()[1]))) == 5


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
        batches(data, True, ImageData.train_dataloader)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"views": 1}, "views must be at least 2, got 1"),
        ({"validation": 1.0}, "validation must be a share from 0 to less than 1, got 1.0"),
        ({"monitored": -1}, "monitored must be at least 0, got -1"),
        ({"num_workers": -2}, "num_workers must be at least 0, got -2"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Named("Digits", **arguments)


def test_a_batch_larger_than_what_is_left_is_refused():
    with pytest.raises(ValueError, match="batch_size is 45, but the data set has 40 training"):
        Memory(batch_size=45, validation=0.2).setup("fit")


def test_an_augmentation_of_ones_own_begins_with_the_crop(folder):
    augment = Augmentation(RandomResizedCrop(10, flip=0.0), [RandomNoise(0.1)])
    data = Folder(str(folder), augmentation=augment, batch_size=10, num_workers=0)
    assert batches(data, True, ImageData.train_dataloader)[0].views.shape[-1] == 10


class TestDegradedViews:
    """Of the views of a pair, the last is degraded where it is asked for."""

    def views(self, **options):
        data = Named("Digits", augmentation=nn.Identity(), batch_size=64, num_workers=0, **options)
        data.trainer = Trainer(training=True)
        images = data.sets[0].images[:64]
        batch = data.on_after_batch_transfer((images, torch.zeros(64), torch.arange(64)), 0)
        return images, batch.views

    def test_none_by_default(self):
        images, views = self.views()
        assert all(torch.equal(view, images) for view in views)

    @pytest.mark.parametrize("degraded", [1, 2])
    def test_the_last_ones(self, degraded):
        images, views = self.views(degraded_views=degraded)
        assert [torch.equal(view, images) for view in views] == [degraded < 2, False]

    def test_not_more_than_there_are(self):
        with pytest.raises(
            ValueError, match="degraded_views must be from 0 to 2, the views, got 3"
        ):
            Named("Digits", degraded_views=3)


def test_images_of_another_set_are_loaded_after_those_of_the_test_set():
    data = Named("Digits", batch_size=64, out_of_distribution=Named("Digits"))
    assert [len(loader.dataset) for loader in data.test_dataloader()] == [1437, 360, 360]
    assert len(data.predict_dataloader()) == 2
    assert data.out_of_distribution.set_name == "digits"
