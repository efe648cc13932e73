"""Data modules: what a batch holds, in training and in evaluation, from memory and from files."""

from itertools import chain

import pytest
import torch
from torch import nn

from probcl.data import (
    ImageArrays,
    MultiCrop,
    RandomNoise,
    SimAugment,
)
from probcl.training import ImageData, Named
from probcl.training.batch import TEST, TRAIN
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


def batches(data, stage, loader=None):
    data.setup("fit")
    loaders = getattr(data, f"{stage}_dataloader")()
    chosen = loaders if loader is None else loaders[loader]
    made = [data.on_after_batch_transfer(batch, 0) for batch in chosen]
    return [batch for batch in made if batch.part in (None, TRAIN, TEST)]


def rows_of(parts):
    return torch.cat([batch.rows for batch in parts]).tolist()


def test_training_gives_full_shuffled_batches_of_views():
    data = Memory(batch_size=16, views=3, augmentation=SimAugment(8))
    parts = batches(data, "train")
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
        parts = batches(data, "test", loader)
        assert rows_of(parts) == list(range(count))
        views = torch.cat([batch.views for batch in parts], 1)
        assert views.shape == (1, count, 3, 12, 12)
        torch.testing.assert_close(views[0, :, 0, 0, 0], torch.arange(count) / 255)


def test_evaluation_is_in_the_size_of_the_views():
    data = Memory(augmentation=SimAugment(6), batch_size=10)
    assert batches(data, "test", 1)[0].views.shape[-1] == 6
    assert data.example.shape == (1, 3, 6, 6)


def test_any_module_may_augment_images_in_memory():
    data = Memory(augmentation=RandomNoise(0.3), batch_size=10)
    batch = batches(data, "train")[0]
    assert batch.views.shape == (2, 10, 3, 12, 12)
    assert not torch.equal(batch.views[0], batch.views[1])


def test_views_of_different_sizes_come_as_a_list():
    augment = MultiCrop(sizes=(8, 4), counts=(2, 3))
    data = Memory(augmentation=augment, batch_size=10)
    views = batches(data, "train")[0].views
    assert [tuple(view.shape) for view in views] == [(10, 3, 8, 8)] * 2 + [(10, 3, 4, 4)] * 3


def test_images_held_out_are_monitored_and_not_trained_on():
    data = Memory(validation=0.2, monitored=8, batch_size=10, augmentation=SimAugment(8))
    trained = set(rows_of(batches(data, "train")))
    assert len(trained) == 40
    bank, monitored = (rows_of(batches(data, "val", i)) for i in (0, 1))
    assert len(bank) == len(monitored) == 8
    assert trained.isdisjoint(monitored)
    assert trained.issuperset(bank)


@pytest.mark.parametrize(("monitored", "expected"), [(0, 0), (7, 7), (10_000, 25)])
def test_without_validation_two_parts_of_the_training_images_are_monitored(monitored, expected):
    data = Memory(monitored=monitored, batch_size=10, augmentation=SimAugment(8))
    data.setup("fit")
    loaders = data.val_dataloader()
    rows = [rows_of(batches(data, "val", i))
            for i in range(len(loaders))]  # fmt: skip
    assert [len(part) for part in rows] == ([expected] * 2 if expected else [])
    assert not rows or set(rows[0]).isdisjoint(rows[1])


def test_most_images_may_be_held_out_and_none_is_compared_with_itself():
    data = Memory(validation=0.8, monitored=40, batch_size=10, augmentation=SimAugment(8))
    trained = set(rows_of(batches(data, "train")))
    bank, monitored = (rows_of(batches(data, "val", i)) for i in (0, 1))
    assert len(bank) == len(monitored) == len(trained) == 10
    assert trained == set(bank)
    assert trained.isdisjoint(monitored)


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
    assert batches(data, "test", 1)[0].views.shape[2] == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_be_chosen(channels):
    class Other(Memory):
        def load(self):
            parts = super().load()
            return [ImageArrays(p.images[:, : 4 - channels], p.labels) for p in parts]

    data = Other(batch_size=10, channels=channels, augmentation=SimAugment(8))
    assert batches(data, "train")[0].views.shape[2] == channels
    assert data.example.shape[1] == channels


class Unlabelled(Memory):
    def load(self):
        return *super().load(), ImageArrays(torch.zeros(30, 3, 12, 12))


def test_unlabelled_images_are_trained_on_and_the_labelled_ones_evaluated():
    data = Unlabelled(batch_size=10, augmentation=SimAugment(8))
    assert all(b.labels is None for b in batches(data, "train"))
    assert len(rows_of(batches(data, "test", 0))) == 50


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


class TestDegradedViews:
    """Of the views of a pair, the last is degraded where it is asked for."""

    def views(self, **options):
        data = Named("Digits", augmentation=nn.Identity(), batch_size=64, num_workers=0, **options)
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
