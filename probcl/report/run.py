"""The report on an evaluation, one HTML page, and its summary on the console."""

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from probcl.evaluation import GROUPS, METRICS, QUESTIONS, SCORES, Evaluation
from probcl.evaluation.bootstrap import Interval
from probcl.files import write_whole
from probcl.report import findings
from probcl.report.choice import choose, finder
from probcl.report.findings import Findings, Images, Match
from probcl.report.map import map_of
from probcl.report.page import render
from probcl.report.pictures import Tiles
from probcl.report.sections import sections_of
from probcl.report.story import answers_of, opening, three_answers
from probcl.report.tables import confusion_of, strips_of, unit_of
from probcl.report.words import measured
from probcl.runs import CLASSES, read_history, record_of_run
from probcl.trust import read_config

__all__ = ["headline", "print_summary", "rewrite_report", "write_report"]

Answers = Mapping[str, Mapping[str, Interval]]

# Groups that no row of METRICS is of.
OTHER_GROUPS = {
    "match": "Does a test item match each of its five nearest of those fitted to; of pairs, each "
    "of the five likeliest partners among the test items'? Negative log likelihood (nats) and "
    "calibration error of the match probability.",
    "time": "Seconds.",
}


def write_report(
    evaluation: Evaluation,
    path: str | Path,
    *,
    run_dir: Path | None = None,
    images: Images | None = None,
    match: Match | None = None,
) -> Path:
    """Write one HTML page, which needs no other file, with every number and picture.

    Args:
        evaluation: What was measured.
        path: The page to write, ending in ``.html``; it appears whole or not at all.
        run_dir: Folder of the run that was evaluated: its history, configuration, versions and
            hardware are shown too, and it gets a file from which ``rewrite_report`` makes the page
            anew. None where there is no run.
        images: Gives the images of test rows; None where the items are no images.
        match: Gives the match probabilities of posteriors, as ``Match.match_probability`` does;
            None for a program without one: cosines stand in their place.

    Raises:
        ValueError: If ``path`` does not end in ``.html``.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"path must be an .html file, got {path}.")
    found = findings.find(evaluation, images, match)
    if run_dir is not None:
        findings.save(found, run_dir)
    return _write(found, path, run_dir)


def rewrite_report(run_dir: Path) -> Path:
    """Make the report of a run anew, from what is saved in its folder, and return its path.

    Its small images are saved there too: neither the data nor the weights are read again. The page
    of a run without images has none.

    Raises:
        ValueError: If the run has no numbers, or what is saved is of another version or damaged.
    """
    return _write(findings.load(run_dir), run_dir / "report.html", run_dir)


def _write(found: Findings, path: Path, run_dir: Path | None) -> Path:
    record: dict[str, Any] = (
        {"metrics": found.metrics} if run_dir is None else record_of_run(run_dir)
    )
    history = None if run_dir is None else read_history(run_dir)
    config: Any = record.get("config", {})
    metrics = record.pop("metrics")
    found.classes = list(config.get("classes") or [])  # of a run before there was such a file
    if run_dir is not None and (run_dir / CLASSES).is_file():
        names = read_config(run_dir / CLASSES, trust=True, kind=list)
        found.classes = [str(name) for name in names]
    tiles, best = Tiles(found), _best(found.answers)
    page = render(
        "report.html.jinja",
        name=path.stem if run_dir is None else run_dir.absolute().name,
        opening=opening(found, config, metrics),
        three=three_answers(found, config, history or {}),
        answered=answers_of(found),
        tiles=tiles,
        choice=choose(found),
        finder=finder(found, "probe"),
        map=map_of(found, tiles),
        confusion=confusion_of(found, tiles),
        strips=strips_of(found),
        sections=sections_of(found, history),
        headline=headline(metrics),
        metrics=metrics,
        known=METRICS,
        unit_of=unit_of,
        groups=_grouped(metrics),
        meaning_of_group=GROUPS | OTHER_GROUPS,
        meaning_of_question=QUESTIONS,
        answers=found.answers,
        best=best,
        scores=SCORES,
        parts=_parts(metrics, best),
        left_out=found.left_out,
        record={name: yaml.safe_dump(part, sort_keys=False) for name, part in record.items()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


def print_summary(metrics: Mapping[str, float], answers: Answers) -> None:
    """Print the first of ``Evaluation.metrics``, and ``Evaluation.answers``."""
    console = Console(highlight=False)
    quality = Table("metric", "value", box=None)
    for name, value in headline(metrics).items():
        quality.add_row(name, f"{value:.4g}")
    console.print(quality)
    if not any(answers.values()):
        return
    best = _best(answers)
    uncertainty = Table(box=None)
    uncertainty.add_column("uncertainty", no_wrap=True)
    for question in best:
        heading = f"{question.replace('_', ' ')}\n{measured(question)[0]}"
        uncertainty.add_column(heading, justify="right")
    for score, answer in answers.items():
        cells = []
        for question, winner in best.items():
            cell = f"{answer[question].value:.3f}" if question in answer else ""
            cells.append(f"[bold]{cell}[/bold]" if score == winner else cell)
        uncertainty.add_row(score, *cells)
    console.print(uncertainty)


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers to show first: those that ``METRICS`` says, and those of no row of it."""
    shown = {name for name, metric in METRICS.items() if metric.headline}
    others = tuple(f"{group}/" for group in OTHER_GROUPS)
    return {n: value for n, value in metrics.items() if n in shown or n.startswith(others)}


def _best(answers: Answers) -> dict[str, str]:
    """Return the score that answers each question best, in the order of ``QUESTIONS``."""
    asked = dict.fromkeys(question for answer in answers.values() for question in answer)
    return {
        question: max(
            (score for score in answers if question in answers[score]),
            key=lambda score: answers[score][question].value,
        )
        for question in _ordered(asked, QUESTIONS)
    }


def _grouped(metrics: Mapping[str, float]) -> dict[str, list[str]]:
    """Return the names of the numbers that are no answers, by group, unknown groups last."""
    groups: dict[str, list[str]] = {}
    for name in metrics:
        group = name.partition("/")[0]
        if group != "unc":
            groups.setdefault(group, []).append(name)
    return {group: groups[group] for group in _ordered(groups, GROUPS)}


def _parts(metrics: Mapping[str, float], questions: Container[str]) -> dict[str, dict[str, float]]:
    """Return the numbers of the scores that are no answers, by name and score."""
    parts: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        group, _, rest = name.partition("/")
        part, _, score = rest.partition("/")
        if group == "unc" and part not in questions:
            parts.setdefault(part, {})[score] = value
    return parts


def _ordered(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return names in the order of those known, others last."""
    place = {name: number for number, name in enumerate(known)}
    return sorted(names, key=lambda name: place.get(name, len(place)))
