"""The motion of the cosine with the concentration, against closed forms and quadrature."""

from functools import cache

import mpmath
import pytest
import torch

from probcl.special.bessel import bessel_ratio_deficit
from probcl.special.cosine_velocity import cosine_velocity
from probcl.special.gamma_ratio import log_power_deficit_derivative

# A statistic of the angle, whose mean the family's concentration moves.
STATISTICS = {
    "power_spherical": lambda angle: mpmath.log((1 + mpmath.cos(angle)) / 2),
    "von_mises_fisher": lambda angle: mpmath.cos(angle) - 1,
}
VERSINES = {0.0: [0.3, 1.0, 1.7], 2.0: [0.1, 0.7, 1.9], 50.0: [0.005, 0.05, 0.2]}


@cache
@mpmath.workdps(30)
def exact_velocity(family: str, kappa: float, dim: int, versine: float) -> float:
    """Integrate the definition of the velocity, mean of the statistic included."""
    statistic = STATISTICS[family]
    angle = 2 * mpmath.asin(mpmath.sqrt(mpmath.mpf(versine) / 2))
    end = mpmath.pi - mpmath.mpf(10) ** -14
    scale = 1 / mpmath.sqrt(kappa + dim)
    cuts = sorted(
        {min(j * scale, end) for j in (0.3, 1, 2, 3, 4, 5, 6, 8, 11, 15)}
        | {angle * j / 4 for j in range(1, 5)}
        | {end}
    )

    def integral(function, points, peak):
        # relative to the integrand at one point, since the quadrature stops at absolute errors
        def density(theta):
            log_ratio = mpmath.log(mpmath.sin(theta) / mpmath.sin(peak)) if theta else -mpmath.inf
            exponent = kappa * (statistic(theta) - statistic(peak))
            return mpmath.exp(exponent + (dim - 2) * log_ratio if dim > 2 else exponent)

        return mpmath.quad(lambda theta: function(theta) * density(theta), points)

    centre = mpmath.sqrt((dim - 1) / (mpmath.mpf(kappa) + dim))
    total = integral(lambda theta: 1, [0, *cuts], centre)
    mean = integral(statistic, [0, *cuts], centre) / total
    below = [0, *[cut for cut in cuts if cut <= angle]]
    part = integral(lambda theta: statistic(theta) - mean, below, angle)
    return float(part / mpmath.sin(angle))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-3)])
@pytest.mark.parametrize("kappa", list(VERSINES))
@pytest.mark.parametrize("dim", [2, 3, 5, 32])
def test_power_spherical_velocity(dim, kappa, dtype, tolerance) -> None:
    versine = torch.tensor(VERSINES[kappa], dtype=torch.float32).to(dtype)
    k = torch.full_like(versine, kappa)
    mean = -log_power_deficit_derivative(k, dim)
    found = cosine_velocity(versine, k, dim, lambda y: torch.log1p(-y / 2), mean, 0.5)
    for y, value in zip(versine.tolist(), found.tolist(), strict=True):
        reference = exact_velocity("power_spherical", kappa, dim, y)
        assert value == pytest.approx(reference, rel=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kappa", list(VERSINES))
@pytest.mark.parametrize("dim", [2, 3, 5, 32])
def test_von_mises_fisher_velocity(dim, kappa, dtype, tolerance) -> None:
    versine = torch.tensor(VERSINES[kappa], dtype=torch.float32).to(dtype)
    k = torch.full_like(versine, kappa)
    found = cosine_velocity(versine, k, dim, torch.neg, -bessel_ratio_deficit(k, dim), 0.4)
    for y, value in zip(versine.tolist(), found.tolist(), strict=True):
        reference = exact_velocity("von_mises_fisher", kappa, dim, y)
        assert value == pytest.approx(reference, rel=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dim", [2, 3, 8, 128])
def test_limits_at_the_uniform_and_at_the_poles(dim: int, dtype: torch.dtype) -> None:
    versine = torch.tensor([0.2, 0.5, 1.5], dtype=dtype)
    zero = torch.zeros_like(versine)
    at_uniform = cosine_velocity(versine, zero, dim, torch.neg, zero - 1, 0.4)
    torch.testing.assert_close(at_uniform, zero + 1 / (dim - 1), rtol=1e-4, atol=0)
    # The motion obeys (1 - t^2) H' + [kappa (1 - t^2) - (d - 1) t] H = A - t.
    poles, kappa = torch.tensor([0.0, 2.0], dtype=dtype), torch.full((2,), 7.0, dtype=dtype)
    deficit = bessel_ratio_deficit(kappa, dim)
    found = cosine_velocity(poles, kappa, dim, torch.neg, -deficit, 0.4)
    torch.testing.assert_close(found[0], deficit[0] / (dim - 1), rtol=5e-3, atol=0)
    assert 0 < found[1] < 2
