"""InfoNCE and SupCon against loops over the anchors, written from the papers' formulas."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probcl.objectives import info_nce, pairwise, sup_con
from probcl.objectives.info_nce import info_nce_anchors
from probcl.objectives.sup_con import sup_con_anchors


@pytest.fixture(autouse=True, params=[1024, 5, 3], ids=["one tile", "tiles of 5", "tiles of 3"])
def _tile(request, monkeypatch):
    """Small tiles let a small batch have many of them, of unequal size and across classes."""
    monkeypatch.setattr(pairwise, "_CPU_TILE", request.param)


def directions(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(z, dim=-1).to(dtype)


def info_nce_loop(z1, z2, temperature):
    z, batch = torch.cat([z1, z2]), len(z1)
    total = 0.0
    for i in range(2 * batch):
        positive = torch.exp(z[i] @ z[(i + batch) % (2 * batch)] / temperature)
        others = sum(torch.exp(z[i] @ z[j] / temperature) for j in range(2 * batch) if j != i)
        total = total - torch.log(positive / others)
    return total / (2 * batch)


def multi_view_loop(views, temperature):
    z, batch = torch.cat(views), len(views[0])
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j % batch != i % batch]
        negatives = sum(torch.exp(z[i] @ z[j] / temperature) for j in others)
        for p in range(i % batch, len(z), batch):
            if p != i:
                positive = torch.exp(z[i] @ z[p] / temperature)
                losses.append(-torch.log(positive / (positive + negatives)))
    return sum(losses) / len(losses)


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


@pytest.mark.parametrize("count", [2, 3, 4])
def test_info_nce_of_any_number_of_views_equals_a_loop(count):
    z = directions(count, 5, 6).requires_grad_()
    expected = multi_view_loop(list(z), 0.2)
    value = info_nce(z[0], z[1], 0.2, more_views=z[2:])
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


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
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 0, 1, 2, 2, 3, 0])
    expected = torch.stack([sup_con(part, labels, 0.2) for part in z]).mean()
    torch.testing.assert_close(sup_con(z, labels, 0.2), expected)


def test_weights_of_the_anchors_reach_the_gradient():
    z = directions(2, 6, 5).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 3]).repeat(2)
    weights = torch.rand(12, dtype=torch.float64)
    losses, is_anchor = sup_con_anchors(z.flatten(0, 1), labels, 0.2)
    assert is_anchor.all()
    assert torch.autograd.gradcheck(
        lambda z: (sup_con_anchors(z.flatten(0, 1), labels, 0.2)[0] * weights).sum(), z
    )
    assert torch.autograd.gradcheck(
        lambda z: (info_nce_anchors(z, 0.2).flatten() * weights).sum(), z
    )
    torch.testing.assert_close(losses.mean(), sup_con(z.flatten(0, 1), labels, 0.2))


def test_second_derivatives():
    z = directions(2, 6, 5).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 3]).repeat(2)
    assert torch.autograd.gradgradcheck(lambda z: info_nce(z[0], z[1], 0.5), z)
    assert torch.autograd.gradgradcheck(lambda z: sup_con(z.flatten(0, 1), labels, 0.5), z)
    gradient = torch.func.grad(lambda z: info_nce(z[0], z[1], 0.5))(z.detach())
    expected = torch.autograd.grad(info_nce(z[0], z[1], 0.5), z)[0]
    torch.testing.assert_close(gradient, expected)


def test_long_vectors_are_computed_with_a_wider_range_or_refused():
    z = 3 * directions(12, 5, dtype=torch.float32)
    value = info_nce(z[:6], z[6:], 0.05)  # inner products up to 180
    assert value.dtype == torch.float32
    expected = info_nce_loop(z[:6].double(), z[6:].double(), 0.05)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    with pytest.raises(
        ValueError, match=r"inner products up to 9, too large for temperature 0\.001"
    ):
        info_nce(z[:6], z[6:], 0.001)


def test_a_lone_pair_of_a_class_has_nothing_to_lose():
    z = directions(2, 5).requires_grad_()
    value = sup_con(z, torch.tensor([1, 1]), 0.1)
    assert value < 1e-300
    assert torch.autograd.grad(value, z)[0].norm() < 1e-300


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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
    with pytest.raises(ValueError, match=r"labels must be integers, got torch.float32"):
        sup_con(z, torch.zeros(8), 0.1)
    with pytest.raises(ValueError, match=r"z1 and z3 must have the same shape"):
        info_nce(z[:4], z[4:], 0.1, more_views=[z[:3]])
    with pytest.raises(ValueError, match="at least 2 views"):
        info_nce_anchors(z, 0.1)
    z[3, 1], z[5, 0] = torch.nan, torch.inf
    for loss in (lambda: info_nce(z[:4], z[4:], 0.1), lambda: sup_con(z, torch.arange(8) % 2, 0.1)):
        with pytest.raises(ValueError, match="z must be finite, got 2 of 8 embeddings"):
            loss()


def sup_con_inside_loop(z, labels, temperature):
    losses = []
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        others = sum(torch.exp(z[i] @ z[a] / temperature) for a in range(len(z)) if a != i)
        if positives:
            shares = [torch.exp(z[i] @ z[p] / temperature) / others for p in positives]
            losses.append(-torch.log(sum(shares) / len(positives)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_sup_con_averaged_inside_equals_a_loop_over_anchors(temperature):
    z = directions(12, 5).requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 0, 1, 2, 2, 3, 0])  # class 3 has no pair
    expected = sup_con_inside_loop(z, labels, temperature)
    value = sup_con(z, labels, temperature, average="inside")
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


def test_of_pairs_both_averages_are_the_same_and_inside_is_never_larger():
    z, pairs = directions(16, 7), torch.arange(8).repeat(2)
    outside, inside = (sup_con(z, pairs, 0.1, average=a) for a in ("outside", "inside"))
    assert torch.equal(outside, inside)
    labels = torch.arange(16) % 3
    assert sup_con(z, labels, 0.1, average="inside") < sup_con(z, labels, 0.1)
    with pytest.raises(ValueError, match="average must be 'outside' or 'inside', got 'mean'"):
        sup_con(z, labels, 0.1, average="mean")
