"""Scaling of logits: calibration learned on held-out items."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probcl.checks import as_labels

__all__ = ["Scaling", "fit_temperature", "fit_vector"]


@dataclass(frozen=True)
class Scaling:
    """An affine map of each class's logit.

    Args:
        weight: Of all logits, shape ``()``, or of each class's, ``(C,)``.
        bias: Shape ``()`` or ``(C,)``.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits ``(*, C)``; one of minus infinity stays."""
        scaled = logits * self.weight.to(logits) + self.bias.to(logits)
        return torch.where(logits.isneginf(), -torch.inf, scaled)


def fit_temperature(logits: Any, labels: Any) -> Scaling:
    """Fit the temperature that makes held-out labels likely; the order of classes stays.

    The logarithm of the temperature has a standard normal prior: without one, items that are all
    right would send it to zero.

    Args:
        logits: Shape ``(N, C)``, minus infinity for a class that was not seen.
        labels: Classes, shape ``(N,)``.

    Returns:
        A scaling whose ``weight`` is one divided by the temperature, above 0.

    Raises:
        ValueError: If a label's logit is minus infinity, or one is not a number.

    References:
        Guo et al. (2017), On calibration of modern neural networks. https://arxiv.org/abs/1706.04599

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
        >>> round((1 / fit_temperature(logits, torch.tensor([0, 0, 0, 1])).weight).item(), 3)
        1.393
    """
    log_weight, _ = _fit(logits, labels, per_class=False)
    return Scaling(log_weight.exp(), torch.zeros(()))


def fit_vector(logits: Any, labels: Any) -> Scaling:
    """Fit a weight and a bias for each class's logit that make held-out labels likely.

    The biases and the logarithms of the weights have standard normal priors.

    Args:
        logits: Shape ``(N, C)``, minus infinity for a class that was not seen.
        labels: Classes, shape ``(N,)``.

    Raises:
        ValueError: If a label's logit is minus infinity, or one is not a number.

    References:
        Guo et al. (2017), On calibration of modern neural networks. https://arxiv.org/abs/1706.04599
    """
    log_weight, bias = _fit(logits, labels, per_class=True)
    return Scaling(log_weight.exp(), bias)


def _fit(logits: Any, labels: Any, per_class: bool) -> tuple[Tensor, Tensor]:
    values = torch.as_tensor(logits).detach().cpu().double()
    y = as_labels("labels", labels, len(values))
    if values.isnan().any() or values.isposinf().any():
        raise ValueError("logits must be numbers or minus infinity, got NaN or infinity.")
    if not values.gather(1, y[:, None]).isfinite().all():
        raise ValueError(
            "logits must be finite for the class of each item, got minus infinity: leave out items "
            "of classes that were not seen."
        )
    unseen = values.isneginf()
    finite = torch.where(unseen, 0.0, values)
    target = torch.nn.functional.one_hot(y, values.shape[1]).double()
    shape = (values.shape[1],) if per_class else ()
    log_weight, bias = torch.zeros(shape).double(), torch.zeros(shape).double()
    decay = 1 / len(y)
    # By hand the gradient can be had in inference mode too.
    for parameter in (log_weight, bias):
        parameter.requires_grad_()
    fitted = [log_weight, bias] if per_class else [log_weight]
    optimizer = torch.optim.LBFGS(
        fitted, max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        with torch.no_grad():
            scaled = finite * log_weight.exp() + bias
            log_p = scaled.masked_fill(unseen, -torch.inf).log_softmax(-1)
            residual = (log_p.exp() - target) / len(y)
            slope = residual * finite * log_weight.exp()
            log_weight.grad = (slope.sum(0) if per_class else slope.sum()) + decay * log_weight
            bias.grad = (residual.sum(0) if per_class else residual.sum()) + decay * bias
            loss = -(log_p.masked_fill(unseen, 0.0) * target).sum() / len(y)
            return loss + 0.5 * decay * sum(p.square().sum() for p in fitted)

    optimizer.step(closure)
    return log_weight.detach(), bias.detach()
