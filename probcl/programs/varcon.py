"""VarCon, and both papers in one: VarCon on samples of a posterior."""

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from probcl.checks import check_temperature
from probcl.nn import PointHead
from probcl.objectives.varcon import (
    ClassCentroids,
    adaptive_target,
    check_epsilon,
    class_centroids,
    class_log_probabilities,
)
from probcl.programs.program import (
    Anchors,
    FromGuide,
    Temperature,
    VariationalProgram,
    Views,
    require_labels,
)  # fmt: skip
from probcl.programs.shrinkage import corrected, expected_shrinkage

__all__ = ["ProbabilisticVarCon", "VarCon"]


class _Found(NamedTuple):
    """What the guide found out of a sample."""

    shrinkage: Tensor | None
    labels: Tensor | None
    centroids: ClassCentroids

    def is_of(self, labels: Tensor | None) -> bool:
        """Return whether these are the labels that centroids were made with."""
        if self.labels is labels or self.labels is None or labels is None:
            return self.labels is labels
        return torch.equal(self.labels, labels)


class ProbabilisticVarCon(VariationalProgram):
    r"""VarCon on samples of a posterior: variational over the direction and over the class.

    With ``p(r|z) = softmax_r(z . w_r / temperature)`` over the centroids ``w`` of the batch and the
    target ``q(r|z)`` of ``probcl.objectives.varcon``,

        loss = mean E_q(z) [KL(q(r|z) || p(r|z)) - log p(y|z)] + beta mean KL(q(z) || p(z)) / d

    The sites are the direction ``z``, the class ``r`` and the label ``y``, observed under the same
    ``p(r|z)``. Without posterior spread and KL it is ``VarCon``. ``monitored`` has the target's
    mean temperature, ``tau2``. Not published; the defaults are VarCon's and VSimCLR's. As there,
    the temperature of ``p(r|z)`` is corrected, here by the root of ``mean(rho^2)``, for a centroid
    averages the samples' noise; the target's is not.

    Args:
        encoder: Images to features.
        posterior: Features to a distribution over the sphere; by default ``ProjectedNormalHead()``.
        prior: Module whose ``forward()`` returns the distribution of one direction; by default
            uniform.
        temperature: Positive number that divides the cosines.
        epsilon: Strength of the adaptation of the target, in ``[0, temperature]``.
        learn_epsilon: Whether ``epsilon`` is learned; the guide first clamps it to that interval.
        beta: Weight of the normalised KL, at least 0.
        num_samples: Posterior samples of each view, over which the loss is averaged.
        learn_temperature: Whether the temperature is learned, from there, and kept at 0.01 and at a
            fixed ``epsilon`` or more.
        temperature_correction: Whether it is corrected for the samples' shrinkage of cosines.

    References:
        Wang et al. (2025), https://arxiv.org/abs/2506.07413, and Jeong, Kim, Hero (2025),
        https://arxiv.org/abs/2506.10159, as for ``VarCon`` and ``VSimCLR``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module | None = None,
        prior: nn.Module | None = None,
        temperature: float = 0.1,
        epsilon: float = 0.02,
        learn_epsilon: bool = False,
        beta: float = 0.1,
        num_samples: int = 1,
        learn_temperature: bool = False,
        temperature_correction: bool = True,
    ) -> None:
        super().__init__(encoder, posterior, prior, beta, num_samples)
        check_epsilon(epsilon, temperature)
        least = 0.01 if learn_epsilon else max(0.01, epsilon)
        self.temperature = Temperature(temperature, learn_temperature, least)
        self.epsilon = nn.Parameter(torch.tensor(epsilon)) if learn_epsilon else epsilon
        self.temperature_correction = temperature_correction
        self._found: FromGuide[_Found] = FromGuide()

    def guide(self, views: Views, labels: Tensor | None = None) -> None:
        """Draw each view's direction, and its class from the target."""
        temperature = self.temperature()
        if isinstance(self.epsilon, nn.Parameter):
            # What an optimizer's step has moved out of the interval comes back to its end.
            self.epsilon.data.clamp_(0.0, check_temperature(temperature))
        z, anchors, q = self._posterior_directions(views)
        shrinkage = expected_shrinkage(q, 1) if self.temperature_correction else None
        centroids = self._centroids(z, labels)
        self._found.put(z, _Found(shrinkage, labels, centroids))
        log_p, classes = self._class_distribution(z, labels)
        log_q, tau2 = adaptive_target(log_p, classes, temperature, self.epsilon)
        self.monitored["tau2"] = tau2.detach().mean()
        with anchors.sampled():
            pyro.sample("r", dist.Categorical(logits=log_q), infer={"enumerate": "parallel"})

    def likelihood(self, z: Tensor, labels: Tensor | None, anchors: Anchors) -> None:
        """Draw the class of each direction, and observe the label."""
        log_p, classes = self._class_distribution(z, labels)
        with anchors.sampled():
            pyro.sample("r", dist.Categorical(logits=log_p))
            pyro.sample("y", dist.Categorical(logits=log_p), obs=classes)

    def _centroids(self, z: Tensor, labels: Tensor | None) -> ClassCentroids:
        """Return the mean directions of the classes of all ranks."""
        views, batch = z.shape[-3:-1]
        labels = require_labels(self, labels, batch)
        return class_centroids(z.flatten(-3, -2), labels.repeat(views))

    def _class_distribution(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ``log p(r|z)``, ``(*, V, B, C)``, and the row of each label, ``(V, B)``."""
        temperature, found = self.temperature(), self._found.get(z)
        if found is not None and found.shrinkage is not None:
            temperature = corrected(temperature, found.shrinkage)
        centroids = found.centroids if found and found.is_of(labels) else self._centroids(z, labels)
        log_p = class_log_probabilities(z.flatten(-3, -2), centroids, temperature)
        place = z.shape[-3:-1]
        return log_p.unflatten(-2, place), centroids.classes.unflatten(0, place)


class VarCon(ProbabilisticVarCon):
    r"""VarCon: supervised contrastive learning as variational inference over the class.

        loss = mean [KL(q(r|z) || p(r|z)) - log p(y|z)]

    with ``z`` the normalised projection, a point, and ``p`` and ``q`` those of
    ``ProbabilisticVarCon``. Its negative ELBO is ``probcl.objectives.varcon``, equation 7 of the
    paper. Temperature and ``epsilon`` are the paper's.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default ``MLP()``.
        temperature: Positive number that divides the cosines.
        epsilon: Strength of the adaptation, in ``[0, temperature]``.
        learn_epsilon: As for ``ProbabilisticVarCon``.
        learn_temperature: As for ``ProbabilisticVarCon``.

    References:
        Wang et al. (2025), Variational Supervised Contrastive Learning.
        https://arxiv.org/abs/2506.07413
    """

    def __init__(
        self,
        encoder: nn.Module,
        projection: nn.Module | None = None,
        temperature: float = 0.1,
        epsilon: float = 0.02,
        learn_epsilon: bool = False,
        learn_temperature: bool = False,
    ) -> None:
        head = PointHead(projection)
        super().__init__(
            encoder, head, None, temperature, epsilon, learn_epsilon, 0.0, 1, learn_temperature,
            temperature_correction=False,
        )  # fmt: skip
