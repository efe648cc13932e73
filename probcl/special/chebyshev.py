"""Chebyshev series on the unit interval: fit once, evaluate anywhere."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.polynomial.chebyshev import chebder, chebinterpolate, chebtrim
from torch import Tensor

__all__ = ["derivative", "evaluate", "fit"]


def fit(
    function: Callable[[Tensor], Tensor], degree: int, tolerance: float = 0.0
) -> tuple[float, ...]:
    """Interpolate a function on [0, 1] at Chebyshev points.

    Args:
        function: Maps float64 points of shape ``(n,)`` to values of shape ``(n,)``.
        degree: Degree of the interpolating polynomial.
        tolerance: Trailing coefficients below this size are dropped.

    Returns:
        Coefficients of the Chebyshev polynomials of ``2 x - 1``, lowest first.

    Example:
        >>> fit(lambda x: 2 * x - 1, degree=3, tolerance=1e-12)[1]
        1.0
    """

    def values(points: np.ndarray) -> np.ndarray:
        return function(torch.as_tensor((points + 1) / 2)).numpy()

    coefficients: Any = chebinterpolate(values, degree)
    return tuple(chebtrim(coefficients, tolerance).tolist())


def evaluate(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Evaluate a Chebyshev series on [0, 1] by Clenshaw's recurrence.

    Args:
        coefficients: As returned by :func:`fit`.
        x: Points in [0, 1], any shape.

    Returns:
        Values, shape of ``x``; differentiable.

    Example:
        >>> evaluate((0.5, 0.5), torch.tensor([0.0, 0.25, 1.0]))
        tensor([0.0000, 0.2500, 1.0000])
    """
    centred = 2.0 * x - 1.0
    doubled = 2.0 * centred
    current, previous = torch.zeros_like(x), torch.zeros_like(x)
    for coefficient in reversed(coefficients[1:]):
        current, previous = torch.addcmul(coefficient - previous, doubled, current), current
    return coefficients[0] + centred * current - previous


def derivative(coefficients: Sequence[float]) -> tuple[float, ...]:
    """Return the coefficients of the derivative of a series in x.

    Example:
        >>> derivative((0.0, 0.0, 1.0))  # of T_2(y) = 2 y^2 - 1, y = 2 x - 1: 8 y
        (0.0, 8.0)
    """
    return tuple((2 * chebder(coefficients)).tolist())
