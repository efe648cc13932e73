"""Typicality: how far features lie from those of the training images."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from probcl.checks import as_labels, as_matrix, as_values, require_two

__all__ = ["Gate", "Gaussians"]

_LARGEST = 50_000


@dataclass(frozen=True)
class Gaussians:
    """One Gaussian of the features, or one for each class, with a covariance in common.

    Args:
        means: Shape ``(C, F)``.
        root: Matrix whose square, ``root root'``, is the inverse of the covariance; ``(F, F)``.
    """

    means: Tensor
    root: Tensor

    @classmethod
    def fit(cls, features: Any, labels: Any | None = None) -> "Gaussians":
        """Fit them to at most 50,000 evenly spaced items, the covariance shrunk.

        Args:
            features: Shape ``(N, F)``.
            labels: Classes, shape ``(N,)``; without them there is one Gaussian.

        References:
            Ledoit and Wolf (2004), https://doi.org/10.1016/S0047-259X(03)00096-4; Lee et al.
            (2018), https://arxiv.org/abs/1807.03888
        """
        x = as_matrix("features", features)
        require_two("features", x)
        y = torch.zeros(len(x), dtype=torch.long)
        if labels is not None:
            y = as_labels("labels", labels, len(x)).unique(return_inverse=True)[1]
        rows = torch.linspace(0, len(x) - 1, min(_LARGEST, len(x))).round().long()
        x, y = x[rows].double(), y[rows]
        sums = x.new_zeros(int(y.max()) + 1, x.shape[1]).index_add_(0, y, x)
        means = sums / y.bincount()[:, None].clamp_min(1)
        covariance = torch.as_tensor(ledoit_wolf((x - means[y]).numpy(), assume_centered=True)[0])
        # A feature that never changes, as of a dead unit, would leave no inverse.
        floor = 1e-6 * covariance.diagonal().mean().clamp_min(1e-12)
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp_min(floor).rsqrt()
        return cls(means.float(), root.float())

    def distance(self, features: Tensor) -> Tensor:
        """Return the Mahalanobis distance of features ``(N, F)`` to the nearest mean, ``(N,)``."""
        whitened, means = features @ self.root, self.means @ self.root
        if len(means) == 1:  # without the rounding of a difference of squares
            return torch.linalg.vector_norm(whitened - means, dim=-1)
        return torch.cdist(whitened, means).amin(-1)


@dataclass(frozen=True)
class Gate:
    """How typical an input of some distance is, from 1 for a familiar one to 0.

        w(D) = 1 / (1 + (D / D99)^p),  w(D90) = 0.99

    ``D90`` and ``D99`` are quantiles of the distances of clean images that were held out: nine in
    ten of them are left alone, and ``w`` is 0.5 where an image in a hundred is as far.

    Args:
        half: The distance ``D99`` at which ``w`` is 0.5.
        power: The exponent ``p``.
    """

    half: float
    power: float

    @classmethod
    def fit(cls, distances: Any) -> "Gate":
        """Fit the gate to the distances of clean images that were held out, shape ``(N,)``."""
        values = as_values("distances", distances)
        require_two("distances", values)
        near, high = values.quantile(torch.tensor([0.9, 0.99], dtype=torch.double)).tolist()
        spread = max(math.log(high / near), 1e-3) if near > 0 else 1.0
        return cls(max(high, 1e-30), math.log(99) / spread)

    def __call__(self, distances: Tensor) -> Tensor:
        """Map distances ``(N,)`` to typicality in [0, 1], in float64."""
        ratio = (distances.double() / self.half).clamp_min(1e-30).log()
        return torch.sigmoid(-self.power * ratio)
