"""What the random transforms share: pixels as floats, rows drawn at random, ranges checked."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["as_float", "check_probability", "check_range", "drawn_rows"]


def as_float(images: Tensor) -> Tensor:
    """Return images as floating-point numbers in [0, 1]; integers run from 0 to 255."""
    return images if images.is_floating_point() else images.float().div_(255)


def drawn_rows(images: Tensor, probability: float) -> Tensor:
    """Draw each image of a batch with a probability, and return the rows of those drawn.

    The draw is on the CPU, so that a GPU need not be waited for to know how many there are.
    """
    return (torch.rand(len(images)) < probability).nonzero()[:, 0]


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
