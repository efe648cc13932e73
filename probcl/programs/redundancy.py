"""Programs that make the coordinates of an embedding say different things."""

from collections.abc import Callable, Sequence
from itertools import combinations

import pyro
import torch
from torch import Tensor, nn

from probcl.precision import full_precision
from probcl.programs.points import BatchNormMLP, PointProgram, lightly_loss
from probcl.programs.program import stack_views

__all__ = ["BarlowTwins", "VICReg"]


class _RedundancyReduction(PointProgram):
    """A program with a loss of two views of a batch, averaged over all pairs of views."""

    def __init__(self, encoder: nn.Module, projection: nn.Module | None, loss: nn.Module) -> None:
        projection = BatchNormMLP(512, layers=3) if projection is None else projection
        super().__init__(encoder, projection)
        self.loss = loss

    def model(self, views: Tensor | Sequence[Tensor], labels: Tensor | None = None) -> None:
        """Weigh the views by the loss, a statistic of the batch."""
        views = stack_views(views)
        if views.shape[1] < 2:
            raise ValueError(
                f"the batch must hold B >= 2 images for its variance, got {views.shape[1]}."
            )
        self._register(views)
        pyro.factor("contrastive", -_mean_over_pairs(self._project_views(views), self.loss))


class VICReg(_RedundancyReduction):
    r"""VICReg: views of an image alike, coordinates of a variance, and uncorrelated.

    With projections ``z`` and ``z'`` of two views, ``(B, d)``, and their covariance ``C`` over the
    batch,

        loss = invariance_weight  mean (z - z')^2
             + variance_weight    (1/2) sum_{z, z'} (1/d) sum_i max(0, 1 - sqrt(C_ii + 0.0001))
             + covariance_weight  sum_{z, z'} (1/d) sum_{i != j} C_ij^2

    averaged over all pairs of views. It is lightly's ``VICRegLoss``; in a process group variance
    and covariance are those of all ranks' batches together, by its ``gather_distributed``, with
    lightly's gradients. The loss is on projections of any length; the embedding is their
    direction. What is meant to be used afterwards are the features.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default
            ``BatchNormMLP(512, layers=3)`` of ``probcl.programs.points``.
        invariance_weight: Weight of the squared distance, at least 0.
        variance_weight: Weight of the variance's hinge, at least 0.
        covariance_weight: Weight of the squared covariances, at least 0.

    Raises:
        ValueError: If a weight is out of its range, or lightly (extra ``baselines``) is missing.

    References:
        Bardes, Ponce, LeCun (2021), VICReg: Variance-Invariance-Covariance Regularization for
        Self-Supervised Learning. https://arxiv.org/abs/2105.04906
    """

    def __init__(
        self,
        encoder: nn.Module,
        projection: nn.Module | None = None,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
    ) -> None:
        loss = lightly_loss("VICReg", "VICRegLoss")(
            _weight("invariance_weight", invariance_weight),
            _weight("variance_weight", variance_weight),
            _weight("covariance_weight", covariance_weight),
            gather_distributed=torch.distributed.is_available(),
        )
        super().__init__(encoder, projection, loss)


class BarlowTwins(_RedundancyReduction):
    r"""Barlow Twins: the cross-correlation of two views' coordinates is to be the identity.

    With ``R_ij`` the correlation, over the batch, of coordinate ``i`` of one view's projection and
    coordinate ``j`` of the other's,

        loss = sum_i (1 - R_ii)^2 + redundancy_weight sum_{i != j} R_ij^2

    averaged over all pairs of views. It is lightly's ``BarlowTwinsLoss``; in a process group ``R``
    is the mean over ranks of each one's correlation, by its ``gather_distributed``, with lightly's
    gradients. The loss is on projections of any length; the embedding is their direction. What is
    meant to be used afterwards are the features.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default
            ``BatchNormMLP(512, layers=3)`` of ``probcl.programs.points``.
        redundancy_weight: Weight of the correlations of different coordinates, at least 0.

    Raises:
        ValueError: If the weight is out of its range, or lightly (extra ``baselines``) is missing.

    References:
        Zbontar et al. (2021), Barlow Twins: Self-Supervised Learning via Redundancy Reduction.
        https://arxiv.org/abs/2103.03230
    """

    def __init__(
        self,
        encoder: nn.Module,
        projection: nn.Module | None = None,
        redundancy_weight: float = 0.005,
    ) -> None:
        loss = lightly_loss("BarlowTwins", "BarlowTwinsLoss")(
            _weight("redundancy_weight", redundancy_weight),
            gather_distributed=torch.distributed.is_available(),
        )
        super().__init__(encoder, projection, loss)


@full_precision
def _mean_over_pairs(z: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    return torch.stack([loss(a, b) for a, b in combinations(z, 2)]).mean()


def _weight(name: str, value: float) -> float:
    if not 0.0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}.")
    return value
