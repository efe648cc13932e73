"""Crops of batches against torchvision's crops of one image."""

import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from probcl.data import RandomResizedCrop
from probcl.data.augment.crop import Boxes, resized_crop


def some_boxes(count, height, width):
    top, left = torch.randint(height, (count,)), torch.randint(width, (count,))
    box_height = 1 + (torch.rand(count) * (height - top)).long()
    return Boxes(top, left, box_height, 1 + (torch.rand(count) * (width - left)).long())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (28, 40, 17), (64, 48, 96)])
def test_forced_boxes_and_flips_equal_torchvisions(channels, height, width, size, dtype):
    images = torch.rand(40, channels, height, width, dtype=dtype)
    boxes = some_boxes(40, height, width)
    flipped = torch.arange(40) % 2 == 0
    ours = resized_crop(images, boxes, flipped, size)
    assert ours.dtype == dtype
    for image, row, flip, *box in zip(images, ours, flipped, *boxes, strict=True):
        expected = functional.resized_crop(
            image, *(side.item() for side in box), size=[size, size], antialias=True
        )
        expected = functional.horizontal_flip(expected) if flip else expected
        atol = 1e-12 if dtype == torch.float64 else 5e-6  # positions, by torchvision
        torch.testing.assert_close(row, expected, rtol=0, atol=atol)


def test_bytes_are_taken_as_torchvision_takes_them():
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    boxes = some_boxes(20, 32, 32)
    ours = resized_crop(images, boxes, torch.zeros(20, dtype=torch.bool), 32)
    for image, row, *box in zip(images, ours, *boxes, strict=True):
        expected = functional.resized_crop(image, *(s.item() for s in box), size=[32, 32])
        assert (row * 255 - expected).abs().max() <= 1.01  # torchvision rounds bytes, twice


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (32, 32, (0.2, 1.0), (3 / 4, 4 / 3)),
        (96, 64, (0.08, 1.0), (3 / 4, 4 / 3)),
        (20, 100, (0.5, 1.0), (3 / 4, 4 / 3)),  # too wide: mostly the box at the centre
        (100, 20, (0.5, 1.0), (3 / 4, 4 / 3)),
        (8, 8, (0.01, 0.3), (0.5, 2.0)),
    ],
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale, ratio):
    theirs = v2.RandomResizedCrop(8, scale, ratio)
    image = torch.zeros(3, height, width)
    draws = [theirs.make_params([image]) for _ in range(3000)]
    boxes = RandomResizedCrop(8, scale, ratio).draw(3000, height, width)
    for name, ours in zip(Boxes._fields, boxes, strict=True):
        expected = torch.tensor([draw[name] for draw in draws])
        assert ks_2samp(ours.numpy(), expected.numpy()).pvalue > 1e-3, name
    area = torch.tensor([d["height"] * d["width"] for d in draws])
    assert ks_2samp((boxes.height * boxes.width).numpy(), area.numpy()).pvalue > 1e-3
    assert (boxes.top >= 0).all()
    assert (boxes.top + boxes.height <= height).all()
    assert (boxes.left >= 0).all()
    assert (boxes.left + boxes.width <= width).all()


@pytest.mark.parametrize("flip", [0.0, 0.3, 1.0])
def test_flips_come_as_often_as_asked(flip):
    images = torch.arange(4.0).expand(4000, 1, 4, 4) / 4
    views = RandomResizedCrop(4, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=flip)(images)
    flipped = views[:, 0, 0, 0] > views[:, 0, 0, -1]
    assert flipped.float().mean().item() == pytest.approx(flip, abs=0.03)


def test_the_whole_image_is_resized_as_torchvision_does():
    crop = RandomResizedCrop(20)
    images = torch.rand(3, 1, 33, 50)
    expected = functional.resize(images, [20, 20], antialias=True)
    torch.testing.assert_close(crop.whole(images), expected, rtol=0, atol=1e-6)
    assert torch.equal(crop.whole(expected), expected)


def test_the_transforms_of_one_image_have_its_settings():
    crop = RandomResizedCrop(12, scale=(0.5, 0.6), ratio=(0.9, 1.1), flip=0.2)
    resize, flip = crop.per_image().transforms
    assert (resize.size, resize.scale, resize.ratio) == ((12, 12), (0.5, 0.6), (0.9, 1.1))
    assert flip.p == 0.2
    assert crop.centre_per_image()(torch.rand(3, 40, 60)).shape == (3, 12, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"scale": (0.5, 1.5)}, "scale must give the lowest first and be finite, at most 1"),
        ({"scale": (0.0, 1.0)}, "scale must be two numbers above 0"),
        ({"ratio": (2.0, 1.0)}, "ratio must give the lowest first"),
        ({"flip": 1.5}, "flip must be a probability, from 0 to 1, got 1.5"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomResizedCrop(**({"size": 8} | arguments))
