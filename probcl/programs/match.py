"""SupCon with a posterior: the embedding learns by contrast, its concentration by matches."""

import math
from typing import Any, ClassVar

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from probcl.checks import check_choice, check_count
from probcl.distributions import VonMisesFisher
from probcl.nn import MLP, PointHead
from probcl.objectives import sup_con
from probcl.objectives.sup_con import Average
from probcl.precision import full_precision
from probcl.programs.matches import (
    LARGEST,
    Link,
    concentration_of,
    match_probability,
    observe_matches,
)  # fmt: skip
from probcl.programs.program import Anchors, Program, Temperature, Views, dim_of, require_labels
from probcl.programs.ring import Ring
from probcl.randomness import seeded
from probcl.sphere import normalize

__all__ = ["Match"]

_START = 2.0  # logit of the mean resultant length


class Match(Program):
    r"""SupCon whose posterior learns, in the same run, how sure the embedding is of a match.

        loss = SupCon({mu, mu'}, labels; temperature)
             - mean_ij log Bernoulli(y_i = y_j; rho_i rho_j g(mu_i . mu_j)),  j near i
        q(z | x) = vMF(mu(x), A_d^-1(rho(x)))

    ``mu`` is the embedding and ``rho`` the mean resultant length, by a perceptron that sees
    features and embedding, each standardised, without a gradient: encoder and projection learn what
    ``SupCon`` teaches them, bit for bit. ``g`` is a learned monotone link. The items ``j`` are the
    nearest to each view among the first views of earlier images; never an earlier view of its own
    image, where the rows of the images in their data set are known, as with ``ContrastiveModule``
    and its data. Their embeddings, lengths and labels are saved with the weights; the memory starts
    empty, and only what is there counts. Only a run of the model in training mode with gradients
    switched on adds to it. In a process group every rank's memory takes the images of all ranks.

    Temperature and average are those of ``SupCon``. Gradients that are clipped by their norm are
    clipped by the norm of both terms together. ``fit_posterior``, after the training, sees more and
    is better where it can be had.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default ``MLP()``.
        temperature: Positive number that divides the cosines.
        average: As for ``SupCon``.
        learn_temperature: As for ``SupCon``.
        memory: Number of earlier images among which neighbours are looked for.
        neighbours: Number of neighbours that are observed of each view.
        hidden: Hidden units of the perceptron.

    Raises:
        ValueError: If a number is out of its range, or ``memory`` is less than ``neighbours``.

    References:
        Khosla et al. (2020), Supervised Contrastive Learning. https://arxiv.org/abs/2004.11362
        The match likelihood is not published.

    Example:
        >>> from probcl.infer import ContrastiveELBO
        >>> from probcl.nn import ConvNet
        >>> program = Match(ConvNet())
        >>> loss = ContrastiveELBO()(program.model, program.guide)
        >>> images, labels = torch.rand(2, 16, 1, 8, 8), torch.arange(16) % 4
        >>> sorted(loss.terms(images, labels))
        ['contrastive', 'match']
        >>> program(images[0]).entropy().shape
        torch.Size([16])
    """

    takes_rows: ClassVar[bool] = True

    def __init__(
        self,
        encoder: nn.Module,
        projection: nn.Module | None = None,
        temperature: float = 0.1,
        average: Average = "outside",
        learn_temperature: bool = False,
        memory: int = 4096,
        neighbours: int = 5,
        hidden: int = 128,
    ) -> None:
        check_choice("average", average, Average)
        for name, value in (("neighbours", neighbours), ("hidden", hidden)):
            check_count(name, value)
        check_count("memory", memory, least=neighbours)
        head = _MatchHead(projection, hidden)
        super().__init__(encoder, head)
        self.temperature = Temperature(temperature, learn_temperature)
        self.average: Average = average
        self.neighbours = neighbours
        self.link = Link()
        self.memory = _Memory(memory, dim_of(head))

    def model(self, views: Views, labels: Tensor | None = None, rows: Tensor | None = None) -> None:
        """Weigh the embeddings by contrast, and observe whether neighbours match.

        Args:
            views: Augmented images, ``(V, B, channels, height, width)``, or ``V`` tensors.
            labels: Classes, integers, shape ``(B,)``.
            rows: Rows of the images in their data set, ``(B,)``; None where they are not known.
        """
        views = self._start(views)
        labels = require_labels(self, labels, views.shape[1])
        features = self._view_features(views)
        z = normalize(self.project(features))
        losses = sup_con(z, labels, self.temperature(), average=self.average, reduction="none")
        Anchors(*views.shape[:2]).observe(losses)
        self._observe_matches(features.detach(), z.detach(), labels, rows)

    def guide(self, views: Views, labels: Tensor | None = None, rows: Tensor | None = None) -> None:
        """Do nothing: nothing is latent."""

    def match_probability(self, query: Any, gallery: Any) -> Tensor:
        """Return the probability that each query is of the class of each item, ``(N, M)``.

            P = rho_i rho_j g(mu_i . mu_j)

        Args:
            query: Images, or posteriors that the program returned.
            gallery: The same.
        """
        own, other = (x if isinstance(x, VonMisesFisher) else self(x) for x in (query, gallery))
        return match_probability(own, other, self.link)

    def _observe_matches(
        self, features: Tensor, z: Tensor, labels: Tensor, rows: Tensor | None
    ) -> None:
        """Observe matches of ``(V, B)`` views with the memory, which then takes the first views."""
        head: Any = self.posterior_head
        length = head.resultant_length(features, z)
        views = len(z)
        known = None if rows is None else rows.to(z.device).repeat(views)
        cosine, near, counts = self.memory.nearest(z.flatten(0, 1), known, self.neighbours)
        certain = length.flatten()[:, None] * self.memory.length[near]
        matched = self.memory.label[near] == labels.repeat(views)[:, None]
        with poutine.scale(scale=1 / near.numel()), poutine.mask(mask=counts):
            observe_matches(certain * self.link(cosine), matched)
        if self._learns():
            rows = torch.full_like(labels, -1) if rows is None else rows.to(labels)
            self.memory.push(embedding=z[0], length=length[0], label=labels, row=rows)


class _MatchHead(PointHead):
    """The direction of a projection, and a concentration about it that teaches neither."""

    def __init__(self, projection: nn.Module | None, hidden: int) -> None:
        super().__init__(projection)
        with seeded(torch.initial_seed()):  # what is drawn later is what SupCon draws
            self.perceptron = MLP(1, hidden)
        last: Any = self.perceptron[-1]
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()

    def forward(self, features: Tensor) -> Any:
        """Map features ``(*, F)`` to posteriors of batch shape ``(*,)``."""
        z = normalize(self.project(features))
        length = self.resultant_length(features.detach(), z.detach())
        return VonMisesFisher(z, concentration_of(length, z.shape[-1]))

    def resultant_length(self, features: Tensor, z: Tensor) -> Tensor:
        """Return the mean resultant length, ``(*,)``, of features ``(*, F)`` and embeddings."""
        return _resultant_length(features.to(z), z, self.perceptron)


@full_precision
def _resultant_length(features: Tensor, z: Tensor, perceptron: Any) -> Tensor:
    # The scale of features is the encoder's, and moves as it learns; both come on the same one.
    seen = torch.cat([layer_norm(x, x.shape[-1:]) for x in (features, z)], -1)
    logit = perceptron(seen.to(perceptron[-1].weight)).squeeze(-1).to(z)
    return torch.sigmoid(_START + logit).clamp_max(LARGEST)


class _Memory(Ring):
    """The latest items of the training; a place without one has the length 0."""

    embedding: Tensor
    length: Tensor
    label: Tensor
    row: Tensor

    def __init__(self, size: int, dim: int) -> None:
        unknown = torch.full((size,), -1)
        super().__init__(
            embedding=torch.zeros(size, dim), length=torch.zeros(size),
            label=torch.zeros_like(unknown), row=unknown,
        )  # fmt: skip

    @torch.no_grad()
    def nearest(self, z: Tensor, rows: Tensor | None, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return cosines and places of the items next to ``(N, d)``, and which count: ``(N, K)``.

        Those of the same row do not, nor places without an item.
        """
        hidden = self.length == 0
        if rows is not None:
            hidden = hidden | (rows[:, None] == self.row)
        cosine, places = _cosines(z, self.embedding).masked_fill(hidden, -math.inf).topk(count)
        counts = cosine.isfinite()
        return cosine.where(counts, 0.0), places, counts


@full_precision
def _cosines(z: Tensor, others: Tensor) -> Tensor:
    return z @ others.to(z).T
