"""Pictures of runs: functions on arrays that return ``(figure, axes)``."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from probcl.evaluation.bootstrap import Interval
from probcl.evaluation.calibration import Reliability
from probcl.evaluation.selective import RiskCoverage
from probcl.report.words import measured

__all__ = [
    "plot_answers", "plot_out_of_distribution", "plot_pareto", "plot_reliability",
    "plot_risk_coverage", "plot_setting", "plot_severity", "plot_shift", "plot_spectrum",
    "plot_terms",
]  # fmt: skip

# Okabe and Ito's colours, told apart in any form of colour blindness, with markers beside them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":")  # where there are more curves than colours
BESIDE = {"frameon": False, "loc": "center left", "bbox_to_anchor": (1, 0.5)}  # a legend's place


def _subplots(width: float, height: float, *shape: int, **options: Any) -> tuple[Figure, Any]:
    """Return a figure, its size in inches, and its axes without the spines that carry no scale."""
    figure, axes = plt.subplots(*shape, figsize=(width, height), layout="constrained", **options)
    for panel in figure.axes:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _curve(number: int) -> dict[str, Any]:
    """Return how the curve of a number is drawn."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number // len(COLOURS) % len(LINES)],
        "markersize": 4,
    }


def plot_terms(epochs: ArrayLike, terms: Mapping[str, ArrayLike]) -> tuple[Figure, Any]:
    """Draw the loss and its terms by name, ``(E,)`` each, over the epochs ``(E,)``."""
    figure, axes = _subplots(6, 3.6)
    every = max(1, len(np.asarray(epochs)) // 12)
    for number, (name, values) in enumerate(terms.items()):
        axes.plot(epochs, values, **_curve(number), markevery=every, label=name)
    axes.set(xlabel="epoch", ylabel="term of the loss")
    axes.legend(frameon=False)
    return figure, axes


def plot_reliability(curve: Reliability, confidence: ArrayLike) -> tuple[Figure, Any]:
    """Draw a curve of ``smooth_reliability``, and how often each confidence ``(N,)`` is given."""
    figure, axes = _subplots(6, 4.6, 2, 1, sharex=True, height_ratios=[3, 1])
    axes[0].plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfectly calibrated")
    axes[0].plot(curve.confidence, curve.accuracy, color=COLOURS[0], label="linear probe")
    axes[0].fill_between(curve.confidence, curve.lower, curve.upper, color=COLOURS[0], alpha=0.2)
    axes[0].set(ylabel="accuracy", xlim=(0, 1.03), ylim=(-0.03, 1.05))
    axes[0].legend(**BESIDE)
    axes[1].hist(np.asarray(confidence), bins=25, range=(0, 1), color="0.6", rwidth=0.9)
    axes[1].set(xlabel="confidence", ylabel="items")
    return figure, axes


def plot_risk_coverage(curves: Mapping[str, RiskCoverage]) -> tuple[Figure, Any]:
    """Draw the risk among the items accepted against their share, by score, and the best order."""
    figure, axes = _subplots(6, 3.6)
    for number, (name, curve) in enumerate(curves.items()):
        every = max(1, len(curve.risk) // 8)
        label = f"{name} ({curve.area:.4f})"
        axes.plot(curve.coverage, curve.risk, **_curve(number), markevery=every, label=label)
    best = next(iter(curves.values()))
    axes.plot(best.coverage, best.best, color="0.6", linestyle="--", label="best order")
    axes.set(xlabel="share of items accepted", ylabel="error among them", xlim=(0, 1))
    axes.legend(**BESIDE, title="score (AURC)")
    return figure, axes


def plot_answers(answers: Mapping[str, Mapping[str, Interval]]) -> tuple[Figure, Any]:
    """Draw how well each score answers each question, ``Evaluation.answers``."""
    questions = list(dict.fromkeys(question for own in answers.values() for question in own))
    size = 1.6 + 2.2 * len(questions), 0.6 + 0.24 * len(answers)
    figure, axes = _subplots(*size, 1, len(questions), sharey=True, squeeze=False)
    place = np.arange(len(answers))[::-1]
    for panel, question in zip(axes[0], questions, strict=True):
        values = np.array([answer.get(question, [np.nan] * 3) for answer in answers.values()])
        best = np.nanargmax(values[:, 0])
        spread = np.abs(values[:, 1:] - values[:, :1]).T
        panel.axvline(measured(question)[1], color="0.7", linewidth=1)
        panel.errorbar(
            values[:, 0], place, xerr=spread, fmt="o", color=COLOURS[0], markersize=4, elinewidth=1
        )
        panel.plot(values[best, 0], place[best], "D", color=COLOURS[1], markersize=7)
        panel.set_title(question.replace("_", " "), fontsize=10)
        panel.set(yticks=place, yticklabels=list(answers), ylim=(-0.6, len(answers) - 0.4))
        panel.grid(axis="y", color="0.92")
    return figure, axes[0]


def plot_shift(shift: Mapping[str, Mapping[int, Mapping[str, float]]]) -> tuple[Figure, Any]:
    """Draw accuracy and calibration error against the severity, of ``Evaluation.shift``."""
    figure, axes = _subplots(8, 3.4, 1, 2)
    severities = sorted({severity for levels in shift.values() for severity in levels})
    names = {"top1": "accuracy", "ece": "calibration error"}
    for panel, (name, label) in zip(axes, names.items(), strict=True):
        curves = {
            corruption: {severity: levels[severity][name] for severity in sorted(levels)}
            for corruption, levels in shift.items()
        }
        for curve in curves.values():
            panel.plot(list(curve), list(curve.values()), color="0.75", linewidth=1)
        mean = [np.mean([c[s] for c in curves.values() if s in c]) for s in severities]
        panel.plot(severities, mean, color=COLOURS[0], marker="o", linewidth=2)
        ends = {corruption: list(curve.items())[-1] for corruption, curve in curves.items()}
        worst = (min if name == "top1" else max)(ends, key=lambda corruption: ends[corruption][1])
        end = ends[worst]
        panel.annotate(worst, end, ha="right", va="bottom")
        panel.set(xlabel="severity", ylabel=label, ylim=(0, 1.02 if name == "top1" else None))
    return figure, axes


def plot_out_of_distribution(
    test: ArrayLike, sets: Mapping[str, ArrayLike], score: str
) -> tuple[Figure, Any]:
    """Draw the distributions of a named score over the test set ``(N,)`` and others, by name."""
    figure, axes = _subplots(6, 3.2)
    sets = {"test set": test, **sets}
    values = [np.asarray(values) for values in sets.values()]
    drawn = axes.boxplot(
        values[::-1], orientation="horizontal", whis=(5, 95), showfliers=False, widths=0.6,
        tick_labels=[name.replace("_", " ") for name in sets][::-1], patch_artist=True,
        medianprops={"color": "black"},
    )  # fmt: skip
    for box in drawn["boxes"]:
        box.set_facecolor(COLOURS[5])
    drawn["boxes"][-1].set_facecolor("0.8")  # of the test set
    axes.set(xlabel=score)
    return figure, axes


def plot_pareto(
    points: Mapping[str, Sequence[tuple[float, float]]], accuracy: str, uncertainty: str
) -> tuple[Figure, Any]:
    """Draw runs by their accuracy and their uncertainty, and which no other is better than in both.

    Args:
        points: Accuracy and uncertainty of each seed, by the name of the run; larger is better.
        accuracy: Name of the first, for the axis.
        uncertainty: Name of the second, for the axis.
    """
    figure, axes = _subplots(6.4, 4)
    means = {name: np.mean(values, axis=0) for name, values in points.items()}
    for index, (name, values) in enumerate(points.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.scatter(*np.transpose(values), s=14, alpha=0.5, color=colour, marker=marker)
        axes.plot(*means[name], marker, color=colour, markersize=9, label=name)
    front = [
        mean for mean in means.values()
        if not any((other >= mean).all() and (other > mean).any() for other in means.values())
    ]  # fmt: skip
    axes.plot(*np.array(sorted(map(tuple, front))).T, color="0.6", linestyle="--", zorder=0)
    axes.set(xlabel=accuracy, ylabel=uncertainty)
    axes.legend(**BESIDE)
    return figure, axes


def plot_setting(
    points: Mapping[str, Sequence[tuple[Any, float]]], setting: str
) -> tuple[Figure, Any]:
    """Draw numbers by name over the values of a named setting, with the mean at each value."""
    figure, axes = _subplots(2.6 * max(1, len(points)), 2.6, 1, max(1, len(points)), squeeze=False)
    for panel, (name, pairs) in zip(axes[0], points.items(), strict=False):
        values = list(dict.fromkeys(value for value, _ in pairs))
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        values = sorted(values) if numeric else values
        place = dict(zip(values, values if numeric else range(len(values)), strict=True))
        panel.plot(
            [place[v] for v in values],
            [np.mean([y for value, y in pairs if value == v]) for v in values],
            color="0.6", linestyle="-" if numeric else "none",
        )  # fmt: skip
        panel.plot([place[v] for v, _ in pairs], [y for _, y in pairs], "o", color=COLOURS[0])
        if numeric and min(values) > 0 and max(values) >= 20 * min(values):
            panel.set_xscale("log")
            if len(values) <= 6:
                panel.set_xticks(values)
        if not numeric:
            panel.set_xticks(range(len(values)), [str(v) for v in values], rotation=30, ha="right")
            panel.set_xlim(-0.5, len(values) - 0.5)
        panel.set_title(name, fontsize=10)
        panel.set_xlabel(setting)
    return figure, axes[0]


def plot_severity(
    by_severity: Mapping[str, Mapping[int, ArrayLike]], score: str
) -> tuple[Figure, Any]:
    """Draw the median and quartiles of a named score ``(N,)`` by corruption and severity."""
    columns = min(6, len(by_severity))
    rows = -(-len(by_severity) // columns)
    size = 0.6 + 1.6 * columns, 0.5 + 1.45 * rows
    figure, axes = _subplots(*size, rows, columns, sharex=True, sharey=True, squeeze=False)
    for panel in axes.flat[len(by_severity) :]:
        panel.set_visible(False)
    for panel, (name, levels) in zip(axes.flat, by_severity.items(), strict=False):
        low, middle, high = np.transpose(
            [np.quantile(np.asarray(values), [0.25, 0.5, 0.75]) for values in levels.values()]
        )
        panel.fill_between(list(levels), low, high, color=COLOURS[0], alpha=0.2)
        panel.plot(list(levels), middle, color=COLOURS[0], marker="o", markersize=3)
        panel.set_title(name.replace("_", " "), fontsize=9)
        panel.set_xticks(list(levels))
    figure.supxlabel("severity (0: clean)", fontsize=10)
    figure.supylabel(score, fontsize=10)
    return figure, axes


def plot_spectrum(spectrum: Sequence[float] | ArrayLike) -> tuple[Figure, Any]:
    """Draw singular values ``(d,)``, the largest first, relative to it."""
    values = np.asarray(spectrum)
    values = values / values.max()
    # Values below the rounding of the embeddings would stretch the axis and mean nothing.
    values = values[values > 1e-7]
    figure, axes = _subplots(6, 3.6)
    axes.semilogy(np.arange(1, len(values) + 1), values, color=COLOURS[0], marker=".")
    axes.set(xlabel="index", ylabel="singular value / largest")
    return figure, axes
