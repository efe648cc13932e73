"""Help for functions that bring their own derivatives."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["grad_of_plain"]


def grad_of_plain(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    grads: Tensor | tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Differentiate a function of plain operations, keeping the graph for the next derivative.

    Args:
        function: Maps the inputs to one output or to a tuple of them.
        inputs: Tensors to evaluate and differentiate it at.
        grads: Gradients with respect to the outputs.

    Returns:
        One gradient per input.
    """
    # torch.func nests: inside its transforms no tensor says whether it requires a gradient.
    gradients: tuple[Tensor, ...] = torch.func.vjp(function, *inputs)[1](grads)
    return gradients
