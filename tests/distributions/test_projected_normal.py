"""Tests of the projected normal against 45-digit tables, closed forms and its invariances."""

import math

import pyro.distributions
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from probcl.distributions import HypersphericalUniform, ProjectedNormal, VonMisesFisher
from probcl.sphere import log_area, normalize

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6}
FULL_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}


def build(row: dict, parse, dtype: torch.dtype):
    """Return a distribution with leaf parameters, those parameters, and a value."""
    name = "scale_tril" if row["kind"] == "full" else "scale"
    loc = parse(row["mu"], dtype).requires_grad_()
    spread = parse(row[name], dtype).requires_grad_()
    return ProjectedNormal(loc, **{name: spread}), loc, spread, parse(row["z"], dtype)


def test_log_prob_reference(tables, parse, dtype: torch.dtype) -> None:
    for row in tables("log_prob"):
        d, _, _, z = build(row, parse, dtype)
        expected = float(row["log_prob"])
        scale = max(1.0, abs(expected), abs(float(row["log_prob_uniform"])))
        tolerance = (FULL_TOLERANCE if row["kind"] == "full" else TOLERANCE)[dtype]
        assert abs(d.log_prob(z).item() - expected) < tolerance * scale, row["name"]


def test_gradient_reference(tables, parse, dtype: torch.dtype) -> None:
    for row in tables("log_prob"):
        if "grad_mu" not in row:
            continue
        d, loc, spread, z = build(row, parse, dtype)
        d.log_prob(z).backward()
        by_loc, by_scale = parse(row["grad_mu"]), parse(row["grad_log_scale"])
        if row["kind"] == "iso":
            by_scale = by_scale.sum()
        for actual, expected in ((loc.grad, by_loc), (spread.grad * spread.detach(), by_scale)):
            scale = max(1.0, expected.abs().max().item(), abs(float(row["log_prob"])))
            error = (actual.double() - expected).abs().max().item()
            assert error < TOLERANCE[dtype] * scale, (row["kind"], row["d"], row["name"])


def test_directional_derivative_reference(tables, parse) -> None:
    for row in tables("log_prob"):
        if row["name"] == "full_ill":
            continue
        d, loc, _, z = build(row, parse, torch.float64)
        d.log_prob(z).backward()
        expected = float(row["dlogp_dlogmu"])
        error = abs((loc.grad * loc.detach()).sum().item() - expected)
        assert error < 1e-13 * max(1.0, abs(expected), abs(float(row["log_prob"])))


def test_every_covariance_agrees_with_the_full_one(dtype: torch.dtype) -> None:
    loc = torch.randn(4, 6, dtype=dtype)
    factor, diag = torch.randn(4, 6, 2, dtype=dtype), torch.rand(4, 6, dtype=dtype) + 0.2
    scale = torch.rand(4, 6, dtype=dtype) + 0.2
    z = HypersphericalUniform(6, dtype=dtype).sample((3, 1))
    covariances = {
        "isotropic": ({"scale": scale[:, :1]}, torch.diag_embed(scale[:, :1].expand(4, 6) ** 2)),
        "diagonal": ({"scale": scale}, torch.diag_embed(scale**2)),
        "low rank": (
            {"cov_factor": factor, "cov_diag": diag},
            factor @ factor.mT + torch.diag_embed(diag),
        ),
    }
    for name, (arguments, covariance) in covariances.items():
        full = ProjectedNormal(loc, scale_tril=torch.linalg.cholesky(covariance))
        special = ProjectedNormal(loc, **arguments)
        tolerance = 20 * TOLERANCE[dtype]
        assert torch.allclose(special.log_prob(z), full.log_prob(z), rtol=0, atol=tolerance), name
        assert torch.allclose(special.entropy(), full.entropy(), rtol=0, atol=tolerance), name


@pytest.mark.parametrize("dim", [8, 128, 512, 4096])
@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_float32_keeps_the_digits_of_a_low_rank_divergence(dim: int, spread: float) -> None:
    """Where variances are alike, as at the start of a head, it is far smaller than its parts."""
    generator = torch.Generator().manual_seed(0)
    loc = torch.eye(dim, dtype=torch.float64)[0]
    diag = 0.7 * torch.exp(spread * torch.randn(dim, generator=generator)).double()
    factor = spread * torch.randn(dim, 4, generator=generator).double()
    exact, single = (
        ProjectedNormal(loc.to(dtype), cov_factor=factor.to(dtype), cov_diag=diag.to(dtype))
        for dtype in (torch.float64, torch.float32)
    )
    uniform = HypersphericalUniform(dim)
    expected, found = (torch.distributions.kl_divergence(q, uniform) for q in (exact, single))
    assert found.item() == pytest.approx(expected.item(), rel=3e-4)
    torch.testing.assert_close(single.mean, exact.mean.float(), rtol=1e-5, atol=1e-7)
    if not spread:
        isotropic = ProjectedNormal(loc, 0.7**0.5)
        assert found.item() == pytest.approx(
            torch.distributions.kl_divergence(isotropic, uniform).item(), rel=3e-4
        )


@pytest.mark.parametrize("family", ["diagonal", "low rank", "full"])
@pytest.mark.parametrize("far", [1.0, 2.0**60])
def test_scales_that_no_square_in_float32_holds_have_a_finite_divergence(far, family) -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.exp2(-60 * torch.rand(16, generator=generator)).requires_grad_()
    loc = (far * torch.randn(3, 16, generator=generator)).requires_grad_()
    given = {
        "diagonal": {"scale": scale},
        "low rank": {"cov_factor": torch.zeros(16, 1), "cov_diag": scale.square()},
        "full": {"scale_tril": torch.diag_embed(scale)},
    }[family]
    uniform = HypersphericalUniform(16)
    found = torch.distributions.kl_divergence(ProjectedNormal(loc, **given), uniform)
    exact = ProjectedNormal(loc.detach().double(), scale.detach().double())
    expected = torch.distributions.kl_divergence(exact, uniform)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=0)
    assert all(g.isfinite().all() for g in torch.autograd.grad(found.sum(), (loc, scale)))


@pytest.mark.parametrize("covariance", ["isotropic", "scale", "scale_tril", "low_rank"])
def test_values_and_parameters_of_two_precisions_meet_in_the_higher(covariance: str) -> None:
    loc, value = torch.tensor([1.0, -0.5, 0.25]), normalize(torch.tensor([[0.3, 0.2, -1.0]]))
    scale = torch.tensor([0.5, 1.0, 2.0])

    def q(dtype: torch.dtype) -> ProjectedNormal:
        given = {
            "isotropic": {"scale": 0.5},
            "scale": {"scale": scale.to(dtype)},
            "scale_tril": {"scale_tril": torch.diag(scale).to(dtype)},
            "low_rank": {"cov_factor": torch.eye(3)[:, :1].to(dtype), "cov_diag": scale.to(dtype)},
        }
        return ProjectedNormal(loc.to(dtype), **given[covariance])

    expected = q(torch.float64).log_prob(normalize(value.double()))
    for one, other in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        found = q(one).log_prob(normalize(value.to(other)))
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_every_family_names_a_value_that_does_not_fit_its_batch() -> None:
    families = (ProjectedNormal(torch.ones(4, 3)), HypersphericalUniform(3).expand((4,)),
                VonMisesFisher(torch.eye(3)[0].expand(4, 3), 1.0))  # fmt: skip
    for q in families:
        with pytest.raises(ValueError, match=r"value has batch shape \(5,\), which does not"):
            q.log_prob(normalize(torch.ones(5, 3)))


@pytest.mark.parametrize("dim", [3, 128, 512])
def test_float32_keeps_its_digits_where_large_terms_cancel(dim: int) -> None:
    # Scales far apart: the density is moderate, its distance and log determinants are large.
    scale = 7e-6 * torch.exp(1.5 * torch.randn(500, dim))
    loc = 3.0 * scale * torch.randn(500, dim)
    z = normalize(loc * torch.rand(500, 1) + scale * torch.randn(500, dim))
    single = ProjectedNormal(loc, scale).log_prob(z).double()
    exact = ProjectedNormal(loc.double(), scale.double(), validate_args=False).log_prob(z.double())
    size = torch.maximum(exact.abs(), (exact + log_area(dim)).abs()).clamp(min=1.0)
    assert ((single - exact).abs() / size).max() < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_agrees_with_pyro_near_the_mode(dim: int) -> None:
    loc = torch.randn(5, dim, dtype=torch.float64)
    z = normalize(loc + 0.3 * torch.randn(5, dim, dtype=torch.float64))
    expected = pyro.distributions.ProjectedNormal(loc).log_prob(z)
    assert torch.allclose(ProjectedNormal(loc).log_prob(z), expected, atol=1e-12)


def test_anisotropic_density_on_the_circle() -> None:
    # Numerical integration of the bivariate normal density along the ray.
    loc, scale = torch.tensor([0.4, -1.1]).double(), torch.tensor([0.5, 1.7]).double()
    normal = stats.multivariate_normal(loc.numpy(), torch.diag(scale**2).numpy())
    radius = torch.linspace(0, 15, 200_001, dtype=torch.float64)
    for angle in (0.0, 1.0, 2.5, 4.0):
        z = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        density = torch.as_tensor(normal.pdf((radius[:, None] * z).numpy())) * radius
        expected = torch.trapezoid(density, radius).log().item()
        assert math.isclose(ProjectedNormal(loc, scale).log_prob(z).item(), expected, abs_tol=1e-8)


def test_far_antipode_keeps_value_and_gradient() -> None:
    loc = torch.tensor([100.0, 0.0, 0.0], requires_grad=True)
    log_prob = ProjectedNormal(loc).log_prob(torch.tensor([-1.0, 0.0, 0.0]))
    log_prob.backward()
    assert math.isclose(log_prob.item(), -5015.88, rel_tol=1e-5)
    assert loc.grad[0] < -99


@pytest.mark.parametrize("dim", [2, 5, 128])
@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_zero_mean_has_finite_gradients(dim: int, kind: str, dtype: torch.dtype) -> None:
    loc = torch.zeros(dim, dtype=dtype, requires_grad=True)
    scale = torch.ones(1 if kind == "isotropic" else dim, dtype=dtype, requires_grad=True)
    d = ProjectedNormal(loc, scale)
    z = HypersphericalUniform(dim, dtype=dtype).sample()
    log_prob, entropy = d.log_prob(z), d.entropy()
    area = log_area(dim)
    assert abs(log_prob.item() + area) < 1e-5 * max(1, abs(area))
    assert abs(entropy.item() - area) < 1e-5 * max(1, abs(area))
    for output in (log_prob, entropy, d.rsample()[0]):
        for grad in torch.autograd.grad(output, (loc, scale), retain_graph=True):
            assert torch.isfinite(grad).all()
    slope = math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    (by_loc,) = torch.autograd.grad(log_prob, loc)
    assert torch.allclose(by_loc, slope * z, rtol=1e-5, atol=1e-6)


@settings(max_examples=40)
@given(st.integers(2, 40), st.integers(-60, 60), st.integers(0, 10**6))
def test_joint_scale_does_not_matter(dim: int, log2_factor: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    loc, scale, z = torch.randn(3, dim, dtype=torch.float64, generator=generator)
    scale, z, factor = scale.exp(), normalize(z), 2.0**log2_factor
    d, scaled = ProjectedNormal(loc, scale), ProjectedNormal(loc * factor, scale * factor)
    assert torch.allclose(scaled.log_prob(z), d.log_prob(z), rtol=1e-13, atol=1e-13)
    assert torch.allclose(scaled.entropy(), d.entropy(), rtol=1e-13, atol=1e-11)


@settings(max_examples=25)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_rotation_moves_the_density_along(dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    loc, scale, z = torch.randn(3, dim, dtype=torch.float64, generator=generator)
    rotation = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator))[0]
    scale, z = (0.5 * scale).exp(), normalize(z)
    tril = torch.linalg.cholesky((rotation * scale.square()) @ rotation.mT)
    rotated = ProjectedNormal(rotation @ loc, scale_tril=tril)
    d = ProjectedNormal(loc, scale)
    assert torch.allclose(rotated.log_prob(rotation @ z), d.log_prob(z), atol=1e-10)
    assert torch.allclose(rotated.entropy(), d.entropy(), atol=1e-10)


def test_gradient_of_the_value_is_tangent() -> None:
    loc, scale = torch.randn(2, 7, dtype=torch.float64)
    z = normalize(torch.randn(7, dtype=torch.float64)).requires_grad_()
    for spread in (0.5, scale.exp()):
        (grad,) = torch.autograd.grad(ProjectedNormal(loc, spread).log_prob(z), z)
        assert abs((grad * z).sum().item()) < 1e-12


def test_mean_and_mode(tables) -> None:
    for row in tables("pn_kl_iso"):
        loc = torch.zeros(row["d"], dtype=torch.float64)
        loc[0] = row["kappa"]
        d = ProjectedNormal(loc)
        assert abs(d.mean_resultant_length.item() - float(row["mean_resultant"])) < 1e-11
        assert torch.allclose(d.mean, d.mean_resultant_length * d.mode * (loc[0] > 0))


@pytest.mark.parametrize("covariance", ["scale", "scale_tril", "low_rank"])
def test_the_mean_is_there_in_inference_mode_too(covariance: str) -> None:
    loc, scale = torch.randn(5, 3), torch.rand(5, 3) + 0.1
    options = {
        "scale": {"scale": scale},
        "scale_tril": {"scale_tril": torch.diag_embed(scale)},
        "low_rank": {"cov_factor": torch.randn(5, 3, 2), "cov_diag": scale},
    }[covariance]
    expected = ProjectedNormal(loc, **options).mean
    with torch.inference_mode():
        inside = {name: value.clone() for name, value in options.items()}
        assert torch.equal(ProjectedNormal(loc.clone(), **inside).mean, expected)


def test_an_unknown_mode_says_so() -> None:
    d = ProjectedNormal(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]))
    with pytest.raises(NotImplementedError, match="isotropic"):
        _ = d.mode
    with pytest.raises(AttributeError, match="has no scale_tril"):
        _ = d.scale_tril


def test_large_batches_of_samples_share_one_factor() -> None:
    # A matrix copied for each of the samples would take 2 GB here.
    tril = torch.eye(16).expand(1000, 16, 16)
    d = ProjectedNormal(torch.randn(1000, 16), scale_tril=tril)
    assert d.log_prob(d.rsample((500,))).shape == (500, 1000)


def test_loc_must_be_a_vector() -> None:
    with pytest.raises(ValueError, match="loc must be a vector"):
        ProjectedNormal(torch.tensor(1.0))
