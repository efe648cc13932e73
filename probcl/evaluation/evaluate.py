"""The whole evaluation of an encoder, from the arrays it gives batch by batch."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probcl.evaluation.bootstrap import (
    Interval,
    auroc_interval,
    bootstrap_interval,
    error_auroc_interval,
    severity_interval,
)
from probcl.evaluation.calibration import calibration_error, negative_log_likelihood
from probcl.evaluation.detection import (
    auroc,
    average_precision,
    false_positive_rate,
    rank_correlation,
    severity_correlation,
)
from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.geometry import effective_rank, singular_spectrum
from probcl.evaluation.nearest import nearest
from probcl.evaluation.neighbour_vote import neighbour_vote
from probcl.evaluation.probe import accuracy, fit_linear_probe
from probcl.evaluation.quality import quality_of
from probcl.evaluation.retrieval import nearest_is_wrong
from probcl.evaluation.scorer import Scorer
from probcl.evaluation.scores import LIBRARY_SCORE, SCORES
from probcl.evaluation.selective import risk_coverage

__all__ = ["Evaluation", "Evaluator", "watch"]

# Numbers of neighbours that classify.
NEIGHBOURS = (1, 5, 20)


@dataclass
class Evaluation:
    """What was measured of an encoder, and the arrays behind the report's pictures.

    Args:
        quality: Accuracy, calibration, retrieval, clustering, geometry and information, by name.
        answers: For each score, how well it answers each question of ``QUESTIONS``, with its
            bootstrap interval; a question is left out where it could not be asked.
        uncertainty: For each score, the numbers behind the answers: ``auroc_NAME`` of each set of
            unfamiliar inputs, ``spearman_NAME`` of each corruption, and areas under curves.
        test: Embeddings of the test set, with every score.
        probabilities: Class probabilities of the linear probe on the test set, ``(N, C)``.
        wrong: Whether the probe is wrong (``probe``), and whether the nearest other test image is
            of another class (``retrieval``), each of shape ``(N,)``.
        unfamiliar: Scores of unfamiliar inputs, by set and score, each of shape ``(N,)``.
        by_severity: Scores by corruption, score and severity (0: clean), each of shape ``(M,)``.
        shift: Accuracy (``top1``), ``nll`` and ``ece`` of the probe by corruption and severity.
        spectrum: Singular values of the test embeddings.
    """

    quality: dict[str, float]
    answers: dict[str, dict[str, Interval]]
    uncertainty: dict[str, dict[str, float]]
    test: Embeddings
    probabilities: Tensor
    wrong: dict[str, Tensor]
    unfamiliar: dict[str, dict[str, Tensor]]
    by_severity: dict[str, dict[str, dict[int, Tensor]]]
    shift: dict[str, dict[int, dict[str, float]]]
    spectrum: Tensor

    @property
    def metrics(self) -> dict[str, float]:
        """All numbers by name.

        The library's own score gives ``unc/auroc_inverted``, any other one its name as well:
        ``unc/auroc_inverted/log_det_k``.
        """
        flat = dict(self.quality)
        for score, numbers in self.uncertainty.items():
            suffix = "" if score == LIBRARY_SCORE else f"/{score}"
            answers = {name: answer.value for name, answer in self.answers[score].items()}
            flat |= {f"unc/{name}{suffix}": value for name, value in (answers | numbers).items()}
        return flat


class Evaluator:
    """Evaluate an encoder from what it says of the test images and changed ones, part by part.

    Args:
        train: Embeddings of the training set, without augmentation.

    Example:
        >>> z = torch.nn.functional.normalize(torch.randn(80, 8, generator=torch.manual_seed(0)))
        >>> part = Embeddings(z, z, torch.arange(80) % 2, torch.arange(80))
        >>> evaluator = Evaluator(part)
        >>> evaluator.add_test(part, z[None].expand(8, -1, -1))
        >>> evaluator.result().quality["probe/top1"] > 0.5
        True
    """

    def __init__(self, train: Embeddings) -> None:
        self.train = train
        self.scorer = Scorer.fit(train)
        self._test: list[Embeddings] = []
        self._votes: dict[int, list[Tensor]] = defaultdict(list)
        self._unfamiliar: dict[str, list[dict[str, Tensor]]] = defaultdict(list)
        self._corrupted: dict[tuple[str, int], list[Embeddings]] = defaultdict(list)

    def add_test(self, part: Embeddings, samples: Tensor) -> None:
        """Take test images: their embeddings, and samples ``(S, N, d)`` of their posteriors."""
        found = self.scorer.neighbours(part)
        self._test.append(replace(part, scores=self.scorer(part, samples, found)))
        for k in NEIGHBOURS:
            shares = neighbour_vote(found, self.train.labels, k=min(k, found.row.shape[1]))
            self._votes[k].append(shares.argmax(-1))

    def add_unfamiliar(self, name: str, part: Embeddings, samples: Tensor) -> None:
        """Take inputs unlike those of the training set; arguments as for ``add_test``."""
        self._unfamiliar[name].append(self.scorer(part, samples))

    def add_corrupted(self, name: str, severity: int, part: Embeddings, samples: Tensor) -> None:
        """Take test images, corrupted; ``part.index`` tells which. As for ``add_test``."""
        scored = replace(part, scores=self.scorer(part, samples))
        self._corrupted[name, severity].append(scored)

    def result(self, spread: Tensor | None = None) -> Evaluation:
        """Return what was measured.

        Args:
            spread: How wide the true posterior of each test image is, up to a monotone map, where
                it is known; by ``index``, shape ``(N,)``.
        """
        test = Embeddings.concatenate(self._test)
        scores = {name: test.scores[name] for name in SCORES if name in test.scores}
        test = replace(test, scores=scores)
        probabilities = self._probabilities(test)
        wrong = {}
        if len(test.labels.unique()) > 1:
            wrong["retrieval"] = nearest_is_wrong(test.embedding, test.labels)
        if self.scorer.feature_probe is not None:
            wrong["probe"] = probabilities.argmax(-1) != test.labels
        unfamiliar = {
            name: {score: torch.cat([p[score] for p in parts]) for score in scores}
            for name, parts in self._unfamiliar.items()
        }
        corrupted = {key: Embeddings.concatenate(parts) for key, parts in self._corrupted.items()}
        by_severity = _by_severity(test, corrupted)
        spectrum = singular_spectrum(test.embedding)
        answers, numbers = {}, {}
        for score, values in scores.items():
            strange = {name: parts[score] for name, parts in unfamiliar.items()}
            severe = {name: levels[score] for name, levels in by_severity.items()}
            answers[score] = _answers(values, wrong, strange, severe)
            if spread is not None:
                known = spread[test.index]
                answers[score]["truth"] = bootstrap_interval(rank_correlation, values, known)
            numbers[score] = _numbers(values, wrong, strange, severe)
        shift: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
        for (name, severity), part in corrupted.items():
            shift[name][severity] = self._shift(part)
        votes = {k: torch.cat(parts) for k, parts in self._votes.items()}
        quality = quality_of(
            self.train, test, self.scorer.feature_probe, wrong.get("retrieval"), votes
        )
        if shift:
            every = [level for levels in shift.values() for level in levels.values()]
            quality |= {
                f"shift/{n}": sum(level[n] for level in every) / len(every) for n in every[0]
            }
        return Evaluation(
            quality=quality,
            answers=answers,
            uncertainty=numbers,
            test=test,
            probabilities=probabilities,
            wrong=wrong,
            unfamiliar=unfamiliar,
            by_severity=by_severity,
            shift=dict(shift),
            spectrum=spectrum,
        )

    def _probabilities(self, part: Embeddings) -> Tensor:
        """Return the probe's probabilities, with a column for every class of the images too."""
        probe = self.scorer.feature_probe
        count = int(torch.cat([self.train.labels, part.labels]).max()) + 1
        whole = torch.zeros(len(part), count, dtype=torch.double)
        if probe is not None:
            values = probe.logits(part.features).double().softmax(-1)
            whole[:, : values.shape[1]] = values
        return whole

    def _shift(self, part: Embeddings) -> dict[str, float]:
        if self.scorer.feature_probe is None:
            return {}
        p = self._probabilities(part)
        return {
            "top1": accuracy(p.argmax(-1), part.labels),
            "nll": negative_log_likelihood(p, part.labels),
            "ece": calibration_error(p, part.labels),
        }


def watch(train: Embeddings, test: Embeddings) -> dict[str, float]:
    """Measure embeddings while they are being trained: quickly, on some images.

    Args:
        train: Embeddings that a probe learns from and neighbours are looked for among.
        test: Embeddings that are classified.

    Returns:
        Accuracy of the neighbours' vote, the effective rank, and the accuracy of the probe where
        there is more than one class to learn.
    """
    found = nearest(test.embedding, train.embedding, min(5, len(train)))
    votes = neighbour_vote(found, train.labels).argmax(-1)
    watched = {
        "knn_top1": accuracy(votes, test.labels),
        "effective_rank": effective_rank(singular_spectrum(test.embedding)),
    }
    if len(train.labels.unique()) > 1:
        predicted = fit_linear_probe(train.features, train.labels).predict(test.features)
        watched["probe_top1"] = accuracy(predicted, test.labels)
    return watched


def _by_severity(
    test: Embeddings, corrupted: Mapping[tuple[str, int], Embeddings]
) -> dict[str, dict[str, dict[int, Tensor]]]:
    """Return the scores by corruption, score and severity, the clean images' as severity 0."""
    place = torch.full((int(test.index.max()) + 1,), -1)
    place[test.index] = torch.arange(len(test))
    tables: dict[str, dict[str, dict[int, Tensor]]] = {}
    for (name, severity), part in corrupted.items():
        for score, clean in test.scores.items():
            levels = tables.setdefault(name, {}).setdefault(score, {})
            levels.setdefault(0, clean[place[part.index]])
            levels[severity] = part.scores[score]
    return tables


def _answers(
    score: Tensor,
    wrong: Mapping[str, Tensor],
    unfamiliar: Mapping[str, Tensor],
    by_severity: Mapping[str, Mapping[int, Tensor]],
) -> dict[str, Interval]:
    answers = {}
    if "retrieval" in wrong:
        answers["retrieval_error"] = error_auroc_interval(score, wrong["retrieval"])
    if "probe" in wrong:
        answers["ambiguity"] = error_auroc_interval(score, wrong["probe"])
    if unfamiliar:
        answers["out_of_distribution"] = auroc_interval(score, *unfamiliar.values())
    if by_severity:
        answers["corruption"] = severity_interval(*by_severity.values())
    return answers


def _numbers(
    score: Tensor,
    wrong: Mapping[str, Tensor],
    unfamiliar: Mapping[str, Tensor],
    by_severity: Mapping[str, Mapping[int, Tensor]],
) -> dict[str, float]:
    numbers: dict[str, float] = {}
    if "probe" in wrong:
        curve = risk_coverage(score, wrong["probe"])
        numbers |= {
            "aurc": curve.area,
            "excess_aurc": curve.excess_area,
            "augrc": curve.generalised_area,
            "coverage_at_1_percent_risk": curve.coverage_at(0.01),
        }
    for name, values in unfamiliar.items():
        numbers[f"auroc_{name}"] = auroc(score, values)
        numbers[f"aupr_{name}"] = average_precision(score, values)
        numbers[f"fpr95_{name}"] = false_positive_rate(score, values)
    for name, levels in by_severity.items():
        numbers[f"spearman_{name}"] = severity_correlation(levels)
    return numbers
