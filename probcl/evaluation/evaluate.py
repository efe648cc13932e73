"""The whole evaluation of an embedding: arrays in, numbers out."""

import importlib
from collections.abc import Collection, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probcl.checks import as_labels, as_values
from probcl.evaluation import bootstrap, ood
from probcl.evaluation.bootstrap import Interval
from probcl.evaluation.calibration import calibration_error, negative_log_likelihood
from probcl.evaluation.embeddings import Embeddings, check_severities
from probcl.evaluation.geometry import effective_rank
from probcl.evaluation.metrics import METRICS, Metric, compute_metric
from probcl.evaluation.probe import accuracy
from probcl.evaluation.progress import progress_bar, track
from probcl.evaluation.query import Query, Reference
from probcl.evaluation.scores import SCORES, Score, compute_score
from probcl.evaluation.selective import risk_coverage

__all__ = ["Evaluation", "Prediction", "evaluate", "monitor", "predict"]

_TWO_CLASSES = "labels of two classes at least"


@dataclass
class Evaluation:
    """What was measured, and the arrays behind the report's pictures, sorted by ``test.rows``.

    Args:
        metrics: Every number by name: those of ``METRICS``, and ``unc/QUESTION/SCORE`` for every
            score: the answers to ``QUESTIONS``; ``auroc_SET``, ``aupr_SET`` and ``fpr95_SET`` of
            each set out of distribution; ``spearman_CORRUPTION``; ``aurc``, ``excess_aurc``,
            ``augrc`` and ``coverage_at_1_percent_risk``.
        answers: How well each score answers each question that could be asked, with its bootstrap
            interval, by score and question.
        test: The test items.
        scores: Scores of the test items by name, each of shape ``(N,)``.
        probabilities: Class probabilities of the linear probe, ``(N, C)``; ``(N, 0)`` if there is
            none.
        wrong: Whether the probe is wrong (``probe``), and whether the nearest other test item is
            of another class (``retrieval``), each of shape ``(N,)``; empty without labels.
        out_of_distribution: Scores by set and score, each of shape ``(M,)``.
        by_severity: Scores by corruption, score and severity (0: clean), each of shape ``(M,)``.
        shift: Accuracy (``top1``), ``nll`` and ``ece`` of the probe by corruption and severity.
        spectrum: Singular values of the test embeddings.
        left_out: Why a score or a metric is not there, by its name.
        trained_on: Number of training items.
    """

    metrics: dict[str, float]
    answers: dict[str, dict[str, Interval]]
    test: Embeddings
    scores: dict[str, Tensor]
    probabilities: Tensor
    wrong: dict[str, Tensor]
    out_of_distribution: dict[str, dict[str, Tensor]]
    by_severity: dict[str, dict[str, dict[int, Tensor]]]
    shift: dict[str, dict[int, dict[str, float]]]
    spectrum: Tensor
    left_out: dict[str, str]
    trained_on: int

    def report(self, path: str | Path) -> Path:
        """Write a page with all numbers and pictures, and return its path."""
        # By name: the room of reports is above this one.
        return importlib.import_module("probcl.report").write_report(self, path)


def evaluate(
    train: Any,
    train_labels: Any,
    test: Any,
    test_labels: Any,
    *,
    out_of_distribution: Mapping[str, Any] | None = None,
    corrupted: Mapping[str, Mapping[int, Embeddings]] | None = None,
    true_concentration: Any = None,
    scores: Iterable[str] | None = None,
    metrics: Iterable[str] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure everything that can be measured of an embedding.

    What needs something that is not given, such as labels of two classes, is left out, and
    ``Evaluation.left_out`` says so.

    Args:
        train: Training items, from which probes, neighbours and Gaussians come; NumPy or PyTorch,
            shape ``(M, d)``, or ``Embeddings`` with features, posteriors and rows too.
        train_labels: Classes, integers of at least 0, shape ``(M,)``; None for those of ``train``.
        test: Test items, shape ``(N, d)``, or ``Embeddings``.
        test_labels: Classes, shape ``(N,)``; None for those of ``test``.
        out_of_distribution: Sets of items unlike the training set, by name, each ``(K, d)`` or
            ``Embeddings``.
        corrupted: Test items, corrupted, by the name of the corruption and the severity, at least
            1; their ``rows`` are those of the test items, the same for all severities.
        true_concentration: How concentrated the true posterior of each test item is, up to a
            monotone map, where it is known; shape ``(N,)``.
        scores: Names, of ``SCORES``, to compute; by default all that can be.
        metrics: Names, of ``METRICS``, to compute; by default all that can be.
        progress: Whether to show a bar with the step that is at work.

    Raises:
        ValueError: Before any work, if an argument does not fit: lengths differ, a row is not
            finite, a test class is not among the training items, a name is unknown or needs what
            is not given.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> y = np.arange(200) % 4
        >>> z = np.eye(8)[y] + 0.3 * random.normal(size=(200, 8))
        >>> evaluation = evaluate(z[:100], y[:100], z[100:], y[100:], metrics=["knn/top1"])
        >>> evaluation.metrics["knn/top1"] > 0.9
        True
        >>> evaluation.metrics["unc/retrieval_error/agreement"] > 0.7
        True
    """
    known = _embeddings("train", train, train_labels)
    if len(known) < 2:
        raise ValueError(f"train must have at least 2 rows, got {len(known)}.")
    tested = _embeddings("test", test, test_labels, known)
    outside = {
        name: _embeddings(f"out_of_distribution[{name!r}]", part, None, known)
        for name, part in (out_of_distribution or {}).items()
    }
    changed = {
        (name, severity): _embeddings(f"corrupted[{name!r}][{severity}]", part, None, known, tested)
        for name, levels in (corrupted or {}).items()
        for severity, part in sorted(levels.items())
    }
    for name, levels in (corrupted or {}).items():
        check_severities(name, {level: changed[name, level].rows for level in levels})
    if known.labels is not None and tested.labels is not None:
        lacking = tested.labels[~torch.isin(tested.labels, known.labels)]
        if len(lacking):
            raise ValueError(
                f"test_labels must be among those of the training items, which lack class "
                f"{int(lacking[0])}: leave out the items of classes that training lacks."
            )
    truth = true_concentration
    if truth is not None:
        truth = as_values("true_concentration", truth, len(tested))[tested.rows.argsort()]
    needs = _given(known) | {
        "test labels": (known.labelled and tested.labelled, _TWO_CLASSES),
        "corrupted": (bool(changed), "corrupted test items"),
    }
    left_out: dict[str, str] = {}
    wanted_scores = _wanted("scores", scores, SCORES, needs, left_out)
    wanted_metrics = _wanted("metrics", metrics, METRICS, needs, left_out)
    with progress_bar(progress), torch.no_grad():
        query = Query(tested, Reference(known), "test items")
        return _measure(query, outside, changed, truth, wanted_scores, wanted_metrics, left_out)


class Prediction(NamedTuple):
    """What is said of ``N`` items, in the order of their rows.

    Attributes:
        probabilities: Class probabilities of the linear probe, ``(N, C)``; ``(N, 0)`` if there is
            none.
        scores: Uncertainty scores by name, each of shape ``(N,)``.
    """

    probabilities: Tensor
    scores: dict[str, Tensor]


def predict(
    train: Any, train_labels: Any, new: Any, *, scores: Iterable[str] | None = None
) -> Prediction:
    """Return the classes and the uncertainty of new items.

    Args:
        train: Training items, as ``evaluate`` takes them.
        train_labels: Their classes, ``(M,)``; None for those of ``train``.
        new: Items of which no class is known, ``(N, d)``, or ``Embeddings``.
        scores: Names, of ``SCORES``; by default all that can be had.

    Raises:
        ValueError: If an argument does not fit, or a score is not known or needs what is not given.

    Example:
        >>> y = torch.arange(40) % 2
        >>> z = torch.eye(3)[y] + 0.1 * torch.randn(40, 3)
        >>> predict(z, y, torch.eye(3)).probabilities.argmax(-1)[:2]
        tensor([0, 1])
    """
    known = _embeddings("train", train, train_labels)
    items = _embeddings("new", new, None, known)
    wanted = _wanted("scores", scores, SCORES, _given(known), {})
    query = Query(items, Reference(known), "new items")
    with torch.no_grad():
        found = _scores_of(query, wanted)
        probabilities = query.probabilities if known.labelled else torch.empty(len(items), 0)
    return Prediction(probabilities, found)


def monitor(train: Embeddings, test: Embeddings) -> dict[str, float]:
    """Measure embeddings while they are being trained: quickly, on some items.

    Returns:
        The effective rank, the mean of the posteriors' mean resultant lengths, and with labels of
        two classes at least the accuracy of the vote of five neighbours and of the probe.
    """
    query = Query(test, Reference(train))
    monitored = {"effective_rank": effective_rank(query.spectrum)}
    if query.posterior:
        monitored["mean_resultant_length"] = query.mean_resultant_length.mean().item()
    if query.reference.labelled and query.labels is not None:
        monitored["knn_top1"] = accuracy(query.predicted_by(5), query.labels)
        monitored["probe_top1"] = accuracy(query.logits.argmax(-1), query.labels)
    return monitored


def _embeddings(
    name: str,
    value: Any,
    labels: Any = None,
    train: Embeddings | None = None,
    test: Embeddings | None = None,
) -> Embeddings:
    """Return a set as ``Embeddings``; raise ``ValueError`` unless it fits the others."""
    try:
        items = value if isinstance(value, Embeddings) else Embeddings(value)
        if labels is not None:
            items = copy(items)
            items.labels = as_labels("labels", labels, len(items))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if train is None:
        return items
    for what in ("embedding", "features"):
        own, other = getattr(items, what).shape[1], getattr(train, what).shape[1]
        if own != other:
            raise ValueError(f"{name} must have an {what} of {other} numbers, as train, got {own}.")
    for what, own, other in (
        ("features", items.has_features, train.has_features),
        ("a posterior", bool(items.posterior), bool(train.posterior)),
        ("a gate", items.gate is not None, train.gate is not None),
    ):
        if own != other:
            has, lacks = (name, "train") if own else ("train", name)
            raise ValueError(f"{lacks} must have {what} too, as {has}, or neither.")
    if test is not None and not torch.isin(items.rows, test.rows).all():
        raise ValueError(f"{name} must have rows of the test items: give Embeddings with rows.")
    return items


def _given(train: Embeddings) -> dict[str, tuple[bool, str]]:
    """Return what is there of all items, by need, and what is missing if not."""
    return {
        "labels": (train.labelled, _TWO_CLASSES),
        "posterior": (bool(train.posterior), "posteriors"),
        "gate": (train.gate is not None, "gates of posteriors"),
    }


def _wanted(
    argument: str,
    names: Iterable[str] | None,
    table: Mapping[str, Score] | Mapping[str, Metric],
    needs: Mapping[str, tuple[bool, str]],
    left_out: dict[str, str],
) -> list[str]:
    """Return the names to compute; note why others are left out, or raise ``ValueError``.

    By each need, ``needs`` has whether it is met, and what is missing if not.
    """
    wanted = list(table) if names is None else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in table:
            raise ValueError(
                f"{argument} has no {name!r}: choose among {', '.join(table)}, or add a row."
            )
        asked = [needs.get(need, (False, need)) for need in table[name].needs]
        missing = [what for there, what in asked if not there]
        if missing:
            left_out[name] = f"needs {' and '.join(missing)}"
            if names is not None:
                raise ValueError(f"{argument}: {name!r} {left_out[name]}, which are not there.")
    return [name for name in wanted if name not in left_out]


def _measure(
    test: Query,
    outside: Mapping[str, Embeddings],
    changed: Mapping[tuple[str, int], Embeddings],
    truth: Tensor | None,
    scores: list[str],
    metrics: list[str],
    left_out: dict[str, str],
) -> Evaluation:
    labelled = test.labelled and test.reference.labelled
    found = _scores_of(test, scores)
    out_of_distribution = {
        name: _scores_of(Query(part, test.reference, name), found)
        for name, part in track("sets out of distribution", outside.items())
    }
    by_severity: dict[str, dict[str, dict[int, Tensor]]] = {}
    for (name, severity), part in track("corruptions", changed.items()):
        items = Query(part, test.reference, f"{name}, severity {severity}")
        place = torch.searchsorted(test.rows, items.rows)
        for score, values in _scores_of(items, found).items():
            levels = by_severity.setdefault(name, {}).setdefault(score, {0: found[score][place]})
            levels[severity] = values
        if labelled:
            items.labels = test.labels[place]
            test.shift.setdefault(name, {})[severity] = _shift(items)
    numbers = {name: compute_metric(name, test) for name in track("metrics", metrics)}
    flat = {name: value for name, value in numbers.items() if value is not None}
    missing = [name for name in (*scores, *metrics) if name not in flat | found]
    left_out |= dict.fromkeys(missing, "cannot be had of these items")
    wrong = test.wrong if labelled and found else {}
    answers = {}
    for score, values in track("answers of the scores", found.items()):
        others = {name: part[score] for name, part in out_of_distribution.items() if score in part}
        severe = {name: part[score] for name, part in by_severity.items() if score in part}
        answers[score], own = _asked(values, wrong, others, severe, truth)
        own = {question: answer.value for question, answer in answers[score].items()} | own
        flat |= {f"unc/{name}/{score}": value for name, value in own.items()}
    return Evaluation(
        metrics=flat,
        answers=answers,
        test=test.given,
        scores=found,
        probabilities=test.probabilities if wrong else torch.empty(len(test), 0),
        wrong=wrong,
        out_of_distribution=out_of_distribution,
        by_severity=by_severity,
        shift=test.shift,
        spectrum=test.spectrum,
        left_out=left_out,
        trained_on=len(test.reference),
    )


def _scores_of(items: Query, names: Collection[str]) -> dict[str, Tensor]:
    """Return the scores that there are."""
    values = {name: compute_score(name, items) for name in track(items.name, names)}
    return {name: value for name, value in values.items() if value is not None}


def _shift(items: Query) -> dict[str, float]:
    return {
        "top1": accuracy(items.logits.argmax(-1), items.labels),
        "nll": negative_log_likelihood(items.probabilities, items.labels),
        "ece": calibration_error(items.probabilities, items.labels),
    }


def _asked(
    score: Tensor,
    wrong: Mapping[str, Tensor],
    outside: Mapping[str, Tensor],
    by_severity: Mapping[str, Mapping[int, Tensor]],
    truth: Tensor | None,
) -> tuple[dict[str, Interval], dict[str, float]]:
    """Return a score's answers to the questions, and its other numbers."""
    answers: dict[str, Interval] = {}
    numbers: dict[str, float] = {}
    if wrong:
        answers["retrieval_error"] = bootstrap.error_auroc_interval(score, wrong["retrieval"])
        answers["ambiguity"] = bootstrap.error_auroc_interval(score, wrong["probe"])
        curve = risk_coverage(score, wrong["probe"])
        numbers["aurc"] = curve.area
        numbers["excess_aurc"] = curve.excess_area
        numbers["augrc"] = curve.generalised_area
        numbers["coverage_at_1_percent_risk"] = curve.coverage_at(0.01)
    if outside:
        answers["out_of_distribution"] = bootstrap.auroc_interval(score, *outside.values())
    for name, values in outside.items():
        numbers[f"auroc_{name}"] = ood.auroc(score, values)
        numbers[f"aupr_{name}"] = ood.average_precision(score, values)
        numbers[f"fpr95_{name}"] = ood.false_positive_rate(score, values)
    if by_severity:
        answers["corruption"] = bootstrap.severity_interval(*by_severity.values())
    for name, levels in by_severity.items():
        numbers[f"spearman_{name}"] = ood.severity_correlation(levels)
    if truth is not None:
        answers["truth"] = bootstrap.correlation_interval(score, -truth)
    return answers, numbers
