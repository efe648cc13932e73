"""The whole evaluation of an encoder, from the arrays it gives."""

from dataclasses import dataclass, replace

import torch
from sklearn.pipeline import Pipeline
from torch import Tensor

from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.quality import (
    accuracy,
    calibration_error,
    effective_rank,
    fit_linear_probe,
    k_nearest_neighbours,
    singular_spectrum,
)
from probcl.evaluation.uncertainty import (
    LIBRARY_SCORE,
    SCORES,
    nearest_cosine,
    severity_correlation,
    shift_auroc,
)

__all__ = ["Evaluation", "evaluate", "watch"]


@dataclass
class Evaluation:
    """What was measured of an encoder, and the arrays behind the report's pictures.

    Args:
        quality: Accuracy, calibration and collapse, by name.
        uncertainty: For each score, how well it answers each question: ``auroc_NAME``, whether
            it tells unfamiliar inputs from the test set; ``spearman_NAME``, its rank correlation
            with the severity of a corruption.
        test: Embeddings of the test set, with every score.
        probabilities: Class probabilities of the linear probe on the test set, ``(N, C)``.
        spectrum: Singular values of the test embeddings.
        by_severity: Scores by corruption, score and severity (0: clean), each of shape ``(N,)``.
    """

    quality: dict[str, float]
    uncertainty: dict[str, dict[str, float]]
    test: Embeddings
    probabilities: Tensor
    spectrum: Tensor
    by_severity: dict[str, dict[str, dict[int, Tensor]]]

    @property
    def metrics(self) -> dict[str, float]:
        """All numbers by name.

        The library's own score gives ``unc/auroc_inverted``, any other one its name as well:
        ``unc/auroc_inverted/log_det_k``.
        """
        flat = dict(self.quality)
        for score, answers in self.uncertainty.items():
            suffix = "" if score == LIBRARY_SCORE else f"/{score}"
            flat |= {f"unc/{question}{suffix}": value for question, value in answers.items()}
        return flat


def evaluate(
    train: Embeddings,
    test: Embeddings,
    corrupted: dict[str, dict[int, Embeddings]],
    unfamiliar: dict[str, Embeddings],
) -> Evaluation:
    """Measure embeddings and their uncertainty.

    Args:
        train: Embeddings of the training set, without augmentation.
        test: Embeddings of the test set.
        corrupted: Embeddings of the corrupted test set, by corruption and severity.
        unfamiliar: Embeddings of inputs unlike those of the training set, by name.
    """
    probe = fit_linear_probe(train.features, train.labels)
    probabilities = _probabilities(probe, test)
    predicted = probabilities.argmax(-1)
    neighbours = k_nearest_neighbours(train.embedding, train.labels, test.embedding)
    spectrum = singular_spectrum(test.embedding)
    quality = {
        "probe/top1": accuracy(predicted, test.labels),
        "knn/top1": accuracy(neighbours, test.labels),
        "cal/ece": calibration_error(probabilities, test.labels),
        "collapse/effective_rank": effective_rank(spectrum),
    }
    test = _with_baseline_scores(test, train, probe)
    unfamiliar = {n: _with_baseline_scores(e, train, probe) for n, e in unfamiliar.items()}
    corrupted = {
        name: {s: _with_baseline_scores(e, train, probe) for s, e in levels.items()}
        for name, levels in corrupted.items()
    }
    scores = [score for score in SCORES if score in test.scores]
    by_severity = {
        corruption: {
            score: {0: test.scores[score]} | {s: e.scores[score] for s, e in levels.items()}
            for score in scores
        }
        for corruption, levels in corrupted.items()
    }
    uncertainty = {
        score: {
            f"auroc_{name}": shift_auroc(test.scores[score], part.scores[score])
            for name, part in unfamiliar.items()
        }
        | {
            f"spearman_{name}": severity_correlation(by_score[score])
            for name, by_score in by_severity.items()
        }
        for score in scores
    }
    return Evaluation(quality, uncertainty, test, probabilities, spectrum, by_severity)


def watch(train: Embeddings, test: Embeddings) -> dict[str, float]:
    """Measure embeddings while they are being trained: quickly, on some images.

    Args:
        train: Embeddings that a probe learns from and neighbours are looked for among.
        test: Embeddings that are classified.

    Returns:
        Accuracy of the neighbours' vote, the effective rank, and the accuracy of the probe where
        there is more than one class to learn.
    """
    neighbours = k_nearest_neighbours(train.embedding, train.labels, test.embedding)
    watched = {
        "knn_top1": accuracy(neighbours, test.labels),
        "effective_rank": effective_rank(singular_spectrum(test.embedding)),
    }
    if len(train.labels.unique()) > 1:
        probe = fit_linear_probe(train.features, train.labels)
        predicted = torch.as_tensor(probe.predict(test.features))
        watched["probe_top1"] = accuracy(predicted, test.labels)
    return watched


def _probabilities(probe: Pipeline, part: Embeddings) -> Tensor:
    """Return the probe's probabilities, with a column for every class number."""
    values = torch.as_tensor(probe.predict_proba(part.features), dtype=torch.float32)
    classes = torch.as_tensor(probe.classes_)
    count = int(max(classes.max(), part.labels.max())) + 1
    return torch.zeros(len(part), count).index_copy_(1, classes, values)


def _with_baseline_scores(part: Embeddings, train: Embeddings, probe: Pipeline) -> Embeddings:
    baselines = {
        "nearest_cosine": nearest_cosine(part.embedding, train.embedding),
        "max_probability": 1 - _probabilities(probe, part).amax(-1),
    }
    return replace(part, scores=part.scores | baselines)
