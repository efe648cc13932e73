"""The uniform distribution on the unit sphere."""

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from probcl.sphere import log_area, normalize

__all__ = ["HypersphericalUniform"]


class HypersphericalUniform(TorchDistribution):
    r"""Uniform distribution on ``S^{d-1}``, density ``1 / |S^{d-1}|`` in surface measure.

    Args:
        dim: Dimension ``d >= 2`` of the space around the sphere.

    Example:
        >>> HypersphericalUniform(3).sample((5,)).shape
        torch.Size([5, 3])
    """

    arg_constraints: dict = {}
    support = constraints.sphere
    has_rsample = True

    def __init__(self, dim: int, *, validate_args: bool | None = None) -> None:
        if dim < 2:
            raise ValueError(f"dim must be at least 2, got {dim}.")
        super().__init__(torch.Size(), torch.Size([dim]), validate_args=validate_args)

    @property
    def dim(self) -> int:
        return self.event_shape[0]

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(HypersphericalUniform, _instance)
        super(HypersphericalUniform, new).__init__(
            torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self.__dict__.get("_validate_args")
        return new

    def rsample(self, sample_shape=torch.Size()) -> Tensor:
        return normalize(torch.randn(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return value.new_full(shape, -log_area(self.dim))
