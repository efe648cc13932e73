r"""The log Laplace transform of a Gaussian quadratic form, with its own derivatives.

.. math:: \log E e^{-\tau |x|^2} = -\tfrac12 \log |I + 2 \tau \Sigma|
          - \tau \mu^\top (I + 2 \tau \Sigma)^{-1} \mu, \qquad x \sim N(\mu, \Sigma)
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from probcl.special.autograd import grad_of_plain

__all__ = ["diagonal_log_laplace", "diagonal_sums", "full_log_laplace", "scaled_square"]

_CPU_BLOCK, _GPU_BLOCK = 2**17, 2**24  # numbers in a block of rows, nodes and coordinates


def diagonal_log_laplace(variance: Tensor, squared_loc: Tensor, tau: Tensor) -> Tensor:
    """Return the log Laplace transform for a diagonal covariance, in memory O(B d).

    Args:
        variance: Variances of the coordinates, shape ``(*B, d)``.
        squared_loc: Squared means of the coordinates, shape ``(*B, d)``.
        tau: Positive arguments, shape ``(*B, n)``; no gradient flows to them.

    Returns:
        Log transforms, shape ``(*B, n)``.
    """
    if torch.compiler.is_compiling():  # torch.export looks inside, where buffers are reused
        return _plain_diagonal(variance, squared_loc, tau)
    return _DiagonalLogLaplace.apply(variance, squared_loc, tau)


def scaled_square(x: Tensor, factor: Tensor) -> Tensor:
    """Return ``(x factor)^2`` in few temporaries; no gradient flows to the factor."""
    return _ScaledSquare.apply(x, factor)


def diagonal_sums(variance: Tensor, squared_loc: Tensor) -> tuple[Tensor, ...]:
    """Return all the sums over coordinates that a divergence needs, v = variance, m = squared_loc.

    Args:
        variance: Variances of the coordinates, shape ``(*B, d)``.
        squared_loc: Squared means of the coordinates, shape ``(*B, d)``.

    Returns:
        Sums of v, m, v^2, m v, log v and m / v, each of shape ``(*B,)``.
    """
    return _DiagonalSums.apply(variance, squared_loc)


def full_log_laplace(covariance: Tensor, loc: Tensor, tau: Tensor) -> Tensor:
    """Return the log Laplace transform for a full covariance, by one eigendecomposition.

    The gradient is assembled in the eigenbasis without dividing by differences of
    eigenvalues, so that repeated eigenvalues do no harm.

    Args:
        covariance: Covariance matrices, shape ``(*B, d, d)``.
        loc: Means, shape ``(*B, d)``.
        tau: Positive arguments, shape ``(*B, n)``; no gradient flows to them.

    Returns:
        Log transforms, shape ``(*B, n)``.
    """
    return _FullLogLaplace.apply(covariance, loc, tau)[0]


class _DiagonalLogLaplace(torch.autograd.Function):
    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor
    ) -> tuple[Tensor | None, int]:
        # A rule of its own, since no generated one exists for the reused buffers of forward.
        batched = [
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(inputs, in_dims, strict=True)
        ]
        return _DiagonalLogLaplace.apply(*batched), 0

    @staticmethod
    def forward(variance: Tensor, squared_loc: Tensor, tau: Tensor) -> Tensor:
        parts = []
        for v, m, t in _blocks(variance, squared_loc, tau):
            excess = v[..., None, :] * (2.0 * t[..., None])
            stretched = excess + 1.0
            pull = torch.div(m[..., None, :], stretched, out=stretched).sum(-1)
            parts.append(torch.addcmul(-0.5 * _sum_log1p(excess), t, pull, value=-1.0))
        return torch.cat(parts).view(tau.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        variance, squared_loc, tau = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for
            plain = partial(_plain_diagonal, tau=tau)
            return *grad_of_plain(plain, (variance, squared_loc), grad), None
        # tau / (1 + 2 tau v) = 1 / (2 v + 1 / tau) = inverse / 2
        by_variance, by_loc = variance.new_empty(2, *variance.shape)
        inputs = variance, squared_loc, 0.5 / tau, 0.5 * grad
        for v, m, shift, weight, second, first in _blocks(*inputs, by_variance, by_loc):
            inverse = (v[..., None, :] + shift[..., None]).reciprocal_()
            torch.bmm(weight[:, None], inverse, out=first[:, None])
            torch.bmm(weight[:, None], inverse.square_(), out=second[:, None])
            second.mul_(m).sub_(first)
        return by_variance, by_loc.neg_(), None


def _blocks(
    variance: Tensor, squared_loc: Tensor, of_nodes: Tensor, *others: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    """Split all into blocks of rows, of which a core's cache holds every node and coordinate."""
    size = variance.shape[-1] * of_nodes.shape[-1]
    rows = max((_GPU_BLOCK if variance.is_cuda else _CPU_BLOCK) // max(size, 1), 1)
    tensors = (variance, squared_loc, of_nodes, *others)
    flat = [x.reshape(-1, x.shape[-1]).split(rows) for x in tensors]
    return zip(*flat, strict=True)


class _ScaledSquare(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, factor: Tensor) -> Tensor:
        scaled = x * factor
        return scaled.mul_(scaled)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, factor = ctx.saved_tensors
        return x * factor * grad * (2.0 * factor), None  # the factor's square may overflow


class _DiagonalSums(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(variance: Tensor, squared_loc: Tensor) -> tuple[Tensor, ...]:
        return _plain_sums(variance, squared_loc)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        variance, squared_loc = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for
            return grad_of_plain(_plain_sums, (variance, squared_loc), grads)
        trace, mean, square, stretch, log, ratio = (g[..., None] for g in grads)
        inverse = variance.reciprocal()
        grad_loc = torch.addcmul(mean, variance, stretch).addcmul_(inverse, ratio)
        grad_variance = torch.addcmul(trace, variance, 2.0 * square)
        grad_variance.addcmul_(squared_loc, stretch).addcmul_(inverse, log)
        inverse.square_().mul_(squared_loc)
        return grad_variance.addcmul_(inverse, ratio, value=-1.0), grad_loc


def _plain_sums(variance: Tensor, squared_loc: Tensor) -> tuple[Tensor, ...]:
    return (
        variance.sum(-1),
        squared_loc.sum(-1),
        torch.linalg.vecdot(variance, variance),
        torch.linalg.vecdot(variance, squared_loc),
        variance.log().sum(-1),
        (squared_loc / variance).sum(-1),
    )


class _FullLogLaplace(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(covariance: Tensor, loc: Tensor, tau: Tensor) -> tuple[Tensor, ...]:
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        eigenvalues = eigenvalues.clamp(min=0.0)
        rotated = (vectors.mT @ loc[..., None])[..., 0]
        value = diagonal_log_laplace(eigenvalues, rotated.square(), tau)
        return value, eigenvalues, vectors, rotated

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None
        covariance, loc, tau, eigenvalues, vectors, rotated = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for
            plain = partial(_plain_full, tau=tau)
            return *grad_of_plain(plain, (covariance, loc), grad), None
        inverse = 1.0 / (1.0 + 2.0 * tau[..., None] * eigenvalues[..., None, :])
        weight = (grad * tau)[..., None]
        first = (weight * inverse).sum(-2)
        second = (2.0 * weight * tau[..., None] * inverse).mT @ inverse
        inner = second * rotated[..., :, None] * rotated[..., None, :] - torch.diag_embed(first)
        grad_loc = (vectors @ (-2.0 * first * rotated)[..., None])[..., 0]
        return vectors @ inner @ vectors.mT, grad_loc, None


def _sum_log1p(x: Tensor) -> Tensor:
    """Sum log(1 + x) of non-negative numbers over the last dimension, with few logs.

    (1 + x)(1 + y) = 1 + (x + y + x y) keeps the excess over one, and so its relative precision.
    Where the product overflows, the transform is zero to all digits.
    """
    while x.shape[-1] % 2 == 0 and x.shape[-1] > 16:
        first, second = x.chunk(2, dim=-1)
        x = torch.addcmul(first, first, second).add_(second)
    return torch.log1p(x).sum(-1)


def _plain_diagonal(variance: Tensor, squared_loc: Tensor, tau: Tensor) -> Tensor:
    tau = tau[..., None]
    stretched = 1.0 + 2.0 * tau * variance[..., None, :]
    pull = tau * squared_loc[..., None, :] / stretched
    return -(0.5 * stretched.log() + pull).sum(-1)


def _plain_full(covariance: Tensor, loc: Tensor, tau: Tensor) -> Tensor:
    identity = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device)
    stretched = identity + 2.0 * tau[..., None, None] * covariance[..., None, :, :]
    tril = torch.linalg.cholesky(stretched)
    column = loc[..., None, :, None].expand(*tau.shape, -1, 1)
    pull = torch.linalg.solve_triangular(tril, column, upper=False).square().sum((-2, -1))
    return -tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) - tau * pull
