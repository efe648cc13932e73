"""What the objectives ask of their arguments."""

import torch
from torch import Tensor

__all__ = ["check_finite", "check_labels", "check_temperature"]


def check_temperature(temperature: float) -> float:
    """Return ``temperature``, or raise ``ValueError`` unless it is a finite positive number."""
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}.")
    return temperature


def check_labels(z: Tensor, labels: Tensor) -> None:
    """Raise ``ValueError`` unless there is one integer label for each embedding."""
    if labels.shape != z.shape[-2:-1]:
        raise ValueError(
            f"labels must have shape ({z.shape[-2]},), one for each embedding, "
            f"got {tuple(labels.shape)}."
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers, got {labels.dtype}: convert them by .long().")


def check_finite(z: Tensor, name: str = "z") -> float:
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
