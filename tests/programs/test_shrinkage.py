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
    z = poutine.trace(program.guide).get_trace(views).nodes["z"]["value"]
    model = poutine.trace(poutine.condition(program.model, data={"z": z})).get_trace(views)
    loss = info_nce(z, 0.2 * 0.9**2, reduction="none")
    torch.testing.assert_close(model.nodes["contrastive"]["fn"].log_factor, -loss)
    again = poutine.trace(poutine.condition(program.model, data={"z": z})).get_trace(views)
    loss = info_nce(z, 0.2, reduction="none")  # a model by itself has no posterior to correct for
    torch.testing.assert_close(again.nodes["contrastive"]["fn"].log_factor, -loss)


@pytest.mark.parametrize("name", ["VSimCLR", "VSupCon", "ProbabilisticVarCon"])
def test_a_learned_temperature_learns_through_the_correction(make, views, labels, name):
    program = make(name, learn_temperature=True)
    ContrastiveELBO()(program.model, program.guide)(views, labels).backward()
    assert program.temperature.log.grad.abs() > 0
