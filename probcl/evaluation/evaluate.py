"""The whole evaluation of an encoder, from the arrays it gives."""

from dataclasses import dataclass

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
    SCORES,
    nearest_cosine,
    severity_correlation,
    shift_auroc,
)

__all__ = ["Evaluation", "evaluate"]


@dataclass
class Evaluation:
    """Metrics of an encoder, and the arrays behind the report's pictures.

    Args:
        metrics: Numbers by name. The name of the score is added to an uncertainty metric,
            as in `unc/auroc_inverted/log_det_k`; without it, the score is the library's own.
        test: Embeddings of the test set, with every score.
        probabilities: Class probabilities of the linear probe on the test set, `(N, C)`.
        spectrum: Singular values of the test embeddings.
        by_severity: Scores by corruption, score and severity (0: clean), each of shape `(N,)`.
    """

    metrics: dict[str, float]
    test: Embeddings
    probabilities: Tensor
    spectrum: Tensor
    by_severity: dict[str, dict[str, dict[int, Tensor]]]


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
    metrics = {
        "probe/top1": accuracy(predicted, test.labels),
        "knn/top1": accuracy(neighbours, test.labels),
        "cal/ece": calibration_error(probabilities, test.labels),
        "collapse/effective_rank": effective_rank(spectrum),
    }
    for part in (test, *unfamiliar.values(), *(e for c in corrupted.values() for e in c.values())):
        _add_baseline_scores(part, train, probe)
    metrics |= _uncertainty_metrics(test, corrupted, unfamiliar)
    by_severity = {
        corruption: {
            score: {0: test.scores[score]} | {s: e.scores[score] for s, e in levels.items()}
            for score in test.scores
        }
        for corruption, levels in corrupted.items()
    }
    return Evaluation(metrics, test, probabilities, spectrum, by_severity)


def _probabilities(probe: Pipeline, part: Embeddings) -> Tensor:
    """Return the probe's probabilities, with a column for every class number."""
    values = torch.as_tensor(probe.predict_proba(part.features), dtype=torch.float32)
    classes = torch.as_tensor(probe.classes_)
    count = int(max(classes.max(), part.labels.max())) + 1
    return torch.zeros(len(part), count).index_copy_(1, classes, values)


def _add_baseline_scores(part: Embeddings, train: Embeddings, probe: Pipeline) -> None:
    part.scores["nearest_cosine"] = nearest_cosine(part.embedding, train.embedding)
    part.scores["max_probability"] = 1 - _probabilities(probe, part).amax(-1)


def _uncertainty_metrics(
    test: Embeddings,
    corrupted: dict[str, dict[int, Embeddings]],
    unfamiliar: dict[str, Embeddings],
) -> dict[str, float]:
    metrics = {}
    for score in (name for name in SCORES if name in test.scores):
        suffix = "" if score == next(iter(SCORES)) else f"/{score}"
        clean = test.scores[score]
        for name, part in unfamiliar.items():
            metrics[f"unc/auroc_{name}{suffix}"] = shift_auroc(clean, part.scores[score])
        for name, levels in corrupted.items():
            by_level = {0: clean} | {level: e.scores[score] for level, e in levels.items()}
            metrics[f"unc/spearman_{name}{suffix}"] = severity_correlation(by_level)
    return metrics
