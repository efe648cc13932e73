"""Learning rates over a training, and which parameters decay."""

import math

import pytest
import torch
from torch import nn

from probcl.nn import ConvNet, ProjectedNormalHead
from probcl.programs import VSimCLR
from probcl.training.optimisation import WarmupCosine, parameter_groups


def test_the_factor_rises_along_a_line_and_falls_along_a_cosine():
    factor = WarmupCosine(steps=110, warmup=10)
    rising = [factor(step) for step in range(10)]
    assert rising == pytest.approx([(step + 1) / 10 for step in range(10)])
    for step in range(10, 111):
        assert factor(step) == pytest.approx(0.5 * (1 + math.cos(math.pi * (step - 10) / 100)))
    assert factor(500) == pytest.approx(0)


def test_without_an_end_the_factor_stays():
    factor = WarmupCosine(steps=math.inf, warmup=2)
    assert [factor(step) for step in (0, 1, 2, 10**9)] == [0.5, 1, 1, 1]


def test_biases_and_normalisations_may_be_left_out_of_weight_decay():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    module.register_parameter("number", nn.Parameter(torch.tensor(1.0)))
    module[0].bias.requires_grad_(False)
    (everything,) = parameter_groups(module, decay_all=True)
    decayed, kept = parameter_groups(module, decay_all=False)
    assert {id(p) for p in decayed["params"]} == {id(module[0].weight), id(module[3].weight)}
    names = {name for name, p in module.named_parameters() if any(p is k for k in kept["params"])}
    assert names == {"number", "1.weight", "1.bias", "3.bias"}
    assert len(everything["params"]) == 6
    optimizer = torch.optim.AdamW(parameter_groups(module, decay_all=False), weight_decay=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def test_the_groups_of_a_program_hold_each_parameter_once():
    program = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(8))
    program.materialize(torch.zeros(1, 1, 8, 8))
    groups = parameter_groups(program, decay_all=False)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in program.parameters()}
