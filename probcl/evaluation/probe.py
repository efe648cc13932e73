"""The linear probe: multinomial logistic regression on the features of a frozen encoder."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from probcl.checks import as_labels, as_matrix, as_truths
from probcl.evaluation.progress import step, track

__all__ = [
    "LinearProbe", "accuracy", "few_shot_accuracy", "few_shot_rows", "fit_linear_probe",
    "multi_label_accuracy", "top_k_accuracy",
]  # fmt: skip

_BATCH, _ITERATIONS = 1024, 300


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of standardised features.

    Args:
        mean: Of each feature, shape ``(F,)``.
        scale: Standard deviation of each feature, shape ``(F,)``.
        weight: Shape ``(C, F)``.
        bias: Shape ``(C,)``; minus infinity for a class that was not seen.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Map features ``(*, F)`` to logits ``(*, C)``."""
        scaled = (features.to(self.mean) - self.mean) / self.scale
        return scaled @ self.weight.T + self.bias

    def probabilities(self, features: Tensor) -> Tensor:
        """Map features ``(*, F)`` to class probabilities ``(*, C)``."""
        return self.logits(features).softmax(-1)

    def predict(self, features: Tensor) -> Tensor:
        """Map features ``(*, F)`` to classes ``(*,)``."""
        return self.logits(features).argmax(-1)


def fit_linear_probe(
    features: Any,
    labels: Any,
    num_classes: int | None = None,
    penalty: float = 1.0,
    exact_up_to: int = 2**27,
    epochs: int = 30,
) -> LinearProbe:
    r"""Fit a multinomial logistic regression on standardised features.

        min_W,b  sum_i -log softmax(W x_i + b)[y_i] + penalty / 2 |W|^2

    by L-BFGS in float64; for more numbers than that takes well, by stochastic gradients (Nesterov
    momentum, a cosine) in float32, on the device of the features.

    Args:
        features: Output of the frozen backbone, shape ``(N, F)``.
        labels: Classes, shape ``(N,)``.
        num_classes: Number ``C`` of classes; by default the largest label and one.
        penalty: Of the weights; as scikit-learn's ``1 / C``.
        exact_up_to: Most numbers, ``N F``, for L-BFGS; by default a gigabyte of them.
        epochs: Of the stochastic gradients.

    Raises:
        ValueError: If there is only one class, or an argument does not fit.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
        >>> fit_linear_probe(x, torch.tensor([0, 0, 1, 1])).predict(x)
        tensor([0, 0, 1, 1])
    """
    large = torch.is_tensor(features) and features.numel() > exact_up_to
    x = features if large else as_matrix("features", features)
    y = as_labels("labels", labels, len(x))
    seen, target = y.unique(return_inverse=True)
    if len(seen) < 2:
        raise ValueError(f"labels must hold at least two classes, got class {int(seen)} alone.")
    count = int(seen.max()) + 1 if num_classes is None else num_classes
    if count <= seen.max():
        raise ValueError(f"num_classes must be above every label, {int(seen.max())}, got {count}.")
    # One copy, standardised in place, with ones for the bias.
    x = torch.cat([x if large else x.double(), x.new_ones(len(x), 1)], -1)
    mean, scale = x[:, :-1].mean(0), x[:, :-1].std(0, correction=0)
    # Numbers that do not vary, against their mean or beside the others, are left as they are.
    beside = torch.finfo(torch.float32).eps * scale.max()
    least = (1e-12 * mean.abs()).clamp_min(beside).clamp_min(1e-300)
    scale = torch.where(scale > least, scale, 1.0)
    x[:, :-1].sub_(mean).div_(scale)
    decay = torch.full((len(seen), x.shape[1]), penalty / len(x), dtype=torch.double)
    decay[:, -1] = 0
    fit = partial(_by_stochastic_gradients, epochs=epochs) if large else _by_lbfgs
    weights = torch.zeros(count, x.shape[1])
    weights[:, -1] = -torch.inf
    weights[seen] = fit(x, target.to(x.device), decay).cpu().float()
    return LinearProbe(mean.cpu().float(), scale.cpu().float(), weights[:, :-1], weights[:, -1])


def _by_lbfgs(x: Tensor, y: Tensor, decay: Tensor) -> Tensor:
    # By hand the gradient takes two products; the objective is a mean, so that its scale is known.
    weight = torch.zeros_like(decay, requires_grad=True)
    one_hot = torch.nn.functional.one_hot(y, len(decay)).to(x.dtype)
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=_ITERATIONS, history_size=20, tolerance_grad=1e-6,
        tolerance_change=1e-10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        advance()
        with torch.no_grad():
            log_p = (x @ weight.T).log_softmax(-1)
            weight.grad = (log_p.exp() - one_hot).T @ x / len(x) + decay * weight
            return -(log_p * one_hot).sum() / len(x) + 0.5 * (decay * weight.square()).sum()

    with step("linear probe", _ITERATIONS) as advance:
        optimizer.step(closure)
    return weight.detach()


@torch.inference_mode(False)
@torch.enable_grad()
def _by_stochastic_gradients(x: Tensor, y: Tensor, decay: Tensor, epochs: int) -> Tensor:
    x, decay = x.float(), decay.float().to(x.device)
    weight = torch.zeros_like(decay, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, nesterov=True)
    steps = epochs * -(-len(x) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in track("linear probe", range(epochs)):
        for rows in torch.randperm(len(x), generator=generator).to(x.device).split(_BATCH):
            optimizer.zero_grad()
            loss = cross_entropy(x[rows] @ weight.T, y[rows])
            (loss + 0.5 * (decay * weight.square()).sum()).backward()
            optimizer.step()
            schedule.step()
    return weight.detach()


def few_shot_rows(labels: Any, shots: int, generator: torch.Generator | None = None) -> Tensor:
    """Return the rows ``(C shots,)`` of ``shots`` random items of each of the classes ``(N,)``.

    Raises:
        ValueError: If a class has fewer items than asked for.
    """
    y = as_labels("labels", labels)
    classes, counts = y.unique(return_counts=True)
    if not 1 <= shots <= counts.min():
        raise ValueError(
            f"shots must be from 1 to {int(counts.min())}, the items of class "
            f"{int(classes[counts.argmin()])}, got {shots}."
        )
    order = torch.randperm(len(y), generator=generator)
    order = order[y[order].argsort(stable=True)]
    first = counts.cumsum(0) - counts
    return order[(first[:, None] + torch.arange(shots)).flatten()]


def few_shot_accuracy(
    features: Any,
    labels: Any,
    test_features: Any,
    test_labels: Any,
    shots: int = 5,
    subsets: int = 5,
    seed: int = 0,
) -> list[float]:
    """Return the accuracy of each of the probes fitted on a few training items of each class.

    Args:
        features: Of the training items, shape ``(M, F)``.
        labels: Classes, shape ``(M,)``.
        test_features: Shape ``(N, F)``.
        test_labels: Shape ``(N,)``.
        shots: Items of each class.
        subsets: How many times they are drawn, at random, and a probe is fitted.
        seed: Seed of the draws.

    Raises:
        ValueError: If a class has fewer items than asked for, or an argument does not fit.
    """
    x, test = as_matrix("features", features), as_matrix("test_features", test_features)
    y = as_labels("labels", labels, len(x))
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for _ in track("few-shot probes", range(subsets)):
        rows = few_shot_rows(y, shots, generator)
        scores.append(accuracy(fit_linear_probe(x[rows], y[rows]).predict(test), test_labels))
    return scores


def accuracy(predicted: Any, labels: Any) -> float:
    """Return the fraction of the predicted classes ``(N,)`` that are the true ones."""
    truth = as_labels("labels", labels)
    return (as_labels("predicted", predicted, len(truth)) == truth).double().mean().item()


def top_k_accuracy(scores: Any, labels: Any, k: int = 5) -> float:
    """Return the fraction of items whose class is among the ``k`` of the highest scores.

    An item whose class ties with others is right in the share of the orders in which it is.

    Args:
        scores: Probabilities or logits, shape ``(N, C)``.
        labels: Classes, shape ``(N,)``.
        k: From 1 to ``C``.

    Example:
        >>> top_k_accuracy(torch.eye(3), torch.tensor([0, 1, 0]), k=1)
        0.6666666666666666
    """
    values = torch.as_tensor(scores).double()
    truth = as_labels("labels", labels, len(values))
    if not 1 <= k <= values.shape[-1]:
        raise ValueError(f"k must be from 1 to {values.shape[-1]}, the number of classes, got {k}.")
    own = values.gather(1, truth[:, None])
    above, equal = (values > own).sum(-1), (values == own).sum(-1)
    return ((k - above) / equal).clamp(0, 1).double().mean().item()


def multi_label_accuracy(predicted: Any, allowed: Any) -> tuple[float, int]:
    """Return the fraction of predictions that are among the classes an image may be given.

    Images that may be given none are left out, as ImageNet-ReaL defines it.

    Args:
        predicted: Classes, shape ``(N,)``.
        allowed: Truth values, shape ``(N, C)``.

    Returns:
        The fraction, and the number of images that it is of.

    Raises:
        ValueError: If no image may be given any class.

    References:
        Beyer et al. (2020), Are we done with ImageNet? https://arxiv.org/abs/2006.07159
    """
    matrix = torch.as_tensor(allowed)
    classes = as_labels("predicted", predicted, len(matrix))
    truth = as_truths("allowed", matrix.flatten()).view(matrix.shape)
    evaluated = truth.any(-1)
    if not evaluated.any():
        raise ValueError("allowed must allow a class for one image at least, got none.")
    right = truth.gather(1, classes[:, None])[evaluated]
    return right.double().mean().item(), int(evaluated.sum())
