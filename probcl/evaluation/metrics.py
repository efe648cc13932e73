"""The metrics, a row each: quality, calibration and geometry of an embedding.

A name begins with the group that it is shown in, of ``GROUPS`` or a new one. A metric of your own
is one more row, and ``evaluate`` takes it up:

    METRICS["geometry/spread"] = Metric(
        "standard deviation of the embeddings", lambda q: q.embedding.std(), needs=()
    )
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from probcl.evaluation import calibration, geometry, information
from probcl.evaluation.probe import accuracy, few_shot_accuracy, top_k_accuracy
from probcl.evaluation.progress import step
from probcl.evaluation.query import Query

__all__ = ["GROUPS", "METRICS", "Metric"]

#: The groups of metrics, and how to read each.
GROUPS = {
    "probe": "Linear probe of the features: share of test items whose class is the likeliest one, "
    "or among five.",
    "few_shot": "Linear probes fitted on so many training items of each class; mean of five.",
    "knn": "Vote of the nearest training embeddings (five, or the number named).",
    "retrieval": "Among the test items: is the nearest other one of the class (recall at 1), and "
    "how many of the R nearest, R the size of the class (MAP at R)?",
    "cluster": "Ward's clusters of the test embeddings, as many as classes, against the classes; 1 "
    "is perfect.",
    "cal": "Calibration of the linear probe: negative log likelihood (nats), Brier score, errors; "
    "scaled by what was learned on held-out training items.",
    "conformal": "Sets of classes that hold the true one nine times in ten: the share that do, and "
    "their mean size; an empty set is a refusal.",
    "shift": "The linear probe on corrupted test items, mean over corruptions and severities.",
    "collapse": "How many dimensions the test embeddings use.",
    "geometry": "Uniformity (the lower, the more even), alignment (squared distance in a class), "
    "length of a class's mean, angles between class means (degrees).",
    "information": "Three estimates of the information about the class (nats), none of them exact: "
    "the probe's lower bound, InfoNCE's lower bound between two items of a class, and KSG's.",
}


class Metric(NamedTuple):
    """A number that says how good an embedding is.

    Attributes:
        meaning: What it is.
        compute: Test items (``probcl.evaluation.query.Query``) to the number; None where it cannot
            be had.
        headline: Whether it is among the few that are shown first.
        needs: What must be given: ``"labels"`` of the training items, of two classes at least,
            ``"test labels"`` too; ``"posterior"`` of all items; ``"corrupted"`` test items.
    """

    meaning: str
    compute: Callable[[Query], float | None]
    headline: bool = False
    needs: tuple[str, ...] = ("test labels",)


def compute_metric(name: str, query: Query) -> float | None:
    """Return a metric of ``METRICS``; None where it cannot be had, or is not finite."""
    with step(name, 1):
        value = METRICS[name].compute(query)
    return None if value is None or not math.isfinite(value) else float(value)


Measure = Callable[[Tensor, Tensor], float]
_PAIRS = 20 * 512  # of items of a class: the mean of 20 batches hardly varies


def _few_shot(shots: int, q: Query) -> float | None:
    train = q.reference
    if shots > train.labels.unique(return_counts=True)[1].min():
        return None
    scores = few_shot_accuracy(train.features, train.labels, q.features, q.labels, shots)
    return sum(scores) / len(scores)


def _of_neighbours(k: int, q: Query) -> float:
    return accuracy(q.predicted_by(k), q.labels)


def _of_probe(measure: Measure, q: Query) -> float:
    p, labels, classes = q.probabilities, q.labels, q.reference.classes
    if len(classes) < p.shape[1]:  # numbers between the classes are none
        p, labels = p[:, classes], torch.searchsorted(classes, labels)
    return measure(p, labels)


def _shift(measure: str, q: Query) -> float:
    every = [level[measure] for levels in q.shift.values() for level in levels.values()]
    return sum(every) / len(every)


def _concentration(q: Query) -> float:
    lengths = geometry.class_concentration(q.direction, q.labels)
    return sum(lengths.values()) / len(lengths)


def _angles(q: Query) -> Tensor:
    angles = geometry.class_mean_angles(q.direction, q.labels)[1]
    return angles[~torch.eye(len(angles), dtype=torch.bool)]


def _of_pairs(measure: Measure, q: Query) -> float | None:
    if q.labels.unique(return_counts=True)[1].max() < 2:  # each is alone in its class
        return None
    return measure(q.direction, q.labels)


def _info_nce(q: Query) -> float | None:
    order = q.labels.argsort(stable=True)
    same = q.labels[order[:-1]] == q.labels[order[1:]]
    pairs = torch.stack([order[:-1][same], order[1:][same]])
    if pairs.shape[1] < 2:
        return None
    shuffled = torch.randperm(pairs.shape[1], generator=torch.Generator().manual_seed(0))
    return information.info_nce_information_bound(*q.direction[pairs[:, shuffled[:_PAIRS]]])


METRICS = {
    "probe/top1": Metric("share of test items whose class is the probe's likeliest",
        lambda q: accuracy(q.logits.argmax(-1), q.labels), headline=True),
    "probe/top5": Metric("share whose class is among the five likeliest",
        lambda q: (
            top_k_accuracy(q.logits, q.labels) if len(q.reference.classes) > 5 else None)),
    "few_shot/top1_of_1": Metric("accuracy, one item of each class", partial(_few_shot, 1)),
    "few_shot/top1_of_5": Metric("accuracy, five items of each class", partial(_few_shot, 5)),
    "few_shot/top1_of_10": Metric("accuracy, ten items of each class", partial(_few_shot, 10)),
    "knn/top1_of_1": Metric("share whose class is that of the nearest", partial(_of_neighbours, 1)),
    "knn/top1": Metric("share whose class is that of most of the 5 nearest",
        partial(_of_neighbours, 5), headline=True),
    "knn/top1_of_20": Metric("share whose class is that of most of the 20 nearest",
        partial(_of_neighbours, 20)),
    "retrieval/recall_at_1": Metric("share whose nearest other is of their class",
        lambda q: 1 - q.wrong["retrieval"].double().mean().item(), headline=True),
    "retrieval/map_at_r": Metric("mean average precision among the R nearest",
        lambda q: q.retrieval.map_at_r),
    "retrieval/r_precision": Metric("share of the R nearest that are of the class",
        lambda q: q.retrieval.r_precision),
    "retrieval/map": Metric("mean average precision over all other items",
        lambda q: q.retrieval.mean_average_precision),
    "retrieval/mrr": Metric("1 / the place of the first of the class, mean over queries",
        lambda q: q.retrieval.mean_reciprocal_rank),
    "cluster/adjusted_rand_index": Metric("pairs that clusters and classes agree on, less chance",
        lambda q: q.clustering["adjusted_rand_index"]),
    "cluster/normalized_mutual_information": Metric("information that clusters and classes share",
        lambda q: q.clustering["normalized_mutual_information"]),
    "cluster/purity": Metric("share of items of the commonest class of their cluster",
        lambda q: q.clustering["purity"]),
    "cal/nll": Metric("mean of -log p(y), nats",
        partial(_of_probe, calibration.negative_log_likelihood)),
    "cal/brier": Metric("mean of sum_c (p_c - [y = c])^2",
        partial(_of_probe, calibration.brier_score)),
    "cal/ece": Metric("|accuracy - confidence| in 15 bins of equal width",
        partial(_of_probe, calibration.calibration_error), headline=True),
    "cal/adaptive_ece": Metric("|accuracy - confidence| in 15 bins of as many items each",
        partial(_of_probe, calibration.adaptive_calibration_error)),
    "cal/classwise_ece": Metric("error of each class's probability, mean over classes",
        partial(_of_probe, calibration.classwise_calibration_error)),
    "cal/rms": Metric(
        "root of the mean (accuracy - confidence)^2 of the 15 bins, less the variance of few items",
        partial(_of_probe, calibration.root_mean_square_calibration_error)),
    "cal/mce": Metric("the largest |accuracy - confidence| of the 15 bins",
        partial(_of_probe, calibration.maximum_calibration_error)),
    "cal/smooth_ece": Metric("|accuracy - confidence|, smoothed instead of put into bins",
        partial(_of_probe, calibration.smooth_calibration_error)),
    "cal/nll_temperature_scaled": Metric("nll after temperature scaling",
        lambda q: q.calibrated.get("nll_temperature")),
    "cal/ece_temperature_scaled": Metric("ece after temperature scaling",
        lambda q: q.calibrated.get("ece_temperature")),
    "cal/nll_vector_scaled": Metric("nll after vector scaling",
        lambda q: q.calibrated.get("nll_vector")),
    "cal/ece_vector_scaled": Metric("ece after vector scaling",
        lambda q: q.calibrated.get("ece_vector")),
    "conformal/coverage_threshold": Metric("share of threshold sets with the class",
        lambda q: q.calibrated.get("coverage_threshold")),
    "conformal/size_threshold": Metric("mean size of threshold sets",
        lambda q: q.calibrated.get("size_threshold")),
    "conformal/coverage_adaptive": Metric("share of adaptive sets with the class",
        lambda q: q.calibrated.get("coverage_adaptive")),
    "conformal/size_adaptive": Metric("mean size of adaptive sets",
        lambda q: q.calibrated.get("size_adaptive")),
    "conformal/coverage_regularised": Metric("share of regularised sets with the class",
        lambda q: q.calibrated.get("coverage_regularised")),
    "conformal/size_regularised": Metric("mean size of regularised sets",
        lambda q: q.calibrated.get("size_regularised")),
    "conformal/worst_class_coverage": Metric(
        "share of threshold sets with the class, of the class with the smallest",
        lambda q: q.calibrated.get("worst_class_coverage")),
    "shift/top1": Metric("accuracy of the probe on corrupted items",
        partial(_shift, "top1"), headline=True, needs=("test labels", "corrupted")),
    "shift/nll": Metric("negative log likelihood of the probe on corrupted items",
        partial(_shift, "nll"), needs=("test labels", "corrupted")),
    "shift/ece": Metric("calibration error of the probe on corrupted items",
        partial(_shift, "ece"), needs=("test labels", "corrupted")),
    "collapse/effective_rank": Metric(
        "exponential of the entropy of the normalised singular values",
        lambda q: geometry.effective_rank(q.spectrum), headline=True, needs=()),
    "collapse/participation_ratio": Metric("dimensions that share the variance",
        lambda q: geometry.participation_ratio(q.spectrum), needs=()),
    "geometry/uniformity": Metric("log mean exp(-2 |a - b|^2) over pairs",
        lambda q: geometry.uniformity(q.direction) if len(q) > 1 else None, needs=()),
    "geometry/alignment": Metric("mean squared distance of two items of one class",
        partial(_of_pairs, geometry.alignment)),
    "geometry/class_concentration": Metric("mean resultant length of a class, mean over classes",
        _concentration),
    "geometry/smallest_class_angle": Metric("smallest angle of two class means",
        lambda q: _angles(q).min().item()),
    "geometry/mean_class_angle": Metric("mean angle of two class means",
        lambda q: _angles(q).mean().item()),
    "information/probe_bound": Metric("the probe's lower bound",
        partial(_of_probe, information.probe_information)),
    "information/info_nce_bound": Metric("InfoNCE's lower bound between two items of a class",
        _info_nce),
    "information/ksg": Metric("KSG's estimate by the distances of neighbours",
        partial(_of_pairs, information.ksg_information)),
}  # fmt: skip
