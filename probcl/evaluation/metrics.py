"""The metrics, a row each: quality, calibration and geometry of an embedding.

A metric of your own is one more row, and ``evaluate`` takes it up:

    METRICS["geometry/spread"] = Metric(
        "geometry", "standard deviation of the embeddings", lambda items: items.embedding.std()
    )
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from probcl.evaluation import calibration, geometry, information
from probcl.evaluation.conformal import fit_conformal, set_coverage, set_size
from probcl.evaluation.items import Query
from probcl.evaluation.knn import map_at_r
from probcl.evaluation.probe import accuracy, few_shot_accuracy, top_k_accuracy
from probcl.evaluation.progress import step

__all__ = ["GROUPS", "METRICS", "Metric", "compute_metric"]

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

_LABELS = ("test labels",)


class Metric(NamedTuple):
    """A number that says how good an embedding is.

    Attributes:
        group: The group, of ``GROUPS`` or a new one, that it is shown in.
        meaning: What it is.
        compute: Test items (``probcl.evaluation.items.Query``) to the number; None where it cannot
            be had.
        headline: Whether it is among the few that are shown first.
        needs: What must be given: ``"labels"`` of the training items, of two classes at least,
            ``"test labels"`` too; ``"posterior"`` of all items; ``"corrupted"`` test items.
    """

    group: str
    meaning: str
    compute: Callable[[Query], float | None]
    headline: bool = False
    needs: tuple[str, ...] = ()


def compute_metric(name: str, items: Query) -> float | None:
    """Return a metric of ``METRICS``; None where it cannot be had, or is not finite."""
    with step(name, 1):
        value = METRICS[name].compute(items)
    return None if value is None or not math.isfinite(value) else float(value)


def _top_5(items: Query) -> float | None:
    if items.logits.shape[1] <= 5:
        return None
    return top_k_accuracy(items.logits, items.labels, 5)


def _few_shot(shots: int, items: Query) -> float | None:
    train = items.reference
    if shots > train.labels.unique(return_counts=True)[1].min():
        return None
    scores = few_shot_accuracy(train.features, train.labels, items.features, items.labels, shots)
    return sum(scores) / len(scores)


def _by_neighbours(k: int, items: Query) -> float:
    return accuracy(items.predicted_by(k), items.labels)


def _of_clusters(measure: str, items: Query) -> float | None:
    return items.clustering.get(measure)


def _calibration(measure: Callable[[Tensor, Tensor], float], items: Query) -> float:
    return measure(items.probabilities, items.labels)


def _scaled(
    fit: Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]],
    measure: Callable[[Tensor, Tensor], float],
    items: Query,
) -> float | None:
    """Return a measure of the second probe, scaled by what the held-out items say."""
    if items.held_out is None:
        return None
    logits, labels, own = items.held_out
    return measure(fit(logits, labels)(own).double().softmax(-1), items.labels)


def _conformal(method: str, size: bool, items: Query) -> float | None:
    if items.held_out is None:
        return None
    logits, labels, own = items.held_out
    rule = fit_conformal(logits.double().softmax(-1), labels, 0.9, method)  # type: ignore[arg-type]
    sets = rule(own.double().softmax(-1))
    return set_size(sets) if size else set_coverage(sets, items.labels)


def _mean_concentration(items: Query) -> float:
    lengths = geometry.class_concentration(items.direction, items.labels)
    return sum(lengths.values()) / len(lengths)


def _class_angles(items: Query) -> Tensor:
    angles = geometry.class_mean_angles(items.direction, items.labels)[1]
    return angles[~torch.eye(len(angles), dtype=torch.bool)]


def _of_pairs(measure: Callable[[Tensor, Tensor], float], items: Query) -> float | None:
    if items.labels.unique(return_counts=True)[1].max() < 2:  # each is alone in its class
        return None
    return measure(items.direction, items.labels)


def _info_nce_bound(items: Query) -> float | None:
    y = items.labels
    order = y.argsort(stable=True)
    same = y[order[:-1]] == y[order[1:]]
    first, second = order[:-1][same], order[1:][same]
    if len(first) < 2:
        return None
    shuffled = torch.randperm(len(first), generator=torch.Generator().manual_seed(0))
    z = items.direction
    return information.info_nce_information_bound(z[first[shuffled]], z[second[shuffled]])


def _shift(measure: str, items: Query) -> float:
    every = [level[measure] for levels in items.shift.values() for level in levels.values()]
    return sum(every) / len(every)


def _of_spectrum(measure: Callable[[Tensor], float], items: Query) -> float:
    return measure(items.spectrum)


METRICS = {
    "probe/top1": Metric(
        "probe", "share of test items whose class is the probe's likeliest",
        lambda items: accuracy(items.logits.argmax(-1), items.labels), True, _LABELS,
    ),
    "probe/top5": Metric("probe", "share whose class is among the five likeliest", _top_5,
                         needs=_LABELS),
    **{
        f"few_shot/top1_of_{n}": Metric(
            "few_shot", f"accuracy of a probe of {n} items of each class, mean of five choices",
            partial(_few_shot, n), needs=_LABELS,
        )
        for n in (1, 5, 10)
    },
    **{
        name: Metric(
            "knn", f"share whose class is that of most of the {k} nearest training embeddings",
            partial(_by_neighbours, k), k == 5, _LABELS,
        )
        for name, k in (("knn/top1_of_1", 1), ("knn/top1", 5), ("knn/top1_of_20", 20))
    },
    "retrieval/recall_at_1": Metric(
        "retrieval", "share whose nearest other test item is of their class",
        lambda items: 1 - items.wrong["retrieval"].double().mean().item(), True, _LABELS,
    ),
    "retrieval/map_at_r": Metric(
        "retrieval", "mean average precision among the R nearest, R the others of the class",
        lambda items: map_at_r(items.direction, items.labels)[0], needs=_LABELS,
    ),
    **{
        f"cluster/{measure}": Metric("cluster", meaning, partial(_of_clusters, measure),
                                     needs=_LABELS)
        for measure, meaning in {
            "adjusted_rand_index": "pairs that clusters and classes agree on, less chance",
            "normalized_mutual_information": "information that clusters and classes share",
            "purity": "share of items that are of the commonest class of their cluster",
        }.items()
    },
    **{
        f"cal/{name}": Metric("cal", meaning, partial(_calibration, measure), name == "ece",
                              _LABELS)
        for name, meaning, measure in (
            ("nll", "mean of -log p(y), nats", calibration.negative_log_likelihood),
            ("brier", "mean of sum_c (p_c - [y = c])^2", calibration.brier_score),
            ("ece", "|accuracy - confidence| in 15 bins of equal width",
             calibration.calibration_error),
            ("adaptive_ece", "|accuracy - confidence| in 15 bins of as many items each",
             calibration.adaptive_calibration_error),
            ("classwise_ece", "calibration error of each class's probability, mean over classes",
             calibration.classwise_calibration_error),
            ("mce", "the largest |accuracy - confidence| of the 15 bins",
             calibration.maximum_calibration_error),
            ("smooth_ece", "|accuracy - confidence|, smoothed instead of put into bins",
             calibration.smooth_calibration_error),
        )
    },
    **{
        f"cal/{name}_{scaling}_scaled": Metric(
            "cal", f"{name} after {scaling} scaling, learned on held-out training items",
            partial(_scaled, fit, measure), needs=_LABELS,
        )
        for scaling, fit in (("temperature", calibration.fit_temperature),
                             ("vector", calibration.fit_vector))
        for name, measure in (("nll", calibration.negative_log_likelihood),
                              ("ece", calibration.calibration_error))
    },
    **{
        f"conformal/{name}_{method}": Metric(
            "conformal", f"{meaning}, {method} sets", partial(_conformal, method, name == "size"),
            needs=_LABELS,
        )
        for method in ("threshold", "adaptive")
        for name, meaning in (("coverage", "share of the sets that hold the true class"),
                              ("size", "mean number of classes in a set"))
    },
    **{
        f"shift/{measure}": Metric(
            "shift", f"{meaning} of the probe on corrupted items", partial(_shift, measure),
            measure == "top1", ("test labels", "corrupted"),
        )
        for measure, meaning in {
            "top1": "accuracy", "nll": "negative log likelihood", "ece": "calibration error"
        }.items()
    },
    "collapse/effective_rank": Metric(
        "collapse", "exponential of the entropy of the normalised singular values",
        partial(_of_spectrum, geometry.effective_rank), True,
    ),
    "collapse/participation_ratio": Metric(
        "collapse", "number of dimensions that share the variance",
        partial(_of_spectrum, geometry.participation_ratio),
    ),
    "geometry/uniformity": Metric(
        "geometry", "log mean exp(-2 |a - b|^2) over pairs",
        lambda items: geometry.uniformity(items.direction) if len(items) > 1 else None,
    ),
    "geometry/alignment": Metric(
        "geometry", "mean squared distance of two embeddings of one class",
        partial(_of_pairs, geometry.alignment), needs=_LABELS,
    ),
    "geometry/class_concentration": Metric(
        "geometry", "mean resultant length of a class, mean over classes", _mean_concentration,
        needs=_LABELS,
    ),
    "geometry/smallest_class_angle": Metric(
        "geometry", "smallest angle between two class means",
        lambda items: _class_angles(items).min().item(), needs=_LABELS,
    ),
    "geometry/mean_class_angle": Metric(
        "geometry", "mean angle between two class means",
        lambda items: _class_angles(items).mean().item(), needs=_LABELS,
    ),
    "information/probe_bound": Metric(
        "information", "the probe's lower bound",
        partial(_calibration, information.probe_information), needs=_LABELS,
    ),
    "information/info_nce_bound": Metric(
        "information", "InfoNCE's lower bound between two items of a class", _info_nce_bound,
        needs=_LABELS,
    ),
    "information/ksg": Metric(
        "information", "KSG's estimate by the distances of neighbours",
        partial(_of_pairs, information.ksg_information), needs=_LABELS,
    ),
}  # fmt: skip
