"""Random draws from a seed, that leave the global random state alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed for a while; afterwards the draws go on as if nothing had been drawn.

    Args:
        seed: Seed of the CPU's and the current GPU's draws.

    Example:
        >>> with seeded(0):
        ...     one = torch.rand(2)
        >>> with seeded(0):
        ...     print(torch.equal(one, torch.rand(2)))
        True
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
