"""Every objective in low precision against float64, from temperature 1 down to 0.01."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from probcl.objectives import info_nce, sup_con, varcon

ITEMS, CLASSES, DIM = 48, 6, 32
BY_CLASS = torch.arange(2 * ITEMS) % CLASSES
BY_IMAGE = torch.arange(2 * ITEMS) % ITEMS
OBJECTIVES = {
    "info_nce": lambda z, temperature: info_nce(z[:ITEMS], z[ITEMS:], temperature),
    "sup_con": lambda z, temperature: sup_con(z, BY_CLASS, temperature),
    "sup_con of pairs": lambda z, temperature: sup_con(z, BY_IMAGE, temperature),
    "varcon": lambda z, temperature: varcon(z, BY_CLASS, temperature, 0.2 * temperature),
    "varcon of pairs": lambda z, temperature: varcon(z, BY_IMAGE, temperature, temperature),
}

every_objective = pytest.mark.parametrize("name", OBJECTIVES)
every_features = pytest.mark.parametrize("features", ["random", "separated"])
every_temperature = pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1, 0.05, 0.02, 0.01])


def embeddings(features: str, name: str) -> torch.Tensor:
    """Unit vectors; separated ones are close to the axis of their image or class."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2 * ITEMS, DIM, generator=generator, dtype=torch.float64)
    if features == "random":
        return normalize(noise, dim=-1)
    labels = BY_CLASS if name in ("sup_con", "varcon") else BY_IMAGE
    axes = torch.randn(ITEMS, DIM, generator=generator, dtype=torch.float64)
    centres = normalize(axes, dim=-1)[labels]
    return normalize(centres + 0.5 * noise / math.sqrt(DIM), dim=-1)


def value_and_gradient(name, z, temperature, autocast=False):
    z = z.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = OBJECTIVES[name](z, temperature)
    return value, torch.autograd.grad(value, z)[0]


def assert_close(name, z, temperature, tolerance, gradient_tolerance, autocast=False):
    expected, exact_gradient = value_and_gradient(name, z.double(), temperature)
    value, gradient = value_and_gradient(name, z, temperature, autocast)
    assert value.dtype == torch.float32
    # Rounding a cosine moves a logit by 6e-8 / temperature.
    assert abs(value.double() - expected) <= tolerance * max(1, 0.02 / temperature) * expected
    error = (gradient.double() - exact_gradient).norm()
    # A gradient below the smallest number of the precision is zero in it.
    smallest = torch.finfo(z.dtype).tiny * math.sqrt(z.numel())
    assert error <= gradient_tolerance * exact_gradient.norm() + smallest


@every_objective
@every_features
@every_temperature
def test_float32(name, features, temperature):
    assert_close(name, embeddings(features, name).float(), temperature, 1e-5, 1e-5)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02, 0.0141])
def test_a_scaled_loss_has_the_scaled_gradient(temperature, scale):
    """Even of near-collapsed embeddings: a power of two changes no digit, unless one is lost."""
    axis = torch.randn(1, DIM, generator=torch.Generator().manual_seed(0))
    z = normalize(axis + 0.02 * embeddings("random", "sup_con").float(), dim=-1)
    for name in ("info_nce", "sup_con"):
        _, gradient = value_and_gradient(name, z, temperature)
        leaf = z.clone().requires_grad_()
        (scaled,) = torch.autograd.grad(scale * OBJECTIVES[name](leaf, temperature), leaf)
        assert (scaled / scale - gradient).norm() <= 1e-6 * gradient.norm()


@every_objective
@every_features
@every_temperature
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(name, features, temperature, dtype):
    z = embeddings(features, name).to(dtype)
    assert_close(name, z, temperature, 1e-5, 1e-2)
    assert_close(name, z, temperature, 1e-5, 1e-2, autocast=True)
    assert_close(name, z.float(), temperature, 1e-5, 1e-5, autocast=True)
