"""The linear probe: multinomial logistic regression on the features of a frozen encoder."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from probcl.checks import as_labels, as_logits, as_matrix, as_truths, check_finite
from probcl.evaluation.convex import minimise
from probcl.evaluation.progress import track
from probcl.evaluation.subsets import in_blocks

__all__ = [
    "LinearProbe", "accuracy", "few_shot_accuracy", "few_shot_rows", "fit_linear_probe",
    "multi_label_accuracy", "top_k_accuracy",
]  # fmt: skip

_BATCH = 1024
_BLOCK = 2**22  # logits that are held at once


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

    by L-BFGS; for more than ``exact_up_to`` numbers, by stochastic gradients (Nesterov momentum, a
    cosine), on the device of the features; both in float32.

    Args:
        features: Output of the frozen backbone, shape ``(N, F)``.
        labels: Classes, shape ``(N,)``.
        num_classes: Number ``C`` of classes; by default the largest label and one.
        penalty: Of the weights; as scikit-learn's ``1 / C``, of two classes its ``2 / C``.
        exact_up_to: Most numbers, ``N F``, for L-BFGS; by default half a gigabyte of them.
        epochs: Of the stochastic gradients.

    Raises:
        ValueError: If there is only one class, or an argument does not fit.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
        >>> fit_linear_probe(x, torch.tensor([0, 0, 1, 1])).predict(x)
        tensor([0, 0, 1, 1])
    """
    x = features
    if torch.is_tensor(x) and x.numel() > exact_up_to:
        check_finite("features", x)  # and leave it on its device
    else:
        x = as_matrix("features", x)
    large = x.numel() > exact_up_to
    y = as_labels("labels", labels, len(x))
    seen, target = y.unique(return_inverse=True)
    if len(seen) < 2:
        raise ValueError(f"labels must hold at least two classes, got class {int(seen)} alone.")
    count = int(seen.max()) + 1 if num_classes is None else num_classes
    if count <= seen.max():
        raise ValueError(f"num_classes must be above every label, {int(seen.max())}, got {count}.")
    mean, scale = _moments(x)
    # One copy in float32, standardised, with ones for the bias.
    scaled = torch.ones(len(x), x.shape[1] + 1, device=x.device)
    for part, out in zip(x.split(_BATCH), scaled.split(_BATCH), strict=True):
        out[:, :-1] = (part - mean) / scale
    decay = torch.full((x.shape[1] + 1,), penalty / len(x), device=x.device)
    decay[-1] = 0
    fit = partial(_by_stochastic_gradients, epochs=epochs) if large else _by_lbfgs
    weights = torch.zeros(count, len(decay))
    weights[:, -1] = -torch.inf
    weights[seen] = fit(scaled, target.to(x.device), decay).cpu()
    return LinearProbe(mean.cpu().float(), scale.cpu().float(), weights[:, :-1], weights[:, -1])


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and scale of each feature, in float64; 1 where it does not vary."""
    mean = torch.stack([part.double().sum(0) for part in x.split(_BATCH)]).sum(0) / len(x)
    squares = torch.stack([(part - mean).square().sum(0) for part in x.split(_BATCH)])
    scale = (squares.sum(0) / len(x)).sqrt()
    # Numbers that do not vary, against their mean or beside the others, are left as they are.
    beside = torch.finfo(torch.float32).eps * scale.max()
    least = (1e-12 * mean.abs()).clamp_min(beside).clamp_min(1e-300)
    return mean, torch.where(scale > least, scale, 1.0)


def _by_lbfgs(x: Tensor, y: Tensor, decay: Tensor) -> Tensor:
    count = len(x)
    # In the basis of the principal components curvatures are known, and few items need few of them.
    if count < x.shape[1]:
        basis = torch.linalg.svd(x[:, :-1], full_matrices=False).Vh.T
    else:
        basis = torch.linalg.eigh((x[:, :-1].T @ x[:, :-1]).double()).eigenvectors.float()
    x = torch.cat([x[:, :-1] @ basis, x[:, -1:]], -1)
    decay = decay[-x.shape[1] :]
    share = y.bincount() / count
    own = x.new_zeros(len(share), x.shape[1]).index_add_(0, y, x) / count
    parts = x.split(max(1, _BLOCK // len(share)))

    def loss(weight: Tensor) -> tuple[float, Tensor]:
        shrunk = decay * weight
        value = (weight.double() * (0.5 * shrunk - own)).sum()
        gradient = shrunk - own
        for part in parts:
            # Classes come first: a softmax along short rows would be slow.
            p = weight @ part.T
            largest = p.amax(0)
            total = p.sub_(largest).exp_().sum(0)
            gradient.addmm_(p.div_(total), part, alpha=1 / count)
            value += (total.log() + largest).sum(dtype=torch.double) / count
        return value.item(), gradient

    variance = x.square().mean(0)
    curvature = (share * (1 - share))[:, None] * variance + decay + 1e-9
    weight = minimise(loss, curvature, torch.zeros_like(curvature), "linear probe")
    return torch.cat([weight[:, :-1] @ basis.T, weight[:, -1:]], -1)


@torch.inference_mode(False)
@torch.no_grad()
def _by_stochastic_gradients(x: Tensor, y: Tensor, decay: Tensor, epochs: int) -> Tensor:
    weight = x.new_zeros(int(y.max()) + 1, len(decay))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, nesterov=True)
    steps = epochs * -(-len(x) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in track("linear probe", range(epochs)):
        for rows in torch.randperm(len(x), generator=generator).to(x.device).split(_BATCH):
            residual = (x[rows] @ weight.T).softmax(-1) - one_hot(y[rows], len(weight))
            weight.grad = residual.T @ x[rows] / len(rows) + decay * weight
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
    x = as_matrix("features", features)
    test = as_matrix("test_features", test_features, dim=x.shape[1])
    y = as_labels("labels", labels, len(x))
    generator = torch.Generator().manual_seed(seed)
    same = shots * len(y.unique()) == len(y)  # each draw is of all items
    scores = []
    for _ in track("few-shot probes", range(min(subsets, 1) if same else subsets)):
        rows = few_shot_rows(y, shots, generator)
        predicted = in_blocks(fit_linear_probe(x[rows], y[rows]).predict, test)
        scores.append(accuracy(predicted, test_labels))
    return scores * subsets if same else scores


def accuracy(predicted: Any, labels: Any) -> float:
    """Return the share of the predicted classes ``(N,)`` that are the true ones."""
    truth = as_labels("labels", labels)
    return (as_labels("predicted", predicted, len(truth)) == truth).double().mean().item()


def top_k_accuracy(scores: Any, labels: Any, k: int = 5) -> float:
    """Return the share of items whose class is among the ``k`` of the highest scores.

    An item whose class ties with others is right in the share of the orders in which it is.

    Args:
        scores: Probabilities or logits, shape ``(N, C)``, minus infinity for a class not seen.
        labels: Classes, shape ``(N,)``.
        k: From 1 to ``C``.

    Raises:
        ValueError: If ``k`` is out of range, or an argument does not fit.

    Example:
        >>> top_k_accuracy(torch.eye(3), torch.tensor([0, 1, 0]), k=1)
        0.6666666666666666
    """
    values = as_logits("scores", scores)
    truth = as_labels("labels", labels, *values.shape)
    if not 1 <= k <= values.shape[-1]:
        raise ValueError(f"k must be from 1 to {values.shape[-1]}, the number of classes, got {k}.")
    own = values.gather(1, truth[:, None])
    above, equal = (values > own).sum(-1), (values == own).sum(-1)
    return ((k - above) / equal).clamp(0, 1).double().mean().item()


def multi_label_accuracy(predicted: Any, allowed: Any) -> tuple[float, int]:
    """Return the share of predictions that are among the classes an image may be given.

    Images that may be given none are left out, as ImageNet-ReaL defines it.

    Args:
        predicted: Classes, shape ``(N,)``.
        allowed: Truth values, shape ``(N, C)``.

    Returns:
        The share, and the number of images that it is of.

    Raises:
        ValueError: If no image may be given any class.

    References:
        Beyer et al. (2020), Are we done with ImageNet? https://arxiv.org/abs/2006.07159
    """
    matrix = torch.as_tensor(allowed)
    classes = as_labels("predicted", predicted, *matrix.shape)
    truth = as_truths("allowed", matrix.flatten()).view(matrix.shape)
    evaluated = truth.any(-1)
    if not evaluated.any():
        raise ValueError("allowed must allow a class for one image at least, got none.")
    right = truth.gather(1, classes[:, None])[evaluated]
    return right.double().mean().item(), int(evaluated.sum())
