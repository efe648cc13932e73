"""What von Mises-Fisher and Power Spherical share: samples, gradients, shapes, checks."""

import json
import math
from pathlib import Path

import numpy as np
import pyro
import pytest
import scipy.integrate
import scipy.stats
import torch
from pyro import distributions as dist
from scipy.special import digamma
from torch import Tensor

from probcl.distributions import HypersphericalUniform, PowerSpherical, VonMisesFisher
from probcl.distributions.rotationally_symmetric import RotationallySymmetric
from probcl.sphere import log_area, normalize

FAMILIES = [VonMisesFisher, PowerSpherical]
both = pytest.mark.parametrize("family", FAMILIES)
TABLES = json.loads(
    (Path(__file__).parents[1] / "data" / "rotationally_symmetric_reference.json").read_text()
)
REFERENCE = [
    pytest.param(family, entry, id=f"{name}-d{entry['d']}-kappa{entry['kappa']}")
    for name, family in (("vmf", VonMisesFisher), ("power_spherical", PowerSpherical))
    for entry in TABLES[name]
]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6}


@pytest.fixture(autouse=True)
def seed() -> None:
    pyro.set_rng_seed(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("family", "entry"), REFERENCE)
def test_reference_values(family: type, entry: dict, dtype: torch.dtype) -> None:
    loc = torch.eye(entry["d"], dtype=dtype)[0]
    q = family(loc, entry["kappa"])
    uniform = HypersphericalUniform(entry["d"], dtype=dtype)
    found = {
        "log_normalizer": q.log_normalizer,
        "entropy": q.entropy(),
        "kl_uniform": torch.distributions.kl_divergence(q, uniform),
        "mean_resultant": q.mean_resultant_length,
    }
    for name, value in found.items():
        reference = float(entry[name])
        assert value.dtype == dtype
        assert abs(value.item() - reference) <= TOLERANCE[dtype] * max(1, abs(reference)), name
    for name in ("kl_uniform", "mean_resultant"):
        assert found[name].item() == pytest.approx(float(entry[name]), rel=TOLERANCE[dtype])


def statistic(family: type, angle: np.ndarray) -> np.ndarray:
    """The sufficient statistic of the cosine, up to a constant."""
    if family is VonMisesFisher:
        return np.cos(angle) - 1
    return np.log(np.maximum(np.cos(angle / 2) ** 2, 1e-300))


def angle_grid(family: type, kappa: float, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return angles that cover the law of the angle to loc, and its density at them."""
    end = min(math.pi, 12 * math.sqrt((dim + 10) / (kappa + 1e-9)))
    angle = np.linspace(0, end, 40_001)
    with np.errstate(divide="ignore"):
        log_density = kappa * statistic(family, angle) + (
            (dim - 2) * np.log(np.sin(angle).clip(0)) if dim > 2 else 0
        )
    density = np.exp(log_density - log_density.max())
    return angle, density / scipy.integrate.trapezoid(density, angle)


def expectation(function: np.ndarray, angle: np.ndarray, density: np.ndarray) -> float:
    return float(scipy.integrate.simpson(function * density, x=angle))


def angle_to(loc: Tensor, z: Tensor) -> Tensor:
    return 2 * torch.asin((0.5 * torch.linalg.vector_norm(z - loc, dim=-1)).clamp(max=1))


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kappa", [0.0, 0.5, 16.0, 200.0, 1e4])
@pytest.mark.parametrize("dim", [2, 3, 5, 32, 128])
def test_samples_follow_the_law_of_the_angle(family, dim, kappa, dtype) -> None:
    count = 5_000 if dim > 8 else 20_000
    loc = normalize(torch.randn(dim, dtype=dtype))
    z = family(loc, kappa).sample((count,))
    assert z.dtype == dtype
    angle, density = angle_grid(family, kappa, dim)
    cdf = scipy.integrate.cumulative_simpson(density, x=angle, initial=0)
    result = scipy.stats.kstest(
        angle_to(loc, z).double().numpy(), lambda x: np.interp(x, angle, cdf / cdf[-1])
    )
    assert result.pvalue > 1e-4


@both
@pytest.mark.parametrize("dim", [2, 3, 7])
def test_directions_around_loc_are_uniform(family, dim) -> None:
    loc = normalize(torch.randn(dim, dtype=torch.float64))
    z = family(loc, 3.0).sample((40_000,))
    tangent = z - (z @ loc).unsqueeze(-1) * loc
    tangent = tangent / torch.linalg.vector_norm(tangent, dim=-1, keepdim=True)
    expected = (torch.eye(dim, dtype=torch.float64) - torch.outer(loc, loc)) / (dim - 1)
    moments = torch.cat([tangent.mean(0, keepdim=True), tangent.T @ tangent / 40_000 - expected])
    torch.testing.assert_close(moments, torch.zeros_like(moments), rtol=0, atol=0.02)


def test_mean_cosine_in_high_dimension() -> None:
    loc = normalize(torch.randn(128))
    cosine = VonMisesFisher(loc, 16.0).sample((20_000,)) @ loc
    assert cosine.mean().item() == pytest.approx(0.123, abs=3e-3)


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("loc_at", ["pole", "opposite pole", "random"])
def test_samples_have_unit_length_and_finite_gradients(family, loc_at, dtype) -> None:
    for dim in (2, 3, 128):
        loc = torch.zeros(dim, dtype=dtype)
        loc[0] = 1 if loc_at == "pole" else -1
        if loc_at == "random":
            loc = normalize(torch.randn(dim, dtype=dtype))
        loc.requires_grad_()
        kappa = torch.tensor([0.0, 1e-3, 1.0, 100.0, 1e5], dtype=dtype, requires_grad=True)
        z = family(loc, kappa).rsample((2_000,))
        norm_error = (torch.linalg.vector_norm(z, dim=-1) - 1).abs().max()
        assert norm_error < 10 * torch.finfo(dtype).eps
        grads = torch.autograd.grad((z * torch.randn_like(z)).sum(), (loc, kappa))
        assert all(torch.isfinite(grad).all() for grad in grads)


@both
@pytest.mark.parametrize("kappa", [0.0, 2.0, 16.0, 300.0])
@pytest.mark.parametrize("dim", [2, 5, 32, 128])
def test_gradient_of_the_mean_cosine(family, dim, kappa) -> None:
    angle, density = angle_grid(family, kappa, dim)
    cosine, score = np.cos(angle), statistic(family, angle)
    centred = cosine - expectation(cosine, angle, density)
    exact = expectation(centred * score, angle, density)
    # d = 2 is the noisiest: the relative standard error is 0.2 % with this many samples
    count = {2: 300_000, 5: 60_000, 32: 20_000, 128: 10_000}[dim]
    concentration = torch.tensor(kappa, requires_grad=True)
    loc = normalize(torch.randn(dim))
    mean = (family(loc, concentration).rsample((count,)) @ loc).mean()
    (grad,) = torch.autograd.grad(mean, concentration)
    assert grad.item() == pytest.approx(exact, rel=0.01)


def test_gradient_where_the_usual_sampler_is_biased() -> None:
    concentration = torch.tensor(2.0, requires_grad=True)
    loc = normalize(torch.ones(5))
    mean = (VonMisesFisher(loc, concentration).rsample((200_000,)) @ loc).mean()
    assert torch.autograd.grad(mean, concentration)[0].item() == pytest.approx(0.1474, rel=0.01)


@both
@pytest.mark.parametrize("pole", [False, True])
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_gradients_of_a_second_moment(family, dim, pole) -> None:
    r"""E[(w . z)^2] = m2 (mu . w)^2 + (1 - m2) (1 - (mu . w)^2) / (d - 1), with m2 = E[t^2]."""
    kappa, dtype = 3.0, torch.float64
    loc = normalize(torch.randn(dim, dtype=dtype))
    if pole:
        loc = -torch.eye(dim, dtype=dtype)[0]
    loc.requires_grad_()
    concentration = torch.tensor(kappa, dtype=dtype, requires_grad=True)
    w = normalize(torch.randn(dim, dtype=dtype) + loc.detach())
    value = (family(loc, concentration).rsample((100_000,)) @ w).square().mean()
    grad_loc, grad_kappa = torch.autograd.grad(value, (loc, concentration))

    angle, density = angle_grid(family, kappa, dim)
    square, score = np.cos(angle) ** 2, statistic(family, angle)
    m2 = expectation(square, angle, density)
    dm2 = expectation((square - m2) * score, angle, density)
    mu = loc.detach()
    c = (mu @ w).item()
    assert grad_kappa.item() == pytest.approx(dm2 * (c**2 - (1 - c**2) / (dim - 1)), abs=2e-3)
    tangent = grad_loc - (grad_loc @ mu) * mu
    exact = 2 * c * (m2 - (1 - m2) / (dim - 1)) * (w - c * mu)
    torch.testing.assert_close(tangent, exact, rtol=0, atol=8e-3)


@both
@pytest.mark.parametrize("kappa", [0.0, 0.7, 30.0, 1e4])
@pytest.mark.parametrize("dim", [2, 3, 8])
def test_density_integrates_to_one_and_gives_entropy_and_moments(family, dim, kappa) -> None:
    angle, _ = angle_grid(family, kappa, dim)
    theta = torch.from_numpy(angle)
    z = torch.zeros(len(angle), dim, dtype=torch.float64)
    z[:, 0], z[:, 1] = theta.cos(), theta.sin()
    loc = torch.eye(dim, dtype=torch.float64)[0]
    q = family(loc, kappa)
    log_prob = q.log_prob(z).numpy()
    belt = math.exp(log_area(dim - 1)) * np.sin(angle) ** (dim - 2)
    weight = belt * np.exp(log_prob)

    def integral(function: np.ndarray) -> float:
        return float(scipy.integrate.simpson(function * weight, x=angle))

    first, second = integral(np.cos(angle)), integral(np.cos(angle) ** 2)
    assert integral(np.ones_like(angle)) == pytest.approx(1, rel=1e-8)
    assert integral(-log_prob) == pytest.approx(q.entropy().item(), rel=1e-6)
    assert first == pytest.approx(q.mean_resultant_length.item(), abs=1e-8)
    torch.testing.assert_close(q.mean, first * loc, rtol=0, atol=1e-8)
    variance = torch.full((dim,), (1 - second) / (dim - 1), dtype=torch.float64)
    variance[0] = second - first**2
    torch.testing.assert_close(q.variance, variance, rtol=1e-4, atol=1e-12)
    assert torch.equal(q.mode, loc)


@both
def test_zero_concentration_is_the_uniform(family) -> None:
    for dim in (2, 3, 64):
        loc, z = normalize(torch.randn(2, dim, dtype=torch.float64))
        kappa = torch.zeros((), dtype=torch.float64, requires_grad=True)
        q = family(loc, kappa)
        log_prob = q.log_prob(z)
        torch.testing.assert_close(log_prob, HypersphericalUniform(dim).log_prob(z))
        torch.testing.assert_close(q.entropy().item(), log_area(dim))
        (grad,) = torch.autograd.grad(log_prob, kappa)
        # The mean of log((1 + t) / 2) under Beta((d - 1) / 2, (d - 1) / 2), or of t - 1.
        means = {PowerSpherical: digamma((dim - 1) / 2) - digamma(dim - 1), VonMisesFisher: -1}
        own = statistic(family, np.array(angle_to(loc, z).item()))
        assert grad.item() == pytest.approx(float(own) - means[family], abs=1e-12)
        (grad,) = torch.autograd.grad(q.entropy(), kappa)
        assert grad.item() == 0


@both
def test_gradcheck_of_densities_and_entropy(family) -> None:
    loc = normalize(torch.randn(3, 4, dtype=torch.float64)).requires_grad_()
    z = normalize(torch.randn(3, 4, dtype=torch.float64)).requires_grad_()
    kappa = torch.tensor([0.0, 2.0, 60.0], dtype=torch.float64, requires_grad=True)

    def log_prob(loc: Tensor, kappa: Tensor, z: Tensor) -> Tensor:
        return family(loc, kappa, validate_args=False).log_prob(z)

    def entropy(kappa: Tensor) -> Tensor:
        return family(loc.detach(), kappa, validate_args=False).entropy()

    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        check(log_prob, (loc, kappa, z))
        check(entropy, (kappa,))


@both
def test_samples_cannot_be_differentiated_twice_silently(family) -> None:
    kappa = torch.tensor(2.0, requires_grad=True)
    z = family(torch.tensor([1.0, 0.0]), kappa).rsample()
    (grad,) = torch.autograd.grad(z.pow(3).sum(), kappa, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.backward()


@both
@pytest.mark.parametrize(
    ("loc_batch", "concentration_shape", "batch_shape"),
    [((), (), ()), ((5,), (), (5,)), ((), (5,), (5,)), ((5,), (5,), (5,)), ((2, 1), (5,), (2, 5))],
)
def test_shapes(family, loc_batch, concentration_shape, batch_shape) -> None:
    loc = normalize(torch.randn(*loc_batch, 3))
    concentration = torch.rand(concentration_shape)
    q = family(loc, concentration)
    assert q.batch_shape == batch_shape and q.event_shape == (3,)
    assert q.rsample((4,)).shape == (4, *batch_shape, 3)
    assert q.log_prob(q.sample((4,))).shape == (4, *batch_shape)
    assert q.entropy().shape == q.mean_resultant_length.shape == batch_shape
    assert q.mean.shape == q.variance.shape == q.mode.shape == (*batch_shape, 3)
    assert family.infer_shapes(loc=loc.shape, concentration=concentration.shape) == (
        batch_shape,
        (3,),
    )
    bigger = q.expand((6, *batch_shape))
    assert type(bigger) is family and bigger.rsample().shape == (6, *batch_shape, 3)
    assert q.to_event(len(batch_shape)).event_shape == (*batch_shape, 3)


@both
def test_in_plates_masks_and_mixtures(family) -> None:
    loc = normalize(torch.randn(4, 3))

    def model() -> Tensor:
        with pyro.plate("outer", 4, dim=-2), pyro.plate("inner", 5, dim=-1):
            return pyro.sample("z", family(loc.unsqueeze(-2), torch.tensor(2.0)))

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (4, 5, 3)
    assert trace.nodes["z"]["log_prob"].shape == (4, 5)
    z = normalize(torch.randn(4, 3))
    mask = torch.tensor([True, False, True, False])
    q = family(loc, 3.0)
    torch.testing.assert_close(q.mask(mask).log_prob(z), q.log_prob(z) * mask)
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(4)), q)
    expected = torch.logsumexp(q.log_prob(z.unsqueeze(-2)), -1) - math.log(4)
    torch.testing.assert_close(mixture.log_prob(z), expected)
    assert mixture.sample((7,)).shape == (7, 3)


@both
@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_low_precision_and_autocast_compute_in_float32(family, low) -> None:
    loc = normalize(torch.randn(6, 16)).to(low)
    concentration = torch.full((6,), 40.0, dtype=low)
    q = family(loc, concentration)
    assert q.loc.dtype == q.concentration.dtype == torch.float32
    reference = family(normalize(loc.float()), 40.0)
    z = reference.sample()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [q.log_prob(z), q.entropy(), q.rsample(), q.mean, q.variance]
    assert {x.dtype for x in found} == {torch.float32}
    torch.testing.assert_close(found[0], reference.log_prob(z))
    torch.testing.assert_close(found[1], reference.entropy())


@both
@pytest.mark.parametrize(
    ("loc", "concentration", "message"),
    [
        (torch.tensor([1.0, 1.0]), 1.0, "loc must hold unit vectors"),
        (torch.zeros(3), 1.0, "loc must hold unit vectors"),
        (torch.tensor([float("nan"), 0.0]), 1.0, "loc must"),
        (torch.tensor([float("inf"), 0.0]), 1.0, "loc must"),
        (torch.ones(1), 1.0, "loc has dimension 1"),
        (torch.tensor(1.0), 1.0, "loc must be a vector"),
        (torch.tensor([0.0, 1.0]), -1.0, "concentration must be non-negative"),
        (torch.tensor([0.0, 1.0]), float("nan"), "concentration must be non-negative"),
        (torch.tensor([0.0, 1.0]), float("inf"), "concentration must be non-negative"),
        (torch.eye(3), torch.ones(2), "concentration has shape"),
        (torch.eye(3), torch.ones(3, 1), "concentration has shape"),
    ],
)
def test_bad_arguments_are_named(family, loc, concentration, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        family(loc, concentration, validate_args=True)
    assert "\n" not in str(caught.value)


@both
def test_bad_values_are_named_unless_validation_is_off(family) -> None:
    loc = torch.eye(3)[0]
    with pytest.raises(ValueError, match="value must hold unit vectors"):
        family(loc, 1.0, validate_args=True).log_prob(2 * loc)
    with pytest.raises(ValueError, match="value has shape"):
        family(loc, 1.0, validate_args=True).log_prob(torch.eye(2))
    with pytest.raises(ValueError, match="value has batch shape"):
        family(torch.eye(3), 1.0, validate_args=True).log_prob(torch.eye(4)[:, :3][:2])
    off = family(2 * loc, torch.tensor(1.0), validate_args=False)
    assert torch.isfinite(off.log_prob(3 * loc))
    assert isinstance(off, RotationallySymmetric)
