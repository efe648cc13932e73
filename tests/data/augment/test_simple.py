"""Batched augmentation against torchvision's, one image at a time."""

import math

import pytest
import torch
from torchvision.transforms.v2.functional import InterpolationMode, affine

from probcl.data import CORRUPTIONS, Degrade, RandomAffine, RandomContrast, RandomNoise
from probcl.data.augment import simple

IMAGES = torch.rand(400, 1, 12, 12)


def smooth_images(count, size=33):
    """Images whose values change slowly, so that interpolation hardly matters."""
    grid = torch.linspace(-1, 1, size)
    centre = torch.linspace(-0.3, 0.3, count)[:, None, None, None]
    return torch.exp(-4 * ((grid - centre) ** 2 + (grid[:, None] + 0.2) ** 2))


def test_affine_with_forced_amounts_equals_torchvisions(monkeypatch):
    images = smooth_images(3)
    amount = torch.tensor([[1.0, -1.0, 0.5], [0.6, -1.0, 0.0], [1.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: (amount + 1) / 2)
    ours = RandomAffine(degrees=20, scale=0.2, translate=0.1)(images)
    for image, row, (angle, size, left, up) in zip(images, ours, amount.T, strict=True):
        scale = math.exp(math.log(1.2) * size)
        theta, shift = math.radians(20 * angle), 0.1 * 33 * torch.stack([left, up])
        # Ours shifts the sampled positions, torchvision the image: undo the turn and the sign.
        rotated = torch.tensor(
            [[math.cos(theta), math.sin(theta)], [-math.sin(theta), math.cos(theta)]]
        )
        moved = -scale * rotated @ shift.double().float()
        expected = affine(
            image, angle=float(-20 * angle), translate=moved.tolist(), scale=scale, shear=[0, 0],
            interpolation=InterpolationMode.BILINEAR,
        )  # fmt: skip
        inner = (..., slice(8, -8), slice(8, -8))
        torch.testing.assert_close(row[inner], expected[inner], atol=0.02, rtol=0)


def test_affine_without_amounts_changes_nothing():
    images = torch.rand(4, 3, 9, 9)
    torch.testing.assert_close(RandomAffine(0, 0, 0)(images), images)


def test_affine_turns_without_shear_whatever_the_shape(monkeypatch):
    wide = torch.zeros(1, 1, 21, 81)
    wide[0, 0, 10, 30:51] = 1
    amount = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: (amount + 1) / 2)
    turned = RandomAffine(degrees=45)(wide)[0, 0]
    rows, columns = torch.nonzero(turned > 0.3, as_tuple=True)
    assert abs((rows.max() - rows.min()) - (columns.max() - columns.min())) <= 1


def test_every_image_gets_its_own_draw():
    images = smooth_images(1).expand(64, 1, 33, 33)
    for augment in (RandomAffine(), RandomContrast(), RandomNoise()):
        views = augment(images).flatten(1)
        assert torch.unique(views, dim=0).shape[0] == 64


def test_contrast_keeps_means_and_scales_deviations():
    images = torch.rand(500, 1, 8, 8)
    views = RandomContrast(0.5)(images)
    torch.testing.assert_close(views.mean((1, 2, 3)), images.mean((1, 2, 3)))
    kept = views.flatten(1).std(1) / images.flatten(1).std(1)
    assert kept.min() >= 0.5
    assert kept.max() <= 1
    assert kept.mean() == pytest.approx(0.75, abs=0.03)  # uniform in [0.5, 1]


def test_noise_has_the_strength_it_says():
    images = torch.full((2000, 1, 8, 8), 0.5)
    noise = RandomNoise(0.1)(images) - 0.5
    assert noise.mean().item() == pytest.approx(0, abs=1e-3)
    assert noise.square().mean().item() == pytest.approx(0.1**2 / 3, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 20, 30)])
def test_degraded_views_are_images(shape, dtype):
    images = torch.rand(16, *shape, dtype=dtype)
    degraded = Degrade()(images)
    assert degraded.shape == images.shape
    assert degraded.dtype == dtype
    assert degraded.min() >= 0
    assert degraded.max() <= 1


def test_degrading_draws_for_each_image_and_leaves_it_as_it_was():
    same = IMAGES[:1].expand(400, -1, -1, -1)
    degraded = Degrade()(same)
    assert torch.equal(same[0], IMAGES[0])
    # But for squares of less than a pixel, which cover none.
    assert len(degraded.flatten(1).unique(dim=0)) > 350


def test_every_kind_of_degradation_is_drawn_about_as_often():
    torch.manual_seed(0)
    covered = Degrade()(torch.ones(400, 1, 12, 12))
    # Of white images: a blur and a loss of contrast change nothing, noise all, a square some.
    share = (covered == 0).flatten(1).float().mean(-1)
    changed = (covered < 1 - 1e-6).flatten(1).float().mean(-1)
    assert 60 < (share > 0).logical_and(changed == share).sum() < 140
    assert 60 < (changed > share).sum() < 140
    assert 140 < (changed == 0).sum() < 260
    assert share.max() <= (0.5 * 12 + 1) ** 2 / 144


def test_the_strength_of_degradation_is_the_largest():
    distances = [
        (Degrade(strength)(IMAGES) - IMAGES).square().mean().item() for strength in (0.1, 0.5, 1)
    ]
    assert distances == sorted(distances)
    assert distances[0] < distances[2] / 5


def test_the_blur_is_that_of_the_corruption():
    amount = torch.full((4, 1, 1, 1), 0.4)
    ours = simple._blurred(IMAGES[:4], amount, torch.zeros(2, 4, 1, 1, 1))
    theirs = CORRUPTIONS["gaussian_blur"].apply(IMAGES[:4], 2)  # 0.06 of the height each
    inner = slice(5, -5)
    torch.testing.assert_close(
        ours[..., inner, inner], theirs[..., inner, inner], atol=2e-3, rtol=0
    )


def test_the_contrast_of_degraded_views_is_lost_towards_the_mean():
    flat = simple._flat(IMAGES[:4], torch.ones(4, 1, 1, 1), torch.zeros(0))
    mean = IMAGES[:4].mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(flat, mean + 0.1 * (IMAGES[:4] - mean))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomContrast(5.0), "strength must be a probability, from 0 to 1, got 5.0"),
        (lambda: RandomNoise(-0.1), "strength must be a finite number of at least 0, got -0.1"),
        (lambda: RandomAffine(scale=-2), "scale must be a finite number of at least 0, got -2"),
        (lambda: RandomAffine(degrees=float("nan")), "degrees must be a finite number"),
        (lambda: RandomAffine(translate=float("inf")), "translate must be a finite number"),
    ],
)
def test_bad_amounts_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("strength", [0, 1.5, float("nan")])
def test_a_bad_strength_is_refused(strength):
    with pytest.raises(ValueError, match="strength must be above 0 and at most 1"):
        Degrade(strength)
