"""The mode of a network: training or evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["in_evaluation"]


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Put a network into evaluation, and give each part its mode back, whatever happens.

    Example:
        >>> network = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with in_evaluation(network):
        ...     pass
        >>> [layer.training for layer in network]
        [True, False]
    """
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        yield
    finally:
        for part, training in modes.items():
            part.training = training
