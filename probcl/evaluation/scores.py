"""The uncertainty scores, a row each, and the questions that they are asked.

A score of your own is one more row, and ``evaluate`` takes it up:

    SCORES["first_feature"] = Score(
        "the first feature", "ambiguity", (), lambda query: query.features[:, 0]
    )
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from probcl.checks import as_values
from probcl.evaluation.detectors import neighbour_distance
from probcl.evaluation.knn import vote_entropy
from probcl.evaluation.progress import step
from probcl.evaluation.query import Query

__all__ = ["QUESTIONS", "SCORES", "Score"]

#: What a score may be asked, and what would be a good answer.
QUESTIONS = {
    "retrieval_error": "is the nearest other test item of another class? AUROC (R-AUROC)",
    "ambiguity": "is the linear probe wrong? AUROC",
    "out_of_distribution": "is the input unlike those of the training set? AUROC, mean over sets",
    "corruption": "how severe is the corruption? Spearman's correlation, mean over corruptions",
    "truth": "how wide is the true posterior, where it is known? Spearman's correlation",
}


class Score(NamedTuple):
    """An uncertainty score. Larger: less certain.

    Attributes:
        meaning: What it is.
        question: The question, of ``QUESTIONS``, that it answers best by its construction.
        needs: What must be given: ``"labels"`` of the training items, of two classes at least;
            ``"posterior"`` of all items, and its ``"gate"``.
        compute: Items (``probcl.evaluation.query.Query``) to their scores, shape ``(N,)``; None,
            or ``NotImplementedError``, where it cannot be had.
    """

    meaning: str
    question: str
    needs: tuple[str, ...]
    compute: Callable[[Query], Tensor | None]


def compute_score(name: str, query: Query) -> Tensor | None:
    """Return a score of ``SCORES`` in float64, shape ``(N,)``; None where it cannot be had."""
    try:
        with step(f"{query.name}: {name}", 1), torch.no_grad():
            values = SCORES[name].compute(query)
    except NotImplementedError:
        return None
    return None if values is None else as_values(f"{name} of {query.name}", values, len(query))


def _log_det_covariance(query: Query) -> Tensor | None:
    if not all(hasattr(block, "log_det_covariance") for block in query.posterior):
        return None
    return query.each(lambda q: q.log_det_covariance)


def _embedding_norm(query: Query) -> Tensor | None:
    lengths = query.reference.length
    if lengths.max() - lengths.min() <= 1e-3 * lengths.max():  # normalised already
        return None
    return -query.length


def _gated(ambiguity: Tensor, query: Query) -> Tensor:
    return 1 - (1 - ambiguity) * query.typicality


def _rank_of_nearest(query: Query) -> Tensor:
    """Return the share of the reference items held out whose ``1 - cos`` is no larger."""
    held_out = query.reference.held_out_nearest
    own = (1 - query.nearest_cosine).double()
    return torch.searchsorted(held_out, own, right=True) / len(held_out)


SCORES = {
    "entropy": Score(
        "entropy of the posterior over the sphere (nats): log area less the KL to the uniform",
        "ambiguity", ("posterior",), lambda q: q.each(lambda posterior: posterior.entropy())),
    "mean_resultant_length": Score("1 - length of E[z]: how far the posterior is from a point",
        "ambiguity", ("posterior",), lambda q: 1 - q.mean_resultant_length),
    "gate": Score("1 - w, w the posterior's own gate",
        "out_of_distribution", ("posterior", "gate"), lambda q: 1 - q.gate),
    "gated_resultant_length": Score(
        "1 - w times the length of E[z], exactly that of the mixture w q + (1 - w) Uniform",
        "ambiguity", ("posterior", "gate"), lambda q: 1 - q.gate * q.mean_resultant_length),
    "log_det_k": Score(
        "log det K, the score of the VCL paper: it changes with the joint scale of (mu, K), which "
        "the posterior does not, and has the wrong sign on some questions",
        "ambiguity", ("posterior",), _log_det_covariance),
    "aggregate_surprise": Score(
        "-E log p(z) over the posterior, p the mean of the training items' posteriors",
        "out_of_distribution", ("posterior",), lambda q: q.sampled["aggregate_surprise"]),
    "expected_cosine": Score(
        "1 - mean of the 5 largest E[z].E[z'] among the nearest training items",
        "retrieval_error", ("posterior",), lambda q: 1 - q.expected_cosine),
    "predictive_entropy": Score("entropy of a probe's prediction, averaged over posterior samples",
        "ambiguity", ("posterior", "labels"), lambda q: q.sampled["predictive_entropy"]),
    "mutual_information": Score("disagreement of a probe's predictions on posterior samples",
        "ambiguity", ("posterior", "labels"), lambda q: q.sampled["mutual_information"]),
    "max_probability": Score("1 - largest probability of the linear probe",
        "ambiguity", ("labels",), lambda q: 1 - q.probabilities.amax(-1)),
    "energy": Score("-log sum exp of the linear probe's logits",
        "out_of_distribution", ("labels",), lambda q: -q.logits.logsumexp(-1)),
    "vote_entropy": Score(
        "entropy of the vote of the 20 nearest training embeddings, of weights exp(cos / 0.1)",
        "ambiguity", ("labels",), lambda q: vote_entropy(q.vote)),
    "agreement": Score(
        "chance that a class drawn from the probe and one from the neighbours' vote differ",
        "retrieval_error", ("labels",), lambda q: 1 - q.same_class),
    "nearest_cosine": Score("1 - cosine to the 5th nearest training embedding",
        "retrieval_error", (), lambda q: 1 - q.nearest_cosine),
    "mahalanobis": Score(
        "distance to the Gaussian of the training items' features and embeddings, standardised",
        "out_of_distribution", (), lambda q: q.distance),
    "class_mahalanobis": Score("distance to the nearest class, Gaussians of one covariance",
        "out_of_distribution", ("labels",), lambda q: q.class_distance),
    "relative_mahalanobis": Score(
        "squared distance to the nearest class less that to the Gaussian of all items",
        "out_of_distribution", ("labels",),
        lambda q: q.class_distance.double().square() - q.distance.double().square()),
    "neighbour_distance": Score("distance of the normalised features to their 50th nearest",
        "out_of_distribution", (), lambda q: neighbour_distance(q.features, q.reference.bank)),
    "virtual_logit": Score(
        "residual beside the features' principal space, less log sum exp of the logits",
        "out_of_distribution", ("labels",), lambda q: q.reference.virtual_logit(q.features)),
    "rectified_energy": Score("energy of the features clipped at the .9 quantile of training",
        "out_of_distribution", ("labels",), lambda q: q.reference.rectified(q.features)),
    "embedding_norm": Score("-length of the embedding before it is normalised",
        "out_of_distribution", (), _embedding_norm),
    "trust": Score(
        "1 - (1 - agreement) w, w the gate on the Mahalanobis distance D: 0.99 at the .85 quantile "
        "of D of clean items that were held out, 0.5 at the .985 quantile",
        "ambiguity", ("labels",), lambda q: _gated(1 - q.same_class, q)),
    "trust_without_labels": Score(
        "1 - (1 - r) w, r the rank of nearest_cosine among clean items that were held out, w the "
        "gate on the Mahalanobis distance D: 0.99 at the .85 quantile of D of these, 0.5 at the "
        ".985 quantile",
        "retrieval_error", (), lambda q: _gated(_rank_of_nearest(q), q)),
}  # fmt: skip
