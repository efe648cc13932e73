"""The charts of a report: a picture each, with a sentence on how to read it."""

from collections.abc import Mapping

import numpy as np

from probcl.evaluation.selective import risk_coverage
from probcl.report import plots
from probcl.report.choice import FEW
from probcl.report.findings import Findings
from probcl.report.page import Section, drawn
from probcl.report.words import counted

__all__ = ["sections_of"]

CURVES = ("entropy", "agreement", "max_probability", "vote_entropy", "nearest_cosine", "trust")


def sections_of(
    found: Findings, history: Mapping[str, np.ndarray] | None = None
) -> dict[str, list[Section]]:
    """Return the charts by the part of the page that they stand in.

    Args:
        found: What they are drawn from.
        history: Of the loss, as ``read_history`` returns it; None where nothing was run.
    """
    training = [] if history is None else [_loss(dict(history))]
    spectrum = drawn(
        "Singular spectrum",
        "Singular values of the test embeddings: a steep fall means that they use few of "
        "their dimensions.",
        plots.plot_spectrum(found.spectrum),
    )
    return {
        "training": [*training, spectrum],
        "calibration": _of_probe(found) if "probe" in found.wrong else [],
        "beyond": _beyond(found),
        "corruption": _corruption(found),
    }


def _loss(history: dict[str, np.ndarray]) -> Section:
    if not history:
        return Section("Loss", "This run did not train: there is no history of the loss.")
    epochs = history.pop("epoch")
    text = (
        "The loss and its terms, mean of each epoch: the contrastive term, or that of the label y, "
        "should fall and a KL settle, not grow without end; that of z is small where its weight is."
    )
    if len(history) == 2:
        text = "The loss, mean of each epoch."
        history.pop("loss")
    return drawn("Loss", text, plots.plot_terms(epochs, history))


def _of_probe(found: Findings) -> list[Section]:
    """Return what the linear probe's probabilities and errors say, if the errors are not few."""
    wrong, scores = found.wrong["probe"], found.scores
    errors, count = int(wrong.sum()), len(wrong)
    assert found.reliability is not None
    assert found.confidence is not None
    if errors < FEW:
        are = "error" if errors == 1 else "errors"
        return [Section(
            "Reliability, risk and coverage",
            f"The probe makes {errors} {are} among {counted(count, 'items')}. Curves of so few "
            f"would show chance only, so there are none; the errors are among the {found.noun} "
            "above, and a test set with more of them would tell more.",
        )]  # fmt: skip
    reliability = drawn(
        "Reliability",
        f"Accuracy of the linear probe among items of like confidence, smoothed, with a bootstrap "
        f"band, from {errors} errors: on the dashed line it is calibrated, below it overconfident. "
        "The bars count the items.",
        plots.plot_reliability(found.reliability, found.confidence),
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


def _beyond(found: Findings) -> list[Section]:
    """Return what inputs unlike those of the training do to a score and to the probe."""
    sections, score = [], found.outside_score
    if found.outside:
        sections.append(drawn(
            "Uncertainty out of distribution",
            f"{score}, the score that tells them best, of the test items and of items out of "
            "distribution: median, quartiles, 5 % and 95 %. The latter should lie to the right.",
            plots.plot_out_of_distribution(found.scores[score], found.outside, score),
        ))  # fmt: skip
    if found.shift and "probe" in found.wrong:
        sections.append(drawn(
            "Accuracy and calibration under corruption",
            "The linear probe on corrupted test items: a grey line for each corruption, their "
            "mean in blue; the worst is named. Accuracy should fall slowly, and the error of "
            "calibration not rise as it does.",
            plots.plot_shift(found.shift),
        ))  # fmt: skip
    return sections


def _corruption(found: Findings) -> list[Section]:
    """Return how a score changes with the severity of each corruption."""
    if not found.severe:
        return []
    return [drawn(
        "Uncertainty against corruption",
        f"Median and quartiles of {found.shown_score} over the test items: it should rise with "
        "the severity of each corruption.",
        plots.plot_severity(found.severe, found.shown_score),
        wide=True,
    )]  # fmt: skip
