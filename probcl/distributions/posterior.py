"""The interface of a posterior on the sphere: mean direction, resultant length, entropy, draws."""

from typing import Any, ClassVar, Self

import pyro.distributions
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution

from probcl.checks import check_count, check_dim, check_on_sphere, choose_validation
from probcl.distributions.support import unit_sphere
from probcl.randomness import seeded
from probcl.sphere import log_area, normalize, rescaling

__all__ = ["Point", "SphereDistribution", "as_posterior"]

# Draws by which the adapter of a foreign distribution estimates its mean.
_MEAN_DRAWS = 256


class SphereDistribution(TorchDistribution):
    """Distribution on the unit sphere, as evaluation, reports and kernels see it.

    A family of one's own gives its parameters as ``arg_constraints``, which :meth:`expand` goes by,
    and ``rsample``, ``log_prob`` and ``mean``, or ``mean_direction`` and ``mean_resultant_length``.
    It may give ``entropy``, and a divergence from the uniform by
    ``torch.distributions.kl.register_kl``; without, both raise ``NotImplementedError``, and
    ``ContrastiveELBO`` estimates the KL.

    Example:
        >>> from probcl.distributions import VonMisesFisher
        >>> q = VonMisesFisher(torch.eye(3), torch.tensor([1.0, 10.0, 100.0]))
        >>> q.mean_resultant_length
        tensor([0.3130, 0.9000, 0.9900])
        >>> q.draw(64).shape
        torch.Size([64, 3, 3])
    """

    support = unit_sphere
    has_rsample = True

    _validate_args: bool
    # Tensors that expand with the batch, and their event dimensions, if not the parameters.
    _batched: ClassVar[dict[str, int] | None] = None

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """Return the same distribution with a larger batch shape, sharing memory."""
        new = self._get_checked_instance(type(self), _instance)
        new.__dict__.update(self.__dict__, _batch_shape=torch.Size(batch_shape))
        parameters = {name: kind.event_dim for name, kind in self.arg_constraints.items()}
        for name, event_dims in (self._batched or parameters).items():
            x = getattr(self, name)
            setattr(new, name, x.expand(new.batch_shape + x.shape[x.dim() - event_dims :]))
        return new

    @property
    def dim(self) -> int:
        """The dimension d of the ambient space."""
        return int(self.event_shape[0])  # torch.jit traces sizes as tensors

    @property
    def mean_direction(self) -> Tensor:
        """The direction of E[z], shape ``(*B, d)``; arbitrary where E[z] is zero."""
        return normalize(self.mean)

    @property
    def mean_resultant_length(self) -> Tensor:
        """The length |E[z]|, between 0 for the uniform and 1 for a point, shape ``(*B,)``."""
        return torch.linalg.vector_norm(self.mean, dim=-1)

    @property
    def variance(self) -> Tensor:
        """The variance of every coordinate of z, shape ``(*B, d)``, where it is known."""
        return self.covariance.diagonal(dim1=-2, dim2=-1)

    @property
    def covariance(self) -> Tensor:
        """The covariance of z, shape ``(*B, d, d)``, where it is known."""
        raise NotImplementedError(
            f"the covariance of a {type(self).__name__} is not known in closed form: estimate it "
            "from draw(1000)."
        )

    def entropy(self) -> Tensor:
        """Return the differential entropy with respect to surface measure, shape ``(*B,)``."""
        return log_area(self.dim) - self._divergence_from_uniform()

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """Draw samples that depend on their own item's parameters only, whatever the batch.

        All items share their base samples, made from ``count``, ``seed``, the family and d, and
        every operation after that rounds alike at each place of a tensor. So an item has the same
        draws, bit for bit, in every batch size and order, and differences between items are not
        noise. Each item's draws are independent and follow its distribution exactly. The global
        random state is left alone, and no gradient flows.

        Args:
            count: Number ``S`` of draws of each item.
            seed: Seed of the base samples.

        Returns:
            Unit vectors, shape ``(S, *B, d)``.

        Raises:
            ValueError: If ``count`` is less than 1.
        """
        check_count("count", count)
        with torch.no_grad():
            return self._draw(count, torch.Generator().manual_seed(seed))

    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw by base samples from a generator on the CPU; see :meth:`draw`.

        By default of the whole batch at once, so that draws change with it.
        """
        with seeded(generator.initial_seed()):
            return self.sample(torch.Size([count]))

    def _divergence_from_uniform(self) -> Tensor:
        """Compute the Kullback-Leibler divergence from the uniform, shape ``(*B,)``."""
        raise NotImplementedError(
            f"{type(self).__name__} has no divergence from the uniform in closed form: estimate it "
            "from log_prob at samples."
        )

    def _check_value(self, value: Tensor) -> None:
        """Raise ``ValueError`` unless ``value`` holds unit vectors, one for each of a batch."""
        check_on_sphere(value, self.dim)
        try:
            torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        except RuntimeError:
            raise ValueError(
                f"value has batch shape {tuple(value.shape[:-1])}, which does not broadcast with"
                f" the batch shape {tuple(self.batch_shape)}; give one vector per distribution."
            ) from None


class Point(pyro.distributions.Delta):
    """A point of the unit sphere as posterior, for methods that give no uncertainty.

    Args:
        loc: Unit vectors, shape ``(*B, d)``.
        validate_args: Whether to check arguments; torch's default if None.

    Raises:
        ValueError: If d < 2 or, with validation on, ``loc`` is not a unit vector.

    Example:
        >>> q = Point(torch.eye(3))
        >>> q.mean_resultant_length
        tensor([1., 1., 1.])
        >>> q.draw(64).shape
        torch.Size([64, 3, 3])
    """

    def __init__(self, loc: Tensor, *, validate_args: bool | None = None) -> None:
        check_dim(loc.shape[-1], "loc")
        super().__init__(loc, event_dim=1, validate_args=False)
        if choose_validation(self, validate_args):
            check_on_sphere(loc, loc.shape[-1], name="loc")

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "Point":
        """Return the same point with a larger batch shape, sharing memory."""
        return super().expand(batch_shape, self._get_checked_instance(Point, _instance))

    @property
    def loc(self) -> Tensor:
        """The point, shape ``(*B, d)``."""
        return self.v

    @property
    def mean_direction(self) -> Tensor:
        """The point, shape ``(*B, d)``."""
        return self.v

    @property
    def mean_resultant_length(self) -> Tensor:
        """One, shape ``(*B,)``."""
        return torch.ones_like(self.v[..., 0])

    def entropy(self) -> Tensor:
        """Raise NotImplementedError: a point has no density."""
        raise NotImplementedError("entropy of a Point does not exist; leave it out for points.")

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """Return the point ``count`` times, shape ``(count, *B, d)``, sharing memory."""
        return self.v.detach().expand(check_count("count", count), *self.v.shape)


def as_posterior(q: Distribution) -> Any:
    """Return a distribution over vectors with the interface of a posterior.

    Args:
        q: Distribution over vectors, of batch shape ``(*B,)``. One that has the interface comes
            back as it is, a Delta as a :class:`Point` in its direction. Any other is wrapped: the
            mean and its length are estimated from 256 of its samples; they and ``draw`` are of
            directions z / |z|, by seed. Its samples are drawn for the whole batch at once, so that
            those of an item change with the batch, unlike those of the distributions here.

    Returns:
        A distribution with ``mean_direction``, ``mean_resultant_length``, ``entropy`` and ``draw``.

    Raises:
        ValueError: If ``q`` is not a distribution over vectors of length 2 or more.

    Example:
        >>> mixture = pyro.distributions.MixtureSameFamily(
        ...     pyro.distributions.Categorical(torch.ones(2)),
        ...     pyro.distributions.ProjectedNormal(torch.eye(3)[:2]),
        ... )
        >>> as_posterior(mixture).draw(5).shape
        torch.Size([5, 3])
    """
    interface = ("mean_direction", "mean_resultant_length", "entropy", "draw")
    if all(hasattr(type(q), name) for name in interface):
        return q
    if len(q.event_shape) != 1 or q.event_shape[0] < 2:
        raise ValueError(
            f"posterior must be a distribution over vectors of length 2 or more, got event shape"
            f" {tuple(q.event_shape)}; declare the vector's dimension with to_event(1)."
        )
    if isinstance(q, pyro.distributions.Delta):
        return Point(normalize(q.v))
    return _Sampled(q)


class _Sampled(TorchDistribution):
    """Any distribution over vectors, its directions drawn by seed."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, base: Distribution) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def mean_direction(self) -> Tensor:
        return normalize(self.draw(_MEAN_DRAWS).sum(0))

    @property
    def mean_resultant_length(self) -> Tensor:
        # The mean cosine of two different draws estimates the square without bias.
        z = self.draw(_MEAN_DRAWS)
        cosines = (z.sum(0).square().sum(-1) - len(z)) / (len(z) * (len(z) - 1))
        return cosines.clamp(min=0).sqrt()

    def entropy(self) -> Tensor:
        return self.base.entropy()

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.base.sample(sample_shape)

    def draw(self, count: int, seed: int = 0) -> Tensor:
        with seeded(seed), torch.no_grad():
            return normalize(self.base.sample(torch.Size([check_count("count", count)])))


def shared_normal(count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw normal base samples ``(count, size)`` in float64, as a tensor like another."""
    base = torch.randn(count, size, dtype=torch.float64, generator=generator)
    return base.to(like.device, like.dtype)


def reproducible_sum(x: Tensor) -> Tensor:
    """Sum over the last dimension by halves: additions alone, which round alike everywhere.

    A library's own sum may take another order for another batch size or device.
    """
    while (size := x.shape[-1]) > 1:
        half, odd = (size + 1) // 2, size % 2
        folded = x[..., : size // 2] + x[..., half:]
        x = torch.cat([folded, x[..., half - 1 : half]], -1) if odd else folded
    return x[..., 0]


def reproducible_normalize(x: Tensor) -> Tensor:
    """Divide vectors by their norm, as ``probcl.sphere.normalize``, rounding alike everywhere."""
    factor, offset = rescaling(x)
    unit = x * factor + offset  # exact
    return unit / reproducible_sum(unit * unit).sqrt()[..., None]
