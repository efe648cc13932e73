"""Augmentation of whole batches on the device, with a draw for each image."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

__all__ = ["RandomAffine", "RandomContrast", "RandomNoise"]


class RandomAffine(nn.Module):
    """Rotate, scale and shift each image of a batch by its own random amount.

    Args:
        degrees: Largest rotation, either way.
        scale: Largest relative change of size, either way.
        translate: Largest shift along each axis, as a fraction of the image's size.

    Example:
        >>> RandomAffine()(torch.rand(4, 1, 8, 8)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(self, degrees: float = 15.0, scale: float = 0.15, translate: float = 0.1) -> None:
        super().__init__()
        self.degrees = degrees
        self.scale = scale
        self.translate = translate

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
    """Shrink the contrast of each image of a batch by its own random amount.

    Args:
        strength: Largest share of the contrast to take away, in [0, 1].

    Example:
        >>> RandomContrast()(torch.rand(4, 1, 8, 8)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(self, strength: float = 0.5) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, images: Tensor) -> Tensor:
        """Blend images ``(N, channels, height, width)`` with their means."""
        mean = images.mean(dim=(-3, -2, -1), keepdim=True)
        return torch.lerp(images, mean, self.strength * _per_image(images))


class RandomNoise(nn.Module):
    """Add normal noise to each image of a batch, of its own random strength.

    Args:
        strength: Largest standard deviation.

    Example:
        >>> RandomNoise()(torch.rand(4, 1, 8, 8)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(self, strength: float = 0.2) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, images: Tensor) -> Tensor:
        """Add noise to images ``(N, channels, height, width)``, within [0, 1]."""
        noise = self.strength * _per_image(images) * torch.randn_like(images)
        return (images + noise).clamp(0, 1)


def _per_image(images: Tensor) -> Tensor:
    """Draw a number in [0, 1) for each image."""
    return torch.rand(len(images), 1, 1, 1, dtype=images.dtype, device=images.device)
