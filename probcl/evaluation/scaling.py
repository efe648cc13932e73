"""Scaling of logits, learned on held-out items, by which probabilities become frequencies."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from probcl.checks import as_labels, as_logits, as_probabilities
from probcl.precision import at_least_float32

__all__ = ["Isotonic", "Scaling", "fit_dirichlet", "fit_isotonic", "fit_temperature", "fit_vector"]


@dataclass(frozen=True)
class Scaling:
    """An affine map of the logits.

    Args:
        weight: Of all logits, shape ``()``, or of each class's, ``(C,)``; or the matrix ``(C, C)``
            of the logarithms of their softmax.
        bias: Shape ``()`` or ``(C,)``.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits ``(*, C)``; one of minus infinity stays."""
        logits = at_least_float32(logits)
        unseen = logits.isneginf()
        weight, bias = self.weight.to(logits), self.bias.to(logits)
        if weight.dim() == 2:
            scaled = logits.log_softmax(-1).masked_fill(unseen, 0.0) @ weight.mT + bias
        else:
            scaled = logits.masked_fill(unseen, 0.0) * weight + bias
        return scaled.masked_fill(unseen, -torch.inf)


def fit_temperature(logits: Any, labels: Any) -> Scaling:
    """Fit the temperature that makes held-out labels likely; the order of classes stays.

    The logarithm of the temperature has a standard normal prior: without one, items that are all
    right would send it to zero.

    Args:
        logits: Shape ``(N, C)``, minus infinity for a class that was not seen.
        labels: Classes, shape ``(N,)``.

    Returns:
        A scaling whose ``weight`` is one divided by the temperature.

    Raises:
        ValueError: If a label's logit is minus infinity, or one is not a number.

    References:
        Guo et al. (2017), On calibration of modern neural networks. https://arxiv.org/abs/1706.04599

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
        >>> round((1 / fit_temperature(logits, torch.tensor([0, 0, 0, 1])).weight).item(), 3)
        1.393
    """
    return _fit(lambda log_weight: Scaling(log_weight.exp(), torch.zeros(())), [0], logits, labels)


def fit_vector(logits: Any, labels: Any) -> Scaling:
    """Fit a weight and a bias for each class's logit that make held-out labels likely.

    The biases and the logarithms of the weights have standard normal priors; arguments, errors and
    source are those of ``fit_temperature``.

    Raises:
        ValueError: If a label's logit is minus infinity, or one is not a number.
    """
    return _fit(lambda log_weight, bias: Scaling(log_weight.exp(), bias), [1, 1], logits, labels)


def fit_dirichlet(logits: Any, labels: Any) -> Scaling:
    """Fit a matrix and a bias of the log probabilities: Dirichlet calibration.

    Every entry of the bias, and of the matrix less the identity, has a standard normal prior;
    arguments and errors are those of ``fit_temperature``. Of many classes it takes long, 20 s of
    one core for 100 classes of 3,000 items, and needs many items of each.

    Raises:
        ValueError: If a label's logit is minus infinity, or one is not a number.

    References:
        Kull et al. (2019), Beyond temperature scaling. https://arxiv.org/abs/1910.12656
    """

    def scaling(change: Tensor, bias: Tensor) -> Scaling:
        return Scaling(torch.eye(len(bias)) + change, bias)

    return _fit(scaling, [2, 1], logits, labels)


@dataclass(frozen=True)
class Isotonic:
    """A non-decreasing map of each class's probability.

    Args:
        curves: For each class the places and the values of a curve that is linear between them.
    """

    curves: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __call__(self, probabilities: Any) -> Tensor:
        """Map probabilities ``(N, C)``, whose rows sum to one again."""
        columns = as_probabilities("probabilities", probabilities).T
        if len(columns) != len(self.curves):
            raise ValueError(
                f"probabilities must be of {len(self.curves)} classes, as in the fit, got "
                f"{len(columns)}."
            )
        mapped = [np.interp(p, *curve) for p, curve in zip(columns, self.curves, strict=True)]
        values = torch.as_tensor(np.stack(mapped, 1))
        total = values.sum(-1, keepdim=True)
        return torch.where(total > 0, values / total.clamp_min(1e-300), 1 / values.shape[1])


def fit_isotonic(probabilities: Any, labels: Any) -> Isotonic:
    """Fit the isotonic regression of each class against the others to held-out items.

    Args:
        probabilities: Shape ``(N, C)``.
        labels: Classes, shape ``(N,)``.

    References:
        Zadrozny and Elkan (2002), Transforming classifier scores into accurate multiclass
        probability estimates. https://doi.org/10.1145/775047.775151

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]])
        >>> fit_isotonic(p, torch.tensor([0, 1, 0, 1]))(p[1:2])
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    from sklearn.isotonic import IsotonicRegression  # at its first use: it takes long to import

    p = as_probabilities("probabilities", probabilities)
    y = as_labels("labels", labels, *p.shape)
    curves = []
    for label, values in enumerate(p.T.numpy()):
        fitted = IsotonicRegression(out_of_bounds="clip").fit(values, (y == label).double().numpy())
        curves.append((fitted.X_thresholds_, fitted.y_thresholds_))
    return Isotonic(tuple(curves))


@torch.inference_mode(False)
@torch.enable_grad()
def _fit(scaling: Callable[..., Scaling], axes: list[int], logits: Any, labels: Any) -> Scaling:
    """Fit parameters of standard normal priors, of so many axes of classes each."""
    values = as_logits("logits", logits).double().clone()  # of no inference mode
    y = as_labels("labels", labels, *values.shape).clone()
    if not values.gather(1, y[:, None]).isfinite().all():
        raise ValueError(
            "logits must be finite for the class of each item, got minus infinity: leave out items "
            "of classes that were not seen."
        )
    shapes = [axis * (values.shape[1],) for axis in axes]
    sizes = [math.prod(shape) for shape in shapes]

    def parts(numbers: Tensor) -> list[Tensor]:
        return [p.view(shape) for p, shape in zip(numbers.split(sizes), shapes, strict=True)]

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        x = torch.tensor(numbers, requires_grad=True)
        prior = x.square().sum() / (2 * len(y))
        value = torch.nn.functional.cross_entropy(scaling(*parts(x))(values), y) + prior
        (gradient,) = torch.autograd.grad(value, x)
        return value.item(), gradient.numpy()

    # By SciPy: torch's optimizers import its compiler, which takes a second and 140 MiB.
    precise = {"maxiter": 5000, "gtol": 1e-9, "ftol": 1e-14}
    # Its threads and torch's wait for each other: on two cores that takes twenty times as long.
    with threadpool_limits(1, user_api="blas"):
        best = minimize(loss, np.zeros(sum(sizes)), jac=True, method="L-BFGS-B", options=precise)
    return scaling(*parts(torch.as_tensor(best.x)))
