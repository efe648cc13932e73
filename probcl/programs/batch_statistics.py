"""Programs whose loss is a statistic of the batch, lightly's: SwAV, VICReg, Barlow Twins."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import combinations

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from probcl.checks import check_amount, check_count
from probcl.nn import BatchNormMLP
from probcl.precision import full_precision
from probcl.programs.program import PointProgram, Temperature, Views, dim_of, stack_views
from probcl.sphere import normalize

__all__ = ["BarlowTwins", "SwAV", "VICReg"]


class SwAV(PointProgram):
    r"""SwAV: each view predicts, from its cosines to prototypes, the code of every large view.

    With embeddings ``z`` and prototypes ``c`` of unit length, and the code ``Q_w`` of a large view
    ``w``, the cosines ``z_w . c`` over ``sinkhorn_epsilon`` made a plan that uses every prototype
    alike (Sinkhorn-Knopp, without gradient),

        loss = mean_w mean_{v != w} mean_b -sum_k Q_wbk log softmax_k(z_vb . c / temperature)

    with ``w`` over the large views and ``v`` over all. Of views of several sizes, a list as
    ``MultiCrop`` makes it, those of the largest size are the large ones.

    The loss is lightly's ``SwaVLoss``; in a process group the codes are those of all ranks'
    embeddings together. Each run of the model in training mode with gradients switched on first
    makes the prototypes unit vectors again. There is no queue of features: a batch should have as
    many views as there are prototypes. The defaults are the paper's, but for a smaller projection
    and fewer prototypes: it has 3,000 on ImageNet.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default ``BatchNormMLP()``.
        num_prototypes: Number of prototypes, at least 2; several for each class to be told apart.
        temperature: Positive number that divides the cosines.
        sinkhorn_epsilon: Positive number that divides the cosines in the codes.
        sinkhorn_iterations: Number of times that the plan is balanced, at least 1.
        learn_temperature: Whether the temperature is learned, from there, and kept at 0.01 or more.

    Raises:
        ValueError: If a number is out of its range, or lightly (extra ``baselines``) is missing.

    References:
        Caron et al. (2020), Unsupervised Learning of Visual Features by Contrasting Cluster
        Assignments. https://arxiv.org/abs/2006.09882
    """

    def __init__(
        self,
        encoder: nn.Module,
        projection: nn.Module | None = None,
        num_prototypes: int = 256,
        temperature: float = 0.1,
        sinkhorn_epsilon: float = 0.05,
        sinkhorn_iterations: int = 3,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(encoder, BatchNormMLP() if projection is None else projection)
        check_count("num_prototypes", num_prototypes, least=2)
        check_amount("sinkhorn_epsilon", sinkhorn_epsilon, above=True)
        check_count("sinkhorn_iterations", sinkhorn_iterations)
        self.temperature = Temperature(temperature, learn_temperature)
        prototypes = torch.randn(num_prototypes, dim_of(self.posterior_head))
        self.prototypes = nn.Parameter(normalize(prototypes))
        self._loss = partial(
            _lightly_loss("SwAV", "SwaVLoss"),
            sinkhorn_iterations=sinkhorn_iterations,
            sinkhorn_epsilon=sinkhorn_epsilon,
            sinkhorn_gather_distributed=torch.distributed.is_available(),
        )

    def model(self, views: Views, labels: Tensor | None = None) -> None:
        """Weigh the views by how well they predict the codes of the large ones."""
        sizes = _by_size(views)
        self._start(sizes[0])
        if self._learns():
            with torch.no_grad():
                self.prototypes.copy_(normalize(self.prototypes))
        embeddings = map(self._project_views, sizes)
        large, *small = [_cosines(z, self.prototypes) for z in embeddings]
        loss = self._loss(self.temperature())
        pyro.factor("contrastive", -loss(list(large), [z for same in small for z in same])[0])


class _RedundancyReduction(PointProgram):
    """A program with a loss of two views of a batch, averaged over all pairs of views."""

    def __init__(
        self, encoder: nn.Module, projection: nn.Module | None, loss: str, **weights: float
    ) -> None:
        projection = BatchNormMLP(512, layers=3) if projection is None else projection
        super().__init__(encoder, projection)
        for name, weight in weights.items():
            check_amount(name, weight)
        self.loss = _lightly_loss(type(self).__name__, loss)(
            *weights.values(), gather_distributed=torch.distributed.is_available()
        )

    def model(self, views: Views, labels: Tensor | None = None) -> None:
        """Weigh the views by the loss, a statistic of the batch."""
        views = self._start(views)
        if views.shape[1] < 2:
            raise ValueError(
                f"the batch must hold B >= 2 images for its variance, got {views.shape[1]}."
            )
        pyro.factor("contrastive", -_mean_over_pairs(self._project_views(views), self.loss))


class VICReg(_RedundancyReduction):
    r"""VICReg: views of an image alike, coordinates of a variance, and uncorrelated.

    With projections ``z`` and ``z'`` of two views, ``(B, d)``, and their covariance ``C`` over the
    batch,

        loss = invariance_weight  mean (z - z')^2
             + variance_weight    (1/2) sum_{z, z'} (1/d) sum_i max(0, 1 - sqrt(C_ii + 0.0001))
             + covariance_weight  sum_{z, z'} (1/d) sum_{i != j} C_ij^2

    averaged over all pairs of views. It is lightly's ``VICRegLoss``, with its gradients; in a
    process group variance and covariance are those of all ranks' batches together. The loss is on
    projections of any length; the embedding is their direction. What is meant to be used afterwards
    are the features. The weights are the paper's; its projection has 8,192 units in each layer.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default
            ``BatchNormMLP(512, layers=3)``.
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
        super().__init__(
            encoder,
            projection,
            "VICRegLoss",
            invariance_weight=invariance_weight,
            variance_weight=variance_weight,
            covariance_weight=covariance_weight,
        )


class BarlowTwins(_RedundancyReduction):
    r"""Barlow Twins: the cross-correlation of two views' coordinates is to be the identity.

    With ``R_ij`` the correlation, over the batch, of coordinate ``i`` of one view's projection and
    coordinate ``j`` of the other's,

        loss = sum_i (1 - R_ii)^2 + redundancy_weight sum_{i != j} R_ij^2

    averaged over all pairs of views. It is lightly's ``BarlowTwinsLoss``; in a process group ``R``
    is the mean over ranks of each one's correlation. The weight is the paper's. All else is as for
    ``VICReg``.

    Args:
        encoder: Images to features.
        projection: As for ``VICReg``.
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
        super().__init__(
            encoder, projection, "BarlowTwinsLoss", redundancy_weight=redundancy_weight
        )


@full_precision
def _cosines(z: Tensor, prototypes: Tensor) -> Tensor:
    return linear(normalize(z), prototypes.to(z))


@full_precision
def _mean_over_pairs(z: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    return torch.stack([loss(a, b) for a, b in combinations(z, 2)]).mean()


def _by_size(views: Views) -> list[Tensor]:
    """Return the views of each size as one tensor ``(V, B, ...)``, the largest first."""
    if isinstance(views, Tensor) or len({view.shape for view in views}) < 2:
        return [stack_views(views)]
    sizes: dict[torch.Size, list[Tensor]] = {}
    for view in sorted(views, key=lambda view: -view.shape[-2:].numel()):
        sizes.setdefault(view.shape, []).append(view)
    if len({shape[:-2] for shape in sizes}) > 1 or not all(map(torch.Size.numel, sizes)):
        raise ValueError(
            "views may differ in height and width only, and must hold an image, got "
            f"{' and '.join(str(tuple(shape)) for shape in sizes)}."
        )
    return [torch.stack(same) for same in sizes.values()]


def _lightly_loss(program: str, name: str) -> type[nn.Module]:
    """Return a class of ``lightly.loss``, or raise ``ValueError`` if lightly is not installed."""
    try:
        return getattr(import_module("lightly.loss"), name)
    except ImportError as error:
        raise ValueError(f"{program} needs lightly: pip install 'probcl[baselines]'.") from error
