"""Guides that Pyro brings: messengers, autoguides and factors, as in its own objectives."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoHierarchicalNormalMessenger,
    AutoNormalMessenger,
    AutoRegressiveMessenger,
)

from probcl.distributions import VonMisesFisher
from probcl.infer import ContrastiveELBO


@pytest.mark.parametrize(
    "messenger", [AutoNormalMessenger, AutoHierarchicalNormalMessenger, AutoRegressiveMessenger]
)
def test_a_messenger_guide_has_the_loss_of_trace_elbo_at_the_same_sample(messenger):
    def model(data):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("items", 3), pyro.poutine.scale(scale=0.5):
            z = pyro.sample("z", dist.LogNormal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data)
            pyro.factor("f", -z)

    data = torch.tensor([0.1, 1.0, 2.0])
    guide = messenger(model)
    guide(data)
    losses = []
    for elbo in (ContrastiveELBO(), Trace_ELBO()):
        pyro.set_rng_seed(0)
        losses.append(elbo.differentiable_loss(model, guide, data))
    torch.testing.assert_close(*losses)
    ours, theirs = (torch.autograd.grad(loss, list(guide.parameters())) for loss in losses)
    torch.testing.assert_close(ours, theirs)
    assert ContrastiveELBO()(model, guide)(data).isfinite()


@pytest.mark.parametrize("local", [False, True])
def test_the_module_owns_the_parameters_of_an_autoguide(local):
    def model():
        pyro.sample("z", dist.Normal(3.0, 1.0))

    with pyro.settings.context(module_local_params=local):
        guide = AutoDiagonalNormal(model)
        guide()
    loss = ContrastiveELBO()(model, guide)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert abs(guide.loc.item() - 3) < 1


def test_a_messenger_guide_keeps_exact_divergences():
    class Directions(AutoNormalMessenger):
        def get_posterior(self, name, prior):
            return VonMisesFisher(torch.eye(5)[1], 3.0)

    def model():
        pyro.sample("z", VonMisesFisher(torch.eye(5)[0], 2.0))

    exact = torch.distributions.kl_divergence(
        VonMisesFisher(torch.eye(5)[1], 3.0), VonMisesFisher(torch.eye(5)[0], 2.0)
    )
    guide = Directions(model)
    torch.testing.assert_close(ContrastiveELBO("exact").terms(model, guide)["kl_z"], exact)

    def classes():
        r = pyro.sample("r", dist.Categorical(torch.ones(3) / 3))
        pyro.sample("x", dist.Normal(r.float(), 1.0), obs=torch.tensor(0.5))

    class Classes(AutoNormalMessenger):
        def get_posterior(self, name, prior):
            return dist.Categorical(torch.tensor([0.2, 0.3, 0.5]))

    with pytest.raises(NotImplementedError, match="'x': it depends on the sample of 'r'"):
        ContrastiveELBO().terms(classes, Classes(classes))


@pytest.mark.parametrize(
    ("kl", "stock"), [("exact", TraceMeanField_ELBO()), ("monte_carlo", Trace_ELBO())]
)
def test_a_factor_of_the_guide_counts_as_in_stock_pyro(kl, stock):
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        z = pyro.sample("z", dist.Normal(1.0, 2.0))
        pyro.factor("f", z.square(), has_rsample=True)

    losses = []
    for elbo in (ContrastiveELBO(kl), stock):
        pyro.set_rng_seed(0)
        losses.append(elbo.differentiable_loss(model, guide))
    torch.testing.assert_close(*losses)

    def scored():
        pyro.factor("f", pyro.sample("z", dist.Normal(1.0, 2.0)), has_rsample=False)

    with pytest.raises(NotImplementedError, match="site 'f': use a posterior or a factor with"):
        ContrastiveELBO(kl).differentiable_loss(model, scored)
