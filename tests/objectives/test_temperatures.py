"""Objectives at low temperatures, against their definitions in 700 digits."""

import mpmath
import pytest
import torch

from probcl.objectives import info_nce, sup_con, varcon
from probcl.sphere import normalize

LABELS = torch.tensor([0, 1, 0, 2, 1])


def directions(spread: float, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(1, 5, 4, dtype=torch.float64, generator=generator)
    views = torch.randn(2, 5, 4, dtype=torch.float64, generator=generator)
    return normalize(items + spread * views).to(dtype)


def cosine(a: torch.Tensor, b: torch.Tensor) -> mpmath.mpf:
    return mpmath.fsum(mpmath.mpf(x) * mpmath.mpf(y) for x, y in zip(a.tolist(), b.tolist()))  # noqa: B905


def exact_info_nce(z: torch.Tensor, t: float) -> mpmath.mpf:
    losses = []
    for v in range(2):
        for i in range(5):
            others = [z[w, j] for w in range(2) for j in range(5) if j != i]
            positive = cosine(z[v, i], z[1 - v, i])
            ratios = [mpmath.exp((cosine(z[v, i], other) - positive) / t) for other in others]
            losses.append(mpmath.log1p(mpmath.fsum(ratios)))
    return mpmath.fsum(losses) / 10


def exact_sup_con(z: torch.Tensor, t: float) -> mpmath.mpf:
    flat, labels, losses = z.flatten(0, 1), LABELS.repeat(2), []
    for i in range(10):
        logits = {j: cosine(flat[i], flat[j]) / t for j in range(10) if j != i}
        positive = [s for j, s in logits.items() if labels[j] == labels[i]]
        total = mpmath.fsum(mpmath.exp(s - positive[0]) for s in logits.values())
        losses.append(mpmath.log(total) + positive[0] - mpmath.fsum(positive) / len(positive))
    return mpmath.fsum(losses) / 10


def exact_varcon(z: torch.Tensor, t: float) -> mpmath.mpf:
    flat, labels, losses = z.flatten(0, 1), LABELS.repeat(2), []
    wide = flat.double()
    w = normalize(torch.stack([wide[labels == r].sum(0) for r in range(3)]))
    for i in range(10):
        own = int(labels[i])
        logits = [cosine(wide[i], w[r]) / t for r in range(3)]
        log_total = mpmath.log(mpmath.fsum(map(mpmath.exp, logits)))
        log_p = [s - log_total for s in logits]
        log_q = [mpmath.mpf(0)] * 3
        log_q[own] = 1 / (mpmath.mpf(t) / 2 + t * mpmath.exp(log_p[own]))
        log_total = mpmath.log(mpmath.fsum(map(mpmath.exp, log_q)))
        log_q = [s - log_total for s in log_q]
        terms = [mpmath.exp(a) * (a - b) for a, b in zip(log_q, log_p, strict=True)]
        losses.append(mpmath.fsum(terms) - log_p[own])
    return mpmath.fsum(losses) / 10


CASES = {
    "info_nce": (info_nce, exact_info_nce, 0.0024),
    "sup_con": (lambda z, t: sup_con(z, LABELS, t), exact_sup_con, 0.0024),
    "varcon": (lambda z, t: varcon(z, LABELS, t, epsilon=t / 2), exact_varcon, 0.001),
}


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_right_down_to_the_least_temperature(name, dtype):
    """Where the value is above the least number of the precision."""
    objective, exact, least = CASES[name]
    rtol = 1e-12 if dtype == torch.float64 else 2e-5
    with mpmath.workdps(700):  # probabilities come within 1e-300 of one
        for spread in (0.05, 1.0):
            z = directions(spread, dtype)
            for temperature in (0.1, 0.01, least):
                expected = float(exact(z, temperature))
                value = float(objective(z, temperature))
                tiny = 1e3 * torch.finfo(dtype).tiny
                assert value == pytest.approx(expected, rel=rtol, abs=tiny)


@pytest.mark.parametrize("name", ["info_nce", "sup_con"])
@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_gradients_at_the_least_temperature(name, spread):
    def plain(z: torch.Tensor, t: float) -> torch.Tensor:
        flat, index, labels = z.flatten(0, 1), torch.arange(10), LABELS.repeat(2)
        logits = (flat @ flat.T / t).masked_fill(torch.eye(10, dtype=torch.bool), -torch.inf)
        alike = index % 5 if name == "info_nce" else labels
        positive = (alike[:, None] == alike) & (index[:, None] != index)
        shares = logits.log_softmax(1).masked_fill(~positive, 0.0)
        return -(shares.sum(1) / positive.sum(1)).mean()

    for dtype, rtol in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        z = directions(spread, dtype).requires_grad_()
        gradient = torch.autograd.grad(CASES[name][0](z, 0.0024), z)[0].double()
        wide = z.detach().double().requires_grad_()
        expected = torch.autograd.grad(plain(wide, 0.0024), wide)[0]
        assert (gradient - expected).norm() <= rtol * expected.norm() + 1e-12


def test_a_lower_temperature_is_refused():
    z = directions(1.0, torch.float64)
    for name in ("info_nce", "sup_con"):
        with pytest.raises(ValueError, match=r"temperature must be at least 0\.0024, got 0\.001"):
            CASES[name][0](z, 0.001)
