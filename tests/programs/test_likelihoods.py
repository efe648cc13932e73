"""The loss of each program is its objective; samples, heads and priors; bad settings."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import nn

from probcl.distributions import ProjectedNormal, VonMisesFisher
from probcl.infer import ContrastiveELBO
from probcl.nn import (
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
    ProbabilisticVarCon,
    SimCLR,
    SupCon,
    VarCon,
    VSimCLR,
    VSupCon,
)
from probcl.sphere import normalize

OBJECTIVES = {
    "SimCLR": lambda z, y: info_nce(z, 0.1),
    "SupCon": lambda z, y: sup_con(z, y, 0.1),
    "VarCon": lambda z, y: varcon(z, y, 0.1, epsilon=0.02),
    # Corrected for the samples' shrinkage: the head starts at a mean resultant length of 0.9.
    "VSimCLR": lambda z, y: info_nce(z, 0.07 * 0.9**2),
    "VSupCon": lambda z, y: sup_con(z, y, 0.07 * 0.9**2),
}


def loss_of(program):
    return ContrastiveELBO()(program.model, program.guide)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_likelihood_is_the_objective_on_the_samples(make, views, labels, name):
    program = make(name).eval()
    program.materialize(views[0])
    guide = poutine.trace(program.guide).get_trace(views, labels)
    pyro.set_rng_seed(0)
    terms = loss_of(program).terms(views, labels)
    pyro.set_rng_seed(0)
    z = program.posterior_from_features(program._view_features(views)).rsample()
    assert guide.nodes["z"]["value"].shape == z.shape == (2, 6, 5)
    ours = sum(term for name, term in terms.items() if name != "kl_z")
    torch.testing.assert_close(ours, OBJECTIVES[name](z, labels))


@pytest.mark.parametrize("name", ["MCInfoNCE", "MCSupCon", "VSimCLR", "VSupCon"])
def test_several_samples_are_averaged_inside_the_logarithm(make, views, labels, name):
    """``-log (1/S) sum_s exp(-loss_s)`` anchor by anchor, from the objective on each sample."""
    program = make(name, num_samples=4, temperature=0.2, beta=0.5).eval()
    program.materialize(views[0])
    pyro.set_rng_seed(0)
    terms = loss_of(program).terms(views, labels)
    pyro.set_rng_seed(0)
    q = program.posterior_from_features(program._view_features(views))
    z = q.expand((4, 2, 6)).rsample()
    objective = info_nce if name in ("MCInfoNCE", "VSimCLR") else sup_con
    given = () if objective is info_nce else (labels,)
    tau = 0.2 if name.startswith("MC") else 0.2 * 0.9**2
    losses = torch.stack([objective(each, *given, tau, reduction="none") for each in z])
    expected = -(-losses).exp().mean(0).log().mean()
    torch.testing.assert_close(terms["contrastive"], expected)
    kl = torch.distributions.kl_divergence(q, program.prior())
    if name.startswith("MC"):  # exact; of a diagonal projected normal it is sampled
        torch.testing.assert_close(terms["kl_z"], 0.5 * kl.mean() / 5)


def test_the_encoder_runs_once_for_all_samples(make, views):
    program, runs = make("VSimCLR", num_samples=8), []
    program.encoder.register_forward_hook(lambda *_: runs.append(1))
    assert loss_of(program)(views).isfinite()
    assert len(runs) == 1


def test_varcon_averages_its_loss_over_samples(make, views, labels):
    program = make("ProbabilisticVarCon", num_samples=3, beta=0.0).eval()
    program.materialize(views[0])

    def loss_and_samples():
        pyro.set_rng_seed(0)
        loss = loss_of(program)(views, labels)
        pyro.set_rng_seed(0)
        q = program.posterior_from_features(program._view_features(views))
        return loss, q.expand((3, 2, 6)).rsample()

    loss, z = loss_and_samples()
    # Corrected, the temperature of p(r|z) is 0.9 of its own, and the target's is not.
    y = labels.repeat(2)
    expected = []
    for directions in z.flatten(-3, -2):
        w = normalize(torch.stack([directions[y == r].sum(0) for r in range(3)])).detach()
        log_p = (directions @ w.T / 0.09).log_softmax(-1)
        tau2 = 0.08 + 0.04 * log_p.exp().gather(1, y[:, None])
        log_q = (nn.functional.one_hot(y) / tau2).log_softmax(-1)
        divergence = (log_q.exp() * (log_q - log_p)).sum(-1)
        expected.append((divergence - log_p.gather(1, y[:, None])[:, 0]).mean())
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)
    program.temperature_correction = False
    loss, z = loss_and_samples()
    torch.testing.assert_close(loss, varcon(z, labels, 0.1), rtol=1e-4, atol=1e-5)


def test_probabilistic_varcon_without_spread_is_varcon(make, views, labels):
    point = make("VarCon").eval()
    point.materialize(views[0])

    class Sharp(nn.Module):
        dim = 5

        def forward(self, features):
            return ProjectedNormal(point.posterior_head(features).mean, 1e-6)

    program = ProbabilisticVarCon(point.encoder, Sharp(), beta=0).eval()
    losses = [loss_of(each)(views, labels).item() for each in (program, point)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_learned_epsilon_stays_in_its_interval(make, views, labels):
    program = make("VarCon")
    for outside, inside in ((-0.5, 0.0), (0.5, 0.1)):
        with torch.no_grad():
            program.epsilon.fill_(outside)
        assert loss_of(program)(views, labels).isfinite()
        assert program.epsilon.item() == pytest.approx(inside)
        # tau2 = (temperature - epsilon) + 2 epsilon p(y|z)
        assert 0.1 - inside - 1e-6 <= program.monitored["tau2"] <= 0.1 + inside + 1e-6


def test_cross_entropy_is_that_of_the_classifier(make, views, labels):
    program = make("CrossEntropy").eval()
    loss = loss_of(program)(views, labels)
    logits = program.classifier(program.encoder(views.flatten(0, 1)))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, labels.repeat(2)))
    with torch.no_grad():
        program.classifier.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits must be finite, got 12 of 12 embeddings"):
        program.model(views, labels)
    with pytest.raises(ValueError, match="labels must lie between 0 and num_classes - 1 = 2, got"):
        program.model(views, labels + 1)


def test_expected_likelihood_is_the_objective_on_the_posteriors(make, views, labels):
    program = make("SupExpectedLikelihood").eval()
    loss = loss_of(program)(views, labels)
    q = program.posterior_from_features(program._view_features(views))
    concentration = (q.loc.norm(dim=-1) / q.scale[..., 0]).square()
    expected = expected_likelihood(
        normalize(q.loc), concentration, labels, kernel="normal", positive_concentration=20.0
    )
    torch.testing.assert_close(loss, expected)
    program = ExpectedLikelihood(ConvNet((4, 8)), ProjectedNormalHead(5, 16))
    with pytest.raises(ValueError, match=r"isotropic ProjectedNormal posteriors, got ProjectedNo"):
        program.model(views)


# Heads and priors.

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
def test_every_head_goes_with_every_prior(kind, head, prior, views, labels):
    program = kind(ConvNet((4, 8)), HEADS[head](), PRIORS[prior]())
    loss_of(program)(views, labels).backward()
    gradients = {name: p.grad for name, p in program.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())


def test_any_head_and_prior_fit_without_touching_the_package(views):
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
    assert loss(views).isfinite()
    projection = program.project(program.encoder(views[0]))
    torch.testing.assert_close(projection.norm(dim=-1), torch.ones(6))


def test_a_learned_prior_learns():
    torch.manual_seed(0)
    prior = VonMisesFisherMixturePrior(3, components=2)
    true = VonMisesFisher(torch.eye(3)[0], 30.0)
    target = true.sample((500,))
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.1)
    before = prior().log_prob(target).mean()
    for _ in range(60):
        optimizer.zero_grad()
        (-prior().log_prob(target).mean()).backward()
        optimizer.step()
    expected = -true.entropy()
    assert before < expected - 0.5
    assert abs(prior().log_prob(target).mean() - expected) < 0.1


def test_without_beta_the_kl_counts_for_nothing(make, views):
    program = make("VSimCLR", beta=0)
    loss = loss_of(program)
    assert list(loss.terms(views)) == ["contrastive"]
    program.eval()
    pyro.set_rng_seed(0)
    expected = TraceMeanField_ELBO().loss(program.model, program.guide, views)
    pyro.set_rng_seed(0)
    assert loss(views).item() == pytest.approx(expected)


def test_a_projection_tells_its_dimension():
    lightly_like = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 5))
    assert SimCLR(ConvNet((4, 8)), lightly_like).prior().event_shape == (5,)
    for kind in (SimCLR, VSimCLR):
        with pytest.raises(ValueError, match=r"^Identity has no attribute dim, the dimension of"):
            kind(ConvNet((4, 8)), nn.Identity())


def test_bad_settings_are_named(views):
    with pytest.raises(ValueError, match="temperature must be a finite number above 0, got -1"):
        VSimCLR(ConvNet(), temperature=-1)
    with pytest.raises(ValueError, match="beta must be a finite number of at least 0, got -1"):
        VSimCLR(ConvNet(), beta=-1)
    with pytest.raises(ValueError, match=r"epsilon must lie between 0 and temperature = 0\.1"):
        VarCon(ConvNet(), epsilon=0.2)
    for kind in (VSimCLR, VSupCon, MCInfoNCE, ProbabilisticVarCon):
        with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
            kind(ConvNet(), num_samples=0)
    with pytest.raises(ValueError, match="average must be 'outside' or 'inside', got 'mean'"):
        SupCon(ConvNet(), average="mean")
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        CrossEntropy(ConvNet(), num_classes=1)
    program = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16), UniformPrior(6))
    with pytest.raises(ValueError, match="prior has dimension 6, the posterior 5"):
        ContrastiveELBO("gaussian_bound")(program.model, program.guide)(views)
