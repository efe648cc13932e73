"""Heads: modules that map features to embeddings, or to distributions over embeddings."""

import math
from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from probcl.checks import check_choice, check_count
from probcl.distributions import Point, PowerSpherical, ProjectedNormal, VonMisesFisher
from probcl.distributions.rotationally_symmetric import RotationallySymmetric
from probcl.objectives.collectives import mean_over_ranks
from probcl.precision import at_least_float32
from probcl.special import inverse_bessel_ratio
from probcl.special.isotropic import relative_mean_resultant
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
        check_count("dim", dim)
        if hidden is None:
            super().__init__(nn.LazyLinear(dim))
        else:
            check_count("hidden", hidden)
            super().__init__(nn.LazyLinear(hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.dim = dim


class _ZeroLinear(nn.LazyLinear):
    """A linear map that starts at zero."""

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params() and self.in_features:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)


class _ZeroMLP(MLP):
    """A perceptron whose outputs start at zero, for every input."""

    def __init__(self, dim: int, hidden: int | None) -> None:
        super().__init__(dim, hidden)
        self[-1] = _ZeroLinear(dim)


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
        return at_least_float32(flat).reshape(*features.shape[:-1], flat.shape[-1])

    def forward(self, features: Tensor) -> Point:
        """Map features ``(*, F)`` to points, distributions of batch shape ``(*,)``."""
        return Point(normalize(self.project(features)))


class _LocatedHead(nn.Module):
    """A head whose embedding before normalisation is a location, by a perceptron."""

    def __init__(self, dim: int, hidden: int | None) -> None:
        super().__init__()
        self.dim = check_count("dim", dim, least=2)
        self.loc = MLP(dim, hidden)

    def project(self, features: Tensor) -> Tensor:
        """Map features ``(*, F)`` to embeddings before normalisation, ``(*, d)``."""
        return self.loc(features)


class ProjectedNormalHead(_LocatedHead):
    r"""Projected-normal posterior, ``PN(mu(h), Sigma(h))``.

    ``Sigma`` is ``sigma(h)^2 I`` if isotropic, ``diag(sigma(h)^2)`` if diagonal, and
    ``W(h) W(h)' + diag(sigma(h)^2)`` if of low rank. Since ``PN(mu, Sigma) = PN(c mu, c^2 Sigma)``
    only the ratio of ``|mu|`` to ``sigma`` counts. It starts where the mean resultant length is
    what is asked for, exactly for every input until the first batch of training; the mean of
    ``|mu|`` over that batch is then its unit, and from there on ``|mu|`` tells, as ``sigma`` does,
    how sure a posterior is. ``W`` starts at zero, and ``|mu|^2 + d sigma^2`` at ``d``, where
    the Gaussian bound of the KL is tightest.

    Without an initial resultant length the head is that of the VCL paper: ``sigma`` starts near 1,
    and in high dimension every posterior near the uniform, with a mean resultant length of about
    0.1 for ``d = 128``.

    Args:
        dim: Dimension ``d`` of the embedding.
        hidden: Hidden units of each perceptron: for the location, the log scale and the factor;
            None for linear maps.
        covariance: ``"isotropic"``, ``"diagonal"`` or ``"low_rank"``.
        rank: Columns of ``W``, for ``"low_rank"``.
        initial_resultant_length: Mean resultant length of every posterior at the start, in (0, 1);
            None for the paper's head.

    Raises:
        ValueError: If ``dim`` is below 2, ``covariance`` none of these, ``rank`` not positive, or
            ``initial_resultant_length`` not in (0, 1).

    References:
        Jeong, Kim, Hero (2025), Probabilistic Variational Contrastive Learning.
        https://arxiv.org/abs/2506.10159

    Example:
        >>> q = ProjectedNormalHead(3, covariance="isotropic")(torch.zeros(2, 5))
        >>> q.mean_resultant_length.detach()
        tensor([0.9000, 0.9000])
    """

    length: Tensor

    def __init__(
        self,
        dim: int = 128,
        hidden: int | None = 128,
        covariance: Covariance = "diagonal",
        rank: int = 4,
        initial_resultant_length: float | None = 0.9,
    ) -> None:
        check_choice("covariance", covariance, Covariance)
        super().__init__(dim, hidden)
        self.rank = check_count("rank", rank)
        self.ratio = None  # of |mu| to sigma, at the start
        if initial_resultant_length is not None:
            self.ratio = _normal_ratio(initial_resultant_length, dim)
            self.register_buffer("length", torch.zeros(()))  # of mu; not known yet
            self._measured = False
        mlp = MLP if self.ratio is None else _ZeroMLP
        self.log_scale = mlp(1 if covariance == "isotropic" else dim, hidden)
        self.factor = mlp(dim * rank, hidden) if covariance == "low_rank" else None

    def forward(self, features: Tensor) -> ProjectedNormal:
        """Map features ``(*, F)`` to posteriors of batch shape ``(*,)``."""
        # Under autocast a layer has few digits, of which an exponential would lose more.
        loc, log_scale = map(at_least_float32, (self.project(features), self.log_scale(features)))
        scale, unit = torch.exp(log_scale), 1.0
        if self.ratio is not None:
            unit = (self.dim / (self.dim + self.ratio**2)) ** 0.5
            loc, scale = self.ratio * unit * self._in_units(loc), unit * scale
        if self.factor is None:
            return ProjectedNormal(loc, scale)
        factor = self.factor(features).unflatten(-1, (self.dim, self.rank))
        factor = factor * (unit / math.sqrt(self.rank))
        return ProjectedNormal(loc, cov_factor=factor, cov_diag=scale.square())

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._measured = False  # the length may be that of a head that is not trained yet

    def _in_units(self, loc: Tensor) -> Tensor:
        """Return locations in units of their first length, each of its own before it is known."""
        if self.training and not self._measured:
            if not self.length > 0:
                length = mean_over_ranks(torch.linalg.vector_norm(loc.detach(), dim=-1).mean())
                # A batch that is empty, or will be refused, has no length that is one.
                self.length.copy_(torch.where(length.isfinite(), length, 0.0))
            self._measured = bool(self.length > 0)
        known = self.length > 0
        # Not divided by zero where it is not known: the gradient would not be finite.
        return torch.where(known, loc / torch.where(known, self.length, 1.0), normalize(loc))


class _RotationallySymmetricHead(_LocatedHead):
    """Common ground of the heads with a mean direction and a concentration."""

    family: type[RotationallySymmetric]

    def __init__(
        self,
        dim: int = 128,
        hidden: int | None = 128,
        initial_resultant_length: float = 0.9,
    ) -> None:
        super().__init__(dim, hidden)
        self.log_concentration = _ZeroMLP(1, hidden)
        self.start = math.log(self._concentration(_checked_length(initial_resultant_length)))

    def forward(self, features: Tensor) -> RotationallySymmetric:
        """Map features ``(*, F)`` to posteriors of batch shape ``(*,)``."""
        log_concentration = at_least_float32(self.log_concentration(features)).squeeze(-1)
        concentration = (self.start + log_concentration).exp()
        return self.family(normalize(self.project(features)), concentration)

    @abstractmethod
    def _concentration(self, length: float) -> float:
        """Return the concentration of a mean resultant length."""


class VonMisesFisherHead(_RotationallySymmetricHead):
    """Von Mises-Fisher posterior, ``vMF(mu(h), kappa(h))``.

    Args:
        dim: Dimension ``d`` of the embedding.
        hidden: Hidden units of the two perceptrons, for the direction and the log concentration;
            None for linear maps.
        initial_resultant_length: Mean resultant length of every posterior at the start, in (0, 1).

    Raises:
        ValueError: If ``dim`` is below 2, or ``initial_resultant_length`` not in (0, 1).

    Example:
        >>> VonMisesFisherHead(3)(torch.zeros(2, 5)).mean_resultant_length.detach()
        tensor([0.9000, 0.9000])
    """

    family = VonMisesFisher

    def _concentration(self, length: float) -> float:
        return float(inverse_bessel_ratio(torch.tensor(length, dtype=torch.float64), self.dim))


class PowerSphericalHead(_RotationallySymmetricHead):
    """Power Spherical posterior, ``PowerSpherical(mu(h), kappa(h))``.

    Args:
        dim: Dimension ``d`` of the embedding.
        hidden: As for ``VonMisesFisherHead``.
        initial_resultant_length: As for ``VonMisesFisherHead``.

    Raises:
        ValueError: If ``dim`` is below 2, or ``initial_resultant_length`` not in (0, 1).

    Example:
        >>> PowerSphericalHead(3)(torch.zeros(2, 5)).mean_resultant_length.detach()
        tensor([0.9000, 0.9000])
    """

    family = PowerSpherical

    def _concentration(self, length: float) -> float:
        return (self.dim - 1) * length / (1 - length)  # E[t] = kappa / (kappa + d - 1)


def _checked_length(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(
            f"initial_resultant_length must lie between 0 and 1, got {value}: 0.9 suits most."
        )
    return value


def _normal_ratio(length: float, dim: int) -> float:
    """Return ``|mu| / sigma`` of the isotropic projected normal of a mean resultant length."""
    _checked_length(length)
    low, high = -40.0, 40.0  # its logarithm, by halves: the length grows with it
    for _ in range(60):
        middle = (low + high) / 2
        ratio = torch.tensor(math.exp(middle), dtype=torch.float64)
        shorter = ratio * relative_mean_resultant(ratio.square(), dim) < length
        low, high = (middle, high) if shorter else (low, middle)
    return math.exp(low)
