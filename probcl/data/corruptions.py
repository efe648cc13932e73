"""Graded corruptions and unfamiliar inputs, to ask whether uncertainty notices them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

__all__ = ["CORRUPTIONS", "SEVERITIES", "UNFAMILIAR", "blur", "contrast", "noise", "occlusion"]

#: Severities of a corruption, from slight to strong.
SEVERITIES = (1, 2, 3, 4, 5)


def blur(images: Tensor, severity: int) -> Tensor:
    """Blur with a Gaussian of 3 % of the image's height for each step of severity."""
    sigma = 0.03 * severity * images.shape[-2]
    kernel = min(2 * math.ceil(2.5 * sigma) + 1, 2 * min(images.shape[-2:]) - 1)
    return gaussian_blur(images, kernel_size=[kernel, kernel], sigma=[sigma, sigma])


def noise(images: Tensor, severity: int) -> Tensor:
    """Add normal noise of standard deviation 0.08 for each step of severity, within [0, 1]."""
    draw = torch.randn(images.shape, generator=_generator()).to(images)
    return (images + 0.08 * severity * draw).clamp(0, 1)


def occlusion(images: Tensor, severity: int) -> Tensor:
    """Blacken a square, at a place of each image's own, a tenth of the height wide per step."""
    height, width = images.shape[-2:]
    side = 0.1 * severity * height
    draw = torch.rand(2, len(images), 1, 1, 1, generator=_generator()).to(images)
    top, left = draw[0] * (height - side), draw[1] * (width - side)
    row = torch.arange(height, device=images.device)[:, None] + 0.5
    column = torch.arange(width, device=images.device) + 0.5
    # A pixel is covered by as much as the square overlaps it.
    covered = (side / 2 + 0.5 - (row - top - side / 2).abs()).clamp(0, 1) * (
        side / 2 + 0.5 - (column - left - side / 2).abs()
    ).clamp(0, 1)
    return images * (1 - covered)


def contrast(images: Tensor, severity: int) -> Tensor:
    """Shrink the contrast towards each image's mean, by 18 % for each step of severity."""
    mean = images.mean(dim=(-3, -2, -1), keepdim=True)
    return mean + (1 - 0.18 * severity) * (images - mean)


def _inverted(images: Tensor) -> Tensor:
    return 1 - images


def _rotated(images: Tensor) -> Tensor:
    return images.rot90(dims=(-2, -1))


def _shuffled(images: Tensor) -> Tensor:
    order = torch.randperm(images.shape[-2] * images.shape[-1], generator=_generator())
    return images.flatten(-2)[..., order.to(images.device)].view_as(images)


def _uniform_noise(images: Tensor) -> Tensor:
    return torch.rand(images.shape, generator=_generator()).to(images)


def _generator() -> torch.Generator:
    """Return a fresh generator on the CPU: the same draws for every call and device."""
    return torch.Generator().manual_seed(0)


#: Corruptions with a severity, by name: `(images, severity) -> images`.
CORRUPTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "blur": blur,
    "noise": noise,
    "occlusion": occlusion,
    "contrast": contrast,
}

#: Inputs unlike any seen in training, by name: `images -> images`.
UNFAMILIAR: dict[str, Callable[[Tensor], Tensor]] = {
    "inverted": _inverted,
    "rotated": _rotated,
    "shuffled": _shuffled,
    "noise_only": _uniform_noise,
}
