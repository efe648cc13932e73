"""Corruptions that add noise. Each maps images in [0, 1] and a severity to images in [0, 1]."""

import torch
from torch import Tensor

from probcl.data.corruptions.draws import generator, normal, severity_of, uniform

__all__ = ["gaussian_noise", "impulse_noise", "shot_noise"]


def gaussian_noise(images: Tensor, severity: int) -> Tensor:
    """Add normal noise of standard deviation 0.08 for each step of severity."""
    return (images + 0.08 * severity_of(severity) * normal(images)).clamp(0, 1)


def shot_noise(images: Tensor, severity: int) -> Tensor:
    """Count Poisson photons: 48 of them are a white pixel, divided by twice for each step."""
    photons = 48.0 / 2 ** (severity_of(severity) - 1)
    counts = torch.poisson((images * photons).cpu(), generator=generator()).to(images)
    return (counts / photons).clamp(0, 1)


def impulse_noise(images: Tensor, severity: int) -> Tensor:
    """Turn 5 % of the values for each step of severity black or white."""
    share, draw = 0.05 * severity_of(severity), uniform(images)
    return torch.where(draw < share, (draw < share / 2).to(images), images)
