"""Corruptions: graded, repeatable, of images of any size, and what their names say."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.nn.functional import avg_pool2d, interpolate

from probcl.data import load_digits
from probcl.data.corruptions import CORRUPTIONS, SEVERITIES, STANDARD, UNFAMILIAR

DIGITS = load_digits()[1].images[:50]
torch.manual_seed(0)
SMOOTH = interpolate(torch.rand(50, 3, 7, 7), (32, 32), mode="bicubic").clamp(0, 1)


def test_there_are_the_fifteen_of_imagenet_c_and_two_more():
    assert len(STANDARD) == 15
    assert set(CORRUPTIONS) == {*STANDARD, "gaussian_blur", "occlusion"}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_change_grows_with_severity(name):
    changes = [(CORRUPTIONS[name](SMOOTH, s) - SMOOTH).square().mean().item() for s in SEVERITIES]
    assert changes[0] > 0
    if name == "pixelate":  # where few pixels are lost, those that stay are shifted by up to half
        changes = [max(changes[:4]), changes[4]]
    assert changes == sorted(changes)


@pytest.mark.parametrize("name", [*CORRUPTIONS, *UNFAMILIAR])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 45, 60)])
def test_results_are_images_and_the_same_each_time(name, shape, dtype):
    images = torch.rand(4, *shape, dtype=dtype)
    changes = (
        (UNFAMILIAR[name],)
        if name in UNFAMILIAR
        else tuple(lambda images, s=s: CORRUPTIONS[name](images, s) for s in (1, 5))
    )
    if name == "rotated" and shape[1] != shape[2]:
        pytest.skip("a right angle turns the sides of an image")
    for change in changes:
        changed = change(images)
        assert changed.shape == images.shape
        assert changed.dtype == dtype
        assert changed.min() >= -1e-6
        assert changed.max() <= 1 + 1e-6
        assert torch.equal(changed, change(images))


@pytest.mark.parametrize("severity", [0, 6])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_other_severities_are_refused(name, severity):
    with pytest.raises(ValueError, match=f"severity must be 1, 2, 3, 4 or 5, got {severity}"):
        CORRUPTIONS[name](DIGITS, severity)


def test_blur_is_a_gaussian_filter():
    images = torch.rand(3, 1, 40, 40)
    expected = gaussian_filter(images[:, 0].numpy(), sigma=(0, 2.4, 2.4), mode="mirror", truncate=6)
    inner = slice(10, -10)
    ours = CORRUPTIONS["gaussian_blur"](images, 2)[:, 0].numpy()
    assert abs(ours[:, inner, inner] - expected[:, inner, inner]).max() < 0.01


def test_noise_has_the_moments_of_its_law():
    grey = torch.full((20, 1, 50, 50), 0.5)
    noisy = CORRUPTIONS["gaussian_noise"](grey, 1)
    assert noisy.std().item() == pytest.approx(0.08, rel=0.02)
    shot = CORRUPTIONS["shot_noise"](grey, 1)
    assert shot.mean().item() == pytest.approx(0.5, abs=0.005)
    assert shot.std().item() == pytest.approx((0.5 / 48) ** 0.5, rel=0.02)
    impulse = CORRUPTIONS["impulse_noise"](grey, 4)
    assert (impulse != grey).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (impulse == 1).float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_what_is_the_same_throughout_stays_so_where_pixels_only_move():
    grey = torch.full((2, 3, 32, 32), 0.3)
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur",
                 "elastic_transform", "pixelate", "contrast"):  # fmt: skip
        torch.testing.assert_close(CORRUPTIONS[name](grey, 5), grey, msg=name)


def test_closed_forms():
    torch.testing.assert_close(CORRUPTIONS["brightness"](SMOOTH, 2), (SMOOTH + 0.2).clamp(max=1))
    mean = SMOOTH.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(CORRUPTIONS["contrast"](SMOOTH, 5), mean + 0.1 * (SMOOTH - mean))
    images = torch.rand(2, 1, 25, 25)  # 25 to 5 pixels a side
    pooled = avg_pool2d(images, 5).repeat_interleave(5, -1).repeat_interleave(5, -2)
    torch.testing.assert_close(CORRUPTIONS["pixelate"](images, 5), pooled)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_that_of_pillow(severity):
    quality = {1: 40, 2: 25, 3: 15, 4: 10, 5: 6}[severity]
    grey = SMOOTH[:6, :1]
    ours = CORRUPTIONS["jpeg_compression"](grey, severity)
    for before, after in zip(grey, ours, strict=True):
        file = io.BytesIO()
        pixels = (before[0] * 255).round().byte().numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        theirs = np.asarray(Image.open(file)) / 255
        # Theirs rounds the pixels too, so that a coefficient may fall on the other side.
        assert np.abs(after[0].numpy() - theirs).mean() < 0.01


def test_unfamiliar_inputs_are_what_they_are_called():
    assert torch.equal(UNFAMILIAR["inverted"](DIGITS), 1 - DIGITS)
    assert torch.equal(UNFAMILIAR["rotated"](DIGITS)[0, 0], DIGITS[0, 0].rot90())
    shuffled = UNFAMILIAR["shuffled"](DIGITS)
    assert torch.equal(shuffled.flatten(1).sort().values, DIGITS.flatten(1).sort().values)
    assert not torch.equal(shuffled, DIGITS)
