"""What the distributions that are symmetric about a direction have in common."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.autograd.function import once_differentiable

from probcl.checks import check_dim, check_on_sphere, choose_validation, value_of
from probcl.distributions.posterior import SphereDistribution, reproducible_sum, shared_normal
from probcl.precision import at_least_float32, full_precision
from probcl.special.autograd import widen
from probcl.sphere import normalize

__all__ = ["PROPOSALS", "RotationallySymmetric", "rotational_sample", "uniform_cosine"]

# Every proposal is accepted with probability above 0.65, so that all of these are rejected with
# probability below 1e-29: less than rounding changes the law.
PROPOSALS = 64

Shape = torch.Size | list[int] | tuple[int, ...]


class RotationallySymmetric(SphereDistribution):
    """Distribution on the unit sphere whose density depends on the cosine to ``loc`` only.

    A subclass gives the law of the cosine t = loc . z: ``log_prob``, ``mean_resultant_length``,
    ``_divergence_from_uniform``, ``_cosine_moments``, ``_sample_versine`` (of 1 - t) and its
    ``_velocity``, and for ``draw`` the proposals of its rejection sampler, ``_centre`` and
    ``_log_accept``. :class:`VonMisesFisher` describes the arguments.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.sphere,
        "concentration": constraints.nonnegative,
    }

    loc: Tensor
    concentration: Tensor

    def __init__(
        self,
        loc: Tensor,
        concentration: Tensor | float,
        *,
        validate_args: bool | None = None,
    ) -> None:
        loc = torch.as_tensor(loc)
        if not isinstance(concentration, Tensor):
            dtype = at_least_float32(loc).dtype
            concentration = torch.as_tensor(concentration, dtype=dtype, device=loc.device)
        batch_shape, event_shape = self.infer_shapes(loc.shape, concentration.shape)
        super().__init__(batch_shape, event_shape, validate_args=False)
        if choose_validation(self, validate_args):
            check_on_sphere(loc, loc.shape[-1], name="loc")
            _check_concentration(concentration)
        self.loc, self.concentration = _common_dtype(loc, concentration)
        self.loc = self.loc.expand(batch_shape + event_shape)
        self.concentration = self.concentration.expand(batch_shape)

    @staticmethod
    def infer_shapes(loc: Shape, concentration: Shape) -> tuple[torch.Size, torch.Size]:
        """Return batch and event shape for arguments of these shapes, or raise ValueError."""
        if len(loc) < 1:
            raise ValueError("loc must be a vector of shape (*B, d), got a number; pass a tensor.")
        check_dim(loc[-1], "loc")
        batch = tuple(loc[:-1])
        if batch and tuple(concentration) == (*batch, 1):
            raise ValueError(
                f"concentration has shape {tuple(concentration)}, but needs the batch shape"
                f" {batch} of loc; drop the last dimension with squeeze(-1)."
            )
        try:
            batch_shape = torch.broadcast_shapes(batch, tuple(concentration))
        except RuntimeError:
            raise ValueError(
                f"concentration has shape {tuple(concentration)}, which does not broadcast with"
                f" the batch shape {batch} of loc; give one number per vector of loc."
            ) from None
        return batch_shape, torch.Size(loc[-1:])

    @property
    def mean_direction(self) -> Tensor:
        """The direction of E[z], ``loc``, of shape ``batch_shape + (d,)``."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The direction of highest density, ``loc``, of shape ``batch_shape + (d,)``."""
        return self.loc

    @property
    def mean(self) -> Tensor:
        """The expectation E[z], inside the unit ball, of shape ``batch_shape + (d,)``."""
        return self.mean_resultant_length.unsqueeze(-1) * self.loc

    @property
    @abstractmethod
    def mean_resultant_length(self) -> Tensor:
        """The length |E[z]|, in [0, 1), of shape ``batch_shape``."""

    @property
    @full_precision
    def variance(self) -> Tensor:
        """The variance of every coordinate of z, of shape ``batch_shape + (d,)``."""
        along, across, _ = (moment.unsqueeze(-1) for moment in self._cosine_moments())
        square = self.loc.square()
        # The other squares are added up: 1 - square would lose their digits near a pole.
        return along * square + across * (square @ (1 - torch.eye(self.dim).to(square)))

    @property
    @full_precision
    def covariance(self) -> Tensor:
        r"""The covariance of z, of shape ``batch_shape + (d, d)``.

        .. math:: E[z z^\top] - E[z] E[z]^\top = \mathrm{Var}(t) \mu \mu^\top
                  + \tfrac{E[1 - t^2]}{d - 1} (I - \mu \mu^\top)
        """
        excess = self._cosine_moments()[2][..., None, None]
        product = self.loc.unsqueeze(-1) * self.loc.unsqueeze(-2)
        diagonal = torch.eye(self.dim, dtype=torch.bool, device=self.loc.device)
        return torch.where(diagonal, self.variance.unsqueeze(-1), -excess * product)

    @full_precision
    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Draw samples with unbiased gradients, shape ``sample_shape + batch_shape + (d,)``.

        Gradients in ``concentration`` come from implicit differentiation, those in ``loc`` from
        rotating the sample with it; both are finite everywhere. They are tangent to the sphere
        and cannot be differentiated once more.
        """
        shape = self._extended_shape(sample_shape)
        loc, kappa = self.loc.expand(shape), self.concentration.expand(shape[:-1])
        with torch.no_grad():
            versine = self._sample_versine(kappa)
        return rotational_sample(loc, kappa, versine, self._velocity)

    @full_precision
    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Place the first proposal that each item accepts, all in the same random direction.

        An item accepts a proposal if its 1 - c reaches a threshold that the proposal has for all,
        so that comparisons and elementary operations alone depend on the item.
        """
        cosines, thresholds = self._shared_proposals(count, generator)
        tangents = _on_equator(shared_normal(count, self.dim, generator, self.loc))
        centre, rest = (x.contiguous() for x in self._centre(widen(self.concentration)))
        z = torch.empty(count, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        for row, x, threshold, tangent in zip(z, cosines, thresholds, tangents, strict=True):
            first = torch.searchsorted(-threshold, -rest).clamp(max=len(x) - 1)
            versine = rest * (1 - x[first]) / (1 + centre * x[first])
            row.copy_(_place(self.loc, versine.to(self.loc.dtype), tangent))
        return z

    def _shared_proposals(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw cosines x of proposals, and the least 1 - c with which each or one before passes.

        Shapes ``(count, PROPOSALS)``. The threshold comes from bisection: the probability to
        accept grows with 1 - c, up to one.
        """
        pairs = torch.empty(count, PROPOSALS, dtype=torch.float64)
        x = uniform_cosine(pairs, self.dim - 1, generator)
        log_uniform = -torch.empty_like(x).exponential_(generator=generator)
        high = (self._log_accept(x, torch.zeros_like(x)) < log_uniform).to(x.dtype)
        low = torch.zeros_like(x)
        for _ in range(40):
            middle = 0.5 * (low + high)
            accepted = self._log_accept(x, middle) >= log_uniform
            low, high = torch.where(accepted, low, middle), torch.where(accepted, middle, high)
        high[:, -1] = 0
        like = widen(self.loc)
        return x.to(like), high.cummin(-1).values.to(like)

    def _checked(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._check_value(value)
        return _unit_float32(value)

    @abstractmethod
    def _sample_versine(self, kappa: Tensor) -> Tensor:
        """Draw 1 - t, one for every element of ``kappa``."""

    @abstractmethod
    def _velocity(self, versine: Tensor, kappa: Tensor) -> Tensor:
        """Compute (dt/dkappa) / (1 - t^2) at samples of 1 - t."""

    @abstractmethod
    def _centre(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """Compute c, where proposals t = (x + c) / (1 + c x) gather, and 1 - c."""

    @abstractmethod
    def _log_accept(self, x: Tensor, rest: Tensor) -> Tensor:
        """Compute the log probability to accept a proposal, for 1 - c = ``rest``.

        x is the cosine of a uniform point of one dimension more.
        """

    @abstractmethod
    def _cosine_moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Compute Var(t), E[1 - t^2] / (d - 1) and the excess of this, shape ``batch_shape``."""


def _common_dtype(loc: Tensor, concentration: Tensor) -> tuple[Tensor, Tensor]:
    loc, concentration = _unit_float32(loc), at_least_float32(concentration)
    if concentration.dim() == 0:
        return loc, concentration.to(loc.dtype)
    dtype = torch.promote_types(loc.dtype, concentration.dtype)
    return loc.to(dtype), concentration.to(dtype)


def _unit_float32(x: Tensor) -> Tensor:
    """Raise low precision to float32, and restore the unit length it had lost."""
    return x if x.dtype in (torch.float32, torch.float64) else normalize(x.float())


def _check_concentration(concentration: Tensor) -> None:
    bad = ~((concentration >= 0) & torch.isfinite(concentration))
    if value_of("concentration", bad.any()):
        raise ValueError(
            "concentration must be non-negative and finite, got"
            f" {concentration[bad][0].item()}; apply softplus or exp to free parameters."
        )


def rotational_sample(
    loc: Tensor, kappa: Tensor, versine: Tensor, velocity: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    r"""Place samples of the cosine :math:`t = \mu^\top z` on the sphere, in random directions.

    :math:`z = t \mu + \sqrt{1 - t^2}\, v` with v uniform among the unit vectors orthogonal to
    :math:`\mu`. Gradients are those of the motion that keeps the cumulative probability of t,
    and turns z with loc by the shortest rotation:

    .. math::
        \frac{\partial z}{\partial\kappa} = H(t)\,(\mu - t z), \qquad
        dz = t\, d\mu - (z^\top d\mu)\, \mu .

    Args:
        loc: Unit vectors mu, shape ``(*, d)``.
        kappa: Concentrations, shape ``(*,)``.
        versine: Samples of 1 - t, shape ``(*,)``.
        velocity: Function of (1 - t, kappa) giving H, with dt/dkappa = (1 - t^2) H.

    Returns:
        Unit vectors, shape ``(*, d)``.

    Example:
        >>> loc = torch.tensor([0.0, 0.0, 1.0])
        >>> z = rotational_sample(loc, torch.tensor(1.0), torch.tensor(0.25), lambda y, k: y)
        >>> torch.linalg.vecdot(loc, z)
        tensor(0.7500)
    """
    return _RotationalSample.apply(loc, kappa, versine, velocity)


class _RotationalSample(torch.autograd.Function):
    @staticmethod
    def forward(
        loc: Tensor,
        kappa: Tensor,
        versine: Tensor,
        velocity: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        w = torch.randn_like(loc, memory_format=torch.contiguous_format)
        return _place(loc, versine, _on_equator(w))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        loc, kappa, versine, ctx.velocity = inputs
        ctx.save_for_backward(loc, kappa, versine, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        loc, kappa, versine, z = ctx.saved_tensors
        cosine = 1 - versine
        along_loc = (grad * loc).sum(-1)
        grad_loc = grad_kappa = None
        if ctx.needs_input_grad[0]:
            grad_loc = (cosine.unsqueeze(-1) * grad).addcmul_(z, -along_loc.unsqueeze(-1))
        if ctx.needs_input_grad[1]:
            along_path = along_loc - cosine * (grad * z).sum(-1)
            grad_kappa = along_path * ctx.velocity(versine, kappa)
        return grad_loc, grad_kappa, None, None


def _on_equator(w: Tensor) -> Tensor:
    """Make a normal vector a uniform one among the unit vectors orthogonal to the first axis."""
    w[..., 0] = 0
    return w.div_(torch.linalg.vector_norm(w, dim=-1, keepdim=True))


def _place(loc: Tensor, versine: Tensor, w: Tensor) -> Tensor:
    """Return z = t loc + sqrt(1 - t^2) v, with v the direction w of the equator carried to loc.

    The reflection that takes the first axis to -+loc carries the equator to the tangent space:
    v = w - (w . loc) / (1 + |loc_1|) (loc + sign(loc_1) e_1). It has the length of w to the last
    digit, and is well defined at every loc, poles included.
    """
    first = loc[..., 0]
    sine = (versine * (2 - versine)).clamp(min=0).sqrt()
    tilt = sine * reproducible_sum(w * loc) / (1 + first.abs())
    z = w * sine.unsqueeze(-1) + loc * (1 - versine - tilt).unsqueeze(-1)
    z[..., 0] -= torch.where(first < 0, -tilt, tilt)
    return z


def uniform_cosine(like: Tensor, free: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw coordinates of uniform points of S^free, with density (1 - x^2)^(free / 2 - 1)."""
    x = torch.cos(torch.empty_like(like).uniform_(0, 2 * torch.pi, generator=generator))
    if free == 1:
        return x
    # The squared radius of two coordinates is 1 - U^(2 / (free - 1)).
    exponent = torch.empty_like(like).exponential_(generator=generator) * (-2 / (free - 1))
    return x * torch.sqrt(-torch.expm1(exponent))
