"""Images into arrays: features by fixed batches, embeddings by rows, and what evaluation takes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import pad

from probcl.data import CORRUPTIONS, OUT_OF_DISTRIBUTION, SEVERITIES
from probcl.distributions import Point
from probcl.evaluation import Embeddings, Evaluation, evaluate
from probcl.evaluation.embeddings import joined
from probcl.programs import Program
from probcl.training.batch import TEST, TRAIN, Batch, Part

__all__ = [
    "CHANGED", "CORRUPTED", "EVALUATION_BATCH", "changed", "embed", "encode", "evaluate_parts",
    "gather",
]  # fmt: skip

#: Test images made into what is out of distribution, and corrupted ones.
CHANGED = [Part("out_of_distribution", name) for name in OUT_OF_DISTRIBUTION]
CORRUPTED = [Part("corrupted", name, severity) for name in CORRUPTIONS for severity in SEVERITIES]

#: Images of an evaluation are encoded so many at a time, whatever the batch of the training.
EVALUATION_BATCH = 64
# Posteriors are computed from so many features at a time.
HEAD_BATCH = 4096


def changed(images: Tensor, rows: Tensor, part: Part) -> Tensor:
    """Return images in [0, 1] with the change that a part of an evaluation asks for, if any.

    Random draws follow from ``rows``, those of the images in their data set, shape ``(N,)``.
    """
    if part.kind == "corrupted":
        return CORRUPTIONS[part.name].apply(images, part.severity, rows)
    if part in CHANGED:
        return OUT_OF_DISTRIBUTION[part.name].apply(images, rows)
    return images


def encode(program: Program, batch: Batch) -> Batch:
    """Return a batch with the features of its first view, on the CPU, in place of its views.

    They are computed in batches of one size, filled up with zeros, so that float rounding does not
    depend on how many images came with an image. The program must be in eval mode.
    """
    features = []
    for images in batch.views[0].split(EVALUATION_BATCH):
        missing = EVALUATION_BATCH - len(images)
        full = pad(images, (0, 0) * (images.dim() - 1) + (0, missing))
        features.append(program.encoder(full)[: len(images)].cpu())
    labels, rows = (None if x is None else x.cpu() for x in (batch.labels, batch.rows))
    return Batch(torch.cat(features)[None], labels, rows, batch.part)


@torch.inference_mode(False)  # means of posteriors may be derivatives
@torch.no_grad()
def embed(program: Program, batches: Iterable[Batch], device: torch.device) -> Embeddings:
    """Return the embeddings of what ``encode`` returned, in the order of the rows if known.

    What follows from the features is computed here, on the program's device, so that it does not
    depend on the batches.
    """
    batches = list(batches)
    features = torch.cat([batch.views[0] for batch in batches])
    labels, rows = (joined([getattr(b, name) for b in batches]) for name in ("labels", "rows"))
    if rows is not None:
        order = rows.argsort()
        features, rows = features[order], rows[order]
        labels = None if labels is None else labels[order]
    embeddings: list[Tensor] = []
    posteriors: list[Distribution] = []
    gates: list[Tensor | None] = []
    for block in features.split(HEAD_BATCH):
        on_device = block.to(device)
        embeddings.append(program.project(on_device))
        posteriors.append(program.posterior_from_features(on_device))
        gates.append(program.gate_from_features(on_device))
    points = all(isinstance(posterior, Point) for posterior in posteriors)
    said = None if points else posteriors  # a point says no more than the embedding
    return Embeddings(torch.cat(embeddings), labels, features, said, rows, joined(gates))


def gather(collected: Mapping[Part, list[Batch]], world_size: int) -> dict[Part, list[Batch]]:
    """Return what all processes have collected, the same in the same order on each of them."""
    ranks: list[Mapping[Part, list[Batch]]] = [collected] * world_size
    if world_size > 1:
        torch.distributed.all_gather_object(ranks, dict(collected))
    found = {part for rank in ranks for part in rank}
    known = [part for part in (TRAIN, TEST, *CHANGED, *CORRUPTED) if part in found]
    ordered = known + sorted(found.difference(known))
    return {part: [batch for rank in ranks for batch in rank.get(part, [])] for part in ordered}


@torch.inference_mode(False)
def evaluate_parts(
    parts: Mapping[Part, Embeddings], true_concentration: Tensor | None, progress: bool
) -> Evaluation:
    """Evaluate the embeddings of each part of an evaluation.

    ``true_concentration``, where it is known, is that of each row of the test set, shape ``(N,)``.

    Raises:
        ValueError: If there is no training set or no test set.
    """
    for part, purpose in ((TRAIN, "learn a probe from"), (TEST, "evaluate on")):
        if part not in parts:
            raise ValueError(f"there are no images to {purpose}, or not one of them can be read.")
    other = {part.name: z for part, z in parts.items() if part.kind == "out_of_distribution"}
    corrupted: dict[str, dict[int, Embeddings]] = defaultdict(dict)
    for part, embeddings in parts.items():
        if part.kind == "corrupted":
            corrupted[part.name][part.severity] = embeddings
    test, truth = parts[TEST], true_concentration
    return evaluate(
        parts[TRAIN], None, test, None, out_of_distribution=other, corrupted=corrupted,
        true_concentration=None if truth is None else truth[test.rows], progress=progress,
    )  # fmt: skip
