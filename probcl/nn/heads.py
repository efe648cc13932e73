"""Heads: modules that map features to embeddings, or to distributions over embeddings."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from probcl.checks import check_amount, check_choice, check_count
from probcl.distributions import Point, PowerSpherical, ProjectedNormal, VonMisesFisher
from probcl.distributions.rotationally_symmetric import RotationallySymmetric
from probcl.precision import at_least_float32
from probcl.sphere import normalize

__all__ = [
    "MLP", "BatchNormMLP", "Covariance", "PointHead", "PowerSphericalHead", "ProjectedNormalHead",
    "VonMisesFisherHead",
]  # fmt: skip

Covariance = Literal["isotropic", "diagonal", "low_rank"]


class MLP(nn.Sequential):
    """Two-layer perceptron; the number of input features is taken from the first batch.

    Args:
        dim: Number of outputs.
        hidden: Number of hidden units; None for a linear map.

    Example:
        >>> MLP(3)(torch.zeros(2, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(self, dim: int = 128, hidden: int | None = 128) -> None:
        if hidden is None:
            super().__init__(nn.LazyLinear(dim))
        else:
            super().__init__(nn.LazyLinear(hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.dim = dim


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
        >>> BatchNormMLP(3, hidden=8)(torch.zeros(2, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(self, dim: int = 128, hidden: int = 512, layers: int = 2) -> None:
        check_count("layers", layers, least=2)
        modules: list[nn.Module] = []
        for _ in range(layers - 1):
            # Batch normalisation would take a bias away again.
            modules += [nn.LazyLinear(hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        super().__init__(*modules, nn.LazyLinear(dim))
        self.dim = dim


class PointHead(nn.Module):
    """A point on the sphere as posterior: the normalised projection, for deterministic methods.

    Args:
        projection: Features to the embedding before normalisation; by default ``MLP()``. The
            attribute ``dim`` is its own, or the width of its last linear layer, or None.

    Example:
        >>> PointHead(MLP(3))(torch.zeros(2, 5)).event_shape
        torch.Size([3])
    """

    def __init__(self, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.projection = MLP() if projection is None else projection
        widths = [m.out_features for m in self.projection.modules() if isinstance(m, nn.Linear)]
        self.dim = getattr(self.projection, "dim", widths[-1] if widths else None)

    def project(self, features: Tensor) -> Tensor:
        """Map features ``(*, F)`` to embeddings before normalisation, ``(*, d)``."""
        # Batch normalisation takes a single leading dimension.
        flat = self.projection(features.reshape(-1, features.shape[-1]))
        return at_least_float32(flat).reshape(*features.shape[:-1], -1)

    def forward(self, features: Tensor) -> Point:
        """Map features ``(*, F)`` to points, distributions of batch shape ``(*,)``."""
        return Point(normalize(self.project(features)))


class _LocatedHead(nn.Module):
    """A head whose embedding before normalisation is a location, by a perceptron."""

    def __init__(self, dim: int, hidden: int | None) -> None:
        super().__init__()
        self.dim = dim
        self.loc = MLP(dim, hidden)

    def project(self, features: Tensor) -> Tensor:
        """Map features ``(*, F)`` to embeddings before normalisation, ``(*, d)``."""
        return self.loc(features)


class ProjectedNormalHead(_LocatedHead):
    r"""Projected-normal posterior, ``PN(mu(h), Sigma(h))``.

    ``Sigma`` is ``sigma(h)^2 I`` if isotropic, ``diag(sigma(h)^2)`` if diagonal, and
    ``W(h) W(h)' + diag(sigma(h)^2)`` if of low rank.

    Args:
        dim: Dimension ``d`` of the embedding.
        hidden: Hidden units of each perceptron: for the location, the log scale and the factor;
            None for linear maps.
        covariance: ``"isotropic"``, ``"diagonal"`` or ``"low_rank"``.
        rank: Columns of ``W``, for ``"low_rank"``.

    Raises:
        ValueError: If ``covariance`` is none of these or ``rank`` is not positive.

    Example:
        >>> ProjectedNormalHead(3, covariance="isotropic")(torch.zeros(2, 5)).batch_shape
        torch.Size([2])
    """

    def __init__(
        self,
        dim: int = 128,
        hidden: int | None = 128,
        covariance: Covariance = "diagonal",
        rank: int = 4,
    ) -> None:
        check_choice("covariance", covariance, Covariance)
        super().__init__(dim, hidden)
        self.rank = check_count("rank", rank)
        self.log_scale = MLP(1 if covariance == "isotropic" else dim, hidden)
        self.factor = MLP(dim * rank, hidden) if covariance == "low_rank" else None

    def forward(self, features: Tensor) -> ProjectedNormal:
        """Map features ``(*, F)`` to posteriors of batch shape ``(*,)``."""
        loc, scale = self.project(features), torch.exp(self.log_scale(features))
        if self.factor is None:
            return ProjectedNormal(loc, scale)
        factor = self.factor(features).unflatten(-1, (self.dim, self.rank)) / math.sqrt(self.rank)
        return ProjectedNormal(loc, cov_factor=factor, cov_diag=scale.square())


class _RotationallySymmetricHead(_LocatedHead):
    """Common ground of the heads with a mean direction and a concentration."""

    family: type[RotationallySymmetric]

    def __init__(
        self, dim: int = 128, hidden: int | None = 128, concentration: float | None = None
    ) -> None:
        start = dim if concentration is None else concentration
        check_amount("concentration", start, above=True)
        super().__init__(dim, hidden)
        self.log_concentration = MLP(1, hidden)
        self.start = math.log(start)

    def forward(self, features: Tensor) -> RotationallySymmetric:
        """Map features ``(*, F)`` to posteriors of batch shape ``(*,)``."""
        log_concentration = self.start + self.log_concentration(features).squeeze(-1)
        return self.family(normalize(self.project(features)), log_concentration.exp())


class VonMisesFisherHead(_RotationallySymmetricHead):
    """Von Mises-Fisher posterior, ``vMF(mu(h), kappa(h))``.

    Args:
        dim: Dimension ``d`` of the embedding.
        hidden: Hidden units of the two perceptrons, for the direction and the log concentration;
            None for linear maps.
        concentration: Concentration that training starts about; ``dim`` if None.

    Raises:
        ValueError: If ``concentration`` is not a finite positive number.

    Example:
        >>> VonMisesFisherHead(3)(torch.zeros(2, 5)).batch_shape
        torch.Size([2])
    """

    family = VonMisesFisher


class PowerSphericalHead(_RotationallySymmetricHead):
    """Power Spherical posterior, ``PowerSpherical(mu(h), kappa(h))``.

    Args:
        dim: Dimension ``d`` of the embedding.
        hidden: As for ``VonMisesFisherHead``.
        concentration: As for ``VonMisesFisherHead``.

    Raises:
        ValueError: If ``concentration`` is not a finite positive number.

    Example:
        >>> PowerSphericalHead(3)(torch.zeros(2, 5)).batch_shape
        torch.Size([2])
    """

    family = PowerSpherical
