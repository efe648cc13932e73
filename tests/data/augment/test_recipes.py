"""Whole augmentations: as torchvision's, image by image, and what a batch adds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torch import nn
from torchvision.transforms import v2

from probcl.data import (
    Augmentation,
    AutoAugment,
    ColorJitter,
    Degrade,
    MultiCrop,
    RandomResizedCrop,
    SimAugment,
    StackedRandAugment,
)
from probcl.data.augment import recipes

RECIPES = [SimAugment, AutoAugment, StackedRandAugment]


def test_simaugment_is_distributed_as_torchvisions_of_one_image():
    image = torch.rand(3, 16, 16)
    theirs = v2.Compose(
        [
            v2.RandomResizedCrop(16, scale=(0.2, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
        ]
    )
    expected = torch.stack([theirs(image) for _ in range(1500)])
    ours = SimAugment(16)(image.expand(1500, -1, -1, -1))
    for number in (
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.std((1, 2, 3)),
        lambda x: (x[:, 0] - x[:, 1]).mean((1, 2)),
        lambda x: (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)),
        lambda x: x[:, 0, 3, 4],
    ):
        assert ks_2samp(number(ours).numpy(), number(expected).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_image_gets_a_draw_of_its_own(recipe, monkeypatch):
    monkeypatch.setattr(recipes, "_BLOCK", 20)
    views = recipe(16)(torch.rand(3, 16, 16).expand(64, -1, -1, -1)).flatten(1)
    assert torch.unique(views, dim=0).shape[0] == 64


@pytest.mark.parametrize("recipe", RECIPES)
@settings(max_examples=15)
@given(
    channels=st.sampled_from([1, 3]),
    height=st.integers(4, 40),
    width=st.integers(4, 40),
    size=st.integers(4, 40),
    count=st.integers(1, 5),
    integers=st.booleans(),
)
def test_views_are_images_of_the_size_asked(recipe, channels, height, width, size, count, integers):
    images = torch.randint(256, (count, channels, height, width), dtype=torch.uint8)
    views = recipe(size)(images if integers else images / 255)
    assert views.shape == (count, channels, size, size)
    assert views.dtype == torch.float32
    assert views.min() >= 0
    assert views.max() <= 1 + 1e-6


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_seed_gives_the_same_views(recipe):
    images = torch.rand(30, 3, 16, 16)
    views = []
    for _ in range(2):
        torch.manual_seed(3)
        views.append(recipe(16)(images))
    assert torch.equal(*views)
    assert not torch.equal(views[0], recipe(16)(images))


def test_the_images_given_stay_as_they_are():
    images = torch.rand(10, 3, 16, 16)
    before = images.clone()
    Augmentation(nn.Identity(), [ColorJitter(probability=1.0)])(images)
    StackedRandAugment(16)(images)
    assert torch.equal(images, before)


def test_cropped_images_go_through_the_changes_alone():
    augment = Augmentation(RandomResizedCrop(4), [nn.Hardtanh(0, 0.5)])
    images = torch.rand(10, 3, 7, 7)
    assert torch.equal(augment.view(images), images.clamp(0, 0.5))


def test_multi_crop_gives_views_of_two_sizes_and_areas():
    augment = MultiCrop((24, 8), (2, 3), ((0.5, 1.0), (0.05, 0.1)), changes=[])
    ramp = torch.linspace(0, 1, 48).expand(200, 3, 48, 48)
    views = [augment.view(ramp, crop) for crop in augment.crops(2)]
    assert [tuple(view.shape[1:]) for view in views] == [(3, 24, 24)] * 2 + [(3, 8, 8)] * 3
    span = [(view[..., -1] - view[..., 0]).abs().mean().item() for view in views]
    assert min(span[:2]) > 0.6  # of the ramp, with at least half of the area
    assert max(span[2:]) < 0.35  # with at most a tenth


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("recipe", RECIPES)
def test_views_are_finite_in_every_precision(recipe, dtype):
    images = torch.rand(200, 3, 8, 8)
    images[:100] = images[:100, :1]  # grey
    views = recipe(8)(images.to(dtype))
    assert views.dtype == dtype
    assert views.isfinite().all()
    jittered = ColorJitter(probability=1.0)(images.to(dtype))
    torch.testing.assert_close(jittered[:100, 0], jittered[:100, 1], rtol=0, atol=2e-2)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("channels", [2, 4])
def test_colours_need_one_channel_or_three(recipe, channels):
    with pytest.raises(ValueError, match=f"must have 1 or 3 channels.*got {channels}"):
        recipe(8)(torch.rand(20, channels, 8, 8))


def test_multi_crop_refuses_lists_that_do_not_fit():
    with pytest.raises(ValueError, match="an entry for each kind of view"):
        MultiCrop(sizes=(8, 4), counts=(2,))
    with pytest.raises(ValueError, match="at least 1"):
        MultiCrop(sizes=(8, 4), counts=(2, 0))


def test_views_under_autocast_are_those_without():
    images = torch.rand(4, 3, 16, 16)
    for recipe in (SimAugment(8), Degrade()):
        torch.manual_seed(0)
        plain = recipe(images)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            under = recipe(images)
        torch.testing.assert_close(under, plain)
