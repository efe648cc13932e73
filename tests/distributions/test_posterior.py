"""Points, foreign distributions behind the interface of a posterior, draws in many dimensions."""

import math
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions
import pytest
import scipy.integrate
import scipy.stats
import torch
from pyro.distributions import constraints

from probcl.distributions import (
    HypersphericalUniform,
    Point,
    PowerSpherical,
    ProjectedNormal,
    SphereDistribution,
    VonMisesFisher,
    as_posterior,
)
from probcl.infer import ContrastiveELBO
from probcl.sphere import normalize


def test_a_point_has_the_interface(dtype: torch.dtype) -> None:
    loc = normalize(torch.randn(4, 5, dtype=dtype))
    q = Point(loc)
    assert as_posterior(q) is q and q.batch_shape == (4,)
    assert torch.equal(q.mean_direction, loc) and torch.equal(q.loc, loc)
    assert torch.equal(q.mean_resultant_length, torch.ones(4, dtype=dtype))
    assert torch.equal(q.draw(3), loc.expand(3, 4, 5))
    for every in (
        q,
        VonMisesFisher(loc, 1.0),
        as_posterior(pyro.distributions.Normal(loc, 1.0).to_event(1)),
    ):
        with pytest.raises(ValueError, match="count must be at least 1, got 0"):
            every.draw(0)
    with pytest.raises(NotImplementedError, match="Point"):
        q.entropy()
    wide = q.expand((2, 4))
    assert type(wide) is Point and wide.draw(3).shape == (3, 2, 4, 5)
    with pytest.raises(ValueError, match="loc must hold unit vectors, got a norm of"):
        Point(2 * loc, validate_args=True)
    with pytest.raises(ValueError, match="loc has dimension 1"):
        Point(torch.ones(4, 1))


def test_foreign_distributions_are_adapted() -> None:
    component = VonMisesFisher(torch.eye(3)[:2], 50.0)
    weights = pyro.distributions.Categorical(torch.ones(4, 2))
    q = as_posterior(pyro.distributions.MixtureSameFamily(weights, component.expand((4, 2))))
    state = torch.get_rng_state()
    assert torch.equal(q.draw(5), q.draw(5)) and q.draw(5).shape == (5, 4, 3)
    # Half of each of two means at right angles.
    length = component.mean_resultant_length[0] * 0.5**0.5
    assert torch.allclose(q.mean_resultant_length, length.expand(4), atol=0.05)
    middle = normalize(torch.tensor([1.0, 1.0, 0.0]))
    assert torch.allclose(q.mean_direction, middle.expand(4, 3), atol=0.15)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(NotImplementedError):
        q.entropy()


class Cardioid(SphereDistribution):
    """On the circle, density (1 + 2 rho cos(angle to loc)) / 2 pi: what a user would write."""

    arg_constraints: ClassVar = {"loc": constraints.sphere, "rho": constraints.unit_interval}

    def __init__(self, loc: torch.Tensor, rho: torch.Tensor) -> None:
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], rho.shape)
        self.loc, self.rho = loc.expand(*batch_shape, 2), rho.expand(batch_shape)
        super().__init__(batch_shape, loc.shape[-1:])

    @property
    def mean(self) -> torch.Tensor:
        return self.rho[..., None] * self.loc

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return torch.log1p(2 * (self.mean * value).sum(-1)) - math.log(2 * math.pi)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> torch.Tensor:  # noqa: B008
        shape = self._extended_shape(sample_shape)[:-1]
        goal, angle = 2 * math.pi * torch.rand(shape) - math.pi, torch.zeros(shape)
        for _ in range(60):  # of the distribution function
            angle = angle - (angle + 2 * self.rho * angle.sin() - goal) / 2
        cos, sin = angle.cos()[..., None], angle.sin()[..., None]
        return cos * self.loc + sin * self.loc.flip(-1) * torch.tensor([-1.0, 1.0])


def test_a_family_of_ones_own_needs_what_its_page_says() -> None:
    q = Cardioid(torch.eye(2), torch.tensor([0.1, 0.4]))
    assert as_posterior(q) is q
    torch.testing.assert_close(q.mean_resultant_length, torch.tensor([0.1, 0.4]))
    torch.testing.assert_close(q.mean_direction, torch.eye(2))
    assert torch.equal(q.draw(5, seed=1), q.draw(5, seed=1)) and q.draw(5).shape == (5, 2, 2)
    assert torch.allclose(q.draw(20_000).mean(0), q.mean, atol=0.02)
    wide = q.expand((3, 2))
    assert wide.loc.shape == (3, 2, 2) and wide.rho.shape == (3, 2)
    for unknown in (q.entropy, lambda: q.covariance, lambda: q.variance):
        with pytest.raises(NotImplementedError, match="Cardioid"):
            unknown()
    uniform = HypersphericalUniform(2)

    def model() -> None:
        with pyro.plate("n", 2):
            pyro.sample("z", uniform)

    def guide() -> None:
        with pyro.plate("n", 2):
            pyro.sample("z", q)

    torch.manual_seed(0)
    losses = [ContrastiveELBO().loss(model, guide) for _ in range(2000)]
    # KL from the uniform: the integral of p log(2 pi p), by the trapezoidal rule.
    angle = torch.linspace(0, 2 * math.pi, 1001)[:-1]
    p = 1 + 2 * q.rho[:, None] * angle.cos()
    assert np.mean(losses) == pytest.approx((p * p.log()).mean(-1).sum().item(), abs=0.03)
    with pytest.raises(ValueError, match="no exact divergence of Cardioid"):
        ContrastiveELBO("exact").loss(model, guide)


def test_deltas_become_points_and_normals_directions() -> None:
    delta = pyro.distributions.Delta(torch.tensor([[3.0, 4.0]]), event_dim=1)
    assert torch.allclose(as_posterior(delta).loc, torch.tensor([[0.6, 0.8]]))
    normal = pyro.distributions.Normal(torch.randn(4, 3), 1.0)
    z = as_posterior(normal.to_event(1)).draw(6)
    assert torch.allclose(z.norm(dim=-1), torch.ones(6, 4))
    with pytest.raises(ValueError, match="distribution over vectors"):
        as_posterior(normal)


@pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical])
@pytest.mark.parametrize("kappa", [0.0, 0.3, 16.0, 1e4])
@pytest.mark.parametrize("dim", [2, 3, 128])
def test_draws_follow_the_law_of_the_cosine(family, dim: int, kappa: float) -> None:
    loc = normalize(torch.randn(dim, dtype=torch.float64))
    z = family(loc, kappa).draw(4_000)
    angle = 2 * torch.asin((0.5 * torch.linalg.vector_norm(z - loc, dim=-1)).clamp(max=1))
    grid = np.linspace(0, min(np.pi, 12 * np.sqrt((dim + 10) / (kappa + 1e-9))), 20_001)[1:-1]
    cosine = np.cos(grid)
    statistic = cosine if family is VonMisesFisher else np.log1p(cosine)
    log_density = kappa * statistic + (dim - 2) * np.log(np.sin(grid))
    density = np.exp(log_density - log_density.max())
    cdf = scipy.integrate.cumulative_trapezoid(density, grid, initial=0)
    result = scipy.stats.kstest(angle.numpy(), lambda x: np.interp(x, grid, cdf / cdf[-1]))
    assert result.pvalue > 1e-4


def test_draws_of_extreme_parameters_are_unit_vectors(dtype: torch.dtype) -> None:
    loc = normalize(torch.randn(3, 8, dtype=dtype))
    for kappa in (0.0, 1e-12, 1e12, 1e30):
        for family in (VonMisesFisher, PowerSpherical):
            z = family(loc, torch.full((3,), kappa, dtype=dtype)).draw(20)
            assert (z.norm(dim=-1) - 1).abs().max() < 10 * torch.finfo(dtype).eps
    for scale in (1e-15, 1e15):
        z = ProjectedNormal(loc, torch.full((8,), scale, dtype=dtype)).draw(20)
        assert (z.norm(dim=-1) - 1).abs().max() < 10 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dim", [2, 3, 8, 64])
def test_the_mean_of_every_covariance(dim: int, dtype: torch.dtype) -> None:
    """By the isotropic closed form, and by the rotation of a diagonal covariance."""
    tolerance = 1e-11 if dtype == torch.float64 else 3e-6
    loc = torch.randn(5, dim, dtype=torch.float64) * torch.logspace(-2, 2, 5).double()[:, None]
    exact = ProjectedNormal(loc).mean
    ones, eye = torch.ones(dim, dtype=dtype), torch.eye(dim, dtype=dtype)
    for covariance in (
        {"scale": ones},
        {"scale_tril": eye},
        {"cov_factor": 0 * eye[:, :1], "cov_diag": ones},
    ):
        mean = ProjectedNormal(loc.to(dtype), **covariance).mean.double()
        assert torch.allclose(mean, exact, rtol=0, atol=tolerance)
    scale = torch.exp(1.5 * torch.randn(dim, dtype=torch.float64))
    rotation = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))[0]
    tril = torch.linalg.cholesky((rotation * scale.square()) @ rotation.mT)
    rotated = ProjectedNormal((loc @ rotation.mT).to(dtype), scale_tril=tril.to(dtype)).mean
    expected = ProjectedNormal(loc, scale).mean @ rotation.mT
    assert torch.allclose(rotated.double(), expected, rtol=0, atol=10 * tolerance)


def test_gradients_of_the_mean() -> None:
    loc = torch.randn(3, dtype=torch.float64, requires_grad=True)
    scale = (torch.rand(3, dtype=torch.float64) + 0.5).requires_grad_()
    lower = 0.3 * torch.ones(3, 3, dtype=torch.float64).tril(-1)

    def diagonal(loc, scale):
        return ProjectedNormal(loc, scale).mean

    def full(loc, scale):
        return ProjectedNormal(loc, scale_tril=torch.diag(scale) + lower).mean

    def low_rank(loc, scale):
        return ProjectedNormal(loc, cov_factor=lower[:, :1], cov_diag=scale).mean

    for mean in (diagonal, full, low_rank):
        assert torch.autograd.gradcheck(mean, (loc, scale), fast_mode=True)


def test_the_log_determinant() -> None:
    scale = torch.rand(4, 3, dtype=torch.float64) + 0.2
    expected = 2 * scale.log().sum(-1)
    loc = torch.randn(4, 3, dtype=torch.float64)
    for covariance in (
        {"scale": scale},
        {"scale_tril": torch.diag_embed(scale)},
        {"cov_factor": torch.zeros(3, 1).double(), "cov_diag": scale.square()},
    ):
        assert torch.allclose(ProjectedNormal(loc, **covariance).log_det_covariance, expected)
    assert ProjectedNormal(loc, 0.5).log_det_covariance.shape == (4,)


@pytest.mark.parametrize("ratio", [1e4, 6e9, 1e18])
def test_a_mean_far_beyond_the_scale(ratio: float, dtype: torch.dtype) -> None:
    loc, ones = torch.full((16,), ratio, dtype=dtype), torch.ones(16, dtype=dtype)
    # As on the tangent plane: a normal distribution with standard deviation scale / |loc|.
    expected = 7.5 * (1 + np.log(2 * np.pi)) - 15 * np.log(4 * ratio)
    for covariance in (
        {"scale": 1.0},
        {"scale": ones},
        {"scale_tril": torch.diag(ones)},
        {"cov_factor": 0 * ones[:, None], "cov_diag": ones},
    ):
        q = ProjectedNormal(loc, **covariance)
        assert q.entropy().item() == pytest.approx(expected, rel=1e-6)
        assert q.mean_resultant_length.item() == pytest.approx(1, abs=1e-6)
