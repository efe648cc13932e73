"""Affine maps, contrast, noise, and degraded views: for images of any number of channels.

Each image of a batch has random amounts of its own.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from probcl.checks import check_amount, check_probability
from probcl.data.augment.colour import gaussian_blur
from probcl.precision import full_precision

__all__ = ["Degrade", "RandomAffine", "RandomContrast", "RandomNoise"]


class RandomAffine(nn.Module):
    """Rotate, scale and shift each image of a batch.

    Args:
        degrees: Largest rotation, either way.
        scale: Largest relative change of size, either way.
        translate: Largest shift along each axis, as a share of the image's size.

    Raises:
        ValueError: If one of them is negative or not finite.
    """

    def __init__(self, degrees: float = 15.0, scale: float = 0.15, translate: float = 0.1) -> None:
        super().__init__()
        self.degrees = check_amount("degrees", degrees)
        self.scale = check_amount("scale", scale)
        self.translate = check_amount("translate", translate)

    def forward(self, images: Tensor) -> Tensor:
        """Transform images ``(N, channels, height, width)``, zeros beyond their borders."""
        amount = 2 * torch.rand(4, len(images), dtype=images.dtype, device=images.device) - 1
        angle = math.radians(self.degrees) * amount[0]
        size = torch.exp(math.log1p(self.scale) * amount[1])
        # affine_grid maps output to input positions, in units of half the image's size.
        cos, sin = angle.cos() / size, angle.sin() / size
        shift = 2 * self.translate * amount[2:]
        ratio = images.shape[-2] / images.shape[-1]
        rows = [cos, -sin * ratio, shift[0], sin / ratio, cos, shift[1]]
        matrix = torch.stack(rows, dim=-1)
        grid = affine_grid(matrix.unflatten(-1, (2, 3)), list(images.shape), align_corners=False)
        return grid_sample(images, grid, align_corners=False)


class RandomContrast(nn.Module):
    """Shrink the contrast of each image of a batch.

    Args:
        strength: Largest share of the contrast to take away, in [0, 1].

    Raises:
        ValueError: If ``strength`` is out of range.
    """

    def __init__(self, strength: float = 0.5) -> None:
        super().__init__()
        self.strength = check_probability("strength", strength)

    def forward(self, images: Tensor) -> Tensor:
        """Blend images ``(N, channels, height, width)`` with their means."""
        mean = images.mean(dim=(-3, -2, -1), keepdim=True)
        return torch.lerp(images, mean, self.strength * _per_image(images))


class RandomNoise(nn.Module):
    """Add normal noise to each image of a batch.

    Args:
        strength: Largest standard deviation.

    Raises:
        ValueError: If ``strength`` is negative or not finite.
    """

    def __init__(self, strength: float = 0.2) -> None:
        super().__init__()
        self.strength = check_amount("strength", strength)

    def forward(self, images: Tensor) -> Tensor:
        """Add noise to images ``(N, channels, height, width)``, within [0, 1]."""
        noise = self.strength * _per_image(images) * torch.randn_like(images)
        return (images + noise).clamp(0, 1)


class Degrade(nn.Module):
    """Blur, cover or flatten each image of a batch, or add noise to it.

    Each image gets one of the four, of a strength drawn uniformly up to the largest: a Gaussian
    blur of up to 15 % of the height; normal noise of a standard deviation up to 0.4; a black square
    of up to half the height; up to 90 % of the contrast taken away.

    Args:
        strength: Share of those largest strengths, above 0 and at most 1.

    Raises:
        ValueError: If ``strength`` is out of range.
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        if not 0 < strength <= 1:
            raise ValueError(f"strength must be above 0 and at most 1, got {strength}.")
        self.strength = strength

    @full_precision
    def forward(self, images: Tensor) -> Tensor:
        """Degrade images ``(N, channels, height, width)``, within [0, 1]."""
        # On the CPU, so that a GPU need not be waited for to know how many there are of a kind.
        kind = torch.randint(4, (len(images),))
        amount = self.strength * torch.rand(len(images), 1, 1, 1)
        place = torch.rand(2, len(images), 1, 1, 1)
        degraded = images.clone()
        for number, degrade in enumerate((_blurred, _noisy, _covered, _flat)):
            rows = (kind == number).nonzero()[:, 0]
            draws = amount[rows].to(images), place[:, rows].to(images)
            rows = rows.to(images.device)
            degraded[rows] = degrade(images[rows], *draws)
        return degraded.clamp(0, 1)


def _per_image(images: Tensor) -> Tensor:
    """Draw a number in [0, 1) for each image."""
    return torch.rand(len(images), 1, 1, 1, dtype=images.dtype, device=images.device)


def _blurred(images: Tensor, amount: Tensor, place: Tensor) -> Tensor:
    largest = 0.15 * images.shape[-2]
    return gaussian_blur(images, (largest * amount.flatten()).clamp_min(1e-3), largest)


def _noisy(images: Tensor, amount: Tensor, place: Tensor) -> Tensor:
    return images + 0.4 * amount * torch.randn_like(images)


def _covered(images: Tensor, amount: Tensor, place: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    side = 0.5 * height * amount
    top, left = place[0] * (height - side), place[1] * (width - side)
    row = torch.arange(height, device=images.device)[:, None] + 0.5
    column = torch.arange(width, device=images.device) + 0.5
    within = (row > top) & (row < top + side) & (column > left) & (column < left + side)
    return images.masked_fill(within, 0)


def _flat(images: Tensor, amount: Tensor, place: Tensor) -> Tensor:
    mean = images.mean(dim=(-3, -2, -1), keepdim=True)
    return torch.lerp(images, mean, 0.9 * amount)
