"""Corruptions: graded, the same for an image wherever it comes, and what their rows say."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d
from scipy.stats import kstest
from torch.nn.functional import avg_pool2d, interpolate

from probcl.data import CORRUPTIONS, OUT_OF_DISTRIBUTION, SEVERITIES

torch.manual_seed(0)
SMOOTH = interpolate(torch.rand(20, 3, 7, 7), (32, 32), mode="bicubic").clamp(0, 1)
GREY = torch.full((30, 1, 40, 40), 0.5)
EVERY = [*CORRUPTIONS, *OUT_OF_DISTRIBUTION]
MOVING = ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur",
          "elastic_transform", "pixelate", "contrast"]  # fmt: skip


def change(name, images, severity=3, rows=None):
    """Apply a row of either table."""
    if name in CORRUPTIONS:
        return CORRUPTIONS[name].apply(images, severity, rows)
    return OUT_OF_DISTRIBUTION[name].apply(images, rows)


def test_there_are_the_fifteen_of_imagenet_c_and_two_more():
    assert list(CORRUPTIONS)[-2:] == ["gaussian_blur", "occlusion"]
    assert (len(CORRUPTIONS), len(OUT_OF_DISTRIBUTION)) == (17, 4)
    assert (
        len({row.meaning for row in (*CORRUPTIONS.values(), *OUT_OF_DISTRIBUTION.values())}) == 21
    )


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 23, 30), (2, 9, 9)])
@pytest.mark.parametrize("name", EVERY)
def test_an_image_is_changed_alike_in_every_batch_order_and_layout(name, shape):
    images, rows = torch.rand(7, *shape), torch.tensor([4, 0, 999, 17, 5, 123_456_789, 6])
    whole = change(name, images, rows=rows)
    order = torch.tensor([3, 6, 0, 2, 5, 1, 4])
    assert torch.equal(change(name, images[order], rows=rows[order]), whole[order])
    for size in (1, 2, 5):
        parts = zip(images.split(size), rows.split(size), strict=True)
        assert torch.equal(torch.cat([change(name, *part, rows=r) for *part, r in parts]), whole)
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(change(name, last, rows=rows), whole)
    shifted = torch.rand(images.numel() + 1)[1:].view_as(images).copy_(images)  # elsewhere aligned
    assert torch.equal(change(name, shifted, rows=rows), whole)


@pytest.mark.parametrize("name", EVERY)
def test_rows_count_from_0_and_the_global_random_state_is_left_alone(name):
    images = SMOOTH[:3]
    state = torch.get_rng_state()
    assert torch.equal(change(name, images), change(name, images, rows=torch.arange(3)))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", EVERY)
def test_an_image_is_changed_alike_on_every_device(name):
    changed = change(name, SMOOTH.cuda())
    assert changed.is_cuda
    assert torch.equal(changed.cpu(), change(name, SMOOTH))


def test_rows_have_draws_of_their_own():
    rows = torch.arange(4000)
    draws = OUT_OF_DISTRIBUTION["noise_only"].apply(torch.zeros(4000, 1, 2, 2), rows).flatten(1)
    for column in draws.T:  # the first draws of each seed, across the seeds
        assert kstest(column.numpy(), "uniform").pvalue > 1e-3
    assert torch.corrcoef(draws.T).fill_diagonal_(0).abs().max() < 0.06
    assert np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1] == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_change_grows_with_severity(name):
    changes = [(change(name, SMOOTH, s) - SMOOTH).square().mean().item() for s in SEVERITIES]
    assert changes[0] > 0
    if name == "pixelate":  # where few pixels are lost, those that stay are shifted by up to half
        changes = [max(changes[:4]), changes[4]]
    assert changes == sorted(changes)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 45, 60)])
def test_results_are_images(name, shape, dtype):
    images = torch.rand(2, *shape, dtype=dtype)
    for severity in (1, 5) if name in CORRUPTIONS else (1,):
        changed = change(name, images, severity)
        assert changed.shape == (images.mT if name == "rotated" else images).shape
        assert changed.dtype == dtype
        assert changed.min() >= -1e-6
        assert changed.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", EVERY)
def test_the_precision_of_the_images_decides_nothing(name):
    images = (SMOOTH[:3] * 255).round() / 255
    expected = change(name, images)
    torch.testing.assert_close(change(name, images.double()).float(), expected, atol=1e-5, rtol=0)
    half = images.bfloat16()
    assert torch.equal(change(name, half), change(name, half.float()).bfloat16())
    levels = (images * 255).round().byte()
    torch.testing.assert_close(change(name, levels), expected, atol=1e-6, rtol=0)


def test_bad_arguments_are_refused():
    corruption, images = CORRUPTIONS["fog"], GREY[:4]
    for severity in (0, 6, 1.5):
        with pytest.raises(ValueError, match=f"severity must be 1, 2, 3, 4 or 5, got {severity}"):
            corruption.apply(images, severity)
    with pytest.raises(ValueError, match=r"images must have shape .* got \(4, 40, 40\)"):
        corruption.apply(images[:, 0], 1)
    for rows in (torch.arange(3), torch.arange(4)[None]):
        with pytest.raises(ValueError, match=r"rows must have shape \(4,\)"):
            corruption.apply(images, 1, rows)


def test_gaussian_blur_is_that_of_scipy():
    images = torch.rand(2, 1, 40, 40)
    expected = gaussian_filter(images[:, 0].numpy(), sigma=(0, 2.4, 2.4), mode="mirror", truncate=3)
    ours = change("gaussian_blur", images, 2)[:, 0].numpy()
    assert abs(ours - expected).max() < 0.005


def test_defocus_is_a_convolution_with_a_disc():
    images = torch.rand(2, 3, 20, 24, dtype=torch.float64)
    place = np.arange(-2, 3)  # at severity 2 the radius is 0.5 + 0.04 * 20 pixels
    disc = np.clip(1.8 - np.hypot(place[:, None], place), 0, 1)
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    ours = change("defocus_blur", images, 2)
    for image, plane in zip(ours.flatten(0, 1), padded.reshape(-1, 24, 28), strict=True):
        expected = convolve2d(plane, disc / disc.sum(), mode="valid")
        np.testing.assert_allclose(image, expected, atol=1e-7)


def test_noise_has_the_moments_of_its_law():
    noisy = change("gaussian_noise", GREY, 1)
    assert noisy.std().item() == pytest.approx(0.08, rel=0.02)
    shot = change("shot_noise", GREY, 1)
    assert shot.mean().item() == pytest.approx(0.5, abs=0.005)
    assert shot.std().item() == pytest.approx((0.5 / 48) ** 0.5, rel=0.02)
    impulse = change("impulse_noise", GREY, 4)
    assert (impulse != GREY).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (impulse == 1).float().mean().item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("name", MOVING)
def test_what_is_the_same_throughout_stays_so_where_pixels_only_move(name):
    grey = torch.full((2, 3, 32, 32), 0.3)
    torch.testing.assert_close(change(name, grey, 5), grey)


def test_closed_forms():
    torch.testing.assert_close(change("brightness", SMOOTH, 2), (SMOOTH + 0.2).clamp(max=1))
    mean = SMOOTH.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(change("contrast", SMOOTH, 5), mean + 0.1 * (SMOOTH - mean))
    images = torch.rand(2, 1, 25, 25)  # 25 to 5 pixels a side
    pooled = avg_pool2d(images, 5).repeat_interleave(5, -1).repeat_interleave(5, -2)
    torch.testing.assert_close(change("pixelate", images, 5), pooled)
    covered = change("occlusion", torch.ones(5, 1, 20, 20), 4)  # a square of 8 pixels a side
    torch.testing.assert_close((1 - covered).sum((1, 2, 3)), torch.full((5,), 64.0))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_that_of_pillow(severity):
    quality = {1: 40, 2: 25, 3: 15, 4: 10, 5: 6}[severity]
    for images, mode in ((SMOOTH[:4], "RGB"), (SMOOTH[:4, :1], "L")):
        ours = change("jpeg_compression", images, severity)
        for before, after in zip(images, ours, strict=True):
            file = io.BytesIO()
            pixels = (before * 255).round().byte().permute(1, 2, 0).squeeze(-1).numpy()
            Image.fromarray(pixels, mode).save(file, "JPEG", quality=quality)
            theirs = np.asarray(Image.open(file)).reshape(32, 32, -1) / 255
            assert np.abs(after.permute(1, 2, 0).numpy() - theirs).max() < 1e-6


def test_inputs_out_of_distribution_are_what_they_are_called():
    assert torch.equal(change("inverted", SMOOTH), 1 - SMOOTH)
    assert torch.equal(change("rotated", SMOOTH)[3, 0], SMOOTH[3, 0].rot90())
    numbered = torch.arange(64.0).div(64).view(1, 1, 8, 8).expand(3, 2, -1, -1)
    shuffled = change("shuffled", numbered)
    assert torch.equal(shuffled.flatten(2).sort().values, numbered.flatten(2))
    assert torch.equal(shuffled, shuffled[:1, :1].expand_as(shuffled))
    assert not torch.equal(shuffled, numbered)


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
def test_jpeg_is_that_of_torchvision():
    """As long as it has one: another build of another library."""
    io = pytest.importorskip("torchvision.io")
    ours = change("jpeg_compression", SMOOTH, 5)
    for before, after in zip(SMOOTH, ours, strict=True):
        content = io.encode_jpeg((before * 255).round().byte(), quality=6)
        theirs = io.decode_jpeg(content) / 255
        assert (after - theirs).abs().mean() < 2e-3


@pytest.mark.parametrize("name", [*CORRUPTIONS])
def test_neither_the_default_precision_nor_autocast_decides_anything(name):
    images = torch.rand(2, 1, 12, 12)
    plain = CORRUPTIONS[name].apply(images, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(CORRUPTIONS[name].apply(images, 3), plain)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(CORRUPTIONS[name].apply(images, 3), plain)
    finally:
        torch.set_default_dtype(torch.float32)
