"""Help for functions that bring their own derivatives, and their own constants."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["Function", "as_floating", "constant", "grad_of_plain", "widen", "with_derivative"]

Function = Callable[[Tensor, int], Tensor]

_Constant = TypeVar("_Constant", bound=Callable[..., Any])


def constant(function: _Constant) -> _Constant:
    """Cache the results of a function of numbers, constants in the graphs of ``torch.compile``.

    Example:
        >>> @constant
        ... def squares(count):
        ...     return tuple(i**2 for i in range(count))
        >>> squares(3) is squares(3)
        True
    """

    @cache
    def cached(*args: float) -> Any:
        with ThreadPoolExecutor(1) as thread:  # where no export, transform or device is in force
            return thread.submit(function, *args).result()

    @wraps(function)
    def call(*args: float) -> Any:
        return cached(*args)

    # torch.compile looks through a cache, and would trace the arithmetic of fractions. This is
    # torch.compiler.assume_constant_result, which imports the compiler: it takes seconds.
    call._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def with_derivative(kappa: Tensor, dim: int, value: Function, derivative: Function) -> Tensor:
    """Evaluate a function of the concentration in float64, with a given derivative.

    One number per batch element costs next to nothing in float64, and every result then has all
    the digits of its own dtype. Apple's GPUs have no float64: there it is float32.

    Args:
        kappa: Concentrations of any shape.
        dim: Dimension of the ambient space.
        value: Function of ``(kappa, dim)``, never differentiated.
        derivative: Its derivative in ``kappa``, a function of ``(kappa, dim)`` that autograd
            differentiates in turn.

    Returns:
        Tensor of the shape and dtype of ``kappa``, the default one for integers.

    Example:
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> with_derivative(x, 3, lambda x, _: x**3, lambda x, _: 3 * x**2).backward()
        >>> x.grad
        tensor(12.)
    """
    return _WithDerivative.apply(as_floating(kappa), dim, value, derivative)


def as_floating(x: Tensor) -> Tensor:
    """Convert integers to the default dtype; leave floating-point numbers as they are.

    Example:
        >>> as_floating(torch.tensor([1, 2]))
        tensor([1., 2.])
    """
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def widen(kappa: Tensor) -> Tensor:
    """Convert to float64 where the device has it.

    Example:
        >>> widen(torch.ones(1)).dtype
        torch.float64
    """
    return kappa.float() if kappa.device.type == "mps" else kappa.double()


class _WithDerivative(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(kappa: Tensor, dim: int, value: Function, derivative: Function) -> Tensor:
        return value(widen(kappa), dim).to(kappa.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        kappa, ctx.dim, _, ctx.derivative = inputs
        ctx.save_for_backward(kappa)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (kappa,) = ctx.saved_tensors
        return grads[0] * ctx.derivative(kappa, ctx.dim), None, None, None


def grad_of_plain(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    grads: Tensor | tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Differentiate a function of plain operations, keeping the graph for the next derivative.

    Args:
        function: Maps the inputs to one output or to a tuple of them.
        inputs: Tensors to evaluate and differentiate it at.
        grads: Gradients with respect to the outputs.

    Returns:
        One gradient per input.
    """
    # torch.func nests: inside its transforms no tensor says whether it requires a gradient.
    gradients: tuple[Tensor, ...] = torch.func.vjp(function, *inputs)[1](grads)
    return gradients
