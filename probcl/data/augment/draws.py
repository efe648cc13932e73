"""What the random transforms share: pixels as floats, and rows drawn at random."""

import torch
from torch import Tensor

__all__ = ["as_float", "drawn_rows", "sent"]


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
