"""Memory that is asked for again and again."""

from functools import cache

import torch

__all__ = ["keep_freed_memory"]


@cache
def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next block.

    GNU's returns what is freed beyond twice the largest piece freed so far, up to 64 MiB. To get it
    again, page by page, would take a third of an augmentation's time, and a fourteenth of that of
    an objective of several samples.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
