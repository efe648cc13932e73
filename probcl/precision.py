"""Single precision at least, inside and outside autocast regions."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["at_least_float32", "full_precision"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def at_least_float32(x: Tensor) -> Tensor:
    """Convert integers, half and bfloat16 to float32; leave float32 and float64 as they are.

    Example:
        >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def full_precision(function: _Function) -> _Function:
    """Run a function or method of a tensor, or a distribution's, with autocast switched off.

    Log densities and contrastive losses need every bit of float32.
    """

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        tensor = next((x for x in given if isinstance(x, Tensor)), None)
        device_type = (given[0].loc if tensor is None else tensor).device.type
        if not torch.is_autocast_enabled(device_type):
            return function(*args, **kwargs)
        with torch.autocast(device_type, enabled=False):
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]
