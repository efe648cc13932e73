"""The projected normal distribution on the unit sphere, for every covariance."""

import math
from typing import ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor

from probcl import checks
from probcl.distributions.covariance import Covariance, Diagonal, Full, Isotropic, LowRank
from probcl.distributions.posterior import SphereDistribution, reproducible_normalize
from probcl.distributions.projected_normal_density import radial_exponent
from probcl.precision import at_least_float32, full_precision
from probcl.special.autograd import widen
from probcl.special.isotropic import (
    isotropic_kl_rest,
    isotropic_kl_uniform,
    relative_mean_resultant,
)
from probcl.special.quadratic_form import mean_log_over_mean, unit_vector_rule
from probcl.sphere import log_area, normalize

__all__ = ["ProjectedNormal"]

_NORMALISED = 2**18  # numbers that are normalised at once
_REACH = 2.0**40  # of the mean or a scale beyond the least one


class ProjectedNormal(SphereDistribution):
    r"""Direction of a normal vector: z = x / |x| with x ~ N(mu, Sigma), on S^{d-1}.

    The density with respect to surface measure is exact in every dimension d >= 2. With
    :math:`a = z^\top \Sigma^{-1} z` and :math:`\alpha = z^\top \Sigma^{-1} \mu / \sqrt a`,

    .. math::
        p(z) = (2 \pi)^{-d/2} |\Sigma|^{-1/2} a^{-d/2}
               e^{-(\mu^\top \Sigma^{-1} \mu - \alpha^2) / 2} M_d(\alpha), \qquad
        M_d(\alpha) = \int_0^\infty s^{d-1} e^{-(s - \alpha)^2 / 2} \, ds

    Only the ratio of mean and scale is identified: PN(c mu, c^2 Sigma) = PN(mu, Sigma) for
    every c > 0. A zero mean is legal; with an isotropic covariance it gives the uniform.
    Low-precision parameters are raised to float32, and autocast is switched off inside.
    Densities are those at z / |z|, so that a value may be off the sphere by rounding, and
    gradients with respect to it are tangent to the sphere.

    Entropy and divergence from the uniform are exact up to a quadrature. In float32 it leaves an
    error of 1e-4 of the divergence at most where the logarithms of unequal scales have a standard
    deviation of 1, of 2e-3 at 2 and of 2e-2 at 3; in float64 less than 1e-8.

    Args:
        loc: Mean mu of the normal, shape ``(*B, d)``.
        scale: Standard deviations: a number or shape ``(*B, 1)`` for an isotropic covariance,
            ``(*B, d)`` for a diagonal one; 1 if no covariance is given.
        scale_tril: Lower Cholesky factor of a full covariance, shape ``(*B, d, d)``.
        cov_factor: Factor W of the low-rank covariance ``W W' + diag(D)``, shape ``(*B, d, k)``.
        cov_diag: Diagonal D of the low-rank covariance, shape ``(*B, d)``.
        validate_args: Whether to check arguments; torch's default if None.

    Raises:
        ValueError: If d < 2, shapes do not fit, several covariances are given, or, with
            validation on, a parameter is not finite or a scale not positive.

    References:
        Hernandez-Stumpfhauser, Breidt and van der Woerd (2017), "The General Projected Normal
        Distribution of Arbitrary Dimension", Bayesian Analysis 12(1),
        https://doi.org/10.1214/15-BA989

    Example:
        >>> q = ProjectedNormal(torch.tensor([3.0, 0.0, 0.0]), scale=0.5)
        >>> q.rsample((5,)).shape
        torch.Size([5, 3])
        >>> q.log_prob(torch.tensor([1.0, 0.0, 0.0]))
        tensor(1.7730)
        >>> q.mean_resultant_length
        tensor(0.9722)
        >>> ProjectedNormal(torch.zeros(2), torch.tensor([1.0, 2.0])).entropy()
        tensor(1.7201)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
        "scale_tril": constraints.lower_cholesky,
        "cov_factor": constraints.independent(constraints.real, 2),
        "cov_diag": constraints.independent(constraints.positive, 1),
    }

    loc: Tensor
    #: Sigma, the covariance of x, in factored form.
    normal_covariance: Covariance
    _batched: ClassVar = {"loc": 1}

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor | float | None = None,
        *,
        scale_tril: Tensor | None = None,
        cov_factor: Tensor | None = None,
        cov_diag: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(loc, Tensor):
            loc = torch.as_tensor(loc)
        given = {
            "scale": torch.as_tensor(scale, device=loc.device) if scale is not None else None,
            "scale_tril": scale_tril,
            "cov_factor": cov_factor,
            "cov_diag": cov_diag,
        }
        loc, parameters = _common_dtype(loc, {k: v for k, v in given.items() if v is not None})
        shapes = {name: x.shape for name, x in parameters.items()}
        batch_shape, event_shape = self.infer_shapes(loc=loc.shape, **shapes)
        self.normal_covariance = _covariance(loc, parameters)
        self.loc = loc.expand(batch_shape + event_shape)
        super().__init__(batch_shape, event_shape, validate_args=False)
        if checks.choose_validation(self, validate_args):
            _check_values(loc, parameters)

    @staticmethod
    def infer_shapes(
        loc: torch.Size,
        scale: torch.Size | None = None,
        scale_tril: torch.Size | None = None,
        cov_factor: torch.Size | None = None,
        cov_diag: torch.Size | None = None,
    ) -> tuple[torch.Size, torch.Size]:
        """Return batch and event shape for arguments of these shapes, or raise ValueError.

        Example:
            >>> ProjectedNormal.infer_shapes(loc=(5, 3), scale_tril=(3, 3))
            (torch.Size([5]), torch.Size([3]))
        """
        if len(loc) < 1:
            raise ValueError("loc must be a vector of shape (*B, d), got a number; pass a tensor.")
        dim = loc[-1]
        checks.check_dim(dim, "loc")
        if (cov_factor is None) != (cov_diag is None):
            missing = "cov_factor" if cov_factor is None else "cov_diag"
            raise ValueError(
                f"cov_factor and cov_diag come together, but {missing} is None; pass both."
            )
        families = {"scale": scale, "scale_tril": scale_tril, "cov_factor and cov_diag": cov_factor}
        given = [name for name, shape in families.items() if shape is not None]
        if len(given) > 1:
            raise ValueError(
                f"Only one covariance may be given, got {', '.join(given)}; drop the others."
            )
        batch_shapes = [loc[:-1]]
        if scale is not None and len(scale):
            _check_shape("scale", scale, scale[-1] in (1, dim), f"(*B, 1) or (*B, {dim})")
            batch_shapes.append(scale[:-1])
        if scale_tril is not None:
            fits = tuple(scale_tril[-2:]) == (dim, dim)
            _check_shape("scale_tril", scale_tril, fits, f"(*B, {dim}, {dim})")
            batch_shapes.append(scale_tril[:-2])
        if cov_factor is not None and cov_diag is not None:
            fits = len(cov_factor) >= 2 and cov_factor[-2] == dim
            _check_shape("cov_factor", cov_factor, fits, f"(*B, {dim}, k)")
            _check_shape("cov_diag", cov_diag, tuple(cov_diag[-1:]) == (dim,), f"(*B, {dim})")
            batch_shapes += [cov_factor[:-2], cov_diag[:-1]]
        try:
            batch_shape = torch.broadcast_shapes(*batch_shapes)
        except RuntimeError:
            shapes = ", ".join(str(tuple(shape)) for shape in batch_shapes)
            raise ValueError(
                f"Batch shapes of loc and the covariance do not broadcast: {shapes};"
                " make them equal or 1."
            ) from None
        return torch.Size(batch_shape), torch.Size([dim])

    @property
    def scale(self) -> Tensor:
        """Standard deviations, shape ``(*B, 1)`` or ``(*B, d)``."""
        return self._parameter("scale", Diagonal, 1)

    @property
    def scale_tril(self) -> Tensor:
        """Lower Cholesky factor of a full covariance, shape ``(*B, d, d)``."""
        return self._parameter("scale_tril", Full, 2)

    @property
    def cov_factor(self) -> Tensor:
        """Factor of a low-rank covariance, shape ``(*B, d, k)``."""
        return self._parameter("cov_factor", LowRank, 2)

    @property
    def cov_diag(self) -> Tensor:
        """Diagonal of a low-rank covariance, shape ``(*B, d)``."""
        return self._parameter("cov_diag", LowRank, 1)

    @full_precision
    def rsample(
        self,
        sample_shape: torch.Size = torch.Size(),  # noqa: B008
    ) -> Tensor:
        """Draw reparametrised samples, shape ``sample_shape + batch_shape + (d,)``."""
        shape = self._extended_shape(sample_shape)
        return normalize(self.normal_covariance.sample(self.loc, shape))

    @full_precision
    def log_prob(self, value: Tensor) -> Tensor:
        """Return the exact log density with respect to surface measure.

        Args:
            value: Unit vectors, shape ``(*S, *B, d)``.

        Returns:
            Log densities, shape ``(*S, *B)``; differentiable twice.
        """
        dim = self.dim
        if self._validate_args:
            self._check_value(value)
        value, q = at_least_float32(value), self
        if value.dtype != self.loc.dtype:
            value, q = value.double(), self._in_float64()
        loc, covariance = q.loc, q.normal_covariance
        if isinstance(covariance, Isotropic):
            factor = covariance.centring(loc)
            scale = covariance.scale * factor
            exponent, _ = radial_exponent(value, loc * factor, scale, dim)
            return (exponent - log_area(dim)).to(loc.dtype)
        direction, mean, half_log_det = covariance.standardise(value, loc)
        exponent, log_norm = radial_exponent(direction, mean, mean.new_ones(1), dim)
        # Logarithms times d can cancel; one number per row costs next to nothing in float64.
        stretch = log_norm - widen(torch.linalg.vector_norm(value, dim=-1)).log()
        density = exponent - widen(half_log_det) - dim * stretch
        return (density - log_area(dim)).to(mean.dtype)

    @property
    @full_precision
    def log_det_covariance(self) -> Tensor:
        """The log determinant of Sigma, shape ``(*B,)``.

        It is the uncertainty score of Jeong, Kim and Hero (2025), "Probabilistic Variational
        Contrastive Learning", https://arxiv.org/abs/2506.10159. It depends on the joint scale of
        (mu, Sigma), unlike the distribution.
        """
        return (2.0 * self.normal_covariance.half_log_det(self.dim)).expand(self.batch_shape)

    @full_precision
    def _divergence_from_uniform(self) -> Tensor:
        r"""Compute the divergence from the uniform, exactly up to quadrature.

        With delta^2 = mu' Sigma^-1 mu and x ~ N(mu, Sigma), for every covariance

        .. math:: \mathrm{KL} = \mathrm{KL}_{iso}(\delta) - \tfrac12 \log |\Sigma|
                  - \tfrac d2 \left(E \log \chi'^2_d(\delta^2) - E \log |x|^2\right)
        """
        loc, halvings = self._nearer_loc()
        rest = (self.dim - 1) * math.log(2.0) * halvings
        if isinstance(self.normal_covariance, Isotropic):
            return rest + isotropic_kl_uniform(self.normal_covariance.mahalanobis(loc), self.dim)
        if self._validate_args and loc.dtype == torch.float32 and self._reaches_far(loc):
            return self._in_float64()._divergence_from_uniform().float()
        form = self.normal_covariance.quadratic_form(loc)
        mean_log = mean_log_over_mean(form, self.dim) + torch.log(form.mean / self.dim)
        excess = 0.5 * self.dim * (mean_log - form.log_geometric)
        return rest + isotropic_kl_rest(form.mahalanobis, self.dim) + excess

    def _reaches_far(self, loc: Tensor) -> bool:
        """Return whether scales differ so much that their powers leave the range of float32."""
        with torch.no_grad():
            spread = self.normal_covariance.spread
            largest = torch.maximum(spread.amax(-1), loc.abs().amax(-1))
            return bool(checks.value_of("scale", (largest > _REACH * spread.amin(-1)).any()))

    def _in_float64(self) -> "ProjectedNormal":
        one = torch.ones(1, dtype=torch.float64, device=self.loc.device)
        wide = self.expand(self.batch_shape)
        wide.loc, wide.normal_covariance = self.loc.double(), self.normal_covariance.scaled(one)
        return wide

    def _nearer_loc(self) -> tuple[Tensor, Tensor]:
        """Return the mean, halved until it is in range, and how often, ``(*B, d)`` and ``(*B,)``.

        Far out the distribution is a normal one in the tangent space, of variance proportional to
        1 / |loc|^2: the mean direction depends on that of loc only, and the divergence from the
        uniform falls by (d - 1) log 2 where loc is halved.
        """
        with torch.no_grad():
            far = 40 if self.loc.dtype == torch.float64 else 20
            longest = torch.frexp(self.loc.abs().amax(-1, keepdim=True))[1]
            excess = (longest - torch.frexp(self.normal_covariance.largest)[1] - far).clamp(min=0)
            one, half = torch.ones_like(excess, dtype=self.loc.dtype), excess // 2
            steps = torch.ldexp(one, -half), torch.ldexp(one, half - excess)
        return self.loc * steps[0] * steps[1], excess[..., 0]

    @full_precision
    def _draw(self, count: int, generator: torch.Generator) -> Tensor:
        noise = self.normal_covariance.draw(count, self.dim, generator)
        missing = len(self.batch_shape) + 2 - noise.dim()
        z = noise.reshape(count, *[1] * missing, *noise.shape[1:]) + self.loc
        for part in z.split(max(1, _NORMALISED // max(z[0].numel(), 1))):  # few temporaries
            part.copy_(reproducible_normalize(part))
        return z

    @property
    def mode(self) -> Tensor:
        """Direction of highest density, loc / |loc|, for an isotropic covariance."""
        if not isinstance(self.normal_covariance, Isotropic):
            raise NotImplementedError(
                "mode of a projected normal has no known closed form unless its covariance is"
                " isotropic; use mean_direction."
            )
        return normalize(self.loc)

    @property
    @full_precision
    def mean(self) -> Tensor:
        """Expectation E[z], inside the ball, shape ``(*B, d)``.

        In closed form for an isotropic covariance, else by one integral over the Laplace transform
        of |x|^2, exact up to quadrature. Its length is the mean resultant length.
        """
        if isinstance(self.normal_covariance, Isotropic):
            whitened = self.normal_covariance.whiten(self._nearer_loc()[0])
            kappa2 = torch.linalg.vecdot(whitened, whitened)
            return relative_mean_resultant(kappa2, self.dim)[..., None] * whitened
        loc, _ = self._nearer_loc()
        factor = self.normal_covariance.centring(loc)
        loc, covariance = loc * factor, self.normal_covariance.scaled(factor)
        nodes, weights = unit_vector_rule(covariance.quadratic_form(loc), self.dim)
        resolvent, mean = covariance.resolvent(loc), torch.zeros_like(loc)
        for tau, weight in zip(nodes.unbind(-1), weights.unbind(-1), strict=True):
            mean = mean + weight[..., None] * resolvent(tau)
        return mean

    def _parameter(self, name: str, family: type[Covariance], event_dim: int) -> Tensor:
        if not isinstance(self.normal_covariance, family):
            raise AttributeError(
                f"this ProjectedNormal has no {name}: its covariance is"
                f" {type(self.normal_covariance).__name__}"
            )
        parameter: Tensor = getattr(self.normal_covariance, name)
        return parameter.expand(self.batch_shape + parameter.shape[-event_dim:])


def _common_dtype(loc: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Bring all parameters to one floating dtype, float32 at least."""
    dtype = at_least_float32(loc).dtype
    for parameter in parameters.values():
        if parameter.dim():  # a plain number follows the others
            dtype = torch.promote_types(dtype, at_least_float32(parameter).dtype)
    return loc.to(dtype), {name: x.to(dtype) for name, x in parameters.items()}


def _covariance(loc: Tensor, parameters: dict[str, Tensor]) -> Covariance:
    if "scale_tril" in parameters:
        return Full(parameters["scale_tril"])
    if "cov_factor" in parameters:
        return LowRank(parameters["cov_factor"], parameters["cov_diag"])
    scale = parameters.get("scale", loc.new_ones(1))
    scale = scale[..., None] if scale.dim() == 0 else scale
    return Isotropic(scale) if scale.shape[-1] == 1 else Diagonal(scale)


def _check_shape(name: str, shape: torch.Size, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(
            f"{name} has shape {tuple(shape)}, but loc asks for {expected}; reshape it to fit."
        )


def _check_values(loc: Tensor, parameters: dict[str, Tensor]) -> None:
    checks.check_finite("loc", loc)
    for name, parameter in parameters.items():
        if name in ("scale", "cov_diag"):
            checks.check_positive(name, parameter)
        else:
            checks.check_finite(name, parameter)
    if (tril := parameters.get("scale_tril")) is not None:
        checks.check_positive("the diagonal of scale_tril", tril.diagonal(dim1=-2, dim2=-1))
        if torch.count_nonzero(tril.triu(1)):
            raise ValueError(
                "scale_tril must be lower triangular, got a nonzero element above the diagonal;"
                " pass torch.linalg.cholesky of the covariance."
            )
