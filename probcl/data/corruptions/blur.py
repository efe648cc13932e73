"""Corruptions that blur. Each maps images in [0, 1] and a severity to images in [0, 1]."""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur as torchvision_blur

from probcl.data.corruptions.draws import filtered, generator, moved, severity_of, uniform

__all__ = ["defocus_blur", "gaussian_blur", "glass_blur", "motion_blur", "zoom_blur"]


def gaussian_blur(images: Tensor, severity: int) -> Tensor:
    """Blur with a Gaussian of 3 % of the image's height for each step of severity."""
    return _gaussian(images, 0.03 * severity_of(severity) * images.shape[-2])


def defocus_blur(images: Tensor, severity: int) -> Tensor:
    """Blur with a disc of a radius of half a pixel and 2 % of the height for each step."""
    radius = 0.5 + 0.02 * severity_of(severity) * images.shape[-2]
    reach = math.ceil(radius)
    place = torch.arange(-reach, reach + 1.0)
    return filtered(images, (radius + 0.5 - torch.hypot(place[:, None], place)).clamp(0, 1))


def motion_blur(images: Tensor, severity: int) -> Tensor:
    """Average along a line, of each image's own angle, 6 % of the height long for each step."""
    length = 0.06 * severity_of(severity) * images.shape[-2]
    angle = math.pi * uniform(images, len(images), 1, 1, 1)
    direction = torch.cat([angle.cos(), angle.sin()], -1)
    steps = torch.linspace(-0.5, 0.5, 2 * math.ceil(length / 2) + 1).tolist()
    return torch.stack([moved(images, length * step * direction) for step in steps]).mean(0)


def zoom_blur(images: Tensor, severity: int) -> Tensor:
    """Average over enlargements of up to 8 % for each step of severity."""
    most = 0.08 * severity_of(severity)
    zooms = [1 + most * step / 7 for step in range(8)]
    still = images.new_zeros(1, 1, 1, 2)
    return torch.stack([moved(images, still, zoom) for zoom in zooms]).mean(0)


def glass_blur(images: Tensor, severity: int) -> Tensor:
    """Look through frosted glass: each pixel from up to 2.5 % of the height away for each step."""
    height, width = images.shape[-2:]
    reach = severity_of(severity) * (0.025 * height + 0.1)
    draw = torch.rand(len(images), height, width, 2, generator=generator()).to(images)
    return _gaussian(moved(images, reach * (2 * draw - 1)), 0.01 * height)


def _gaussian(images: Tensor, sigma: float) -> Tensor:
    kernel = min(2 * math.ceil(2.5 * sigma) + 1, 2 * min(images.shape[-2:]) - 1)
    return torchvision_blur(images, kernel_size=[kernel, kernel], sigma=[sigma, sigma])
