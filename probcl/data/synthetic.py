"""Synthetic data whose true posterior is known: the yardstick for a learned concentration."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from probcl.checks import check_count
from probcl.distributions import HypersphericalUniform, VonMisesFisher

__all__ = ["ConjugateBatch", "ConjugateGenerator"]

_SLOPE = 0.5  # of the mix, where a coordinate is negative


class ConjugateBatch(NamedTuple):
    """Views of a batch of items, and the true posterior of each view.

    Attributes:
        views: Observations, shape ``(V, B, d + 1)``.
        loc: Mean directions of the true posteriors, unit vectors, shape ``(V, B, d)``.
        concentration: Concentrations of the true posteriors, shape ``(V, B)``.
        latent: The directions that the views of an item share, unit vectors, shape ``(B, d)``.
    """

    views: Tensor
    loc: Tensor
    concentration: Tensor
    latent: Tensor


class ConjugateGenerator:
    r"""Views of hidden directions, of which the posterior is von Mises-Fisher, exactly.

        m ~ Uniform(S^{d-1})                      one for each item
        log k ~ Uniform(log low, log high)        one for each view
        v | m, k ~ vMF(m, k),  x = mix(v, log k)  one for each view

    The mix is invertible and ``p(v | m, k)`` is symmetric in ``v`` and ``m``, so that
    ``p(m | x) = vMF(m; v, k)``, and the density ratio of two views is their expected likelihood:

    .. math:: \frac{p(x, x')}{p(x)\, p(x')} \propto
        \int \mathrm{vMF}(m; v, k)\, \mathrm{vMF}(m; v', k')\, dm

    An encoder that has learned the ratio has the mean directions ``v``, up to a rotation, and the
    concentrations ``k``. The mix is two random rotations about a leaky ReLU, of the coordinates
    brought to unit variance: it stretches no direction more than twice as much as another.

    Args:
        dim: Dimension ``d >= 2`` of the directions.
        concentration: The lowest and the highest concentration, ``0 < low < high``.
        seed: Seed of the mix; the data come from torch's own source of randomness.

    Raises:
        ValueError: If ``dim`` or ``concentration`` is out of range.

    Example:
        >>> source = ConjugateGenerator(dim=3)
        >>> batch = source.sample(5)
        >>> batch.views.shape, batch.loc.shape, batch.concentration.shape
        (torch.Size([2, 5, 4]), torch.Size([2, 5, 3]), torch.Size([2, 5]))
        >>> loc, concentration = source.unmix(batch.views)
        >>> torch.allclose(concentration, batch.concentration, rtol=1e-4)
        True
    """

    def __init__(
        self, dim: int = 10, concentration: tuple[float, float] = (16.0, 32.0), seed: int = 0
    ) -> None:
        if dim < 2:
            raise ValueError(f"dim must be at least 2, got {dim}: a sphere needs two coordinates.")
        low, high = concentration
        if not 0 < low < high < math.inf:
            raise ValueError(
                "concentration must be a finite range with 0 < low < high, got "
                f"({low}, {high}): give the lowest first, as in (16.0, 32.0)."
            )
        self.dim = dim
        self.concentration = (low, high)
        random = torch.Generator().manual_seed(seed)
        draws = torch.randn(2, dim + 1, dim + 1, dtype=torch.float64, generator=random)
        self._first, self._second = torch.linalg.qr(draws)[0].float()
        self._centre = 0.5 * math.log(low * high)
        self._spread = math.log(high / low) / math.sqrt(12)  # standard deviation of log k

    def sample(self, batch: int, views: int = 2) -> ConjugateBatch:
        """Draw ``views`` of each of ``batch`` new items, both at least 1, in float32 on the CPU.

        Raises:
            ValueError: If ``batch`` or ``views`` is not positive.
        """
        prior = HypersphericalUniform(self.dim, dtype=torch.float32)
        latent = prior.sample((check_count("batch", batch),))
        low, high = self.concentration
        share = torch.rand(check_count("views", views), batch, dtype=torch.float32)
        concentration = low * (high / low) ** share
        loc = VonMisesFisher(latent.expand(views, -1, -1), concentration).sample()
        return ConjugateBatch(self.mix(loc, concentration), loc, concentration, latent)

    def mix(self, loc: Tensor, concentration: Tensor) -> Tensor:
        """Return the observations ``(*, d + 1)`` of directions ``(*, d)`` and ``k``, ``(*,)``."""
        standard = (concentration.log() - self._centre) / self._spread
        coordinates = torch.cat([loc * math.sqrt(self.dim), standard[..., None]], -1)
        return leaky_relu(coordinates @ self._first, _SLOPE) @ self._second

    def unmix(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return the directions ``(*, d)`` and concentrations ``(*,)`` of views ``(*, d + 1)``."""
        coordinates = leaky_relu(views @ self._second.T, 1 / _SLOPE) @ self._first.T
        log_concentration = self._centre + self._spread * coordinates[..., -1]
        return coordinates[..., :-1] / math.sqrt(self.dim), log_concentration.exp()
