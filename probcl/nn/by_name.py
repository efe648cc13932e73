"""Encoders by name: of timm, of torchvision, or a function or class of one's own."""

import re
from importlib import import_module
from inspect import signature
from typing import Any

from torch import nn

__all__ = ["encoder_by_name"]

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def encoder_by_name(name: str) -> nn.Module:
    """Return the encoder that a text names, images in [0, 1] to features ``(N, F)``.

    Args:
        name: ``"timm:NAME"`` or ``"torchvision:NAME"``, for random weights, the same with
            ``":WEIGHTS"`` after it, as ``TimmModel`` and ``TorchvisionModel`` take them; or the
            import path of a class or function that takes no argument, ``"mypackage.my_encoder"``.

    Raises:
        ValueError: If the name is of another form, or there is no such encoder.

    Example:
        >>> encoder_by_name("torchvision:squeezenet1_1").name
        'squeezenet1_1'
    """
    library, *parts = name.split(":")
    if library in ("timm", "torchvision") and len(parts) in (1, 2) and all(parts):
        # When it is asked for: torchvision takes as long to import as torch.
        from probcl.nn import TimmModel, TorchvisionModel

        return (TimmModel if library == "timm" else TorchvisionModel)(*parts)
    if not _PATH.fullmatch(name):
        raise ValueError(
            "encoder must be timm:NAME, torchvision:NAME, either with :WEIGHTS after it, or an "
            f"import path such as mypackage.my_encoder, got {name!r}."
        )
    encoder = _made(name)
    if not isinstance(encoder, nn.Module):
        raise ValueError(
            f"encoder: {name} gives {type(encoder).__name__}: make it return a torch.nn.Module."
        )
    return encoder


def _made(path: str) -> Any:
    """Return what a class or function gives that is called without arguments."""
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"encoder: {path} cannot be imported ({error}): check its spelling."
        ) from error
    try:
        signature(found).bind()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"encoder: {path} cannot be called without arguments ({error}): name a function that "
            "can."
        ) from error
    return found()
