"""Runs side by side: means and spreads over seeds, and accuracy against uncertainty."""

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console
from rich.table import Table

from probcl.evaluation import METRICS, QUESTIONS
from probcl.files import write_whole
from probcl.report import plots
from probcl.report.page import Section, drawn, render
from probcl.runs import read_metrics
from probcl.trust import read_config

__all__ = ["compare_runs"]

_SEED = re.compile(r"-seed\d+(-\d+)?$")
# Of a run whose posterior has no entropy, or that has no posterior, the second is drawn.
DRAWN = ("entropy", "nearest_cosine")

Runs = Sequence[Mapping[str, float]]  # of one name: the numbers of each seed


def compare_runs(runs: Sequence[Path], output: Path) -> Path:
    """Write a page on several runs, those that differ only in the seed together; return its path.

    The name of a run is that of its folder, without ``-seedN``.

    Args:
        runs: Folders of runs; or ``metrics.json`` files and records of experiments, of any name.
        output: The page to write.

    Raises:
        ValueError: If a run has no metrics, or ``output`` is not an HTML file.
    """
    if output.suffix != ".html":
        raise ValueError(f"output must be an .html file, got {output}.")
    groups: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        name, metrics = _read(run)
        groups.setdefault(name, []).append(metrics)
    page = render(
        "compare.html.jinja",
        seeds={name: len(metrics) for name, metrics in groups.items()},
        tables={heading: _table(groups, rows) for heading, rows in _headings(groups).items()},
        sections=_sections(groups),
    )
    write_whole(output, page)
    _print(groups, output)
    return output


def _read(run: Path) -> tuple[str, dict[str, float]]:
    try:
        content = read_metrics(run) if run.is_dir() else read_config(run)
        metrics = content.get("metrics", content)  # of a record, or alone
        known = {name: value for name, value in metrics.items() if value is not None}
        if not all(isfinite(value) for value in known.values()):
            raise ValueError("a number is not finite")
    except (ValueError, AttributeError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{run} holds no metrics: name the folder of a run that has its report ({error})."
        ) from error
    return _SEED.sub("", run.name if run.is_dir() else run.stem), known


def _headings(groups: Mapping[str, Runs]) -> dict[str, dict[str, str]]:
    """Return the rows, metric by label, under the heading that they stand under."""
    every = dict.fromkeys(name for runs in groups.values() for run in runs for name in run)
    first = [name for name in METRICS if METRICS[name].headline and name in every]
    asked = {question: f"Uncertainty: {question.replace('_', ' ')}" for question in QUESTIONS}
    headings: dict[str, dict[str, str]] = {name: {} for name in ("Headline", *asked.values())}
    headings["Headline"] = {name: name for name in first}
    for name in every:
        group, _, rest = name.partition("/")
        question, _, score = rest.partition("/")
        if group == "unc" and question in asked:
            headings[asked[question]][score] = name
        elif name not in first:
            headings.setdefault("Everything else", {})[name] = name
    return {heading: rows for heading, rows in headings.items() if rows}


def _table(groups: Mapping[str, Runs], rows: Mapping[str, str]) -> dict[str, list[str]]:
    return {label: [_cell(runs, name) for runs in groups.values()] for label, name in rows.items()}


def _cell(runs: Runs, name: str) -> str:
    values = [run[name] for run in runs if name in run]
    if not values:
        return ""
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    return f"{mean(values):.4g}{spread}"


def _sections(groups: Mapping[str, Runs]) -> list[Section]:
    sections = []
    for question in ("retrieval_error", "out_of_distribution"):
        words = question.replace("_", " ")
        points: dict[str, list[tuple[float, float]]] = {}
        for name, runs in groups.items():
            score = next((s for s in DRAWN if any(f"unc/{question}/{s}" in r for r in runs)), "")
            axes = ("knn/top1", f"unc/{question}/{score}")
            pairs = [(run[axes[0]], run[axes[1]]) for run in runs if run.keys() >= set(axes)]
            points |= {name: pairs} if pairs else {}
        if points:
            sections.append(drawn(
                f"Accuracy and uncertainty: {words}",
                "A small mark for each seed, a large one for their mean: up and to the right "
                "is better, and no run is better in both than those on the dashed line. The "
                f"uncertainty is the {DRAWN[0]} of the posterior; of a run that has none, "
                f"{DRAWN[1]}.",
                plots.plot_pareto(points, "k-NN accuracy", f"{words}, AUROC"),
            ))  # fmt: skip
    return sections


def _print(groups: Mapping[str, Runs], output: Path) -> None:
    table = Table("", *groups, box=None)
    for label, cells in _table(groups, _headings(groups).get("Headline", {})).items():
        table.add_row(label, *cells)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"comparison: {output}", markup=False, soft_wrap=True)
