"""InfoNCE, SupCon and VarCon against the papers' formulas, at every temperature and precision."""

import math
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from probcl.objectives import info_nce, sup_con, varcon

VIEWS, ITEMS, CLASSES, DIM = 2, 32, 6, 32
BY_CLASS, BY_IMAGE = torch.arange(ITEMS) % CLASSES, torch.arange(ITEMS)
TEMPERATURES = [1.0, 0.5, 0.1, 0.05, 0.02, 0.01]

# Each is a function of z, labels, temperature and epsilon, and returns one loss for each anchor.
OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "info_nce": lambda z, y, t, e: info_nce(z, t, reduction="none"),
    "sup_con": lambda z, y, t, e: sup_con(z, y, t, reduction="none"),
    "sup_con, inside": lambda z, y, t, e: sup_con(z, y, t, average="inside", reduction="none"),
    "varcon": lambda z, y, t, e: varcon(z, y, t, epsilon=e, reduction="none"),
}
ORACLES: dict[str, Callable[..., Tensor]] = {
    "info_nce": lambda z, y, t, e: info_nce_terms(z, t),
    "sup_con": lambda z, y, t, e: sup_con_terms(z, y, t),
    "sup_con, inside": lambda z, y, t, e: sup_con_terms(z, y, t, "inside"),
    "varcon": lambda z, y, t, e: varcon_terms(z, y, t, e),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def directions(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return normalize(z, dim=-1).to(dtype)


def log_shares(logits: Tensor, others: Tensor) -> Tensor:
    """Return ``-log(exp(s_ip) / (exp(s_ip) + sum_a exp(s_ia)))`` over the others ``a != p``.

    With ``log1p`` of each ratio, a value near zero keeps its digits.
    """
    ratios = torch.exp(logits[:, None] - logits[:, :, None])
    apart = ~torch.eye(len(logits), dtype=torch.bool)
    return torch.log1p((ratios * (others[:, None] & apart)).sum(-1))


def info_nce_terms(z: Tensor, temperature: Tensor) -> Tensor:
    flat, image = z.flatten(0, 1), torch.arange(z.shape[1]).repeat(len(z))
    same = image[:, None] == image
    shares = log_shares(flat @ flat.T / temperature, ~same)
    positive = same.fill_diagonal_(False)
    return ((shares * positive).sum(1) / positive.sum(1)).view(z.shape[:2])


def sup_con_terms(
    z: Tensor, labels: Tensor, temperature: Tensor, average: str = "outside"
) -> Tensor:
    flat, labels = z.flatten(0, 1), labels.repeat(len(z))
    itself = torch.eye(len(flat), dtype=torch.bool)
    positive = (labels[:, None] == labels) & ~itself
    shares = log_shares(flat @ flat.T / temperature, ~itself)
    count = positive.sum(1).clamp(min=1)
    losses = (shares * positive).sum(1) / count
    if average == "inside":
        inside = (torch.exp(-shares) * positive).sum(1) / count
        losses = torch.where(count > 1, -inside.where(count > 1, 1.0).log(), losses)
    return losses.view(z.shape[:2])


def varcon_terms(z: Tensor, labels: Tensor, temperature: Tensor, epsilon: Tensor) -> Tensor:
    """Equations 7-13 of Wang et al. (2025), by the logarithms of p and q."""
    flat, labels = z.flatten(0, 1), labels.repeat(len(z))
    own = labels[:, None] == labels.unique()
    w = normalize(own.T.to(z.dtype) @ flat, dim=1).detach()
    s = flat @ w.T / temperature
    below = s - (s * own).sum(1, keepdim=True)  # of the logit of the own class
    log_p = -torch.log1p((below.exp() * ~own).sum(1))
    tau2 = (temperature - epsilon) + 2 * epsilon * log_p.exp()
    log_q = -torch.log1p((own.shape[1] - 1) * torch.exp(-1 / tau2))
    others = log_q - 1 / tau2  # log q of each other class
    rest = (others.exp()[:, None] * (others[:, None] - log_p[:, None] - below) * ~own).sum(1)
    return (log_q.exp() * (log_q - log_p) + rest - log_p).view(z.shape[:2])


def gradients(losses: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Differentiate the anchors' losses, each with a weight of its own."""
    weights = torch.rand(losses.shape, generator=torch.Generator().manual_seed(5)).to(losses)
    return list(torch.autograd.grad((losses * weights).sum(), inputs, materialize_grads=True))


@every_objective
@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_values_and_gradients_are_those_of_the_formula(name, temperature, views):
    z = directions(max(views, 2) if name == "info_nce" else views, 7, 5)
    labels = torch.tensor([0, 1, 0, 2, 0, 1, 3])  # of one view, two classes have no pair
    inputs = [z, torch.tensor(temperature), torch.tensor(0.3 * temperature)]
    inputs = [x.double().requires_grad_() for x in inputs]
    ours, theirs = (f[name](inputs[0], labels, *inputs[1:]) for f in (OBJECTIVES, ORACLES))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(
        gradients(ours, inputs), gradients(theirs, inputs), rtol=1e-10, atol=1e-12
    )


@every_objective
def test_the_mean_is_over_anchors_with_a_positive_and_leading_dimensions(name):
    z, labels = directions(3, 2, 2, 6, 5), torch.tensor([0, 1, 2, 0, 1, 3])
    options = {} if name == "info_nce" else {"labels": labels}
    if name == "sup_con, inside":
        options["average"] = "inside"
    objective = partial(globals()[name.split(",")[0]], temperature=0.2, **options)
    losses = objective(z, reduction="none")
    each = torch.stack([objective(part, reduction="none") for part in z.flatten(0, 1)])
    torch.testing.assert_close(losses, each.view(3, 2, 2, 6), rtol=1e-12, atol=0)
    torch.testing.assert_close(objective(z), losses.mean(), rtol=1e-12, atol=0)
    if name.startswith("sup_con"):
        one_view = z[..., :1, :, :]
        losses = objective(one_view, reduction="none")
        assert ((losses == 0) == torch.tensor([False, False, True, False, False, True])).all()
        mean = losses[..., [0, 1, 3, 4]].mean()
        torch.testing.assert_close(objective(one_view), mean, rtol=1e-12, atol=0)


def of_temperature(name: str, z: Tensor, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, e: OBJECTIVES[name](z, labels, t, e).sum()


@every_objective
@pytest.mark.parametrize("temperature", [0.5, 0.02])
def test_derivatives_for_the_temperature_are_finite_differences(name, temperature):
    z, labels = directions(2, 4, 3), torch.tensor([0, 1, 0, 0])
    learned = [torch.tensor(t).double().requires_grad_() for t in (temperature, temperature / 5)]
    loss = of_temperature(name, z, labels)
    tolerance = {"eps": 1e-6 * temperature, "atol": 1e-5, "rtol": 1e-4}
    assert torch.autograd.gradcheck(loss, learned, **tolerance)
    assert torch.autograd.gradgradcheck(loss, learned, **tolerance)


@pytest.mark.parametrize("name", ["info_nce", "sup_con", "sup_con, inside"])
def test_derivatives_for_the_embeddings_are_finite_differences(name):
    """Mixed ones too; those of VarCon, whose centroids are constants, have their own test."""
    x = directions(2, 2, 4, 3).requires_grad_()
    labels, t = torch.tensor([0, 1, 0, 0]), torch.tensor(0.5).double().requires_grad_()

    def loss(x, t):
        return OBJECTIVES[name](normalize(x, dim=-1), labels, t, 0.1).square().sum()

    assert torch.autograd.gradcheck(loss, (x, t))
    assert torch.autograd.gradgradcheck(loss, (x, t))
    expected = torch.autograd.grad(loss(x, t), x)[0]
    torch.testing.assert_close(torch.func.grad(loss)(x.detach(), t.detach()), expected)


@cache
def embeddings(features: str, labels: str, dtype: torch.dtype) -> Tensor:
    """Unit vectors; separated ones are close to the axis of their image or class."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(VIEWS, ITEMS, DIM, generator=generator, dtype=torch.float64)
    axes = torch.randn(ITEMS, DIM, generator=generator, dtype=torch.float64)
    centres = normalize(axes, dim=-1)[BY_CLASS if labels == "class" else BY_IMAGE]
    if features == "separated":
        noise = centres + 0.5 * noise / math.sqrt(DIM)
    return normalize(noise, dim=-1).to(dtype)


SETTINGS = {
    "info_nce": ("info_nce", "image", 0.0),
    "sup_con": ("sup_con", "class", 0.0),
    "sup_con of pairs": ("sup_con", "image", 0.0),
    "varcon": ("varcon", "class", 0.2),
    "varcon of pairs": ("varcon", "image", 1.0),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("features", ["random", "separated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_low_precision_keeps_its_digits(setting, features, dtype, temperature):
    name, by, share = SETTINGS[setting]
    labels = BY_CLASS if by == "class" else BY_IMAGE
    z = embeddings(features, by, dtype)
    learned = torch.tensor(temperature)

    def derivatives(table, z, t, autocast=False):
        z, t = z.clone().requires_grad_(), t.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = table[name](z, labels, t, share * t.detach()).mean()
        return value, *torch.autograd.grad(value, [z, t])

    expected = derivatives(ORACLES, z.double(), learned.double())
    for autocast in (False, True):
        value, gradient, slope = derivatives(OBJECTIVES, z, learned, autocast)
        assert value.dtype == torch.float32
        # Rounding a cosine moves a logit by 6e-8 / temperature.
        bar = 1e-5 * max(1, 0.02 / temperature)
        assert abs(value.double() - expected[0]) <= bar * expected[0]
        error = (gradient.double() - expected[1]).norm()
        # A gradient below the smallest number of the precision is zero in it.
        smallest = torch.finfo(dtype).tiny * math.sqrt(z.numel())
        bar = 1e-5 if dtype == torch.float32 else 1e-2
        assert error <= bar * expected[1].norm() + smallest
        assert abs(slope.double() - expected[2]) <= 2e-5 * abs(expected[2])


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02, 0.0141])
def test_a_scaled_loss_has_the_scaled_gradient(temperature, scale):
    """Even of near-collapsed embeddings: a power of two changes no digit, unless one is lost."""
    axis = torch.randn(1, DIM, generator=torch.Generator().manual_seed(0))
    z = normalize(axis + 0.02 * embeddings("random", "class", torch.float32), dim=-1)
    for name in ("info_nce", "sup_con"):
        leaf = z.clone().requires_grad_()
        value = OBJECTIVES[name](leaf, BY_CLASS, temperature, 0.0).mean()
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        (scaled,) = torch.autograd.grad(scale * value, leaf)
        assert (scaled / scale - gradient).norm() <= 1e-6 * gradient.norm()


@pytest.mark.parametrize("name", ["info_nce", "sup_con"])
def test_a_batch_of_many_tiles_equals_the_dense_form(name):
    z = directions(2, 750, 6).requires_grad_()
    images = torch.arange(750)
    flat, labels = z.flatten(0, 1), (images if name == "info_nce" else images % 7)
    positive = labels.repeat(2)[:, None] == labels.repeat(2)
    logits = flat @ flat.T / 0.1
    logits = logits.masked_fill(torch.eye(1500, dtype=torch.bool), -torch.inf)
    shares = logits.log_softmax(1).masked_fill(~positive.fill_diagonal_(False), 0)
    expected = (-shares.sum(1) / positive.sum(1)).view(2, 750)
    value = OBJECTIVES[name](z, labels, 0.1, 0.0)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        gradients(value, [z]), gradients(expected, [z]), rtol=1e-9, atol=1e-12
    )


def test_sup_con_of_pairs_is_info_nce_with_either_average():
    z, labels = directions(2, 8, 7), torch.arange(8)
    outside, inside = (sup_con(z, labels, 0.1, average=a) for a in ("outside", "inside"))
    torch.testing.assert_close(outside, info_nce(z, 0.1))
    assert torch.equal(outside, inside)
    assert sup_con(z, labels % 3, 0.1, average="inside") < sup_con(z, labels % 3, 0.1)


def test_a_lone_pair_of_a_class_has_nothing_to_lose():
    z = directions(2, 1, 5).requires_grad_()
    value = sup_con(z, torch.tensor([1]), 0.1)
    assert value < 1e-300
    assert torch.autograd.grad(value, z)[0].norm() < 1e-300


def test_info_nce_compiles_to_one_graph():
    compiled = torch.compile(info_nce, backend="eager", fullgraph=True)
    for items in (6, 9):
        z = directions(2, items, 5).requires_grad_()
        values = [objective(z, 0.1) for objective in (compiled, info_nce)]
        torch.testing.assert_close(*values, rtol=1e-12, atol=0)
        torch.testing.assert_close(*(torch.autograd.grad(value, z) for value in values))


@settings(max_examples=15)
@given(batch=st.integers(2, 9), dim=st.integers(2, 8), seed=st.integers(0, 10**6))
def test_invariance_to_order_and_rotation(batch, dim, seed):
    z, labels = directions(2, batch, dim, seed=seed), torch.arange(batch) % 3
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(directions(dim, dim, seed=seed + 1))[0]
    for objective in OBJECTIVES.values():
        losses = objective(z, labels, 0.1, 0.05)
        for same in (
            objective(z.flip(0), labels, 0.1, 0.05).flip(0),
            objective(z[:, order], labels[order], 0.1, 0.05)[:, order.argsort()],
            objective(z @ rotation, 10 - labels, 0.1, 0.05),
        ):
            torch.testing.assert_close(same, losses, rtol=1e-9, atol=1e-12)
        assert (losses >= 0).all()


@every_objective
@pytest.mark.parametrize(
    ("dtype", "slightly_off"),
    [(torch.float64, 1e-9), (torch.float32, 1e-3), (torch.bfloat16, 0.05), (torch.float16, 0.05)],
)
def test_vectors_of_another_length_are_refused(name, dtype, slightly_off):
    z, labels = directions(2, 6, 64, dtype=dtype), torch.arange(6) % 3
    OBJECTIVES[name](z, labels, 0.1, 0.02)
    for factor in (5.0, 0.5, 0.0, 1 + slightly_off, 1 - slightly_off):
        longer = z.clone()
        longer[0, 3] *= factor
        with pytest.raises(
            ValueError, match=r"z must hold unit vectors, got a norm of .*normalize"
        ):
            OBJECTIVES[name](longer, labels, 0.1, 0.02)


@every_objective
def test_bad_input_is_named(name):
    z, labels, objective = directions(2, 4, 3), torch.arange(4) % 3, OBJECTIVES[name]
    for bad in (0, -1.0, float("nan"), torch.tensor(0.0)):
        with pytest.raises(ValueError, match=f"temperature must be .* above 0, got {float(bad):g}"):
            objective(z, labels, bad, 0.0)
    with pytest.raises(ValueError, match=r"temperature must be .* shape \(\), got shape \(2,\)"):
        objective(z, labels, torch.ones(2), 0.0)
    with pytest.raises(
        ValueError, match=r"z must have shape \(\*, V, B, d\) with V >= ., got \(4, 3"
    ):
        objective(z[0], labels, 0.1, 0.0)
    with pytest.raises(ValueError, match=r"at least one sample, got shape \(0, 2, 4, 3\)"):
        objective(z.expand(0, 2, 4, 3), labels, 0.1, 0.0)
    z[1, 2, 1], z[0, 0, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="z must be finite, got 2 of 8 embeddings"):
        objective(z, labels, 0.1, 0.0)


def test_bad_options_are_named():
    z, labels = directions(2, 4, 3), torch.arange(4)
    for objective in (lambda **x: info_nce(z, 0.1, **x), lambda **x: sup_con(z, labels, 0.1, **x)):
        with pytest.raises(ValueError, match="reduction must be 'mean' or 'none', got 'sum'"):
            objective(reduction="sum")
    with pytest.raises(ValueError, match="average must be 'outside' or 'inside', got 'mean'"):
        sup_con(z, labels, 0.1, average="mean")
    with pytest.raises(ValueError, match="B >= 2 images"):
        info_nce(z[:, :1], 0.1)
    with pytest.raises(ValueError, match="V >= 2, got"):
        info_nce(z[:1], 0.1)
    with pytest.raises(ValueError, match=r"temperature must be at least 0\.0024, got 0\.001"):
        info_nce(z, 0.001)
    for objective in (sup_con, varcon):
        with pytest.raises(ValueError, match=r"labels must have shape \(4,\)"):
            objective(z, labels[:-1], 0.1)
        with pytest.raises(ValueError, match=r"labels must be integers, got torch.float32"):
            objective(z, labels.float(), 0.1)
    with pytest.raises(ValueError, match="at least one class twice"):
        sup_con(z[:1], labels, 0.1)
