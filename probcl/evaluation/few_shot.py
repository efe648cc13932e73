"""Few-shot probes: linear probes that learn from a few images of each class."""

from collections.abc import Sequence
from typing import Any

import torch

from probcl.checks import as_labels, as_matrix
from probcl.evaluation.probe import accuracy, fit_linear_probe

__all__ = ["few_shot_accuracy"]


def few_shot_accuracy(
    features: Any,
    labels: Any,
    test_features: Any,
    test_labels: Any,
    shots: Sequence[int] = (1, 5, 10),
    subsets: int = 5,
    seed: int = 0,
) -> dict[int, list[float]]:
    """Return the accuracy of probes fitted on ``n`` random training images of each class.

    Args:
        features: Of the training images, shape ``(M, F)``.
        labels: Classes, shape ``(M,)``.
        test_features: Shape ``(N, F)``.
        test_labels: Shape ``(N,)``.
        shots: The numbers ``n``.
        subsets: Random subsets for each number.
        seed: Seed of the subsets.

    Returns:
        The accuracies of the subsets, by ``n``.

    Raises:
        ValueError: If a class has fewer images than asked for.
    """
    x = as_matrix("features", features)
    y = as_labels("labels", labels, len(x))
    test = as_matrix("test_features", test_features)
    counts = y.bincount()
    scarce = torch.where(counts > 0, counts, len(y) + 1).argmin()
    if max(shots) > counts[scarce]:
        raise ValueError(
            f"shots must be at most {int(counts[scarce])}, the images of class {int(scarce)}, got "
            f"{max(shots)}."
        )
    generator = torch.Generator().manual_seed(seed)
    results: dict[int, list[float]] = {}
    for n in shots:
        for _ in range(subsets):
            shuffled = torch.randperm(len(y), generator=generator)
            order = shuffled[y[shuffled].argsort(stable=True)]
            start = counts.cumsum(0) - counts
            rank = torch.arange(len(y)) - start[y[order]]  # within the class
            rows = order[rank < n]
            probe = fit_linear_probe(x[rows], y[rows])
            results.setdefault(n, []).append(accuracy(probe.predict(test), test_labels))
    return results
