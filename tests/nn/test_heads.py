"""Heads: projections, where their posteriors start, and what they refuse; priors alike."""

import copy

import pytest
import torch
from torch import nn

from probcl.nn import (
    MLP,
    BatchNormMLP,
    PointHead,
    PowerSphericalHead,
    ProjectedNormalHead,
    UniformPrior,
    VonMisesFisherHead,
    VonMisesFisherMixturePrior,
    VonMisesFisherPrior,
)
from probcl.sphere import normalize

FEATURES = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
HEADS = {
    "point": lambda hidden: PointHead(MLP(5, hidden)),
    "isotropic": lambda hidden: ProjectedNormalHead(5, hidden, covariance="isotropic"),
    "diagonal": lambda hidden: ProjectedNormalHead(5, hidden),
    "low rank": lambda hidden: ProjectedNormalHead(5, hidden, covariance="low_rank", rank=2),
    "von Mises-Fisher": lambda hidden: VonMisesFisherHead(5, hidden),
    "Power Spherical": lambda hidden: PowerSphericalHead(5, hidden),
}


def test_a_perceptron_without_hidden_units_is_a_linear_map():
    projection = MLP(5, hidden=None)
    outputs = projection(FEATURES)
    assert set(projection.state_dict()) == {"0.weight", "0.bias"}
    expected = FEATURES @ projection[0].weight.T + projection[0].bias
    torch.testing.assert_close(outputs, expected)


def test_a_perceptron_keeps_the_names_and_draws_of_its_weights():
    torch.manual_seed(0)
    projection = MLP(5, 16)
    projection(FEATURES)
    torch.manual_seed(0)
    second, first = nn.Linear(16, 5), nn.Linear(7, 16)  # the lazy one draws its weights last
    expected = nn.Sequential(first, nn.ReLU(), second).state_dict()
    assert list(projection.state_dict()) == list(expected)
    assert all(torch.equal(projection.state_dict()[name], expected[name]) for name in expected)


def test_batch_normalisation_stands_before_each_rectifier():
    layers = list(BatchNormMLP(3, hidden=8, layers=3))
    kinds = [nn.LazyLinear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.LazyLinear]
    assert [type(layer) for layer in layers] == kinds
    with pytest.raises(ValueError, match="layers must be at least 2, got 1"):
        BatchNormMLP(layers=1)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_projects_features_to_what_it_normalises(name):
    head = HEADS[name](None)
    posterior = head(FEATURES)
    linear = (head.projection if name == "point" else head.loc)[0]
    expected = nn.functional.linear(FEATURES, linear.weight, linear.bias)
    torch.testing.assert_close(head.project(FEATURES), expected)
    torch.testing.assert_close(normalize(posterior.loc), normalize(expected))
    assert not any(isinstance(module, nn.ReLU) for module in head.modules())
    posterior.rsample().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_a_point_head_takes_features_of_any_shape_to_batch_normalisation():
    head = PointHead(BatchNormMLP(3, hidden=8))
    features = torch.randn(2, 6, 7)
    projection = head.project(features)
    assert projection.shape == (2, 6, 3)
    flat = head.projection(features.flatten(0, 1))
    torch.testing.assert_close(projection.flatten(0, 1), flat)
    assert PointHead(nn.Identity()).dim is None
    with torch.autocast("cpu", torch.bfloat16):
        assert head(features).loc.dtype == torch.float32


@pytest.mark.parametrize("hidden", [16, None])
@pytest.mark.parametrize("length", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("dim", [2, 3, 10, 128])
@pytest.mark.parametrize("family", [name for name in HEADS if name != "point"])
def test_every_posterior_starts_at_the_mean_resultant_length(family, dim, length, hidden):
    """By the mean's own integral, in every family and dimension, whatever the features."""
    start = {"initial_resultant_length": length}
    head = {
        "isotropic": lambda: ProjectedNormalHead(dim, hidden, covariance="isotropic", **start),
        "diagonal": lambda: ProjectedNormalHead(dim, hidden, **start),
        "low rank": lambda: ProjectedNormalHead(dim, hidden, covariance="low_rank", **start),
        "von Mises-Fisher": lambda: VonMisesFisherHead(dim, hidden, **start),
        "Power Spherical": lambda: PowerSphericalHead(dim, hidden, **start),
    }[family]()
    found = head.eval()(100 * torch.randn(6, 7)).mean_resultant_length
    torch.testing.assert_close(found, torch.full((6,), length), rtol=2e-5, atol=0)


def test_a_start_is_the_mean_of_its_samples():
    torch.manual_seed(0)
    for head in (ProjectedNormalHead(5), VonMisesFisherHead(5), PowerSphericalHead(5)):
        samples = head.eval()(torch.ones(1, 7)).sample((100_000,))
        assert samples.mean(0).norm().item() == pytest.approx(0.9, abs=2e-3)


def test_the_length_of_the_location_counts_from_the_first_batch_of_training():
    head = ProjectedNormalHead(5, 16).eval()
    start = head(FEATURES)
    squares = start.loc.square().sum(-1) + start.scale.square().sum(-1)
    torch.testing.assert_close(squares, torch.full((6,), 5.0))
    with torch.no_grad():
        for parameter in head.loc[-1].parameters():
            parameter *= 7  # as yet no posterior changes
    torch.testing.assert_close(head(FEATURES).loc, start.loc)
    first = head.train()(FEATURES)
    lengths = head.loc(FEATURES).norm(dim=-1)
    torch.testing.assert_close(head.length, lengths.mean().detach())
    torch.testing.assert_close(first.loc, start.loc * (lengths / lengths.mean())[:, None])
    with torch.no_grad():
        for parameter in head.loc[-1].parameters():
            parameter *= 2
    torch.testing.assert_close(head(FEATURES).loc, 2 * first.loc)  # twice as far, and surer
    again = ProjectedNormalHead(5, 16)
    again(FEATURES)
    again.load_state_dict(head.state_dict())
    torch.testing.assert_close(again.train()(2 * FEATURES).loc, head(2 * FEATURES).loc)


@pytest.mark.parametrize("first", ["empty", "not finite"])
def test_a_first_batch_that_has_no_length_does_not_spoil_the_unit(first):
    spoilt, head = ProjectedNormalHead(5, 16).train(), ProjectedNormalHead(5, 16).train()
    if first == "empty":
        spoilt(FEATURES[:0])
    else:
        with pytest.raises(ValueError, match="loc must be finite"):
            spoilt(torch.where(FEATURES.min() < FEATURES, FEATURES, torch.nan))
    head(FEATURES[:0])
    head.load_state_dict(spoilt.state_dict())
    torch.testing.assert_close(spoilt(FEATURES).loc, head(FEATURES).loc)
    torch.testing.assert_close(spoilt.length, spoilt.loc(FEATURES).norm(dim=-1).mean().detach())


def test_every_head_takes_an_empty_batch():
    for make in HEADS.values():
        head = make(4)
        head(FEATURES)
        assert head(FEATURES[:0]).batch_shape == (0,)


@pytest.mark.parametrize("family", [VonMisesFisherHead, PowerSphericalHead, ProjectedNormalHead])
def test_autocast_costs_a_spread_no_more_than_its_layers_lose(family):
    """The start is added, and the exponential taken, in float32: both would lose digits."""
    head = family(128).eval()
    head(FEATURES)
    last = head.log_scale if family is ProjectedNormalHead else head.log_concentration
    for shift in (0.0, 0.0075, 0.015, 0.0225, 0.03):
        torch.nn.init.constant_(last[-1].bias, shift)
        with torch.autocast("cpu", torch.bfloat16):
            q = head(FEATURES)
        exact = head(FEATURES)
        name = "scale" if family is ProjectedNormalHead else "concentration"
        assert getattr(q, name).dtype == torch.float32
        torch.testing.assert_close(getattr(q, name), getattr(exact, name), rtol=1e-4, atol=0)


def test_the_published_head_starts_near_the_uniform():
    head = ProjectedNormalHead(128, initial_resultant_length=None)
    torch.manual_seed(0)
    assert head(torch.rand(50, 32)).mean_resultant_length.median() < 0.2
    loc, scale = head.loc(FEATURES[:, :1].expand(-1, 32)), head(FEATURES[:, :1].expand(-1, 32))
    torch.testing.assert_close(scale.loc, loc)


def test_the_concentration_learns_from_the_start():
    for make in HEADS.values():
        head = make(16)
        head(FEATURES).rsample().sum().backward()
        if not isinstance(head, PointHead):
            last = head.log_scale if isinstance(head, ProjectedNormalHead) else (
                head.log_concentration
            )  # fmt: skip
            assert last[-1].weight.grad.abs().sum() > 0


def test_bad_settings_are_named():
    for part in (VonMisesFisherHead, PowerSphericalHead, ProjectedNormalHead, UniformPrior,
                 VonMisesFisherPrior, VonMisesFisherMixturePrior):  # fmt: skip
        with pytest.raises(ValueError, match="dim must be at least 2, got 1"):
            part(1)
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        MLP(3, hidden=0)
    for bad in (0.0, 1.0, -1.0, float("nan")):
        for head in (VonMisesFisherHead, PowerSphericalHead, ProjectedNormalHead):
            with pytest.raises(ValueError, match="initial_resultant_length must lie between 0 and"):
                head(initial_resultant_length=bad)
    with pytest.raises(ValueError, match="covariance must be 'isotropic' or 'diagonal' or 'low_ra"):
        ProjectedNormalHead(covariance="full")
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        ProjectedNormalHead(covariance="low_rank", rank=0)
    with pytest.raises(ValueError, match="components must be at least 1, got 0"):
        VonMisesFisherMixturePrior(components=0)
    with pytest.raises(ValueError, match="concentration must be a finite number of at least 0"):
        VonMisesFisherPrior(concentration=-1.0)


def test_a_head_that_is_put_back_to_its_start_measures_its_length_again():
    head, x = ProjectedNormalHead(8), torch.randn(32, 5)
    head.eval()(x)
    start = copy.deepcopy(head.state_dict())
    head.train()(x)
    first, length = head(x), head.length.clone()
    head.load_state_dict(start)  # as what looks for a learning rate does
    assert head.length == 0
    head.train()(x)
    assert torch.equal(head.length, length) and length > 0
    torch.testing.assert_close(head(x).loc, first.loc)
