"""What every program is: an encoder, a model, a guide and a posterior over embeddings."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Self

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.params import param_with_module_name
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.parameter import UninitializedParameter

from probcl.nn import UniformPrior
from probcl.sphere import normalize

__all__ = [
    "Anchors",
    "Program",
    "VariationalProgram",
    "mean_direction",
    "project_by",
    "require_labels",
    "stack_views",
]

_count = count()


class _Name:
    """Name of a program in Pyro's global store, its own: a copy of the program gets another."""

    def __init__(self, kind: str) -> None:
        self._kind, self._number = kind, next(_count)

    def __str__(self) -> str:
        return f"{self._kind}_{self._number}"

    def __reduce__(self) -> tuple:
        return _Name, (self._kind,)


class Program(nn.Module, ABC):
    """A Pyro model and guide over the views of a batch, around one encoder.

    Args:
        encoder: Images to features, ``(N, channels, height, width)`` to ``(N, F)``.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        #: Numbers of the last run that are worth monitoring, by name.
        self.monitored: dict[str, Tensor] = {}
        self._frozen: list[nn.Module] = []
        self._name = _Name(type(self).__name__)

    @abstractmethod
    def model(self, views: Tensor | Sequence[Tensor], labels: Tensor | None = None) -> None:
        """Run the generative program.

        Args:
            views: Augmented images, shape ``(V, B, channels, height, width)``, or a sequence of
                ``V`` tensors.
            labels: Classes, integers, shape ``(B,)``.
        """

    @abstractmethod
    def guide(self, views: Tensor | Sequence[Tensor], labels: Tensor | None = None) -> None:
        """Run the variational program, with the model's arguments."""

    @abstractmethod
    def posterior_from_features(self, features: Tensor) -> Distribution:
        """Map features ``(*, F)`` to posteriors over the sphere, of batch shape ``(*,)``."""

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Map features ``(*, F)`` to embeddings before normalisation, ``(*, d)``."""

    def forward(self, images: Tensor) -> Distribution:
        """Map images ``(N, channels, height, width)`` to posteriors of batch shape ``(N,)``."""
        return self.posterior_from_features(self.encoder(images))

    def freeze_encoder(self) -> Self:
        """Keep the encoder as it is: without gradients, and in eval mode also after ``train()``.

        Its batch normalisations then use their statistics, and no longer move them.
        """
        self._freeze(self.encoder)
        return self

    def _freeze(self, *parts: nn.Module) -> None:
        for part in parts:
            for parameter in part.parameters():  # lazy ones have no requires_grad_
                parameter.requires_grad = False
            part.eval()
        self._frozen += parts

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all parts but the frozen ones."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def _view_features(self, views: Tensor) -> Tensor:
        """Encode all views in one batch: ``(V, B, ...)`` to features ``(V, B, F)``."""
        return self.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2])

    def materialize(self, images: Tensor) -> None:
        """Let lazy layers take their sizes from an image; do nothing if they have theirs.

        Args:
            images: Shape ``(N, channels, height, width)``; the first is used.
        """
        if any(isinstance(parameter, UninitializedParameter) for parameter in self.parameters()):
            modes = {module: module.training for module in self.modules()}
            with torch.no_grad():
                self.eval()._run_every_layer(images[:1])
            for module, training in modes.items():  # a frozen part stays frozen
                module.training = training

    def _run_every_layer(self, images: Tensor) -> None:
        self(images)

    def _register(self, views: Tensor) -> None:
        """Tell Pyro's parameter store of the parameters, unless they are to stay local."""
        if not pyro.settings.get("module_local_params"):
            self.materialize(views[0])
            for name, parameter in self.named_parameters():
                if parameter.requires_grad:  # pyro.module would warn of those of a target
                    pyro.param(param_with_module_name(str(self._name), name), parameter)


class Anchors:
    """The plates of a batch: its views and its items, every pair of which is an anchor.

    Args:
        views: Number ``V`` of views.
        items: Number ``B`` of images.
    """

    def __init__(self, views: int, items: int) -> None:
        self.views = pyro.plate("views", views, dim=-2)
        self.items = pyro.plate("items", items, dim=-1)
        self.count = views * items

    @contextmanager
    def weighted(self, weight: float) -> Iterator[None]:
        """Open the plates, each anchor with a weight; with weight 0 its sites are masked out."""
        weighting = poutine.scale(scale=weight) if weight else poutine.mask(mask=False)
        with self.views, self.items, weighting:
            yield

    def averaged(self) -> AbstractContextManager[None]:
        """Open the plates, weighted so that the sum over anchors is their mean."""
        return self.weighted(1 / self.count)

    def observe(self, losses: Tensor) -> None:
        """State the loss of each anchor, ``(*, V, B)``, as a factor; the whole is their mean."""
        with self.averaged():
            pyro.factor("contrastive", -losses)


class VariationalProgram(Program):
    r"""A program whose latent variable is a direction for each view of each image.

    With ``V`` views of ``B`` images, and a likelihood that a subclass states,

        z_vb ~ p(z),  q(z_vb | x_vb) = posterior(encoder(x_vb))

    where every ``z_vb`` is scaled by ``beta / (V B d)``: the negative ELBO has ``beta`` times the
    mean KL, normalised by the dimension. With ``beta = 0`` the prior is masked out.

    Args:
        encoder: Images to features.
        posterior: Features to a distribution over the sphere.
        prior: Module whose ``forward()`` returns the distribution of one direction; by default
            uniform, in the dimension of the posterior.
        beta: Weight of the normalised KL, at least 0.
    """

    #: Samples of each direction that the likelihood sees at once; several have a plate of theirs.
    num_samples: int = 1

    def __init__(
        self, encoder: nn.Module, posterior: nn.Module, prior: nn.Module | None, beta: float
    ) -> None:
        super().__init__(encoder)
        if not 0.0 <= beta < float("inf"):
            raise ValueError(f"beta must be a finite number of at least 0, got {beta}.")
        self.posterior_head = posterior
        self.prior = UniformPrior(_dim_of(posterior)) if prior is None else prior
        self.beta = beta

    @abstractmethod
    def likelihood(self, z: Tensor, labels: Tensor | None, anchors: Anchors) -> None:
        """State, in the model, what is observed of directions ``(*, V, B, d)``."""

    def posterior_from_features(self, features: Tensor) -> Distribution:
        """Map features ``(*, F)`` to posteriors over the sphere, of batch shape ``(*,)``."""
        return self.posterior_head(features)

    def project(self, features: Tensor) -> Tensor:
        """Map features ``(*, F)`` to embeddings before normalisation, ``(*, d)``."""
        return project_by(self.posterior_head, features)

    def model(self, views: Tensor | Sequence[Tensor], labels: Tensor | None = None) -> None:
        """Draw directions from the prior and weigh them by the likelihood."""
        views = stack_views(views)
        self._register(views)
        prior, anchors = self.prior(), Anchors(*views.shape[:2])
        z = self._directions(prior, anchors)
        if z.shape[-1:] != prior.event_shape:
            raise ValueError(
                f"the prior has dimension {prior.event_shape[0]}, the posterior {z.shape[-1]}: "
                "give both the same."
            )
        self.likelihood(z, labels, anchors)

    def guide(self, views: Tensor | Sequence[Tensor], labels: Tensor | None = None) -> None:
        """Draw each view's direction from its posterior."""
        self._posterior_directions(views)

    def _posterior_directions(self, views: Tensor | Sequence[Tensor]) -> tuple[Tensor, Anchors]:
        views = stack_views(views)
        self._register(views)
        posterior = self.posterior_from_features(self._view_features(views))
        anchors = Anchors(*views.shape[:2])
        return self._directions(posterior, anchors), anchors

    def _directions(self, distribution: dist.Distribution, anchors: Anchors) -> Tensor:
        weight = self.beta / (anchors.count * distribution.event_shape[0])
        if self.num_samples == 1:
            with anchors.weighted(weight):
                return pyro.sample("z", distribution)
        samples = pyro.plate("samples", self.num_samples, dim=-3)
        with samples, anchors.weighted(weight / self.num_samples):
            return pyro.sample("z", distribution)


def stack_views(views: Tensor | Sequence[Tensor]) -> Tensor:
    """Return views as one tensor ``(V, B, ...)``, or raise ``ValueError`` if they do not fit."""
    if not isinstance(views, Tensor) and len(views):
        shapes = {tuple(view.shape) for view in views}
        if len(shapes) != 1:
            raise ValueError(
                f"views must all have one shape, got {' and '.join(map(str, sorted(shapes)))}: "
                "resize them before the program."
            )
        views = torch.stack(list(views))
    if not isinstance(views, Tensor) or views.dim() < 3 or len(views) < 2 or not views.shape[1]:
        got = tuple(views.shape) if isinstance(views, Tensor) else "none"
        raise ValueError(
            f"views must hold at least 2 views of each image, shape (V, B, ...), got {got}."
        )
    return views


def require_labels(program: Program, labels: Tensor | None, batch: int) -> Tensor:
    """Return labels of shape ``(B,)``, or raise ``ValueError``."""
    if labels is None or labels.shape != (batch,):
        got = "None" if labels is None else f"shape {tuple(labels.shape)}"
        raise ValueError(
            f"{type(program).__name__} is supervised: pass labels, integers of shape ({batch},), "
            f"got {got}."
        )
    if labels.is_floating_point():
        raise ValueError(f"labels must be integers, got {labels.dtype}: convert them by .long().")
    return labels


def mean_direction(posterior: Distribution) -> Tensor:
    """Return the direction of the location, the embedding where one point is asked for."""
    return normalize(posterior.loc if hasattr(posterior, "loc") else posterior.mean)


def project_by(head: nn.Module, features: Tensor) -> Tensor:
    """Return a head's embeddings before normalisation; unit vectors where it does not tell."""
    project = getattr(head, "project", None)
    return mean_direction(head(features)) if project is None else project(features)


def _dim_of(head: nn.Module) -> int:
    """Return the dimension of a head's embedding."""
    dim = getattr(head, "dim", None)
    if not isinstance(dim, int):
        raise ValueError(
            f"posterior {type(head).__name__} has no attribute dim, the dimension of its "
            "embedding: add one, or pass a prior."
        )
    return dim
