"""The report of a run: one HTML page with its numbers and pictures, and ``metrics.json``."""

import base64
import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.manifold import TSNE

from probcl import plots
from probcl.evaluation import Evaluation
from probcl.evaluation.uncertainty import LIBRARY_SCORE, SCORES

__all__ = ["print_summary", "read_history", "write_report"]

LARGEST_MAP = 2000
SHOWN_FILES = 10


@dataclass
class Section:
    """A picture with a title and how to read it, or the words that stand in its place."""

    title: str
    text: str
    picture: str | None = None


def write_report(
    run_dir: Path, evaluation: Evaluation, config: str, seconds: dict[str, float]
) -> Path:
    """Write ``metrics.json`` and ``report.html`` into the folder of a run.

    Each file appears whole or not at all, ``report.html`` last.

    Args:
        run_dir: Folder of the run; the history of its training is read from ``metrics.csv``.
        evaluation: What was measured.
        config: The run's configuration, as YAML.
        seconds: Seconds by name, as ``time/fit_s``.

    Returns:
        The path of ``report.html``.
    """
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        files("probcl").joinpath("report.html.jinja").read_text()
    )
    page = template.render(
        name=run_dir.name,
        headline=evaluation.quality | seconds,
        uncertainty=evaluation.uncertainty,
        meaning=SCORES,
        left_out=_left_out(evaluation),
        sections=_sections(run_dir, evaluation),
        config=config,
    )
    _write_whole(
        run_dir / "metrics.json",
        json.dumps(evaluation.metrics | seconds, indent=2, allow_nan=False) + "\n",
    )
    _write_whole(run_dir / "report.html", page)
    return run_dir / "report.html"


def print_summary(
    evaluation: Evaluation, seconds: dict[str, float], path: Path, unreadable: Sequence[str] = ()
) -> None:
    """Print the numbers of a run, the files that could not be read, and where its report is.

    Args:
        evaluation: What was measured.
        seconds: Seconds by name, as ``time/fit_s``.
        path: The report.
        unreadable: Files that were left out.
    """
    quality = Table("metric", "value", box=None)
    for name, value in (evaluation.quality | seconds).items():
        quality.add_row(name, f"{value:.4g}")
    uncertainty = Table("uncertainty", *evaluation.uncertainty, box=None)
    answers = list(evaluation.uncertainty.values())
    for question in answers[0]:
        uncertainty.add_row(question, *(f"{answer[question]:.3f}" for answer in answers))
    console = Console(highlight=False)
    console.print(quality)
    console.print(uncertainty)
    if unreadable:
        names = ", ".join(unreadable[:SHOWN_FILES]) + ", ..." * (len(unreadable) > SHOWN_FILES)
        text = f"left out {len(unreadable)} files that cannot be read: {names}"
        console.print(text, markup=False, soft_wrap=True)
    console.print(f"report: {path}", markup=False, soft_wrap=True)


def read_history(path: Path) -> dict[str, np.ndarray]:
    """Read the epochs and each logged term of a training from its ``metrics.csv``.

    A training that was taken up again has left its earlier parts beside it, ``metrics-1.csv`` and
    so on; an epoch that is in several is read from the last.

    Args:
        path: The file; an empty history is returned where there is none.

    Returns:
        Values by column, each of shape ``(E,)``, the columns ``epoch`` and ``loss`` first.
    """
    earlier = sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"), key=_part)
    epochs: dict[int, dict[str, str]] = {}
    for part in (*earlier, path):
        if part.is_file():
            with part.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("loss")]
            epochs |= {int(row["epoch"]): row for row in rows}
    rows = [epochs[epoch] for epoch in sorted(epochs)]
    # Columns of other callbacks share the file, and are empty in these rows or not terms.
    if not rows:
        return {}
    columns = rows[0]
    names = sorted(n for n in columns if n in ("contrastive", "y") or n.startswith("kl_"))
    return {n: np.array([float(row[n]) for row in rows]) for n in ("epoch", "loss", *names)}


def _part(path: Path) -> int:
    """Return the number of a part of the history."""
    return int(path.stem.rpartition("-")[2])


def _sections(run_dir: Path, evaluation: Evaluation) -> list[Section]:
    test = evaluation.test
    score, instead = LIBRARY_SCORE, ""
    if score not in test.scores:
        score = "nearest_cosine"
        instead = " There is no entropy: the distance to the training set stands in its place."
    return [
        _loss_section(run_dir),
        Section(
            "Map of the embeddings",
            f"t-SNE of {len(_shown(len(test)))} of {len(test)} test embeddings: images of a class "
            "should lie together, and uncertain ones at the borders." + instead,
            _picture(_map(evaluation, score)),
        ),
        Section(
            "Reliability",
            "Accuracy of the linear probe among images of like confidence: on the dashed line it "
            "is calibrated, below it overconfident. The larger a point, the more images: the bars "
            "count them.",
            _picture(plots.plot_reliability(evaluation.probabilities, test.labels)[0]),
        ),
        *_severity_sections(evaluation, score, instead),
        Section(
            "Singular spectrum",
            "Singular values of the test embeddings: a steep fall means that they use few of "
            "their dimensions.",
            _picture(plots.plot_spectrum(evaluation.spectrum)[0]),
        ),
    ]


def _severity_sections(evaluation: Evaluation, score: str, instead: str) -> list[Section]:
    """Return the section on corruptions, if there are any."""
    by_severity = {name: by_score[score] for name, by_score in evaluation.by_severity.items()}
    if not by_severity:
        return []
    return [
        Section(
            "Uncertainty against corruption",
            f"Median and quartiles of {score} over the test images: it should rise with the "
            "severity of each corruption." + instead,
            _picture(plots.plot_severity(by_severity, score)[0]),
        )
    ]


def _loss_section(run_dir: Path) -> Section:
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
    return Section("Loss", text, _picture(plots.plot_terms(epochs, history)[0]))


def _map(evaluation: Evaluation, score: str) -> Figure:
    test = evaluation.test
    some = _shown(len(test))
    perplexity = min(30.0, (len(test.embedding[some]) - 1) / 3)
    coordinates = TSNE(
        metric="cosine", init="random", perplexity=perplexity, random_state=0
    ).fit_transform(test.embedding[some].numpy())
    return plots.plot_map(coordinates, test.labels[some], test.scores[score][some])[0]


def _shown(count: int) -> np.ndarray:
    """Return the rows on the map: all, or evenly spaced ones of a large set."""
    return np.linspace(0, count - 1, min(count, LARGEST_MAP)).round().astype(int)


def _left_out(evaluation: Evaluation) -> str:
    """Return in words why scores are left out, if they are."""
    if LIBRARY_SCORE in evaluation.uncertainty:
        return ""
    if not evaluation.test.parameters:
        return (
            "This program is deterministic: it has no posterior, so the scores that need one, and "
            "the KL of the loss, are left out."
        )
    return "The entropy of this program's posterior is not known: its score is left out."


def _picture(figure: Figure) -> str:
    """Return a figure as an SVG image that an HTML page can hold, and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _write_whole(path: Path, text: str) -> None:
    """Write a file under another name first, so that it never stands there half-written."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
