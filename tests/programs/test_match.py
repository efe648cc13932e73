"""Match is SupCon for the embedding, and what it says of matches is written by hand here."""

import copy
import math

import pyro
import pytest
import torch
from lightning.pytorch import Trainer
from pyro.infer import Trace_ELBO
from torch import nn
from torch.nn.functional import binary_cross_entropy

from probcl.infer import ContrastiveELBO
from probcl.nn import MLP, ConvNet
from probcl.programs import Match, SupCon
from probcl.training import ContrastiveModule, Named

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def batches(count, size=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 2, size, 1, 8, 8, generator=generator).to(dtype)


def made(kind=Match, encoder=None, **options):
    """Return a program, its encoder and projection the same for every kind."""
    pyro.set_rng_seed(3)
    options = ({"memory": 20} if kind is Match else {}) | options
    program = kind(ConvNet((4, 8)) if encoder is None else encoder, MLP(5, 16), **options)
    program.materialize(batches(1)[0, 0])
    return program


def loss_of(program):
    return ContrastiveELBO()(program.model, program.guide)


def step(program, optimizer, views, *given):
    optimizer.zero_grad()
    loss = loss_of(program)(views, *given)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(program, views, optimizer=None):
    optimizer = optimizer or torch.optim.AdamW(program.parameters(), lr=0.01)
    for batch in views:
        step(program, optimizer, batch, LABELS)
    return optimizer


def standardised(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()


def by_hand(program, views, labels):
    """Return the match term, pair by pair, of a program that has items in its memory."""
    memory, head = program.memory, program.posterior_head
    filled = int((memory.length > 0).sum())
    total = torch.zeros(())
    for view in views:
        features = program.encoder(view).detach()
        z = program(view).mean_direction.detach()
        seen = torch.cat([standardised(features), standardised(z)], -1)
        logits = head.perceptron(seen)[:, 0]
        for i, logit in enumerate(logits):
            cosines = torch.stack([z[i] @ memory.embedding[j] for j in range(filled)])
            for j in cosines.argsort(descending=True)[: program.neighbours].tolist():
                rho = 1 / (1 + (-2 - logit).exp())
                g = torch.sigmoid(program.link.shift + program.link.log_slope.exp() * cosines[j])
                same = (labels[i] == memory.label[j]).to(rho)
                total = total + binary_cross_entropy(rho * memory.length[j] * g, same)
    return total / (len(views) * len(labels) * program.neighbours)


# The embedding.


@pytest.mark.parametrize("options", [{}, {"average": "inside"}, {"learn_temperature": True}])
def test_the_embedding_is_that_of_supcon_bit_for_bit(options):
    ours, theirs = made(**options), made(SupCon, **options)
    rates = [torch.optim.AdamW(program.parameters(), lr=0.01) for program in (ours, theirs)]
    for views in batches(4):
        step(ours, rates[0], views, LABELS)
        step(theirs, rates[1], views, LABELS)
        others = dict(ours.named_parameters())
        for name, parameter in theirs.named_parameters():
            assert torch.equal(parameter.grad, others[name].grad), name
            assert torch.equal(parameter, others[name]), name
    assert ours.memory.length.count_nonzero() == 20
    images = batches(1)[0, 0]
    ours, theirs = (each.eval()(images).mean_direction for each in (ours, theirs))
    assert torch.equal(ours, theirs)


def test_the_match_term_has_no_gradient_but_for_the_perceptron_and_the_link():
    program = made()
    train(program, batches(2))
    terms = loss_of(program).terms(batches(1)[0], LABELS)
    assert terms["match"] > 0
    names, parameters = zip(*program.named_parameters(), strict=True)
    gradients = torch.autograd.grad(terms["match"], parameters, allow_unused=True)
    reached = {n for n, g in zip(names, gradients, strict=True) if g is not None}
    assert reached == {n for n in names if "perceptron" in n or n.startswith("link")}
    assert all(g.abs().sum() > 0 for g in gradients if g is not None)


def test_making_one_draws_what_supcon_draws():
    states = []
    for kind in (SupCon, Match):
        torch.manual_seed(5)
        kind(nn.Flatten(), MLP(5, 16))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


# The match likelihood.


@pytest.mark.parametrize("count", [1, 4])  # batches before, so few items or a memory that is full
def test_the_match_term_is_the_cross_entropy_written_by_hand(dtype, count):
    program = made(neighbours=4)
    program.to(dtype)
    train(program, batches(count, dtype=dtype))
    views = batches(count + 1, dtype=dtype)[-1]
    learned = [*program.posterior_head.perceptron.parameters(), *program.link.parameters()]
    program.eval()
    expected = by_hand(program, views, LABELS)
    ours = loss_of(program).terms(views, LABELS)["match"]
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected.to(dtype))
    gradients = [torch.autograd.grad(loss, learned) for loss in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_stock_pyro_gives_the_same_loss():
    program = made()
    train(program, batches(2))
    views = batches(3)[-1]
    program.eval()
    ours = loss_of(program)(views, LABELS).item()
    theirs = Trace_ELBO().loss(program.model, program.guide, views, LABELS)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_of_a_memory_that_is_not_filled_only_what_is_there_counts():
    program = made(neighbours=5)
    views = batches(1, size=3)[0]
    labels = torch.tensor([0, 1, 0])
    loss = loss_of(program)
    assert loss.terms(views, labels)["match"] == 0
    assert program.memory.length.count_nonzero() == 3
    program.eval()
    expected = by_hand(program, views, labels)
    torch.testing.assert_close(loss.terms(views, labels)["match"], expected)


def test_the_latest_first_views_take_the_places_of_the_oldest():
    program = made(encoder=nn.Flatten(), memory=10)
    kept = []
    for views, rows in zip(batches(3), torch.arange(18).split(6), strict=True):
        loss_of(program)(views, LABELS, rows)
        kept.append(program(views[0]))
    assert program.memory.row.tolist() == [10, 11, 12, 13, 14, 15, 16, 17, 8, 9]
    assert torch.equal(program.memory.label, LABELS.repeat(3)[program.memory.row])
    z = torch.cat([posterior.mean_direction for posterior in kept])
    length = torch.cat([posterior.mean_resultant_length for posterior in kept])
    torch.testing.assert_close(program.memory.embedding, z[program.memory.row])
    torch.testing.assert_close(program.memory.length, length[program.memory.row])


def test_an_image_is_not_compared_with_its_own_earlier_view():
    """A memory of the batch itself: every image's nearest item would be its own view."""
    program = made(encoder=nn.Flatten())
    views, rows = batches(1)[0], torch.arange(6)
    loss = loss_of(program)
    loss(views, LABELS, rows)
    program.eval()
    z = program(views[0]).mean_direction
    places, counts = program.memory.nearest(z, rows, 5)[1:]
    assert counts.all()
    assert not (places == rows[:, None]).any()
    assert (program.memory.nearest(z, None, 5)[1] == rows[:, None]).any(1).all()
    apart = [loss.terms(views, LABELS, given)["match"] for given in (rows, rows + 6)]
    assert apart[0] > apart[1]  # its own view always matches


def test_only_a_run_that_learns_adds_to_the_memory():
    program = made()
    with torch.no_grad():
        loss_of(program)(batches(1)[0], LABELS)
    loss_of(program.eval())(batches(1)[0], LABELS)
    assert not program.memory.length.any()


# The posterior.


def test_entropy_is_high_where_neighbours_do_not_match():
    """Half of the items have random labels, and a feature that tells."""
    generator = torch.Generator().manual_seed(0)

    def drawn(count):
        labels = torch.randint(2, (count,), generator=generator)
        doubtful = torch.arange(count) % 2 == 0
        x = torch.randn(count, 4, generator=generator)
        x[:, 0] += torch.where(doubtful, 0.0, 6.0 * labels - 3.0)
        x[:, 1] = doubtful * 2.0
        return x.view(-1, 1, 2, 2), labels, doubtful

    torch.manual_seed(0)
    program = Match(nn.Flatten(), MLP(3, 16), memory=256)
    program.materialize(drawn(1)[0])
    optimizer = torch.optim.AdamW(program.parameters(), lr=0.01)
    for _ in range(100):
        images, labels, _ = drawn(64)
        step(program, optimizer, images.expand(2, -1, -1, -1, -1), labels)
    images, _, doubtful = drawn(500)
    with torch.no_grad():
        entropy = program.eval()(images).entropy()
    above = entropy[doubtful][:, None] > entropy[~doubtful]
    assert above.float().mean() > 0.9


def test_the_posterior_has_the_length_and_its_gradient():
    program = made().double().eval()
    head, images = program.posterior_head, batches(1, dtype=torch.float64)[0, 0]
    features = program.encoder(images).detach()
    z = program(images).mean_direction.detach()
    length = head.resultant_length(features, z)
    torch.testing.assert_close(program(images).mean_resultant_length, length)
    bias = head.perceptron[-1].bias
    (exact,) = torch.autograd.grad(program(images).entropy().sum(), bias)
    sides = []
    for change in (1e-5, -1e-5):
        with torch.no_grad():
            bias.add_(change)
            sides.append(program(images).entropy().sum().item())
            bias.sub_(change)
    assert exact.item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5)


def test_match_probabilities_are_those_of_the_likelihood():
    program = made().eval()
    query, gallery = batches(2)[:, 0]
    ours = program.match_probability(query, gallery[:4])
    own, other = program(query), program(gallery[:4])
    rho = own.mean_resultant_length[:, None] * other.mean_resultant_length
    torch.testing.assert_close(ours, rho * program.link(own.loc @ other.loc.T))
    torch.testing.assert_close(program.match_probability(own, other), ours)
    assert ours.shape == (6, 4)


# Loops.


def test_a_training_goes_on_from_its_state_bit_for_bit():
    whole, first = made(), made()
    train(whole, batches(4))
    optimizer = train(first, batches(4)[:2])
    second = made()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed = torch.optim.AdamW(second.parameters(), lr=0.01)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(second, batches(4)[2:], resumed)
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())


@pytest.mark.slow
def test_a_compiled_encoder_trains_to_the_same_state():
    torch.compiler.reset()
    programs = made(), made()
    programs[0].encoder.compile(backend="eager")
    for program in programs:
        train(program, batches(3))
    ours, theirs = (program.state_dict() for program in programs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_low_precision():
    """All but the network is in single precision; a program may be in low precision as a whole."""
    program = made()
    optimizer = torch.optim.AdamW(program.parameters(), lr=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        for views in batches(3):
            assert math.isfinite(step(program, optimizer, views, LABELS))
        logit = program(batches(1)[0, 0]).mean_resultant_length.logit()
    assert logit.dtype == torch.float32
    assert (logit != logit.bfloat16()).all()  # their digits would tie
    program.bfloat16()
    loss = loss_of(program)(batches(1, dtype=torch.bfloat16)[0], LABELS)
    assert loss.isfinite()
    loss.backward()


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*number of training batches")
@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*no `val_dataloader`")
def test_lightning_tells_it_the_rows_and_trains_the_encoder_of_supcon():
    weights = []
    for kind in (SupCon, Match):
        torch.manual_seed(0)
        program = kind(nn.Sequential(nn.Flatten(), nn.LazyLinear(8)), MLP(5))
        data = Named("Digits", batch_size=256, monitored=0)
        Trainer(
            max_epochs=2, logger=False, enable_checkpointing=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        ).fit(ContrastiveModule(program), datamodule=data)  # fmt: skip
        weights.append(program.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    filled = program.memory.length > 0
    assert filled.sum() == 2 * 5 * 256
    rows = program.memory.row[filled]
    assert rows.min() >= 0
    assert len(rows.unique()) > 1280


# Bad input.


def test_settings_out_of_range_are_named():
    for options, message in (
        ({"memory": 4}, "memory must be .*5.*got 4"),
        ({"neighbours": 0}, "neighbours must be .*got 0"),
        ({"hidden": 0}, "hidden must be .*got 0"),
        ({"average": "mean"}, "average must be .*got 'mean'"),
        ({"temperature": 0.0}, "temperature must be .*got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Match(nn.Flatten(), MLP(5), **options)
    with pytest.raises(ValueError, match="Flatten has no attribute dim"):
        Match(nn.Flatten(), nn.Flatten())
