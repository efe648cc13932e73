"""What every program is: an encoder, a model, a guide and a posterior over embeddings."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from typing import ClassVar, Generic, Self, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.params import param_with_module_name
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakTensorKeyDictionary

from probcl.checks import check_amount, check_count, check_temperature, check_vectors
from probcl.distributions import as_posterior
from probcl.modes import in_evaluation
from probcl.nn import PointHead, ProjectedNormalHead, UniformPrior

__all__ = [
    "Anchors", "FromGuide", "PointProgram", "Program", "Temperature", "VariationalProgram", "Views",
    "dim_of", "require_labels", "stack_views",
]  # fmt: skip

Views = Tensor | Sequence[Tensor]
T = TypeVar("T")

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
        posterior: Head that maps features ``(*, F)`` to distributions over the sphere of batch
            shape ``(*,)``. Its method ``project``, if it has one, maps them to embeddings before
            normalisation.
    """

    #: Whether model and guide take, after the labels, the rows of the images in their data set.
    takes_rows: ClassVar[bool] = False

    def __init__(self, encoder: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.posterior_head = posterior
        #: Numbers of the last run that are worth monitoring, by name.
        self.monitored: dict[str, Tensor] = {}
        self._frozen: list[nn.Module] = []
        self._name = _Name(type(self).__name__)

    @abstractmethod
    def model(self, views: Views, labels: Tensor | None = None) -> None:
        """Run the generative program.

        Args:
            views: Augmented images, ``(V, B, channels, height, width)``, or ``V`` tensors.
            labels: Classes, integers, shape ``(B,)``.
        """

    def guide(self, views: Views, labels: Tensor | None = None) -> None:
        """Run the variational program, with the model's arguments: empty without a latent."""

    def forward(self, images: Tensor) -> Distribution:
        """Map images ``(N, channels, height, width)`` to posteriors of batch shape ``(N,)``."""
        return self.posterior_from_features(self.encoder(images))

    def posterior_from_features(self, features: Tensor) -> Distribution:
        """Map features ``(*, F)`` to posteriors over the sphere, of batch shape ``(*,)``."""
        return self.posterior_head(features)

    def gate_from_features(self, features: Tensor) -> Tensor | None:
        """Return how much the posterior of each of ``(N, F)`` means; None if there is no gate."""
        return None

    def project(self, features: Tensor) -> Tensor:
        """Map features ``(*, F)`` to embeddings before normalisation, ``(*, d)``.

        Where a head of one's own has no ``project``, they are unit vectors.
        """
        project = getattr(self.posterior_head, "project", None)
        if project is None:
            return as_posterior(self.posterior_from_features(features)).mean_direction
        return project(features)

    def freeze_encoder(self) -> Self:
        """Keep the encoder as it is: without gradients, and in eval mode also after ``train()``."""
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

    def materialize(self, images: Tensor) -> None:
        """Let lazy layers take their sizes from the first of ``(N, channels, height, width)``."""
        if any(map(is_lazy, self.parameters())):
            with torch.no_grad(), in_evaluation(self):
                self._run_every_layer(images[:1])

    def _run_every_layer(self, images: Tensor) -> None:
        self(images)

    def _learns(self) -> bool:
        """Return whether this run of the model is one of training."""
        return self.training and torch.is_grad_enabled()

    def _start(self, views: Views) -> Tensor:
        """Return the views of a run as one tensor; tell Pyro of parameters not kept local."""
        views = stack_views(views)
        for name, part in self.named_children():
            if isinstance(part, Temperature) and part.log is not None:
                self.monitored[name] = part().detach()
        if not pyro.settings.get("module_local_params"):
            self.materialize(views[0])
            for name, parameter in self.named_parameters():
                if parameter.requires_grad:  # pyro.module would warn of those of a target
                    pyro.param(param_with_module_name(str(self._name), name), parameter)
        return views

    def _view_features(self, views: Tensor) -> Tensor:
        """Encode all views in one batch: ``(V, B, ...)`` to features ``(V, B, F)``."""
        return self.encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2])

    def _view_posteriors(self, views: Tensor) -> Distribution:
        """Map views ``(V, B, ...)`` to posteriors of batch shape ``(V, B)``."""
        return self.posterior_from_features(self._view_features(views))


class Temperature(nn.Module):
    """A temperature, fixed or learned: then as its logarithm, and never below a bound.

    What an optimizer's step has moved below the bound comes back to it, as in CLIP.

    Args:
        value: Positive number, the first if learned.
        learn: Whether it is learned.
        least: The bound.

    Raises:
        ValueError: If ``value`` is not a finite positive number, or is learned and below ``least``.

    References:
        Radford et al. (2021), Learning Transferable Visual Models From Natural Language
        Supervision. https://arxiv.org/abs/2103.00020

    Example:
        >>> Temperature(0.5)(), Temperature(0.5, learn=True)()
        (0.5, tensor(0.5000, grad_fn=<ExpBackward0>))
    """

    def __init__(self, value: float, learn: bool = False, least: float = 0.01) -> None:
        super().__init__()
        self._fixed = check_temperature(value)
        if learn and value < least:
            raise ValueError(
                f"temperature must be at least {least} to be learned, got {value}: raise it, or "
                "set learn_temperature to False."
            )
        self.log = nn.Parameter(torch.tensor(math.log(value))) if learn else None
        self._least = math.log(least)

    def forward(self) -> float | Tensor:
        """Return a number, or a tensor of shape ``()`` with a gradient."""
        if self.log is None:
            return self._fixed
        self.log.data.clamp_(min=self._least)
        return self.log.exp()


class Anchors:
    """The plates of a batch: views and items, each pair an anchor; samples if there are several."""

    def __init__(self, views: int, items: int, samples: int = 1) -> None:
        self.views = pyro.plate("views", views, dim=-2)
        self.items = pyro.plate("items", items, dim=-1)
        self.samples = pyro.plate("samples", samples, dim=-3) if samples > 1 else nullcontext()
        self.count = views * items
        self.num_samples = samples

    @contextmanager
    def weighted(self, weight: float) -> Iterator[None]:
        """Open the plates of anchors, each with a weight; with weight 0 its sites are masked."""
        weighting = poutine.scale(scale=weight) if weight else poutine.mask(mask=False)
        with self.views, self.items, weighting:
            yield

    @contextmanager
    def sampled(self, weight: float = 1.0) -> Iterator[None]:
        """Open all plates, weighted so that the sum over samples and anchors is a mean."""
        with self.samples, self.weighted(weight / (self.count * self.num_samples)):
            yield

    def averaged(self) -> AbstractContextManager[None]:
        """Open the plates of anchors, weighted so that the sum over them is their mean."""
        return self.weighted(1 / self.count)

    def observe(self, losses: Tensor) -> None:
        """State the loss of each anchor, ``(*, V, B)``, as a factor; the whole is their mean."""
        with self.averaged():
            pyro.factor("contrastive", -losses)


class VariationalProgram(Program):
    r"""A program whose latent variable is a direction for each view of each image.

    With ``V`` views of ``B`` images, ``S`` samples and a likelihood that a subclass states,

        z_svb ~ p(z),  q(z_svb | x_vb) = posterior(encoder(x_vb))

    where every ``z_svb`` is scaled by ``beta / (S V B d)``: the negative ELBO has ``beta`` times
    the mean KL, normalised by the dimension. With ``beta = 0`` the prior is masked out.

    Args:
        encoder: Images to features.
        posterior: Features to a distribution over the sphere, with its dimension as ``dim``; None
            for ``ProjectedNormalHead()``.
        prior: Module whose ``forward()`` returns the distribution of one direction; None for the
            uniform one, in the dimension of the posterior.
        beta: Weight of the normalised KL, at least 0.
        num_samples: Number ``S`` of samples of each direction, at least 1; several have a plate.
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module | None,
        prior: nn.Module | None,
        beta: float,
        num_samples: int = 1,
    ) -> None:
        super().__init__(encoder, ProjectedNormalHead() if posterior is None else posterior)
        check_amount("beta", beta)
        check_count("num_samples", num_samples)
        if prior is not None and not isinstance(prior, nn.Module):
            raise ValueError(
                f"prior must be a module whose forward() returns a distribution, got "
                f"{type(prior).__name__}: wrap it in one."
            )
        if prior is not None and not beta and any(p.requires_grad for p in prior.parameters()):
            raise ValueError("prior has weights, which learn nothing with beta 0: raise beta.")
        self.prior = UniformPrior(dim_of(self.posterior_head)) if prior is None else prior
        self.beta = beta
        self.num_samples = num_samples

    @abstractmethod
    def likelihood(self, z: Tensor, labels: Tensor | None, anchors: Anchors) -> None:
        """State, in the model, what is observed of directions ``(*, V, B, d)``."""

    def model(self, views: Views, labels: Tensor | None = None) -> None:
        """Draw directions from the prior and weigh them by the likelihood."""
        views = self._start(views)
        prior = self.prior()
        z, anchors = self._directions(prior, views)
        if z.shape[-1:] != prior.event_shape:
            raise ValueError(
                f"the prior has dimension {prior.event_shape[0]}, the posterior {z.shape[-1]}: "
                "give both the same."
            )
        self.likelihood(z, labels, anchors)

    def guide(self, views: Views, labels: Tensor | None = None) -> None:
        """Draw each view's direction from its posterior."""
        self._posterior_directions(views)

    def _posterior_directions(self, views: Views) -> tuple[Tensor, Anchors, Distribution]:
        views = self._start(views)
        q = self._view_posteriors(views)
        return *self._directions(q, views), q

    def _directions(self, distribution: Distribution, views: Tensor) -> tuple[Tensor, Anchors]:
        if len(distribution.event_shape) != 1:
            raise ValueError(
                "posterior and prior must be of vectors, of event shape (d,), got "
                f"{tuple(distribution.event_shape)}: apply .to_event(1)."
            )
        anchors = Anchors(len(views), views.shape[1], self.num_samples)
        with anchors.sampled(self.beta / distribution.event_shape[0]):
            return pyro.sample("z", distribution), anchors


class FromGuide(Generic[T]):
    """What a guide found out of each of its samples, for a model that is replayed with it.

    It is kept as long as the sample is, so that a trace may be scored at any time; never copied.
    """

    def __init__(self) -> None:
        self._found = WeakTensorKeyDictionary()

    def __reduce__(self) -> tuple:
        return FromGuide, ()

    def put(self, sample: Tensor, found: T) -> None:
        """Keep what was found: constants, for a graph would keep the sample."""
        self._found[sample] = found

    def get(self, sample: Tensor) -> T | None:
        """Return what was found out about this very sample, or None."""
        return self._found.get(sample)


class PointProgram(Program):
    """A program whose posterior is a point, the direction of a projection; its guide is empty.

    Args:
        encoder: Images to features.
        projection: Features to the embedding before normalisation.
    """

    posterior_head: PointHead

    def __init__(self, encoder: nn.Module, projection: nn.Module) -> None:
        super().__init__(encoder, PointHead(projection))

    def _project_views(self, views: Tensor) -> Tensor:
        """Map views ``(V, B, ...)`` to embeddings before normalisation, ``(V, B, d)``."""
        z = self.project(self._view_features(views))
        check_vectors("the projection", z)
        return z


def stack_views(views: Views) -> Tensor:
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


def dim_of(head: nn.Module) -> int:
    """Return the dimension of a head's embedding, or raise ``ValueError`` if it does not tell."""
    dim = getattr(head, "dim", None)
    if not isinstance(dim, int):
        part = getattr(head, "projection", head)
        raise ValueError(
            f"{type(part).__name__} has no attribute dim, the dimension of its output: add one."
        )
    return dim
