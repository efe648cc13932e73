"""The concentration of a mean resultant length: the inverse of the ratio of Bessel functions."""

import torch
from torch import Tensor

from probcl.special.bessel import bessel_ratio, bessel_ratio_derivative

__all__ = ["inverse_bessel_ratio"]

_NEWTON_STEPS = 6


def inverse_bessel_ratio(ratio: Tensor, dim: int) -> Tensor:
    r"""Compute the :math:`\kappa` at which :math:`A_d(\kappa)` is a mean resultant length.

    By Newton's method from the approximation :math:`r (d - r^2) / (1 - r^2)`. There is no
    derivative: it is meant for estimates from moments.

    Args:
        ratio: Lengths in [0, 1), of any shape; above ``1 - 1e-6`` they count as that.
        dim: Dimension :math:`d \ge 2` of the ambient space.

    Returns:
        Tensor of the shape and dtype of ``ratio``.

    References:
        Banerjee et al. (2005), https://www.jmlr.org/papers/v6/banerjee05a.html

    Example:
        >>> inverse_bessel_ratio(torch.tensor([0.0, 0.5373]), dim=3)
        tensor([0.0000, 1.9999])
    """
    r = ratio.detach().double().clamp(0, 1 - 1e-6)
    kappa = r * (dim - r.square()) / (1 - r.square())
    for _ in range(_NEWTON_STEPS):
        step = (bessel_ratio(kappa, dim) - r) / bessel_ratio_derivative(kappa, dim)
        kappa = torch.maximum(kappa - step, kappa / 4)
    return kappa.to(ratio.dtype)
