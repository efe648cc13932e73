"""The minimum of a smooth convex function of many numbers, such as the loss of a probe.

SciPy's L-BFGS-B, in float64 and on NumPy's arrays, takes two to three times as long for a probe.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from probcl.evaluation.progress import step

__all__ = ["minimise"]

_HISTORY, _ITERATIONS, _TRIALS = 10, 500, 20
_ENOUGH = 2e-9  # of the fall that is still to be expected
_NOISE = 1e-7  # of a function that is computed in float32


def minimise(
    function: Callable[[Tensor], tuple[float, Tensor]],
    curvature: Tensor,
    start: Tensor,
    name: str = "minimum",
) -> Tensor:
    """Return where a convex function, of size about 1, is least, by L-BFGS.

    It ends where the next step promises to lower the function by less than 2e-9.

    Args:
        function: A point, of any shape, to its value and gradient.
        curvature: About the second derivative by each number; the better, the fewer steps.
        start: The first point.
        name: What the progress bar says.

    References:
        Nocedal and Wright (2006), Numerical optimization, algorithm 7.4.
    """
    # Steps, what they changed in the gradient, and the product of the two.
    pairs: list[tuple[Tensor, Tensor, float]] = []
    point = start
    value, gradient = function(point)
    with step(name, _ITERATIONS) as advance:
        for _ in range(_ITERATIONS):
            direction = _direction(gradient, pairs, curvature)
            slope = _dot(gradient, direction)
            if slope > -2 * _ENOUGH:
                break
            # Slopes relative to the first, at the ends of where the line is least.
            size, low, high = min(1.0, -value / slope), (0.0, 1.0), None
            for _ in range(_TRIALS):
                after, new = function(point + size * direction)
                steep = _dot(new, direction) / slope
                if steep < -0.9 or (steep < 0 and after > value + _NOISE):
                    high = size, steep
                elif steep > 0.9:
                    low = size, steep
                else:
                    break
                if high is None:
                    size *= 4
                else:
                    share = low[1] / (low[1] - high[1])
                    size = low[0] + min(max(share, 0.1), 0.9) * (high[0] - low[0])
            move, change = size * direction, new - gradient
            product = _dot(move, change)
            if product > 0:
                pairs = [*pairs[1 - _HISTORY :], (move, change, product)]
            point, value, gradient = point + move, after, new
            advance()
    return point


def _direction(
    gradient: Tensor, pairs: list[tuple[Tensor, Tensor, float]], curvature: Tensor
) -> Tensor:
    """Return where Newton's method would go, by the curvature along the last steps."""
    direction, shares = -gradient, []
    for move, change, product in reversed(pairs):
        shares.append(_dot(move, direction) / product)
        direction.sub_(change, alpha=shares[-1])
    direction /= curvature
    if pairs:
        _, change, product = pairs[-1]
        direction *= product / _dot(change, change / curvature)
    for (move, change, product), share in zip(pairs, reversed(shares), strict=True):
        direction.add_(move, alpha=share - _dot(change, direction) / product)
    return direction


def _dot(a: Tensor, b: Tensor) -> float:
    return torch.dot(a.flatten(), b.flatten()).item()
