"""Digital corruptions. Each maps images in [0, 1] and a severity to images in [0, 1]."""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from probcl.data.corruptions.draws import generator, moved, severity_of, smooth_noise

__all__ = ["contrast", "elastic_transform", "jpeg_compression", "occlusion", "pixelate"]

# Table K.1 of ITU-T T.81: steps of quantisation of the luminance, at quality 50.
_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_QUALITY = {1: 40, 2: 25, 3: 15, 4: 10, 5: 6}


def contrast(images: Tensor, severity: int) -> Tensor:
    """Shrink the contrast towards each image's mean, by 18 % for each step of severity."""
    mean = images.mean(dim=(-3, -2, -1), keepdim=True)
    return mean + (1 - 0.18 * severity_of(severity)) * (images - mean)


def elastic_transform(images: Tensor, severity: int) -> Tensor:
    """Move pixels by a smooth field, up to 3 % of the height for each step of severity."""
    fields = smooth_noise(images.repeat(2, 1, 1, 1), 4)[:, 0]
    shift = torch.stack(fields.chunk(2), -1) * 2 - 1
    return moved(images, 0.03 * severity_of(severity) * images.shape[-2] * shift)


def pixelate(images: Tensor, severity: int) -> Tensor:
    """Average over larger pixels: 16 % fewer along a side for each step of severity."""
    share = 1 - 0.16 * severity_of(severity)
    size = list(images.shape[-2:])
    few = [max(1, round(share * side)) for side in size]
    return interpolate(interpolate(images, few, mode="area"), size, mode="nearest-exact")


def jpeg_compression(images: Tensor, severity: int) -> Tensor:
    """Quantise as JPEG does, at qualities 40, 25, 15, 10 and 6.

    Each channel is treated as the luminance, in blocks of 8x8.
    """
    quality = _QUALITY[severity_of(severity)]
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    steps = (torch.tensor(_STEPS) * scale).round().clamp(1, 255).to(images)
    height, width = images.shape[-2:]
    planes = pad(images, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = 255 * planes.unfold(-2, 8, 8).unfold(-2, 8, 8) - 128
    basis = _cosines().to(images)
    coefficients = ((basis @ blocks @ basis.T) / steps).round() * steps
    restored = (basis.T @ coefficients @ basis).transpose(-3, -2).flatten(-2).flatten(-3, -2)
    return ((restored[..., :height, :width] + 128) / 255).clamp(0, 1)


def occlusion(images: Tensor, severity: int) -> Tensor:
    """Blacken a square, at a place of each image's own, a tenth of the height wide per step."""
    height, width = images.shape[-2:]
    side = 0.1 * severity_of(severity) * height
    draw = torch.rand(2, len(images), 1, 1, 1, generator=generator()).to(images)
    top, left = draw[0] * (height - side), draw[1] * (width - side)
    row = torch.arange(height, device=images.device)[:, None] + 0.5
    column = torch.arange(width, device=images.device) + 0.5
    # A pixel is covered by as much as the square overlaps it.
    covered = (side / 2 + 0.5 - (row - top - side / 2).abs()).clamp(0, 1) * (
        side / 2 + 0.5 - (column - left - side / 2).abs()
    ).clamp(0, 1)
    return images * (1 - covered)


def _cosines() -> Tensor:
    """Return the orthonormal basis of the discrete cosine transform, of length 8."""
    place, frequency = torch.arange(8.0) + 0.5, torch.arange(8.0)[:, None]
    basis = torch.cos(math.pi / 8 * place * frequency) / 2
    basis[0] /= math.sqrt(2)
    return basis
