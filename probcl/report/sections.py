"""The sections of a report: a picture each, with a sentence on how to read it."""

from pathlib import Path

import numpy as np

from probcl.evaluation import Evaluation
from probcl.evaluation.selective import risk_coverage
from probcl.report import plots
from probcl.report.page import Section, drawn
from probcl.runs import read_history

__all__ = ["sections_of"]

LARGEST_MAP = 2000
# The first of these that there is stands for all scores where a picture can show one only.
SHOWN = ("entropy", "nearest_cosine")
CURVES = ("entropy", "agreement", "max_probability", "vote_entropy", "nearest_cosine", "trust")


def sections_of(evaluation: Evaluation, run_dir: Path | None = None) -> list[Section]:
    """Return the sections of the report on an evaluation, of a run if there is one."""
    score = next((s for s in (*SHOWN, *evaluation.scores) if s in evaluation.scores), None)
    sections = [] if run_dir is None else [_loss(run_dir)]
    sections.append(_map(evaluation, score))
    if "probe" in evaluation.wrong:
        sections += _of_probe(evaluation)
    if score is not None:
        sections += _of_score(evaluation, score)
    if evaluation.shift and "probe" in evaluation.wrong:
        sections.append(drawn(
            "Accuracy and calibration under corruption",
            "The linear probe on corrupted test items: a grey line for each corruption, their "
            "mean in blue; the worst is named. Accuracy should fall slowly, and the error of "
            "calibration not rise as it does.",
            plots.plot_shift(evaluation.shift),
        ))  # fmt: skip
    spectrum = drawn(
        "Singular spectrum",
        "Singular values of the test embeddings: a steep fall means that they use few of "
        "their dimensions.",
        plots.plot_spectrum(evaluation.spectrum),
    )
    return [*sections, spectrum]


def _loss(run_dir: Path) -> Section:
    history = read_history(run_dir)
    if not history:
        return Section("Loss", "This run did not train: there is no history of the loss.")
    epochs = history.pop("epoch")
    text = (
        "The loss and its terms, mean of each epoch: the contrastive term, or that of the label y, "
        "should fall and a KL settle, not grow without end; that of z should not settle at 0."
    )
    if len(history) == 2:
        text = "The loss, mean of each epoch."
        history.pop("loss")
    return drawn("Loss", text, plots.plot_terms(epochs, history))


def _map(evaluation: Evaluation, score: str | None) -> Section:
    from sklearn.manifold import TSNE  # takes a third as long to import as torch

    test = evaluation.test
    count = len(test)
    shown = np.linspace(0, count - 1, min(count, LARGEST_MAP)).round().astype(int)
    text = f"t-SNE of {len(shown)} of {count} test embeddings: those of a class should lie together"
    if score is not None:
        text += f", and uncertain ones (by {score}) at the borders"
    tsne = TSNE(
        metric="cosine", init="random", perplexity=min(30.0, (len(shown) - 1) / 3), random_state=0
    )
    coordinates = tsne.fit_transform(test.embedding[shown].numpy())
    labels = np.zeros(len(shown), int) if test.labels is None else test.labels[shown]
    uncertainty = None if score is None else evaluation.scores[score][shown]
    plot = plots.plot_map(coordinates, labels, uncertainty)
    return drawn("Map of the embeddings", f"{text}.", plot)


def _of_probe(evaluation: Evaluation) -> list[Section]:
    """Return what the linear probe's probabilities and errors say."""
    wrong, scores, labels = evaluation.wrong["probe"], evaluation.scores, evaluation.test.labels
    reliability = drawn(
        "Reliability",
        "Accuracy of the linear probe among items of like confidence, smoothed, with a "
        "bootstrap band: on the dashed line it is calibrated, below it overconfident. The bars "
        "count the items.",
        plots.plot_reliability(evaluation.probabilities, labels),
    )
    curves = {name: risk_coverage(scores[name], wrong) for name in CURVES if name in scores}
    if not curves:
        return [reliability]
    risk = drawn(
        "Risk and coverage",
        "Error of the probe among the items that are accepted, the most certain first: the "
        "lower a curve, the better its score finds the errors; the dashed line is the best "
        "that any score could do.",
        plots.plot_risk_coverage(curves),
    )
    return [reliability, risk]


def _of_score(evaluation: Evaluation, score: str) -> list[Section]:
    """Return how a score changes out of distribution and under corruption, where it was asked."""
    sections = []
    values = {name: by_score[score] for name, by_score in evaluation.out_of_distribution.items()}
    if values:
        sections.append(drawn(
            "Uncertainty out of distribution",
            f"{score} of the test items, and of items out of distribution: median, quartiles, "
            "5 % and 95 %. The latter should lie to the right.",
            plots.plot_out_of_distribution(evaluation.scores[score], values, score),
        ))  # fmt: skip
    by_severity = {name: by_score[score] for name, by_score in evaluation.by_severity.items()}
    if by_severity:
        sections.append(drawn(
            "Uncertainty against corruption",
            f"Median and quartiles of {score} over the test items: it should rise with the "
            "severity of each corruption.",
            plots.plot_severity(by_severity, score),
        ))  # fmt: skip
    return sections
