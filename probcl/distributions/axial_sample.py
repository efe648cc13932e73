"""Reparametrised samples of distributions that are symmetric about a direction."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["axial_sample"]


def axial_sample(
    loc: Tensor, kappa: Tensor, versine: Tensor, velocity: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    r"""Place samples of the cosine :math:`t = \mu^\top z` on the sphere, in random directions.

    :math:`z = t \mu + \sqrt{1 - t^2}\, v` with v uniform among the unit vectors orthogonal to
    :math:`\mu`. Gradients are those of the motion that keeps the cumulative probability of t,
    and turns z with loc by the shortest rotation:

    .. math::
        \frac{\partial z}{\partial\kappa} = H(t)\,(\mu - t z), \qquad
        dz = t\, d\mu - (z^\top d\mu)\, \mu .

    Args:
        loc: Unit vectors mu, shape ``(*, d)``.
        kappa: Concentrations, shape ``(*,)``.
        versine: Samples of 1 - t, shape ``(*,)``.
        velocity: Function of (1 - t, kappa) giving H, with dt/dkappa = (1 - t^2) H.

    Returns:
        Unit vectors, shape ``(*, d)``.

    Example:
        >>> loc = torch.tensor([0.0, 0.0, 1.0])
        >>> z = axial_sample(loc, torch.tensor(1.0), torch.tensor(0.25), lambda y, k: y)
        >>> torch.linalg.vecdot(loc, z)
        tensor(0.7500)
    """
    return _AxialSample.apply(loc, kappa, versine, velocity)


class _AxialSample(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        loc: Tensor,
        kappa: Tensor,
        versine: Tensor,
        velocity: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        z = _place(loc, versine)
        ctx.save_for_backward(loc, kappa, versine, z)
        ctx.velocity = velocity
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        loc, kappa, versine, z = ctx.saved_tensors
        cosine = 1 - versine
        along_loc = (grad * loc).sum(-1)
        grad_loc = grad_kappa = None
        if ctx.needs_input_grad[0]:
            grad_loc = (cosine.unsqueeze(-1) * grad).addcmul_(z, -along_loc.unsqueeze(-1))
        if ctx.needs_input_grad[1]:
            along_path = along_loc - cosine * (grad * z).sum(-1)
            grad_kappa = along_path * ctx.velocity(versine, kappa)
        return grad_loc, grad_kappa, None, None


def _place(loc: Tensor, versine: Tensor) -> Tensor:
    """Draw z = t loc + sqrt(1 - t^2) v.

    The direction v is a uniform vector w of the equator orthogonal to the first axis, carried to
    the tangent space of loc by the reflection that takes that axis to -+loc:
    v = w - (w . loc) / (1 + |loc_1|) (loc + sign(loc_1) e_1). It has the length of w to the last
    digit, and is well defined at every loc, poles included.
    """
    w = torch.randn_like(loc, memory_format=torch.contiguous_format)
    w[..., 0] = 0
    first = loc[..., 0]
    sine = (versine * (2 - versine)).clamp(min=0).sqrt()
    scale = sine / torch.linalg.vector_norm(w, dim=-1)
    tilt = scale * (w * loc).sum(-1) / (1 + first.abs())
    z = w.mul_(scale.unsqueeze(-1)).addcmul_(loc, (1 - versine - tilt).unsqueeze(-1))
    z[..., 0] -= torch.where(first < 0, -tilt, tilt)
    return z
