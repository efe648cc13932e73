"""The Power Spherical distribution against published formulas."""

import math

import mpmath
import pytest
import torch

from probcl.distributions import PowerSpherical


@pytest.mark.parametrize("dim", [2, 3, 10, 100])
def test_published_normaliser_and_entropy(dim: int) -> None:
    """De Cao and Aziz (2020), theorem 1 and section 3.2."""
    for kappa in (0.3, 5.0, 80.0):
        q = PowerSpherical(torch.eye(dim, dtype=torch.float64)[0], kappa)
        beta = mpmath.mpf(dim - 1) / 2
        alpha = beta + mpmath.mpf(kappa)
        log_normalizer = (
            (alpha + beta) * mpmath.log(2)
            + beta * mpmath.log(mpmath.pi)
            + mpmath.loggamma(alpha)
            - mpmath.loggamma(alpha + beta)
        )
        mean_log = mpmath.log(2) + mpmath.digamma(alpha) - mpmath.digamma(alpha + beta)
        entropy = log_normalizer - kappa * mean_log
        assert q.log_normalizer.item() == pytest.approx(float(log_normalizer), rel=1e-13)
        assert q.entropy().item() == pytest.approx(float(entropy), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("kappa", [1.0, 1e3, 1e5])
def test_log_prob_keeps_its_digits_at_every_angle(kappa, dtype, tolerance) -> None:
    angles = [0.0, 1e-4, 1e-2, 1.0, 3.0, 3.14159]
    for dim in (2, 3, 128):
        z = torch.zeros(len(angles), dim, dtype=dtype)
        theta = torch.tensor(angles, dtype=torch.float64)
        z[:, 0], z[:, 1] = theta.cos(), theta.sin()
        loc = torch.eye(dim, dtype=dtype)[0]
        q = PowerSpherical(loc, kappa)
        found = q.log_prob(z).tolist()
        with mpmath.workdps(40):
            beta, k = mpmath.mpf(dim - 1) / 2, mpmath.mpf(kappa)
            log_normalizer = (
                (2 * beta + k) * mpmath.log(2)
                + beta * mpmath.log(mpmath.pi)
                + mpmath.loggamma(beta + k)
                - mpmath.loggamma(2 * beta + k)
            )
            for point, value in zip(z.double(), found, strict=True):
                x, y = (mpmath.mpf(c.item()) for c in point[:2])
                cosine = x / mpmath.sqrt(x * x + y * y)
                power = k * mpmath.log((1 + cosine) / 2)
                reference = power + k * mpmath.log(2) - log_normalizer
                scale = max(1, abs(reference), abs(power))
                assert abs(value - reference) <= tolerance * scale


def test_at_the_antipode_everything_is_finite() -> None:
    loc = torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
    kappa = torch.tensor([0.0, 1.0, 1e4], requires_grad=True)
    log_prob = PowerSpherical(loc, kappa).log_prob(-loc.detach())
    assert log_prob[0].item() == pytest.approx(-math.log(4 * math.pi))
    assert (log_prob[1:] < -80).all() and torch.isfinite(log_prob).all()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(log_prob.sum(), (loc, kappa)))
