"""Common ground of the baselines: a point for a posterior, and a loss stated as a factor."""

from collections.abc import Sequence
from importlib import import_module

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from probcl.checks import check_vectors
from probcl.nn import PointHead
from probcl.programs.program import Program

__all__ = ["BatchNormMLP", "PointProgram", "lightly_loss", "mean_over_other_views"]


class BatchNormMLP(nn.Sequential):
    """Perceptron with batch normalisation; the number of inputs is taken from the first batch.

    Each hidden layer is linear, normalised over the batch and cut off at zero; the last is linear.

    Args:
        dim: Number of outputs.
        hidden: Number of units of each hidden layer.
        layers: Number of linear layers, at least 2.

    Raises:
        ValueError: If ``layers`` is less than 2.

    Example:
        >>> import torch
        >>> BatchNormMLP(3, hidden=8)(torch.zeros(2, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(self, dim: int = 128, hidden: int = 512, layers: int = 2) -> None:
        if layers < 2:
            raise ValueError(f"layers must be at least 2, got {layers}.")
        modules: list[nn.Module] = []
        for _ in range(layers - 1):
            # Batch normalisation would take a bias away again.
            modules += [nn.LazyLinear(hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        super().__init__(*modules, nn.LazyLinear(dim))
        self.dim = dim


class PointProgram(Program):
    """A program whose posterior is a point, the direction of a projection; its guide is empty.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation.
    """

    def __init__(self, encoder: nn.Module, projection: nn.Module) -> None:
        super().__init__(encoder)
        self.posterior_head = PointHead(projection)

    def project(self, features: Tensor) -> Tensor:
        """Map features ``(*, F)`` to embeddings before normalisation, ``(*, d)``."""
        return self.posterior_head.project(features)

    def posterior_from_features(self, features: Tensor) -> dist.Delta:
        """Map features ``(*, F)`` to points, distributions of batch shape ``(*,)``."""
        return self.posterior_head(features)

    def guide(self, views: Tensor | Sequence[Tensor], labels: Tensor | None = None) -> None:
        """Do nothing: there is no latent variable."""

    def _learns(self) -> bool:
        """Return whether this run of the model is one of training."""
        return self.training and torch.is_grad_enabled()

    def _project_views(self, views: Tensor) -> Tensor:
        """Map views ``(V, B, ...)`` to embeddings before normalisation, ``(V, B, d)``."""
        z = self.project(self._view_features(views))
        check_vectors("the projection", z)
        return z


def mean_over_other_views(losses: Tensor) -> Tensor:
    """Average the loss of each view over the other views of its image.

    Args:
        losses: Of view ``v`` against view ``w`` of image ``b`` at ``[v, b, w]``.

    Returns:
        Loss of each anchor, shape ``(V, B)``.
    """
    views = len(losses)
    itself = torch.eye(views, dtype=torch.bool, device=losses.device)[:, None]
    return losses.masked_fill(itself, 0.0).sum(-1) / (views - 1)


def lightly_loss(program: str, name: str) -> type[nn.Module]:
    """Return a class of ``lightly.loss``, or raise ``ValueError`` if lightly is not installed."""
    try:
        return getattr(import_module("lightly.loss"), name)
    except ImportError as error:
        raise ValueError(f"{program} needs lightly: pip install 'probcl[baselines]'.") from error
