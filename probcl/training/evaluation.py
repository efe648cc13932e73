"""Images into arrays: features by fixed batches, embeddings by rows, and what evaluation takes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from probcl.evaluation import Evaluation
from probcl.programs import Program
from probcl.training._interim import Embeddings, evaluate
from probcl.training.batch import TEST, TRAIN, Batch, Part

__all__ = ["EVALUATION_BATCH", "embed", "encode", "evaluate_parts", "gather"]

#: Images of an evaluation are encoded so many at a time, whatever the batch of the training.
EVALUATION_BATCH = 64
# Posteriors are computed from so many features at a time.
HEAD_BATCH = 4096


def encode(program: Program, batch: Batch) -> Batch:
    """Return a batch with the features of its first view, on the CPU, in place of its views.

    They are computed in batches of one size, filled up with zeros, so that float rounding does not
    depend on how many images came with an image.

    Args:
        program: Program whose encoder is asked, in eval mode.
        batch: Images of an evaluation.
    """
    features = []
    for images in batch.views[0].split(EVALUATION_BATCH):
        missing = EVALUATION_BATCH - len(images)
        full = pad(images, (0, 0) * (images.dim() - 1) + (0, missing))
        features.append(program.encoder(full)[: len(images)].cpu())
    labels, rows = (None if x is None else x.cpu() for x in (batch.labels, batch.rows))
    return Batch(torch.cat(features)[None], labels, rows, batch.part)


def embed(program: Program, batches: Iterable[Batch], device: torch.device) -> Embeddings:
    """Return the embeddings of encoded batches, in the order of their rows where these are known.

    What follows from the features is computed here, so that it does not depend on the batches.

    Args:
        program: Program to ask.
        batches: What ``encode`` returned.
        device: Device of the program.
    """
    views, labels, rows, _ = zip(*batches, strict=True)
    features, labels, rows = torch.cat(views, 1)[0], _joined(labels), _joined(rows)
    if rows is not None:
        order = rows.argsort()
        features, rows = features[order], rows[order]
        labels = None if labels is None else labels[order]
    embeddings, posteriors = [], []
    for block in features.split(HEAD_BATCH):
        on_device = block.to(device)
        embeddings.append(program.project(on_device))
        posteriors.append(program.posterior_from_features(on_device))
    return Embeddings(torch.cat(embeddings), labels, features, posteriors, rows)


def gather(collected: Mapping[Part, list[Batch]], world_size: int) -> dict[Part, list[Batch]]:
    """Return what all processes have collected, the same on each of them."""
    if world_size == 1:
        return dict(collected)
    ranks: list[dict[Part, list[Batch]]] = [{} for _ in range(world_size)]
    torch.distributed.all_gather_object(ranks, dict(collected))
    together: dict[Part, list[Batch]] = defaultdict(list)
    for rank in ranks:
        for part, batches in rank.items():
            together[part] += batches
    return together


def evaluate_parts(
    parts: Mapping[Part, Embeddings], true_concentration: Tensor | None, progress: bool
) -> Evaluation:
    """Evaluate embeddings by the part of an evaluation that they belong to.

    Args:
        parts: Embeddings of the training set, the test set, and of changed images.
        true_concentration: True concentration of each test image, shape ``(N,)``, where it is
            known.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there is no training set or no test set.
    """
    for part, purpose in ((TRAIN, "learn a probe from"), (TEST, "evaluate on")):
        if part not in parts:
            raise ValueError(f"there are no images to {purpose}, or not one of them can be read.")
    other, corrupted = {}, defaultdict(dict)
    for part, embeddings in parts.items():
        if part.kind == "out_of_distribution":
            other[part.name] = embeddings
        elif part.kind == "corrupted":
            corrupted[part.name][part.severity] = embeddings
    train, test = parts[TRAIN], parts[TEST]
    return evaluate(
        train,
        train.labels,
        test,
        test.labels,
        out_of_distribution=other,
        corrupted=corrupted,
        true_concentration=true_concentration,
        progress=progress,
    )


def _joined(parts: Iterable[Tensor | None]) -> Tensor | None:
    """Return tensors in one, or None if one of them is missing."""
    present = list(parts)
    return None if any(part is None for part in present) else torch.cat(present)
