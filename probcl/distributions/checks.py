"""Argument checks shared by the distributions: one clear sentence each."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from probcl.precision import at_least_float32

__all__ = [
    "check_dim",
    "check_finite",
    "check_on_sphere",
    "check_positive",
    "choose_validation",
]


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
    if validate_args is None:
        del distribution._validate_args  # back to torch's default, an attribute of the class
    else:
        distribution._validate_args = validate_args
    return distribution._validate_args


def check_finite(name: str, x: Tensor) -> None:
    """Raise ValueError if ``x`` holds NaN or infinity."""
    if torch.isfinite(x.sum()):  # one cheap pass; a finite sum has finite terms
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
    if not (least > 0 and torch.isfinite(most)):  # NaN fails too
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
    if not value.numel():
        return
    norm = torch.linalg.vector_norm(at_least_float32(value), dim=-1)
    tolerance = min(50.0 * torch.finfo(value.dtype).eps * dim**0.5, 0.02)
    defect = (norm - 1.0).abs().max()
    if not defect <= tolerance:  # NaN fails too
        bad = norm[~((norm - 1.0).abs() <= tolerance)]
        raise ValueError(
            f"{name} must hold unit vectors, got a norm of {bad[0].item():.9g};"
            " divide by it with probcl.sphere.normalize."
        )
