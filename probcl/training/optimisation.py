"""The learning rate over a training, and which parameters decay."""

import math
from dataclasses import dataclass

from torch import nn

__all__ = ["WarmupCosine", "parameter_groups"]


@dataclass(frozen=True)
class WarmupCosine:
    """Factor on the learning rate: up along a line, then down to zero along half a cosine.

    Args:
        steps: Steps of the whole training; infinite for a factor that stays at 1.
        warmup: Steps of the line.

    Example:
        >>> factor = WarmupCosine(steps=30, warmup=10)
        >>> [round(factor(step), 2) for step in (0, 9, 10, 20, 30)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
    """

    steps: float
    warmup: int = 0

    def __call__(self, step: int) -> float:
        """Return the factor at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        share = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1)))


def parameter_groups(module: nn.Module, decay_all: bool) -> list[dict]:
    """Return the parameters of a module that have gradients, as groups for an optimizer.

    Weight decay holds for biases and normalisations, of one dimension, if ``decay_all``; for single
    numbers, such as a temperature that is learned, it never does.
    """
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    least = 1 if decay_all else 2
    kept = [parameter for parameter in learned if parameter.dim() < least]
    decayed = [parameter for parameter in learned if parameter.dim() >= least]
    groups: list[dict] = [{"params": decayed}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
