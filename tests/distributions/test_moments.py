"""Second moments of directions: entry by entry against 50 digits, samples and differences."""

import mpmath
import pytest
import torch

from probcl.distributions import HypersphericalUniform, PowerSpherical, VonMisesFisher
from probcl.sphere import normalize

both = pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical])


def cosine_variances(family, kappa, dim):
    """Variance of the cosine, and of z in each direction orthogonal to loc, from the textbook."""
    half = mpmath.mpf(dim) / 2
    if family is VonMisesFisher:
        ratio = mpmath.besseli(half, kappa) / mpmath.besseli(half - 1, kappa)
        return 1 - ratio**2 - (dim - 1) * ratio / kappa, ratio / kappa
    beta = half - mpmath.mpf(0.5)
    alpha = beta + kappa  # (1 + t) / 2 has the law Beta(alpha, beta)
    total = alpha + beta
    along = 4 * alpha * beta / (total**2 * (total + 1))
    return along, (1 - along - ((alpha - beta) / total) ** 2) / (dim - 1)


def places(dim, dtype):
    near = torch.eye(dim, dtype=dtype)[0]
    return normalize(torch.stack([torch.randn(dim, dtype=dtype), near, near + 1e-4]))


@both
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 5e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("kappa", [1e-6, 1e-3, 1.0, 1e3, 1e8])
@pytest.mark.parametrize("dim", [2, 3, 64])
def test_every_entry_has_its_digits(family, dim, kappa, dtype, error):
    torch.manual_seed(0)
    concentration = torch.tensor(kappa, dtype=dtype)
    q = family(places(dim, dtype), concentration)
    assert q.covariance.dtype == dtype and q.covariance.shape == (3, dim, dim)
    torch.testing.assert_close(q.variance, q.covariance.diagonal(dim1=-2, dim2=-1))
    with mpmath.workdps(50):
        along, across = cosine_variances(family, mpmath.mpf(concentration.item()), dim)
        for loc, found in zip(q.loc.tolist(), q.covariance.tolist(), strict=True):
            mu = [mpmath.mpf(x) for x in loc]
            for i, j in [(0, 0), (0, 1), (1, 0), (dim - 1, dim - 1)]:
                exact = (along - across) * mu[i] * mu[j]
                if i == j:
                    rest = mpmath.fsum(x**2 for k, x in enumerate(mu) if k != i)
                    exact = along * mu[i] ** 2 + across * rest
                assert abs(found[i][j] - exact) <= error * abs(exact)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_concentration_is_the_uniform(dtype):
    uniform = HypersphericalUniform(5, dtype=dtype).expand([3])
    torch.testing.assert_close(uniform.covariance, torch.eye(5, dtype=dtype).expand(3, 5, 5) / 5)
    for family in (VonMisesFisher, PowerSpherical):
        q = family(places(5, dtype), torch.zeros(3, dtype=dtype))
        torch.testing.assert_close(q.covariance, uniform.covariance)


@both
@pytest.mark.parametrize(("dim", "kappa"), [(2, 3.0), (3, 20.0), (16, 5.0)])
def test_it_is_that_of_samples(family, dim, kappa):
    torch.manual_seed(0)
    q = family(normalize(torch.randn(dim, dtype=torch.float64)), kappa)
    z = q.sample((100_000,))
    error = torch.cov(z.T) - q.covariance
    assert error.abs().max() < 5 * q.variance.max() / 100_000**0.5 * 2**0.5


@both
def test_gradients_are_those_of_differences(family):
    loc = places(4, torch.float64).requires_grad_()
    kappa = torch.tensor([0.0, 2.0, 500.0], dtype=torch.float64, requires_grad=True)

    def covariance(loc, kappa):
        return family(loc, kappa, validate_args=False).covariance

    assert torch.autograd.gradcheck(covariance, (loc, kappa))
    for tiny, dtype in ((1e-30, torch.float32), (1e15, torch.float32), (1e200, torch.float64)):
        kappa = torch.tensor(tiny, dtype=dtype, requires_grad=True)
        q = family(places(4, dtype), kappa)
        (gradient,) = torch.autograd.grad(q.covariance.sum(), kappa)
        assert q.covariance.isfinite().all() and gradient.isfinite()
