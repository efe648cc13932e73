"""Whether items match, in a Pyro model, and the concentration that follows from it."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from probcl.distributions import VonMisesFisher
from probcl.precision import full_precision
from probcl.special import bessel_ratio_derivative, inverse_bessel_ratio

__all__ = ["LARGEST", "Link", "concentration_of", "match_probability", "observe_matches"]

LARGEST = 1 - 1e-4  # of mean resultant lengths


class Link(nn.Module):
    """A monotone map of a cosine to the probability that two certain items match.

        g(c) = sigmoid(a + b c),  b > 0

    A cosine of an encoder that was not trained with matches has a scale of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(-1.5))
        self.log_slope = nn.Parameter(torch.tensor(1.8))

    def forward(self, cosine: Tensor) -> Tensor:
        """Map cosines to probabilities of the same shape."""
        return torch.sigmoid(self.shift + self.log_slope.exp() * cosine)


def concentration_of(length: Tensor, dim: int) -> Tensor:
    """Return the concentration ``A_d^-1(rho)`` of a mean resultant length, with its gradient."""
    kappa = inverse_bessel_ratio(length, dim).clamp_min(1e-6)
    # The implicit derivative, 1 / A_d'(kappa); the value stays as it is.
    return kappa + (length - length.detach()) / bessel_ratio_derivative(kappa, dim)


@full_precision
def match_probability(own: VonMisesFisher, other: VonMisesFisher, link: Link) -> Tensor:
    """Return ``rho_i rho_j g(mu_i . mu_j)`` of posteriors of ``N`` and ``M`` items, ``(N, M)``."""
    length = own.mean_resultant_length[:, None] * other.mean_resultant_length
    return length * link(own.loc @ other.loc.T)


def observe_matches(probability: Tensor, matched: Tensor) -> None:
    """Observe, in a Pyro model, if items match others: both ``(N, K)``."""
    queries = pyro.plate("queries", len(probability), dim=-2)
    with queries, pyro.plate("neighbours", probability.shape[1], dim=-1):
        match = dist.Bernoulli(probability.clamp(1e-4, 1 - 1e-4), validate_args=False)
        pyro.sample("match", match, obs=matched.to(probability))
