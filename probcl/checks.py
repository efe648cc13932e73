"""Every check of an argument, once: one clear sentence naming argument, value and fix.

A check takes the name of the argument, for the error. What ``as_*`` returns is a tensor on the CPU,
with ``count`` rows where that is given, and at least ``least`` of them.
"""

import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from probcl.precision import at_least_float32

__all__ = [
    "as_integers", "as_labels", "as_logits", "as_matrix", "as_probabilities", "as_truths",
    "as_values", "check_amount", "check_channels", "check_choice", "check_count", "check_dim",
    "check_finite", "check_labels", "check_on_sphere", "check_positive", "check_probability",
    "check_range", "check_scalar", "check_temperature", "check_unit", "check_vectors",
    "check_views", "choose_validation", "off_the_sphere",
]  # fmt: skip

_MOST_CLASSES = 2**24


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise ValueError unless ``value`` is one of a ``Literal``'s values."""
    if value not in get_args(choices):
        listed = " or ".join(repr(choice) for choice in get_args(choices))
        raise ValueError(f"{name} must be {listed}, got {value!r}.")


def check_dim(dim: int, name: str) -> None:
    """Raise ValueError unless ``dim >= 2``."""
    if dim < 2:
        raise ValueError(
            f"{name} has dimension {dim}, but a sphere needs at least 2;"
            " use vectors of length 2 or more."
        )


def choose_validation(distribution: Distribution, validate_args: bool | None) -> bool:
    """Switch a distribution's validation on or off, by torch's default if None; return which.

    For a distribution built with ``validate_args=False``, so that its own checks of the arguments
    stand in for torch's.
    """
    if torch.compiler.is_compiling():
        return False  # a graph does not branch on values
    if validate_args is None:
        del distribution._validate_args  # back to torch's default, an attribute of the class
    else:
        distribution._validate_args = validate_args
    return distribution._validate_args


def check_finite(name: str, x: Tensor) -> None:
    """Raise ValueError if ``x`` holds NaN or infinity."""
    if value_of(name, torch.isfinite(x.sum())):  # one cheap pass; a finite sum has finite terms
        return
    bad = x[~torch.isfinite(x)]
    if bad.numel():
        raise ValueError(
            f"{name} must be finite, got {bad[0].item()}; check the network or data it comes from."
        )


def check_positive(name: str, x: Tensor) -> None:
    """Raise ValueError unless every element of ``x`` is positive and finite."""
    if not x.numel():
        return
    least, most = torch.aminmax(x)
    if not value_of(name, (least > 0) & torch.isfinite(most)):  # NaN fails too
        bad = x[~((x > 0) & torch.isfinite(x))]
        raise ValueError(
            f"{name} must be positive and finite, got {bad[0].item()};"
            " apply softplus or exp to free parameters."
        )


def check_on_sphere(value: Tensor, dim: int, name: str = "value") -> None:
    """Raise ValueError unless ``value``, called ``name``, holds unit vectors of length ``dim``.

    The tolerance on the norm follows the precision of the dtype, and grows as sqrt(d).
    """
    if value.dim() == 0 or value.shape[-1] != dim:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, but its last dimension must be {dim};"
            " pass vectors of the distribution's dimension."
        )
    check_unit(name, value)


def off_the_sphere(z: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return which vectors ``(*, d)`` are not of unit length, ``(*)``; NaN is not.

    The tolerance follows the precision of ``dtype``, by default that of ``z``, and grows as
    sqrt(d).
    """
    norm = torch.linalg.vector_norm(at_least_float32(z.detach()), dim=-1)
    tolerance = min(50.0 * torch.finfo(dtype or z.dtype).eps * z.shape[-1] ** 0.5, 0.02)
    return ~((norm - 1.0).abs() <= tolerance)


def check_unit(name: str, z: Tensor, dtype: torch.dtype | None = None) -> None:
    """Raise ``ValueError`` unless vectors ``(*, d)`` are finite and of unit length.

    The tolerance is that of ``off_the_sphere``. Code that ``torch.compile`` has made does not look.
    """
    if torch.compiler.is_compiling():
        return  # a graph does not branch on values
    if value_of(name, off_the_sphere(z, dtype).any()):
        check_vectors(name, z)
        norm = torch.linalg.vector_norm(at_least_float32(z.detach()[off_the_sphere(z, dtype)][0]))
        raise ValueError(
            f"{name} must hold unit vectors, got a norm of {norm.item():.9g};"
            " divide by it with probcl.sphere.normalize."
        )


def check_views(name: str, z: Tensor, least: int = 1) -> None:
    """Raise ``ValueError`` unless vectors have shape ``(*, V, B, d)`` with enough views."""
    if z.dim() < 3 or z.shape[-3] < least:
        raise ValueError(
            f"{name} must have shape (*, V, B, d) with V >= {least}, got {tuple(z.shape)}: join "
            "the views of B images by torch.stack([z1, z2])."
        )
    if not math.prod(z.shape[:-3]):  # of a Pyro trace it may be a tuple
        raise ValueError(
            f"{name} must hold at least one sample, got shape {tuple(z.shape)}: draw one."
        )


def check_temperature(temperature: float | Tensor) -> float:
    """Return a temperature, given as a number or a tensor ``()``, or raise ``ValueError``."""
    return check_amount("temperature", check_scalar("temperature", temperature), above=True)


def check_scalar(name: str, value: float | Tensor) -> float:
    """Return a number, given as such or as a tensor ``()``, or raise ``ValueError``."""
    if not isinstance(value, Tensor):
        return value
    if value.dim():
        raise ValueError(
            f"{name} must be a number or a tensor of shape (), got shape {tuple(value.shape)}: "
            "index it, or apply .squeeze()."
        )
    break_graph(f"{name} is a tensor: give a number, or compile without fullgraph=True.")
    return value_of(name, value)


def value_of(name: str, x: Tensor) -> float:
    """Return a number that a tensor holds, or raise where ``torch.func.vmap`` hides it."""
    try:
        return x.item()
    except RuntimeError as error:
        raise NotImplementedError(
            f"{name} is checked by its values, which torch.func.vmap hides: pass a batch in its "
            "leading dimensions, or validate_args=False to a distribution."
        ) from error


def break_graph(reason: str) -> None:
    """End a graph of ``torch.compile`` here; with ``fullgraph=True`` the error gives the reason."""
    if torch.compiler.is_compiling():
        torch._dynamo.graph_break(msg=reason)


def check_count(name: str, value: int, least: int = 1) -> int:
    """Return how many there are of something, or raise ``ValueError`` if they are too few."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
    return value


def check_amount(name: str, value: float, above: bool = False) -> float:
    """Return a finite number of at least 0, or ``above`` it, or raise ``ValueError``."""
    if not 0 <= value < math.inf or (above and not value):
        limit = "above" if above else "of at least"
        raise ValueError(f"{name} must be a finite number {limit} 0, got {value}.")
    return value


def check_labels(z: Tensor, labels: Tensor) -> None:
    """Raise ``ValueError`` unless there is one integer label for each embedding."""
    if labels.shape != z.shape[-2:-1]:
        raise ValueError(
            f"labels must have shape ({z.shape[-2]},), one for each embedding, "
            f"got {tuple(labels.shape)}."
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers, got {labels.dtype}: convert them by .long().")


def check_vectors(name: str, z: Tensor) -> float:
    """Return the largest squared length of vectors ``(*, d)``, or raise if one is not finite."""
    with torch.no_grad():
        largest = torch.linalg.vector_norm(z, dim=-1).amax().item() ** 2
    if not largest < float("inf"):
        bad = int((~z.isfinite()).any(-1).sum())
        if not bad:
            raise ValueError(f"{name} holds vectors too long to square: normalise them.")
        raise ValueError(
            f"{name} must be finite, got {bad} of {z[..., 0].numel()} embeddings with NaN or "
            "infinity: lower the learning rate or raise the temperature."
        )
    return largest


def check_channels(images: Tensor) -> Tensor:
    """Return images of one or three channels, or raise ``ValueError`` if they have others."""
    if images.shape[-3] not in (1, 3):
        raise ValueError(
            f"images must have 1 or 3 channels for changes of their colours, got {images.shape[-3]}"
            ": choose an augmentation without them, or give up the other channels."
        )
    return images


def check_probability(name: str, value: float) -> float:
    """Return a probability, or raise ``ValueError`` if it is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability, from 0 to 1, got {value}.")
    return value


def check_range(name: str, value: Sequence[float], high: float = math.inf) -> tuple[float, float]:
    """Return a range of positive numbers up to ``high``, or raise ``ValueError``."""
    numbers = tuple(float(number) for number in value)
    if len(numbers) != 2 or not numbers[0] > 0:
        raise ValueError(f"{name} must be two numbers above 0, got {list(value)}.")
    if not numbers[0] <= numbers[1] <= high or math.isinf(numbers[1]):
        limit = "" if math.isinf(high) else f", at most {high:g}"
        raise ValueError(
            f"{name} must give the lowest first and be finite{limit}, got {list(value)}."
        )
    return numbers[0], numbers[1]


def as_values(name: str, values: Any, count: int | None = None, least: int = 1) -> Tensor:
    """Return finite numbers of shape ``(N,)`` in float64, or raise ``ValueError``."""
    return _as_rows(name, values, 1, count, least).double()


def as_truths(name: str, values: Any, count: int | None = None) -> Tensor:
    """Return truth values ``(N,)``, given as such or as 0 and 1, or raise ``ValueError``."""
    tensor = as_values(name, values, count)
    other = tensor[(tensor != 0) & (tensor != 1)]
    if len(other):
        raise ValueError(f"{name} must hold only true and false, or 1 and 0, got {other[0]:g}.")
    return tensor.bool()


def as_labels(
    name: str, labels: Any, count: int | None = None, num_classes: int | None = None
) -> Tensor:
    """Return classes, integers from 0 to 2^24 of shape ``(N,)``, or raise ``ValueError``.

    Memory grows with the largest, which must be below ``num_classes``.
    """
    tensor = as_integers(name, labels, count, what="the classes")
    if num_classes is not None and tensor.max() >= num_classes:
        raise ValueError(
            f"{name} must be below {num_classes}, the number of classes, got {int(tensor.max())}."
        )
    if tensor.max() > _MOST_CLASSES:
        raise ValueError(
            f"{name} must be at most {_MOST_CLASSES:,}, got {int(tensor.max())}: number the "
            "classes by np.unique(labels, return_inverse=True)[1]."
        )
    return tensor


def as_integers(name: str, values: Any, count: int | None = None, what: str = "") -> Tensor:
    """Return integers of at least 0 of shape ``(N,)``, or raise ``ValueError`` and say ``what``."""
    tensor = _as_rows(name, values, 1, count)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        are = f", {what}," if what else ","
        raise ValueError(f"{name} must be integers{are} got {tensor.dtype}.")
    tensor = tensor.long()
    if tensor.min() < 0:
        fix = f": number {what}" if what else ""
        raise ValueError(f"{name} must be at least 0, got {int(tensor.min())}{fix}.")
    return tensor


def as_matrix(
    name: str, values: Any, count: int | None = None, least: int = 1, dim: int | None = None
) -> Tensor:
    """Return finite numbers of shape ``(N, D)``, or raise ``ValueError``; float64 stays so.

    ``dim`` is the ``D`` that others have, where that is given.
    """
    tensor = _as_rows(name, values, 2, count, least)
    if dim not in (None, tensor.shape[1]):
        raise ValueError(
            f"{name} must have {dim} numbers in each row, as the others, got {tensor.shape[1]}."
        )
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def as_probabilities(name: str, values: Any, count: int | None = None) -> Tensor:
    """Return class probabilities ``(N, C)`` in float64, or raise ``ValueError``.

    Each row must sum to one within a ten-thousandth, or the rounding of half precision, and then
    does exactly.
    """
    half = getattr(values, "dtype", None) in (torch.float16, torch.bfloat16, np.float16)
    tolerance = 1e-2 if half else 1e-4
    given = as_matrix(name, values, count)
    tensor = given.double()
    if tensor.min() < 0:
        raise ValueError(f"{name} must not be negative, got {tensor.min().item():g}.")
    sums = tensor.sum(-1)
    worst = (sums - 1).abs().argmax()
    if (sums[worst] - 1).abs() > tolerance:
        raise ValueError(
            f"{name} must sum to one in each row, row {int(worst)} sums to {sums[worst].item():g}: "
            "apply a softmax to logits first."
        )
    return torch.div(tensor, sums[:, None], out=None if tensor is given else tensor)


def as_logits(name: str, values: Any) -> Tensor:
    """Return numbers, or minus infinity, ``(N, C)``, or raise ``ValueError``; float64 stays so."""
    tensor = _as_tensor(name, values, 2, None)
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    if tensor.isnan().any() or tensor.isposinf().any():
        raise ValueError(f"{name} must be numbers or minus infinity, got NaN or infinity.")
    return tensor


def _as_rows(name: str, values: Any, dims: int, count: int | None, least: int = 1) -> Tensor:
    """Return finite numbers of any kind as a tensor on the CPU, or raise ``ValueError``."""
    tensor = _as_tensor(name, values, dims, count, least)
    exact = not (tensor.is_floating_point() or tensor.is_complex())
    if exact or tensor.sum().isfinite():  # one cheap pass; a finite sum has finite terms
        return tensor
    bad = (~tensor.isfinite()).reshape(len(tensor), -1).any(-1).nonzero()
    if len(bad):
        raise ValueError(
            f"{name} must be finite, row {int(bad[0])} is not ({len(bad)} rows in all): no row is "
            "left out silently."
        )
    return tensor


def _as_tensor(name: str, values: Any, dims: int, count: int | None, least: int = 1) -> Tensor:
    """Return numbers of any kind as a tensor on the CPU, or raise ``ValueError``."""
    if hasattr(values, "__array__") and not torch.is_tensor(values):
        array = np.asarray(values)  # in the form that a tensor can share
        long = array.dtype == np.longdouble
        values = np.require(array, "d" if long else array.dtype.newbyteorder("="), ["C", "W"])
    try:
        tensor = torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        kind = getattr(values, "dtype", type(values).__name__)
        raise ValueError(
            f"{name} must be numbers, got {kind}: number names by np.unique(names, "
            "return_inverse=True)[1]."
        ) from error
    if tensor.dim() != dims or not tensor.numel():
        shape = "(N,)" if dims == 1 else "(N, D)"
        raise ValueError(f"{name} must have shape {shape}, not empty, got {tuple(tensor.shape)}.")
    if count is not None and len(tensor) != count:
        raise ValueError(
            f"{name} must have a row for each of the {count} items, got {len(tensor)}."
        )
    if len(tensor) < least:
        raise ValueError(f"{name} must have at least {least} rows, got {len(tensor)}.")
    return tensor
