"""What an encoder says of a set of images: the arrays that evaluation works on."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

__all__ = ["Embeddings"]


@dataclass
class Embeddings:
    """Embeddings of `N` images, with what their posteriors say.

    Args:
        embedding: Mean directions, shape `(N, d)`.
        features: Output of the backbone, shape `(N, F)`.
        labels: Classes, shape `(N,)`.
        index: Row of each image in its data set, shape `(N,)`.
        parameters: Parameters of the posteriors by name, each of shape `(N, *)`.
        scores: Uncertainty of each image by the name of the score, each of shape `(N,)`.
    """

    embedding: Tensor
    features: Tensor
    labels: Tensor
    index: Tensor
    parameters: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.embedding)

    @classmethod
    def concatenate(cls, parts: "Sequence[Embeddings]") -> "Embeddings":
        """Join batches into one set, in float32 on the CPU."""

        def join(values: list) -> Tensor | dict[str, Tensor]:
            if isinstance(values[0], dict):
                return {name: join([value[name] for value in values]) for name in values[0]}
            joined = torch.cat(values).cpu()
            return joined.float() if joined.is_floating_point() else joined

        return cls(**{f.name: join([getattr(part, f.name) for part in parts]) for f in fields(cls)})
