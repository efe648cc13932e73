"""Quality of an embedding, by every measure that needs no uncertainty."""

from collections.abc import Mapping

import torch
from torch import Tensor

from probcl.evaluation.calibration import (
    adaptive_calibration_error,
    brier_score,
    calibration_error,
    classwise_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
    smooth_reliability,
)
from probcl.evaluation.clustering import ward_clustering
from probcl.evaluation.conformal import fit_conformal, set_coverage, set_size
from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.few_shot import few_shot_accuracy
from probcl.evaluation.geometry import (
    alignment,
    class_concentration,
    class_mean_angles,
    effective_rank,
    participation_ratio,
    singular_spectrum,
    uniformity,
)
from probcl.evaluation.information import (
    info_nce_information_bound,
    ksg_information,
    probe_information,
)
from probcl.evaluation.probe import LinearProbe, accuracy, fit_linear_probe, top_k_accuracy
from probcl.evaluation.retrieval import map_at_r
from probcl.evaluation.scaling import fit_temperature, fit_vector
from probcl.evaluation.scorer import held_out_rows

__all__ = ["quality_of"]

_SHOTS = (1, 5, 10)


def quality_of(
    train: Embeddings,
    test: Embeddings,
    probe: LinearProbe | None,
    retrieval_wrong: Tensor | None,
    votes: Mapping[int, Tensor],
) -> dict[str, float]:
    """Return every number by name, as ``probe/top1``.

    Args:
        train: Embeddings of the training set.
        test: Embeddings of the test set.
        probe: Linear probe of the features; None where there is one class only.
        retrieval_wrong: Whether the nearest other test image is of another class, ``(N,)``;
            None where there is one class only.
        votes: Classes that so many training neighbours vote for, by their number, each ``(N,)``.
    """
    spectrum = singular_spectrum(test.embedding)
    quality = {
        "collapse/effective_rank": effective_rank(spectrum),
        "collapse/participation_ratio": participation_ratio(spectrum),
    }
    if len(test) > 1:
        quality["geometry/uniformity"] = uniformity(test.embedding)
    if probe is None or retrieval_wrong is None:
        return quality
    return (
        _of_probe(train, test, probe)
        | {
            "knn/top1" if k == 5 else f"knn/top1_of_{k}": accuracy(classes, test.labels)
            for k, classes in votes.items()
        }
        | {
            "retrieval/recall_at_1": 1 - retrieval_wrong.double().mean().item(),
            "retrieval/map_at_r": map_at_r(test.embedding, test.labels)[0],
        }
        | {f"cluster/{n}": v for n, v in ward_clustering(test.embedding, test.labels).items()}
        | quality
        | _of_classes(test, probe)
    )


def _of_probe(train: Embeddings, test: Embeddings, probe: LinearProbe) -> dict[str, float]:
    """Return accuracy and calibration; what is learned for calibration, on held-out images."""
    known = test.labels < len(probe.bias)
    known &= probe.bias[test.labels.clamp(max=len(probe.bias) - 1)].isfinite()
    logits, labels = probe.logits(test.features), test.labels
    numbers = {
        "probe/top1": accuracy(logits.argmax(-1), labels),
        "probe/top5": _top_k(logits, labels, known),
    }
    shots = [n for n in _SHOTS if n <= _smallest_class(train.labels)]
    for n, scores in (
        few_shot_accuracy(train.features, train.labels, test.features, labels, shots).items()
        if shots
        else ()
    ):
        numbers[f"few_shot/top1_of_{n}"] = sum(scores) / len(scores)
    if not known.all():  # a class that no training image has makes no calibrated prediction
        return numbers
    p = logits.double().softmax(-1)
    numbers |= {
        "cal/nll": negative_log_likelihood(p, labels),
        "cal/brier": brier_score(p, labels),
        "cal/ece": calibration_error(p, labels),
        "cal/adaptive_ece": adaptive_calibration_error(p, labels),
        "cal/classwise_ece": classwise_calibration_error(p, labels),
        "cal/mce": maximum_calibration_error(p, labels),
        "cal/smooth_ece": smooth_reliability(p, labels, resamples=1).error,
    }
    return numbers | _of_held_out(train, test)


def _of_held_out(train: Embeddings, test: Embeddings) -> dict[str, float]:
    held_out, rest = held_out_rows(len(train))
    count = int(max(train.labels.max(), test.labels.max())) + 1
    if len(train.labels[rest].unique()) < 2:
        return {}
    probe = fit_linear_probe(train.features[rest], train.labels[rest], count)
    kept = held_out[probe.bias[train.labels[held_out]].isfinite()]
    if not len(kept) or not probe.bias[test.labels].isfinite().all():
        return {}
    logits, labels = probe.logits(train.features[kept]), train.labels[kept]
    on_test = probe.logits(test.features)
    numbers = {}
    for name, fit in (("temperature", fit_temperature), ("vector", fit_vector)):
        scaled = fit(logits, labels)(on_test).double().softmax(-1)
        numbers[f"cal/nll_{name}_scaled"] = negative_log_likelihood(scaled, test.labels)
        numbers[f"cal/ece_{name}_scaled"] = calibration_error(scaled, test.labels)
    p, p_test = logits.double().softmax(-1), on_test.double().softmax(-1)
    for method in ("threshold", "adaptive"):
        sets = fit_conformal(p, labels, 0.9, method)(p_test)
        numbers[f"conformal/coverage_{method}"] = set_coverage(sets, test.labels)
        numbers[f"conformal/size_{method}"] = set_size(sets)
    return numbers


def _of_classes(test: Embeddings, probe: LinearProbe) -> dict[str, float]:
    """Return the geometry of the classes, and estimates of the information about them."""
    z, y = test.embedding, test.labels
    concentration = class_concentration(z, y)
    _, angles = class_mean_angles(z, y)
    others = angles[~torch.eye(len(angles), dtype=torch.bool)]
    numbers = {
        "geometry/class_concentration": sum(concentration.values()) / len(concentration),
        "geometry/smallest_class_angle": others.min().item(),
        "geometry/mean_class_angle": others.mean().item(),
    }
    if y.bincount().max() > 1:
        order = y.argsort(stable=True)
        pairs = order[:-1][y[order[:-1]] == y[order[1:]]], order[1:][y[order[:-1]] == y[order[1:]]]
        shuffled = torch.randperm(len(pairs[0]), generator=torch.Generator().manual_seed(0))
        numbers["geometry/alignment"] = alignment(z, y)
        numbers["information/ksg"] = ksg_information(z, y)
        if len(shuffled) > 1:
            first, second = (z[rows[shuffled]] for rows in pairs)
            numbers["information/info_nce_bound"] = info_nce_information_bound(first, second)
    if y.max() < len(probe.bias):
        p = probe.logits(test.features).double().softmax(-1)
        numbers["information/probe_bound"] = probe_information(p, y)
    return numbers


def _top_k(logits: Tensor, labels: Tensor, known: Tensor) -> float:
    """Return the accuracy of the five likeliest classes; one never seen is never right."""
    right = top_k_accuracy(logits[known], labels[known], min(5, logits.shape[1]))
    return right * known.double().mean().item()


def _smallest_class(labels: Tensor) -> int:
    counts = labels.bincount()
    return int(counts[counts > 0].min())
