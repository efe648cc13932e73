"""A temperature that learns: exact gradients, a bound, and the same in every loop."""

import copy
import math

import pyro
import pytest
import torch
from pyro.infer import SVI
from torch import nn

from probcl.infer import ContrastiveELBO
from probcl.programs import VarCon
from probcl.programs.program import Temperature

NAMES = (
    "VSimCLR", "VSupCon", "MCInfoNCE", "MCSupCon", "SimCLR", "SupCon", "VarCon",
    "ProbabilisticVarCon", "MoCo", "SwAV", "Match",
)  # fmt: skip
SAMPLED = ("VSimCLR", "VSupCon", "MCInfoNCE", "MCSupCon", "ProbabilisticVarCon")


@pytest.fixture(params=NAMES)
def program(request, make, views):
    program = make(request.param, learn_temperature=True)
    program.materialize(views[0])
    return program


def loss_of(program, *batch):
    pyro.set_rng_seed(7)  # the same samples every time
    return ContrastiveELBO()(program.model, program.guide)(*batch)


def test_the_gradient_is_that_of_differences(program, views, labels):
    program.double().eval()
    views, log = views.double(), program.temperature.log
    loss_of(program, views, labels).backward()
    sides = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            log.add_(step)
            sides.append(loss_of(program, views, labels).item())
            log.sub_(step)
    expected = (sides[0] - sides[1]) / 2e-5
    assert abs(expected) > 1e-6
    assert log.grad.item() == pytest.approx(expected, rel=1e-4)
    if type(program).__name__ in SAMPLED:  # other samples in single precision
        return
    exact = log.grad.item()
    program.zero_grad()
    loss_of(program.float(), views.float(), labels).backward()
    assert program.temperature.log.grad.item() == pytest.approx(exact, rel=1e-3, abs=1e-5)


def test_it_starts_with_the_loss_of_the_fixed_one(program, make, views, labels):
    fixed = make(type(program).__name__)
    fixed.materialize(views[0])
    weights = program.eval().state_dict()
    first = weights.pop("temperature.log")
    fixed.eval().load_state_dict(weights)  # which has no more than these
    assert first.exp().item() == pytest.approx(fixed.temperature())
    expected = loss_of(fixed, views, labels)
    torch.testing.assert_close(loss_of(program, views, labels), expected)
    assert program.monitored["temperature"].item() == pytest.approx(fixed.temperature())
    assert "temperature" not in fixed.monitored


@pytest.mark.parametrize("loop", ["SVI", "torch"])
def test_every_loop_trains_it_and_it_is_kept_with_the_weights(program, make, views, labels, loop):
    before = program.temperature().item()
    if loop == "SVI":
        svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.1}), ContrastiveELBO())
        for _ in range(2):
            svi.step(views, labels)
    else:
        loss = ContrastiveELBO()(program.model, program.guide)
        optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            loss(views, labels).backward()
            optimizer.step()
    after = program.temperature().item()
    assert abs(math.log(after / before)) > 0.01
    twin = make(type(program).__name__, learn_temperature=True)
    twin.materialize(views[0])
    twin.load_state_dict(program.state_dict())
    assert twin.temperature().item() == after
    assert copy.deepcopy(program).temperature().item() == after


def test_it_comes_back_to_its_bound_and_learns_on_from_there(program, views, labels):
    with torch.no_grad():
        program.temperature.log.fill_(-9.0)
    loss = loss_of(program.eval(), views, labels)
    loss.backward()
    least = 0.02 if type(program).__name__ == "ProbabilisticVarCon" else 0.01  # its fixed epsilon
    assert loss.isfinite()
    assert program.monitored["temperature"].item() == pytest.approx(least)
    assert program.temperature.log.item() == pytest.approx(math.log(least))
    assert program.temperature.log.grad.isfinite()
    with torch.no_grad():
        program.temperature.log.add_(1.0)  # a step upwards is not held back
    assert program.temperature().item() == pytest.approx(math.e * least)


def test_it_may_be_learned_with_epsilon(views, labels):
    """Whatever their order, epsilon stays in ``[0, temperature]``."""
    program = VarCon(
        nn.Flatten(), nn.LazyLinear(3), 0.1, 0.1, learn_epsilon=True, learn_temperature=True
    )
    with torch.no_grad():
        program.temperature.log.fill_(math.log(0.05))
    assert loss_of(program, views, labels).isfinite()
    assert program.epsilon.item() == pytest.approx(0.05)


def test_bad_temperatures_are_named():
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be a finite number above 0, got"):
            Temperature(bad)
    assert Temperature(0.005)() == 0.005
    with pytest.raises(ValueError, match=r"at least 0\.01 to be learned, got 0\.005: raise it, or"):
        Temperature(0.005, learn=True)
