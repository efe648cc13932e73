"""Expected likelihood against loops, numerical integration and exact normalisers."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch.nn.functional import normalize

from probcl.distributions import VonMisesFisher
from probcl.objectives import expected_likelihood
from probcl.objectives.expected_likelihood import log_kernel
from probcl.special.bessel import bessel_ratio

KERNELS = ["von_mises_fisher", "normal"]
every_kernel = pytest.mark.parametrize("kernel", KERNELS)
every_positive = pytest.mark.parametrize("positive", [None, 20.0])


def posteriors(views=2, items=6, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(views, items, dim, generator=generator, dtype=torch.float64)
    concentration = 5 + 30 * torch.rand(views, items, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(loc, dim=-1), concentration


def loop(loc, concentration, labels, kernel, positive):
    views, items, dim = loc.shape
    names = range(items) if labels is None else labels.tolist()

    def s(v, i, w, j):
        cosine = loc[v, i] @ loc[w, j]
        return log_kernel(
            1 - cosine, concentration[v, i], concentration[w, j], dim, kernel, positive
        ).exp()

    total = 0.0
    for v in range(views):
        for i in range(items):
            negatives = sum(s(v, i, v, j) for j in range(items) if names[j] != names[i])
            positives = [
                s(v, i, w, j)
                for w in range(views)
                for j in range(items)
                if w != v and names[j] == names[i]
            ]
            total -= sum(torch.log(p / (p + negatives)) for p in positives) / len(positives)
    return total / (views * items)


@every_kernel
@every_positive
@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 0, 2, 1, 1])])
def test_equals_a_loop_over_anchors(kernel, positive, views, labels):
    x, concentration = (x.requires_grad_() for x in posteriors(views))
    loc = torch.nn.functional.normalize(x, dim=-1)
    value = expected_likelihood(
        loc, concentration, labels, kernel=kernel, positive_concentration=positive
    )
    expected = loop(loc, concentration, labels, kernel, positive)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    ours, theirs = (
        torch.autograd.grad(loss, [x, concentration], retain_graph=True)
        for loss in (value, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("labels", [None, torch.arange(1030) % 3])
def test_blocks_of_anchors_have_the_loss_and_gradient_of_the_whole(labels):
    """A larger batch than one block, against the matrix of all pairs."""
    x, k = (x.requires_grad_() for x in posteriors(items=1030, dim=3))
    loc = torch.nn.functional.normalize(x, dim=-1)
    names = torch.arange(1030) if labels is None else labels
    same, losses = names[:, None] == names, []
    for v in range(2):
        own, other = (log_kernel(1 - loc[v] @ loc[w].T, k[v, :, None], k[w], 3) for w in (v, 1 - v))
        negatives = own.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
        each = (negatives - other).exp().log1p() * same
        losses.append(each.sum(1) / same.sum(1))
    value = expected_likelihood(loc, k, labels, reduction="none")
    torch.testing.assert_close(value, torch.stack(losses), rtol=1e-8, atol=0)
    ours, theirs = (
        torch.autograd.grad(loss, [x, k], retain_graph=True)
        for loss in (value.sum(), torch.stack(losses).sum())
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_leading_dimensions_have_losses_of_their_own():
    loc, k = (torch.stack(x) for x in zip(*(posteriors(seed=s) for s in range(3)), strict=True))
    for labels in (None, torch.tensor([0, 1, 0, 2, 1, 1])):
        losses = expected_likelihood(loc, k, labels, reduction="none")
        each = [expected_likelihood(*x, labels, reduction="none") for x in zip(loc, k, strict=True)]
        torch.testing.assert_close(losses, torch.stack(each), rtol=1e-12, atol=0)
        torch.testing.assert_close(expected_likelihood(loc, k, labels), losses.mean())


@pytest.mark.parametrize("cosine", [-0.9, 0.0, 0.7])
def test_normal_kernel_is_the_density_of_the_difference(cosine):
    """In the tangent plane the squared distance is 2 (1 - cos), each coordinate normal."""
    k, other, dim = 12.0, 30.0, 4
    squared = 2 * (1 - cosine)
    integral, _ = quad(
        lambda x: math.exp(-k * x * x / 2 - other * (math.sqrt(squared) - x) ** 2 / 2), -20, 20
    )
    flat, _ = quad(lambda x: math.exp(-(k + other) * x * x / 2), -20, 20)
    one_dim = k**0.5 * other**0.5 / (2 * math.pi)
    expected = math.log(one_dim * integral) + (dim - 2) * math.log(one_dim * flat)
    value = log_kernel(*map(torch.tensor, (1 - cosine, k, other)), dim, "normal")
    constant = -(dim - 1) / 2 * math.log(2 * math.pi)
    assert value.item() + constant == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("dim", "bound"), [(2, 0.034), (3, 0.021), (10, 0.0053), (128, 0.0004)])
def test_error_of_the_smooth_mean_resultant_length_is_as_documented(dim, bound):
    k = torch.logspace(-3, 5, 2000, dtype=torch.float64, requires_grad=True)
    # Of a posterior under a point, the kernel is its density, with slope cos - A(k).
    value = log_kernel(torch.ones_like(k), k, torch.full_like(k, 1e9), dim)
    (slope,) = torch.autograd.grad(value.sum(), k)
    assert 0.9 * bound < (-slope - bessel_ratio(k.detach(), dim)).abs().max() <= bound


@pytest.mark.parametrize("dim", [10, 64])
def test_von_mises_fisher_kernel_is_close_to_the_exact_one(dim):
    loc, k = posteriors(dim=dim)
    a, b, ka, kb = loc[0], loc[1], k[0], k[1]
    joint = (ka[:, None] * a + kb[:, None] * b).norm(dim=-1)

    def log_c(k):
        return -VonMisesFisher(a, k).log_normalizer

    exact = log_c(ka) + log_c(kb) - log_c(joint)
    smooth = log_kernel(1 - (a * b).sum(-1), ka, kb, dim)
    error = (smooth - exact) - (smooth - exact).mean()  # both up to a constant
    assert error.abs().max() < 0.15


def test_the_positive_kernel_in_the_limit_is_none():
    loc, k = posteriors()
    versine = 1 - (loc[0] * loc[1]).sum(-1)
    with_kernel = log_kernel(
        versine, k[0], torch.tensor(1e12, dtype=k.dtype), 5, positive_concentration=1e12
    )
    without = log_kernel(versine, k[0], torch.tensor(1e12, dtype=k.dtype), 5)
    difference = with_kernel - without
    torch.testing.assert_close(difference, difference.mean().expand_as(difference))


@pytest.mark.parametrize("dim", [10, 64])
def test_a_positive_kernel_spreads_the_other_posterior(dim):
    """A von Mises-Fisher kernel multiplies mean resultant lengths; the density is the exact one."""
    loc, k = posteriors(dim=dim)
    positive = torch.tensor(20.0, dtype=k.dtype)
    rest = bessel_ratio(k[0], dim) * bessel_ratio(k[1], dim) * bessel_ratio(positive, dim)
    low, high = torch.zeros_like(rest), torch.full_like(rest, 1e4)
    for _ in range(60):  # the concentration with that mean resultant length
        middle = (low + high) / 2
        below = bessel_ratio(middle, dim) < rest
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    exact = VonMisesFisher(loc[0], low).log_prob(loc[1])
    versine = 1 - (loc[0] * loc[1]).sum(-1)
    error = log_kernel(versine, k[0], k[1], dim, positive_concentration=20.0) - exact
    assert (error - error.mean()).abs().max() < 0.15  # both up to a constant


@every_kernel
@every_positive
def test_float32_keeps_its_digits_at_high_concentration(kernel, positive):
    loc, k = posteriors(seed=1)
    close = torch.nn.functional.normalize(loc[:1] + 0.01 * loc, dim=-1)
    for scale in (0.1, 1.0, 1e3):
        loc, concentration = close.float(), (scale * k).float()
        options = {"kernel": kernel, "positive_concentration": positive}
        value = expected_likelihood(loc, concentration, **options)
        expected = expected_likelihood(
            torch.nn.functional.normalize(loc.double(), dim=-1), concentration.double(), **options
        )
        torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=1e-6)


def test_one_class_has_no_loss():
    loc, k = (x.requires_grad_() for x in posteriors())
    value = expected_likelihood(loc, k, torch.zeros(6, dtype=torch.long))
    assert value == 0
    gradients = torch.autograd.grad(value, [loc, k])
    assert all((gradient == 0).all() for gradient in gradients)


def test_bad_input_is_named():
    loc, k = posteriors()
    with pytest.raises(ValueError, match=r"loc must have shape \(\*, V, B, d\) with V >= 2"):
        expected_likelihood(loc[0], k[0])
    with pytest.raises(ValueError, match=r"concentration must have shape \(2, 6\)"):
        expected_likelihood(loc, k[0])
    with pytest.raises(ValueError, match="kernel must be 'von_mises_fisher' or 'normal', got"):
        expected_likelihood(loc, k, kernel="cauchy")
    with pytest.raises(ValueError, match="positive_concentration must be a finite number above 0"):
        expected_likelihood(loc, k, positive_concentration=0.0)
    with pytest.raises(ValueError, match="B >= 2 images"):
        expected_likelihood(loc[:, :1], k[:, :1])
    with pytest.raises(ValueError, match=r"positive, from 1e-12 to 1e\+12, got -1 to -1"):
        expected_likelihood(loc, torch.full_like(k, -1))
    with pytest.raises(ValueError, match="concentration must be finite"):
        expected_likelihood(loc, torch.full_like(k, torch.nan))
    with pytest.raises(ValueError, match=r"labels must have shape \(6,\)"):
        expected_likelihood(loc, k, torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"loc must hold unit vectors, got a norm of 2.*normalize"):
        expected_likelihood(2 * loc, k)


@pytest.mark.parametrize("kernel", ["von_mises_fisher", "normal"])
@pytest.mark.parametrize("concentration", [30.0, 1e3, 1e4, 1e6, 1e8])
def test_close_neighbours_keep_their_digits_in_float32(concentration, kernel):
    generator = torch.Generator().manual_seed(0)
    apart = torch.randn(2, 32, 16, generator=generator) / concentration**0.5
    z = normalize(0.25 + apart, dim=-1)
    found = []
    for dtype in (torch.float32, torch.float64):
        loc = z.to(dtype) if dtype == torch.float32 else normalize(z.to(dtype), dim=-1)
        inputs = loc.requires_grad_(), torch.full((2, 32), concentration, dtype=dtype)
        inputs[1].requires_grad_()
        loss = expected_likelihood(*inputs, kernel=kernel)
        found.append((loss, *torch.autograd.grad(loss, inputs)))
    for value, exact in zip(*found, strict=True):
        assert (value - exact).abs().max() <= 1e-4 * exact.abs().max()
    assert abs(found[0][0] / found[1][0] - 1) < 1e-6
