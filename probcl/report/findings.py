"""What a report is drawn from: found in an evaluation, and kept in the folder of the run."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from probcl.data import CORRUPTIONS, SEVERITIES
from probcl.distributions import VonMisesFisher
from probcl.evaluation import Embeddings, Evaluation
from probcl.evaluation.bootstrap import Interval
from probcl.evaluation.calibration import Reliability, smooth_reliability
from probcl.evaluation.subsets import evenly_spaced
from probcl.files import read_tensors, write_tensors
from probcl.report.choice import best_score, choose
from probcl.training.batch import TEST, Part

__all__ = ["FINDINGS", "Findings", "Images", "Match", "find", "load", "save"]

#: File in the folder of a run.
FINDINGS = "report.safetensors"

#: Test rows and a change of theirs to images in [0, 1], ``(K, channels, height, width)``.
Images = Callable[[Tensor, Part], Tensor]
#: Posteriors of ``N`` and ``M`` items to the probabilities that they match, ``(N, M)``.
Match = Callable[[Any, Any], Tensor]

_VERSION = 2
_LARGEST_MAP = 600
_LARGEST_SIDE = 48  # of a small image
_NEAR = 6  # neighbours that a query is shown with
# The first of these that there is stands for all scores where a picture can show one only.
_SHOWN = ("entropy", "nearest_cosine")


@dataclass
class Findings:
    """What a report is drawn from, of ``N`` test items in the order of their rows.

    Args:
        metrics: As of ``Evaluation``, as are the next three.
        answers: How well each score answers each question.
        left_out: Why a score or metric is not there.
        shift: Accuracy and calibration of the probe by corruption and severity.
        trained_on: Number of training items.
        rows: Row of each item, ``(N,)``.
        spectrum: Singular values of the test embeddings.
        shown_score: The score that stands for all where one is drawn; "" if there is none.
        labels: Classes, ``(N,)``; None without.
        predicted: The probe's likeliest class, ``(N,)``; None without a probe.
        confidence: Its probability, ``(N,)``.
        scores: Scores by name, ``(N,)`` each.
        wrong: Whether the probe (``probe``) or the nearest other item (``retrieval``) is wrong.
        outside_score: The score that tells sets out of distribution best.
        outside: That score of each of these sets.
        severe: ``shown_score`` by corruption and severity (0: clean).
        reliability: Curve of the probe's calibration.
        mapped: Positions of the items on the map, ``(P,)``.
        coordinates: Their places, ``(P, 2)``.
        spread: 1 - mean resultant length of their posteriors, ``(P,)``; None without posteriors.
        queries: Positions of queries, ``(Q,)``.
        neighbours: Positions of the nearest other test items, ``(Q, K)``.
        cosine: Their cosines, ``(Q, K)``.
        match: Probabilities that they match, ``(Q, K)``; None where the posterior has none.
        pictured: Positions of the items that have an image, ``(I,)``.
        images: Small images of them, bytes, ``(I, channels, height, width)``; None without.
        classes: Names of the classes; empty where they have numbers only.
        strips: An image at severities 0, 1, ... by corruption, ``(S, channels, height, width)``.
    """

    metrics: dict[str, float]
    answers: dict[str, dict[str, Interval]]
    left_out: dict[str, str]
    shift: dict[str, dict[int, dict[str, float]]]
    trained_on: int
    rows: Tensor
    spectrum: Tensor
    shown_score: str = ""
    outside_score: str = ""
    labels: Tensor | None = None
    predicted: Tensor | None = None
    confidence: Tensor | None = None
    scores: dict[str, Tensor] = field(default_factory=dict)
    wrong: dict[str, Tensor] = field(default_factory=dict)
    outside: dict[str, Tensor] = field(default_factory=dict)
    severe: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    reliability: Reliability | None = None
    mapped: Tensor | None = None
    coordinates: Tensor | None = None
    spread: Tensor | None = None
    queries: Tensor | None = None
    neighbours: Tensor | None = None
    cosine: Tensor | None = None
    match: Tensor | None = None
    pictured: Tensor | None = None
    images: Tensor | None = None
    classes: list[str] = field(default_factory=list)
    strips: dict[str, Tensor] = field(default_factory=dict)

    @property
    def noun(self) -> str:
        """What the items are called."""
        return "items" if self.images is None else "images"

    def class_name(self, label: Any) -> str:
        """Return the name of a class, or its number where it has none."""
        number = int(label)
        return self.classes[number] if number < len(self.classes) else str(number)


def find(
    evaluation: Evaluation, images: Images | None = None, match: Match | None = None
) -> Findings:
    """Return what a report on an evaluation is drawn from.

    Args:
        evaluation: What was measured.
        images: Gives the images of test rows; None where the items are no images.
        match: Gives match probabilities, of posteriors that are von Mises-Fisher distributions.
    """
    test, e = evaluation.test, evaluation
    shown = next((s for s in (*_SHOWN, *e.scores) if s in e.scores), "")
    found = Findings(
        metrics=e.metrics, answers=e.answers, left_out=e.left_out, shift=e.shift,
        trained_on=e.trained_on, rows=test.rows, spectrum=e.spectrum.float(), shown_score=shown,
        labels=test.labels,
        scores={name: values.float() for name, values in e.scores.items()},
        wrong={name: values.bool() for name, values in e.wrong.items()},
        severe={
            name: {severity: values.float() for severity, values in part[shown].items()}
            for name, part in e.by_severity.items()
            if shown in part
        },
    )  # fmt: skip
    best = best_score(found, "out_of_distribution")
    found.outside_score = best[0] if best else shown
    found.outside = {
        name: part[found.outside_score].float()
        for name, part in e.out_of_distribution.items()
        if found.outside_score in part
    }
    if "probe" in e.wrong:
        found.confidence, found.predicted = e.probabilities.float().max(-1)
        found.reliability = smooth_reliability(e.probabilities, test.labels)
    _place(found, test)
    _retrieve(found, test, match)
    if images is not None:
        _picture(found, images)
    return found


def _place(found: Findings, test: Embeddings) -> None:
    """Draw a map of some items, evenly spaced in the set."""
    from sklearn.manifold import TSNE  # takes a third as long to import as torch

    count = len(test)
    if count < 3:
        return
    shown = evenly_spaced(count, _LARGEST_MAP)
    tsne = TSNE(
        metric="cosine", init="random", perplexity=min(30.0, (len(shown) - 1) / 3), random_state=0
    )
    found.mapped = shown
    found.coordinates = torch.as_tensor(tsne.fit_transform(test.direction[shown].float().numpy()))
    if test.posterior:
        found.spread = 1 - test.mean_resultant_length[shown].float()


def _retrieve(found: Findings, test: Embeddings, match: Match | None) -> None:
    """Find the neighbours of some queries among the other test items."""
    chosen = choose(found).queries
    near = min(_NEAR, len(test) - 1)
    if not chosen or not near:
        return
    queries = torch.tensor(list(chosen))
    cosine = (test.direction[queries] @ test.direction.T).float()
    cosine[torch.arange(len(queries)), queries] = -torch.inf
    found.queries = queries
    found.cosine, found.neighbours = cosine.topk(near)
    if match is None or not all(isinstance(q, VonMisesFisher) for q in test.posterior):
        return
    loc, concentration = (test.each(attrgetter(name)) for name in ("loc", "concentration"))
    pairs = zip(queries[:, None], found.neighbours, strict=True)
    with torch.no_grad():
        rows = [match(*(VonMisesFisher(loc[x], concentration[x]) for x in two)) for two in pairs]
    found.match = torch.cat(rows).float().cpu()


def _picture(found: Findings, images: Images) -> None:
    """Read the images of the items that are shown, and one of them with each corruption."""
    choice = choose(found)
    shown = torch.tensor(choice.positions())
    if not choice.clear:
        return
    clear = found.rows[torch.tensor(choice.clear)]
    first = images(clear, TEST)
    if first.dim() != 4 or first.shape[1] not in (1, 3):
        return
    found.pictured = shown
    blocks = [images(rows, TEST) for rows in found.rows[shown].split(64)]
    found.images = _small(torch.cat(blocks))
    for name in set(found.severe) & set(CORRUPTIONS):
        parts = [TEST, *(Part("corrupted", name, severity) for severity in SEVERITIES)]
        found.strips[name] = _small(torch.cat([images(clear, part) for part in parts]))


def _small(images: Tensor) -> Tensor:
    """Return images as bytes, none with a side longer than that of a small image."""
    shape, images = images.shape[-2:], images.detach().float().cpu()
    if max(shape) > _LARGEST_SIDE:
        size = [max(1, round(side * _LARGEST_SIDE / max(shape))) for side in shape]
        images = interpolate(images, size, mode="bilinear", antialias=True)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def save(found: Findings, run_dir: Path) -> None:
    """Keep what a report is drawn from in the folder of a run."""
    tensors: dict[str, Tensor] = {}
    words = _split(vars(found), "", tensors)
    write_tensors(run_dir / FINDINGS, tensors, {"report": json.dumps([_VERSION, words])})


def load(run_dir: Path) -> Findings:
    """Read what the report of a run is drawn from.

    Raises:
        ValueError: If there is nothing of it, or it is of another version, or damaged.
    """
    path = run_dir / FINDINGS
    anew = "make the run anew"
    if (run_dir / "checkpoints").is_dir():
        anew = f"evaluate the run, probcl test --ckpt_path {run_dir}/checkpoints/last.ckpt"
    if not run_dir.is_dir():
        raise ValueError(f"{run_dir} is no folder: name that of a run that was evaluated.")
    if not path.is_file():
        what = "holds no numbers"
        if (run_dir / "metrics.json").is_file():
            what = f"has no {FINDINGS}, which its report is drawn from"
        raise ValueError(f"{run_dir} {what}: {anew}.")
    try:
        tensors, about = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{path} is not as it was written: {anew}.") from error
    try:
        version, words = json.loads(about.get("report", "[0, {}]"))
        if version != _VERSION:
            raise ValueError(f"it is of version {version}, this is version {_VERSION}")
        return _joined(words, tensors)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is of another version of the report ({error}): {anew}.") from None


def _split(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Return a tree for JSON, in which a tensor is its name among those that are split off."""
    if isinstance(node, Tensor):
        tensors[path] = node
        return {"tensor": path}
    if isinstance(node, Reliability):
        node = vars(node)
    if isinstance(node, Mapping):
        return {str(key): _split(value, f"{path}/{key}", tensors) for key, value in node.items()}
    if isinstance(node, tuple):
        return [_split(value, f"{path}/{n}", tensors) for n, value in enumerate(node)]
    return node


def _joined(words: dict[str, Any], tensors: Mapping[str, Tensor]) -> Findings:
    def joined(node: Any) -> Any:
        if isinstance(node, dict) and node.keys() == {"tensor"} and node["tensor"] in tensors:
            return tensors[node["tensor"]]
        if isinstance(node, dict):
            return {key: joined(value) for key, value in node.items()}
        return [joined(value) for value in node] if isinstance(node, list) else node

    found = Findings(**joined(words))
    curve: Any = found.reliability
    return replace(
        found,
        answers={s: {q: Interval(*x) for q, x in a.items()} for s, a in found.answers.items()},
        shift=_by_severity(found.shift),
        severe=_by_severity(found.severe),
        reliability=None if curve is None else Reliability(**curve),
    )


def _by_severity(parts: Mapping[str, Mapping[Any, Any]]) -> dict[str, dict[int, Any]]:
    return {name: {int(level): x for level, x in part.items()} for name, part in parts.items()}
