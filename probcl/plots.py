"""Pictures of runs: functions on arrays that return ``(figure, axes)``."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

__all__ = [
    "plot_map",
    "plot_reliability",
    "plot_severity",
    "plot_spectrum",
    "plot_terms",
]

# Okabe and Ito's colours, told apart in any form of colour blindness, with markers beside them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def plot_terms(epochs: ArrayLike, terms: Mapping[str, ArrayLike]) -> tuple[Figure, Axes]:
    """Draw the loss and its terms over the epochs of a training.

    Args:
        epochs: Shape ``(E,)``.
        terms: Values by name, each of shape ``(E,)``.
    """
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for (name, values), colour, marker in zip(terms.items(), COLOURS, MARKERS, strict=False):
        every = max(1, len(np.asarray(epochs)) // 12)
        axes.plot(
            epochs, values, color=colour, marker=marker, markevery=every, markersize=4, label=name
        )
    axes.set(xlabel="epoch", ylabel="term of the loss")
    axes.legend(frameon=False)
    _plain(axes)
    return figure, axes


def plot_map(
    coordinates: ArrayLike, labels: ArrayLike, uncertainty: ArrayLike | None = None
) -> tuple[Figure, np.ndarray]:
    """Draw a two-dimensional map of embeddings, by class and by uncertainty.

    Args:
        coordinates: Shape ``(N, 2)``.
        labels: Classes, integers, shape ``(N,)``; the first 20 are written at their centres.
        uncertainty: Shape ``(N,)``; without it the map by class stands alone.
    """
    points, classes = np.asarray(coordinates), np.asarray(labels)
    panels = 1 if uncertainty is None else 2
    figure, axes = plt.subplots(
        1, panels, figsize=(4.6 * panels, 4.2), layout="constrained", squeeze=False
    )
    panel = axes[0, 0]
    panel.scatter(*points.T, c=classes % 20, cmap="tab20", s=12, linewidths=0)
    for label in np.unique(classes)[:20]:
        centre = np.median(points[classes == label], axis=0)
        panel.annotate(
            str(label), centre, ha="center", va="center", weight="bold",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "lw": 0},
        )  # fmt: skip
    panel.set_title("by class")
    if uncertainty is not None:
        panel = axes[0, 1]
        # Ranks spread the colours evenly whatever the scale of the score.
        ranks = np.argsort(np.argsort(np.asarray(uncertainty))) / max(1, len(points) - 1)
        drawn = panel.scatter(*points.T, c=ranks, cmap="viridis", s=12, linewidths=0)
        figure.colorbar(drawn, ax=panel, label="rank of uncertainty (0: most certain)")
        panel.set_title("by uncertainty")
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    return figure, axes


def plot_reliability(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15
) -> tuple[Figure, np.ndarray]:
    """Draw accuracy against confidence, and how often each confidence is given.

    Args:
        probabilities: Class probabilities, shape ``(N, C)``.
        labels: Classes, shape ``(N,)``.
        bins: Number of equal bins of the confidence.
    """
    values = np.asarray(probabilities)
    confidence, correct = values.max(-1), values.argmax(-1) == np.asarray(labels)
    edges = np.linspace(0, 1, bins + 1)
    member = np.clip(np.digitize(confidence, edges[1:-1]), 0, bins - 1)
    counts = np.bincount(member, minlength=bins)
    filled = counts > 0
    mean_confidence = np.bincount(member, confidence, bins)[filled] / counts[filled]
    mean_accuracy = np.bincount(member, correct, bins)[filled] / counts[filled]
    figure, axes = plt.subplots(
        2, 1, figsize=(6, 4.6), layout="constrained", sharex=True, height_ratios=[3, 1]
    )
    axes[0].plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfectly calibrated")
    area = 15 + 150 * counts[filled] / counts.max()
    axes[0].scatter(mean_confidence, mean_accuracy, area, COLOURS[0], label="linear probe")
    axes[0].set(ylabel="accuracy", xlim=(0, 1.03), ylim=(-0.03, 1.05))
    axes[0].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes[1].bar(edges[:-1], counts, width=1 / bins, align="edge", color="0.7", edgecolor="white")
    axes[1].set(xlabel="confidence", ylabel="images")
    _plain(*axes)
    return figure, axes


def plot_severity(
    by_severity: Mapping[str, Mapping[int, ArrayLike]], score: str
) -> tuple[Figure, Axes]:
    """Draw the median of a score, and its quartiles, against the severity of corruptions.

    Args:
        by_severity: Scores of the images by corruption and severity, each of shape ``(N,)``.
        score: Name of the score, for the axis.
    """
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    offset = 0.08
    for index, (name, levels) in enumerate(by_severity.items()):
        quartiles = np.array(
            [np.quantile(np.asarray(values), [0.25, 0.5, 0.75]) for values in levels.values()]
        )
        place = np.array(list(levels)) + offset * (index - (len(by_severity) - 1) / 2)
        spread = np.abs(quartiles[:, [0, 2]] - quartiles[:, [1]]).T
        axes.errorbar(
            place, quartiles[:, 1], yerr=spread, label=name, markersize=5, elinewidth=1,
            color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)],
        )  # fmt: skip
    axes.set(xlabel="severity (0: clean)", ylabel=score)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _plain(axes)
    return figure, axes


def plot_spectrum(spectrum: Sequence[float] | ArrayLike) -> tuple[Figure, Axes]:
    """Draw the singular values of the embeddings, relative to the largest.

    Args:
        spectrum: Singular values, largest first, shape ``(d,)``.
    """
    values = np.asarray(spectrum)
    values = values / values.max()
    # Values below the rounding of the embeddings would stretch the axis and mean nothing.
    values = values[values > 1e-7]
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axes.semilogy(np.arange(1, len(values) + 1), values, color=COLOURS[0], marker=".")
    axes.set(xlabel="index", ylabel="singular value / largest")
    _plain(axes)
    return figure, axes


def _plain(*axes: Axes) -> None:
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
