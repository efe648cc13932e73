"""Corruptions of weather and light. Each maps images in [0, 1] and a severity to such images."""

import torch
from torch import Tensor

from probcl.data.corruptions.blur import motion_blur
from probcl.data.corruptions.draws import severity_of, smooth_noise, uniform

__all__ = ["brightness", "fog", "frost", "snow"]


def snow(images: Tensor, severity: int) -> Tensor:
    """Let streaks of white fall over a brightened image, 4 % of its pixels for each step."""
    step = severity_of(severity)
    flakes = (uniform(images, len(images), 1, *images.shape[-2:]) < 0.04 * step).to(images)
    streaks = (2 * motion_blur(flakes, 2)).clamp(0, 1)
    return torch.maximum(images + 0.04 * step * (1 - images), streaks)


def frost(images: Tensor, severity: int) -> Tensor:
    """Cover an image with crystals: ridges of smooth noise, 14 % more opaque for each step."""
    scales = [1 - (2 * smooth_noise(images, cells) - 1).abs() for cells in (3, 6, 12)]
    ridges = torch.stack(scales).mean(0)
    opacity = 0.14 * severity_of(severity) * (0.5 + 0.5 * ridges)
    return torch.lerp(images, ridges.square(), opacity)


def fog(images: Tensor, severity: int) -> Tensor:
    """Add smooth noise of several scales, half the image's range for each step, and rescale."""
    haze = sum(smooth_noise(images, 2**octave) / 2**octave for octave in (1, 2, 3)) / 0.875
    amount = 0.5 * severity_of(severity)
    return (images + amount * haze) / (1 + amount)


def brightness(images: Tensor, severity: int) -> Tensor:
    """Add 0.1 for each step of severity."""
    return (images + 0.1 * severity_of(severity)).clamp(0, 1)
