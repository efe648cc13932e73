"""Uncertainty of several predictions, by hand; dropout and ensembles."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from probcl.evaluation.sampled import (
    ensemble,
    expected_entropy,
    monte_carlo_dropout,
    mutual_information,
    predictive_entropy,
)


def test_entropies_add_up_and_have_known_ends():
    p = torch.randn(7, 20, 4, dtype=torch.double).softmax(-1)
    total = expected_entropy(p) + mutual_information(p)
    torch.testing.assert_close(predictive_entropy(p), total)
    expected = torch.distributions.Categorical(p.mean(0)).entropy()
    torch.testing.assert_close(predictive_entropy(p), expected)
    assert (mutual_information(p[:1].expand(5, -1, -1)) < 1e-12).all()
    torch.testing.assert_close(mutual_information(torch.eye(4)[:, None]), torch.tensor([1.3863]))
    order = torch.randperm(7)
    torch.testing.assert_close(mutual_information(p[order]), mutual_information(p))
    torch.testing.assert_close(mutual_information(p.repeat(2, 1, 1)), mutual_information(p))


def network():
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))


def test_only_dropout_is_at_work():
    module, x = network(), torch.randn(4, 3)
    module(torch.randn(16, 3))  # running statistics unlike the batch's
    module[1].eval()  # frozen: it stays so
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    runs = monte_carlo_dropout(module, x, samples=200)
    assert torch.equal(state, torch.get_rng_state())
    assert runs.shape == (200, 4, 2)
    assert runs.std(0).min() > 0
    module.eval()
    torch.testing.assert_close(runs.mean(0), module(x), atol=0.5, rtol=0)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(runs, monte_carlo_dropout(module, x, samples=200))


def test_modes_are_restored_even_after_an_error():
    module = network().train()
    module[1].eval()
    with pytest.raises(RuntimeError):
        monte_carlo_dropout(module, torch.randn(4, 5))
    assert [part.training for part in module] == [True, False, True, True]


def test_stochastic_depth_counts_and_nothing_does_not():
    block = nn.Sequential(StochasticDepth(0.5, "row"), nn.Linear(3, 2))
    assert monte_carlo_dropout(block, torch.randn(8, 3)).std(0).max() > 0
    with pytest.raises(ValueError, match="Linear has no dropout layer"):
        monte_carlo_dropout(nn.Linear(3, 2), torch.randn(4, 3))


def test_an_ensemble_stacks_its_members():
    modules, x = [network().eval() for _ in range(3)], torch.randn(4, 3)
    expected = torch.stack([module(x) for module in modules])
    modules[0].train()
    torch.testing.assert_close(ensemble(modules, x), expected)
    assert modules[0].training
    with pytest.raises(ValueError, match="one network at least"):
        ensemble([], x)
