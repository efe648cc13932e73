"""Geometry of the unit sphere S^{d-1} in R^d."""

import math

import torch
from torch import Tensor

__all__ = ["log_area", "normalize"]


def log_area(dim: int) -> float:
    r"""Return the log surface area of the unit sphere, ``log(2 pi^{d/2} / Gamma(d/2))``.

    Args:
        dim: Dimension ``d >= 1`` of the space around the sphere.

    Example:
        >>> round(log_area(3), 6) == round(math.log(4 * math.pi), 6)
        True
    """
    return math.log(2.0) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)


def normalize(x: Tensor) -> Tensor:
    r"""Project vectors onto the unit sphere, ``x / |x|``, the zero vector onto ``e_1``.

    Vectors are scaled by their largest entry first, so that none over- or underflows. The
    gradient is that of ``x / |x|``, and zero at the zero vector.

    Args:
        x: Vectors, shape ``(*, d)``.

    Returns:
        Unit vectors, shape ``(*, d)``.

    Example:
        >>> normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [1.0, 0.0]]
    """
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    is_zero = largest == 0
    first = torch.zeros_like(x)
    first[..., 0] = 1.0
    scaled = torch.where(is_zero, first, x / torch.where(is_zero, 1.0, largest))
    return scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
