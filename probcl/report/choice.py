"""Which items a report shows: the doubtful, the certain, and those that two views differ on."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from probcl.evaluation.bootstrap import Interval

if TYPE_CHECKING:
    from probcl.report.findings import Findings

__all__ = ["FEW", "Choice", "best_score", "choose", "finder", "too_few"]

#: Errors fewer than these tell scores apart by chance: no curve, no winner.
FEW = 10

_DOUBTFUL, _EACH, _CLASSES, _DIFFER = 12, 5, 12, 6
# Where errors are too few to choose by, the first of these that there is.
_BY_DEFAULT = ("trust", "agreement", "max_probability", "trust_without_labels", "entropy")
_OF_POSTERIOR = ("entropy", "mean_resultant_length")


class Choice(NamedTuple):
    """Positions of the items that a report shows.

    Attributes:
        doubtful: The least certain of all, the least first.
        by_class: The most and the least certain of each class, or of all under None.
        posterior_doubts: Those that the posterior doubts and the probe is sure of.
        probe_doubts: The other way round.
        queries: Queries with why they are shown.
        near: Their neighbours.
        mapped: Those on the map.
        clear: The most certain that is right, if any is.
    """

    doubtful: list[int]
    by_class: dict[int | None, tuple[list[int], list[int]]]
    posterior_doubts: list[int]
    probe_doubts: list[int]
    queries: dict[int, str]
    near: list[int]
    mapped: list[int]
    clear: list[int]

    def positions(self) -> list[int]:
        """Return every position once."""
        several = (part for two in self.by_class.values() for part in two)
        own = (self.doubtful, *several, self.posterior_doubts, self.probe_doubts)
        lists: Iterable[Iterable[int]] = (*own, self.queries, self.near, self.mapped, self.clear)
        return list(dict.fromkeys(position for part in lists for position in part))


def best_score(found: "Findings", question: str) -> tuple[str, Interval] | None:
    """Return the score that answers a question best, with its answer, if it was asked."""
    asked = {s: answer[question] for s, answer in found.answers.items() if question in answer}
    return max(asked.items(), key=lambda pair: pair[1].value, default=None)


def finder(found: "Findings", what: str) -> str | None:
    """Return the score that finds errors of a kind best, or one by default where they are few.

    Args:
        found: What was found.
        what: ``probe``, or ``retrieval``: the nearest other item.
    """
    question = {"probe": "ambiguity", "retrieval": "retrieval_error"}[what]
    best = best_score(found, question)
    if best and what in found.wrong and not too_few(found.wrong[what]):
        return best[0]
    return next((s for s in (*_BY_DEFAULT, *found.scores) if s in found.scores), None)


def too_few(wrong: Tensor) -> bool:
    """Tell whether the errors, or the others, are too few to tell scores apart, of ``(N,)``."""
    return min(int(wrong.sum()), int((~wrong).sum())) < FEW


def choose(found: "Findings") -> Choice:
    """Return which items to show."""
    mapped = [] if found.mapped is None else found.mapped.tolist()
    near = [] if found.neighbours is None else found.neighbours.flatten().tolist()
    name = finder(found, "probe")
    if name is None:
        return Choice([], {}, [], [], {}, near, mapped, mapped[:1])
    order = found.scores[name].argsort(stable=True)
    doubtful = order.flip(0)[:_DOUBTFUL].tolist()
    differ = _differing(found)
    wrong = found.wrong.get("probe")
    right = order if wrong is None or wrong.all() else order[~wrong[order]]
    return Choice(
        doubtful, _by_class(found, order), *differ, _queries(found), near, mapped,
        right[:1].tolist(),
    )  # fmt: skip


def _by_class(found: "Findings", order: Tensor) -> dict[int | None, tuple[list[int], list[int]]]:
    """Take the classes with the most errors, and both ends of the order in each."""
    if found.labels is None:
        return {None: _ends(order)}
    classes = found.labels.unique()
    if len(classes) > _CLASSES:
        errors = found.wrong.get("probe", found.labels >= 0)
        most = torch.stack([errors[found.labels == c].float().sum() for c in classes])
        classes = classes[most.argsort(descending=True, stable=True)[:_CLASSES]].sort().values
    return {int(c): _ends(order[found.labels[order] == c]) for c in classes}


def _ends(order: Tensor) -> tuple[list[int], list[int]]:
    each = min(_EACH, len(order) // 2)
    return order[:each].tolist(), order.flip(0)[:each].tolist()


def _differing(found: "Findings") -> tuple[list[int], list[int]]:
    score = next((s for s in _OF_POSTERIOR if s in found.scores), None)
    if score is None or "max_probability" not in found.scores:
        return [], []
    doubts = (found.scores[s].argsort().argsort() for s in (score, "max_probability"))
    posterior, probe = doubts
    order = (posterior - probe).argsort(descending=True, stable=True)
    most = min(_DIFFER, len(order) // 2)
    return order[:most].tolist(), order.flip(0)[:most].tolist()


def _queries(found: "Findings") -> dict[int, str]:
    """Take the most certain queries, those that are certain and wrong, and the least certain."""
    score = finder(found, "retrieval")
    if score is None:
        return {}
    order = found.scores[score].argsort(stable=True)
    wrong = found.wrong.get("retrieval")
    if wrong is None:
        return dict.fromkeys(order[:2].tolist(), "certain") | {int(order[-1]): "abstain"}
    right, failed = order[~wrong[order]], order[wrong[order]]
    queries = dict.fromkeys(right[:2].tolist(), "certain, and right")
    queries |= dict.fromkeys(failed[:2].tolist(), "the most certain of the wrong")
    last = failed if len(failed) else order
    return queries | {int(last[-1]): "abstain"}
