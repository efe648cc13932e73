"""Geometry of an embedding: its rank, how close classes lie, how evenly the sphere is used.

Embeddings are unit vectors of shape ``(N, d)``, ``labels`` their classes, of shape ``(N,)``.
"""

from typing import Any

import torch
from torch import Tensor

from probcl.checks import as_labels, as_matrix
from probcl.evaluation.subsets import evenly_spaced

__all__ = [
    "alignment", "class_concentration", "class_mean_angles", "class_sums", "effective_rank",
    "participation_ratio", "singular_spectrum", "uniformity",
]  # fmt: skip

_BLOCK = 4096  # rows in float64 at once


def singular_spectrum(embedding: Tensor) -> Tensor:
    """Return the singular values of the embeddings ``(N, d)``, largest first."""
    # Of the Gram matrix, whose size does not grow with N; it squares the condition, so in float64.
    if len(embedding) < embedding.shape[1]:
        return torch.linalg.svdvals(embedding.double())
    gram = torch.zeros(2 * embedding.shape[1:], dtype=torch.double)
    for part in embedding.split(_BLOCK):
        gram.addmm_(part.T.double(), part.double())
    return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt()


def effective_rank(spectrum: Tensor) -> float:
    """Return the exponential of the entropy of the normalised singular values ``(d,)``.

    References:
        Garrido et al. (2023), RankMe. https://arxiv.org/abs/2210.02885

    Example:
        >>> round(effective_rank(torch.tensor([1.0, 1.0, 0.0])), 6)
        2.0
    """
    share = spectrum / spectrum.sum()
    return torch.special.entr(share).sum().exp().item()


def participation_ratio(spectrum: Tensor) -> float:
    """Return ``(sum s^2)^2 / sum s^4`` of singular values: how many dimensions share the variance.

    Example:
        >>> participation_ratio(torch.tensor([1.0, 1.0, 0.0]))
        2.0
    """
    square = (spectrum.double() / spectrum.max()).square()
    return (square.sum().square() / square.square().sum()).item()


def alignment(embedding: Any, labels: Any) -> float:
    """Return the mean squared distance of two unit vectors of one class, over all such pairs.

    Raises:
        ValueError: If no class has two members.

    References:
        Wang and Isola (2020), Alignment and uniformity. https://arxiv.org/abs/2005.10242
    """
    z, y = _unit(embedding, labels)
    counts, sums = y.bincount().double(), class_sums(z, y)
    pairs = (counts * (counts - 1)).sum()
    if not pairs:
        raise ValueError("labels must name a class of two members at least, got none.")
    # |a - b|^2 = 2 - 2 a.b, and the cosines of all pairs of a class are in its squared sum.
    cosines = (sums.square().sum(-1) - counts).sum()
    return (2 - 2 * cosines / pairs).item()


def uniformity(embedding: Any, largest: int = 5000) -> float:
    """Return ``log mean exp(-2 |a - b|^2)`` over pairs of embeddings; the lower, the more even.

    Args:
        embedding: Unit vectors, shape ``(N, d)``.
        largest: The pairs are those of at most so many embeddings, evenly spaced.

    References:
        Wang and Isola (2020), Alignment and uniformity. https://arxiv.org/abs/2005.10242
    """
    z = as_matrix("embedding", embedding, least=2)
    z = z[evenly_spaced(len(z), largest)]
    square, total = 2 * z.double().square().sum(-1), torch.zeros((), dtype=torch.double)
    for start in range(0, len(z), 64):
        rows = slice(start, start + 64)
        exponent = 4 * z[rows] @ z.T - square[rows, None] - square
        exponent.diagonal(start).fill_(-torch.inf)  # of an embedding with itself
        total += exponent.exp().sum()
    return (total / (len(z) * (len(z) - 1))).log().item()


def class_concentration(embedding: Any, labels: Any) -> dict[int, float]:
    """Return the mean resultant length of each class: 1 where all its unit vectors are one."""
    z, y = _unit(embedding, labels)
    counts = y.bincount()
    length = class_sums(z, y).norm(dim=-1) / counts
    return {int(c): length[c].item() for c in counts.nonzero()[:, 0]}


def class_mean_angles(embedding: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Return the classes ``(C,)``, and the angles ``(C, C)`` of their means, in degrees."""
    z, y = _unit(embedding, labels)
    classes = y.unique()
    mean = torch.nn.functional.normalize(class_sums(z, y)[classes], dim=-1)
    # An angle from its chord: arccos would lose half the digits near 0.
    return classes, torch.rad2deg(2 * torch.asin((torch.cdist(mean, mean) / 2).clamp(max=1)))


def _unit(embedding: Any, labels: Any) -> tuple[Tensor, Tensor]:
    z = as_matrix("embedding", embedding)
    return z, as_labels("labels", labels, len(z))


def class_sums(z: Tensor, y: Tensor) -> Tensor:
    """Return the sums in float64 of the vectors ``(N, d)`` of each class ``(N,)``, ``(C, d)``."""
    sums = torch.zeros(int(y.max()) + 1, z.shape[1], dtype=torch.double)
    for part, own in zip(z.split(_BLOCK), y.split(_BLOCK), strict=True):
        sums.index_add_(0, own, part.double())
    return sums
