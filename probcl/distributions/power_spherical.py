"""The Power Spherical distribution on the unit sphere."""

import math

import torch
from torch import Tensor
from torch.distributions import Gamma

from probcl.distributions.rotationally_symmetric import RotationallySymmetric
from probcl.precision import full_precision
from probcl.special.cosine_velocity import cosine_velocity
from probcl.special.gamma_ratio import (
    log_power_deficit,
    log_power_deficit_derivative,
    log_power_divergence,
)
from probcl.sphere import log_area

__all__ = ["PowerSpherical"]


class PowerSpherical(RotationallySymmetric):
    r"""Power Spherical distribution: unimodal like von Mises-Fisher, without Bessel functions.

    .. math::
        p(z) = \frac{(1 + \mu^\top z)^\kappa}{2^{\alpha + \beta}\, \pi^\beta\,
               \Gamma(\alpha) / \Gamma(\alpha + \beta)}, \qquad
        \alpha = \beta + \kappa, \quad \beta = \tfrac{d - 1}{2}

    with respect to surface measure on S^{d-1}, in every dimension d >= 2; :math:`\kappa = 0` is
    the uniform. :math:`(1 + \mu^\top z)/2` follows Beta(:math:`\alpha, \beta`), so sampling needs
    no rejection; gradients of the samples are unbiased, by implicit differentiation. The density
    vanishes at -mu for :math:`\kappa > 0`: there its logarithm is cut at a large negative number.
    Arguments are those of :class:`VonMisesFisher`.

    References:
        De Cao and Aziz (2020), "The Power Spherical distribution",
        https://arxiv.org/abs/2006.04437

    Example:
        >>> q = PowerSpherical(torch.tensor([0.0, 0.0, 1.0]), concentration=8.0)
        >>> q.rsample((5,)).shape
        torch.Size([5, 3])
        >>> q.log_prob(torch.tensor([0.0, 0.0, 1.0]))  # log(9 / (4 pi))
        tensor(-0.3338)
        >>> q.mean, q.entropy()
        (tensor([0.0000, 0.0000, 0.8000]), tensor(1.2227))
    """

    @full_precision
    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of unit vectors ``(*S, *B, d)``, shape ``(*S, *B)``."""
        value = self._checked(value)
        deficit = log_power_deficit(self.concentration, self.dim)
        log_half = _log_half_of_one_plus_cosine(self.loc, value)
        return self.concentration * log_half + deficit - log_area(self.dim)

    @property
    @full_precision
    def log_normalizer(self) -> Tensor:
        r"""The log of :math:`\int (1 + \mu^\top z)^\kappa dz`, of shape ``batch_shape``."""
        deficit = log_power_deficit(self.concentration, self.dim)
        return log_area(self.dim) + self.concentration * math.log(2) - deficit

    @property
    @full_precision
    def mean_resultant_length(self) -> Tensor:
        r"""The length |E[z]| = :math:`\kappa / (\kappa + d - 1)`, of shape ``batch_shape``."""
        return self.concentration / (self.concentration + (self.dim - 1))

    @full_precision
    def _divergence_from_uniform(self) -> Tensor:
        return log_power_divergence(self.concentration, self.dim)

    def _cosine_moments(self) -> tuple[Tensor, Tensor, Tensor]:
        total = self.concentration + (self.dim - 1)
        across = 2 * ((self.concentration + (self.dim - 1) / 2) / total) / (total + 1)
        return across * (self.dim - 1) / total, across, across * self.mean_resultant_length

    def _sample_versine(self, kappa: Tensor) -> Tensor:
        beta = torch.full_like(kappa, (self.dim - 1) / 2)
        # Two gammas rather than one beta: 1 - t keeps its relative precision near 0.
        low = _sample_gamma(beta)
        high = _sample_gamma(beta + kappa)
        return 2 * low / (low + high)

    def _centre(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        total = kappa + (self.dim - 1)
        return kappa / total, (self.dim - 1) / total

    def _log_accept(self, x: Tensor, rest: Tensor) -> Tensor:
        """Compute (d - 1) [c log(1 + x) - log(1 + c x)] / (1 - c), in a form exact for c near 1.

        It is never above zero, since the logarithm is concave.
        """
        rest = rest.clamp(min=torch.finfo(rest.dtype).tiny)
        return (1 - self.dim) * (torch.log1p(x) + torch.log1p(-rest * x / (1 + x)) / rest)

    def _velocity(self, versine: Tensor, kappa: Tensor) -> Tensor:
        mean = -log_power_deficit_derivative(kappa, self.dim)
        return cosine_velocity(versine, kappa, self.dim, _log_power_base, mean, curvature=0.5)


def _sample_gamma(shape: Tensor) -> Tensor:
    return Gamma(shape, torch.ones_like(shape), validate_args=False).sample()


def _log_power_base(versine: Tensor) -> Tensor:
    """Compute log((1 + t) / 2) from 1 - t."""
    return torch.log1p(-0.5 * versine)


def _log_half_of_one_plus_cosine(loc: Tensor, value: Tensor) -> Tensor:
    """Compute log((1 + mu . z) / 2), accurate near both poles and finite everywhere."""
    near = (loc * value).sum(-1).detach() >= 0
    sign = torch.where(near, 1.0, -1.0).to(loc.dtype).unsqueeze(-1)
    # (1 - |mu . z|) / 2, from the chord to the nearer pole
    quarter_chord = 0.25 * (value - sign * loc).square().sum(-1)
    far_value = quarter_chord.clamp(min=torch.finfo(loc.dtype).tiny).log()
    return torch.where(near, torch.log1p(-quarter_chord), far_value)
