"""The items that others are compared with, and what is seen of an item beside them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from probcl.evaluation.embeddings import Embeddings
from probcl.evaluation.knn import Neighbours, vote_entropy
from probcl.evaluation.ood import Gate, Gaussians, fit_gate, fit_gaussians
from probcl.evaluation.probe import LinearProbe, fit_linear_probe
from probcl.precision import full_precision

__all__ = ["SAME", "Bank", "Seen", "cross_fitted", "fit_bank"]

_PLACES, _VOTERS, _TEMPERATURE = (1, 5, 50), 20, 0.1
SAME = 1e-6  # 1 - cos of an item to itself, as float32 rounds it
_FLOOR = 1e-3
_BLOCK = 2**24
_FOLDS = 3


class Seen(NamedTuple):
    """What a bank shows of ``N`` items.

    Attributes:
        inputs: What the head may see, by block: ``"embedding"``, ``"neighbours"`` and with labels
            ``"probe"`` and ``"agreement"``; each ``(N, P)``.
        neighbours: The nearest of the bank, itself left out, the nearest first.
    """

    inputs: dict[str, Tensor]
    neighbours: Neighbours


class Bank(nn.Module):
    """Items, their classes if these are known, a linear probe, a Gaussian and a gate.

    Of items in the bank that equal the one that is asked for, one is taken for itself and left out:
    so the bank's own items are seen as new ones are.

    Args:
        **tensors: ``embedding``, unit vectors ``(M, d)``, and ``length``, their mean resultant
            lengths; ``mean``, ``scale``, ``root`` and ``gate``; with classes ``labels``, ``(M,)``,
            and ``probe_mean``, ``probe_scale``, ``probe_weight`` and ``probe_bias``: as
            ``fit_bank`` makes them.
    """

    embedding: Tensor
    labels: Tensor | None
    mean: Tensor
    scale: Tensor
    root: Tensor
    gate: Tensor
    length: Tensor

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        self.labels = None
        for name, value in tensors.items():
            if name == "labels":
                del self.labels
            self.register_buffer(name, value)

    @property
    def probe(self) -> LinearProbe:
        """The linear probe of the features."""
        parts = (f"probe_{name}" for name in ("mean", "scale", "weight", "bias"))
        return LinearProbe(*(getattr(self, name) for name in parts))

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def most_neighbours(self) -> int:
        """How many of the nearest are seen of an item."""
        return min(_PLACES[-1], len(self) - 1)

    def joint(self, features: Tensor, direction: Tensor) -> Tensor:
        """Return features and direction beside each other, standardised, ``(N, G)``.

        Features that are the embedding stand alone.
        """
        if features.shape[1] != len(self.mean):
            features = torch.cat([features, direction], -1)
        return (features - self.mean) / self.scale

    @full_precision
    def distance(self, features: Tensor, direction: Tensor) -> Tensor:
        """Return the Mahalanobis distance of items to the Gaussian, ``(N,)``."""
        gaussian = Gaussians(torch.zeros_like(self.mean)[None], self.root)
        return gaussian.distance(self.joint(features, direction))

    def typicality(self, features: Tensor, direction: Tensor) -> Tensor:
        """Return the gate ``w`` of items, from 1 for a typical one to 0; ``(N,)``."""
        half, power = self.gate.tolist()
        return Gate(half, power)(self.distance(features, direction)).float()

    @full_precision
    def nearest(self, direction: Tensor, own: Tensor | None = None) -> Neighbours:
        """Find the nearest items, the item itself left out.

        Args:
            direction: Unit vectors, shape ``(N, d)``.
            own: Row of each item in the bank, ``(N,)``; by default that of an equal one, if there
                is any.
        """
        k = self.most_neighbours
        cosines, rows = [], []
        size = max(1, _BLOCK // len(self))
        owners = [None] * -(-len(direction) // size) if own is None else own.split(size)
        for part, mine in zip(direction.split(size), owners, strict=True):
            cosine, row = (part @ self.embedding.T).topk(k + 1, dim=-1)
            itself = cosine[:, :1].ge(1 - SAME) & (torch.arange(k + 1, device=row.device) == 0)
            itself = itself if mine is None else row == mine[:, None]
            itself[:, -1] |= ~itself.any(-1)  # one too many was asked for
            cosines.append(cosine[~itself].view(-1, k))
            rows.append(row[~itself].view(-1, k))
        return Neighbours(torch.cat(cosines), torch.cat(rows))

    @full_precision
    def see(
        self,
        features: Tensor,
        direction: Tensor,
        own: Tensor | None = None,
        probabilities: Tensor | None = None,
    ) -> Seen:
        """Return what the head may see of items.

        Args:
            features: Shape ``(N, F)``, or the embedding where that is all there is.
            direction: Unit vectors, shape ``(N, d)``.
            own: As ``nearest`` takes it.
            probabilities: Class probabilities ``(N, C)`` in place of the probe's, by probes that
                did not see the item.
        """
        near = self.nearest(direction, own)
        away = (1 - near.cosine).clamp_min(_FLOOR).log()
        last = away.shape[-1] - 1
        columns = [away[:, min(place - 1, last)] for place in _PLACES]
        inputs = {"embedding": self.joint(features, direction)}
        if self.labels is not None:
            if probabilities is None:
                probabilities = self.probe.probabilities(features)
            weight = (near.cosine[:, :_VOTERS] / _TEMPERATURE).softmax(-1)
            classes = self.labels[near.row[:, :_VOTERS]]
            vote = torch.zeros_like(probabilities).scatter_add_(1, classes, weight)
            columns += [vote_entropy(vote), vote.amax(-1)]
            inputs["probe"] = _of_probe(probabilities)
            inputs["agreement"] = _of_agreement(probabilities, vote)
        inputs["neighbours"] = torch.stack(columns, -1)
        return Seen(inputs, near)


def _of_probe(p: Tensor) -> Tensor:
    """Return what class probabilities ``(N, C)`` say, ``(N, 4)``."""
    first, second = p.topk(2, dim=-1).values.unbind(-1)
    return torch.stack([vote_entropy(p), first, (1 - first).clamp_min(1e-6).log(), second], -1)


def _of_agreement(p: Tensor, vote: Tensor) -> Tensor:
    """Return what probe and vote, ``(N, C)`` each, say together, ``(N, 3)``."""
    both = (p + vote) / 2
    agreement = (p * vote).sum(-1).clamp_min(1e-6)
    return torch.stack([agreement.log(), both.amax(-1), vote_entropy(both)], -1)


def fit_bank(items: Embeddings, held_out: Embeddings, among: Tensor | None = None) -> Bank:
    """Make a bank of items.

    Args:
        items: With classes where these are known.
        held_out: Items to calibrate the gate by.
        among: Directions ``(M, d)`` to compare with, in place of the items' own.
    """
    both = items.joint.float()
    mean, scale = both.mean(0), both.std(0, correction=0)
    scale = torch.where(scale > 1e-6 * mean.abs().clamp_min(1e-6), scale, 1.0)
    gaussian = fit_gaussians((both - mean) / scale)
    # The Gaussian's own mean, which is of 20,000 items at most, goes into the shift.
    mean = mean + gaussian.means[0].float() * scale
    tensors = {
        "embedding": items.direction.float() if among is None else among.float(), "mean": mean,
        "scale": scale, "root": gaussian.root, "gate": torch.ones(2),
        "length": torch.ones(len(items)),
    }  # fmt: skip
    if items.labels is not None:
        probe = fit_linear_probe(items.features, items.labels)
        tensors |= {
            "labels": items.labels, "probe_mean": probe.mean, "probe_scale": probe.scale,
            "probe_weight": probe.weight, "probe_bias": probe.bias,
        }  # fmt: skip
    bank = Bank(**tensors)
    gate = fit_gate(bank.distance(held_out.features.float(), held_out.direction.float()))
    bank.gate.copy_(torch.tensor([gate.half, gate.power]))
    return bank


def cross_fitted(items: Embeddings, queries: list[Embeddings]) -> list[Tensor]:
    """Return class probabilities of items, or changed copies of them, by probes of other items.

    A probe is surer of what it was fitted to than of new items.
    """
    count = int(items.labels.max()) + 1
    found = [torch.zeros(len(items), count) for _ in queries]
    fold = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)) % _FOLDS
    for number in range(_FOLDS):
        own = fold == number
        if len(items.labels[~own].unique()) < 2:
            continue
        probe = fit_linear_probe(items.features[~own], items.labels[~own], count)
        for part, query in zip(found, queries, strict=True):
            part[own] = probe.probabilities(query.features[own])
    return found
