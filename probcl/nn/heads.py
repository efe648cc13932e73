"""Heads: modules that map features to embeddings, or to distributions over embeddings."""

import torch
from torch import Tensor, nn

from probcl.distributions import ProjectedNormal

__all__ = ["MLP", "ProjectedNormalHead"]


class MLP(nn.Sequential):
    """Two-layer perceptron; the number of input features is taken from the first batch.

    Args:
        dim: Number of outputs.
        hidden: Number of hidden units.

    Example:
        >>> MLP(3)(torch.zeros(2, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(self, dim: int = 128, hidden: int = 128) -> None:
        super().__init__(nn.LazyLinear(hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.dim = dim


class ProjectedNormalHead(nn.Module):
    """Projected-normal posterior with diagonal covariance, ``PN(mu(h), diag sigma(h)^2)``.

    Args:
        dim: Dimension ``d`` of the embedding.
        hidden: Hidden units of the two perceptrons, for the location and the log scale.

    Example:
        >>> ProjectedNormalHead(3)(torch.zeros(2, 5)).batch_shape
        torch.Size([2])
    """

    def __init__(self, dim: int = 128, hidden: int = 128) -> None:
        super().__init__()
        self.dim = dim
        self.loc = MLP(dim, hidden)
        self.log_scale = MLP(dim, hidden)

    def forward(self, features: Tensor) -> ProjectedNormal:
        """Map features ``(*, F)`` to posteriors of batch shape ``(*,)``."""
        return ProjectedNormal(self.loc(features), torch.exp(self.log_scale(features)))
