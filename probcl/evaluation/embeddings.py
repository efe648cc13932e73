"""What an encoder says of a set of images: the arrays that evaluation works on."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

__all__ = ["Embeddings"]


@dataclass
class Embeddings:
    """Embeddings of ``N`` images, with what their posteriors say, in float32 on the CPU.

    Args:
        embedding: Mean directions, shape ``(N, d)``.
        features: Output of the backbone, shape ``(N, F)``.
        labels: Classes, shape ``(N,)``.
        index: Row of each image in its data set, shape ``(N,)``.
        parameters: Parameters of the posteriors by name, each of shape ``(N, *)``.
        scores: Uncertainty of each image by the name of the score, each of shape ``(N,)``.
        length: Mean resultant lengths of the posteriors, shape ``(N,)``; None for points.
        norm: Lengths of the embeddings before they are normalised, shape ``(N,)``; None if unknown.
    """

    embedding: Tensor
    features: Tensor
    labels: Tensor
    index: Tensor
    parameters: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)
    length: Tensor | None = None
    norm: Tensor | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            setattr(self, f.name, _moved(getattr(self, f.name)))

    def __len__(self) -> int:
        return len(self.embedding)

    @classmethod
    def concatenate(cls, parts: "Sequence[Embeddings]") -> "Embeddings":
        """Join the embeddings of batches into one set."""
        return cls(**{f.name: _joined([getattr(p, f.name) for p in parts]) for f in fields(cls)})


def _moved(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _moved(entry) for name, entry in value.items()}
    if value is None:
        return None
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: _joined([value[name] for value in values]) for name in values[0]}
    return None if values[0] is None else torch.cat(values)
