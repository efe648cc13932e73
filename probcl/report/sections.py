"""The sections of a run's report: a picture each, with a sentence on how to read it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from probcl.evaluation import Evaluation
from probcl.evaluation.selective import risk_coverage
from probcl.report import plots
from probcl.report.history import read_history
from probcl.report.page import LIBRARY_SCORE, Section, picture

__all__ = ["sections_of"]

LARGEST_MAP = 2000


def sections_of(run_dir: Path, evaluation: Evaluation) -> Sequence[Section]:
    """Return the sections of the report on a run."""
    test, score, instead = evaluation.test, LIBRARY_SCORE, ""
    if score not in evaluation.scores:
        score = "nearest_cosine"
        instead = " There is no entropy: the distance to the training set stands in its place."
    return [
        _loss(run_dir),
        Section(
            "Map of the embeddings",
            f"t-SNE of {len(_shown(len(test)))} of {len(test)} test embeddings: images of a class "
            "should lie together, and uncertain ones at the borders." + instead,
            picture(_map(evaluation, score)),
        ),
        *_of_probe(evaluation),
        *_of_unfamiliar(evaluation, score, instead),
        *_of_corruptions(evaluation, score, instead),
        Section(
            "Singular spectrum",
            "Singular values of the test embeddings: a steep fall means that they use few of "
            "their dimensions.",
            picture(plots.plot_spectrum(evaluation.spectrum)[0]),
        ),
    ]


def _loss(run_dir: Path) -> Section:
    history = read_history(run_dir / "metrics.csv")
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
    return Section("Loss", text, picture(plots.plot_terms(epochs, history)[0]))


def _of_probe(evaluation: Evaluation) -> list[Section]:
    """Return what the linear probe's probabilities and errors say, if there is one."""
    if "probe" not in evaluation.wrong:
        return []
    assert evaluation.test.labels is not None
    wrong, scores = evaluation.wrong["probe"], evaluation.scores
    named = ("entropy", "max_probability", "vote_entropy", "nearest_cosine", "trust")
    curves = {name: risk_coverage(scores[name], wrong) for name in named if name in scores}
    return [
        Section(
            "Reliability",
            "Accuracy of the linear probe among images of like confidence, smoothed, with a "
            "bootstrap band: on the dashed line it is calibrated, below it overconfident. The bars "
            "count the images.",
            picture(plots.plot_reliability(evaluation.probabilities, evaluation.test.labels)[0]),
        ),
        Section(
            "Risk and coverage",
            "Error of the probe among the images that are accepted, the most certain first: the "
            "lower a curve, the better its score finds the errors; the dashed line is the best "
            "that any score could do.",
            picture(plots.plot_risk_coverage(curves)[0]),
        ),
    ]


def _of_unfamiliar(evaluation: Evaluation, score: str, instead: str) -> list[Section]:
    if not evaluation.out_of_distribution:
        return []
    values = {name: scores[score] for name, scores in evaluation.out_of_distribution.items()}
    return [
        Section(
            "Uncertainty of unfamiliar inputs",
            f"{score} of the test images, and of inputs that are not like them: median, quartiles, "
            "5 % and 95 %. The unfamiliar should lie to the right." + instead,
            picture(plots.plot_unfamiliar(evaluation.scores[score], values, score)[0]),
        )
    ]


def _of_corruptions(evaluation: Evaluation, score: str, instead: str) -> list[Section]:
    by_severity = {name: by_score[score] for name, by_score in evaluation.by_severity.items()}
    if not by_severity:
        return []
    sections = [
        Section(
            "Uncertainty against corruption",
            f"Median and quartiles of {score} over the test images: it should rise with the "
            "severity of each corruption." + instead,
            picture(plots.plot_severity(by_severity, score)[0]),
        )
    ]
    if "probe" in evaluation.wrong:
        sections.append(
            Section(
                "Accuracy and calibration under corruption",
                "The linear probe on corrupted test images: a grey line for each corruption, their "
                "mean in blue; the worst is named. Accuracy should fall slowly, and the error of "
                "calibration not rise as it does.",
                picture(plots.plot_shift(evaluation.shift)[0]),
            )
        )
    return sections


def _map(evaluation: Evaluation, score: str) -> Figure:
    test = evaluation.test
    some = _shown(len(test))
    labels = torch.zeros(len(test)) if test.labels is None else test.labels
    perplexity = min(30.0, (len(test.embedding[some]) - 1) / 3)
    coordinates = TSNE(
        metric="cosine", init="random", perplexity=perplexity, random_state=0
    ).fit_transform(test.embedding[some].numpy())
    return plots.plot_map(coordinates, labels[some], evaluation.scores[score][some])[0]


def _shown(count: int) -> np.ndarray:
    """Return the rows on the map: all, or evenly spaced ones of a large set."""
    return np.linspace(0, count - 1, min(count, LARGEST_MAP)).round().astype(int)
