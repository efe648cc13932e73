"""Tests of the divergences and their bounds."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.distributions import Normal
from torch.distributions import kl_divergence
from torch.distributions.kl import _KL_REGISTRY

from probcl.distributions import (
    HypersphericalUniform,
    PowerSpherical,
    ProjectedNormal,
    VonMisesFisher,
)
from probcl.distributions.kl import gaussian_bound
from probcl.sphere import normalize

KL_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}
ANISOTROPIC_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}


def divergence(q: ProjectedNormal) -> torch.Tensor:
    return kl_divergence(q, HypersphericalUniform(q.event_shape[0]))


def families(row: dict, parse, dtype: torch.dtype) -> dict[str, ProjectedNormal]:
    """Return one distribution written with each covariance, the full one rotated."""
    loc, scale = parse(row["mu"]), parse(row["scale"])
    dim = len(loc)
    rotation = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))[0]
    tril = torch.linalg.cholesky((rotation * scale.square()) @ rotation.mT)
    diag, factor = scale.square().clone(), torch.zeros(dim, 2, dtype=torch.float64)
    for i in range(2):
        factor[i, i], diag[i] = (0.7 * diag[i]).sqrt(), 0.3 * diag[i]
    return {
        "diagonal": ProjectedNormal(loc.to(dtype), scale.to(dtype)),
        "full": ProjectedNormal((rotation @ loc).to(dtype), scale_tril=tril.to(dtype)),
        "low rank": ProjectedNormal(
            loc.to(dtype), cov_factor=factor.to(dtype), cov_diag=diag.to(dtype)
        ),
    }


def test_isotropic_reference(tables, dtype: torch.dtype) -> None:
    for row in tables("pn_kl_iso"):
        kappa = torch.tensor(row["kappa"], dtype=dtype, requires_grad=True)
        axis = torch.zeros(row["d"], dtype=dtype)
        axis[0] = 1.0
        kl = divergence(ProjectedNormal(kappa * axis))
        (slope,) = torch.autograd.grad(kl, kappa)
        for actual, expected in ((kl, float(row["kl"])), (slope, float(row["dkl"]))):
            scale = expected if dtype == torch.float64 else max(1.0, expected)
            assert abs(actual.item() - expected) <= KL_TOLERANCE[dtype] * scale, row


def test_anisotropic_reference(tables, parse, dtype: torch.dtype) -> None:
    for row in tables("pn_kl_diag"):
        expected = float(row["kl"])
        for name, q in families(row, parse, dtype).items():
            error = abs(divergence(q).item() - expected)
            assert error < ANISOTROPIC_TOLERANCE[dtype] * expected, (name, row["d"], row["name"])


def test_tight_bound_reference(tables, parse) -> None:
    for row in tables("pn_kl_diag"):
        for q in families(row, parse, torch.float64).values():
            bound = gaussian_bound(q, tight=True).item()
            assert math.isclose(bound, float(row["gauss_bound"]), rel_tol=1e-9)


def test_bound_is_the_divergence_of_normals() -> None:
    loc, scale = torch.randn(4, 5), torch.rand(4, 5) + 0.2
    expected = kl_divergence(Normal(loc, scale), Normal(torch.zeros(5), torch.ones(5))).sum(-1)
    assert torch.allclose(gaussian_bound(ProjectedNormal(loc, scale)), expected, rtol=1e-5)
    full = ProjectedNormal(loc, scale_tril=torch.diag_embed(scale))
    assert torch.allclose(gaussian_bound(full), expected, rtol=1e-5)
    low_rank = ProjectedNormal(loc, cov_factor=torch.zeros(5, 1), cov_diag=scale**2)
    assert torch.allclose(gaussian_bound(low_rank), expected, rtol=1e-5)
    one = ProjectedNormal(loc, 0.5)
    same = ProjectedNormal(loc, torch.full((5,), 0.5))
    assert torch.allclose(gaussian_bound(one), gaussian_bound(same), rtol=1e-5)
    assert torch.allclose(gaussian_bound(one, True), gaussian_bound(same, True), rtol=1e-5)


def test_tight_bound_is_a_minimum_over_the_joint_scale() -> None:
    loc, scale = torch.randn(6, dtype=torch.float64), torch.rand(6, dtype=torch.float64) + 0.2
    factors = torch.linspace(-3, 3, 2001, dtype=torch.float64).exp()[:, None]
    least = gaussian_bound(ProjectedNormal(loc * factors, scale * factors)).min()
    tight = gaussian_bound(ProjectedNormal(loc, scale), tight=True)
    assert tight <= least
    assert torch.isclose(tight, least, atol=1e-5)


@settings(max_examples=60)
@given(st.integers(2, 60), st.floats(-2, 2), st.floats(0, 1.5), st.integers(0, 10**6))
def test_between_zero_and_its_bounds(
    dim: int, log_signal: float, log_ratio: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    loc, noise = torch.randn(2, dim, dtype=torch.float64, generator=generator)
    q = ProjectedNormal(10**log_signal * loc, torch.exp(log_ratio * noise))
    kl, tight, loose = divergence(q), gaussian_bound(q, tight=True), gaussian_bound(q)
    assert -1e-10 < kl <= tight + 1e-10
    assert tight <= loose + 1e-10


@pytest.mark.parametrize("dim", [2, 4, 8, 40])
@pytest.mark.parametrize("spectrum", ["random", "identity"])
def test_gradients_of_every_family(dim: int, spectrum: str) -> None:
    loc = torch.randn(dim, dtype=torch.float64)
    if spectrum == "identity":
        scale, tril = torch.ones(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64)
    else:
        scale = torch.rand(dim, dtype=torch.float64) + 0.3
        tril = 0.2 * torch.randn(dim, dim, dtype=torch.float64).tril(-1) + torch.diag(scale)
    factor = torch.randn(dim, 2, dtype=torch.float64)
    functions = {
        "diagonal": (lambda m, s: divergence(ProjectedNormal(m, s)), (loc, scale)),
        "full": (
            lambda m, t: divergence(ProjectedNormal(m, scale_tril=t.tril())),
            (loc, tril),
        ),
        "low rank": (
            lambda m, w, d: divergence(ProjectedNormal(m, cov_factor=w, cov_diag=d)),
            (loc, factor, scale),
        ),
    }
    for function, arguments in functions.values():
        inputs = tuple(x.clone().requires_grad_() for x in arguments)
        fast = dim > 8
        assert torch.autograd.gradcheck(function, inputs, fast_mode=fast, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dim", [3, 40])
def test_gradient_at_zero_mean_and_identity(dim: int, dtype: torch.dtype) -> None:
    loc = torch.zeros(dim, dtype=dtype, requires_grad=True)
    tril = torch.eye(dim, dtype=dtype, requires_grad=True)
    kl = divergence(ProjectedNormal(loc, scale_tril=tril))
    assert abs(kl.item()) < 1e-4
    for grad in torch.autograd.grad(kl, (loc, tril)):
        assert grad.abs().max() < (1e-9 if dtype == torch.float64 else 2e-3)


@pytest.mark.parametrize("dim", [2, 8, 32, 512])
def test_equal_scales_in_single_precision(dim: int) -> None:
    loc = 0.1 * torch.randn(20, dim)
    expected = divergence(ProjectedNormal(loc.double()))
    kl = divergence(ProjectedNormal(loc, torch.ones(dim)))
    assert torch.allclose(kl.double(), expected, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("dim", [32, 128, 2048])
@pytest.mark.parametrize(("spread", "tolerance"), [(1.0, 1e-4), (2.0, 2e-3), (3.0, 2e-2)])
def test_scales_far_apart_in_single_precision(dim: int, spread: float, tolerance: float) -> None:
    """As the docstring has it; in float64 the divergence is held to the reference above."""
    loc = torch.randn(64, dim) * torch.logspace(-2, 1.3, 64)[:, None]
    scale = torch.exp(spread * torch.randn(64, dim))
    expected = divergence(ProjectedNormal(loc.double(), scale.double()))
    error = (divergence(ProjectedNormal(loc, scale)).double() - expected).abs()
    assert (error <= tolerance * expected).all()


def test_second_derivatives() -> None:
    loc, scale = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.5
    inputs = (loc.requires_grad_(), scale.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda m, s: divergence(ProjectedNormal(m, s)), inputs)


def test_batched_and_expanded() -> None:
    q = ProjectedNormal(torch.randn(4, 5), torch.rand(5) + 0.2)
    wide = q.expand((3, 4))
    prior = HypersphericalUniform(5)
    assert kl_divergence(q, prior).shape == (4,)
    assert torch.allclose(kl_divergence(wide, prior.expand((3, 4))), kl_divergence(q, prior))
    assert gaussian_bound(wide).shape == (3, 4)
    assert torch.equal(kl_divergence(prior.expand((2,)), prior), torch.zeros(2))


def registered_pairs() -> list[tuple[type, type]]:
    """Return the pairs of distributions on the sphere that have an exact divergence."""
    ours = lambda cls: cls.__module__.startswith("probcl.")  # noqa: E731
    return [pair for pair in _KL_REGISTRY if all(map(ours, pair))]


def examples(family: type, batch_shape: tuple[int, ...]) -> list:
    """Return distributions of a family, or of all, with one batch shape."""
    loc = normalize(torch.randn(*batch_shape, 3))
    every = [
        HypersphericalUniform(3).expand(batch_shape),
        VonMisesFisher(loc, 2.0),
        PowerSpherical(loc, 2.0),
        ProjectedNormal(loc, 0.5),
        ProjectedNormal(loc, torch.rand(3) + 0.5),
        ProjectedNormal(loc, scale_tril=torch.eye(3)),
        ProjectedNormal(loc, cov_factor=torch.ones(3, 1), cov_diag=torch.ones(3)),
    ]
    return [q for q in every if isinstance(q, family)]


@pytest.mark.parametrize(
    "pair", registered_pairs(), ids=lambda pair: "-".join(c.__name__ for c in pair)
)
@pytest.mark.parametrize(
    ("q_shape", "p_shape"), [((), ()), ((), (5,)), ((5,), ()), ((4, 1), (5,)), ((5,), (4, 5))]
)
def test_batch_shapes_broadcast(pair, q_shape, p_shape) -> None:
    expected = torch.broadcast_shapes(q_shape, p_shape)
    distributions = (
        examples(family, shape) for family, shape in zip(pair, (q_shape, p_shape), strict=True)
    )
    for q, p in product(*distributions):
        assert kl_divergence(q, p).shape == expected


def test_mismatched_dimensions_and_types() -> None:
    q = ProjectedNormal(torch.randn(4))
    for left in (q, HypersphericalUniform(4)):
        with pytest.raises(ValueError, match="got dimensions 4 and 5"):
            kl_divergence(left, HypersphericalUniform(5))
    with pytest.raises(TypeError, match="got HypersphericalUniform"):
        gaussian_bound(HypersphericalUniform(4))
