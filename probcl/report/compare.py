"""Runs side by side: means and spreads over seeds, and accuracy against uncertainty."""

import re
from collections.abc import Mapping, Sequence
from math import floor, isfinite, log10
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from probcl.evaluation import METRICS, QUESTIONS
from probcl.files import write_whole
from probcl.report import plots
from probcl.report.page import Section, drawn, render
from probcl.report.settings import Settings, as_text, settings_of, varied
from probcl.runs import not_writable, read_history, read_metrics
from probcl.trust import read_config

__all__ = ["compare_runs"]

_SEED = re.compile(r"-seed\d+(-\d+)?$")
# Of a run whose posterior has no entropy, or that has no posterior, the second is drawn.
DRAWN = ("entropy", "nearest_cosine")

Runs = Sequence[Mapping[str, float]]  # of one name: the numbers of each seed


class _Run(NamedTuple):
    """A run that has its numbers."""

    name: str
    settings: Settings
    metrics: dict[str, float]


def compare_runs(runs: Sequence[Path], output: Path) -> Path:
    """Write a page on several runs, those that differ only in the seed together; return its path.

    The name of a run is that of its folder, without ``-seedN``; where runs of one name differ in a
    setting, with that. Runs that are not finished are listed.

    Args:
        runs: Folders of runs; or ``metrics.json`` files and records of experiments, of any name.
        output: The page to write.

    Raises:
        ValueError: If not one run has metrics, a file has none, or ``output`` is not an HTML file
            or cannot be written.
    """
    if output.suffix != ".html":
        raise ValueError(f"output must be an .html file, got {output}.")
    runs = list({run.resolve(): run for run in runs}.values())  # each once
    unfinished = {str(run): _how_far(run) for run in runs if _is_unfinished(run)}
    found = [_read(run) for run in runs if str(run) not in unfinished]
    if not found:
        raise ValueError(
            f"{runs[0]} holds no metrics, nor does another run: finish one with --ckpt_path last, "
            "or evaluate its checkpoint with probcl test."
        )
    labels = varied([run.settings for run in found])
    named = _named(found, labels)
    groups = {name: [run.metrics for run in several] for name, several in named.items()}
    headings = _headings(groups)
    first = headings.get("Headline", {})
    page = render(
        "compare.html.jinja",
        seeds={name: len(metrics) for name, metrics in groups.items()},
        unfinished=unfinished,
        labels=list(labels.values()),
        configured=any(run.settings for run in found),
        headline=list(first),
        summary={
            name: [_setting(several, setting) for setting in labels]
            + [_cell(groups[name], metric) for metric in first.values()]
            for name, several in named.items()
        },
        # Of a few runs that differ in as many settings nobody can tell which of them does it.
        over=[_over(found, name, label, first) for name, label in labels.items()]
        if len(found) > len(labels)
        else [],
        tables={heading: _table(groups, rows) for heading, rows in headings.items()},
        sections=_sections(groups),
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, page)
    except OSError as error:
        raise not_writable(output.parent, error, "output") from error
    _print(groups, unfinished, output)
    return output


def _is_unfinished(run: Path) -> bool:
    return run.is_dir() and (run / "config.yaml").is_file() and not (run / "metrics.json").exists()


def _how_far(run: Path) -> str:
    """Say how far a run that has no numbers is."""
    try:
        done = len(read_history(run).get("epoch", ()))
        trainer = read_config(run / "config.yaml", kind=dict).get("trainer") or {}
    except (ValueError, AttributeError):
        return "not finished"
    most = trainer.get("max_epochs")
    if done == most:
        return f"trained for {done} epochs, not evaluated"
    return f"{done} of {most} epochs" if most else f"{done} epochs"


def _read(run: Path) -> _Run:
    try:
        content = read_metrics(run) if run.is_dir() else read_config(run)
        metrics = content.get("metrics", content)  # of a record, or alone
        known = {name: value for name, value in metrics.items() if value is not None}
        if not known or not all(isfinite(value) for value in known.values()):
            raise ValueError("a number is not finite" if known else "it has no number")
        config = content.get("config", {}) if metrics is not content else {}
        if run.is_dir() and (run / "config.yaml").is_file():
            config = read_config(run / "config.yaml")
        settings = settings_of(config)
    except (ValueError, AttributeError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{run} holds no metrics: name the folder of a run that has its report ({error})."
        ) from error
    return _Run(_SEED.sub("", run.name if run.is_dir() else run.stem), settings, known)


def _named(runs: Sequence[_Run], labels: Mapping[str, str]) -> dict[str, list[_Run]]:
    """Return the runs that differ only in the seed, by their name."""
    alike: dict[str, dict[tuple[str, ...], list[_Run]]] = {}
    for run in runs:
        own = tuple(_setting([run], setting) for setting in labels)
        alike.setdefault(run.name, {}).setdefault(own, []).append(run)
    named = {}
    for name, kinds in alike.items():
        differ = [n for n in range(len(labels)) if len({own[n] for own in kinds}) > 1]
        for own, several in kinds.items():
            words = [f"{list(labels.values())[n]} {own[n]}" for n in differ]
            named[" · ".join([name, *words])] = several
    return named


def _setting(runs: Sequence[_Run], name: str) -> str:
    return as_text(runs[0].settings[name]) if name in runs[0].settings else ""


def _over(runs: Sequence[_Run], name: str, label: str, first: Mapping[str, str]) -> Section:
    """Draw the first numbers over a setting."""
    having = [run for run in runs if name in run.settings]
    points = {
        metric: [(run.settings[name], run.metrics[key]) for run in having if key in run.metrics]
        for metric, key in first.items()
    }
    return drawn(
        f"Over {label}",
        "",
        plots.plot_setting({metric: pairs for metric, pairs in points.items() if pairs}, label),
        wide=True,
    )


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
    if len(values) == 1:
        return f"{values[0]:.4g}"
    spread = stdev(values)
    if spread < 1e-6:
        return f"{mean(values):.4g} ± {spread:.2g}"
    digits = max(1 - floor(log10(spread)), 0)  # two of the spread's
    return f"{mean(values):.{digits}f} ± {spread:.{digits}f}"


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


def _print(groups: Mapping[str, Runs], unfinished: Mapping[str, str], output: Path) -> None:
    table = Table("", *groups, box=None)
    for label, cells in _table(groups, _headings(groups).get("Headline", {})).items():
        table.add_row(label, *cells)
    console = Console(highlight=False)
    console.print(table)
    for run, how_far in unfinished.items():
        console.print(f"left out, not finished: {run} ({how_far})", markup=False, soft_wrap=True)
    console.print(f"comparison: {output}", markup=False, soft_wrap=True)
