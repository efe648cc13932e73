"""The shrinkage of cosines by samples, and the temperature that it corrects."""

import pyro
import pyro.distributions
import pytest
import torch
from pyro import poutine

from probcl.distributions import PowerSpherical, ProjectedNormal, VonMisesFisher
from probcl.infer import ContrastiveELBO
from probcl.nn import ConvNet, ProjectedNormalHead
from probcl.objectives import info_nce
from probcl.programs import ProbabilisticVarCon, VSimCLR, VSupCon
from probcl.programs.shrinkage import corrected, expected_shrinkage
from probcl.sphere import normalize


def posteriors(dtype):
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(2, 500, 8, dtype=dtype, generator=generator)
    scale = 0.2 + torch.rand(2, 500, 8, dtype=dtype, generator=generator)
    return {
        "isotropic": ProjectedNormal(loc, scale[..., :1]),
        "diagonal": ProjectedNormal(loc, scale),
        "low rank": ProjectedNormal(loc, cov_factor=scale[..., None] / 2, cov_diag=scale.square()),
        "von Mises-Fisher": VonMisesFisher(normalize(loc), 10 * scale[..., 0]),
        "Power Spherical": PowerSpherical(normalize(loc), 10 * scale[..., 0]),
        "Pyro's projected normal": pyro.distributions.ProjectedNormal(loc),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", list(posteriors(torch.float32)))
def test_it_is_the_mean_cosine_of_two_samples(family, dtype):
    q = posteriors(dtype)[family]
    pyro.set_rng_seed(0)
    first, second = q.sample((400,)), q.sample((400,))
    cosine = torch.linalg.vecdot(first, second).mean()
    shrinkage = expected_shrinkage(q)
    assert shrinkage.dtype == dtype
    assert not shrinkage.requires_grad
    assert shrinkage.item() == pytest.approx(cosine.item(), rel=0.04)
    assert expected_shrinkage(q, 1).item() == pytest.approx(shrinkage.item() ** 0.5, rel=0.04)


def test_posteriors_that_say_nothing_do_not_make_the_temperature_zero():
    uniform = VonMisesFisher(torch.eye(4), torch.zeros(4))
    assert expected_shrinkage(uniform).item() == pytest.approx(0.25)
    assert expected_shrinkage(uniform, 1).item() == pytest.approx(0.5)


@pytest.mark.parametrize("program", [VSimCLR, VSupCon, ProbabilisticVarCon])
@pytest.mark.parametrize("temperature", [0.07, 0.2, 0.003])
def test_posteriors_that_say_nothing_end_no_training(program, views, labels, temperature):
    head = ProjectedNormalHead(8, initial_resultant_length=0.01)
    options = {"epsilon": 0.0} if program is ProbabilisticVarCon else {}
    program = program(ConvNet(), head, temperature=temperature, beta=0.0, **options)
    program.materialize(views[0])
    loss = ContrastiveELBO()(program.model, program.guide)(views, labels)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in program.parameters() if p.grad is not None)
    assert corrected(temperature, torch.tensor(0.01)).item() == pytest.approx(
        min(temperature, 0.005)
    )


def test_the_corrected_temperature_is_that_of_the_directions(make, views):
    """The expected gradient of a cosine is that of the deterministic twin, at its temperature."""
    program = make("VSimCLR", temperature=0.2, beta=0.0).eval()
    program.materialize(views[0])
    z, later = (poutine.trace(program.guide).get_trace(views).nodes["z"]["value"] for _ in "zl")

    def log_factor(z):
        model = poutine.condition(program.model, data={"z": z})
        return poutine.trace(model).get_trace(views).nodes["contrastive"]["fn"].log_factor

    for sample in (z, later, z):  # as often as a trace is scored, and in any order
        loss = info_nce(sample, 0.2 * 0.9**2, reduction="none")
        torch.testing.assert_close(log_factor(sample), -loss)
    # A model by itself has no posterior to correct for.
    torch.testing.assert_close(log_factor(z.clone()), -info_nce(z, 0.2, reduction="none"))


def test_a_trace_of_both_papers_in_one_is_scored_alike_with_labels_of_the_same_values(
    make, views, labels
):
    program = make("ProbabilisticVarCon").eval()
    trace = poutine.trace(program.guide).get_trace(views, labels)
    model = poutine.replay(program.model, trace=trace)
    totals = [
        poutine.trace(model).get_trace(views, same).log_prob_sum() for same in (labels, labels + 0)
    ]
    assert totals[0] == totals[1]


@pytest.mark.parametrize(
    ("name", "kept"), [("VSimCLR", "_shrinkage"), ("ProbabilisticVarCon", "_found")]
)
def test_what_a_guide_found_is_kept_no_longer_than_its_sample(make, views, labels, name, kept):
    program = make(name)
    loss = ContrastiveELBO()(program.model, program.guide)
    for _ in range(3):
        loss(views, labels)  # not differentiated: its graph goes as well
    assert not getattr(program, kept)._found


@pytest.mark.parametrize("name", ["VSimCLR", "VSupCon", "ProbabilisticVarCon"])
def test_a_learned_temperature_learns_through_the_correction(make, views, labels, name):
    program = make(name, learn_temperature=True)
    ContrastiveELBO()(program.model, program.guide)(views, labels).backward()
    assert program.temperature.log.grad.abs() > 0
