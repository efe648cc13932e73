"""Tests of the sphere's geometry."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probcl.sphere import log_area, normalize


@pytest.mark.parametrize(
    ("dim", "area"), [(1, 2.0), (2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2)]
)
def test_area_of_known_spheres(dim: int, area: float) -> None:
    assert math.isclose(math.exp(log_area(dim)), area, rel_tol=1e-14)


def test_area_agrees_with_reference(tables) -> None:
    for row in tables("uniform"):
        expected = float(row["entropy"])
        assert abs(log_area(row["d"]) - expected) <= 1e-13 * max(1.0, abs(expected))


def test_area_needs_a_dimension() -> None:
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        log_area(0)


@given(st.integers(2, 40), st.floats(-35, 35), st.integers(0, 10**6))
def test_normalize_does_not_depend_on_length(dim: int, log10_length: float, seed: int) -> None:
    x = torch.randn(dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = (x / x.norm()).float()
    assert torch.allclose(normalize((x * 10.0**log10_length).float()), expected, atol=1e-6)


def test_normalize_zero_is_a_unit_vector_with_zero_gradient(dtype: torch.dtype) -> None:
    x = torch.zeros(2, 5, dtype=dtype, requires_grad=True)
    z = normalize(x)
    z.square().mul(torch.arange(5)).sum().backward()
    assert torch.allclose(z.norm(dim=-1), torch.ones(2, dtype=dtype))
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("length", [1e-150, 1.0, 1e150])
def test_normalize_derivatives(length: float) -> None:
    x = torch.randn(3, 4, dtype=torch.float64)

    def rescaled(x: torch.Tensor) -> torch.Tensor:
        return normalize(x * length)

    assert torch.autograd.gradcheck(rescaled, x.clone().requires_grad_())
    assert torch.autograd.gradgradcheck(rescaled, x.clone().requires_grad_())


def test_normalize_under_functional_transforms() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(normalize))(x)
    for row, matrix in zip(x, jacobian, strict=True):
        unit = row / row.norm()
        expected = (torch.eye(4, dtype=torch.float64) - torch.outer(unit, unit)) / row.norm()
        assert torch.allclose(matrix, expected, atol=1e-14)
