"""ContrastiveELBO against stock Pyro objectives and the loss written out by hand."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from probcl.distributions import VonMisesFisher
from probcl.distributions.kl import gaussian_bound
from probcl.infer import ContrastiveELBO
from probcl.nn import ConvNet, ProjectedNormalHead
from probcl.objectives import info_nce
from probcl.programs import VSimCLR

VIEWS = torch.rand(2, 6, 1, 8, 8)


@pytest.fixture
def program():
    program = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16), temperature=0.2, beta=0.5)
    program.posterior(VIEWS[0])
    return program.eval()


class NormalPair(nn.Module):
    """A latent in two plates with a known divergence, as plain Pyro."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([[0.3], [-0.2]]))

    def model(self, data):
        with (
            pyro.plate("rows", 2, dim=-2),
            pyro.plate("columns", 3, dim=-1),
            pyro.poutine.scale(scale=0.25),
        ):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data)

    def guide(self, data):
        with (
            pyro.plate("rows", 2, dim=-2),
            pyro.plate("columns", 3, dim=-1),
            pyro.poutine.scale(scale=0.25),
        ):
            pyro.sample("z", dist.Normal(self.loc, 0.7))


class VonMisesFisherPrior(nn.Module):
    def forward(self):
        return VonMisesFisher(torch.eye(5)[0], 2.0)


def loss_and_gradient(elbo, pair, data, seed=0):
    pyro.set_rng_seed(seed)
    loss = elbo.differentiable_loss(pair.model, pair.guide, data)
    return loss, torch.autograd.grad(loss, pair.loc)[0]


@pytest.mark.parametrize(
    ("kl", "stock"), [("exact", TraceMeanField_ELBO()), ("monte_carlo", Trace_ELBO())]
)
def test_equals_the_stock_objective_at_the_same_sample(kl, stock):
    pair, data = NormalPair(), torch.randn(2, 3)
    value, gradient = loss_and_gradient(ContrastiveELBO(kl), pair, data)
    expected, expected_gradient = loss_and_gradient(stock, pair, data)
    torch.testing.assert_close(value, expected)
    if kl == "exact":  # Trace_ELBO leaves out the score of log q, whose expectation is zero
        torch.testing.assert_close(gradient, expected_gradient)


def test_auto_is_exact_where_it_can_be():
    pair, data = NormalPair(), torch.randn(2, 3)
    auto = loss_and_gradient(ContrastiveELBO("auto"), pair, data)
    torch.testing.assert_close(auto, loss_and_gradient(ContrastiveELBO("exact"), pair, data))


def test_a_program_has_the_loss_of_stock_pyro_at_the_same_sample(program):
    losses = []
    for elbo in (ContrastiveELBO("exact"), TraceMeanField_ELBO()):
        pyro.set_rng_seed(5)
        losses.append(elbo.differentiable_loss(program.model, program.guide, VIEWS))
    torch.testing.assert_close(*losses)
    ours, theirs = (torch.autograd.grad(loss, list(program.parameters())) for loss in losses)
    torch.testing.assert_close(ours, theirs)


def test_monte_carlo_has_the_expectation_of_the_exact_loss(program):
    with torch.no_grad():
        differences = torch.tensor([
            sum(ContrastiveELBO("monte_carlo").terms(program.model, program.guide, VIEWS).values())
            - sum(ContrastiveELBO("exact").terms(program.model, program.guide, VIEWS).values())
            for _ in range(400)
        ])  # fmt: skip
    error = differences.std() / len(differences) ** 0.5
    assert abs(differences.mean()) < 4 * error


def test_terms_are_those_of_the_paper(program):
    elbo = ContrastiveELBO("gaussian_bound")
    pyro.set_rng_seed(1)
    terms = elbo.terms(program.model, program.guide, VIEWS)
    pyro.set_rng_seed(1)
    q = program.posterior_from_features(program._view_features(VIEWS))
    z = q.rsample()
    torch.testing.assert_close(terms["contrastive"], info_nce(z[0], z[1], 0.2))
    torch.testing.assert_close(terms["kl_z"], 0.5 * gaussian_bound(q).mean() / 5)
    pyro.set_rng_seed(1)
    loss = elbo.differentiable_loss(program.model, program.guide, VIEWS)
    torch.testing.assert_close(loss, terms["contrastive"] + terms["kl_z"])


def test_the_module_owns_the_parameters_and_leaves_pyros_store_alone(program):
    loss = ContrastiveELBO("gaussian_bound")(program.model, program.guide)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in program.parameters()}
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in program.parameters()]
    loss(VIEWS).backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, program.parameters(), strict=True))
    assert len(list(pyro.get_param_store().keys())) == 0


def test_plain_svi_trains_the_program(program):
    svi = SVI(
        program.model,
        program.guide,
        pyro.optim.Adam({"lr": 1e-2}),
        loss=ContrastiveELBO("gaussian_bound"),
    )
    program.train()
    losses = [svi.step(VIEWS) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert len(list(pyro.get_param_store().keys())) == len(list(program.parameters()))


def test_two_programs_of_a_class_train_side_by_side():
    for _ in range(2):
        program = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16))
        svi = SVI(program.model, program.guide, pyro.optim.Adam({}), loss=ContrastiveELBO())
        svi.step(VIEWS)
        before = [parameter.detach().clone() for parameter in program.parameters()]
        svi.step(VIEWS)
        after = list(program.parameters())
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_svi_and_the_module_have_the_same_loss(program):
    pyro.set_rng_seed(2)
    by_svi = SVI(
        program.model, program.guide, pyro.optim.Adam({}), loss=ContrastiveELBO("gaussian_bound")
    ).evaluate_loss(VIEWS)
    pyro.set_rng_seed(2)
    by_module = ContrastiveELBO("gaussian_bound")(program.model, program.guide)(VIEWS).item()
    assert by_svi == by_module


def test_particles_are_averaged(program):
    pyro.set_rng_seed(3)
    elbo = ContrastiveELBO("gaussian_bound")
    each = [elbo.loss(program.model, program.guide, VIEWS) for _ in range(4)]
    pyro.set_rng_seed(3)
    averaged = ContrastiveELBO("gaussian_bound", num_particles=4)
    loss = averaged.loss(program.model, program.guide, VIEWS)
    assert loss == pytest.approx(sum(each) / 4)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"kl must be one of auto, exact.*got 'precise'"):
        ContrastiveELBO("precise")
    with pytest.raises(ValueError, match="num_particles must be at least 1, got 0"):
        ContrastiveELBO(num_particles=0)

    program = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16), VonMisesFisherPrior())
    with pytest.raises(ValueError, match="got ProjectedNormal against VonMisesFisher"):
        ContrastiveELBO("gaussian_bound")(program.model, program.guide)(VIEWS)
    assert ContrastiveELBO()(program.model, program.guide)(VIEWS).isfinite()

    def model():
        pyro.sample("r", dist.Categorical(torch.ones(3) / 3))

    with pytest.raises(NotImplementedError, match="the guide's site 'r' has a Categorical"):
        ContrastiveELBO().differentiable_loss(model, model)
