"""What the metrics demand of their arguments, each in one sentence."""

from typing import Any

import torch
from torch import Tensor

__all__ = [
    "as_labels",
    "as_matrix",
    "as_probabilities",
    "as_truths",
    "as_values",
    "require_two",
]


def as_values(name: str, values: Any, count: int | None = None) -> Tensor:
    """Return finite numbers of shape ``(N,)`` in float64, or raise ``ValueError``.

    Args:
        name: Name of the argument, for the error.
        values: Numbers, a tensor or whatever ``torch.as_tensor`` takes.
        count: Length ``N`` that they must have, if any.
    """
    tensor = torch.as_tensor(values).detach().cpu().double()
    _require_shape(name, tensor, 1, count)
    _require_finite(name, tensor)
    return tensor


def as_truths(name: str, values: Any, count: int | None = None) -> Tensor:
    """Return truth values of shape ``(N,)``, given as such or as 0 and 1, or raise ``ValueError``.

    Args:
        name: Name of the argument, for the error.
        values: Truth values.
        count: Length ``N`` that they must have, if any.
    """
    tensor = as_values(name, values, count)
    other = tensor[(tensor != 0) & (tensor != 1)]
    if len(other):
        raise ValueError(f"{name} must hold only true and false, or 1 and 0, got {other[0]:g}.")
    return tensor.bool()


def as_labels(name: str, labels: Any, count: int | None = None) -> Tensor:
    """Return classes, integers of at least 0 of shape ``(N,)``, or raise ``ValueError``.

    Args:
        name: Name of the argument, for the error.
        labels: Classes.
        count: Length ``N`` that they must have, if any.
    """
    tensor = torch.as_tensor(labels).detach().cpu()
    _require_shape(name, tensor, 1, count)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, the classes, got {tensor.dtype}.")
    if tensor.min() < 0:
        raise ValueError(f"{name} must be at least 0, got {int(tensor.min())}: number the classes.")
    return tensor.long()


def as_matrix(name: str, values: Any, count: int | None = None) -> Tensor:
    """Return finite floating-point numbers of shape ``(N, D)`` on the CPU, or raise ``ValueError``.

    Args:
        name: Name of the argument, for the error.
        values: Numbers; their precision is kept.
        count: Number ``N`` of rows that they must have, if any.
    """
    tensor = torch.as_tensor(values).detach().cpu()
    tensor = tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
    _require_shape(name, tensor, 2, count)
    _require_finite(name, tensor)
    return tensor


def as_probabilities(name: str, values: Any, count: int | None = None) -> Tensor:
    """Return class probabilities ``(N, C)`` in float64, or raise ``ValueError``.

    Args:
        name: Name of the argument, for the error.
        values: Probabilities of which each row sums to one, within a ten-thousandth.
        count: Number ``N`` of rows that they must have, if any.
    """
    tensor = as_matrix(name, values, count).double()
    if tensor.min() < 0:
        raise ValueError(f"{name} must not be negative, got {tensor.min().item():g}.")
    sums = tensor.sum(-1)
    worst = (sums - 1).abs().argmax()
    if (sums[worst] - 1).abs() > 1e-4:
        raise ValueError(
            f"{name} must sum to one in each row, row {int(worst)} sums to {sums[worst].item():g}: "
            "apply a softmax to logits first."
        )
    return tensor / sums[:, None]


def require_two(name: str, values: Tensor) -> None:
    """Raise ``ValueError`` unless there are two rows at least."""
    if len(values) < 2:
        raise ValueError(f"{name} must have at least 2 rows, got {len(values)}.")


def _require_shape(name: str, tensor: Tensor, dims: int, count: int | None) -> None:
    if tensor.dim() != dims or not tensor.numel():
        shape = "(N,)" if dims == 1 else "(N, D)"
        raise ValueError(f"{name} must have shape {shape}, not empty, got {tuple(tensor.shape)}.")
    if count is not None and len(tensor) != count:
        raise ValueError(
            f"{name} must have a row for each of the {count} items, got {len(tensor)}."
        )


def _require_finite(name: str, tensor: Tensor) -> None:
    bad = (~tensor.isfinite()).reshape(len(tensor), -1).any(-1).nonzero()
    if len(bad):
        raise ValueError(
            f"{name} must be finite, row {int(bad[0])} is not ({len(bad)} rows in all): no row is "
            "left out silently."
        )
