"""ContrastiveELBO against stock Pyro objectives and the loss written out by hand."""

from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal
from torch import nn
from torch.nn.functional import normalize

from probcl.distributions import PowerSpherical, VonMisesFisher
from probcl.distributions.kl import gaussian_bound
from probcl.infer import ContrastiveELBO, LinearAnnealing
from probcl.infer.divergence import divergence
from probcl.nn import MLP, ConvNet, ProjectedNormalHead
from probcl.objectives import info_nce
from probcl.programs import ProbabilisticVarCon, VarCon, VSimCLR

VIEWS = torch.rand(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def program():
    program = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16), temperature=0.2, beta=0.5)
    program(VIEWS[0])
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


def test_has_the_expectation_of_trace_elbo(program):
    """The sample's log ratio has the exact KL as its mean: a z-test over 40 runs of 50 samples."""
    program.num_samples = 50
    exact, stock = ContrastiveELBO("exact"), Trace_ELBO()
    differences = []
    with torch.no_grad():
        for seed in range(40):
            losses = []
            for elbo in (exact, stock):
                pyro.set_rng_seed(seed)
                losses.append(elbo.loss(program.model, program.guide, VIEWS))
            differences.append(losses[0] - losses[1])
    differences = torch.tensor(differences, dtype=torch.float64)
    assert 1e-5 < differences.std() < 0.01
    assert abs(differences.mean()) < 4 * differences.std() / len(differences) ** 0.5


def test_terms_are_those_of_the_paper(program):
    program.temperature_correction = False
    elbo = ContrastiveELBO("gaussian_bound")
    pyro.set_rng_seed(1)
    terms = elbo.terms(program.model, program.guide, VIEWS)
    pyro.set_rng_seed(1)
    q = program.posterior_from_features(program._view_features(VIEWS))
    z = q.rsample()
    torch.testing.assert_close(terms["contrastive"], info_nce(z, 0.2))
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


def test_each_latent_may_have_an_estimator_of_its_own():
    def model():
        for name in ("a", "b"):
            pyro.sample(name, dist.Normal(0.0, 1.0))

    def guide():
        for name in ("a", "b"):
            pyro.sample(name, dist.Normal(1.0, 2.0))

    pyro.set_rng_seed(0)
    terms = ContrastiveELBO({"b": "monte_carlo"}).terms(model, guide)
    pyro.set_rng_seed(0)
    sampled = ContrastiveELBO("monte_carlo").terms(model, guide)
    exact = torch.distributions.kl_divergence(dist.Normal(1.0, 2.0), dist.Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="kl names 'c', but the guide's latent sites are 'a', 'b'"):
        ContrastiveELBO({"c": "exact"}).terms(model, guide)
    torch.testing.assert_close(terms["kl_a"], exact)
    torch.testing.assert_close(terms["kl_b"], sampled["kl_b"])
    assert terms["kl_b"] != exact


def test_annealing_weighs_the_kl_of_directions_and_leaves_the_class_alone():
    program = ProbabilisticVarCon(ConvNet((4, 8)), ProjectedNormalHead(5, 16)).eval()
    program.materialize(VIEWS[0])
    elbo, terms = ContrastiveELBO(), []
    for weight in (1.0, 0.25):
        elbo.kl_weight = weight
        pyro.set_rng_seed(0)
        terms.append(elbo.terms(program.model, program.guide, VIEWS, LABELS))
    torch.testing.assert_close(terms[1]["kl_z"], 0.25 * terms[0]["kl_z"])
    torch.testing.assert_close(terms[1]["kl_r"], terms[0]["kl_r"])
    torch.testing.assert_close(terms[1]["y"], terms[0]["y"])


def test_a_schedule_is_a_function_of_the_step():
    assert [LinearAnnealing(4)(step) for step in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    cyclic = LinearAnnealing(2, start=0.5, end=1.5, period=5)
    assert [cyclic(step) for step in range(7)] == [0.5, 1, 1.5, 1.5, 1.5, 0.5, 1]
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        LinearAnnealing(0)
    with pytest.raises(ValueError, match="end must be a finite number of at least 0, got nan"):
        LinearAnnealing(5, end=float("nan"))
    with pytest.raises(ValueError, match="period must be more than steps = 5 or None, got 5"):
        LinearAnnealing(5, period=5)


@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.1])
def test_varcon_is_equation_7_and_the_enumerated_elbo(epsilon):
    program = VarCon(
        ConvNet((4, 8)).double(), MLP(5, 16).double(), epsilon=epsilon, learn_epsilon=True
    ).double()
    views = VIEWS.double()
    program.eval().materialize(views[0])
    parameters = list(program.parameters())
    z = torch.stack([program(view).mean_direction for view in views]).flatten(0, 1)
    enumerated = TraceEnum_ELBO(max_plate_nesting=2)
    losses = [
        elbo.differentiable_loss(program.model, program.guide, views, LABELS)
        for elbo in (ContrastiveELBO(), ContrastiveELBO("monte_carlo"), enumerated)
    ]
    expected = equation_7(z, LABELS.repeat(2), 0.1, program.epsilon)
    gradient = torch.autograd.grad(expected, parameters, retain_graph=True)
    for loss in losses:
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        ours = torch.autograd.grad(loss, parameters, retain_graph=True)
        for mine, theirs in zip(ours, gradient, strict=True):
            assert (mine - theirs).norm() <= 1e-12 * max(1, theirs.norm())


def equation_7(z, labels, temperature, epsilon):
    """Return the mean of KL(q || p) - log p(y), each probability as the paper writes it."""
    names = labels.unique()
    w = torch.stack([normalize(z[labels == name].sum(0), dim=0) for name in names]).detach()
    own = labels[:, None] == names
    p = torch.softmax(z @ w.T / temperature, dim=1)
    tau2 = (temperature - epsilon) + 2 * epsilon * p[own]
    q = 1 + (torch.exp(1 / tau2)[:, None] - 1) * own
    q = q / q.sum(1, keepdim=True)
    return ((q * (q.log() - p.log())).sum(1) - p[own].log()).mean()


def test_both_papers_in_one_have_the_enumerated_elbo_at_the_same_sample():
    program = ProbabilisticVarCon(ConvNet((4, 8)), ProjectedNormalHead(5, 16)).eval()
    program.materialize(VIEWS[0])
    losses = []
    for elbo in (ContrastiveELBO("monte_carlo"), TraceEnum_ELBO(max_plate_nesting=2)):
        pyro.set_rng_seed(1)
        losses.append(elbo.differentiable_loss(program.model, program.guide, VIEWS, LABELS))
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)


def test_the_exact_divergence_of_classes_survives_underflow():
    """Where a probability underflows its logarithm does not: stock PyTorch says infinity."""
    q = dist.Categorical(logits=torch.tensor([0.0, -50.0]).log_softmax(-1))
    p = dist.Categorical(logits=torch.tensor([0.0, -150.0]).log_softmax(-1))
    assert torch.distributions.kl_divergence(q, p) == torch.inf
    ours = divergence("r", q, p, "auto")
    torch.testing.assert_close(ours, 100 * torch.tensor(-50.0).exp(), rtol=1e-2, atol=0)


def test_a_class_that_is_masked_in_both_has_no_share():
    q = dist.Categorical(logits=torch.tensor([0.0, 0.0, -torch.inf]))
    p = dist.Categorical(logits=torch.tensor([0.0, 1.0, -torch.inf]))
    ours = divergence("r", q, p, "auto")
    torch.testing.assert_close(ours, torch.distributions.kl_divergence(q, p))


def test_an_autoguide_has_the_loss_of_trace_elbo_at_the_same_sample():
    """Its sample is an auxiliary site, and the model's sites are points with its density."""

    def model():
        z = pyro.sample("z", dist.LogNormal(0.3, 0.5))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))

    guide = AutoDiagonalNormal(model)
    guide()
    losses = []
    for elbo in (ContrastiveELBO(), Trace_ELBO()):
        pyro.set_rng_seed(0)
        losses.append(elbo.differentiable_loss(model, guide))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("of", ["model", "guide", "both"])
@pytest.mark.parametrize(
    "context",
    [
        poutine.scale(scale=0.1),
        poutine.mask(mask=torch.tensor([True, False, True])),
        poutine.mask(mask=torch.tensor(False)),
        poutine.mask(mask=False),
    ],
    ids=["scale", "mask", "masked out", "false"],
)
@pytest.mark.parametrize("family", [dist.Normal, dist.Delta, "no exact divergence"])
def test_each_density_has_the_scale_and_mask_of_its_site(context, of, family):
    """A guide's exact divergence has the guide's; what stands at the sample, each its own."""
    prior = dist.Normal(torch.zeros(3), 1.0)
    if family == "no exact divergence":
        weights = dist.Categorical(torch.ones(3, 2))
        prior = dist.MixtureSameFamily(weights, dist.Normal(torch.zeros(3, 2), 1.0))
    mean = torch.tensor([0.5, -1.0, 2.0])
    q = dist.Delta(mean, mean) if family is dist.Delta else dist.Normal(mean, 0.5)

    def model():
        with context if of != "guide" else nullcontext(), pyro.plate("n", 3):
            pyro.sample("z", prior)

    def guide():
        with context if of != "model" else nullcontext(), pyro.plate("n", 3):
            pyro.sample("z", q)

    stock = TraceMeanField_ELBO() if family is dist.Normal else Trace_ELBO()
    losses = []
    for elbo in (ContrastiveELBO(), stock):
        pyro.set_rng_seed(0)
        losses.append(torch.as_tensor(elbo.differentiable_loss(model, guide)))
    torch.testing.assert_close(*losses)


def test_a_point_of_several_coordinates_keeps_its_density():
    def model():
        pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    def guide():
        pyro.sample("x", dist.Delta(torch.ones(3), torch.full((3,), 0.5)).to_event(1))

    expected = 1.5 - dist.Normal(0.0, 1.0).log_prob(torch.ones(3)).sum().item()
    for kl in ("auto", "exact", "monte_carlo"):
        assert ContrastiveELBO(kl).loss(model, guide) == pytest.approx(expected)


def test_sites_that_only_one_side_has_are_named():
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def discrete():
        pyro.sample("a", dist.Bernoulli(0.5), infer={"is_auxiliary": True})
        model()

    with pytest.raises(NotImplementedError, match="auxiliary site 'a': use a posterior or a"):
        ContrastiveELBO().differentiable_loss(model, discrete)
    with (
        pytest.warns(UserWarning, match="Found vars in model but not guide"),
        pytest.raises(NotImplementedError, match="guide has no site 'z', which the model draws"),
    ):
        ContrastiveELBO().differentiable_loss(model, lambda: None)


@pytest.mark.parametrize("kl", ["exact", "monte_carlo"])
def test_a_latent_whose_shape_its_plates_do_not_explain_is_named(kl):
    def pair():
        with pyro.plate("items", 4):
            pyro.sample("z", dist.Normal(torch.zeros(3, 4), 1.0))

    for elbo in (ContrastiveELBO(kl), TraceMeanField_ELBO()):
        with pytest.raises(ValueError, match='at site "z", invalid log_prob shape'):
            elbo.differentiable_loss(pair, pair)


def test_what_depends_on_a_discrete_sample_is_named():
    def model(data):
        r = pyro.sample("r", dist.Categorical(torch.ones(3) / 3))
        pyro.sample("x", dist.Normal(r.float(), 1.0), obs=data)

    def guide(data):
        pyro.sample("r", dist.Categorical(torch.ones(3) / 3))

    with pytest.raises(NotImplementedError, match=r"'x': it depends on the sample of 'r'.*TraceEn"):
        ContrastiveELBO().differentiable_loss(model, guide, torch.tensor(0.5))

    def later(data=None):
        r = pyro.sample("r", dist.Categorical(torch.ones(3) / 3))
        pyro.sample("z", dist.Normal(r.float(), 1.0))

    with pytest.raises(NotImplementedError, match="'kl_z': it depends on the sample of 'r'"):
        ContrastiveELBO().differentiable_loss(later, later)

    def coin():
        pyro.sample("c", dist.Bernoulli(0.3))

    def fair_coin():
        pyro.sample("c", dist.Bernoulli(0.5))

    expected = torch.distributions.kl_divergence(dist.Bernoulli(0.3), dist.Bernoulli(0.5))
    torch.testing.assert_close(ContrastiveELBO().differentiable_loss(fair_coin, coin), expected)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"kl must be 'auto' or 'exact' or .*got 'precise'"):
        ContrastiveELBO("precise")

    program = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16), VonMisesFisherPrior())
    with pytest.raises(ValueError, match="got ProjectedNormal against VonMisesFisher"):
        ContrastiveELBO("gaussian_bound")(program.model, program.guide)(VIEWS)
    assert ContrastiveELBO()(program.model, program.guide)(VIEWS).isfinite()

    with pytest.raises(ValueError, match="kl must be"):
        ContrastiveELBO({"z": "precise"})

    def power_spherical():
        pyro.sample("z", PowerSpherical(torch.eye(3)[0], 2.0))

    def von_mises_fisher():
        pyro.sample("z", VonMisesFisher(torch.eye(3)[0], 2.0))

    with pytest.raises(ValueError, match="no exact divergence of VonMisesFisher from PowerSpher"):
        ContrastiveELBO("exact").differentiable_loss(power_spherical, von_mises_fisher)

    def mixture():
        parts = dist.Normal(torch.zeros(2), 1.0)
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts))

    with pytest.raises(NotImplementedError, match="guide's site 'z': a MixtureSameFamily has no"):
        ContrastiveELBO().differentiable_loss(mixture, mixture)
