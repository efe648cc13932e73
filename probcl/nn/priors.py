"""Priors: modules that return a distribution on the sphere."""

import math

import torch
from pyro.distributions import Categorical, MixtureSameFamily
from torch import Tensor, nn

from probcl.checks import check_amount, check_count
from probcl.distributions import HypersphericalUniform, VonMisesFisher
from probcl.sphere import normalize

__all__ = ["UniformPrior", "VonMisesFisherMixturePrior", "VonMisesFisherPrior"]


class UniformPrior(nn.Module):
    """Uniform prior on the unit sphere.

    Args:
        dim: Dimension of the embedding.

    Example:
        >>> UniformPrior(3)().event_shape
        torch.Size([3])
    """

    _where: Tensor

    def __init__(self, dim: int = 128) -> None:
        super().__init__()
        self.dim = check_count("dim", dim, least=2)
        self.register_buffer("_where", torch.empty(0), persistent=False)  # moves with the module

    def forward(self) -> HypersphericalUniform:
        """Return the prior of one embedding."""
        return HypersphericalUniform(self.dim, dtype=self._where.dtype, device=self._where.device)


class VonMisesFisherPrior(nn.Module):
    """Von Mises-Fisher prior about the first axis, with a fixed concentration.

    Args:
        dim: Dimension of the embedding.
        concentration: Concentration, at least 0.

    Raises:
        ValueError: If ``concentration`` is negative or not finite.

    Example:
        >>> VonMisesFisherPrior(3, concentration=2.0)().concentration
        tensor(2.)
    """

    loc: Tensor
    concentration: Tensor

    def __init__(self, dim: int = 128, concentration: float = 1.0) -> None:
        super().__init__()
        self.dim = check_count("dim", dim, least=2)
        check_amount("concentration", concentration)
        self.register_buffer("loc", torch.eye(dim)[0])
        self.register_buffer("concentration", torch.tensor(float(concentration)))

    def forward(self) -> VonMisesFisher:
        """Return the prior of one embedding."""
        return VonMisesFisher(self.loc, self.concentration)


class VonMisesFisherMixturePrior(nn.Module):
    """Mixture of von Mises-Fisher distributions, learned with the program.

    Args:
        dim: Dimension of the embedding.
        components: Number of components, at least 1.
        concentration: Concentration of each component at the start, above 0.

    Raises:
        ValueError: If ``components`` or ``concentration`` is not positive.

    Example:
        >>> VonMisesFisherMixturePrior(3, components=5)().sample((2,)).shape
        torch.Size([2, 3])
    """

    def __init__(self, dim: int = 128, components: int = 10, concentration: float = 10.0) -> None:
        super().__init__()
        check_count("components", components)
        check_amount("concentration", concentration, above=True)
        self.dim = check_count("dim", dim, least=2)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(normalize(torch.randn(components, dim)))
        self.log_concentration = nn.Parameter(torch.full((components,), math.log(concentration)))

    def forward(self) -> MixtureSameFamily:
        """Return the prior of one embedding."""
        parts = VonMisesFisher(normalize(self.loc), self.log_concentration.exp())
        return MixtureSameFamily(Categorical(logits=self.logits), parts)
