"""AutoSphere: conjugate posteriors, plates, lists of guides, and what it refuses."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoGuideList, AutoNormal
from pyro.infer.autoguide.initialization import init_to_value

from probcl.distributions import (
    HypersphericalUniform,
    PowerSpherical,
    ProjectedNormal,
    SphereReparam,
    VonMisesFisher,
)
from probcl.infer import AutoSphere, ContrastiveELBO
from probcl.sphere import normalize

families = pytest.mark.parametrize("family", [VonMisesFisher, ProjectedNormal])


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def fit(model, guide, *args, steps=150, loss=None):
    optimizer = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.01 ** (1 / steps)})
    svi = SVI(model, guide, optimizer, loss or Trace_ELBO())
    for _ in range(steps):
        svi.step(*args)


def mean_of(data):
    z = pyro.sample("z", VonMisesFisher(torch.eye(3)[0], 2.0))
    with pyro.plate("data", len(data)):
        pyro.sample("x", VonMisesFisher(z, 4.0), obs=data)


@families
def test_a_start_is_not_trained(family):
    start = torch.eye(3)[2]
    data = VonMisesFisher(torch.eye(3)[0], 4.0).sample((12,))
    for _ in range(2):
        init = init_to_value(values={"z": start})
        guide = AutoSphere(mean_of, family=family, init_loc_fn=init)
        fit(mean_of, guide, data, steps=3)
        assert torch.equal(start, torch.eye(3)[2])
        assert not torch.equal(guide.directions()["z"].loc, start)


@families
def test_it_finds_a_conjugate_posterior(family):
    data = VonMisesFisher(torch.eye(3)[2], 4.0).sample((12,))
    total = 2 * torch.eye(3)[0] + 4 * data.sum(0)
    exact = VonMisesFisher(normalize(total), total.norm())
    guide = AutoSphere(mean_of, family=family)
    fit(mean_of, guide, data, steps=100, loss=Trace_ELBO(8, vectorize_particles=True))
    found = guide.directions()["z"]
    assert isinstance(found, family) and not found.loc.requires_grad
    assert found.mean_direction @ exact.loc > 0.998
    assert found.entropy() == pytest.approx(exact.entropy().item(), abs=0.2)
    torch.testing.assert_close(guide.median(), {"z": found.mean_direction})
    draws = Predictive(mean_of, guide=guide, num_samples=2000)(data)["z"].squeeze()
    torch.testing.assert_close(draws.mean(0), exact.mean, rtol=0, atol=0.04)


def test_the_elbo_of_the_exact_posterior_is_the_evidence():
    """With the divergence in closed form too, and the same from each objective."""

    def model():
        pyro.sample("z", VonMisesFisher(torch.eye(3)[0], 25.0))

    guide = AutoSphere(model, init_loc_fn=init_to_value(values={"z": torch.eye(3)[0]}))
    exact = torch.distributions.kl_divergence(
        VonMisesFisher(torch.eye(3)[0], 100.0), VonMisesFisher(torch.eye(3)[0], 25.0)
    )
    for elbo in (TraceMeanField_ELBO(), ContrastiveELBO()):
        assert elbo.loss(model, guide) == pytest.approx(exact.item(), rel=1e-5)
    sampled = Trace_ELBO(num_particles=4000, vectorize_particles=True).loss(model, guide)
    assert sampled == pytest.approx(exact.item(), abs=0.05)
    fit(model, guide, steps=60, loss=TraceMeanField_ELBO())
    assert TraceMeanField_ELBO().loss(model, guide) < 0.01


def groups(data, rows=None):
    """Directions and scales of 20 groups, of which ``rows`` are looked at."""
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    north = pyro.sample("north", HypersphericalUniform(3))
    with pyro.plate("pairs", 2, dim=-2), pyro.plate("groups", 20, subsample=rows):
        z = pyro.sample("local.z", VonMisesFisher(north, 5.0).expand([2, 1]))
        width = pyro.sample("local.width", dist.Gamma(2.0, 1.0))
        axes = pyro.sample("axes", VonMisesFisher(torch.eye(4), 3.0).to_event(1))
        seen = data if rows is None else data[:, rows]
        pyro.sample("x", VonMisesFisher(z, scale * width + axes[..., 0, 0].exp()), obs=seen)


@families
@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO(), ContrastiveELBO()])
def test_plates_events_and_subsamples(family, loss):
    data = normalize(torch.randn(2, 20, 3))
    rows = torch.tensor([3, 11, 12])

    def plates(data, rows=None):
        return [pyro.plate("pairs", 2, dim=-2), pyro.plate("groups", 20, subsample=rows, dim=-1)]

    guide = AutoSphere(groups, family=family, create_plates=plates)
    guide(data, rows)
    before = guide.directions()
    assert {name: (q.batch_shape, q.event_shape) for name, q in before.items()} == {
        "north": ((), (3,)),
        "local.z": ((2, 20), (3,)),
        "axes": ((2, 20, 4), (4,)),
    }
    sample = guide(data, rows)
    shapes = {"scale": (), "north": (3,), "local.z": (2, 3, 3), "axes": (2, 3, 4, 4)}
    assert {name: sample[name].shape for name in shapes} == shapes
    fit(groups, guide, data, rows, steps=2, loss=loss)
    moved = (guide.directions()["local.z"].loc - before["local.z"].loc).abs().amax((0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == rows.tolist()
    assert {name: value.shape for name, value in guide.median().items()} == {
        "scale": (),
        "north": (3,),
        "local.z": (2, 20, 3),
        "local.width": (2, 20),
        "axes": (2, 20, 4, 4),
    }
    found = guide.quantiles([0.05, 0.5, 0.95])
    assert set(found) == {"scale", "local.width"}
    assert (found["local.width"].diff(dim=0) > 0).all()
    torch.testing.assert_close(found["scale"][1], guide.median()["scale"])


def test_a_subsample_is_weighed_as_all():
    """Over all subsamples the objective's mean is that of all data."""
    data = normalize(torch.randn(6, 3))

    def model(rows):
        with pyro.plate("data", 6, subsample=rows):
            pyro.sample("z", VonMisesFisher(data if rows is None else data[rows], 3.0))

    def plates(rows):
        return pyro.plate("data", 6, subsample=rows)

    guide = AutoSphere(model, create_plates=plates)
    guide(None)
    parts = [TraceMeanField_ELBO().loss(model, guide, rows) for rows in torch.arange(6).split(2)]
    assert sum(parts) / 3 == pytest.approx(TraceMeanField_ELBO().loss(model, guide, None))


def mixture(data):
    axes = torch.eye(3)[:2]
    with pyro.plate("components", 2):
        z = pyro.sample("z", VonMisesFisher(axes, 1.0))
    with pyro.plate("data", len(data)):
        k = pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
        pyro.sample("x", VonMisesFisher(z[k], 20.0), obs=data)


def test_within_a_list_of_guides_and_beside_enumeration():
    data = torch.cat([VonMisesFisher(axis, 20.0).sample((30,)) for axis in torch.eye(3)[:2]])
    start = init_to_value(values={"z": normalize(torch.eye(3)[:2] + 0.5)})
    guide = AutoGuideList(mixture)
    guide.append(AutoSphere(poutine.block(mixture, expose=["z"]), init_loc_fn=start))
    fit(mixture, guide, data, steps=60, loss=TraceEnum_ELBO(max_plate_nesting=1))
    found = guide.median()["z"]
    truth = normalize(torch.stack([data[:30].sum(0), data[30:].sum(0)]))
    assert ((found * truth).sum(-1) > 0.99).all()
    assert guide.quantiles([0.5]) == {}


def test_parts_of_one_model_share_its_plates():
    def model():
        with pyro.plate("items", 10, subsample_size=4):
            pyro.sample("z", HypersphericalUniform(3))
            pyro.sample("y", dist.Normal(0.0, 1.0))

    guide = AutoGuideList(model)
    guide.append(AutoSphere(poutine.block(model, hide=["y"])))
    guide.append(AutoNormal(poutine.block(model, hide=["z"])))
    assert {name: len(value) for name, value in guide().items()} == {"z": 4, "y": 4}
    assert len(guide.median()["z"]) == 10
    assert guide.call()[1].shape == (4, 3)


@pytest.mark.parametrize("sites", ["directions", "numbers"])
def test_models_of_one_kind_of_site(sites):
    def model():
        pyro.sample("a", HypersphericalUniform(2) if sites == "directions" else dist.Normal(0, 1))

    guide = AutoSphere(model)
    assert guide.directions() == {}
    assert set(guide()) == set(guide.median()) == {"a"}
    assert set(guide.directions()) == ({"a"} if sites == "directions" else set())


PRIORS = {
    "mixture": dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), VonMisesFisher(torch.eye(3)[:2], 4.0)
    ),
    "power spherical": PowerSpherical(torch.eye(3)[0], 2.0),
    "Pyro's own": dist.ProjectedNormal(torch.ones(3)),
    "masked": VonMisesFisher(torch.eye(3)[0], 2.0).mask(False),
}


@pytest.mark.parametrize("prior", list(PRIORS))
def test_every_prior_on_the_sphere_has_a_direction(prior):
    def model():
        pyro.sample("z", PRIORS[prior])

    guide = AutoSphere(model)
    assert guide()["z"].norm().item() == pytest.approx(1)
    assert Trace_ELBO().differentiable_loss(model, guide).isfinite()


def test_it_starts_where_it_is_told_in_the_type_of_the_site():
    start = normalize(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))

    def model():
        pyro.sample("z", HypersphericalUniform(3, dtype=torch.float64))
        pyro.sample("y", dist.ImproperUniform(dist.constraints.positive, (), ()))

    values = {"z": start, "y": torch.tensor(2.0)}
    guide = AutoSphere(model, init_loc_fn=init_to_value(values=values), init_scale=0.02)
    assert guide()["z"].dtype == torch.float64
    torch.testing.assert_close(guide.median(), values)
    torch.testing.assert_close(
        guide.directions()["z"].concentration, torch.tensor(2500.0, dtype=torch.float64)
    )


def test_it_is_kept_with_its_parameters():
    guide = AutoSphere(mean_of)
    data = torch.eye(3)
    fit(mean_of, guide, data, steps=3)
    again = AutoSphere(mean_of)
    again(data)
    again.load_state_dict(guide.state_dict())
    torch.testing.assert_close(again.median(), guide.median())
    assert copy.deepcopy(guide).directions()["z"].concentration > 0


def improper():
    pyro.sample("rate", dist.ImproperUniform(dist.constraints.positive, (), ()))


def improper_direction():
    pyro.sample("rate", dist.ImproperUniform(dist.constraints.sphere, (), (3,)))


@pytest.mark.parametrize("model", [improper, improper_direction])
def test_an_improper_site_is_refused_in_one_sentence(model):
    with pytest.raises(ValueError, match=r"^Site 'rate' is improper.*init_to_value") as caught:
        AutoSphere(model)()
    assert str(caught.value).rstrip(".").count(". ") == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="family must be VonMisesFisher or ProjectedNormal, got"):
        AutoSphere(mean_of, family=PowerSpherical)
    with pytest.raises(ValueError, match="init_scale must be a finite number above 0, got 0"):
        AutoSphere(mean_of, init_scale=0)
    with pytest.raises(ValueError, match="discrete sample site 'k'"):
        AutoSphere(mixture)(torch.eye(3))


@pytest.mark.parametrize(
    "infer",
    [
        lambda model: AutoNormal(model)(),
        lambda model: AutoDiagonalNormal(model)(),
        lambda model: NUTS(model).setup(warmup_steps=1),
    ],
)
@pytest.mark.parametrize("event", [False, True])
def test_what_needs_free_coordinates_names_sphere_reparam(infer, event):
    def model():
        prior = VonMisesFisher(torch.eye(3), 2.0)
        pyro.sample("z", prior.to_event(1) if event else HypersphericalUniform(3))

    with pytest.raises(ValueError, match=r"poutine.reparam\(model.*SphereReparam.*AutoSphere"):
        infer(model)
    infer(poutine.reparam(model, config={"z": SphereReparam()}))
    assert AutoDelta(model)()["z"].norm(dim=-1).allclose(torch.ones(()))  # needs no such thing


def test_sphere_reparam_is_for_directions():
    model = poutine.reparam(
        lambda: pyro.sample("y", dist.Normal(0.0, 1.0).expand([3]).to_event(1)),
        config={"y": SphereReparam()},
    )
    with pytest.raises(ValueError, match="SphereReparam is for sites on the sphere, but 'y' has"):
        model()


def hierarchy(runs, groups, items, data=None):
    """Directions of groups about a common one, and observations about those: ``runs`` times."""
    with pyro.plate("runs", runs, dim=-3):
        between = pyro.sample("between", dist.LogNormal(2.5, 0.5))
        within = pyro.sample("within", dist.LogNormal(3.0, 0.5))
        north = pyro.sample("north", HypersphericalUniform(3))
        with pyro.plate("groups", groups, dim=-2):
            z = pyro.sample("z", VonMisesFisher(north, between))
            with pyro.plate("items", items, dim=-1):
                return pyro.sample("x", VonMisesFisher(z, within), obs=data)


@pytest.mark.slow
@families
def test_intervals_cover_the_truth_as_often_as_they_say(family):
    """Over truths drawn from the prior the intervals of the exact posterior cover 90 %.

    The guide's independence costs little here: of the variance of ``north`` some 5 %.
    """
    sizes = 200, 24, 12
    trace = poutine.trace(hierarchy).get_trace(*sizes)
    truth = {name: trace.nodes[name]["value"] for name in ("between", "within", "north", "z")}
    data = trace.nodes["x"]["value"]
    guide = AutoSphere(hierarchy, family=family)
    fit(hierarchy, guide, *sizes, data, steps=400)
    covered = {}
    for name, (low, high) in guide.quantiles([0.05, 0.95]).items():
        covered[name] = (low < truth[name]) & (truth[name] < high)
    for name, q in guide.directions().items():
        cosine = (q.sample((1000,)) * q.mean_direction).sum(-1)
        covered[name] = (truth[name] * q.mean_direction).sum(-1) > cosine.quantile(0.1, dim=0)
    share = {name: inside.double().mean().item() for name, inside in covered.items()}
    print(share)
    assert set(share) == set(truth)
    assert all(0.85 < x < 0.95 for x in share.values()), share


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_nuts_agrees():
    sizes = 1, 5, 6
    with torch.no_grad():
        data = hierarchy(*sizes)
    guide = AutoSphere(hierarchy)
    fit(hierarchy, guide, *sizes, data, steps=400)
    free = {"north": SphereReparam(), "z": SphereReparam()}
    model = poutine.reparam(hierarchy, config=free)
    kernel = NUTS(model, max_tree_depth=4, jit_compile=True, ignore_jit_warnings=True)
    mcmc = MCMC(kernel, num_samples=150, warmup_steps=80, disable_progbar=True)
    mcmc.run(*sizes, data)
    draws = mcmc.get_samples()
    for name, q in guide.directions().items():
        z = normalize(draws[f"{name}_normal"])
        cosine = (normalize(z.mean(0)) * q.mean_direction).sum(-1)
        assert (1 - cosine < 0.2 * (1 - q.mean_resultant_length)).all()
        length = z.mean(0).norm(dim=-1)
        spread = (1 - length) / (1 - q.mean_resultant_length)
        assert 0.7 < spread.mean() < 1.6
    for name, (low, high) in guide.quantiles([0.16, 0.84]).items():
        middle, width = draws[name].log().mean(), draws[name].log().std()
        assert (
            abs(middle - (low * high).log() / 2) < 0.6 * width
        )  # of five groups: the guide, and the error of the draws
        assert 0.7 < width / ((high / low).log() / 2) < 1.5
