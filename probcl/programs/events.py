"""What is observed of embeddings, as Pyro models, and the fit of a concentration to it."""

from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from probcl.distributions import VonMisesFisher
from probcl.evaluation.calibration import event_calibration_error
from probcl.programs.concentration import ConcentrationHead
from probcl.programs.matches import observe_matches

__all__ = ["Events", "calibrate_link", "fit_heads", "match_error", "mean_loss"]

_BATCH, _SHOWN = 256, 4
_BLOCK = 8192  # items whose likelihood is computed at once
_DECAY = 1e-3

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Events:
    """Items, each with ``K`` others, and whether they match.

    Args:
        head: Of the items.
        inputs: What a bank shows of the items, by block; ``(N, P)`` each.
        direction: Directions of the items, ``(N, d)``.
        row: Rows of the others among all of them, ``(N, K)``.
        cosine: Cosines to them, ``(N, K)``.
        matched: Whether they match, ``(N, K)``; None where all are positives.
        others: What a bank shows of the others, ``(M, P)`` each.
        towards: Their directions, ``(M, d)``.
        other_head: The others' head.
    """

    head: ConcentrationHead
    inputs: Inputs
    direction: Tensor
    row: Tensor
    cosine: Tensor
    matched: Tensor | None
    others: Inputs
    towards: Tensor
    other_head: ConcentrationHead

    def __len__(self) -> int:
        return len(self.row)

    def at_rows(self, rows: Tensor) -> "Events":
        """Return the events of some items, ``(B,)``."""
        return self.at(rows, torch.arange(self.row.shape[1]).expand(len(rows), -1))

    def at(self, rows: Tensor, columns: Tensor) -> "Events":
        """Return the events of some items with some of their others: ``(B,)`` and ``(B, k)``."""
        near = rows[:, None], columns
        return replace(
            self,
            inputs={name: x[rows] for name, x in self.inputs.items()},
            direction=self.direction[rows],
            row=self.row[near],
            cosine=self.cosine[near],
            matched=None if self.matched is None else self.matched[near],
        )

    def probability(self) -> Tensor:
        """Return the match probabilities, ``(N, K)``."""
        other = {name: x[self.row.flatten()] for name, x in self.others.items()}
        length = self.other_head.resultant_length(other).view(self.row.shape)
        link: Any = self.head.link
        return self.head.resultant_length(self.inputs)[:, None] * length * link(self.cosine)

    def observe(self) -> None:
        """Observe the events: a Pyro model."""
        if self.matched is not None:
            observe_matches(self.probability(), self.matched)
            return
        posterior = VonMisesFisher(
            self.direction, self.head.concentration(self.inputs), validate_args=False
        )
        queries = pyro.plate("queries", len(self), dim=-1)
        with pyro.plate("neighbours", self.row.shape[1], dim=-2), queries:
            pyro.sample("positive", posterior, obs=self.towards[self.row.T])


def _no_latent(events: Events) -> None:
    """Guide of a model without latent variables."""


def _loss(events: Events) -> Any:
    """Return minus the mean log likelihood of the events."""
    total = Trace_ELBO().differentiable_loss(Events.observe, _no_latent, events)
    return total / events.row.numel()


def mean_loss(events: Events) -> float:
    """Return minus the mean log likelihood of all events, in nats."""
    total = 0.0
    with torch.no_grad():
        for rows in torch.arange(len(events)).split(_BLOCK):
            total += len(rows) * float(_loss(events.at_rows(rows)))
    return total / len(events)


def match_error(events: Events) -> float | None:
    """Return the calibration error of the match probability, None where there are no matches."""
    if events.matched is None:
        return None
    with torch.no_grad():
        probability = events.probability().flatten()
    return event_calibration_error(probability, events.matched.flatten())


@torch.enable_grad()
def fit_heads(events: list[Events], steps: int, learning_rate: float) -> None:
    """Fit the heads by AdamW on batches of each of the events, along a cosine."""
    heads = {id(head): head for e in events for head in (e.head, e.other_head)}.values()
    learned = {p: None for head in heads for m in (head.perceptron, head.link) if m is not None
               for p in m.parameters()}  # fmt: skip
    optimizer = torch.optim.AdamW(learned, learning_rate, weight_decay=_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _ in range(steps):
        optimizer.zero_grad()
        for each in events:
            rows = torch.randint(len(each), (min(_BATCH, len(each)),))
            count = each.row.shape[1]
            columns = torch.rand(len(rows), count).argsort(-1)[:, : min(_SHOWN, count)]
            _loss(each.at(rows, columns)).backward()
        optimizer.step()
        schedule.step()


@torch.enable_grad()
def calibrate_link(events: list[Events]) -> None:
    """Fit the link alone to events of items held out, with a normal prior about where it was."""
    link: Any = events[0].head.link
    fitted = list(link.parameters())
    before = [p.detach().clone() for p in fitted]
    with torch.no_grad():
        lengths = [e.probability() / link(e.cosine) for e in events]
    optimizer = torch.optim.LBFGS(fitted, max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(((p - q) ** 2).sum() / 2 for p, q in zip(fitted, before, strict=True))
        for each, length in zip(events, lengths, strict=True):
            p = (length * link(each.cosine)).clamp(1e-4, 1 - 1e-4)
            matched: Any = each.matched
            loss = loss + torch.nn.functional.binary_cross_entropy(p, matched, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
