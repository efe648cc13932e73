"""VarCon against the paper's formulas: equation 7, and the gradients of its appendix C."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from probcl.objectives import varcon
from probcl.objectives.varcon import _losses, class_centroids, varcon_anchors

SETTINGS = [(0.1, 0.02), (0.5, 0.5), (0.05, 0.0), (0.02, 0.01), (1.0, 0.3)]
every_setting = pytest.mark.parametrize(("temperature", "epsilon"), SETTINGS)


def batch(count=30, dim=5, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=generator)
    return normalize(z, dim=-1), labels


def distributions(z, labels, temperature, epsilon):
    """Return p, q, tau2, the centroids and the row of each label, as written in the paper."""
    names = labels.unique()
    w = torch.stack([normalize(z[labels == name].sum(0), dim=0) for name in names]).detach()
    row = torch.tensor([names.tolist().index(label) for label in labels.tolist()])
    odds = torch.exp(z @ w.T / temperature)
    p = odds / odds.sum(1, keepdim=True)  # (8)
    tau2 = (temperature - epsilon) + 2 * epsilon * p[torch.arange(len(z)), row]  # (13)
    own = torch.nn.functional.one_hot(row, len(names))
    q = 1 + (torch.exp(1 / tau2)[:, None] - 1) * own  # (10-12)
    return p, q / q.sum(1, keepdim=True), tau2, w, row


def equation_7(z, labels, temperature, epsilon):
    p, q, _, _, row = distributions(z, labels, temperature, epsilon)
    divergence = (q * (q.log() - p.log())).sum(1)
    return (divergence - p[torch.arange(len(z)), row].log()).mean()


@every_setting
def test_equals_equation_7(temperature, epsilon):
    z, labels = batch()
    z.requires_grad_()
    epsilon = torch.tensor(epsilon, dtype=torch.float64, requires_grad=True)
    value = varcon(z, labels, temperature, epsilon)
    expected = equation_7(z, labels, temperature, epsilon)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    ours = torch.autograd.grad(value, [z, epsilon])
    theirs = torch.autograd.grad(expected, [z, epsilon])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@every_setting
def test_gradient_is_that_of_appendix_c1(temperature, epsilon):
    z, labels = batch(seed=1)
    p, q, tau2, w, row = distributions(z, labels, temperature, epsilon)
    anchors, own = torch.arange(len(z)), torch.nn.functional.one_hot(row, len(w)).bool()
    expected_centroid = p @ w
    of_log_p = (w - expected_centroid[:, None]) / temperature  # (28)
    of_tau2 = 2 * epsilon * p[anchors, row, None] * of_log_p[anchors, row]  # (21)
    exp = torch.exp(1 / tau2)
    slope = exp / (tau2.square() * (exp + len(w) - 1).square())
    of_q = torch.where(own, -(len(w) - 1) * slope[:, None], slope[:, None])  # (23, 24)
    ratio = (q.log() - p.log()) * of_q
    of_kl = ratio.sum(1, keepdim=True) * of_tau2 - (q[:, :, None] * of_log_p).sum(1)  # (20, 25)
    expected = of_kl - of_log_p[anchors, row]  # (30)
    tangent = expected - (expected * z).sum(1, keepdim=True) * z  # (32)

    z.requires_grad_()
    losses, _ = varcon_anchors(z, labels, temperature, epsilon)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10)
    through_norm = normalize(x := z.detach().clone().requires_grad_(), dim=-1)
    losses, _ = varcon_anchors(through_norm, labels, temperature, epsilon)
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    torch.testing.assert_close(gradient, tangent, rtol=1e-9, atol=1e-10)


@every_setting
def test_gradient_for_epsilon_is_that_of_appendix_c2(temperature, epsilon):
    z, labels = batch(seed=2)
    p, q, tau2, w, row = distributions(z, labels, temperature, epsilon)
    anchors, own = torch.arange(len(z)), torch.nn.functional.one_hot(row, len(w)).bool()
    exp = torch.exp(1 / tau2)
    slope = exp / (tau2.square() * (exp + len(w) - 1).square())  # (42, 43)
    of_q = torch.where(own, -(len(w) - 1) * slope[:, None], slope[:, None])
    of_tau2 = 2 * p[anchors, row] - 1  # (41)
    expected = (of_tau2 * ((q.log() - p.log()) * of_q).sum(1)).mean()  # (39, 46)

    learned = torch.tensor(epsilon, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(varcon(z, labels, temperature, learned), learned)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_second_derivatives():
    """The centroids are constants: the derivatives are those of the loss at the same ones."""
    z, labels = batch(8)
    centroids = class_centroids(z, labels)
    z.requires_grad_()

    def loss(z):
        return _losses(z, centroids, 0.5, 0.1).sum()

    assert torch.autograd.gradcheck(loss, z)
    assert torch.autograd.gradgradcheck(loss, z)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_target_temperature_of_zero_is_one_hot(dtype):
    w = torch.eye(3, dtype=dtype)
    z = torch.cat([w, w, -w[:1] - 1e-3])  # the last is as far as can be from its own class
    z = normalize(z, dim=-1).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    losses, _ = varcon_anchors(z, labels, 0.01, 0.01)
    centroids = class_centroids(z, labels)
    log_p = (z @ centroids.directions.T / 0.01).log_softmax(-1)[-1, 0]
    torch.testing.assert_close(losses[-1], -2 * log_p)
    assert torch.autograd.grad(losses.sum(), z)[0].isfinite().all()


def test_any_integers_are_labels_and_absent_classes_do_not_count():
    z, labels = batch()
    names = torch.tensor([-7, 10**12, 3, 99])
    torch.testing.assert_close(
        varcon(z, names[labels], 0.1, 0.02), varcon(z, labels, 0.1, 0.02), rtol=1e-12, atol=0
    )


def test_a_batch_of_one_class_or_one_embedding_has_no_loss():
    z, _ = batch(4)
    z.requires_grad_()
    for count in (4, 1):
        value = varcon(z[:count], torch.zeros(count, dtype=torch.long), 0.1, 0.02)
        assert value == 0
        assert (torch.autograd.grad(value, z)[0] == 0).all()


def test_leading_dimensions_have_centroids_of_their_own():
    z, labels = batch(36)
    parts, labels = z.unflatten(0, (3, 12)), labels[:12]
    expected = torch.stack([varcon(part, labels, 0.1, 0.02) for part in parts]).mean()
    torch.testing.assert_close(varcon(parts, labels, 0.1, 0.02), expected)


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(2, 12), dim=st.integers(2, 6), classes=st.integers(2, 5), seed=st.integers(0)
)
def test_invariance_to_order_rotation_and_names(count, dim, classes, seed):
    z, labels = batch(count, dim, classes, seed % 2**31)
    value = varcon(z, labels, 0.1, 0.05)
    order = torch.randperm(count)
    rotation = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))[0]
    for same in (
        varcon(z[order], labels[order], 0.1, 0.05),
        varcon(z @ rotation, labels, 0.1, 0.05),
        varcon(z, 10 - labels, 0.1, 0.05),
    ):
        torch.testing.assert_close(same, value, rtol=1e-9, atol=1e-12)
    assert value >= 0


def test_arguments_may_be_named_and_epsilon_a_parameter_at_its_end():
    z, labels = batch()
    epsilon = torch.nn.Parameter(torch.tensor(0.1))  # a rounding above 0.1
    value = varcon(z=z, labels=labels, temperature=0.1, epsilon=epsilon)
    torch.testing.assert_close(value, varcon(z, labels, 0.1, 0.1), rtol=1e-5, atol=0)


def test_bad_input_is_named():
    z, labels = batch()
    with pytest.raises(ValueError, match=r"epsilon must lie between 0 and temperature = 0.1, got"):
        varcon(z, labels, 0.1, 0.2)
    with pytest.raises(ValueError, match="epsilon must lie between 0 and temperature"):
        varcon(z, labels, 0.1, torch.tensor(-0.01))
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        varcon(z, labels, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"labels must have shape \(30,\)"):
        varcon(z, labels[:-1], 0.1, 0.02)
    with pytest.raises(ValueError, match=r"z must hold at least one embedding, got shape \(0, 5\)"):
        varcon(z[:0], labels[:0], 0.1, 0.02)
    z[0, 0] = torch.nan
    with pytest.raises(ValueError, match="z must be finite, got 1 of 30 embeddings"):
        varcon(z, labels, 0.1, 0.02)
