"""What holds for every program: sites and shapes, training, freezing, what it refuses."""

import copy
import inspect
import subprocess
import sys

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Categorical, MixtureSameFamily, Normal, TransformedDistribution
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.inspect import get_model_relations
from pyro.poutine.util import prune_subsample_sites
from torch import nn
from torch.distributions import Transform, constraints

from probcl import programs
from probcl.distributions import ProjectedNormal, VonMisesFisher
from probcl.infer import ContrastiveELBO
from probcl.nn import VonMisesFisherMixturePrior, VonMisesFisherPrior
from probcl.programs import SwAV, VSimCLR
from probcl.sphere import normalize

SUPERVISED = (
    "VSupCon", "MCSupCon", "SupCon", "VarCon", "ProbabilisticVarCon", "SupExpectedLikelihood",
    "CrossEntropy", "Match",
)  # fmt: skip
CONTRASTING = ("VSimCLR", "MCInfoNCE", "SimCLR", "ExpectedLikelihood")
SAMPLED = ("VSimCLR", "VSupCon", "MCInfoNCE", "MCSupCon", "ProbabilisticVarCon")
#: Those that differ by name from what their papers have are told of in the docstrings.
CORRECTED = {"temperature_correction": True}
DEFAULTS = {
    "VSimCLR": {"temperature": 0.07, "beta": 0.005, "num_samples": 1} | CORRECTED,
    "VSupCon": {
        "temperature": 0.07, "beta": 0.005, "num_samples": 1, "average": "outside"
    } | CORRECTED,
    "MCInfoNCE": {"temperature": 0.05, "beta": 0.0, "num_samples": 16},
    "MCSupCon": {"temperature": 0.05, "beta": 0.0, "average": "outside", "num_samples": 16},
    "SimCLR": {"temperature": 0.1},
    "SupCon": {"temperature": 0.1, "average": "outside"},
    "Match": {
        "temperature": 0.1, "average": "outside", "memory": 4096, "neighbours": 5, "hidden": 128
    },
    "VarCon": {"temperature": 0.1, "epsilon": 0.02, "learn_epsilon": False},
    "ProbabilisticVarCon": {
        "temperature": 0.1, "epsilon": 0.02, "learn_epsilon": False, "beta": 0.1, "num_samples": 1
    } | CORRECTED,
    "ExpectedLikelihood": {"positive_concentration": None},
    "SupExpectedLikelihood": {"positive_concentration": None},
    "MoCo": {"temperature": 0.2, "momentum": 0.99, "queue_size": 4096},
    "BYOL": {"momentum": 0.996},
    "SwAV": {
        "num_prototypes": 256, "temperature": 0.1, "sinkhorn_epsilon": 0.05,
        "sinkhorn_iterations": 3,
    },
    "VICReg": {"invariance_weight": 25.0, "variance_weight": 25.0, "covariance_weight": 1.0},
    "BarlowTwins": {"redundancy_weight": 0.005},
}  # fmt: skip


def loss_of(program):
    return ContrastiveELBO()(program.model, program.guide)


def kind_of(program):
    return type(program).__name__


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_program_has_its_published_defaults(name):
    """Modules aside, of which each has a default of its own."""
    parameters = inspect.signature(getattr(programs, name)).parameters
    modules = {"encoder", "posterior", "prior", "projection", "predictor"}
    defaults = {key: p.default for key, p in parameters.items() if key not in modules}
    temperature = {"learn_temperature": False} if "temperature" in defaults else {}
    assert defaults == DEFAULTS[name] | temperature


@pytest.mark.parametrize("count", [2, 3])
def test_every_learned_parameter_has_a_gradient(program, labels, count):
    loss_of(program)(torch.rand(count, 6, 1, 8, 8), labels).backward()
    learned = {name: p for name, p in program.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned.values())
    others = set(dict(program.named_parameters())) - set(learned)
    assert all(name.startswith("target.") for name in others)


def test_images_and_features_have_posteriors_on_the_sphere(program, views):
    posterior = program(views[0])
    assert posterior.batch_shape == (6,)
    assert posterior.event_shape == (5,)
    torch.testing.assert_close(posterior.mean_direction.norm(dim=-1), torch.ones(6))
    features = program.encoder(views.flatten(0, 1)).unflatten(0, (2, 6))
    assert program.posterior_from_features(features).batch_shape == (2, 6)


def test_the_projection_is_the_embedding_before_normalisation(program, views):
    features = program.eval().encoder(views.flatten(0, 1)).unflatten(0, (2, 6))
    projection = program.project(features)
    assert projection.shape == (2, 6, 5)
    expected = normalize(program.posterior_from_features(features).loc)
    torch.testing.assert_close(normalize(projection), expected)
    assert projection.norm(dim=-1).std() > 1e-4


def test_a_head_without_a_projection_gives_unit_vectors(views):
    class Head(nn.Module):
        dim = 5

        def forward(self, features):
            return ProjectedNormal(features[..., :5])

    program = VSimCLR(nn.Flatten(), Head())
    projection = program.project(program.encoder(views[0]))
    torch.testing.assert_close(projection, normalize(views[0].flatten(1)[:, :5]))


def test_a_trace_has_shapes_that_pyro_expects(program, views, labels):
    guide = poutine.trace(program.guide).get_trace(views, labels)
    model = poutine.trace(poutine.replay(program.model, guide)).get_trace(views, labels)
    assert model.format_shapes()
    several = {"samples"} & set(guide.nodes)
    for name, site in model.nodes.items():
        if site["type"] == "sample" and "views" in model.nodes and name in "zry":
            assert site["fn"].batch_shape == ((3,) if several else ()) + (2, 6)
    observed = [name for name, site in model.nodes.items() if site.get("is_observed")]
    assert set(observed) & {"contrastive", "y"}


def test_an_unconditioned_model_draws_from_the_prior(program, views, labels):
    trace = poutine.trace(program.model).get_trace(views, labels)
    if "z" in trace.nodes:
        z = trace.nodes["z"]["value"]
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(z.shape[:-1]))


def test_views_may_come_as_a_sequence(program, views, labels):
    program.eval().materialize(views[0])
    losses = []
    for given in (views, list(views)):
        pyro.set_rng_seed(0)
        losses.append(loss_of(program)(given, labels))
    assert torch.equal(*losses)


def test_losses_are_in_full_precision_under_autocast(program, views, labels):
    program.eval().materialize(views[0])
    losses = []
    for enabled in (True, False):
        pyro.set_rng_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(loss_of(program)(views, labels))
        assert losses[-1].dtype == torch.float32
    torch.testing.assert_close(*losses, rtol=0.2, atol=0.05)


def test_predictive_draws_from_the_posterior(program, views, labels):
    program.eval().materialize(views[0])
    samples = Predictive(program.model, guide=program.guide, num_samples=3)(views, labels)
    trace = poutine.trace(program.guide).get_trace(views, labels)
    for name in prune_subsample_sites(trace).stochastic_nodes:
        assert samples[name].shape[0] == 3


def test_particles_may_be_drawn_at_once_by_stock_pyro(program, views, labels):
    program.eval().materialize(views[0])
    name = kind_of(program)
    nesting = 3 if name in ("MCInfoNCE", "MCSupCon") else 2
    kind = TraceEnum_ELBO if "VarCon" in name else Trace_ELBO
    elbo = kind(num_particles=3, vectorize_particles=True, max_plate_nesting=nesting)
    loss = elbo.loss(program.model, program.guide, views, labels)
    if name in SAMPLED:
        assert torch.tensor(loss).isfinite()
    else:
        expected = ContrastiveELBO().loss(program.model, program.guide, views, labels)
        assert loss == pytest.approx(expected, rel=1e-5)


def test_programs_that_are_copied_or_stored_train_apart(program, views, labels, tmp_path):
    loss_of(program)(views, labels)
    poutine.trace(program.guide).get_trace(views, labels)
    twin = copy.deepcopy(program)
    torch.save(program.state_dict(), tmp_path / "weights.pt")
    twin.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    ours, theirs = (each.eval()(views[0]).mean_direction for each in (program, twin))
    torch.testing.assert_close(ours, theirs)
    untouched = copy.deepcopy(program.state_dict())
    before = [parameter.detach().clone() for parameter in twin.parameters()]
    svi = SVI(twin.model, twin.guide, pyro.optim.Adam({"lr": 0.1}), ContrastiveELBO())
    losses = [svi.step(views, labels) for _ in range(2)]
    assert torch.tensor(losses).isfinite().all()
    changed = [not torch.equal(a, b) for a, b in zip(before, twin.parameters(), strict=True)]
    assert any(changed)
    state = program.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in untouched.items())


def test_a_frozen_encoder_stays_as_it_is(program, views, labels):
    assert program.freeze_encoder() is program
    program.materialize(views[0])  # frozen before it had any weights
    program = copy.deepcopy(program).train()
    assert program.training
    assert not any(module.training for module in program.encoder.modules())
    kept = {name: value.clone() for name, value in program.state_dict().items()}
    learned = [p for p in program.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(program)(views, labels).backward()
        optimizer.step()
    moved = {name for name, value in program.state_dict().items() if not value.equal(kept[name])}
    frozen = ("encoder.", "target.encoder.0.")
    assert not [name for name in moved if name.startswith(frozen)]
    assert moved


def test_a_part_that_is_in_eval_mode_is_materialized_in_it(make, views):
    program = make("VSimCLR")
    program.encoder.eval()
    program.materialize(views[0])
    assert program.training
    assert program.posterior_head.training
    assert not any(module.training for module in program.encoder.modules())


@pytest.mark.parametrize(("room", "light"), [("programs", ()), ("evaluation", ("scipy",))])
def test_rooms_need_neither_torchvision_nor_scikit_learn_nor_lightly(room, light):
    heavy = {"lightly", "torchvision", "sklearn", "scipy", "lightning", "matplotlib", "arviz"}
    code = f"import sys, probcl.{room}; print([m for m in {heavy - {*light}} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_an_evaluation_imports_neither_torchvision_nor_the_compiler():
    code = (
        "import sys, torch; from probcl.evaluation import evaluate; y = torch.arange(80) % 2;"
        "z = torch.eye(4)[y] + 0.1 * torch.randn(80, 4); evaluate(z[:40], y[:40], z[40:], y[40:]);"
        "print([m for m in ('torchvision', 'torch._dynamo', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# Bad input.


def test_bad_views_are_named(program, views, labels):
    loss = loss_of(program)
    for few, got in ((views[:1], r"\(1, 6, 1, 8, 8\)"), ([], "none"), (views[:, :0], r"\(2, 0, ")):
        with pytest.raises(ValueError, match=f"at least 2 views of each image.*got {got}"):
            loss(few, labels)
    if not isinstance(program, SwAV):
        for other in (views[1][:, :, :4], views[1][:3]):
            with pytest.raises(ValueError, match="views must all have one shape, got"):
                loss([views[0], other], labels)


@pytest.mark.parametrize("name", SUPERVISED)
def test_missing_labels_are_named(make, views, labels, name):
    loss = loss_of(make(name))
    with pytest.raises(ValueError, match=rf"{name} is supervised: pass labels.*\(6,\), got None"):
        loss(views)
    with pytest.raises(ValueError, match=rf"{name} is supervised: pass labels.*got shape \(5,\)"):
        loss(views, labels[:5])
    with pytest.raises(ValueError, match=r"labels must be integers, got torch\.float32"):
        loss(views, labels.float())


@pytest.mark.parametrize("name", CONTRASTING)
def test_a_batch_of_one_is_named(make, views, name):
    with pytest.raises(ValueError, match="batch must hold B >= 2 images"):
        loss_of(make(name).eval())(views[:, :1])


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_class_with_a_single_member_has_a_loss(make, views, name):
    labels = torch.tensor([0, 1, 2, 0, 0, 0])
    assert loss_of(make(name).eval())(views, labels).isfinite()


def test_weights_that_are_not_finite_are_named(program, views, labels):
    program.materialize(views[0])
    with torch.no_grad():
        next(program.encoder.parameters()).fill_(torch.nan)
    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match=r"must be finite|norm nan"),
    ):
        loss_of(program)(views, labels)


def test_its_relations_can_be_drawn(program, views, labels):
    program.materialize(views[0])
    relations = get_model_relations(program.model, model_args=(views, labels))
    assert relations["observed"]


class Head(nn.Module):
    """A head of a distribution that is made from the embeddings ``(*, 8)``."""

    dim = 8

    def __init__(self, make):
        super().__init__()
        self.linear, self.make = nn.LazyLinear(8), make

    def forward(self, features):
        return self.make(self.linear(features))


def mixture(x):
    loc = torch.stack([normalize(x), normalize(-x)], -2)
    parts = VonMisesFisher(loc, torch.tensor(5.0).expand(loc.shape[:-1]))
    return MixtureSameFamily(Categorical(logits=torch.zeros(loc.shape[:-1])), parts)


class Normalised(Transform):
    """A map onto the sphere, which has no inverse and so no density."""

    domain = codomain = constraints.real_vector

    def _call(self, x):
        return normalize(x)


def on_the_sphere(x):
    return TransformedDistribution(Normal(x, 1.0).to_event(1), [Normalised()])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (mixture, NotImplementedError, "cannot differentiate the guide's site 'z'"),
        (on_the_sphere, NotImplementedError, "site 'z' has no exact KL of TransformedDistribution"),
        (lambda x: Normal(x, 1.0), ValueError, r"event shape \(d,\), got \(\): apply .to_event"),
    ],
)
def test_posteriors_that_do_not_suffice_are_named(make, error, message, views):
    program = VSimCLR(nn.Flatten(), Head(make))
    with pytest.raises(error, match=message):
        loss_of(program)(views)


def test_without_a_kl_samples_are_enough(views):
    assert loss_of(VSimCLR(nn.Flatten(), Head(on_the_sphere), beta=0.0))(views).isfinite()


def test_priors_that_learn_nothing_are_refused():
    for beta in (0, 0.1):
        with pytest.raises(ValueError, match="prior must be a module whose forward"):
            VSimCLR(nn.Flatten(), prior=VonMisesFisher(torch.eye(2)[0], 1.0), beta=beta)
    with pytest.raises(ValueError, match="prior has weights, which learn nothing with beta 0"):
        programs.MCInfoNCE(nn.Flatten(), prior=VonMisesFisherMixturePrior())
    programs.MCInfoNCE(nn.Flatten(), prior=VonMisesFisherPrior())  # it has nothing to learn
    programs.MCInfoNCE(nn.Flatten(), prior=VonMisesFisherMixturePrior().requires_grad_(False))
