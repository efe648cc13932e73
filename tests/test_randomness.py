"""Seeding: the same draws as torch's own, without what it does beside."""

import traceback

import pytest
import torch

from probcl.randomness import reseed


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_draws_are_those_after_torchs_own_seeding(device, seed):
    torch.manual_seed(seed)
    expected = torch.rand(3)
    reseed(seed, torch.device(device))
    assert torch.equal(torch.rand(3), expected)
    assert torch.initial_seed() == seed


def test_no_stack_is_formatted(monkeypatch):
    """torch.manual_seed does so for each kind of device that is not in use: half a millisecond."""
    monkeypatch.setattr(traceback, "format_stack", lambda: pytest.fail("a stack was formatted"))
    reseed(0, torch.device("cpu"))
