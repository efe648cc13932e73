"""Degraded views: views that lack something, from which a posterior learns to be unsure."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

__all__ = ["Degrade"]


class Degrade(nn.Module):
    """Blur, cover or flatten each image of a batch, or add noise to it, by its own draw.

    Each image gets one of the four, of a strength drawn uniformly up to the largest: a Gaussian
    blur of up to 15 % of the height; normal noise of a standard deviation up to 0.4; a black square
    of up to half the height; up to 90 % of the contrast taken away.

    Args:
        strength: Share of those largest strengths, above 0 and at most 1.

    Raises:
        ValueError: If ``strength`` is out of range.

    Example:
        >>> Degrade()(torch.rand(4, 1, 8, 8)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        if not 0 < strength <= 1:
            raise ValueError(f"strength must be above 0 and at most 1, got {strength}.")
        self.strength = strength

    def forward(self, images: Tensor) -> Tensor:
        """Degrade images ``(N, channels, height, width)``, within [0, 1]."""
        # On the CPU, so that a GPU need not be waited for to know how many there are of a kind.
        kind = torch.randint(4, (len(images),))
        amount = self.strength * torch.rand(len(images), 1, 1, 1)
        place = torch.rand(2, len(images), 1, 1, 1)
        degraded = images.clone()
        for number, degrade in enumerate((_blurred, _noisy, _covered, _flat)):
            rows = (kind == number).nonzero()[:, 0]
            chosen = images[rows.to(images.device)]
            degraded[rows.to(images.device)] = degrade(
                chosen, amount[rows].to(images), place[:, rows].to(images)
            )
        return degraded.clamp(0, 1)


def _blurred(images: Tensor, amount: Tensor, place: Tensor) -> Tensor:
    if not len(images):
        return images
    height, width = images.shape[-2:]
    reach = min(math.ceil(2.5 * 0.15 * height), min(height, width) - 1)
    offset = torch.arange(-reach, reach + 1, device=images.device)
    sigma = (0.15 * height * amount[:, 0, 0]).clamp_min(1e-3)
    kernel = (-0.5 * (offset / sigma).square()).exp()
    kernel = (kernel / kernel.sum(-1, keepdim=True))[:, None].repeat_interleave(images.shape[1], 0)
    planes = images.reshape(1, -1, height, width)  # each with a kernel of its own
    groups = planes.shape[1]
    planes = pad(planes, (reach, reach, 0, 0), mode="reflect")
    planes = conv2d(planes, kernel[:, :, None], groups=groups)
    planes = pad(planes, (0, 0, reach, reach), mode="reflect")
    return conv2d(planes, kernel[..., None], groups=groups).view_as(images)


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
