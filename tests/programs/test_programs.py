"""Programs as Pyro sees them: sites, shapes, losses and what they refuse."""

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceMeanField_ELBO
from torch import nn

from probcl.infer import ContrastiveELBO
from probcl.nn import MLP, ConvNet, ProjectedNormalHead, UniformPrior
from probcl.objectives import info_nce, sup_con
from probcl.programs import SimCLR, SupCon, VSimCLR, VSupCon

VIEWS = torch.rand(2, 6, 1, 8, 8)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
PROGRAMS = {
    "VSimCLR": lambda: VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16)),
    "VSupCon": lambda: VSupCon(ConvNet((4, 8)), ProjectedNormalHead(5, 16)),
    "SimCLR": lambda: SimCLR(ConvNet((4, 8)), MLP(5, 16)),
    "SupCon": lambda: SupCon(ConvNet((4, 8)), MLP(5, 16)),
}


@pytest.fixture(params=PROGRAMS)
def program(request):
    return PROGRAMS[request.param]()


def test_the_loss_can_be_differentiated_for_every_parameter(program):
    loss = ContrastiveELBO(kl="gaussian_bound")(program.model, program.guide)
    loss(VIEWS, LABELS).backward()
    missing = [name for name, p in program.named_parameters() if p.grad is None]
    assert not missing
    assert all(p.grad.isfinite().all() for p in program.parameters())


def test_posterior_and_embedding_have_the_documented_shapes(program):
    posterior = program.posterior(VIEWS[0])
    assert posterior.batch_shape == (6,)
    assert posterior.event_shape == (5,)
    embedding = program.embed(VIEWS[0])
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(6))


def test_traces_have_the_sites_and_shapes_pyro_expects():
    program = PROGRAMS["VSimCLR"]()
    guide = poutine.trace(program.guide).get_trace(VIEWS)
    model = poutine.trace(poutine.replay(program.model, guide)).get_trace(VIEWS)
    assert guide.nodes["z"]["fn"].batch_shape == (2, 6)
    assert guide.nodes["z"]["value"].shape == (2, 6, 5)
    model.compute_log_prob(lambda name, site: name == "contrastive")
    lines = model.format_shapes().splitlines()
    assert any(line.split() == ["z", "dist", "2", "6", "|", "5"] for line in lines)
    assert any(line.split() == ["contrastive", "dist", "|", "0"] for line in lines)


def test_predictive_draws_embeddings_from_the_posterior():
    program = PROGRAMS["VSimCLR"]()
    samples = Predictive(program.model, guide=program.guide, num_samples=3)(VIEWS)
    assert samples["z"].shape == (3, 2, 6, 5)


def test_the_contrastive_term_is_the_objective_on_the_samples():
    for name, objective in {
        "VSimCLR": lambda z: info_nce(z[0], z[1], 0.07),
        "VSupCon": lambda z: sup_con(z.flatten(0, 1), LABELS.repeat(2), 0.07),
    }.items():
        program = PROGRAMS[name]()
        guide = poutine.trace(program.guide).get_trace(VIEWS, LABELS)
        model = poutine.trace(poutine.replay(program.model, guide)).get_trace(VIEWS, LABELS)
        model.compute_log_prob(lambda name, site: name == "contrastive")
        expected = objective(guide.nodes["z"]["value"])
        torch.testing.assert_close(-model.nodes["contrastive"]["log_prob_sum"], expected)


def test_a_deterministic_program_is_its_objective():
    program = PROGRAMS["SimCLR"]().eval()
    loss = ContrastiveELBO()(program.model, program.guide)
    expected = info_nce(program.embed(VIEWS[0]), program.embed(VIEWS[1]), 0.07)
    torch.testing.assert_close(loss(VIEWS), expected)


def test_any_head_and_prior_fit_without_touching_the_package():
    class MyHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.LazyLinear(3)

        def forward(self, features):
            return dist.ProjectedNormal(self.linear(features))  # Pyro's own

    class MyPrior(nn.Module):
        def forward(self):
            return dist.ProjectedNormal(torch.tensor([1.0, 0.0, 0.0]))

    program = VSimCLR(ConvNet((4, 8)), MyHead(), MyPrior())
    loss = ContrastiveELBO(kl="monte_carlo")(program.model, program.guide)
    assert loss(VIEWS).isfinite()


def test_without_beta_the_kl_counts_for_nothing():
    program = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16), beta=0)
    loss = ContrastiveELBO()(program.model, program.guide)
    assert loss.terms(VIEWS)["kl_z"] == 0
    assert TraceMeanField_ELBO().loss(program.model, program.guide, VIEWS) > 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="temperature must be a finite number above 0, got -1"):
        VSimCLR(ConvNet(), temperature=-1)
    with pytest.raises(ValueError, match="beta must be a finite number of at least 0, got -1"):
        VSimCLR(ConvNet(), beta=-1)
    for name in ("VSupCon", "SupCon"):
        program = PROGRAMS[name]()
        with pytest.raises(ValueError, match=f"{name} is supervised: pass labels"):
            ContrastiveELBO("gaussian_bound")(program.model, program.guide)(VIEWS)
    program = PROGRAMS["SimCLR"]()
    with pytest.raises(ValueError, match="2 views of each image for SimCLR, got 3"):
        program.model(torch.rand(3, 6, 1, 8, 8))
    with pytest.raises(ValueError, match="posterior Linear has no attribute dim"):
        VSimCLR(ConvNet(), nn.Linear(8, 3))
    program = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16), UniformPrior(6))
    with pytest.raises(ValueError, match="prior has dimension 6, the posterior 5"):
        ContrastiveELBO("gaussian_bound")(program.model, program.guide)(VIEWS)
    program = PROGRAMS["VSimCLR"]()
    elbo = TraceMeanField_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=2)
    with pytest.raises(ValueError, match="vectorize_particles=False"):
        elbo.loss(program.model, program.guide, VIEWS)
