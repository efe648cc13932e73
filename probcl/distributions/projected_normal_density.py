"""The two steps of a projected normal's density, each with few temporaries.

A value and the mean are whitened together; the density is then that of a projected normal with
the identity as covariance.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from probcl.special.autograd import grad_of_plain, widen
from probcl.special.radial import log_radial_ratio, log_ratio_and_slope

__all__ = ["radial_exponent", "standardise"]


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
        grad_value = by_direction / (scale * factor) if ctx.needs_input_grad[0] else None
        grad_loc = by_mean / scale if ctx.needs_input_grad[1] else None
        grad_scale = None
        if ctx.needs_input_grad[2]:
            grad_scale = torch.addcmul(by_log_det[..., None], by_direction, direction, value=-1.0)
            grad_scale.addcmul_(by_mean, mean, value=-1.0).div_(scale)
        return grad_value, grad_loc, grad_scale, None


def _plain_standardise(
    value: Tensor, loc: Tensor, scale: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    centred = scale * factor
    return value / centred, loc / scale, centred.log().sum(-1)


def radial_exponent(
    direction: Tensor, mean: Tensor, scale: Tensor, dim: int
) -> tuple[Tensor, Tensor]:
    r"""Return the log density relative to that of a centred projected normal, and log |direction|.

    With m = mean / scale, u the unit vector of ``direction`` and alpha = u . m,

    .. math:: g = \log \frac{K_d(\alpha)}{K_d(0)} - \frac{|m|^2}{2}

    written as h(alpha) - |m - max(alpha, 0) u|^2 / 2, where nothing cancels.

    Args:
        direction: Whitened value, any length above zero, shape ``(*B, n)``.
        mean: Mean, whitened up to ``scale``, shape ``(*B, n)``.
        scale: Standard deviation that remains, shape ``(*B, 1)``.
        dim: Dimension ``d`` of the sphere's ambient space; n may exceed it when whitening
            embeds the space isometrically in a larger one.

    Returns:
        Both in float64, for sums that cancel, shape ``(*B,)``; differentiable twice.
    """
    batch_shape = torch.broadcast_shapes(direction.shape[:-1], mean.shape[:-1], scale.shape[:-1])
    direction = direction.expand(*batch_shape, -1)
    mean, scale = mean.expand(*batch_shape, -1), scale.expand(*batch_shape, 1)
    return _RadialExponent.apply(direction, mean, scale, dim)[:2]


class _RadialExponent(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(direction: Tensor, mean: Tensor, scale: Tensor, dim: int) -> tuple[Tensor, ...]:
        norm2 = torch.linalg.vecdot(direction, direction)[..., None]
        # The residual comes from the raw arguments: at the mode it is exactly zero.
        along = torch.linalg.vecdot(direction, mean)[..., None] / norm2
        residual = torch.addcmul(mean, direction, along.clamp(min=0.0), value=-1.0)
        distance2 = _squared_norm(residual)[..., None] / widen(scale).square()
        norm = norm2.sqrt()
        alpha = along * norm / scale
        log_ratio, slope = log_ratio_and_slope(alpha, dim)
        value = (log_ratio - 0.5 * distance2)[..., 0]
        log_norm = 0.5 * widen(norm2[..., 0]).log()
        return value, log_norm, residual, distance2.to(norm.dtype), norm, alpha, slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.dim = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output[2:])

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, of_norm: Tensor | None, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        given = grad if of_norm is None else of_norm
        if given is None:
            return None, None, None, None
        grad, of_norm = (torch.zeros_like(given) if g is None else g for g in (grad, of_norm))
        direction, mean, scale, residual, distance2, norm, alpha, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for
            plain = partial(_plain_exponent, dim=ctx.dim)
            return *grad_of_plain(plain, (direction, mean, scale), (grad, of_norm)), None
        grad, of_norm = (g[..., None].to(norm.dtype) for g in (grad, of_norm))
        grad_direction = grad_mean = grad_scale = None
        if ctx.needs_input_grad[0]:
            ratio = grad * (slope + alpha.clamp(min=0.0)) / norm
            grad_direction = residual * (ratio / scale)
            along = ratio * alpha.clamp(max=0.0) - of_norm / norm
            grad_direction.addcmul_(direction, along / norm, value=-1.0)
        if ctx.needs_input_grad[1]:
            grad_mean = direction * (grad * slope / (norm * scale))
            grad_mean.addcmul_(residual, grad / scale.square(), value=-1.0)
        if ctx.needs_input_grad[2]:
            grad_scale = grad * (distance2 - slope * alpha) / scale
        return grad_direction, grad_mean, grad_scale, None


def _squared_norm(x: Tensor) -> Tensor:
    """Sum squares, short runs in the dtype of x and those in float64: exact enough, and fast.

    The log density can be near zero where the squared distance is in the thousands.
    """
    parts = [torch.linalg.vecdot(part, part) for part in x.split(32, dim=-1)]
    return widen(torch.stack(parts, -1)).sum(-1)


def _plain_exponent(
    direction: Tensor, mean: Tensor, scale: Tensor, dim: int
) -> tuple[Tensor, Tensor]:
    norm2 = direction.square().sum(-1, keepdim=True)
    along = (direction * mean).sum(-1, keepdim=True) / norm2
    residual = (mean - torch.where(along >= 0, along, 0.0) * direction) / scale
    log_ratio = log_radial_ratio(along * norm2.sqrt() / scale, dim)[..., 0]
    value = widen(log_ratio - 0.5 * residual.square().sum(-1))
    return value, 0.5 * widen(norm2[..., 0]).log()
