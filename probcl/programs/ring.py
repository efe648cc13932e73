"""The latest items of a training, in place of the oldest."""

import torch
from torch import Tensor, nn

from probcl.objectives.collectives import all_gather, check_same_batch

__all__ = ["Ring"]


class Ring(nn.Module):
    """The latest items, the oldest of which give way; saved with the weights.

    Args:
        **places: What is kept of each item, by its name: the first values, ``(size, *)`` each.
    """

    oldest: Tensor

    def __init__(self, **places: Tensor) -> None:
        super().__init__()
        for name, values in places.items():
            self.register_buffer(name, values)
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, **items: Tensor) -> None:
        """Take the items ``(B, *)`` of all ranks, by name."""
        for name, given in items.items():
            check_same_batch(given)
            buffer = getattr(self, name)
            size = len(buffer)
            latest = all_gather(given.contiguous())[-size:]
            # The position stays on the device: nothing waits for it.
            places = (self.oldest + torch.arange(len(latest), device=latest.device)) % size
            buffer.index_copy_(0, places, latest.to(buffer.dtype))
        self.oldest.add_(len(latest)).remainder_(size)
