"""Deterministic methods as programs: a point instead of a posterior."""

from abc import abstractmethod

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from probcl.nn import MLP
from probcl.objectives.contrastive import check_temperature
from probcl.programs.program import ClassContrast, InstanceContrast, Program
from probcl.sphere import normalize

__all__ = ["SimCLR", "SupCon"]


class DeterministicContrastive(Program):
    """Common ground of SimCLR and SupCon: a factor on normalised projections, no latents."""

    def __init__(
        self, encoder: nn.Module, projection: nn.Module | None = None, temperature: float = 0.07
    ) -> None:
        super().__init__(encoder)
        self.projection = MLP() if projection is None else projection
        self.temperature = check_temperature(temperature)

    @abstractmethod
    def contrastive(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return the contrastive loss of embeddings ``(V, B, d)``, a scalar."""

    def posterior_from_features(self, features: Tensor) -> dist.Delta:
        """Map features ``(*, F)`` to a point on the sphere, as a distribution."""
        return dist.Delta(normalize(self.projection(features)), event_dim=1)

    def model(self, views: Tensor, labels: Tensor | None = None) -> None:
        """Weigh the embeddings by the contrastive factor."""
        self._register(views)
        z = self.posterior_from_features(self._view_features(views)).mean
        pyro.factor("contrastive", -self.contrastive(z, labels))

    def guide(self, views: Tensor, labels: Tensor | None = None) -> None:
        """Do nothing: there is no latent variable."""


class SimCLR(InstanceContrast, DeterministicContrastive):
    r"""SimCLR: InfoNCE between the embeddings of two views.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default ``MLP()``.
        temperature: Positive number that divides the cosines.

    References:
        Chen et al. (2020), A Simple Framework for Contrastive Learning of Visual
        Representations. https://arxiv.org/abs/2002.05709
    """


class SupCon(ClassContrast, DeterministicContrastive):
    r"""SupCon: the supervised contrastive loss over all views.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation; by default ``MLP()``.
        temperature: Positive number that divides the cosines.

    References:
        Khosla et al. (2020), Supervised Contrastive Learning. https://arxiv.org/abs/2004.11362
    """
