"""Latent directions under AutoGuides and NUTS."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from probcl.distributions import (
    HypersphericalUniform,
    PowerSpherical,
    ProjectedNormal,
    SphereReparam,
    VonMisesFisher,
)
from probcl.sphere import log_area, normalize

PRIORS = {
    "uniform": lambda: HypersphericalUniform(3),
    "von_mises_fisher": lambda: VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), 3.0),
    "power_spherical": lambda: PowerSpherical(torch.tensor([0.0, 0.0, 1.0]), 3.0),
    "mixture": lambda: dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), VonMisesFisher(torch.eye(3)[:2], 4.0)
    ),
}


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)
    pyro.clear_param_store()


def reparametrised(model):
    return poutine.reparam(model, config={"z": SphereReparam()})


@pytest.mark.parametrize("prior", list(PRIORS))
def test_joint_density_is_that_of_the_model(prior) -> None:
    """p(x) r(z) = N(x) p(z) / uniform(z): dividing by N(x) leaves p(z) up to the area."""

    @reparametrised
    def model():
        return pyro.sample("z", PRIORS[prior]())

    trace = poutine.trace(model).get_trace()
    x, z = trace.nodes["z_normal"]["value"], trace.nodes["z"]["value"]
    torch.testing.assert_close(z, normalize(x))
    total = trace.log_prob_sum() - dist.Normal(0.0, 1.0).log_prob(x).sum()
    torch.testing.assert_close(total, PRIORS[prior]().log_prob(z) + log_area(3))


@pytest.mark.parametrize("prior", list(PRIORS))
def test_every_prior_can_be_started_and_guided(prior) -> None:
    @reparametrised
    def model():
        pyro.sample("z", PRIORS[prior]())

    MCMC(NUTS(model), num_samples=2, warmup_steps=2, disable_progbar=True).run()
    assert AutoNormal(model)()["z_normal"].shape == (3,)


def test_other_mixtures_are_refused_as_torch_does_and_those_not_freed_told_how() -> None:
    normal = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2), 1))
    for to in (torch.distributions.transform_to, torch.distributions.biject_to):
        with pytest.raises(NotImplementedError, match="MixtureSameFamily"):
            to(normal.support)
    with pytest.raises(ValueError, match="free it with"):
        torch.distributions.biject_to(PRIORS["mixture"]().support)


def test_plates_events_and_scales() -> None:
    loc = normalize(torch.randn(4, 3, dtype=torch.float64))

    @reparametrised
    def model():
        with pyro.plate("rows", 10, subsample_size=5, dim=-1):
            return pyro.sample("z", VonMisesFisher(loc, 2.0).to_event(1))

    trace = poutine.trace(model).get_trace()
    z = trace.nodes["z"]["value"]
    assert z.shape == trace.nodes["z_normal"]["value"].shape == (5, 4, 3)
    assert z.dtype == torch.float64
    trace.compute_log_prob()
    expected = VonMisesFisher(loc, 2.0).log_prob(z).sum(-1) + 4 * log_area(3)
    torch.testing.assert_close(trace.nodes["z"]["unscaled_log_prob"], expected)
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], 2 * expected)


def test_observed_sites_are_left_alone() -> None:
    data = normalize(torch.randn(6, 3))

    @reparametrised
    def model():
        with pyro.plate("data", 6):
            pyro.sample("z", VonMisesFisher(torch.eye(3)[0], 2.0), obs=data)

    trace = poutine.trace(model).get_trace()
    assert "z_normal" not in trace.nodes
    expected = VonMisesFisher(torch.eye(3)[0], 2.0).log_prob(data).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def conjugate_model(data, prior_loc, prior_kappa, kappa):
    z = pyro.sample("z", VonMisesFisher(prior_loc, prior_kappa))
    with pyro.plate("data", len(data)):
        pyro.sample("x", VonMisesFisher(z, kappa), obs=data)


@pytest.fixture
def conjugate():
    """Data, and the posterior of their mean direction: von Mises-Fisher again."""
    prior_loc = normalize(torch.tensor([1.0, 1.0, 0.0]))
    data = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), 4.0).sample((3,))
    total = 2.0 * prior_loc + 4.0 * data.sum(0)
    posterior = VonMisesFisher(normalize(total), total.norm())
    return (data, prior_loc, 2.0, 4.0), posterior


@pytest.mark.slow
def test_nuts_recovers_a_conjugate_posterior(conjugate) -> None:
    arguments, posterior = conjugate
    kernel = NUTS(reparametrised(conjugate_model), jit_compile=False)
    mcmc = MCMC(kernel, num_samples=250, warmup_steps=80, disable_progbar=True)
    mcmc.run(*arguments)
    z = normalize(mcmc.get_samples()["z_normal"])
    # four standard errors at sixty effective samples out of 250
    bound = 4 * posterior.variance.sqrt() / 60**0.5
    assert ((z.mean(0) - posterior.mean).abs() < bound).all()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("likelihood", ["von_mises_fisher", "power_spherical", "projected_normal"])
def test_nuts_draws_alike_with_a_compiled_density(likelihood) -> None:
    families = {
        "von_mises_fisher": VonMisesFisher,
        "power_spherical": PowerSpherical,
        "projected_normal": lambda z, k: ProjectedNormal(z, 1 / k),
    }
    data = VonMisesFisher(torch.eye(3, dtype=torch.float64)[0], 5.0).sample((4,))

    @reparametrised
    def model():
        k = pyro.sample("k", dist.LogNormal(torch.zeros((), dtype=torch.float64), 1.0))
        z = pyro.sample("z", VonMisesFisher(torch.eye(3, dtype=torch.float64)[1], 1.0))
        with pyro.plate("data", 4):
            pyro.sample("x", families[likelihood](z, k), obs=data)

    draws = []
    for compiled in (False, True):
        pyro.set_rng_seed(0)
        kernel = NUTS(model, jit_compile=compiled, ignore_jit_warnings=True)
        mcmc = MCMC(kernel, num_samples=3, warmup_steps=3, disable_progbar=True)
        mcmc.run()
        draws.append(mcmc.get_samples())
    torch.testing.assert_close(*draws)


def test_auto_normal_approaches_the_posterior(conjugate) -> None:
    arguments, posterior = conjugate
    model = reparametrised(conjugate_model)
    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(num_particles=2))
    for _ in range(100):
        loss = svi.step(*arguments)
    assert torch.isfinite(torch.tensor(loss))
    draws = Predictive(model, guide=guide, num_samples=300)(*arguments)["z"].squeeze()
    cosine = normalize(draws.mean(0)) @ posterior.mode
    assert cosine > 0.97


def test_an_initial_value_is_kept() -> None:
    value = normalize(torch.randn(3))
    site = VonMisesFisher(torch.eye(3)[0], 2.0)
    message = {"name": "z", "fn": site, "value": value, "is_observed": False}
    with poutine.trace() as inner:
        result = SphereReparam().apply(message)
    assert torch.equal(result["value"], value)
    torch.testing.assert_close(normalize(inner.trace.nodes["z_normal"]["value"]), value)
