"""What the corruptions share: their severity, their random draws, and kernels."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, interpolate, pad

__all__ = ["filtered", "generator", "moved", "normal", "severity_of", "smooth_noise", "uniform"]


def severity_of(severity: int) -> int:
    """Return a severity, or raise ``ValueError`` if it is none."""
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity}.")
    return severity


def generator() -> torch.Generator:
    """Return a fresh generator on the CPU: the same draws for every call and device."""
    return torch.Generator().manual_seed(0)


def normal(images: Tensor) -> Tensor:
    """Draw a standard normal number for each value."""
    return torch.randn(images.shape, generator=generator()).to(images)


def uniform(images: Tensor, *shape: int) -> Tensor:
    """Draw numbers in [0, 1) of a shape; that of the images if none is given."""
    return torch.rand(shape or images.shape, generator=generator()).to(images)


def smooth_noise(images: Tensor, cells: int) -> Tensor:
    """Draw noise in [0, 1] for each image, smooth over a grid of so many cells a side."""
    cells = min(cells, *images.shape[-2:])
    coarse = uniform(images, len(images), 1, cells + 1, cells + 1)
    size = list(images.shape[-2:])
    return interpolate(coarse, size, mode="bicubic", align_corners=True).clamp(0, 1)


def filtered(images: Tensor, kernel: Tensor) -> Tensor:
    """Filter each channel by a kernel of odd sides, the images' borders repeated."""
    kernel = kernel.to(images) / kernel.sum()
    rows, columns = kernel.shape
    padding = (columns // 2, columns // 2, rows // 2, rows // 2)
    planes = pad(images.flatten(0, 1)[:, None], padding, mode="replicate")
    return conv2d(planes, kernel[None, None]).view_as(images)


def moved(images: Tensor, shift: Tensor, zoom: float = 1.0) -> Tensor:
    """Look up each pixel elsewhere: the images' borders repeated.

    Args:
        images: Shape ``(N, channels, height, width)``.
        shift: To the right and down, in pixels; broadcast against ``(N, height, width, 2)``.
        zoom: Enlargement about the centre.
    """
    height, width = images.shape[-2:]
    rows = torch.linspace(-1, 1, 2 * height + 1)[1::2].to(images)
    columns = torch.linspace(-1, 1, 2 * width + 1)[1::2].to(images)
    place = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1) / zoom
    grid = place + 2 * shift / torch.tensor([width, height]).to(images)
    grid = grid.expand(len(images), height, width, 2)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)
