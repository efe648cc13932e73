"""Uncertainty from several predictions of one item: posterior samples, dropout, an ensemble.

``probabilities`` are those of ``S`` samples for each of ``N`` items, of shape ``(S, N, C)``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from probcl.modes import in_evaluation
from probcl.randomness import seeded

__all__ = [
    "ensemble", "expected_entropy", "monte_carlo_dropout", "mutual_information",
    "predictive_entropy",
]  # fmt: skip


def predictive_entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy ``(N,)`` of the mean prediction, in nats: all there is of uncertainty.

    References:
        Depeweg et al. (2018), https://arxiv.org/abs/1710.07283

    Example:
        >>> predictive_entropy(torch.eye(2)[:, None])
        tensor([0.6931])
    """
    return torch.special.entr(probabilities.mean(0)).sum(-1)


def expected_entropy(probabilities: Tensor) -> Tensor:
    """Return the mean entropy ``(N,)`` of the predictions, in nats: what no sample resolves."""
    return torch.special.entr(probabilities).sum(-1).mean(0)


def mutual_information(probabilities: Tensor) -> Tensor:
    """Return how far samples disagree, ``(N,)``: entropy of the mean less mean entropy, in nats.

    References:
        Houlsby et al. (2011), https://arxiv.org/abs/1112.5745

    Example:
        >>> mutual_information(torch.eye(2)[:, None])
        tensor([0.6931])
    """
    return (predictive_entropy(probabilities) - expected_entropy(probabilities)).clamp_min(0)


def monte_carlo_dropout(
    module: nn.Module, images: Tensor, samples: int = 16, seed: int = 0
) -> Tensor:
    """Return outputs ``(samples, N, *)`` of a network with its dropout at work, else in evaluation.

    Args:
        module: Network with a dropout layer, or stochastic depth, at least.
        images: What it takes, shape ``(N, ...)``.
        samples: Number of runs.
        seed: Seed of the dropout; the global random state is left alone.

    Raises:
        ValueError: If the network has no dropout layer.

    References:
        Gal and Ghahramani (2016), https://arxiv.org/abs/1506.02142
    """
    from torchvision.ops import StochasticDepth  # torchvision takes long, and much memory

    layers = [m for m in module.modules() if isinstance(m, _DropoutNd | StochasticDepth)]
    if not layers:
        raise ValueError(
            f"module {type(module).__name__} has no dropout layer: its runs would all be the same."
        )
    with in_evaluation(module), torch.no_grad(), seeded(seed):
        for layer in layers:
            layer.train()
        return torch.stack([module(images) for _ in range(samples)])


def ensemble(modules: Sequence[nn.Module], images: Tensor) -> Tensor:
    """Return the outputs ``(len(modules), N, *)`` of several networks, each as in evaluation.

    References:
        Lakshminarayanan et al. (2017), https://arxiv.org/abs/1612.01474
    """
    if not modules:
        raise ValueError("modules must hold one network at least, got none.")
    outputs = []
    for module in modules:
        with in_evaluation(module), torch.no_grad():
            outputs.append(module(images))
    return torch.stack(outputs)
