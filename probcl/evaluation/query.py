"""What scores and metrics share: each computed once, when it is asked for."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from probcl.evaluation.calibration import calibration_error, negative_log_likelihood
from probcl.evaluation.clustering import ward_clustering
from probcl.evaluation.conformal import (
    METHODS,
    class_coverage,
    fit_conformal,
    set_coverage,
    set_size,
)
from probcl.evaluation.detectors import (
    BANK,
    Rectified,
    VirtualLogit,
    fit_rectified,
    fit_virtual_logit,
)
from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.geometry import singular_spectrum
from probcl.evaluation.knn import Neighbours, nearest, nearest_is_wrong, neighbour_vote
from probcl.evaluation.ood import Aggregate, Gate, Gaussians, fit_aggregate, fit_gate, fit_gaussians
from probcl.evaluation.probe import LinearProbe, fit_linear_probe
from probcl.evaluation.progress import step
from probcl.evaluation.retrieval import Retrieval, retrieval
from probcl.evaluation.scaling import fit_temperature, fit_vector
from probcl.evaluation.subsets import evenly_spaced, held_out_rows, in_blocks

__all__ = ["Query", "Reference"]

_NEIGHBOURS, _NEAR, _TEMPERATURE = 20, 5, 0.1
_HELD_OUT = 10  # one reference item in ten
_QUERIES = 1000
_DRAWS, _PASSES = 8, 8  # samples that are held at once, and how often


class Reference(Embeddings):
    """The items that others are compared with, sorted, and what is fitted to them."""

    def __init__(self, given: Embeddings) -> None:
        vars(self).update(vars(given.sorted()))  # a copy that shares the arrays

    @cached_property
    def classes(self) -> Tensor:
        """The classes that there are, ascending, shape ``(C,)``."""
        return self.labels.unique()

    @cached_property
    def split(self) -> tuple[Tensor, Tensor]:
        """Rows held out, a tenth at random, and the rest; of fewer than 20 both are all."""
        return held_out_rows(len(self), _HELD_OUT)

    @cached_property
    def probe(self) -> LinearProbe:
        """Linear probe of the features."""
        return fit_linear_probe(self.features, self.labels)

    @cached_property
    def embedding_probe(self) -> LinearProbe:
        """Linear probe of the directions."""
        return fit_linear_probe(self.direction, self.labels) if self.has_features else self.probe

    @cached_property
    def aggregate(self) -> Aggregate:
        """The mean of the posteriors."""
        return fit_aggregate(self.direction, self.mean_resultant_length)

    @cached_property
    def _standard(self) -> tuple[Tensor, Tensor]:
        rest = self.joint[self.split[1]]
        mean, scale = rest.mean(0), rest.std(0, correction=0)
        return mean, torch.where(scale > 1e-6 * mean.abs(), scale, 1.0)  # one may never change

    def standardised(self, joint: Tensor) -> Tensor:
        """Standardise features and direction of items beside each other, ``(N, G)``."""
        mean, scale = self._standard
        return (joint - mean).div_(scale)

    def distance(self, items: Embeddings, gaussians: Gaussians) -> Tensor:
        """Return the Mahalanobis distance of items to the nearest of Gaussians, ``(N,)``."""

        def compute(*parts: Tensor) -> Tensor:
            return gaussians.distance(self.standardised(torch.cat(parts, -1)))

        return in_blocks(compute, *items.apart)

    @cached_property
    def gaussian(self) -> Gaussians:
        """One Gaussian of all items that are not held out."""
        return fit_gaussians(self.standardised(self.joint[self.split[1]]))

    @cached_property
    def class_gaussians(self) -> Gaussians:
        """One Gaussian of each class, of one covariance."""
        rest = self.split[1]
        return fit_gaussians(self.standardised(self.joint[rest]), self.labels[rest])

    @cached_property
    def bank(self) -> Tensor:
        """Features of the items that stand for all as neighbours, ``(B, F)``."""
        return self.features[evenly_spaced(len(self), BANK)]

    @cached_property
    def virtual_logit(self) -> VirtualLogit:
        """The residual of the features beside their principal space, against the probe."""
        return fit_virtual_logit(self.features, self.probe)

    @cached_property
    def rectified(self) -> Rectified:
        """The probe's energy of clipped features."""
        return fit_rectified(self.features, self.probe)

    @cached_property
    def fitted_gate(self) -> Gate:
        """Typicality by the distance to the Gaussian, calibrated on the items held out."""
        return fit_gate(self.distance(self, self.gaussian)[self.split[0]])

    @cached_property
    def held_out_nearest(self) -> Tensor:
        """``1 - cos`` of each item held out to its fifth nearest of the rest; sorted."""
        held_out, rest = self.split
        k = min(_NEAR, len(rest))
        found = nearest(self.direction[held_out], self.direction[rest], k)
        return (1 - found.cosine[:, -1]).double().sort().values


class Query(Embeddings):
    """Items that are compared with a reference, sorted: what scores and metrics are made from."""

    def __init__(self, given: Embeddings, reference: Reference, name: str = "items") -> None:
        self.given, self.reference, self.name = given.sorted(), reference, name
        vars(self).update(vars(self.given))
        #: Accuracy, likelihood and calibration of the probe, by corruption and severity.
        self.shift: dict[str, dict[int, dict[str, float]]] = {}

    @cached_property
    def neighbours(self) -> Neighbours:
        """The 20 nearest reference items, or all if there are fewer."""
        k = min(_NEIGHBOURS, len(self.reference))
        return nearest(self.direction, self.reference.direction, k)

    @property
    def nearest_cosine(self) -> Tensor:
        """Cosine to the fifth nearest reference item, shape ``(N,)``."""
        return self.neighbours.cosine[:, :_NEAR][:, -1]

    @cached_property
    def expected_cosine(self) -> Tensor:
        """Mean of the 5 largest ``E[z].E[z']`` of the neighbours, shape ``(N,)``."""
        own, other = self.mean_resultant_length, self.reference.mean_resultant_length
        product = self.neighbours.cosine * other[self.neighbours.row] * own[:, None]
        return product.topk(min(_NEAR, product.shape[1])).values.mean(-1)

    @cached_property
    def vote(self) -> Tensor:
        """Vote of the neighbours, of weights ``exp(cos / 0.1)``; shape ``(N, C)``."""
        return neighbour_vote(self.neighbours, self.reference.labels, temperature=_TEMPERATURE)

    def predicted_by(self, k: int) -> Tensor:
        """Return the class that most of the ``k`` nearest reference items have, ``(N,)``."""
        k = min(k, len(self.reference))
        return neighbour_vote(self.neighbours, self.reference.labels, k=k).argmax(-1)

    @cached_property
    def logits(self) -> Tensor:
        """Logits of the linear probe, shape ``(N, C)``."""
        return in_blocks(self.reference.probe.logits, self.features)

    @cached_property
    def probabilities(self) -> Tensor:
        """Class probabilities of the linear probe, in float64, shape ``(N, C)``."""
        return _softmax(self.logits)

    @cached_property
    def same_class(self) -> Tensor:
        """How likely a class drawn from the probe is the one drawn from the vote, ``(N,)``."""
        return in_blocks(lambda p, vote: (p * vote).sum(-1), self.probabilities, self.vote)

    @cached_property
    def distance(self) -> Tensor:
        """Mahalanobis distance to the reference items' Gaussian, shape ``(N,)``."""
        return self.reference.distance(self, self.reference.gaussian)

    @cached_property
    def class_distance(self) -> Tensor:
        """Mahalanobis distance to the nearest of the classes' Gaussians, shape ``(N,)``."""
        return self.reference.distance(self, self.reference.class_gaussians)

    @cached_property
    def typicality(self) -> Tensor:
        """The gate ``w`` fitted to the reference, from 1 for a typical item to 0; ``(N,)``."""
        return self.reference.fitted_gate(self.distance)

    @cached_property
    def sampled(self) -> dict[str, Tensor]:
        """What 64 samples of each posterior say, by the name of the score; each ``(N,)``.

        All items share the base samples; without labels there is the surprise alone.
        """
        total = _PASSES * len(self.posterior)
        with step(f"{self.name}: samples of the posteriors", total) as advance, torch.no_grad():
            parts = [self._of_samples(q, advance) for q in self.posterior]
        return {name: torch.cat([part[name] for part in parts])[self._order] for name in parts[0]}

    def _of_samples(self, posterior: Any, advance: Callable[[], None]) -> dict[str, Tensor]:
        reference = self.reference
        dtype = reference.direction.dtype
        # A few at a time, each time by the next seed: memory does not grow with their number.
        first = posterior.draw(_DRAWS, 0).cpu().to(dtype)
        said = {"aggregate_surprise": reference.aggregate.surprise(first)}
        if not reference.labelled:
            return said
        mean, entropy = torch.zeros(()), torch.zeros(())
        for seed in range(_PASSES):
            z = first if seed == 0 else posterior.draw(_DRAWS, seed).cpu().to(dtype)
            # Classes come first: a softmax along short rows would be slow.
            p = reference.embedding_probe.logits(z).movedim(-1, 0).contiguous().softmax(0)
            mean = mean + p.mean(1) / _PASSES
            entropy = entropy + torch.special.entr(p).sum(0).mean(0) / _PASSES
            advance()
        total = torch.special.entr(mean).sum(0)
        information = (total - entropy).clamp_min(0)
        return said | {"predictive_entropy": total, "mutual_information": information}

    @cached_property
    def wrong(self) -> dict[str, Tensor]:
        """Whether the probe is wrong, and the nearest other item of another class; ``(N,)``."""
        return {
            "probe": self.logits.argmax(-1) != self.labels,
            "retrieval": nearest_is_wrong(self.direction, self.labels),
        }

    @cached_property
    def held_out(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Logits and labels of reference items held out, and own logits, by a probe of the rest.

        None if the rest lack a class.
        """
        features, labels = self.reference.features, self.reference.labels
        rows, rest = self.reference.split
        if len(labels[rest].unique()) < len(labels.unique()):
            return None
        probe = fit_linear_probe(features[rest], labels[rest])
        own = in_blocks(probe.logits, self.features)
        return probe.logits(features[rows]), labels[rows], own

    @cached_property
    def calibrated(self) -> dict[str, float]:
        """Likelihood and calibration after scaling, coverage and size of conformal sets.

        What they take is learned on the reference items held out; empty if the rest lack a class.
        """
        if self.held_out is None:
            return {}
        logits, labels, own = self.held_out
        said = {}
        for name, fit in (("temperature", fit_temperature), ("vector", fit_vector)):
            p = _softmax(own, fit(logits, labels))
            said[f"nll_{name}"] = negative_log_likelihood(p, self.labels)
            said[f"ece_{name}"] = calibration_error(p, self.labels)
        known, p = _softmax(logits), _softmax(own)
        for method in METHODS:
            sets = fit_conformal(known, labels, 0.9, method)(p)
            said[f"coverage_{method}"] = set_coverage(sets, self.labels)
            said[f"size_{method}"] = set_size(sets)
            if method == "threshold":
                said["worst_class_coverage"] = min(class_coverage(sets, self.labels).values())
        return said

    @cached_property
    def retrieval(self) -> Retrieval:
        """Retrieval among the items themselves, of 1,000 queries at most."""
        return retrieval(self.direction, self.labels, queries=_QUERIES)

    @cached_property
    def clustering(self) -> dict[str, float]:
        """Measures of Ward's clusters against the classes."""
        return ward_clustering(self.direction, self.labels)

    @cached_property
    def spectrum(self) -> Tensor:
        """Singular values of the directions."""
        return singular_spectrum(self.direction)


def _softmax(logits: Tensor, scaling: Callable[[Tensor], Tensor] = Tensor.double) -> Tensor:
    return in_blocks(lambda part: scaling(part).double().softmax(-1), logits)
