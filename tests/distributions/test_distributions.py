"""The battery that every distribution of the table passes."""

import contextlib
import inspect
import math

import pyro
import pytest
import torch
from pyro.distributions import MixtureSameFamily, constraints
from pyro.distributions.testing.gof import auto_goodness_of_fit

import probcl.distributions as dist
from probcl.sphere import log_area, normalize

# Mutual nearest neighbours share one distance, so that true p-values stray far below uniform.
FAILURE_RATE = 1e-8


def test_shapes(row) -> None:
    d = row.build()
    assert d.batch_shape == (2,)
    assert d.event_shape == (row.dim,)
    assert d.sample().shape == (2, row.dim)
    z = d.rsample((5, 4))
    assert z.shape == (5, 4, 2, row.dim)
    assert d.log_prob(z).shape == (5, 4, 2)
    assert d.log_prob(z[0, 0, 0]).shape == (2,)
    assert d.entropy().shape == (2,)
    assert d.support.check(z).all()


def test_infer_shapes(row) -> None:
    shapes = {name: x.shape for name, x in row.tensors().items()}
    batch_shape, event_shape = row.cls.infer_shapes(**shapes, **row.constants)
    assert batch_shape == (torch.Size([2]) if row.params else torch.Size())
    assert event_shape == (row.dim,)


def test_arg_constraints_hold(row) -> None:
    d = row.build()
    assert set(row.params) <= set(d.arg_constraints)
    assert set(d.arg_constraints) <= set(inspect.signature(row.cls).parameters)
    for name, value in row.tensors().items():
        assert torch.equal(getattr(d, name), value)
        assert d.arg_constraints[name].check(value).all()


@pytest.mark.parametrize("batch_shape", [(2,), (4, 2), (3, 1, 2)])
def test_expand(row, batch_shape) -> None:
    d = row.build()
    wide = d.expand(batch_shape)
    assert type(wide) is type(d)
    assert wide.batch_shape == batch_shape
    assert wide.event_shape == d.event_shape
    z = wide.sample((3,))
    assert z.shape == (3, *batch_shape, row.dim)
    assert torch.allclose(wide.log_prob(z), d.log_prob(z), atol=1e-13)
    assert torch.allclose(wide.entropy(), d.entropy().expand(batch_shape), atol=1e-13)
    for name in row.params:
        assert getattr(wide, name).shape == (*batch_shape, *getattr(d, name).shape[1:])
    assert wide.expand((7, *batch_shape)).sample().shape == (7, *batch_shape, row.dim)


def test_expand_does_not_shrink(row) -> None:
    for batch_shape in ([1], [3], [], [2, 1], [0]):
        for d in (row.build(), pyro.distributions.Normal(torch.zeros(2), 1.0)):
            with pytest.raises(RuntimeError, match="expand"):
                d.expand(batch_shape)


def test_batch_agrees_with_single(row) -> None:
    one = row.one()
    z = one.sample((6,))
    assert torch.allclose(row.build().log_prob(z[:, None])[:, 0], one.log_prob(z), atol=1e-13)
    assert torch.allclose(row.build().entropy()[0], one.entropy(), atol=1e-13)


def test_in_plate(row) -> None:
    def model() -> torch.Tensor:
        with pyro.plate("items", 2):
            return pyro.sample("z", row.build())

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["z"]
    assert site["value"].shape == (2, row.dim)
    assert site["log_prob"].shape == (2,)


def test_to_event_and_mask(row) -> None:
    d = row.build()
    z = d.sample((3,))
    joint = d.to_event(1)
    assert joint.event_shape == (2, row.dim)
    assert torch.allclose(joint.log_prob(z), d.log_prob(z).sum(-1))
    mask = torch.tensor([True, False])
    assert torch.equal(d.mask(mask).log_prob(z), d.log_prob(z) * mask)


def test_mixture(row) -> None:
    component = row.build()
    mixing = torch.distributions.Categorical(logits=torch.tensor([0.3, -0.2], dtype=torch.float64))
    mixture = MixtureSameFamily(mixing, component)
    z = mixture.sample((10,))
    expected = torch.logsumexp(component.log_prob(z[:, None]) + mixing.logits, -1)
    assert torch.allclose(mixture.log_prob(z), expected)


def test_goodness_of_fit(row) -> None:
    d = row.build()
    z = d.sample((20_000,))
    densities = d.log_prob(z).exp()
    for i in range(2):
        fit = auto_goodness_of_fit(z[:, i], densities[:, i], dim=row.dim - 1)
        assert fit > FAILURE_RATE


def test_goodness_of_fit_rejects_a_wrong_density() -> None:
    loc = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    z = dist.ProjectedNormal(loc).sample((20_000,))
    wrong = dist.ProjectedNormal(loc, scale=0.4).log_prob(z).exp()
    assert auto_goodness_of_fit(z, wrong, dim=2) < FAILURE_RATE


def test_density_integrates_to_one(row) -> None:
    z = dist.HypersphericalUniform(row.dim, dtype=torch.float64).sample((100_000, 1))
    ratios = (row.build().log_prob(z) + log_area(row.dim)).exp()
    error = ratios.std(0) / math.sqrt(len(z))
    assert (ratios.mean(0) - 1).abs().le(5 * error + 1e-12).all()


def test_entropy_is_mean_surprise(row) -> None:
    d = row.build()
    surprise = -d.log_prob(d.sample((40_000,)))
    error = surprise.std(0) / math.sqrt(len(surprise))
    assert (surprise.mean(0) - d.entropy()).abs().le(5 * error + 1e-12).all()


def test_mean_by_sampling(row) -> None:
    d = row.build()
    z = d.sample((40_000,))
    assert (z.mean(0) - d.mean).abs().le(5 * z.std(0) / math.sqrt(len(z))).all()
    assert torch.allclose(d.mean.norm(dim=-1), d.mean_resultant_length)


def items(d, rows: torch.Tensor):
    """Return some items of a batch as a distribution of their own."""
    if isinstance(d, dist.HypersphericalUniform):
        return dist.HypersphericalUniform(d.dim, dtype=d.mean.dtype).expand([len(rows)])
    parameters = {}
    for name in d.arg_constraints:
        with contextlib.suppress(AttributeError):  # another covariance's
            parameters[name] = getattr(d, name)[rows]
    return type(d)(**parameters)


def test_posterior_interface(row, dtype: torch.dtype) -> None:
    d = row.build(dtype)
    assert dist.as_posterior(d) is d
    assert d.mean_direction.shape == (2, row.dim)
    assert d.mean_resultant_length.shape == (2,)
    length = d.mean.norm(dim=-1)
    assert torch.allclose(d.mean_resultant_length, length, rtol=1e-5, atol=1e-6)
    significant = length > 0.01
    assert torch.allclose(d.mean_direction[significant] * length[significant, None],
                          d.mean[significant], rtol=1e-5, atol=1e-6)  # fmt: skip
    with torch.inference_mode():
        assert torch.equal(row.build(dtype).mean, d.mean)
    z = d.draw(7)
    assert z.shape == (7, 2, row.dim) and z.dtype == dtype and not z.requires_grad
    assert d.expand((3, 2)).draw(7).shape == (7, 3, 2, row.dim)
    assert torch.equal(d.expand((3, 2)).draw(7)[:, 1], z)
    assert torch.equal(d.draw(7), z) and not torch.equal(d.draw(7, seed=1), z)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        d.draw(0)


def test_draws_leave_the_random_state_alone(row) -> None:
    state = torch.get_rng_state()
    row.build().draw(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_are_alike_in_every_batch(row, dtype: torch.dtype) -> None:
    d = items(row.build(dtype), torch.arange(2).repeat(40))
    if row.params:  # 80 different items
        shift = 1 + torch.rand(80, dtype=dtype)
        name = "concentration" if "concentration" in row.params else "loc"
        shift = shift if name == "concentration" else shift[:, None]
        own = {n: getattr(d, n) for n in row.params}
        d = row.cls(**(own | {name: own[name] * shift}))
    z, order = d.draw(9), torch.randperm(80)
    assert torch.equal(items(d, order).draw(9), z[:, order])
    for rows in (order[:0], order[:1], order[:7], order[7:40]):
        assert torch.equal(items(d, rows).draw(9), z[:, rows])


def test_draws_in_single_precision_round_those_in_double(row) -> None:
    assert torch.allclose(
        row.build(torch.float32).draw(50).double(), row.build().draw(50), atol=1e-5
    )


def test_draws_follow_the_density(row) -> None:
    d = row.build()
    z = d.draw(20_000)
    densities = d.log_prob(z).exp()
    for i in range(2):
        assert auto_goodness_of_fit(z[:, i], densities[:, i], dim=row.dim - 1) > FAILURE_RATE


def test_single_precision(row) -> None:
    d = row.build(torch.float32)
    z = d.rsample((50,))
    assert z.dtype == torch.float32
    assert d.log_prob(z).dtype == d.entropy().dtype == torch.float32
    exact = row.build()
    assert torch.allclose(d.log_prob(z).double(), exact.log_prob(normalize(z.double())), atol=2e-6)
    assert torch.allclose(d.entropy().double(), exact.entropy(), atol=2e-6)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_single_precision(row, low: torch.dtype) -> None:
    d = row.build(low)
    z = normalize(d.sample((5,)).float())
    expected, expected_entropy = d.log_prob(z), d.entropy()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert d.rsample().dtype in (torch.float32, low if not row.params else torch.float32)
        assert d.log_prob(z).dtype == torch.float32
        assert torch.equal(d.log_prob(z), expected)
        assert torch.equal(d.entropy(), expected_entropy)
        assert d.log_prob(z.to(low)).dtype == torch.float32


def test_log_prob_gradients(row) -> None:
    z = row.build().sample()
    names, tensors = list(row.params), [x.requires_grad_() for x in row.tensors().values()]

    def log_prob(value: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        if not names:
            return row.build().log_prob(normalize(value))
        arguments = {
            name: x.tril() if name == "scale_tril" else x
            for name, x in zip(names, params, strict=True)
        }
        d = row.cls(**arguments, **row.constants, validate_args=False)
        return d.log_prob(value)

    inputs = (z.requires_grad_(), *tensors)
    assert torch.autograd.gradcheck(log_prob, inputs)
    assert torch.autograd.gradgradcheck(log_prob, inputs)


def test_entropy_gradients(row) -> None:
    if not row.params:
        pytest.skip("the uniform has no parameters")
    names, tensors = list(row.params), [x.requires_grad_() for x in row.tensors().values()]

    def entropy(*params: torch.Tensor) -> torch.Tensor:
        arguments = {
            name: x.tril() if name == "scale_tril" else x
            for name, x in zip(names, params, strict=True)
        }
        return row.cls(**arguments, **row.constants, validate_args=False).entropy()

    assert torch.autograd.gradcheck(entropy, tensors)


def test_pathwise_gradient(row) -> None:
    """The gradient through samples agrees with integration of the density's own gradient."""
    if not row.params:
        pytest.skip("the uniform has no parameters")
    weights = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)

    def payoff(z: torch.Tensor) -> torch.Tensor:
        return (z @ weights).square() + z[..., 0]

    tensors = {name: x[0].requires_grad_() for name, x in row.tensors().items()}
    d = row.cls(**tensors, **row.constants)
    pathwise = torch.autograd.grad(payoff(d.rsample((40_000,))).mean(), list(tensors.values()))

    # Gauss-Legendre in the height times the trapezoidal rule in longitude: exact on S^2.
    height, mass = (torch.as_tensor(x) for x in _legendre(40))
    longitude = torch.arange(80, dtype=torch.float64) * (2 * math.pi / 80)
    radius = (1 - height.square()).sqrt()[:, None]
    z = torch.stack(
        [radius * longitude.cos(), radius * longitude.sin(), height[:, None].expand(-1, 80)], -1
    )
    mass = mass[:, None] * (2 * math.pi / 80)
    density = d.log_prob(normalize(z)).exp()
    assert abs((mass * density).sum().item() - 1) < 1e-6
    exact = torch.autograd.grad((mass * density * payoff(z)).sum(), list(tensors.values()))
    for sampled, expected in zip(pathwise, exact, strict=True):
        if d.arg_constraints["loc"] is constraints.sphere and expected.shape == (row.dim,):
            # A unit vector can only turn: the part of its gradient along itself means nothing.
            unit = tensors["loc"].detach()
            sampled, expected = (g - (g @ unit) * unit for g in (sampled, expected))
        # Sampling also uses the upper triangle of scale_tril, which the density never reads.
        sampled = torch.where(expected == 0, 0.0, sampled) if "scale_tril" in tensors else sampled
        assert (sampled - expected).abs().max() < 0.05


def _legendre(size: int):
    import numpy as np

    return np.polynomial.legendre.leggauss(size)


def test_bad_parameters(row) -> None:
    for replaced, message in row.bad_params:
        params = row.tensors()
        for name, value in replaced.items():
            params[name] = value if value is None else torch.tensor(value, dtype=torch.float64)
        with pytest.raises(ValueError, match=message):
            row.cls(**params, **row.constants, validate_args=True)


def test_bad_values(row) -> None:
    d = row.build()
    for value, message in (
        (torch.ones(row.dim), "value must hold unit vectors, got a norm of 1.73"),
        (torch.full((row.dim,), float("nan")), "value must be finite, got"),
        (torch.ones(row.dim + 1), "its last dimension must be 3"),
    ):
        with pytest.raises(ValueError, match=message):
            d.log_prob(value)


def test_validation_can_be_switched_off(row) -> None:
    free = row.cls(**row.tensors(), **row.constants, validate_args=False)
    off_the_sphere = 0.9 * normalize(torch.ones(row.dim, dtype=torch.float64))
    assert torch.isfinite(free.log_prob(off_the_sphere)).all()


def test_float32_unit_vectors_are_accepted(row) -> None:
    z = normalize(torch.randn(1000, 1, row.dim))
    assert torch.isfinite(row.build(torch.float32).log_prob(z)).all()
    assert torch.isfinite(row.build(torch.float32).log_prob(z.bfloat16())).all()
