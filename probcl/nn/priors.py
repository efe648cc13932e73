"""Priors: modules that return a distribution on the sphere."""

from torch import nn

from probcl.distributions import HypersphericalUniform

__all__ = ["UniformPrior"]


class UniformPrior(nn.Module):
    """Uniform prior on the unit sphere.

    Args:
        dim: Dimension of the embedding.

    Example:
        >>> UniformPrior(3)().event_shape
        torch.Size([3])
    """

    def __init__(self, dim: int = 128) -> None:
        super().__init__()
        self.dim = dim

    def forward(self) -> HypersphericalUniform:
        """Return the prior of one embedding."""
        return HypersphericalUniform(self.dim)
