"""Help for functions that bring their own derivatives."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["grad_of_plain"]


def grad_of_plain(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    grads: Tensor | Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """Differentiate a function of plain operations, keeping the graph for the next derivative.

    Args:
        function: Maps the inputs to one output or to a tuple of them.
        inputs: Tensors to evaluate and differentiate it at.
        grads: Gradients with respect to the outputs.

    Returns:
        One gradient per input, None for those that require none.
    """
    # Aliases confine the derivative to this function: inputs and grads may depend on each other.
    aliases = [x.view_as(x) for x in inputs]
    needed = [x for x in aliases if x.requires_grad]
    results = iter(torch.autograd.grad(function(*aliases), needed, grads, create_graph=True))
    return tuple(next(results) if x.requires_grad else None for x in aliases)
