"""Corruptions: graded, repeatable and within the range of images."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from probcl.data import load_digits
from probcl.data.corruptions import CORRUPTIONS, SEVERITIES, UNFAMILIAR, blur

IMAGES = load_digits()[1].images[:50]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_change_grows_with_severity(name):
    changes = [(CORRUPTIONS[name](IMAGES, s) - IMAGES).abs().mean().item() for s in SEVERITIES]
    assert changes[0] > 0
    assert changes == sorted(changes)


@pytest.mark.parametrize("name", [*CORRUPTIONS, *UNFAMILIAR])
def test_results_are_images_and_the_same_each_time(name):
    change = UNFAMILIAR.get(name) or (lambda images: CORRUPTIONS[name](images, 5))
    changed = change(IMAGES)
    assert changed.shape == IMAGES.shape
    assert changed.min() >= 0
    assert changed.max() <= 1 + 1e-6
    assert torch.equal(changed, change(IMAGES))


def test_blur_is_a_gaussian_filter():
    images = torch.rand(3, 1, 40, 40)
    expected = gaussian_filter(images[:, 0].numpy(), sigma=(0, 2.4, 2.4), mode="mirror", truncate=6)
    inner = slice(10, -10)
    ours = blur(images, 2)[:, 0].numpy()
    assert abs(ours[:, inner, inner] - expected[:, inner, inner]).max() < 0.01


def test_unfamiliar_inputs_are_what_they_are_called():
    assert torch.equal(UNFAMILIAR["inverted"](IMAGES), 1 - IMAGES)
    assert torch.equal(UNFAMILIAR["rotated"](IMAGES)[0, 0], IMAGES[0, 0].rot90())
    shuffled = UNFAMILIAR["shuffled"](IMAGES)
    assert torch.equal(shuffled.flatten(1).sort().values, IMAGES.flatten(1).sort().values)
    assert not torch.equal(shuffled, IMAGES)
