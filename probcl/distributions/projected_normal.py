"""The projected normal distribution."""

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from probcl.sphere import normalize

__all__ = ["ProjectedNormal"]


class ProjectedNormal(TorchDistribution):
    r"""Direction of a normal vector: ``z = x / |x|``, ``x ~ N(loc, diag(scale^2))``.

    Args:
        loc: Mean of the normal vector, shape ``(*B, d)``.
        scale: Standard deviation, positive: a number or ``(*B, 1)`` (isotropic), or ``(*B, d)``.

    Example:
        >>> ProjectedNormal(torch.zeros(4, 3), 0.5).sample().shape
        torch.Size([4, 3])
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.sphere
    has_rsample = True

    def __init__(self, loc: Tensor, scale=1.0, *, validate_args: bool | None = None) -> None:
        scale = torch.as_tensor(scale, dtype=loc.dtype, device=loc.device)
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(ProjectedNormal, _instance)
        shape = torch.Size(batch_shape) + self.event_shape
        new.loc, new.scale = self.loc.expand(shape), self.scale.expand(shape)
        super(ProjectedNormal, new).__init__(
            torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self.__dict__.get("_validate_args")
        return new

    def rsample(self, sample_shape=torch.Size()) -> Tensor:
        noise = torch.randn(
            self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device
        )
        return normalize(self.loc + self.scale * noise)

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError("the log density of ProjectedNormal")
