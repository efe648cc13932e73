"""The uncertainty scores by name, and the questions that they are asked. Larger: less certain."""

from typing import NamedTuple

__all__ = ["LIBRARY_SCORE", "QUESTIONS", "SCORES", "Score"]

#: The posterior's own score: its exact entropy, free of the joint scale of its parameters.
LIBRARY_SCORE = "entropy"

#: What a score may be asked, and what would be a good answer.
QUESTIONS = {
    "retrieval_error": "is the nearest other test image of another class? AUROC (R-AUROC)",
    "ambiguity": "is the linear probe wrong? AUROC",
    "out_of_distribution": "is the input unlike those of the training set? AUROC, mean over sets",
    "corruption": "how severe is the corruption? Spearman's correlation, mean over corruptions",
    "truth": "how wide is the true posterior, where it is known? Spearman's correlation",
}


class Score(NamedTuple):
    """An uncertainty score.

    Attributes:
        meaning: What it is.
        question: The question, of ``QUESTIONS``, that it answers best by its construction.
        needs: ``"posterior"``, ``"labels"`` (of the training images), ``"both"`` or ``"nothing"``.
    """

    meaning: str
    question: str
    needs: str


SCORES = {
    "entropy": Score(
        "entropy of the posterior over the sphere (nats): log area less the KL to the uniform",
        "ambiguity", "posterior",
    ),
    "mean_resultant_length": Score(
        "1 - length of E[z]: how far the posterior is from a point", "ambiguity", "posterior",
    ),
    "cap_radius": Score(
        "angle about the mean direction within which 95 % of the posterior lie (radians)",
        "ambiguity", "posterior",
    ),
    "concentration": Score(
        "-concentration of a von Mises-Fisher or Power Spherical posterior",
        "ambiguity", "posterior",
    ),
    "log_det_k": Score(
        "log det K, the score of the VCL paper: it changes with the joint scale of (mu, K), which "
        "the posterior does not, and has the wrong sign on many questions",
        "ambiguity", "posterior",
    ),
    "aggregate_surprise": Score(
        "-E log p(z) over the posterior, p the mean of the training images' posteriors",
        "out_of_distribution", "posterior",
    ),
    "expected_cosine": Score(
        "1 - mean of the 5 largest E[z].E[z'] among the nearest training images",
        "retrieval_error", "posterior",
    ),
    "predictive_entropy": Score(
        "entropy of a probe's prediction, averaged over posterior samples", "ambiguity", "both",
    ),
    "mutual_information": Score(
        "disagreement of a probe's predictions on posterior samples", "ambiguity", "both",
    ),
    "max_probability": Score(
        "1 - largest probability of the linear probe", "ambiguity", "labels",
    ),
    "energy": Score(
        "-log sum exp of the linear probe's logits", "out_of_distribution", "labels",
    ),
    "vote_entropy": Score(
        "entropy of the vote of the 20 nearest training embeddings", "ambiguity", "labels",
    ),
    "nearest_cosine": Score(
        "1 - cosine to the 5th nearest training embedding", "retrieval_error", "nothing",
    ),
    "mahalanobis": Score(
        "distance of the features to the training images' Gaussian",
        "out_of_distribution", "nothing",
    ),
    "class_mahalanobis": Score(
        "distance of the features to the nearest class, Gaussians of one covariance",
        "out_of_distribution", "labels",
    ),
    "embedding_norm": Score(
        "-length of the embedding before it is normalised", "out_of_distribution", "nothing",
    ),
    "atypicality": Score(
        "1 - w, the gate: the Mahalanobis distance against that of clean images that were held "
        "out, 0.01 at their 90 % quantile and 0.5 at their 99 % quantile",
        "out_of_distribution", "nothing",
    ),
    "trust": Score(
        "1 - (1 - s) w: s is 1 - the probe's largest probability, w the gate; its parts are "
        "max_probability and atypicality",
        "ambiguity", "labels",
    ),
    "trust_without_labels": Score(
        "the same, with the rank of the entropy (of nearest_cosine, for a point) among clean "
        "images that were held out for s",
        "retrieval_error", "nothing",
    ),
}  # fmt: skip
