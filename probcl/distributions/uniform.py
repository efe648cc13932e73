"""The uniform distribution on the unit sphere."""

from typing import ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from probcl.checks import check_dim
from probcl.distributions.posterior import (
    SphereDistribution,
    reproducible_normalize,
    shared_normal,
)
from probcl.precision import at_least_float32
from probcl.sphere import log_area, normalize

__all__ = ["HypersphericalUniform"]


class HypersphericalUniform(SphereDistribution):
    r"""Uniform distribution on the unit sphere S^{d-1}.

    .. math:: p(z) = \frac{1}{|S^{d-1}|}, \qquad |S^{d-1}| = \frac{2 \pi^{d/2}}{\Gamma(d/2)}

    Densities are with respect to surface measure. Batches come from :meth:`expand`. Samples
    have the default dtype and device; pass ``dtype`` and ``device`` to change that.

    Args:
        dim: Dimension ``d >= 2`` of the ambient space.
        dtype: Dtype of the samples; the default dtype if None.
        device: Device of the samples; the default device if None.
        validate_args: Whether to check arguments; torch's default if None.

    Raises:
        ValueError: If ``dim`` is less than 2.

    Example:
        >>> prior = HypersphericalUniform(3).expand([5])
        >>> prior.sample().shape
        torch.Size([5, 3])
        >>> prior.entropy()[0]  # log(4 pi)
        tensor(2.5310)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    _batched: ClassVar = {"_zero": 0}

    def __init__(
        self,
        dim: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        check_dim(dim, "dim")
        self._zero = torch.zeros((), dtype=dtype, device=device)
        super().__init__(torch.Size(), torch.Size([int(dim)]), validate_args=validate_args)

    @staticmethod
    def infer_shapes(dim: int) -> tuple[torch.Size, torch.Size]:
        """Return batch and event shape without building the distribution."""
        return torch.Size(), torch.Size([dim])

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw directions of normal vectors, shape ``sample_shape + batch_shape + (d,)``."""
        shape = self._extended_shape(sample_shape)
        return normalize(torch.randn(shape, dtype=self._zero.dtype, device=self._zero.device))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return minus the log area, for unit vectors of shape ``(*S, *B, d)``."""
        if self._validate_args:
            self._check_value(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        # Zero times the value keeps a graph: samplers ask for this density's gradient.
        flat = 0.0 * at_least_float32(value).sum(-1)
        return (flat - log_area(self.dim)).expand(shape)

    @property
    def mean(self) -> Tensor:
        """The expectation E[z] = 0, of shape ``batch_shape + (d,)``."""
        return self._zero[..., None].expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variance 1/d of every coordinate, of shape ``batch_shape + (d,)``."""
        return self.mean + 1.0 / self.dim

    @property
    def covariance(self) -> Tensor:
        """The covariance I / d of z, of shape ``batch_shape + (d, d)``."""
        return torch.diag_embed(self.variance)

    def _divergence_from_uniform(self) -> Tensor:
        return self._zero

    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        z = reproducible_normalize(shared_normal(count, self.dim, generator, self._zero))
        z = z.reshape(count, *[1] * len(self.batch_shape), self.dim)
        return z.expand(count, *self.batch_shape, self.dim)
