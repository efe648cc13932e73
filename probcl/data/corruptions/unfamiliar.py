"""Inputs unlike any seen in training, made of images: each maps images to images in [0, 1]."""

import torch
from torch import Tensor

from probcl.data.corruptions.draws import generator, uniform

__all__ = ["inverted", "noise_only", "rotated", "shuffled"]


def inverted(images: Tensor) -> Tensor:
    """Turn black into white."""
    return 1 - images


def rotated(images: Tensor) -> Tensor:
    """Turn by a right angle."""
    return images.rot90(dims=(-2, -1))


def shuffled(images: Tensor) -> Tensor:
    """Put the pixels into another order, the same for every image."""
    order = torch.randperm(images.shape[-2] * images.shape[-1], generator=generator())
    return images.flatten(-2)[..., order.to(images.device)].view_as(images)


def noise_only(images: Tensor) -> Tensor:
    """Replace every value by a uniform draw."""
    return uniform(images)
