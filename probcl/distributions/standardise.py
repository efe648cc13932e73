"""Division by a diagonal scale, with few temporaries."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from probcl.special.autograd import grad_of_plain

__all__ = ["standardise"]


def standardise(
    value: Tensor, loc: Tensor, scale: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return value / (factor scale), loc / scale and sum log(factor scale).

    Args:
        value: Shape ``(*B, d)``.
        loc: Shape ``(*B, d)``.
        scale: Positive, shape ``(*B, d)``.
        factor: Constants that centre the scale, shape ``(*B, 1)``; no gradient flows to them.

    Returns:
        Tensors of shapes ``(*B, d)``, ``(*B, d)`` and ``(*B,)``.
    """
    shape = torch.broadcast_shapes(value.shape, loc.shape)
    return _Standardise.apply(value.expand(shape), loc.expand(shape), scale.expand(shape), factor)


class _Standardise(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, loc: Tensor, scale: Tensor, factor: Tensor) -> tuple[Tensor, ...]:
        return _plain_standardise(value, loc, scale, factor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, output[0], output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        value, loc, scale, factor, direction, mean = ctx.saved_tensors
        by_direction, by_mean, by_log_det = grads
        if torch.is_grad_enabled():  # a second derivative is asked for
            plain = partial(_plain_standardise, factor=factor)
            return *grad_of_plain(plain, (value, loc, scale), grads), None
        centred = scale * factor
        grad_value = by_direction / centred if ctx.needs_input_grad[0] else None
        grad_loc = (by_mean / centred).mul_(factor) if ctx.needs_input_grad[1] else None
        grad_scale = None
        if ctx.needs_input_grad[2]:
            grad_scale = torch.addcmul(by_log_det[..., None], by_direction, direction, value=-1.0)
            grad_scale.addcmul_(by_mean, mean, value=-1.0).div_(centred).mul_(factor)
        return grad_value, grad_loc, grad_scale, None


def _plain_standardise(
    value: Tensor, loc: Tensor, scale: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    centred = scale * factor
    return value / centred, loc / centred * factor, centred.log().sum(-1)
