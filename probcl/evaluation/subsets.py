"""Some items that stand for all of them."""

import torch
from torch import Tensor

__all__ = ["evenly_spaced"]


def evenly_spaced(count: int, most: int) -> Tensor:
    """Return at most so many rows of ``count``, evenly spaced from the first to the last.

    Example:
        >>> evenly_spaced(9, 3)
        tensor([0, 4, 8])
    """
    return torch.linspace(0, count - 1, min(most, count)).round().long()
