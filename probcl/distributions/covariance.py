"""The four covariance families of the projected normal, behind one interface.

Parameters keep the batch shape they were given; expanding a distribution copies nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from probcl.distributions.posterior import shared_normal
from probcl.distributions.projected_normal_density import standardise
from probcl.special.log_laplace import (
    diagonal_log_laplace,
    diagonal_sums,
    full_log_laplace,
    scaled_square,
)
from probcl.special.quadratic_form import QuadraticForm

__all__ = ["Covariance", "Diagonal", "Full", "Isotropic", "LowRank"]


class Covariance(ABC):
    """A covariance matrix Sigma of shape (*B, d, d), in factored form."""

    @property
    @abstractmethod
    def spread(self) -> Tensor:
        """Positive numbers of shape (*B, d) or (*B, 1) that follow the overall scale."""

    @property
    @abstractmethod
    def largest(self) -> Tensor:
        """A bound, up to d, of the largest standard deviation in any direction, shape (*B, 1)."""

    @abstractmethod
    def scaled(self, factor: Tensor) -> "Covariance":
        """Return factor^2 Sigma, for a factor of shape (*B, 1)."""

    @abstractmethod
    def sample(self, loc: Tensor, shape: torch.Size) -> Tensor:
        """Draw from N(loc, Sigma), shape (*S, *B, d)."""

    @abstractmethod
    def draw(self, count: int, dim: int, generator: torch.Generator) -> Tensor:
        """Draw from N(0, Sigma), shape (S, *B, d), by base samples that all of a batch share.

        Every operation rounds alike wherever an element lies.
        """

    @abstractmethod
    def whiten(self, x: Tensor) -> Tensor:
        """Map x to y, linearly, with |y|^2 = x' Sigma^-1 x; y may have more coordinates."""

    def standardise(self, value: Tensor, loc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whiten a value and the mean together.

        Returns the whitened value divided by the centring factor c, the whitened mean, and half
        the log determinant of c^2 Sigma; neither overflows where the scale is extreme.
        """
        centred = self.scaled(self.centring())
        return centred.whiten(value), self.whiten(loc), centred.half_log_det(loc.shape[-1])

    @abstractmethod
    def half_log_det(self, dim: int) -> Tensor:
        """Return half the log determinant of Sigma."""

    @abstractmethod
    def trace(self, dim: int) -> Tensor:
        """Return the trace of Sigma."""

    @abstractmethod
    def resolvent(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the function of tau, (*B,) -> (*B, d), that gives (I + 2 tau Sigma)^-1 x."""

    @abstractmethod
    def quadratic_form(self, loc: Tensor) -> QuadraticForm:
        """Describe |x|^2 for x ~ N(c loc, c^2 Sigma), with c = ``centring(loc)``."""

    def centring(self, loc: Tensor | None = None) -> Tensor:
        """Return the power of two, shape (*B, 1), that puts the scales, and ``loc``, around one."""
        with torch.no_grad():
            largest, least = self.spread.amax(-1, keepdim=True), self.spread.amin(-1, keepdim=True)
            if loc is not None:
                largest = torch.maximum(largest, loc.abs().amax(-1, keepdim=True))
            total = torch.frexp(largest)[1] + torch.frexp(least)[1]
            middle = torch.div(total, 2, rounding_mode="floor")
            return torch.ldexp(torch.ones_like(middle, dtype=self.spread.dtype), -middle)


class Diagonal(Covariance):
    """Sigma = diag(scale^2), scale of shape (*B, d)."""

    def __init__(self, scale: Tensor) -> None:
        self.scale = scale

    @property
    def spread(self) -> Tensor:
        return self.scale

    @property
    def largest(self) -> Tensor:
        return self.scale.amax(-1, keepdim=True)

    def scaled(self, factor: Tensor) -> "Diagonal":
        return type(self)(self.scale * factor)

    def sample(self, loc: Tensor, shape: torch.Size) -> Tensor:
        return torch.addcmul(loc, self.scale, _standard_normal(loc, shape))

    def draw(self, count: int, dim: int, generator: torch.Generator) -> Tensor:
        base = shared_normal(count, dim, generator, self.scale)
        return self.scale * _over_batch(base, self.scale.dim() - 1)

    def whiten(self, x: Tensor) -> Tensor:
        return x / self.scale

    def standardise(self, value: Tensor, loc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return standardise(value, loc, self.scale, self.centring())

    def half_log_det(self, dim: int) -> Tensor:
        return self.scale.log().sum(-1)

    def trace(self, dim: int) -> Tensor:
        return torch.linalg.vecdot(self.scale, self.scale)

    def resolvent(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        double = 2.0 * self.scale.square()
        return lambda tau: x / (1.0 + tau[..., None] * double)

    def quadratic_form(self, loc: Tensor) -> QuadraticForm:
        factor = self.centring(loc)
        variance, squared_loc = torch.broadcast_tensors(
            scaled_square(self.scale, factor), scaled_square(loc, factor)
        )
        trace, squared_mean, square, stretch, log, ratio = diagonal_sums(variance, squared_loc)

        def log_laplace(tau: Tensor) -> Tensor:
            return diagonal_log_laplace(variance, squared_loc, tau)

        return QuadraticForm(
            mean=trace + squared_mean,
            variance=2.0 * square + 4.0 * stretch,
            log_geometric=log / loc.shape[-1],
            squared_mean=squared_mean,
            stretch=stretch,
            mahalanobis=ratio,
            log_laplace=log_laplace,
        )


class Isotropic(Diagonal):
    """Sigma = scale^2 I, scale of shape (*B, 1)."""

    def half_log_det(self, dim: int) -> Tensor:
        return dim * self.scale[..., 0].log()

    def mahalanobis(self, loc: Tensor) -> Tensor:
        """Return |loc|^2 / scale^2."""
        factor = self.centring()
        return scaled_square(loc, factor).sum(-1) / (self.scale * factor)[..., 0].square()

    def trace(self, dim: int) -> Tensor:
        return dim * self.scale[..., 0].square()


class Full(Covariance):
    """Sigma = L L', L = scale_tril of shape (*B, d, d)."""

    def __init__(self, scale_tril: Tensor) -> None:
        self.scale_tril = scale_tril

    @property
    def spread(self) -> Tensor:
        return self.scale_tril.diagonal(dim1=-2, dim2=-1)

    @property
    def largest(self) -> Tensor:
        return self.scale_tril.abs().amax(-1).amax(-1, keepdim=True)

    def scaled(self, factor: Tensor) -> "Full":
        return Full(self.scale_tril * factor[..., None])

    def sample(self, loc: Tensor, shape: torch.Size) -> Tensor:
        return loc + _apply(self.scale_tril, _standard_normal(loc, shape))

    def draw(self, count: int, dim: int, generator: torch.Generator) -> Tensor:
        base = shared_normal(count, dim, generator, self.scale_tril)
        # One by one: how a product of the whole batch rounds depends on its size.
        items = self.scale_tril.reshape(-1, dim, dim)
        products = base.new_empty(count, len(items), dim)
        for product, tril in zip(products.unbind(1), items, strict=True):
            product.copy_(base @ tril.mT)
        return products.reshape(count, *self.scale_tril.shape[:-1])

    def whiten(self, x: Tensor) -> Tensor:
        columns = _to_columns(x, self.scale_tril.dim() - 2)
        solved = torch.linalg.solve_triangular(self.scale_tril, columns, upper=False)
        return _from_columns(solved, x)

    def half_log_det(self, dim: int) -> Tensor:
        return self.spread.log().sum(-1)

    def trace(self, dim: int) -> Tensor:
        return self.scale_tril.square().sum((-2, -1))

    def resolvent(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        matrix, column = self.scale_tril @ self.scale_tril.mT, x[..., None]
        if matrix.requires_grad:  # eigenvectors of equal eigenvalues have no derivative
            identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
            return lambda tau: torch.linalg.solve(
                identity + 2.0 * tau[..., None, None] * matrix, column
            )[..., 0]
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        rotated, double = _apply(vectors.mT, x), 2.0 * eigenvalues.clamp(min=0.0)
        return lambda tau: (vectors @ (rotated / (1.0 + tau[..., None] * double))[..., None])[
            ..., 0
        ]

    def quadratic_form(self, loc: Tensor) -> QuadraticForm:
        factor = self.centring(loc)
        loc, tril = loc * factor, self.scale_tril * factor[..., None]

        def log_laplace(tau: Tensor) -> Tensor:
            covariance = tril @ tril.mT
            return full_log_laplace(covariance.expand(*loc.shape, loc.shape[-1]), loc, tau)

        trace_square = _squared_norm(tril.mT @ tril, 2)
        stretch = _squared_norm(_apply(tril.mT, loc))
        return _quadratic_form(Full(tril), loc, trace_square, stretch, log_laplace)


class LowRank(Covariance):
    """Sigma = W W' + diag(D), W = cov_factor of shape (*B, d, k), D = cov_diag of (*B, d)."""

    def __init__(self, cov_factor: Tensor, cov_diag: Tensor) -> None:
        batch_shape = torch.broadcast_shapes(cov_factor.shape[:-2], cov_diag.shape[:-1])
        self.cov_factor = cov_factor.expand(batch_shape + cov_factor.shape[-2:])
        self.cov_diag = cov_diag.expand(batch_shape + cov_diag.shape[-1:])

    @property
    def spread(self) -> Tensor:
        return self.cov_diag.sqrt()

    @property
    def largest(self) -> Tensor:
        factor = self.cov_factor.abs().sum(-1)
        return torch.maximum(factor, self.spread).amax(-1, keepdim=True)

    def scaled(self, factor: Tensor) -> "LowRank":
        return LowRank(self.cov_factor * factor[..., None], self.cov_diag * factor.square())

    def sample(self, loc: Tensor, shape: torch.Size) -> Tensor:
        common = _standard_normal(loc, shape[:-1] + self.cov_factor.shape[-1:])
        own = torch.addcmul(loc, self.cov_diag.sqrt(), _standard_normal(loc, shape))
        return own + _apply(self.cov_factor, common)

    def draw(self, count: int, dim: int, generator: torch.Generator) -> Tensor:
        columns = self.cov_factor.movedim(-1, 0).contiguous()
        base = shared_normal(count, dim + len(columns), generator, self.cov_diag)
        x = self.cov_diag.sqrt() * _over_batch(base[:, :dim], self.cov_diag.dim() - 1)
        for row, common in zip(x, base[:, dim:], strict=True):
            for column, factor in zip(columns, common, strict=True):
                row += column * factor
        return x

    def whiten(self, x: Tensor) -> Tensor:
        # With E = D^-1/2 W and C = I + E'E, Woodbury's identity splits as in ridge regression:
        # x' Sigma^-1 x = |y - E b|^2 + |b|^2, y = D^-1/2 x, b = C^-1 E'y; no difference of squares.
        factor, tril = self._standardised()
        y = _to_columns(x / self.cov_diag.sqrt(), factor.dim() - 2)
        coefficients = torch.cholesky_solve(factor.mT @ y, tril)
        return _from_columns(torch.cat([y - factor @ coefficients, coefficients], -2), x)

    def half_log_det(self, dim: int) -> Tensor:
        return self._half_log_det_beside_diag() + 0.5 * self.cov_diag.log().sum(-1)

    def trace(self, dim: int) -> Tensor:
        return (self.cov_factor.square().sum(-1) + self.cov_diag).sum(-1)

    def quadratic_form(self, loc: Tensor) -> QuadraticForm:
        scale = self.centring(loc)
        loc, centred = loc * scale, self.scaled(scale)
        factor, diag = centred.cov_factor, centred.cov_diag

        def log_laplace(tau: Tensor) -> Tensor:
            return torch.stack([centred._log_laplace_at(loc, t) for t in tau.unbind(-1)], -1)

        trace_square = (diag * (diag + 2.0 * factor.square().sum(-1))).sum(-1)
        trace_square = trace_square + _squared_norm(factor.mT @ factor, 2)
        stretch = (diag * loc.square()).sum(-1) + _squared_norm(_apply(factor.mT, loc))
        return _quadratic_form(centred, loc, trace_square, stretch, log_laplace)

    def resolvent(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        def at(tau: Tensor) -> Tensor:
            shifted = self._shifted(tau)
            return shifted.whiten(x)[..., : x.shape[-1]] / shifted.cov_diag.sqrt()

        return at

    def _log_laplace_at(self, loc: Tensor, tau: Tensor) -> Tensor:
        shifted = self._shifted(tau)
        pull = shifted.whiten(loc).square().sum(-1)
        # Not by the half log determinant of what is shifted: its rounding adds up over coordinates.
        by_diag = 0.5 * torch.log1p(2.0 * tau[..., None] * self.cov_diag).sum(-1)
        return -by_diag - shifted._half_log_det_beside_diag() - tau * pull

    def _shifted(self, tau: Tensor) -> "LowRank":
        """Return I + 2 tau Sigma, a low-rank covariance again."""
        double = 2.0 * tau[..., None]
        return LowRank(self.cov_factor * double.sqrt()[..., None], 1.0 + double * self.cov_diag)

    def _half_log_det_beside_diag(self) -> Tensor:
        """Return half the log determinant of D^-1/2 Sigma D^-1/2."""
        return self._standardised()[1].diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def _standardised(self) -> tuple[Tensor, Tensor]:
        factor = self.cov_factor / self.cov_diag.sqrt()[..., None]
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        return factor, torch.linalg.cholesky(identity + factor.mT @ factor)


def _quadratic_form(
    covariance: Covariance,
    loc: Tensor,
    trace_square: Tensor,
    stretch: Tensor,
    log_laplace: Callable[[Tensor], Tensor],
) -> QuadraticForm:
    dim = int(loc.shape[-1])  # torch.jit traces sizes as tensors
    squared_mean = _squared_norm(loc)
    tensors = torch.broadcast_tensors(
        covariance.trace(dim) + squared_mean,
        2.0 * trace_square + 4.0 * stretch,
        2.0 / dim * covariance.half_log_det(dim),
        squared_mean,
        stretch,
        _squared_norm(covariance.whiten(loc)),
    )
    return QuadraticForm(*tensors, log_laplace=log_laplace)  # type: ignore[misc]


def _over_batch(base: Tensor, batch_dims: int) -> Tensor:
    """Give base samples ``(S, n)`` dimensions of size 1 for the batch."""
    return base.reshape(len(base), *[1] * batch_dims, -1)


def _standard_normal(like: Tensor, shape: torch.Size) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device)


def _squared_norm(x: Tensor, dims: int = 1) -> Tensor:
    """Sum the squares over the last dimensions."""
    return x.square().sum(tuple(range(-dims, 0)))


def _apply(matrix: Tensor, x: Tensor) -> Tensor:
    return _from_columns(matrix @ _to_columns(x, matrix.dim() - 2), x)


def _to_columns(x: Tensor, batch_dims: int) -> Tensor:
    """Move the leading sample dimensions of x, beyond ``batch_dims``, behind its coordinates.

    One matrix then meets all its samples as columns, instead of being copied for each.
    """
    sample_dims = x.dim() - 1 - batch_dims
    if sample_dims <= 0:
        return x[..., None]
    return x.flatten(0, sample_dims - 1).movedim(0, -1)


def _from_columns(columns: Tensor, x: Tensor) -> Tensor:
    """Undo :func:`_to_columns`, for results with as many sample dimensions as x."""
    sample_dims = x.dim() - columns.dim() + 1
    if sample_dims <= 0:
        return columns[..., 0]
    return columns.movedim(-1, 0).unflatten(0, x.shape[:sample_dims])
