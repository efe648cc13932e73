"""Programs as Pyro sees them: sites, shapes, losses and what they refuse."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.util import prune_subsample_sites
from torch import nn

from probcl.distributions import ProjectedNormal, VonMisesFisher
from probcl.infer import ContrastiveELBO
from probcl.nn import (
    MLP,
    ConvNet,
    PowerSphericalHead,
    ProjectedNormalHead,
    UniformPrior,
    VonMisesFisherHead,
    VonMisesFisherMixturePrior,
    VonMisesFisherPrior,
)
from probcl.objectives import expected_likelihood, info_nce, sup_con, varcon
from probcl.programs import (
    CrossEntropy,
    ExpectedLikelihood,
    MCInfoNCE,
    MCSupCon,
    ProbabilisticVarCon,
    SimCLR,
    SupCon,
    SupExpectedLikelihood,
    VarCon,
    VSimCLR,
    VSupCon,
)
from probcl.sphere import normalize

VIEWS = torch.rand(2, 6, 1, 8, 8)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
PROGRAMS = {
    "VSimCLR": lambda: VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16)),
    "VSupCon": lambda: VSupCon(ConvNet((4, 8)), ProjectedNormalHead(5, 16)),
    "MCInfoNCE": lambda: MCInfoNCE(ConvNet((4, 8)), VonMisesFisherHead(5, 16), num_samples=3),
    "MCSupCon": lambda: MCSupCon(ConvNet((4, 8)), VonMisesFisherHead(5, 16), num_samples=3),
    "VarCon": lambda: VarCon(ConvNet((4, 8)), MLP(5, 16)),
    "VarCon, epsilon learned": lambda: VarCon(ConvNet((4, 8)), MLP(5, 16), learn_epsilon=True),
    "ProbabilisticVarCon": lambda: ProbabilisticVarCon(
        ConvNet((4, 8)), ProjectedNormalHead(5, 16), learn_epsilon=True
    ),
    "ExpectedLikelihood": lambda: ExpectedLikelihood(ConvNet((4, 8)), VonMisesFisherHead(5, 16)),
    "SupExpectedLikelihood": lambda: SupExpectedLikelihood(
        ConvNet((4, 8)), ProjectedNormalHead(5, 16, covariance="isotropic"), 20.0
    ),
    "SimCLR": lambda: SimCLR(ConvNet((4, 8)), MLP(5, 16)),
    "SupCon": lambda: SupCon(ConvNet((4, 8)), MLP(5, 16)),
    "CrossEntropy": lambda: CrossEntropy(ConvNet((4, 5)), num_classes=3),
}
SUPERVISED = [name for name in PROGRAMS if "Sup" in name or "Var" in name or "Entropy" in name]


@pytest.fixture(params=PROGRAMS)
def program(request):
    return PROGRAMS[request.param]()


@pytest.mark.parametrize("count", [2, 3])
def test_the_loss_can_be_differentiated_for_every_parameter(program, count):
    views = torch.rand(count, 6, 1, 8, 8)
    loss = ContrastiveELBO()(program.model, program.guide)
    loss(views, LABELS).backward()
    missing = [name for name, p in program.named_parameters() if p.grad is None]
    assert not missing
    assert all(p.grad.isfinite().all() for p in program.parameters())


def test_posterior_and_embedding_have_the_documented_shapes(program):
    posterior = program(VIEWS[0])
    assert posterior.batch_shape == (6,)
    assert posterior.event_shape == (5,)
    embedding = program(VIEWS[0]).mean_direction
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(6))


def test_traces_have_the_sites_and_shapes_pyro_expects():
    program = PROGRAMS["VSimCLR"]()
    guide = poutine.trace(program.guide).get_trace(VIEWS)
    model = poutine.trace(poutine.replay(program.model, guide)).get_trace(VIEWS)
    assert guide.nodes["z"]["fn"].batch_shape == (2, 6)
    assert guide.nodes["z"]["value"].shape == (2, 6, 5)
    lines = model.format_shapes().splitlines()
    assert any(line.split() == ["z", "dist", "2", "6", "|", "5"] for line in lines)
    assert any(line.split() == ["contrastive", "dist", "2", "6", "|", "0"] for line in lines)


def test_every_program_has_a_trace_with_shapes(program):
    guide = poutine.trace(program.guide).get_trace(VIEWS, LABELS)
    model = poutine.trace(poutine.replay(program.model, guide)).get_trace(VIEWS, LABELS)
    assert "views dist" in model.format_shapes()
    for site in model.nodes.values():
        if site["type"] == "sample" and site["is_observed"]:
            assert site["fn"].batch_shape == (2, 6)


def test_an_unconditioned_model_draws_from_the_prior(program):
    trace = poutine.trace(program.model).get_trace(VIEWS, LABELS)
    if "z" in trace.nodes:
        z = trace.nodes["z"]["value"]
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(z.shape[:-1]))


def test_plain_svi_takes_a_step(program):
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 1e-3}), ContrastiveELBO())
    losses = [svi.step(VIEWS, LABELS) for _ in range(2)]
    assert torch.tensor(losses).isfinite().all()


def test_views_may_come_as_a_sequence(program):
    program.eval().materialize(VIEWS[0])
    losses = []
    for views in (VIEWS, list(VIEWS)):
        pyro.set_rng_seed(0)
        losses.append(ContrastiveELBO().loss(program.model, program.guide, views, LABELS))
    assert losses[0] == losses[1]


def test_a_program_can_be_copied_and_stored(program, tmp_path):
    ContrastiveELBO().differentiable_loss(program.model, program.guide, VIEWS, LABELS)
    poutine.trace(program.guide).get_trace(VIEWS, LABELS)
    twin = copy.deepcopy(program)
    torch.save(program.state_dict(), tmp_path / "weights.pt")
    twin.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    ours, theirs = (each.eval()(VIEWS[0]).mean_direction for each in (program, twin))
    torch.testing.assert_close(ours, theirs)
    for copied in (program, twin):  # each trains under a name of its own
        before = [parameter.detach().clone() for parameter in copied.parameters()]
        svi = SVI(copied.model, copied.guide, pyro.optim.Adam({"lr": 0.1}), ContrastiveELBO())
        svi.step(VIEWS, LABELS)
        svi.step(VIEWS, LABELS)
        after = list(copied.parameters())
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_frozen_encoder_stays_frozen():
    program = PROGRAMS["VSimCLR"]()
    program.encoder.eval()
    program.materialize(VIEWS[0])
    assert program.training
    assert program.posterior_head.training
    assert not any(module.training for module in program.encoder.modules())


def test_what_the_guide_found_is_not_used_for_other_labels():
    program = PROGRAMS["VarCon"]().eval()
    guide = poutine.trace(program.guide).get_trace(VIEWS, LABELS)
    others = torch.tensor([0, 0, 1, 1, 1, 1])
    replayed = poutine.replay(program.model, guide)
    for _ in range(2):
        y = poutine.trace(replayed).get_trace(VIEWS, others).nodes["y"]["value"]
        assert torch.equal(y, others.expand(2, 6))


def test_a_projection_tells_its_dimension():
    lightly_like = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 5))
    assert SimCLR(ConvNet((4, 8)), lightly_like).prior().event_shape == (5,)
    with pytest.raises(ValueError, match="Identity has no attribute dim"):
        SimCLR(ConvNet((4, 8)), nn.Identity())


def test_the_loss_of_a_classifier_is_in_full_precision():
    program = PROGRAMS["CrossEntropy"]().eval()
    program.materialize(VIEWS[0])
    with torch.autocast("cpu", torch.bfloat16):
        loss = ContrastiveELBO()(program.model, program.guide)(VIEWS, LABELS)
    assert loss.dtype == torch.float32


def test_predictive_draws_from_the_posterior(program):
    program.eval().materialize(VIEWS[0])
    predictive = Predictive(program.model, guide=program.guide, num_samples=3)
    samples = predictive(VIEWS, LABELS)
    trace = poutine.trace(program.guide).get_trace(VIEWS, LABELS)
    for name in prune_subsample_sites(trace).stochastic_nodes:
        assert samples[name].shape[0] == 3
        assert samples[name].shape[-3:-1] == (2, 6) or samples[name].shape == (3, 2, 6)


def test_the_contrastive_term_is_the_objective_on_the_samples():
    for name, objective in {
        "VSimCLR": lambda z: info_nce(z, 0.07),
        "VSupCon": lambda z: sup_con(z, LABELS, 0.07),
    }.items():
        program = PROGRAMS[name]()
        guide = poutine.trace(program.guide).get_trace(VIEWS, LABELS)
        model = poutine.trace(poutine.replay(program.model, guide)).get_trace(VIEWS, LABELS)
        model.compute_log_prob(lambda name, site: name == "contrastive")
        expected = objective(guide.nodes["z"]["value"])
        torch.testing.assert_close(-model.nodes["contrastive"]["log_prob_sum"], expected)


def test_deterministic_programs_are_their_objectives():
    for name, objective in {
        "SimCLR": lambda z: info_nce(z, 0.1),
        "SupCon": lambda z: sup_con(z, LABELS, 0.1),
        "VarCon": lambda z: varcon(z, LABELS, 0.1),
    }.items():
        program = PROGRAMS[name]().eval()
        loss = ContrastiveELBO()(program.model, program.guide)(VIEWS, LABELS)
        z = torch.stack([program(view).mean_direction for view in VIEWS])
        torch.testing.assert_close(loss, objective(z))


def test_cross_entropy_is_that_of_the_classifier():
    program = PROGRAMS["CrossEntropy"]().eval()
    loss = ContrastiveELBO()(program.model, program.guide)(VIEWS, LABELS)
    logits = program.classifier(program.encoder(VIEWS.flatten(0, 1)))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, LABELS.repeat(2)))


def test_expected_likelihood_is_the_objective_on_the_posteriors():
    program = PROGRAMS["SupExpectedLikelihood"]().eval()
    loss = ContrastiveELBO()(program.model, program.guide)(VIEWS, LABELS)
    q = program.posterior_from_features(program._view_features(VIEWS))
    concentration = (q.loc.norm(dim=-1) / q.scale[..., 0]).square()
    expected = expected_likelihood(
        normalize(q.loc), concentration, LABELS, kernel="normal", positive_concentration=20.0
    )
    torch.testing.assert_close(loss, expected)
    program = ExpectedLikelihood(ConvNet((4, 8)), ProjectedNormalHead(5, 16))
    with pytest.raises(ValueError, match=r"isotropic ProjectedNormal posteriors, got ProjectedNo"):
        program.model(VIEWS)


def test_a_learned_epsilon_stays_in_its_interval():
    program = PROGRAMS["VarCon, epsilon learned"]()
    loss = ContrastiveELBO()(program.model, program.guide)
    for outside, inside in ((-0.5, 0.0), (0.5, 0.1)):
        with torch.no_grad():
            program.epsilon.fill_(outside)
        assert loss(VIEWS, LABELS).isfinite()
        assert program.epsilon.item() == pytest.approx(inside)


def test_probabilistic_varcon_without_spread_is_varcon():
    point = PROGRAMS["VarCon"]().eval()
    point.materialize(VIEWS[0])

    class Sharp(nn.Module):
        dim = 5

        def forward(self, features):
            return ProjectedNormal(point.posterior_head(features).mean, 1e-6)

    program = ProbabilisticVarCon(point.encoder, Sharp(), beta=0).eval()
    losses = [ContrastiveELBO().loss(p.model, p.guide, VIEWS, LABELS) for p in (program, point)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


HEADS = {
    "isotropic": lambda: ProjectedNormalHead(5, 16, covariance="isotropic"),
    "diagonal": lambda: ProjectedNormalHead(5, 16),
    "low rank": lambda: ProjectedNormalHead(5, 16, covariance="low_rank", rank=2),
    "von Mises-Fisher": lambda: VonMisesFisherHead(5, 16),
    "Power Spherical": lambda: PowerSphericalHead(5, 16),
}
PRIORS = {
    "uniform": lambda: UniformPrior(5),
    "von Mises-Fisher": lambda: VonMisesFisherPrior(5, 3.0),
    "mixture": lambda: VonMisesFisherMixturePrior(5, components=3),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", [VSimCLR, ProbabilisticVarCon])
def test_every_head_goes_with_every_prior(kind, head, prior):
    program = kind(ConvNet((4, 8)), HEADS[head](), PRIORS[prior]())
    loss = ContrastiveELBO()(program.model, program.guide)
    loss(VIEWS, LABELS).backward()
    gradients = {name: p.grad for name, p in program.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())


def test_the_heads_start_where_they_are_told():
    features = torch.randn(200, 8)
    for head in (VonMisesFisherHead(5, 16, 24.0), PowerSphericalHead(5, 16, 24.0)):
        concentration = head(features).concentration
        assert 12 < concentration.median() < 48
    assert 3 < VonMisesFisherHead(6, 16)(features).concentration.median() < 12
    q = ProjectedNormalHead(5, 16, covariance="low_rank", rank=2)(features)
    assert q.cov_factor.shape == (200, 5, 2)
    assert ProjectedNormalHead(5, 16, covariance="isotropic")(features).scale.shape == (200, 1)


def test_a_learned_prior_learns():
    torch.manual_seed(0)
    prior = VonMisesFisherMixturePrior(3, components=2)
    target = VonMisesFisher(torch.eye(3)[0], 30.0).sample((500,))
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    before = prior().log_prob(target).mean()
    for _ in range(100):
        optimizer.zero_grad()
        (-prior().log_prob(target).mean()).backward()
        optimizer.step()
    expected = -VonMisesFisher(torch.eye(3)[0], 30.0).entropy()
    assert before < expected - 0.5
    assert abs(prior().log_prob(target).mean() - expected) < 0.1


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


@pytest.mark.parametrize("name", ["VSimCLR", "VSupCon", "MCInfoNCE", "SimCLR"])
def test_particles_may_be_drawn_at_once_by_stock_pyro(name):
    program = PROGRAMS[name]().eval()
    program.materialize(VIEWS[0])
    nesting = 3 if name == "MCInfoNCE" else 2
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=nesting)
    assert torch.tensor(elbo.loss(program.model, program.guide, VIEWS, LABELS)).isfinite()


def test_without_beta_the_kl_counts_for_nothing():
    program = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16), beta=0)
    loss = ContrastiveELBO()(program.model, program.guide)
    assert list(loss.terms(VIEWS)) == ["contrastive"]
    program.eval()
    pyro.set_rng_seed(0)
    expected = TraceMeanField_ELBO().loss(program.model, program.guide, VIEWS)
    pyro.set_rng_seed(0)
    assert loss(VIEWS).item() == pytest.approx(expected)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="temperature must be a finite number above 0, got -1"):
        VSimCLR(ConvNet(), temperature=-1)
    with pytest.raises(ValueError, match="beta must be a finite number of at least 0, got -1"):
        VSimCLR(ConvNet(), beta=-1)
    with pytest.raises(ValueError, match=r"epsilon must lie between 0 and temperature = 0\.1"):
        VarCon(ConvNet(), epsilon=0.2)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        MCInfoNCE(ConvNet(), num_samples=0)
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        CrossEntropy(ConvNet(), num_classes=1)
    with pytest.raises(ValueError, match="Identity has no attribute dim"):
        VSimCLR(ConvNet(), nn.Identity())
    program = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16), UniformPrior(6))
    with pytest.raises(ValueError, match="prior has dimension 6, the posterior 5"):
        ContrastiveELBO("gaussian_bound")(program.model, program.guide)(VIEWS)
    for bad in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="concentration must be a finite number"):
            VonMisesFisherHead(concentration=bad)
    with pytest.raises(ValueError, match="covariance must be one of isotropic, diagonal, low_rank"):
        ProjectedNormalHead(covariance="full")
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        ProjectedNormalHead(covariance="low_rank", rank=0)
    with pytest.raises(ValueError, match="components must be at least 1, got 0"):
        VonMisesFisherMixturePrior(components=0)
    with pytest.raises(ValueError, match="concentration must be a finite number of at least 0"):
        VonMisesFisherPrior(concentration=-1.0)


@pytest.mark.parametrize("name", SUPERVISED)
def test_missing_labels_are_named(name):
    program = PROGRAMS[name]()
    loss = ContrastiveELBO()(program.model, program.guide)
    kind = type(program).__name__
    with pytest.raises(ValueError, match=rf"{kind} is supervised: pass labels.*\(6,\), got None"):
        loss(VIEWS)
    with pytest.raises(ValueError, match=rf"{kind} is supervised: pass labels.*got shape \(5,\)"):
        loss(VIEWS, LABELS[:5])


def test_bad_views_are_named(program):
    loss = ContrastiveELBO()(program.model, program.guide)
    for views in ([VIEWS[0], VIEWS[1][:, :, :4]], [VIEWS[0], VIEWS[1][:3]]):
        with pytest.raises(ValueError, match="views must all have one shape, got"):
            loss(views, LABELS)
    for views, got in (
        (VIEWS[:1], r"\(1, 6, 1, 8, 8\)"),
        ([], "none"),
        (VIEWS[:, :0], r"\(2, 0, "),
    ):
        with pytest.raises(ValueError, match=f"at least 2 views of each image.*got {got}"):
            loss(views, LABELS)


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - set(SUPERVISED)))
def test_a_batch_of_one_is_named(name):
    program = PROGRAMS[name]().eval()
    loss = ContrastiveELBO()(program.model, program.guide)
    with pytest.raises(ValueError, match="batch must hold B >= 2 images"):
        loss(VIEWS[:, :1])


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_class_with_a_single_member_has_a_loss(name):
    program = PROGRAMS[name]().eval()
    labels = torch.tensor([0, 1, 2, 0, 0, 0])
    assert ContrastiveELBO()(program.model, program.guide)(VIEWS, labels).isfinite()


def test_weights_that_are_not_finite_are_named():
    for name in ("VSimCLR", "VarCon", "ExpectedLikelihood"):
        program = PROGRAMS[name]()
        program.materialize(VIEWS[0])
        with torch.no_grad():
            next(program.encoder.parameters()).fill_(torch.nan)
        with (
            pyro.validation_enabled(False),
            pytest.raises(ValueError, match="must be finite, got 12 of 12 embeddings"),
        ):
            ContrastiveELBO()(program.model, program.guide)(VIEWS, LABELS)
    program = PROGRAMS["CrossEntropy"]()
    program.materialize(VIEWS[0])
    with pytest.raises(ValueError, match=r"labels must be integers, got torch\.float32"):
        program.model(VIEWS, LABELS.float())
    with torch.no_grad():
        program.classifier.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits must be finite, got 12 of 12 embeddings"):
        program.model(VIEWS, LABELS)
    with pytest.raises(ValueError, match="labels must lie between 0 and num_classes - 1 = 2, got"):
        program.model(VIEWS, LABELS + 1)


def test_one_sample_has_no_plate_and_none_is_refused():
    assert VSimCLR(ConvNet()).num_samples == 1
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        VSupCon(ConvNet(), num_samples=0)
    with pytest.raises(ValueError, match="average must be 'outside' or 'inside', got 'mean'"):
        SupCon(ConvNet(), average="mean")
