"""What the random transforms share: pixels as floats, rows drawn at random, ranges checked."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["as_float", "check_channels", "check_probability", "check_range", "drawn_rows", "sent"]


def as_float(images: Tensor) -> Tensor:
    """Return images as floating-point numbers in [0, 1]; integers run from 0 to 255."""
    return images if images.is_floating_point() else images.float().div_(255)


def drawn_rows(images: Tensor, probability: float) -> Tensor:
    """Draw each image of a batch with a probability, and return the rows of those drawn.

    The draw is on the CPU, so that a GPU need not be waited for to know how many there are.
    """
    return (torch.rand(len(images)) < probability).nonzero()[:, 0]


def sent(draws: Tensor, images: Tensor) -> Tensor:
    """Send what was drawn on the CPU to the images' device, without waiting for it."""
    return draws.to(images.device, non_blocking=True)


def check_channels(images: Tensor) -> Tensor:
    """Return images of one or three channels, or raise ``ValueError`` if they have others."""
    if images.shape[-3] not in (1, 3):
        raise ValueError(
            f"images must have 1 or 3 channels for changes of their colours, got {images.shape[-3]}"
            ": choose an augmentation without them, or give up the other channels."
        )
    return images


def check_probability(name: str, value: float) -> float:
    """Return a probability, or raise ``ValueError`` if it is none."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability, from 0 to 1, got {value}.")
    return value


def check_range(name: str, value: Sequence[float], high: float = math.inf) -> tuple[float, float]:
    """Return a range of positive numbers up to ``high``, or raise ``ValueError`` if it is none."""
    numbers = tuple(float(number) for number in value)
    if len(numbers) != 2 or not numbers[0] > 0:
        raise ValueError(f"{name} must be two numbers above 0, got {list(value)}.")
    if not numbers[0] <= numbers[1] <= high or math.isinf(numbers[1]):
        limit = "" if math.isinf(high) else f", at most {high:g}"
        raise ValueError(
            f"{name} must give the lowest first and be finite{limit}, got {list(value)}."
        )
    return numbers[0], numbers[1]
