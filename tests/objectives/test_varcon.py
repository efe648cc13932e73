"""VarCon against the gradients of the paper's appendix C, and what is its own."""

import pytest
import torch
from torch.nn.functional import normalize

from probcl.objectives import varcon
from probcl.objectives.collectives import number_classes
from probcl.objectives.varcon import _losses, adaptive_target, class_centroids

SETTINGS = [(0.1, 0.02), (0.5, 0.5), (0.05, 0.0), (0.02, 0.01), (1.0, 0.3)]
every_setting = pytest.mark.parametrize(("temperature", "epsilon"), SETTINGS)


def batch(count=30, dim=5, classes=4, seed=0):
    """One view of as many images, ``(1, N, d)``."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(1, count, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (count,), generator=generator)
    return normalize(z, dim=-1), labels


@pytest.mark.parametrize("labels", [
    [3, 1, 3, 7, 1], [0], [], [-5, -5, 2], [2**62, -(2**62), 5, 5], [2**63 - 1, 2**63 - 2],
])  # fmt: skip
def test_classes_are_numbered_as_unique_does(labels):
    labels = torch.tensor(labels, dtype=torch.long)
    names, numbers = labels.unique(return_inverse=True)
    found = number_classes(labels)
    assert torch.equal(found[0], names)
    assert torch.equal(found[1], numbers)


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


@every_setting
def test_gradient_is_that_of_appendix_c1(temperature, epsilon):
    z, labels = batch(seed=1)
    p, q, tau2, w, row = distributions(z[0], labels, temperature, epsilon)
    anchors, own = torch.arange(len(p)), torch.nn.functional.one_hot(row, len(w)).bool()
    expected_centroid = p @ w
    of_log_p = (w - expected_centroid[:, None]) / temperature  # (28)
    of_tau2 = 2 * epsilon * p[anchors, row, None] * of_log_p[anchors, row]  # (21)
    exp = torch.exp(1 / tau2)
    slope = exp / (tau2.square() * (exp + len(w) - 1).square())
    of_q = torch.where(own, -(len(w) - 1) * slope[:, None], slope[:, None])  # (23, 24)
    ratio = (q.log() - p.log()) * of_q
    of_kl = ratio.sum(1, keepdim=True) * of_tau2 - (q[:, :, None] * of_log_p).sum(1)  # (20, 25)
    expected = of_kl - of_log_p[anchors, row]  # (30)
    tangent = expected - (expected * z[0]).sum(1, keepdim=True) * z[0]  # (32)

    through_norm = normalize(x := z.clone().requires_grad_(), dim=-1)
    losses = varcon(through_norm, labels, temperature, epsilon=epsilon, reduction="none")
    for inputs, gradient in ((through_norm, expected), (x, tangent)):
        (ours,) = torch.autograd.grad(losses.sum(), inputs, retain_graph=True)
        torch.testing.assert_close(ours[0], gradient, rtol=1e-9, atol=1e-10)


@every_setting
def test_gradient_for_epsilon_is_that_of_appendix_c2(temperature, epsilon):
    z, labels = batch(seed=2)
    p, q, tau2, w, row = distributions(z[0], labels, temperature, epsilon)
    anchors, own = torch.arange(len(p)), torch.nn.functional.one_hot(row, len(w)).bool()
    exp = torch.exp(1 / tau2)
    slope = exp / (tau2.square() * (exp + len(w) - 1).square())  # (42, 43)
    of_q = torch.where(own, -(len(w) - 1) * slope[:, None], slope[:, None])
    of_tau2 = 2 * p[anchors, row] - 1  # (41)
    expected = (of_tau2 * ((q.log() - p.log()) * of_q).sum(1)).mean()  # (39, 46)

    learned = torch.tensor(epsilon, dtype=torch.float64, requires_grad=True)
    value = varcon(z, labels, temperature, epsilon=learned)
    (gradient,) = torch.autograd.grad(value, learned)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_second_derivatives():
    """The centroids are constants: the derivatives are those of the loss at the same ones."""
    z, labels = batch(8)
    centroids = class_centroids(z[0], labels)
    inputs = [z[0], torch.tensor(0.5).double(), torch.tensor(0.1).double()]
    inputs = [x.requires_grad_() for x in inputs]

    def loss(z, temperature, epsilon):
        return _losses(z, centroids, temperature, epsilon).sum()

    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_target_temperature_of_zero_is_one_hot(dtype):
    w = torch.eye(3, dtype=dtype)
    z = torch.cat([w, w, -w[:1] - 1e-3])  # the last is as far as can be from its own class
    z = normalize(z, dim=-1)[None].requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    losses = varcon(z, labels, 0.01, epsilon=0.01, reduction="none")
    centroids = class_centroids(z[0], labels)
    log_p = (z[0] @ centroids.directions.T / 0.01).log_softmax(-1)[-1, 0]
    torch.testing.assert_close(losses[0, -1], -2 * log_p)
    assert torch.autograd.grad(losses.sum(), z)[0].isfinite().all()


def test_any_integers_are_labels_and_absent_classes_do_not_count():
    z, labels = batch()
    names = torch.tensor([-7, 10**12, 3, 99])
    torch.testing.assert_close(
        varcon(z, names[labels], 0.1), varcon(z, labels, 0.1), rtol=1e-12, atol=0
    )


def test_a_batch_of_one_class_or_one_embedding_has_no_loss():
    z, _ = batch(4)
    z.requires_grad_()
    learned = [torch.tensor(x, requires_grad=True) for x in (0.1, 0.02)]
    for count in (4, 1):
        labels = torch.zeros(count, dtype=torch.long)
        value = varcon(z[:, :count], labels, learned[0], epsilon=learned[1])
        assert value == 0
        assert all((grad == 0).all() for grad in torch.autograd.grad(value, [z, *learned]))


def test_arguments_may_be_named_and_epsilon_a_parameter_at_its_end():
    z, labels = batch()
    epsilon = torch.nn.Parameter(torch.tensor(0.1))  # a rounding above 0.1
    value = varcon(z=z, labels=labels, temperature=0.1, epsilon=epsilon)
    torch.testing.assert_close(value, varcon(z, labels, 0.1, epsilon=0.1), rtol=1e-5, atol=0)


def test_bad_input_is_named():
    z, labels = batch()
    with pytest.raises(ValueError, match=r"epsilon must lie between 0 and temperature = 0.1, got"):
        varcon(z, labels, 0.1, epsilon=0.2)
    with pytest.raises(ValueError, match="epsilon must lie between 0 and temperature"):
        varcon(z, labels, 0.1, epsilon=torch.tensor(-0.01))
    with pytest.raises(ValueError, match=r"epsilon must be a number or .*got shape \(2,\)"):
        varcon(z, labels, 0.1, epsilon=torch.tensor([0.01, 0.02]))
    with pytest.raises(ValueError, match=r"z must hold at least one embedding, got shape \(0, 5\)"):
        varcon(z[:, :0], labels[:0], 0.1)


@every_setting
def test_the_adaptive_target_is_that_of_the_paper(temperature, epsilon):
    z, labels = batch()
    p, q, tau2, _, row = distributions(z[0], labels, temperature, epsilon)
    log_q, found = adaptive_target(p.log(), row, temperature, epsilon)
    torch.testing.assert_close(found, tau2)
    torch.testing.assert_close(log_q.exp(), q)
