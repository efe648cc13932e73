"""A head that gives frozen embeddings a concentration, by what a bank of items shows."""

from typing import Any

import torch
from torch import Tensor, nn

from probcl.distributions import VonMisesFisher
from probcl.nn import MLP, PointHead
from probcl.precision import full_precision
from probcl.programs.bank import Bank
from probcl.programs.matches import LARGEST, Link, concentration_of
from probcl.sphere import normalize

__all__ = ["ConcentrationHead", "LastColumns", "perceptron"]


class ConcentrationHead(PointHead):
    """The direction of a projection, and a concentration about it, by what a bank shows.

    Args:
        projection: Features to the embedding before normalisation.
        bank: Items to compare with.
        inputs: Blocks of what the bank shows that the perceptron sees.
        perceptron: Maps these, ``(N, P)``, to the logit of the mean resultant length, ``(N, 1)``.
        link: Cosines to match probabilities; None where matches were not the likelihood.
        width: Number of features before the embedding, where both come beside each other.
    """

    def __init__(
        self,
        projection: nn.Module,
        bank: Bank,
        inputs: tuple[str, ...],
        perceptron: nn.Module,
        link: Link | None,
        width: int | None = None,
    ) -> None:
        super().__init__(projection)
        self.bank, self.inputs, self.perceptron, self.link = bank, inputs, perceptron, link
        self.width = width
        self.dim: int = bank.embedding.shape[1]

    def parts(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features, the embedding where there are no others, and directions."""
        own = features[:, : self.width] if self.width else features
        return own, normalize(self.project(features))

    def resultant_length(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the mean resultant length of items of which the bank shows ``inputs``."""
        seen = torch.cat([inputs[name] for name in self.inputs], -1)
        return torch.sigmoid(self.perceptron(seen)[:, 0]).clamp_max(LARGEST)

    @full_precision
    def forward(self, features: Tensor) -> VonMisesFisher:
        """Map features ``(*, F)`` to posteriors of batch shape ``(*,)``."""
        flat = features.reshape(-1, features.shape[-1]).to(self.bank.embedding)
        others, direction = self.parts(flat)
        kappa = self.concentration(self.bank.see(others, direction).inputs)
        shape = features.shape[:-1]
        return VonMisesFisher(direction.view(*shape, -1), kappa.view(shape))

    def concentration(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the concentration of items of which the bank shows ``inputs``, ``(N,)``."""
        return concentration_of(self.resultant_length(inputs), self.dim)


class LastColumns(nn.Module):
    """Keep the last columns, an embedding that stands behind its features.

    Args:
        dim: Their number.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(N, F)`` to ``(N, dim)``."""
        return features[:, -self.dim :]


def perceptron(inputs: Tensor, hidden: int, start: float) -> nn.Sequential:
    """Return a perceptron of inputs ``(N, P)``, standardised, that begins near a constant."""
    network: Any = nn.Sequential(_Standardise(inputs), MLP(1, hidden)).to(inputs)
    network(inputs[:1])  # lazy layers take their sizes
    with torch.no_grad():
        network[1][-1].weight.mul_(0.1)
        network[1][-1].bias.fill_(start)
    return network


class _Standardise(nn.Module):
    """Shift and scale numbers to the mean 0 and standard deviation 1 of those given."""

    mean: Tensor
    scale: Tensor

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", given.mean(0))
        self.register_buffer("scale", given.std(0, correction=0).clamp_min(1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale
