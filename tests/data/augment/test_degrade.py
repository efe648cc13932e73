"""Degraded views: every kind, at its strength, each image by its own draw."""

import pytest
import torch

from probcl.data import CORRUPTIONS, Degrade
from probcl.data.augment import degrade as module

IMAGES = torch.rand(400, 1, 12, 12)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 20, 30)])
def test_results_are_images(shape, dtype):
    images = torch.rand(16, *shape, dtype=dtype)
    degraded = Degrade()(images)
    assert degraded.shape == images.shape
    assert degraded.dtype == dtype
    assert degraded.min() >= 0
    assert degraded.max() <= 1


def test_images_have_draws_of_their_own_and_stay_as_they_were():
    same = IMAGES[:1].expand(400, -1, -1, -1)
    degraded = Degrade()(same)
    assert torch.equal(same[0], IMAGES[0])
    # But for squares of less than a pixel, which cover none.
    assert len(degraded.flatten(1).unique(dim=0)) > 350


def test_every_kind_is_drawn_about_as_often():
    torch.manual_seed(0)
    covered = Degrade()(torch.ones(400, 1, 12, 12))
    # Of white images: a blur and a loss of contrast change nothing, noise all, a square some.
    share = (covered == 0).flatten(1).float().mean(-1)
    changed = (covered < 1).flatten(1).float().mean(-1)
    assert 60 < (share > 0).logical_and(changed == share).sum() < 140
    assert 60 < (changed > share).sum() < 140
    assert 140 < (changed == 0).sum() < 260
    assert share.max() <= (0.5 * 12 + 1) ** 2 / 144


def test_strength_is_the_largest():
    distances = [
        (Degrade(strength)(IMAGES) - IMAGES).square().mean().item() for strength in (0.1, 0.5, 1)
    ]
    assert distances == sorted(distances)
    assert distances[0] < distances[2] / 5


def test_the_blur_is_that_of_the_corruption():
    amount = torch.full((4, 1, 1, 1), 0.4)
    ours = module._blurred(IMAGES[:4], amount, torch.zeros(2, 4, 1, 1, 1))
    theirs = CORRUPTIONS["gaussian_blur"].apply(IMAGES[:4], 2)  # 0.06 of the height each
    inner = slice(5, -5)
    torch.testing.assert_close(
        ours[..., inner, inner], theirs[..., inner, inner], atol=2e-3, rtol=0
    )


def test_the_contrast_is_lost_towards_the_mean():
    flat = module._flat(IMAGES[:4], torch.ones(4, 1, 1, 1), torch.zeros(0))
    mean = IMAGES[:4].mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(flat, mean + 0.1 * (IMAGES[:4] - mean))


@pytest.mark.parametrize("strength", [0, 1.5, float("nan")])
def test_bad_input(strength):
    with pytest.raises(ValueError, match="strength must be above 0 and at most 1"):
        Degrade(strength)
