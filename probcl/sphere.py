"""Geometry of the unit sphere S^{d-1} in R^d: area and safe normalisation."""

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["log_area", "normalize", "rescaling"]


def log_area(dim: int) -> float:
    r"""Return the log surface area of the unit sphere S^{d-1} in R^d.

    .. math:: \log |S^{d-1}| = \log 2 + \tfrac{d}{2} \log \pi - \log \Gamma(\tfrac{d}{2})

    Args:
        dim: Dimension ``d >= 1`` of the ambient space.

    Returns:
        The log area as a Python float.

    Raises:
        ValueError: If ``dim`` is less than 1.

    Example:
        >>> round(log_area(2), 6)  # the circle: log(2 pi)
        1.837877
    """
    if dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}; use the dimension of the vectors.")
    return math.log(2.0) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)


def normalize(x: Tensor) -> Tensor:
    """Divide vectors by their Euclidean norm, safely.

    Vectors of any finite length are first scaled by a power of two, so that squares neither
    overflow nor underflow. Zero has no direction: it maps to the unit vector with equal
    coordinates, with zero gradient, so that the result always lies on the sphere.

    Args:
        x: Vectors, shape ``(*, d)``.

    Returns:
        Unit vectors, shape ``(*, d)``.

    Example:
        >>> normalize(torch.tensor([[3e-30, 4e-30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.7071, 0.7071]])
    """
    return _Normalize.apply(x)[0]


class _Normalize(torch.autograd.Function):
    """Normalisation with few temporaries; its own second derivative goes by plain operations."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        factor, offset = rescaling(x)
        unit = torch.addcmul(offset, x, factor)
        norm = torch.linalg.vector_norm(unit, dim=-1, keepdim=True)
        return unit.div_(norm), factor / norm

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        x, unit, inverse_norm = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for
            factor, offset = rescaling(x)
            scaled = torch.addcmul(offset, x, factor)
            norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
            unit, inverse_norm = scaled / norm, factor / norm
        along = torch.linalg.vecdot(grad, unit)[..., None]
        return torch.addcmul(grad, unit, along, value=-1.0) * inverse_norm


def rescaling(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the powers of two that bring vectors ``(*, d)`` near length one, 0 for a zero vector.

    Then what to add to each coordinate, 0 but for a zero vector; both have shape ``(*, 1)``.

    Example:
        >>> rescaling(torch.tensor([[6.0, 8.0], [0.0, 0.0]]))
        (tensor([[0.0625],
                [0.0000]]), tensor([[0.0000],
                [0.7071]]))
    """
    with torch.no_grad():
        largest = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True))
        limit = int(math.log2(torch.finfo(x.dtype).max)) - 1
        # Not frexp, which ONNX lacks: any power of two about as large gives the same vectors.
        exponent = torch.log2(largest).floor().add(1).clamp(-limit, limit)
        nonzero = (largest > 0).to(x.dtype)
        factor = torch.ldexp(nonzero, -exponent)
        return factor, (1.0 - nonzero) * x.shape[-1] ** -0.5
