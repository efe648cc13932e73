"""The von Mises-Fisher distribution on the unit sphere."""

import torch
from torch import Tensor

from probcl.distributions.rotationally_symmetric import (
    PROPOSALS,
    RotationallySymmetric,
    uniform_cosine,
)
from probcl.precision import full_precision
from probcl.special.bessel import (
    bessel_ratio,
    bessel_ratio_deficit,
    bessel_ratio_derivative,
    bessel_ratio_over_kappa,
    log_bessel_deficit,
    log_bessel_divergence,
)
from probcl.special.cosine_velocity import cosine_velocity
from probcl.sphere import log_area

__all__ = ["VonMisesFisher"]


class VonMisesFisher(RotationallySymmetric):
    r"""Von Mises-Fisher distribution: the normal distribution conditioned to the unit sphere.

    .. math::
        p(z) = \frac{e^{\kappa \mu^\top z}}{(2\pi)^{d/2}\, \kappa^{1-d/2}\, I_{d/2-1}(\kappa)}

    with respect to surface measure on S^{d-1}, in every dimension d >= 2 and for every
    concentration: :math:`\kappa = 0` is the uniform, and all values and gradients are smooth
    there. Sampling is exact (Wood 1994); gradients of the samples are unbiased, by implicit
    differentiation of the distribution of the cosine :math:`\mu^\top z`. Low-precision parameters
    are raised to float32, and autocast is switched off inside.

    Args:
        loc: Mean directions mu, unit vectors of shape ``(*B, d)``.
        concentration: Concentrations kappa >= 0: a number or shape ``(*B,)``, broadcast against
            the batch shape of ``loc``. A trailing dimension of 1 is not dropped: it is an error.
        validate_args: Whether to check arguments; torch's default if None.

    Raises:
        ValueError: If d < 2, shapes do not fit or, with validation on, ``loc`` is not a unit
            vector or ``concentration`` is negative or not finite.

    References:
        Mardia and Jupp (2000), "Directional Statistics", Wiley, chapter 9.
        Wood (1994), "Simulation of the von Mises Fisher distribution", Communications in
        Statistics 23(1), https://doi.org/10.1080/03610919408813161

    Example:
        >>> q = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), concentration=10.0)
        >>> q.rsample((5,)).shape
        torch.Size([5, 3])
        >>> q.log_prob(torch.tensor([0.0, 0.0, 1.0]))  # log(10 / (2 pi))
        tensor(0.4647)
        >>> q.mean, q.entropy()
        (tensor([0.0000, 0.0000, 0.9000]), tensor(0.5353))
    """

    @full_precision
    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of unit vectors ``(*S, *B, d)``, shape ``(*S, *B)``."""
        value = self._checked(value)
        # mu . z - 1 = -|z - mu|^2 / 2 keeps the digits that count when kappa is large.
        chord = (value - self.loc).square().sum(-1)
        deficit = log_bessel_deficit(self.concentration, self.dim)
        return deficit - log_area(self.dim) - 0.5 * self.concentration * chord

    @property
    @full_precision
    def log_normalizer(self) -> Tensor:
        r"""The log of :math:`\int e^{\kappa \mu^\top z} dz`, of shape ``batch_shape``."""
        deficit = log_bessel_deficit(self.concentration, self.dim)
        return log_area(self.dim) + (self.concentration - deficit)

    @property
    @full_precision
    def mean_resultant_length(self) -> Tensor:
        r"""The length |E[z]| = :math:`I_{d/2}(\kappa)/I_{d/2-1}(\kappa)`, ``batch_shape``."""
        return bessel_ratio(self.concentration, self.dim)

    @full_precision
    def _divergence_from_uniform(self) -> Tensor:
        return log_bessel_divergence(self.concentration, self.dim)

    def _cosine_moments(self) -> tuple[Tensor, Tensor, Tensor]:
        kappa, dim = self.concentration, self.dim
        along, across = bessel_ratio_derivative(kappa, dim), bessel_ratio_over_kappa(kappa, dim)
        # A_d / kappa = 1 / (d + kappa A_{d+2}) makes the difference a sum of positive terms.
        above = bessel_ratio_over_kappa(kappa, dim + 2) + bessel_ratio_derivative(kappa, dim + 2)
        return along, across, bessel_ratio(kappa, dim).square() * above

    def _sample_versine(self, kappa: Tensor) -> Tensor:
        """Draw 1 - t by Wood's rejection, for the pending elements only after each round."""
        centre, rest = (x.flatten() for x in self._centre(kappa))
        versine = torch.empty_like(centre)
        pending = torch.arange(centre.numel(), device=kappa.device)
        for _ in range(PROPOSALS):
            x = uniform_cosine(centre[pending], self.dim - 1)
            product = centre[pending] * x
            versine[pending] = rest[pending] * (1 - x) / (1 + product)
            # Written so that NaN is accepted: it must come back to the caller, not be redrawn.
            rejected = -torch.empty_like(x).exponential_() > self._log_accept_product(product)
            pending = pending[rejected]
            if not pending.numel():
                break
        return versine.reshape(kappa.shape)

    def _centre(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """Return the most likely t of Wood's envelope, and 1 - t."""
        half = torch.full_like(kappa, (self.dim - 1) / 2)
        root = torch.hypot(kappa, half)
        rest = half * (1 + half / (root + kappa)) / (half + root)
        return kappa / (half + root), rest

    def _log_accept(self, x: Tensor, rest: Tensor) -> Tensor:
        return self._log_accept_product((1 - rest) * x)

    def _log_accept_product(self, product: Tensor) -> Tensor:
        return (self.dim - 1) * (product / (1 + product) - torch.log1p(product))

    def _velocity(self, versine: Tensor, kappa: Tensor) -> Tensor:
        mean = -bessel_ratio_deficit(kappa, self.dim)
        # cos(angle) - cos(angle + x) >= 2 sin(x / 2)^2 >= (4 / pi^2) x^2 / 2
        return cosine_velocity(versine, kappa, self.dim, torch.neg, mean, curvature=0.4)
