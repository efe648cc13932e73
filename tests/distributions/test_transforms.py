"""Derivatives through the transforms of torch.func, which nest them and batch them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from probcl.distributions import HypersphericalUniform, ProjectedNormal

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
