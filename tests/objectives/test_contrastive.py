"""InfoNCE and SupCon against loops over the anchors, written from the papers' formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcl.objectives import info_nce, sup_con


def directions(*shape, dtype=torch.float64, seed=0, spread=1.0):
    """Unit vectors; with a small spread the two halves of a batch nearly agree."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if spread < 1.0:
        centres = torch.eye(shape[-1], dtype=torch.float64)[: shape[-2] // 2].repeat(2, 1)
        z = centres + spread * z / math.sqrt(shape[-1])
    return torch.nn.functional.normalize(z, dim=-1).to(dtype)


def info_nce_loop(z1, z2, temperature):
    z, batch = torch.cat([z1, z2]), len(z1)
    total = 0.0
    for i in range(2 * batch):
        positive = torch.exp(z[i] @ z[(i + batch) % (2 * batch)] / temperature)
        others = sum(torch.exp(z[i] @ z[j] / temperature) for j in range(2 * batch) if j != i)
        total = total - torch.log(positive / others)
    return total / (2 * batch)


def sup_con_loop(z, labels, temperature):
    losses = []
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        others = sum(torch.exp(z[i] @ z[a] / temperature) for a in range(len(z)) if a != i)
        if positives:
            terms = [torch.log(torch.exp(z[i] @ z[p] / temperature) / others) for p in positives]
            losses.append(-sum(terms) / len(positives))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_info_nce_equals_a_loop_over_anchors(temperature):
    z = directions(12, 5).requires_grad_()
    expected = info_nce_loop(z[:6], z[6:], temperature)
    value = info_nce(z[:6], z[6:], temperature)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    for mine, theirs in zip(
        torch.autograd.grad(value, z), torch.autograd.grad(expected, z), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_sup_con_equals_a_loop_over_anchors(temperature):
    z = directions(12, 5).requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 0, 1, 2, 2, 3, 0])  # class 3 has no pair
    expected = sup_con_loop(z, labels, temperature)
    value = sup_con(z, labels, temperature)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    for mine, theirs in zip(
        torch.autograd.grad(value, z), torch.autograd.grad(expected, z), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


def test_sup_con_with_a_class_for_each_pair_is_info_nce():
    z = directions(16, 7)
    pairs = torch.arange(8).repeat(2)
    torch.testing.assert_close(sup_con(z, pairs, 0.1), info_nce(z[:8], z[8:], 0.1))


@pytest.mark.parametrize("spread", [1.0, 0.1], ids=["random", "separated"])
@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.05, 0.02])
def test_float32_agrees_with_float64_at_low_temperature(temperature, spread):
    exact = directions(32, 16, spread=spread).requires_grad_()
    single = exact.detach().float().requires_grad_()
    expected = info_nce(exact[:16], exact[16:], temperature)
    value = info_nce(single[:16], single[16:], temperature)
    # Rounding the inputs to float32 alone moves each logit by 6e-8 / temperature.
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    (gradient,), (exact_gradient,) = (
        torch.autograd.grad(value, single),
        torch.autograd.grad(expected, exact),
    )
    assert (gradient - exact_gradient).norm() <= 1e-5 * exact_gradient.norm()


def test_low_precision_inputs_are_computed_in_float32():
    z = directions(16, 8, dtype=torch.bfloat16)
    expected = info_nce(z[:8].double(), z[8:].double(), 0.05)
    assert info_nce(z[:8], z[8:], 0.05).dtype == torch.float32
    torch.testing.assert_close(info_nce(z[:8], z[8:], 0.05).double(), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(info_nce(z[:8], z[8:], 0.05).double(), expected)


def test_leading_dimensions_are_averaged():
    z = directions(3, 12, 5)
    expected = torch.stack([info_nce(part[:6], part[6:], 0.2) for part in z]).mean()
    torch.testing.assert_close(info_nce(z[:, :6], z[:, 6:], 0.2), expected)


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(2, 9), dim=st.integers(2, 8), seed=st.integers(0, 10**6))
def test_invariance_to_order_and_rotation(batch, dim, seed):
    z = directions(2 * batch, dim, seed=seed)
    labels = torch.arange(batch).repeat(2) % 3
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(directions(dim, dim, seed=seed + 1))[0]
    value = info_nce(z[:batch], z[batch:], 0.1)
    torch.testing.assert_close(info_nce(z[batch:], z[:batch], 0.1), value)
    torch.testing.assert_close(info_nce(z[:batch][order], z[batch:][order], 0.1), value)
    torch.testing.assert_close(info_nce(z[:batch] @ rotation, z[batch:] @ rotation, 0.1), value)
    flipped = sup_con(z.flip(0), labels.flip(0), 0.1)
    torch.testing.assert_close(flipped, sup_con(z, labels, 0.1))


def test_bad_input_is_named():
    z = directions(8, 3)
    with pytest.raises(ValueError, match="temperature must be a finite number above 0, got 0"):
        info_nce(z[:4], z[4:], 0)
    with pytest.raises(ValueError, match="temperature must be"):
        sup_con(z, torch.zeros(8, dtype=torch.long), float("nan"))
    with pytest.raises(ValueError, match=r"z1 and z2 must have the same shape.*\(4, 3\)"):
        info_nce(z[:4], z[4:7], 0.1)
    with pytest.raises(ValueError, match="B >= 2"):
        info_nce(z[:1], z[1:2], 0.1)
    with pytest.raises(ValueError, match=r"labels must have shape \(8,\)"):
        sup_con(z, torch.zeros(7, dtype=torch.long), 0.1)
    with pytest.raises(ValueError, match="at least one class twice"):
        sup_con(z, torch.arange(8), 0.1)
