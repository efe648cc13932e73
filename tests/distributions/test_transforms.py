"""Densities and divergences through torch.func, torch.jit.trace, torch.compile and export."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from probcl.distributions import (
    HypersphericalUniform,
    PowerSpherical,
    ProjectedNormal,
    VonMisesFisher,
)
from probcl.sphere import normalize

DIM = 4


def covariance(kind: str, scale: Tensor) -> dict[str, Tensor]:
    lower = torch.tril(torch.ones(DIM, DIM, dtype=scale.dtype), -1)
    return {
        "isotropic": {"scale": scale[:1]},
        "diagonal": {"scale": scale},
        "full": {"scale_tril": torch.diag(scale) + 0.3 * lower},
        "low rank": {"cov_factor": lower[:, :2], "cov_diag": scale},
    }[kind]


def function(kind: str, output: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def evaluate(loc: Tensor, scale: Tensor, value: Tensor) -> Tensor:
        q = ProjectedNormal(loc, **covariance(kind, scale), validate_args=False)
        if output == "log_prob":
            return q.log_prob(value)
        return kl_divergence(q, HypersphericalUniform(DIM, dtype=loc.dtype))

    return evaluate


@pytest.mark.parametrize("output", ["log_prob", "kl"])
@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full", "low rank"])
def test_reverse_transforms_agree_with_autograd(kind: str, output: str) -> None:
    loc = torch.randn(3, DIM, dtype=torch.float64)
    scale = torch.rand(3, DIM, dtype=torch.float64) + 0.3
    value = HypersphericalUniform(DIM, dtype=torch.float64).sample((3,))
    f = function(kind, output)
    by_both = torch.func.grad(f, argnums=(0, 1))
    batched = torch.func.vmap(by_both)(loc, scale, value)
    second = torch.func.jacrev(torch.func.jacrev(f, argnums=(0, 1)), argnums=(0, 1))
    for n in range(3):
        point = (loc[n], scale[n], value[n])
        leaves = [x.clone().requires_grad_() for x in point[:2]]
        expected = torch.autograd.grad(f(*leaves, value[n]), leaves)
        jacobian = torch.func.jacrev(f, argnums=(0, 1))(*point)
        for actual in (by_both(*point), jacobian, [x[n] for x in batched]):
            for one, other in zip(actual, expected, strict=True):
                assert torch.allclose(one, other, rtol=1e-9, atol=1e-10)
    hessian = torch.autograd.functional.hessian(lambda *x: f(*x, point[2]), point[:2])
    for row, expected_row in zip(second(*point), hessian, strict=True):
        for one, other in zip(row, expected_row, strict=True):
            assert torch.allclose(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical])
def test_gradients_of_samples_are_those_of_autograd(family) -> None:
    loc, concentration = torch.eye(3)[0], torch.tensor(5.0)

    def first(loc: Tensor, concentration: Tensor) -> Tensor:
        torch.manual_seed(0)
        return family(loc, concentration).rsample()[0]

    leaves = [x.clone().requires_grad_() for x in (loc, concentration)]
    expected = torch.autograd.grad(first(*leaves), leaves)
    actual = torch.func.grad(first, argnums=(0, 1))(loc, concentration)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def arguments(row) -> list[Tensor]:
    """Return a batch of values, then the row's parameters, not as they were traced."""
    value = row.build().sample((7,))
    return [value, *(1.0 * x for x in row.tensors().values())]


def of_arguments(row, output: str) -> Callable[..., Tensor]:
    def evaluate(value: Tensor, *parameters: Tensor) -> Tensor:
        if row.params:
            given = dict(zip(row.params, parameters, strict=True))
            q = row.cls(**given, **row.constants, validate_args=False)
        else:
            q = row.cls(**row.constants, dtype=value.dtype, validate_args=False)
        if output == "log_prob":
            return q.log_prob(value)
        return q.entropy() + 0.0 * value.sum() + sum(0.0 * p.sum() for p in parameters)

    return evaluate


def check_alike(one: Callable[..., Tensor], other: Callable[..., Tensor], inputs) -> None:
    leaves = [x.clone().requires_grad_() for x in inputs]
    values = [function(*leaves) for function in (one, other)]
    torch.testing.assert_close(*values, rtol=1e-13, atol=1e-13)
    by_one, by_other = (torch.autograd.grad(value.sum(), leaves) for value in values)
    torch.testing.assert_close(by_one, by_other, rtol=1e-11, atol=1e-11)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("output", ["log_prob", pytest.param("entropy", marks=pytest.mark.slow)])
def test_a_trace_is_right_at_other_values(row, output: str) -> None:
    f, (_, *parameters) = of_arguments(row, output), arguments(row)
    value = row.build().sample((5,))
    moved = [x.flip(0) for x in parameters]
    traced = torch.jit.trace(f, (value, *moved), check_trace=False)
    check_alike(traced, f, [row.build().sample((5,)), *parameters])


@pytest.mark.slow
@pytest.mark.parametrize("output", ["log_prob", "entropy"])
def test_compiled_to_one_graph(row, output: str) -> None:
    f = of_arguments(row, output)
    torch.compiler.reset()
    compiled = torch.compile(f, backend="eager", fullgraph=True)
    for _ in range(2):
        check_alike(compiled, f, arguments(row))


def test_a_density_compiled_with_its_checks() -> None:
    def f(loc: Tensor, value: Tensor) -> Tensor:
        return ProjectedNormal(loc, 0.5, validate_args=True).log_prob(value)

    torch.compiler.reset()
    compiled = torch.compile(f, backend="eager", fullgraph=True)
    value = HypersphericalUniform(DIM, dtype=torch.float64).sample((3,))
    check_alike(compiled, f, [torch.randn(3, DIM, dtype=torch.float64), value])


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # of torch's own making
def test_forward_mode_is_refused_by_torch() -> None:
    """torch.compile takes no function with a jvp of its own: derivatives go in reverse."""
    loc = torch.randn(DIM, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="implement the jvp function"):
        torch.func.jacfwd(lambda x: ProjectedNormal(x).log_prob(normalize(loc)))(loc)


def test_vmap_asks_for_validation_to_be_off() -> None:
    loc = torch.randn(5, DIM)
    with pytest.raises(NotImplementedError, match="loc is checked by its values, which torch"):
        torch.func.vmap(lambda x: ProjectedNormal(x, validate_args=True).entropy())(loc)
