"""The von Mises-Fisher distribution against SciPy and its definition."""

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

from probcl.distributions import VonMisesFisher
from probcl.sphere import normalize


@pytest.mark.parametrize("dim", [2, 3, 5, 32])
def test_scipy_agrees(dim: int) -> None:
    generator = np.random.default_rng(0)
    for kappa in (0.1, 3.0, 50.0):
        loc, *points = generator.normal(size=(21, dim))
        loc /= np.linalg.norm(loc)
        points = np.stack([x / np.linalg.norm(x) for x in points])
        theirs = scipy.stats.vonmises_fisher(loc, kappa)
        q = VonMisesFisher(torch.from_numpy(loc), kappa)
        found = q.log_prob(torch.from_numpy(points)).numpy()
        np.testing.assert_allclose(found, theirs.logpdf(points), rtol=1e-11, atol=1e-11)
        assert q.entropy().item() == pytest.approx(theirs.entropy(), rel=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("kappa", [1.0, 1e3, 1e5])
def test_log_prob_keeps_its_digits_at_every_angle(kappa, dtype, tolerance) -> None:
    angles = [0.0, 1e-4, 1e-2, 1.0, 3.0, 3.14159]
    for dim in (2, 3, 128):
        z = torch.zeros(len(angles), dim, dtype=dtype)
        theta = torch.tensor(angles, dtype=torch.float64)
        z[:, 0], z[:, 1] = theta.cos(), theta.sin()
        loc = torch.eye(dim, dtype=dtype)[0]
        found = VonMisesFisher(loc, kappa).log_prob(z).tolist()
        with mpmath.workdps(40):
            order, k = mpmath.mpf(dim) / 2 - 1, mpmath.mpf(kappa)
            log_bessel = mpmath.log(mpmath.besseli(order, k))
            log_c = order * mpmath.log(k) - (order + 1) * mpmath.log(2 * mpmath.pi) - log_bessel
            for point, value in zip(z.double(), found, strict=True):
                x, y = (mpmath.mpf(c.item()) for c in point[:2])
                cosine = x / mpmath.sqrt(x * x + y * y)
                reference = k * cosine + log_c
                scale = max(1, abs(reference), k * (1 - cosine))
                assert abs(value - reference) <= tolerance * scale


def test_gradient_in_the_concentration_is_the_score() -> None:
    loc, z = normalize(torch.randn(2, 5, dtype=torch.float64))
    for kappa in (0.0, 1e-6, 2.0, 1e4):
        concentration = torch.tensor(kappa, dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(VonMisesFisher(loc, concentration).log_prob(z), concentration)
        with mpmath.workdps(30):
            k = mpmath.mpf(kappa)
            ratio = mpmath.besseli(2.5, k) / mpmath.besseli(1.5, k) if kappa else 0
        assert grad.item() == pytest.approx((loc @ z).item() - float(ratio), abs=1e-14)


def test_a_nan_concentration_comes_back_as_nan() -> None:
    q = VonMisesFisher(torch.eye(3)[0], torch.tensor([1.0, float("nan")]), validate_args=False)
    z = q.rsample()
    assert torch.isfinite(z[0]).all() and z[1].isnan().any()
