"""A program for embeddings that are there already: directions stay, a concentration is new."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from probcl.checks import as_matrix
from probcl.distributions import VonMisesFisher, as_posterior
from probcl.evaluation.embeddings import Embeddings
from probcl.files import digest, read_tensors, write_tensors
from probcl.programs.bank import Bank
from probcl.programs.concentration import ConcentrationHead, LastColumns, perceptron
from probcl.programs.matches import Link, match_probability, observe_matches
from probcl.programs.program import Anchors, Program, Views

__all__ = ["Fit", "Likelihood", "Matches", "PostHoc", "array_features", "check_directions"]

Likelihood = Literal["match", "neighbours", "pairs", "views"]

_FILE = "model.safetensors"
_NEAR = 5  # neighbours that the model observes


@dataclass(frozen=True)
class Fit:
    """What a posterior rests on.

    Args:
        likelihood: ``"match"``, ``"neighbours"``, ``"pairs"`` or ``"views"``.
        items: Number of items in the bank.
        labelled: How many of the items given had a label.
        predicted: How many had none, so that their classes are predictions.
        held_out: Number of items held out, by which inputs and gate were chosen.
        fitted_to: ``"training items"``, or ``"held-out items"`` where the embedding memorises the
            training items.
        own_recall: Share of training items whose nearest other is of their class; None without
            labels.
        held_out_recall: The same of items held out, among the training items.
        inputs: What the head sees.
        held_out_loss: Minus the mean log likelihood of the items held out, in nats.
        calibration_error: Of the match probability, on the items held out; None without matches.
    """

    likelihood: Likelihood
    items: int
    labelled: int
    predicted: int
    held_out: int
    fitted_to: str
    own_recall: float | None
    held_out_recall: float | None
    inputs: tuple[str, ...]
    held_out_loss: float
    calibration_error: float | None

    def __str__(self) -> str:
        lines = [
            f"{self.likelihood} likelihood of {self.items} items, {self.held_out} held out; "
            f"the head sees {', '.join(self.inputs)}."
        ]
        if self.predicted:
            lines.append(f"{self.labelled} of the classes were given, the others are predictions.")
        if self.fitted_to != "training items":
            lines.append(
                f"The embedding memorises its training items (R@1 {self.own_recall:.2f} among "
                f"themselves, {self.held_out_recall:.2f} of items held out):"
                " fitted to those held out."
            )
        return " ".join(lines)


class Matches(NamedTuple):
    """Match probabilities of items with their nearest, and the rows of these, ``(N, k)`` each."""

    probability: Tensor
    row: Tensor


class PostHoc(Program):
    r"""A posterior for embeddings that are there already, frozen, bit for bit.

        q(z | x) = vMF(mu(x), kappa(x)),  P(i matches j) = rho_i rho_j g(mu_i . mu_j)

    ``mu`` is the embedding, ``rho = A_d(kappa)`` the mean resultant length, by a perceptron of what
    a bank of items shows, ``g`` a learned monotone link; with the identity for ``g`` the match
    probability is that of two draws, ``E[z_i . z_j]``. Of an input unlike the training items the
    gate ``w`` says how much the posterior means: the mixture ``w q + (1 - w) Uniform`` has the mean
    resultant length ``w rho``. ``fit_posterior`` makes one, ``save_pretrained`` and
    ``from_pretrained`` keep it.

    Args:
        encoder: Images to features ``(N, F)``, frozen, in eval mode; the identity for arrays.
        head: Features to posteriors.
        fit: What it rests on.
    """

    def __init__(self, encoder: nn.Module, head: ConcentrationHead, fit: Fit) -> None:
        super().__init__(encoder, head)
        self.fit = fit
        self._freeze(encoder, head.projection)

    def forward(self, images: Any) -> VonMisesFisher:
        """Map items to posteriors of batch shape ``(N,)``.

        Args:
            images: Images for the encoder; without one embeddings, ``(N, d)``, NumPy or PyTorch, or
                ``Embeddings`` where features are needed beside them.

        Raises:
            ValueError: If embeddings have another dimension, a row that is not finite or is zero.
        """
        posterior: Any = self.posterior_from_features(self.features(images))
        return posterior

    def features(self, items: Any) -> Tensor:
        """Return what the head takes of images or arrays, ``(N, F)``."""
        head: Any = self.posterior_head
        if head.width is None:
            if not items.is_floating_point():
                from probcl.data import as_float  # loads torchvision, which takes as long as torch

                items = as_float(items)
            return self.encoder(items)
        return array_features(items, head.width, head.dim).to(head.bank.embedding)

    def gate(self, items: Any) -> Tensor:
        """Return the gate ``w`` of items, from 1 for a typical one to 0, ``(N,)``."""
        return self.gate_from_features(self.features(items))

    def gate_from_features(self, features: Tensor) -> Tensor:
        """Return the gate of items by their features ``(N, F)``."""
        head: Any = self.posterior_head
        return head.bank.typicality(*head.parts(features))

    def embed(self, items: Any, labels: Any = None) -> Embeddings:
        """Return embeddings with posteriors, gates and their rows, as ``evaluate`` takes them.

        Args:
            items: As ``forward`` takes them.
            labels: Their classes, ``(N,)``, if they are known.
        """
        head: Any = self.posterior_head
        rows = items._rows if isinstance(items, Embeddings) else None
        with torch.no_grad():
            features = self.features(items)
            others, direction = head.parts(features)
            posterior = self.posterior_from_features(features)
            gate = self.gate_from_features(features)
        if others.shape[1] == len(head.bank.mean):  # the features are the embedding
            return Embeddings(others, labels, posterior=posterior, rows=rows, gate=gate)
        return Embeddings(direction, labels, others, posterior, rows, gate)

    def match_probability(self, query: Any, gallery: Any) -> Tensor:
        """Return the probability that each query matches each item of a gallery, ``(N, M)``.

            P = rho_i rho_j g(mu_i . mu_j)

        Args:
            query: Items as ``forward`` takes them, or posteriors that it returned.
            gallery: The same.

        Raises:
            ValueError: If matches were not the likelihood.
        """
        link = self._link()
        own, other = (x if isinstance(x, VonMisesFisher) else self(x) for x in (query, gallery))
        return match_probability(own, other, link)

    def neighbour_match(self, items: Any, k: int = _NEAR) -> Matches:
        """Return the probability that each item matches its nearest of the bank, by the cosine.

        The formula is that of ``match_probability``, the lengths of the bank's items those by
        probes that did not see them. Of items of the bank that equal one given here, one is taken
        for itself and left out.

        Args:
            items: As ``forward`` takes them.
            k: Number of nearest, 50 at most.

        Raises:
            ValueError: If matches were not the likelihood, or ``k`` is out of range.
        """
        self._link()
        head: Any = self.posterior_head
        most = head.bank.most_neighbours
        if not 1 <= k <= most:
            raise ValueError(f"k must be from 1 to {most}, the neighbours that are seen, got {k}.")
        return self._neighbour_match(self.features(items), k)

    def _neighbour_match(self, features: Tensor, k: int) -> Matches:
        head: Any = self.posterior_head
        seen = head.bank.see(*head.parts(features))
        cosine, row = (part[:, :k] for part in seen.neighbours)
        length = head.resultant_length(seen.inputs)[:, None] * head.bank.length[row]
        return Matches(length * head.link(cosine), row)

    def model(self, views: Views, labels: Tensor | None = None) -> None:
        """Observe whether items match their neighbours; without labels, each view's next one."""
        views = self._start(views)
        head: Any = self.posterior_head
        if labels is None or head.link is None or head.bank.labels is None:
            posterior = self._view_posteriors(views)
            others = as_posterior(posterior).mean_direction.roll(-1, 0)
            with Anchors(*views.shape[:2]).averaged():
                pyro.sample("next", posterior, obs=others)
            return
        probability, row = self._neighbour_match(self.encoder(views.flatten(0, 1)), _NEAR)
        observe_matches(probability, head.bank.labels[row] == labels.repeat(len(views))[:, None])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write all but the encoder and the projection to ``folder/model.safetensors``."""
        head: Any = self.posterior_head
        about = asdict(self.fit) | {"width": head.width}
        known = {"about": json.dumps(about), "network_sha256": _network_digest(self)}
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_tensors(Path(folder) / _FILE, _learned(head), known)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        encoder: nn.Module | None = None,
        projection: nn.Module | None = None,
    ) -> "PostHoc":
        """Read what ``save_pretrained`` wrote, bit for bit.

        Args:
            folder: Where it was written.
            encoder: The network that it was fitted to, images to features; None for arrays.
            projection: Its projection, if it has one.

        Raises:
            ValueError: If the folder holds no posterior as it was written, or the network has other
                weights than the one that it was fitted to.
        """
        path = Path(folder) / _FILE
        if not path.is_file():
            raise ValueError(f"folder: {folder} holds no {_FILE}: name where it was saved.")
        weights, known = read_tensors(path)
        try:
            about = json.loads(known["about"])
            width = about.pop("width")
            about["inputs"] = tuple(about["inputs"])
            fit = Fit(**{field.name: about[field.name] for field in fields(Fit)})
            program = cls(*_built(weights, fit, width, encoder, projection), fit)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"folder: {path} holds no posterior of fit_posterior.") from error
        if known.get("network_sha256") != _network_digest(program):
            raise ValueError(
                f"encoder has other weights than the one that {folder} was fitted to: give that "
                "network, and its projection; none for arrays."
            )
        return program.eval()

    def _link(self) -> Link:
        head: Any = self.posterior_head
        if head.link is None:
            raise ValueError(
                "match probabilities need matches for the likelihood, this posterior was fitted by "
                f"{self.fit.likelihood!r}: give labels, or pairs."
            )
        return head.link


def array_features(items: Any, width: int, dim: int) -> Tensor:
    """Return features and embedding of arrays beside each other, or raise ``ValueError``."""
    if not isinstance(items, Embeddings):
        items = Embeddings(as_matrix("embeddings", items))
    if items.embedding.shape[1] != dim:
        raise ValueError(f"embeddings must have {dim} numbers, got {items.embedding.shape[1]}.")
    own = items.features.shape[1] if items.has_features else 0
    if own != width:
        raise ValueError(
            f"embeddings must have {width} features beside them, as those that were fitted to, got "
            f"{own}: give Embeddings(embedding, features=...)."
        )
    check_directions(items.embedding)
    return torch.cat([items.features, items.embedding], -1) if width else items.embedding


def check_directions(embedding: Tensor, name: str = "embeddings") -> None:
    """Raise ``ValueError`` if one of embeddings ``(N, d)`` is zero."""
    zero = (embedding == 0).all(-1).nonzero()
    if len(zero):
        raise ValueError(
            f"{name} must have a direction, row {int(zero[0])} is zero ({len(zero)} rows in all): "
            "leave out items that have none."
        )


def _built(
    weights: dict[str, Tensor],
    fit: Fit,
    width: int | None,
    encoder: nn.Module | None,
    projection: nn.Module | None,
) -> tuple[nn.Module, ConcentrationHead]:
    """Return an encoder and the head that some weights are of."""
    bank = Bank(**{n[5:]: x for n, x in weights.items() if n.startswith("bank.")})
    first = weights["perceptron.1.0.weight"]
    network = perceptron(first.new_zeros(1, first.shape[1]), len(first), 0.0)
    link = Link().to(first.dtype) if "link.shift" in weights else None
    if width is not None:
        projection = LastColumns(bank.embedding.shape[1])
    head = ConcentrationHead(
        nn.Identity() if projection is None else projection, bank, fit.inputs, network, link, width
    )
    head.load_state_dict(weights, strict=False)
    return nn.Identity() if encoder is None else encoder, head


def _learned(head: nn.Module) -> dict[str, Tensor]:
    state = head.state_dict()
    return {name: x for name, x in state.items() if not name.startswith("projection.")}


def _network_digest(program: PostHoc) -> str:
    head: Any = program.posterior_head
    parts = (program.encoder, head.projection)
    return digest({f"{i}.{n}": x for i, p in enumerate(parts) for n, x in p.state_dict().items()})
