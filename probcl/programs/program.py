"""What every program is: an encoder, a model, a guide and a posterior over embeddings."""

from abc import ABC, abstractmethod
from itertools import count

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.parameter import UninitializedParameter

from probcl.objectives import info_nce, sup_con
from probcl.sphere import normalize

__all__ = ["ClassContrast", "InstanceContrast", "Program", "mean_direction"]


_count = count()


class Program(nn.Module, ABC):
    """A Pyro model and guide over the views of a batch, around one encoder.

    Args:
        encoder: Images to features, ``(N, channels, height, width)`` to ``(N, F)``.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        # Pyro's store is global: a name of its own keeps each program's parameters apart.
        self._name = f"{type(self).__name__}_{next(_count)}"

    @abstractmethod
    def model(self, views: Tensor, labels: Tensor | None = None) -> None:
        """Run the generative program.

        Args:
            views: Augmented images, shape ``(V, B, channels, height, width)``.
            labels: Classes, integers, shape ``(B,)``.
        """

    @abstractmethod
    def guide(self, views: Tensor, labels: Tensor | None = None) -> None:
        """Run the variational program, with the model's arguments."""

    @abstractmethod
    def posterior_from_features(self, features: Tensor) -> Distribution:
        """Map features ``(*, F)`` to posteriors over the sphere, of batch shape ``(*,)``."""

    def posterior(self, images: Tensor) -> Distribution:
        """Map images ``(N, channels, height, width)`` to posteriors of batch shape ``(N,)``."""
        return self.posterior_from_features(self.encoder(images))

    def embed(self, images: Tensor) -> Tensor:
        """Map images to embeddings: their posteriors' mean directions, shape ``(N, d)``."""
        return mean_direction(self.posterior(images))

    def _view_features(self, views: Tensor) -> Tensor:
        """Encode all views in one batch: ``(V, B, ...)`` to features ``(V, B, F)``."""
        return self.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2])

    def materialize(self, images: Tensor) -> None:
        """Let lazy layers take their sizes from an image; do nothing if they have theirs.

        Args:
            images: Shape ``(N, channels, height, width)``; the first is used.
        """
        if any(isinstance(parameter, UninitializedParameter) for parameter in self.parameters()):
            training = self.training
            with torch.no_grad():
                self.eval().posterior(images[:1])
            self.train(training)

    def _register(self, views: Tensor) -> None:
        """Tell Pyro's parameter store of the parameters, unless they are to stay local."""
        if not pyro.settings.get("module_local_params"):
            self.materialize(views[0])
            pyro.module(self._name, self)


class InstanceContrast:
    """The contrastive factor of SimCLR: an image's other view against the rest of the batch."""

    temperature: float

    def contrastive(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return InfoNCE between the two views' directions, ``(2, B, d)``."""
        _require_one_sample(z)
        if len(z) != 2:
            raise ValueError(
                f"views must hold 2 views of each image for {type(self).__name__}, got {len(z)}."
            )
        return info_nce(z[0], z[1], self.temperature)


class ClassContrast:
    """The contrastive factor of SupCon: an image's class against the rest of the batch."""

    temperature: float

    def contrastive(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return SupCon over all views' directions, ``(V, B, d)``."""
        if labels is None:
            raise ValueError(
                f"{type(self).__name__} is supervised: pass labels, integers of shape (B,)."
            )
        _require_one_sample(z)
        return sup_con(z.flatten(0, 1), labels.repeat(len(z)), self.temperature)


def _require_one_sample(z: Tensor) -> None:
    if z.dim() != 3:
        raise ValueError(
            f"z must have shape (V, B, d), got {tuple(z.shape)}: draw particles one after the "
            "other, with vectorize_particles=False or parallel=False."
        )


def mean_direction(posterior: Distribution) -> Tensor:
    """Return the direction of the location, the embedding where one point is asked for."""
    return normalize(posterior.loc if hasattr(posterior, "loc") else posterior.mean)
