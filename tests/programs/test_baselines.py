"""The baselines against lightly's losses, loops written by hand, and what they must refuse."""

import re
import sys
from itertools import combinations, permutations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from torch import nn
from torch.nn.functional import log_softmax

from probcl.cli import main
from probcl.data import MultiCrop
from probcl.infer import ContrastiveELBO
from probcl.nn import MLP, ConvNet
from probcl.programs import BYOL, BarlowTwins, MoCo, SwAV, VICReg
from probcl.programs.ring import Ring
from probcl.sphere import normalize

REASON = "needs lightly: pip install 'probcl[baselines]'"
NAMES = ("MoCo", "BYOL", "SwAV", "VICReg", "BarlowTwins")
VIEWS = torch.rand(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=NAMES)
def program(request, make):
    return make(request.param)


def loss_of(program):
    return ContrastiveELBO()(program.model, program.guide)


def train(program, batches, optimizer=None):
    loss = loss_of(program)
    optimizer = optimizer or torch.optim.Adam(program.parameters(), lr=0.01)
    for views in batches:
        optimizer.zero_grad()
        loss(views).backward()
        optimizer.step()
    return optimizer


def batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(2, 6, 1, 8, 8, generator=generator) for _ in range(count)]


def state(program):
    return {name: value.clone() for name, value in program.state_dict().items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


# The losses.


def lightly_moco(program, z, targets):
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(program.temperature(), memory_bank_size=program.queue.keys.shape)
    pairs = []
    for v, w in permutations(range(len(z)), 2):
        loss.memory_bank.bank = program.queue.keys.clone()
        pairs.append(loss(z[v], targets[w]))
    return torch.stack(pairs).mean()


def lightly_byol(program, z, targets):
    from lightly.loss import NegativeCosineSimilarity

    predictions = program.predictor(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    pairs = permutations(range(len(z)), 2)
    cosines = [NegativeCosineSimilarity()(predictions[v], targets[w]) for v, w in pairs]
    return 2 + 2 * torch.stack(cosines).mean()


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("name", "theirs"), [("MoCo", lightly_moco), ("BYOL", lightly_byol)])
def test_value_and_gradient_are_those_of_lightlys_loss(make, name, theirs, count, dtype):
    pytest.importorskip("lightly", reason=REASON)
    program = make(name)
    program.materialize(VIEWS[0])
    train(program, batches(2))  # the target is another than the encoder
    program.to(dtype).eval()
    views = torch.rand(count, 6, 1, 8, 8, dtype=dtype)
    parameters = [p for p in program.parameters() if p.requires_grad]
    loss = loss_of(program)(views)
    assert loss.dtype == dtype
    z = program.project(program.encoder(views.flatten(0, 1))).unflatten(0, views.shape[:2])
    targets = program.target(views.flatten(0, 1)).unflatten(0, views.shape[:2])
    expected = theirs(program, z, targets)
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, parameters))


def moco_by_hand(q, k, queue, temperature):
    losses = []
    for v, w in permutations(range(len(q)), 2):
        for i in range(q.shape[1]):
            numerator = (q[v, i] @ k[w, i] / temperature).exp()
            denominator = sum(((q[v, i] @ n) / temperature).exp() for n in queue)
            losses.append(-(numerator / (numerator + denominator)).log())
    return torch.stack(losses).mean()


def test_moco_is_the_cross_entropy_over_its_queue(make):
    program = make("MoCo").double().eval()
    views = torch.rand(3, 6, 1, 8, 8, dtype=torch.float64)
    loss = loss_of(program)(views)
    embeddings = torch.stack([program(view).mean_direction for view in views])
    keys = torch.stack([normalize(program.target(view)) for view in views])
    torch.testing.assert_close(loss, moco_by_hand(embeddings, keys, program.queue.keys, 0.2))


def swav_by_hand(z, large, prototypes, temperature, epsilon, iterations):
    """Return the loss of cosines ``z``, a list of ``(B, K)`` of which the first are large."""
    losses = []
    for w in range(large):
        plan = (z[w] @ prototypes.T / epsilon).exp().detach()
        for _ in range(iterations):
            plan = plan / plan.sum(0, keepdim=True) / plan.shape[1]
            plan = plan / plan.sum(1, keepdim=True) / plan.shape[0]
        code = plan * len(plan)
        for v in range(len(z)):
            if v != w:
                log_p = log_softmax(z[v] @ prototypes.T / temperature, -1)
                losses.append(-(code * log_p).sum(-1).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("small", [0, 3])
def test_swav_is_the_swapped_prediction_written_by_hand(make, small, dtype):
    program = make("SwAV").to(dtype).eval()
    program.materialize(VIEWS[0].to(dtype))
    views = [torch.rand(6, 1, size, size, dtype=dtype) for size in [8] * 2 + [4] * small]
    loss = loss_of(program)(views)
    assert loss.dtype == dtype
    z = [program(view).mean_direction for view in views]
    expected = swav_by_hand(z, 2, program.prototypes, 0.1, 0.05, 3)
    parameters = list(program.parameters())
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, parameters))


def vicreg_by_hand(a, b):
    total = 25 * (a - b).square().mean()
    for z in (a, b):
        covariance = torch.cov(z.T)
        variances = covariance.diagonal()
        total = total + 12.5 * (1 - (variances + 1e-4).sqrt()).clamp(min=0).mean()
        total = total + (covariance.square().sum() - variances.square().sum()) / z.shape[1]
    return total


def barlow_by_hand(a, b):
    a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (a, b))
    loss = 0.0
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            correlation = (a[:, i] * b[:, j]).mean()
            loss = loss + ((1 - correlation) ** 2 if i == j else 0.005 * correlation**2)
    return loss


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    ("name", "by_hand"), [("VICReg", vicreg_by_hand), ("BarlowTwins", barlow_by_hand)]
)
def test_losses_of_the_batch_are_those_written_by_hand(make, name, by_hand, count, dtype):
    program = make(name).to(dtype).eval()
    views = torch.rand(count, 6, 1, 8, 8, dtype=dtype)
    loss = loss_of(program)(views)
    assert loss.dtype == dtype
    z = [program.project(program.encoder(view)) for view in views]
    expected = torch.stack([by_hand(a, b) for a, b in combinations(z, 2)]).mean()
    parameters = list(program.parameters())
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, parameters)
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {}
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, parameters), **tolerance)


# The target and the queue.


def test_the_target_follows_once_for_each_step(make):
    program = make("BYOL")
    program.materialize(VIEWS[0])
    averages = [p.detach().clone() for p in program._online().parameters()]
    optimizer = torch.optim.SGD(program.parameters(), lr=0.1)
    for views in batches(4):
        for average, value in zip(averages, program._online().parameters(), strict=True):
            average.mul_(0.9).add_(0.1 * value.detach())
        train(program, [views], optimizer)
        torch.testing.assert_close(list(program.target.parameters()), averages)
    assert not torch.equal(averages[0], program.encoder.layers[0].weight)


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (10, 4), (7, 7), (5, 9)])
def test_the_queue_holds_the_latest_keys(size, batch):
    queue = Ring(keys=torch.randn(size, 2))
    latest = [key.tolist() for key in queue.keys]
    for _ in range(5):
        keys = torch.randn(2 * batch, 2)
        queue.push(keys=keys)
        latest += keys.tolist()
        assert sorted(map(list, queue.keys.tolist())) == sorted(latest[-size:])


def test_the_queue_starts_with_random_directions(make):
    keys = make("MoCo").queue.keys
    torch.testing.assert_close(keys.norm(dim=-1), torch.ones(len(keys)))


def test_a_batch_meets_the_keys_that_came_before_its_own(make):
    program = make("MoCo").double()
    views = VIEWS.double()
    program.materialize(views[0])
    before = program.queue.keys.clone()
    loss = loss_of(program)(views)
    queries = normalize(program._project_views(views))
    keys = normalize(program.target(views.flatten(0, 1))).unflatten(0, (2, 6))
    torch.testing.assert_close(loss, moco_by_hand(queries, keys, before, 0.2))
    torch.testing.assert_close(program.queue.keys[:12], keys.transpose(0, 1).flatten(0, 1))
    assert torch.equal(program.queue.keys[12:], before[12:])
    assert program.queue.oldest == 12


@pytest.mark.parametrize("name", ["MoCo", "BYOL", "SwAV"])
def test_only_training_moves_anything(make, name):
    program = make(name)
    program.materialize(VIEWS[0])
    train(program, batches(2))
    before = state(program)
    program.eval()
    program(VIEWS[0])
    loss_of(program)(VIEWS).backward()
    program.materialize(VIEWS[0])
    assert_equal(before, state(program))
    program.train()
    ContrastiveELBO().loss(program.model, program.guide, VIEWS)  # without gradients
    # The statistics of batch normalisation move in training mode, as they always do.
    frozen = [name for name in before if "running" not in name and "num_batches" not in name]
    after = state(program)
    assert_equal({name: before[name] for name in frozen}, {name: after[name] for name in frozen})


@pytest.mark.parametrize("name", ["MoCo", "BYOL"])
def test_the_target_of_lazy_layers_starts_as_a_copy(make, name):
    program = make(name)
    program.materialize(VIEWS[0])
    ours = list(program.target.encoder.state_dict().values())
    theirs = list(program._online().state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not any(p.requires_grad for p in program.target.parameters())


def test_prototypes_stay_on_the_sphere(make):
    program = make("SwAV")
    for views in batches(3):
        train(program, [views])
        loss_of(program)(views)
        torch.testing.assert_close(program.prototypes.norm(dim=-1), torch.ones(7))


# As Pyro programs and torch modules.


def test_the_one_site_is_the_factor(program):
    trace = poutine.trace(program.model).get_trace(VIEWS)
    sites = [name for name, site in trace.nodes.items() if site["type"] == "sample"]
    assert set(sites) - {"views", "items"} == {"contrastive"}
    assert list(loss_of(program).terms(VIEWS)) == ["contrastive"]


def test_plain_svi_trains_it(program):
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.01}), ContrastiveELBO())
    losses = [svi.step(VIEWS) for _ in range(15)]
    assert torch.tensor(losses).isfinite().all()
    if not isinstance(program, MoCo):  # whose queue fills with the same images
        assert losses[-1] < losses[0]


def test_training_goes_on_from_its_state_bit_for_bit(program, make, tmp_path):
    optimizer = train(program, batches(3))
    kept = {"program": program.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(kept, tmp_path / "kept.pt")
    train(program, batches(3, seed=1), optimizer)
    kept = torch.load(tmp_path / "kept.pt", weights_only=True)
    resumed = make(type(program).__name__)  # whose lazy layers have no weights yet
    resumed.load_state_dict(kept["program"])
    optimizer = torch.optim.Adam(resumed.parameters(), lr=0.01)
    optimizer.load_state_dict(kept["optimizer"])
    train(resumed, batches(3, seed=1), optimizer)
    assert_equal(state(program), state(resumed))


def test_a_seed_settles_everything(program, make):
    twin = make(type(program).__name__)
    for each in (program, twin):
        pyro.set_rng_seed(4)
        train(each, batches(3))
    assert_equal(state(program), state(twin))


@pytest.mark.parametrize("name", ["MoCo", "SwAV"])
def test_the_command_trains_it(name, tmp_path, monkeypatch):
    pytest.importorskip("lightly", reason=REASON)
    monkeypatch.chdir(tmp_path)
    main(["fit", f"--model.program={name}", "--trainer.fast_dev_run=true", "--evaluate=false"])


# Views of several sizes.


def test_swav_takes_what_multi_crop_makes(make):
    program = make("SwAV")
    augment = MultiCrop(sizes=(8, 4), counts=(2, 3))
    images = torch.rand(6, 3, 16, 16)
    views = [augment.view(images, crop) for crop in augment.crops(0)]
    loss_of(program)(views).backward()
    program.eval()
    expected = loss_of(program)(views)
    torch.testing.assert_close(loss_of(program)(views[2:] + views[:2]), expected)


def test_swav_names_views_that_do_not_go_together(make):
    program = make("SwAV")
    loss = loss_of(program)
    for bad in (torch.rand(5, 1, 4, 4), torch.rand(6, 3, 4, 4)):
        with pytest.raises(ValueError, match="views may differ in height and width only"):
            loss([VIEWS[0], bad])
    with pytest.raises(ValueError, match=r"must hold an image, got \(0, 1, 8, 8\)"):
        loss([VIEWS[0, :0], torch.rand(0, 1, 4, 4)])


# Bad input.


@pytest.mark.parametrize("name", ["VICReg", "BarlowTwins"])
def test_a_batch_of_one_has_no_variance(make, name):
    with pytest.raises(ValueError, match="batch must hold B >= 2 images for its variance, got 1"):
        loss_of(make(name))(VIEWS[:, :1])


@pytest.mark.parametrize(
    ("kind", "setting", "message"),
    [
        (MoCo, {"temperature": 0.0}, "temperature must be a finite number above 0, got 0.0"),
        (MoCo, {"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        (MoCo, {"queue_size": 0}, "queue_size must be at least 1, got 0"),
        (BYOL, {"momentum": -0.1}, r"momentum must lie in \[0, 1\), got -0.1"),
        (SwAV, {"temperature": -1.0}, "temperature must be a finite number above 0, got -1.0"),
        (SwAV, {"num_prototypes": 1}, "num_prototypes must be at least 2, got 1"),
        (SwAV, {"sinkhorn_epsilon": 0.0}, "sinkhorn_epsilon must be a finite number above 0"),
        (SwAV, {"sinkhorn_iterations": 0}, "sinkhorn_iterations must be at least 1, got 0"),
        (VICReg, {"invariance_weight": -1.0}, "invariance_weight must be a finite number of at"),
        (VICReg, {"variance_weight": float("nan")}, "variance_weight must be a finite number"),
        (VICReg, {"covariance_weight": -1.0}, "covariance_weight must be a finite number of at"),
        (BarlowTwins, {"redundancy_weight": -1.0}, "redundancy_weight must be a finite number"),
        (BYOL, {"projection": nn.Identity()}, "Identity has no attribute dim"),
    ],
)
def test_bad_settings_are_named(kind, setting, message):
    if kind not in (MoCo, BYOL):
        pytest.importorskip("lightly", reason=REASON)
    with pytest.raises(ValueError, match=message):
        kind(ConvNet((4, 8)), **setting)


def test_a_predictor_of_another_dimension_is_named():
    program = BYOL(ConvNet((4, 8)), MLP(5, 16), MLP(1, 16))
    with pytest.raises(ValueError, match="predictor has dimension 1, the projection 5"):
        program.model(VIEWS)


@pytest.mark.parametrize("kind", [SwAV, VICReg, BarlowTwins])
def test_missing_lightly_is_named(kind, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lightly.loss", None)
    message = f"{kind.__name__} needs lightly: pip install 'probcl[baselines]'."
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(ConvNet((4, 8)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=re.escape(message)):
        main(["fit", f"--model.program={kind.__name__}"])


@pytest.mark.parametrize("name", ["MoCo", "BYOL"])
def test_the_others_do_without_lightly(make, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightly", None)
    assert loss_of(make(name))(VIEWS).isfinite()


@pytest.mark.parametrize("name", ["BYOL", "SwAV", "MoCo"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_any_precision_train(make, name, dtype):
    program = make(name)
    program.materialize(VIEWS[0])
    loss = loss_of(program.to(dtype))(VIEWS.to(dtype))
    loss.backward()
    assert loss.isfinite()
