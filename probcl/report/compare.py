"""Runs side by side: means and spreads over seeds, and accuracy against uncertainty."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console
from rich.table import Table

from probcl.evaluation import QUESTIONS, SCORES
from probcl.report import plots
from probcl.report.page import LIBRARY_SCORE, Section, picture, render
from probcl.runs import write_whole

__all__ = ["compare_runs"]

#: What is shown on the console, and the first of the report.
HEADLINE = ("probe/top1", "knn/top1", "retrieval/recall_at_1", "cal/ece", "shift/top1")
_SEED = re.compile(r"-seed\d+(-\d+)?$")

Values = dict[str, list[float]]


def compare_runs(runs: Sequence[Path], output: Path) -> Path:
    """Write a page with the numbers of several runs, those that differ only in the seed together.

    The name of a run is that of its folder, without ``-seedN``.

    Args:
        runs: Folders of runs, or ``metrics.json`` files of any name.
        output: The page to write.

    Returns:
        The path of the page.

    Raises:
        ValueError: If a run has no metrics, or ``output`` is not an HTML file.
    """
    if output.suffix != ".html":
        raise ValueError(f"output must be an .html file, got {output}.")
    groups: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        name, metrics = _read(run)
        groups.setdefault(name, []).append(metrics)
    tables = {name: _collected(metrics) for name, metrics in groups.items()}
    page = render(
        "compare.html.jinja",
        seeds={name: len(metrics) for name, metrics in groups.items()},
        tables={group: _table(tables, names) for group, names in _names(tables).items()},
        sections=_sections(tables),
    )
    write_whole(output, page)
    _print(tables, output)
    return output


def _read(run: Path) -> tuple[str, dict[str, float]]:
    path = run / "metrics.json" if run.is_dir() else run
    try:
        metrics = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{run} holds no metrics: name the folder of a run that has its report."
        ) from error
    return _SEED.sub("", run.name if run.is_dir() else run.stem), metrics


def _collected(metrics: Sequence[Mapping[str, float]]) -> Values:
    names = dict.fromkeys(name for run in metrics for name in run)
    return {name: [run[name] for run in metrics if name in run] for name in names}


def _names(tables: Mapping[str, Values]) -> dict[str, list[str]]:
    """Return the names of the rows, by the heading that they stand under."""
    every = dict.fromkeys(name for table in tables.values() for name in table)
    rest = [name for name in every if not name.startswith("unc/") and name not in HEADLINE]
    groups = {"Headline": [name for name in HEADLINE if name in every], "Everything else": rest}
    for question in QUESTIONS:
        rows = [_of_score(question, score) for score in SCORES]
        groups[f"Uncertainty: {question.replace('_', ' ')}"] = [r for r in rows if r in every]
    return {heading: rows for heading, rows in groups.items() if rows}


def _of_score(question: str, score: str) -> str:
    return f"unc/{question}/{score}"


def _label(name: str) -> str:
    """Return the name of a row: of an answer, that of the score."""
    return name.split("/")[2] if name.startswith("unc/") else name


def _table(tables: Mapping[str, Values], names: Sequence[str]) -> dict[str, list[str]]:
    return {_label(name): [_cell(table.get(name, [])) for table in tables.values()]
            for name in names}  # fmt: skip


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    return f"{mean(values):.4g}{spread}"


def _sections(tables: Mapping[str, Values]) -> list[Section]:
    sections = []
    for question in ("retrieval_error", "out_of_distribution"):
        points = {}
        for name, table in tables.items():
            scored = {s: table[_of_score(question, s)] for s in SCORES
                      if _of_score(question, s) in table}  # fmt: skip
            chosen = LIBRARY_SCORE if LIBRARY_SCORE in scored else "nearest_cosine"
            if "knn/top1" in table and chosen in scored:
                points[name] = list(zip(table["knn/top1"], scored[chosen], strict=True))
        if points:
            label = f"{question.replace('_', ' ')}, AUROC"
            sections.append(
                Section(
                    f"Accuracy and uncertainty: {question.replace('_', ' ')}",
                    f"A small mark for each seed, a large one for their mean: up and to the right "
                    f"is better, and no run is better in both than those on the dashed line. The "
                    f"uncertainty is the {LIBRARY_SCORE} of the posterior; of a run that has none, "
                    "nearest_cosine.",
                    picture(plots.plot_pareto(points, "k-NN accuracy", label)[0]),
                )
            )
    return sections


def _print(tables: Mapping[str, Values], output: Path) -> None:
    table = Table("", *tables, box=None)
    for name in _names(tables).get("Headline", []):
        table.add_row(name, *(_cell(values.get(name, [])) for values in tables.values()))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"comparison: {output}", markup=False, soft_wrap=True)
