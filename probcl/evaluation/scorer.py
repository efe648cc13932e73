"""Every uncertainty score of an encoder's output, measured against its training images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probcl.checks import require_two
from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.nearest import Neighbours, nearest
from probcl.evaluation.neighbour_vote import neighbour_vote, vote_entropy
from probcl.evaluation.probe import LinearProbe, fit_linear_probe
from probcl.evaluation.sampled import mutual_information, predictive_entropy
from probcl.evaluation.typicality import Gate, Gaussians
from probcl.special import inverse_bessel_ratio, log_bessel

__all__ = ["Scorer", "held_out_rows"]

_NEIGHBOURS, _NEAR, _TEMPERATURE = 20, 5, 0.1
_HELD_OUT = 10  # every tenth training image
_MIXTURE, _MIXTURE_SAMPLES = 2048, 8


@dataclass(frozen=True)
class Aggregate:
    """The mean of training posteriors, each as the von Mises-Fisher of its mean E[z].

    At most 2,048 of them, evenly spaced, stand for all.

    Args:
        pull: Concentration times direction of each, shape ``(M, d)``.
        log_weight: Log of each one's normaliser and share, shape ``(M,)``.
    """

    pull: Tensor
    log_weight: Tensor

    @classmethod
    def fit(cls, embedding: Tensor, length: Tensor) -> "Aggregate":
        """Fit to mean directions ``(N, d)`` and mean resultant lengths ``(N,)``."""
        rows = torch.linspace(0, len(length) - 1, min(_MIXTURE, len(length))).round().long()
        dim = embedding.shape[1]
        kappa = inverse_bessel_ratio(length[rows].double(), dim)
        # The density with respect to the uniform: 1 / (its mean of exp(kappa t)).
        log_weight = -log_bessel(kappa, dim) - torch.log(torch.tensor(float(len(rows))))
        return cls((kappa[:, None] * embedding[rows]).float(), log_weight.float())

    def surprise(self, samples: Tensor) -> Tensor:
        """Return -log density, mean over samples ``(S, N, d)``; shape ``(N,)``."""
        parts = [
            -(z @ self.pull.T + self.log_weight).logsumexp(-1).mean(0)
            for z in samples.split(max(1, 2**24 // (len(samples) * len(self.pull))), dim=1)
        ]
        return torch.cat(parts)


@dataclass(frozen=True)
class Scorer:
    """What the scores compare an image with: the training images' embeddings and features.

    Args:
        train: Embeddings of the training images.
        aggregate: The mean of their posteriors; None for points.
        gaussian: Of their features.
        classes: One Gaussian for each class; None without labels.
        gate: Typicality, calibrated on every tenth training image, which the Gaussians have not
            seen.
        held_out: What ``trust_without_labels`` ranks, on those images; sorted, shape ``(H,)``.
        feature_probe: Linear probe of the features; None without labels.
        embedding_probe: Linear probe of the embeddings; None without labels, and for points.
    """

    train: Embeddings
    aggregate: Aggregate | None
    gaussian: Gaussians
    classes: Gaussians | None
    gate: Gate
    held_out: Tensor
    feature_probe: LinearProbe | None
    embedding_probe: LinearProbe | None

    @classmethod
    def fit(cls, train: Embeddings) -> "Scorer":
        """Fit probes, Gaussians and gate to the training images.

        Args:
            train: Two images at least, without augmentation; with labels of at least two classes,
                or of one, which then tell nothing. Of fewer than 20 images none is held out.

        Raises:
            ValueError: If there are fewer than two images.
        """
        require_two("train", train.embedding)
        labelled = len(train.labels.unique()) > 1
        held_out, rest = held_out_rows(len(train))
        features, labels = train.features[rest], train.labels[rest]
        gaussian = Gaussians.fit(features)
        if "entropy" in train.scores:
            ranked = train.scores["entropy"][held_out]
        else:
            ranked = _distance_to_near(train.embedding[held_out], train.embedding[rest])
        length = train.length
        return cls(
            train=train,
            aggregate=None if length is None else Aggregate.fit(train.embedding, length),
            gaussian=gaussian,
            classes=Gaussians.fit(features, labels) if labelled else None,
            gate=Gate.fit(gaussian.distance(train.features[held_out])),
            held_out=ranked.double().sort().values,
            feature_probe=fit_linear_probe(train.features, train.labels) if labelled else None,
            embedding_probe=(
                fit_linear_probe(train.embedding, train.labels)
                if labelled and length is not None
                else None
            ),
        )

    def neighbours(self, part: Embeddings) -> Neighbours:
        """Return the 20 training images with the nearest embeddings, or all if there are fewer."""
        return nearest(part.embedding, self.train.embedding, min(_NEIGHBOURS, len(self.train)))

    def __call__(
        self, part: Embeddings, samples: Tensor, neighbours: Neighbours | None = None
    ) -> dict[str, Tensor]:
        """Score images: every score of ``SCORES`` that there is for them.

        Args:
            part: Their embeddings.
            samples: Of their posteriors, shape ``(S, N, d)``, 8 at least.
            neighbours: What ``neighbours`` returns, if it is at hand.

        Returns:
            Scores by name, each of shape ``(N,)`` and float64.
        """
        scores = dict(part.scores)
        found = self.neighbours(part) if neighbours is None else neighbours
        scores |= self._of_neighbours(part, found)
        scores |= self._of_features(part.features)
        if self.aggregate is not None:
            scores |= self._of_samples(samples.cpu().float())
        if part.norm is not None:
            scores["embedding_norm"] = -part.norm
        ranked = scores["entropy" if "entropy" in scores else "nearest_cosine"].double()
        below = torch.searchsorted(self.held_out, ranked.contiguous(), right=True)
        rank = below / len(self.held_out)
        typicality = self.gate(scores["mahalanobis"])
        scores["atypicality"] = 1 - typicality
        scores["trust_without_labels"] = 1 - (1 - rank) * typicality
        if "max_probability" in scores:
            scores["trust"] = 1 - (1 - scores["max_probability"].double()) * typicality
        return {name: value.double() for name, value in scores.items()}

    def _of_neighbours(self, part: Embeddings, found: Neighbours) -> dict[str, Tensor]:
        train = self.train
        scores = {"nearest_cosine": 1 - found.cosine[:, min(_NEAR, len(train)) - 1]}
        if self.classes is not None:
            shares = neighbour_vote(found, train.labels, temperature=_TEMPERATURE)
            scores["vote_entropy"] = vote_entropy(shares)
        if train.length is not None and part.length is not None:
            product = found.cosine * train.length[found.row] * part.length[:, None]
            scores["expected_cosine"] = 1 - product.topk(min(_NEAR, len(train))).values.mean(-1)
        return scores

    def _of_features(self, features: Tensor) -> dict[str, Tensor]:
        scores = {"mahalanobis": self.gaussian.distance(features)}
        if self.classes is not None and self.feature_probe is not None:
            scores["class_mahalanobis"] = self.classes.distance(features)
            logits = self.feature_probe.logits(features)
            scores["max_probability"] = 1 - logits.double().softmax(-1).amax(-1)
            scores["energy"] = -logits.logsumexp(-1)
        return scores

    def _of_samples(self, samples: Tensor) -> dict[str, Tensor]:
        assert self.aggregate is not None
        scores = {"aggregate_surprise": self.aggregate.surprise(samples[:_MIXTURE_SAMPLES])}
        if self.embedding_probe is not None:
            probabilities = self.embedding_probe.probabilities(samples)
            scores["predictive_entropy"] = predictive_entropy(probabilities)
            scores["mutual_information"] = mutual_information(probabilities)
        return scores


def held_out_rows(count: int) -> tuple[Tensor, Tensor]:
    """Return the rows of training images that are held out, every tenth, and of the rest.

    Of fewer than 20 images, all are both.
    """
    rows = torch.arange(count)
    if count < 2 * _HELD_OUT:
        return rows, rows
    held_out = rows % _HELD_OUT == _HELD_OUT - 1
    return rows[held_out], rows[~held_out]


def _distance_to_near(query: Tensor, reference: Tensor) -> Tensor:
    k = min(_NEAR, len(reference))
    return 1 - nearest(query, reference, k).cosine[:, k - 1]
