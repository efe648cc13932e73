"""Detectors of inputs unlike the training items, from frozen features and their linear probe.

In every one the larger is the less like them; ``features`` have shape ``(N, F)``, scores ``(N,)``.
The Mahalanobis distances are in ``ood``, the energy is ``-logsumexp`` of the probe's logits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probcl.checks import as_matrix, check_probability
from probcl.evaluation.knn import nearest
from probcl.evaluation.ood import Gaussians
from probcl.evaluation.probe import LinearProbe
from probcl.evaluation.subsets import evenly_spaced, in_blocks
from probcl.sphere import normalize

__all__ = [
    "Rectified", "VirtualLogit", "fit_rectified", "fit_virtual_logit", "neighbour_distance",
    "relative_mahalanobis",
]  # fmt: skip

BANK = 4096  # items that stand for all as neighbours: a few per cent suffice, as the paper finds


def neighbour_distance(features: Any, training: Any, k: int = 50) -> Tensor:
    """Return the distance of the normalised features to their ``k``-th nearest of training.

    Args:
        features: Shape ``(N, F)``.
        training: Features of training items, ``(M, F)``; at most 4,096, evenly spaced, are used.
        k: Number of the neighbour; all there are if there are fewer.

    References:
        Sun et al. (2022), Out-of-distribution detection with deep nearest neighbors.
        https://arxiv.org/abs/2204.06507
    """
    bank = as_matrix("training", training)
    rows = evenly_spaced(len(bank), BANK)
    own = as_matrix("features", features, dim=bank.shape[1])
    known, k = normalize(bank[rows]).to(own.dtype), min(k, len(rows))
    cosine = in_blocks(lambda part: nearest(normalize(part), known, k).cosine[:, -1], own)
    return (2 - 2 * cosine.double()).clamp_min(0).sqrt()


def relative_mahalanobis(features: Tensor, classes: Gaussians, background: Gaussians) -> Tensor:
    """Return the squared Mahalanobis distance to the nearest class, less that to all items.

    Args:
        features: Shape ``(N, F)``.
        classes: A Gaussian of each class, of one covariance.
        background: One Gaussian of all items.

    References:
        Ren et al. (2021), A simple fix to Mahalanobis distance. https://arxiv.org/abs/2106.09022
    """
    squares = (g.distance(features).double().square() for g in (classes, background))
    return next(squares) - next(squares)


@dataclass(frozen=True)
class Rectified:
    """The energy of features that are clipped from above (ReAct).

    Args:
        threshold: The largest activation that counts.
        probe: Linear classifier of the features.
    """

    threshold: float
    probe: LinearProbe

    def __call__(self, features: Tensor) -> Tensor:
        """Return the energy of features ``(N, F)``, shape ``(N,)``."""
        return in_blocks(self._energy, features)

    def _energy(self, features: Tensor) -> Tensor:
        return -self.probe.logits(features.clamp(max=self.threshold)).double().logsumexp(-1)


def fit_rectified(features: Any, probe: LinearProbe, share: float = 0.9) -> Rectified:
    """Clip at a quantile of the activations of training items.

    Args:
        features: Of training items, shape ``(M, F)``.
        probe: Linear classifier of them.
        share: Of the activations that stay as they are.

    References:
        Sun et al. (2021), ReAct: Out-of-distribution detection with rectified activations.
        https://arxiv.org/abs/2111.12797
    """
    x = as_matrix("features", features)
    # The k-th smallest: torch's quantile takes no more than 16 million numbers.
    rank = round(check_probability("share", share) * (x.numel() - 1)) + 1
    return Rectified(x.flatten().kthvalue(rank).values.item(), probe)


@dataclass(frozen=True)
class VirtualLogit:
    """What of the features the principal space leaves over, as one more logit (ViM).

        alpha |R' (x - u)| - logsumexp(logits(x))

    Args:
        origin: Where all logits are equal, as nearly as can be: ``u``, shape ``(F,)``.
        residual: Orthonormal directions ``R`` beside the principal space, ``(F, F - D)``.
        alpha: Scale that gives the residual the mean of the training items' largest logits.
        probe: Linear classifier of the features.
    """

    origin: Tensor
    residual: Tensor
    alpha: float
    probe: LinearProbe

    def __call__(self, features: Tensor) -> Tensor:
        """Return the score of features ``(N, F)``, shape ``(N,)``."""
        return in_blocks(self._score, features)

    def _score(self, features: Tensor) -> Tensor:
        left_over = (features.to(self.origin) - self.origin) @ self.residual
        norm = torch.linalg.vector_norm(left_over, dim=-1)
        return (self.alpha * norm - self.probe.logits(features).logsumexp(-1)).double()


def fit_virtual_logit(features: Any, probe: LinearProbe, dim: int | None = None) -> VirtualLogit:
    """Fit the principal space of training items.

    Args:
        features: Of training items, shape ``(M, F)``.
        probe: Linear classifier of them.
        dim: Dimension ``D`` of the principal space, below ``F``; by default, as in the paper, 1,000
            of 1,500 features or more, 512 of 768 or more, else half.

    Raises:
        ValueError: If ``dim`` is out of range.

    References:
        Wang et al. (2022), ViM: Out-of-distribution with virtual-logit matching.
        https://arxiv.org/abs/2203.10807
    """
    x = as_matrix("features", features).float()
    count = x.shape[1]
    if dim is None:
        dim = 1000 if count >= 1500 else 512 if count >= 768 else count // 2
    if not 0 <= dim < count:
        raise ValueError(f"dim must be from 0 to {count - 1}, below the features, got {dim}.")
    seen = probe.bias.isfinite()
    weight = probe.weight[seen].double() / probe.scale
    bias = probe.bias[seen] - weight @ probe.mean.double()
    # What all logits share says nothing: left in, its rounding would be divided by itself.
    weight, bias = weight - weight.mean(0), bias - bias.mean()
    origin = -(torch.linalg.pinv(weight, rtol=1e-6) @ bias).float()
    centred = x - origin
    _, vectors = torch.linalg.eigh(centred.T.double() @ centred.double())  # ascending
    residual = vectors[:, : count - dim].float()
    norm, whole = (
        torch.linalg.vector_norm(part, dim=-1).mean().item()
        for part in (centred @ residual, centred)
    )
    # Nothing of the features is left over where there is but rounding.
    alpha = probe.logits(x).amax(-1).mean().item() / norm if norm > 1e-5 * whole else 0.0
    return VirtualLogit(origin, residual, alpha, probe)
