"""SwAV: views of an image predict one another's place among prototypes."""

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from probcl.checks import check_temperature
from probcl.precision import full_precision
from probcl.programs.points import BatchNormMLP, PointProgram, lightly_loss
from probcl.programs.program import stack_views
from probcl.sphere import normalize

__all__ = ["SwAV"]


class SwAV(PointProgram):
    r"""SwAV: each view predicts, from its cosines to prototypes, the code of every large view.

    With embeddings ``z`` and prototypes ``c`` of unit length, and the code ``Q_w`` of a large view
    ``w``, the cosines ``z_w . c`` over ``sinkhorn_epsilon`` made a plan that uses every prototype
    alike (Sinkhorn-Knopp, without gradient),

        loss = mean_w mean_{v != w} mean_b -sum_k Q_wbk log softmax_k(z_vb . c / temperature)

    with ``w`` over the large views and ``v`` over all. Views of several sizes come as a list, as
    ``MultiCrop`` makes them: those of the largest size are the large ones. Of one size, all are.

    The loss is lightly's ``SwaVLoss``. The prototypes are made unit vectors again at the start of
    each run of the model in training mode with gradients switched on. In a process group the codes
    are those of all ranks' embeddings together, by lightly's ``sinkhorn_gather_distributed``. There
    is no queue of features: a batch should have as many views as there are prototypes. The
    embedding is the normalised projection.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default ``BatchNormMLP()``
            of ``probcl.programs.points``.
        num_prototypes: Number of prototypes, at least 2; several for each class to be told apart.
        temperature: Positive number that divides the cosines.
        sinkhorn_epsilon: Positive number that divides the cosines in the codes.
        sinkhorn_iterations: Number of times that the plan is balanced, at least 1.

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
    ) -> None:
        super().__init__(encoder, BatchNormMLP() if projection is None else projection)
        if num_prototypes < 2:
            raise ValueError(f"num_prototypes must be at least 2, got {num_prototypes}.")
        if not 0 < sinkhorn_epsilon < float("inf"):
            raise ValueError(
                f"sinkhorn_epsilon must be a finite number above 0, got {sinkhorn_epsilon}."
            )
        if sinkhorn_iterations < 1:
            raise ValueError(f"sinkhorn_iterations must be at least 1, got {sinkhorn_iterations}.")
        self.prototypes = nn.Parameter(
            normalize(torch.randn(num_prototypes, self.posterior_head.dim))
        )
        self.loss = lightly_loss("SwAV", "SwaVLoss")(
            check_temperature(temperature),
            sinkhorn_iterations,
            sinkhorn_epsilon,
            sinkhorn_gather_distributed=torch.distributed.is_available(),
        )

    def model(self, views: Tensor | Sequence[Tensor], labels: Tensor | None = None) -> None:
        """Weigh the views by how well they predict the codes of the large ones."""
        sizes = _by_size(views)
        self._register(sizes[0])
        if self._learns():
            with torch.no_grad():
                self.prototypes.copy_(normalize(self.prototypes))
        large, *small = [self._cosines(same) for same in sizes]
        pyro.factor("contrastive", -self.loss(list(large), [z for same in small for z in same])[0])

    def _cosines(self, views: Tensor) -> Tensor:
        return _cosines(normalize(self._project_views(views)), self.prototypes)


@full_precision
def _cosines(z: Tensor, prototypes: Tensor) -> Tensor:
    return linear(z, prototypes)


def _by_size(views: Tensor | Sequence[Tensor]) -> list[Tensor]:
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
