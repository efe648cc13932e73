"""The report of a run: ``report.html``, ``metrics.json``, and a summary on the console."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from probcl.evaluation import GROUPS, QUESTIONS, SCORES, Evaluation
from probcl.report.page import LIBRARY_SCORE, render
from probcl.report.sections import sections_of
from probcl.runs import write_whole

__all__ = ["print_summary", "write_report"]

SHOWN_FILES = 10


def write_report(
    run_dir: Path, evaluation: Evaluation, config: str, seconds: dict[str, float]
) -> Path:
    """Write ``report.html`` into the folder of a run, whole or not at all.

    Args:
        run_dir: Folder of the run; the history of its training is read from ``metrics.csv``.
        evaluation: What was measured.
        config: The run's configuration, as YAML.
        seconds: Seconds by name, as ``time/fit_s``.

    Returns:
        The path of ``report.html``.
    """
    numbers = _quality(evaluation) | seconds
    page = render(
        "report.html.jinja",
        name=run_dir.name,
        groups=_grouped(numbers),
        reading=GROUPS | {"time": "Seconds.", "truth": "Before and after training."},
        questions={q: QUESTIONS[q] for q in _questions(evaluation)},
        answers=evaluation.answers,
        best=_best(evaluation),
        uncertainty=_table(evaluation),
        scores=SCORES,
        left_out=_left_out(evaluation),
        sections=sections_of(run_dir, evaluation),
        config=config,
    )
    write_whole(run_dir / "report.html", page)
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
    shown = ("probe/top1", "knn/top1", "retrieval/recall_at_1", "cal/ece", "shift/top1")
    for name, value in (_quality(evaluation) | seconds).items():
        if name in (*shown, "collapse/effective_rank", *seconds):
            quality.add_row(name, f"{value:.4g}")
    questions = _questions(evaluation)
    uncertainty = Table(box=None)
    uncertainty.add_column("uncertainty", no_wrap=True)
    for question in questions:
        uncertainty.add_column(question.replace("_", " "), justify="right")
    best = _best(evaluation)
    for score, answer in evaluation.answers.items():
        cells = [
            f"[bold]{answer[q].value:.3f}[/bold]" if best[q] == score else f"{answer[q].value:.3f}"
            for q in questions
        ]
        uncertainty.add_row(score, *cells)
    console = Console(highlight=False)
    console.print(quality)
    console.print(uncertainty)
    if unreadable:
        names = ", ".join(unreadable[:SHOWN_FILES]) + ", ..." * (len(unreadable) > SHOWN_FILES)
        text = f"left out {len(unreadable)} files that cannot be read: {names}"
        console.print(text, markup=False, soft_wrap=True)
    console.print(f"report: {path}", markup=False, soft_wrap=True)


def _questions(evaluation: Evaluation) -> list[str]:
    """Return the questions that were asked of the scores."""
    return list(next(iter(evaluation.answers.values())))


def _best(evaluation: Evaluation) -> dict[str, str]:
    """Return the score that answers each question best."""
    answers = evaluation.answers
    return {
        question: max(answers, key=lambda score: answers[score][question].value)
        for question in _questions(evaluation)
    }


def _quality(evaluation: Evaluation) -> dict[str, float]:
    """Return the numbers that are not of a score."""
    return {n: v for n, v in evaluation.metrics.items() if not n.startswith("unc/")}


def _grouped(numbers: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return numbers by the part of their name before the slash, and the rest of it."""
    groups: dict[str, dict[str, float]] = {group: {} for group in GROUPS}
    for name, value in numbers.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest.replace("_", " ")] = value
    return {group: values for group, values in groups.items() if values}


def _table(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Return the numbers behind the answers that are AUROCs and correlations, by score."""
    table: dict[str, dict[str, float]] = {score: {} for score in evaluation.answers}
    for name, value in evaluation.metrics.items():
        if name.startswith(("unc/auroc_", "unc/spearman_")):
            _, question, score = name.split("/")
            table[score][question] = value
    return table


def _left_out(evaluation: Evaluation) -> str:
    """Return in words why scores are left out, if they are."""
    reason = evaluation.left_out.get(LIBRARY_SCORE)
    if reason is None:
        return ""
    if reason == "needs posteriors":
        return (
            "This program is deterministic: it has no posterior, so the scores that need one, and "
            "the KL of the loss, are left out."
        )
    return "The entropy of this program's posterior is not known: its score is left out."
