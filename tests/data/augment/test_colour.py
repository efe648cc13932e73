"""Changes of colour of batches against torchvision's of one image."""

import math
from itertools import permutations

import pytest
import torch
from scipy.stats import chisquare, ks_2samp, kstest
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from probcl.data import ColorJitter, GaussianBlur, RandomGrayscale
from probcl.data.augment.colour import gaussian_blur, jitter

CHANGES = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)


def colourful(count, dtype=torch.float32):
    """Random images, with pixels that are grey, black, white and of two equal channels."""
    images = torch.rand(count, 3, 9, 11, dtype=dtype)
    images[:, :, 0] = images[:, :1, 0]
    images[:, :, 1], images[:, :, 2] = 0, 1
    images[:, 1, 3] = images[:, 0, 3]
    images[:, 2, 4] = images[:, 1, 4]
    images[:, 0, 5] = images[:, 2, 5]
    return images


@pytest.mark.parametrize("channels", [1, 3])
def test_forced_factors_and_orders_equal_torchvisions(channels):
    orders = torch.tensor(list(permutations(range(4)))).T
    images = colourful(24)[:, :channels]
    factors = torch.rand(4, 24) * 2
    factors[3] -= 1
    factors[3] /= 2  # hue in turns, from -1/2 to 1/2
    for image, row, order, factor in zip(
        images, jitter(images, factors, orders), orders.T, factors.T, strict=True
    ):
        expected = image
        for index in order:
            expected = CHANGES[index](expected, factor[index].item())
        torch.testing.assert_close(row, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("index", range(4))
def test_each_change_alone_equals_torchvisions(index):
    images = colourful(50)
    order = torch.full((4, 50), -1)
    order[2] = index
    factor = torch.linspace(-0.5, 0.5, 50) if index == 3 else torch.linspace(0, 2, 50)
    ours = jitter(images, factor.expand(4, -1), order)
    for image, row, f in zip(images, ours, factor, strict=True):
        torch.testing.assert_close(row, CHANGES[index](image, f.item()), rtol=0, atol=2e-6)


def test_nothing_is_done_where_the_order_says_so():
    images = colourful(5)
    assert torch.equal(jitter(images, torch.rand(4, 5), torch.full((4, 5), -1)), images)


def test_factors_orders_and_images_are_drawn_as_torchvision_draws_them():
    augment = ColorJitter(0.4, 0.3, 1.5, 0.1, probability=0.7)
    factors, order = augment.draw(20_000)
    theirs = v2.ColorJitter(0.4, 0.3, 1.5, 0.1)
    for values, (low, high) in zip(
        factors, (theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue), strict=True
    ):
        uniform = (values - low) / (high - low)
        assert kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    changed = order[0] >= 0
    assert changed.float().mean().item() == pytest.approx(0.7, abs=0.02)
    assert (order[:, ~changed] == -1).all()
    codes = (order[:, changed] * torch.tensor([64, 16, 4, 1])[:, None]).sum(0)
    counts = torch.unique(codes, return_counts=True)[1]
    assert len(counts) == math.factorial(4)
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_a_strength_of_zero_leaves_its_change_out():
    _, order = ColorJitter(0.4, 0.0, 0.4, 0.0, probability=1.0).draw(100)
    assert set(order.unique().tolist()) == {-1, 0, 2}


def test_jittered_images_are_distributed_as_torchvisions():
    image = colourful(1)[0]
    theirs = v2.ColorJitter(0.8, 0.8, 0.8, 0.2)
    expected = torch.stack([theirs(image) for _ in range(1500)])
    ours = ColorJitter(0.8, 0.8, 0.8, 0.2, probability=1.0)(image.expand(1500, -1, -1, -1))
    for number in (
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.std((1, 2, 3)),
        lambda x: (x[:, 0] - x[:, 1]).mean((1, 2)),
        lambda x: x[:, 2, 6, 6],
    ):
        assert ks_2samp(number(ours).numpy(), number(expected).numpy()).pvalue > 1e-3


def test_grayscale_equals_torchvisions_and_comes_as_often_as_asked():
    images = colourful(4000)
    views = RandomGrayscale(0.2)(images)
    grey = functional.rgb_to_grayscale(images, num_output_channels=3)
    changed = (views != images).flatten(1).any(1)
    torch.testing.assert_close(views[changed], grey[changed], rtol=0, atol=1e-6)
    assert changed.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert torch.equal(RandomGrayscale(1.0)(images[:, :1]), images[:, :1])


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.3, 2.0])
def test_blur_equals_torchvisions(sigma, dtype):
    images = torch.rand(3, 3, 20, 24, dtype=dtype)
    expected = functional.gaussian_blur(images, kernel_size=[13, 13], sigma=[sigma, sigma])
    ours = gaussian_blur(images, torch.full((3,), sigma), largest=2.0)
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)


def test_blur_comes_as_often_as_asked_in_the_widths_asked():
    dot = torch.zeros(3000, 1, 15, 15)
    dot[..., 7, 7] = 1
    views = GaussianBlur((0.5, 1.5), 0.4)(dot)
    changed = views[..., 7, 7].squeeze() < 1
    assert changed.float().mean().item() == pytest.approx(0.4, abs=0.03)
    distance = (torch.arange(15) - 7.0).square()
    width = (views[changed].sum(-1).squeeze(1) @ distance).sqrt()
    # Taps at whole pixels have a little less variance than the Gaussian, most at the smallest.
    assert kstest(((width - 0.5) / 1.0).clamp(0, 1).numpy(), "uniform").statistic < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ColorJitter(brightness=-1), "brightness must be a finite number of at least 0"),
        (lambda: ColorJitter(hue=0.6), "hue must lie between 0 and 0.5 turns, got 0.6"),
        (lambda: ColorJitter(probability=2), "probability must be a probability"),
        (lambda: RandomGrayscale(-0.1), "probability must be a probability"),
        (lambda: GaussianBlur((0.0, 1.0)), "sigma must be two numbers above 0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
