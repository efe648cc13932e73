"""The conjugate generator against SciPy's Bessel functions, NumPy's algebra and Bayes' rule."""

import math

import numpy as np
import pytest
import torch
from scipy.special import ive
from scipy.stats import kstest

from probcl.data import ConjugateGenerator


def resultant_length(k, dim):
    return ive(dim / 2, k) / ive(dim / 2 - 1, k)


@pytest.mark.parametrize("dim", [2, 3, 10, 64])
@pytest.mark.parametrize("concentration", [(0.1, 1.0), (16.0, 32.0), (1e3, 1e4)])
def test_directions_have_the_resultant_length_of_von_mises_fisher(dim, concentration):
    source = ConjugateGenerator(dim, concentration)
    batch = source.sample(20_000, views=1)
    k = batch.concentration[0].double().numpy()
    cosine = torch.linalg.vecdot(batch.loc[0].double(), batch.latent.double()).numpy()
    ratio = resultant_length(k, dim)
    variance = 1 - ratio**2 - (dim - 1) * ratio / k  # of the cosine
    # Standardised one by one, so that every concentration counts alike.
    z = (cosine - ratio) / np.sqrt(variance)
    assert z.mean() == pytest.approx(0, abs=4 / math.sqrt(len(z)))
    assert np.square(z).mean() == pytest.approx(1, abs=0.06)


def test_directions_follow_the_law_of_the_cosine_on_the_sphere_of_three_dimensions():
    batch = ConjugateGenerator(3, (0.5, 50.0)).sample(20_000, views=1)
    k = batch.concentration[0].double()
    cosine = torch.linalg.vecdot(batch.loc[0].double(), batch.latent.double())
    # There the cosine has the distribution function (e^{k t} - e^{-k}) / (e^k - e^{-k}).
    probability = torch.expm1(k * (cosine + 1)) / torch.expm1(2 * k)
    assert kstest(probability.numpy(), "uniform").pvalue > 1e-3


def test_directions_have_no_preference_around_the_latent_one():
    batch = ConjugateGenerator(4, (1.0, 2.0)).sample(40_000, views=1)
    across = batch.loc[0] - torch.linalg.vecdot(batch.loc[0], batch.latent)[:, None] * batch.latent
    across = across / across.norm(dim=-1, keepdim=True)
    axis = torch.eye(4)[0] - batch.latent[:, :1] * batch.latent  # of the tangent space, at any m
    cosine = torch.linalg.vecdot(across, axis / axis.norm(dim=-1, keepdim=True)).double()
    # A coordinate of a uniform point of the sphere in three dimensions is uniform.
    assert kstest((cosine.numpy() + 1) / 2, "uniform").pvalue > 1e-3


def test_latent_directions_and_log_concentrations_are_uniform():
    batch = ConjugateGenerator(3, (2.0, 50.0)).sample(20_000)
    quantile = (batch.concentration.log() - math.log(2)) / math.log(25)
    assert kstest(quantile.flatten().double().numpy(), "uniform").pvalue > 1e-3
    for coordinate in batch.latent.T:  # uniform in three dimensions
        assert kstest((coordinate.double().numpy() + 1) / 2, "uniform").pvalue > 1e-3


def test_views_of_an_item_share_its_latent_direction_and_no_more():
    batch = ConjugateGenerator(10).sample(20_000, views=3)
    ratio = resultant_length(batch.concentration.double().numpy(), 10)
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        same = torch.linalg.vecdot(batch.loc[one], batch.loc[other]).numpy()
        assert same.mean() == pytest.approx((ratio[one] * ratio[other]).mean(), abs=0.005)
        apart = torch.linalg.vecdot(batch.loc[one], batch.loc[other].roll(1, 0)).numpy()
        assert apart.mean() == pytest.approx(0, abs=0.01)
        correlation = np.corrcoef(batch.concentration[one], batch.concentration[other])[0, 1]
        assert correlation == pytest.approx(0, abs=0.03)


def test_the_truth_is_the_posterior_of_the_latent_direction():
    """On the circle, weigh a grid of latent directions by the density that v was drawn from."""
    batch = ConjugateGenerator(2, (1.0, 4.0)).sample(4, views=1)
    angle = torch.arange(360) * (2 * math.pi / 360)
    grid = torch.stack([angle.cos(), angle.sin()], -1)
    for v, k in zip(batch.loc[0], batch.concentration[0], strict=True):
        posterior = (k * grid @ v).softmax(0)
        mean = posterior @ grid
        torch.testing.assert_close(mean / mean.norm(), v, atol=1e-4, rtol=0)
        assert mean.norm().item() == pytest.approx(resultant_length(k.item(), 2), abs=1e-4)


@pytest.mark.parametrize("dim", [2, 10, 128])
def test_the_mix_is_undone_by_unmix_and_stretches_little(dim):
    source = ConjugateGenerator(dim, (16.0, 32.0), seed=3)
    batch = source.sample(50)
    loc, concentration = source.unmix(batch.views)
    torch.testing.assert_close(loc, batch.loc, atol=1e-5, rtol=0)
    torch.testing.assert_close(concentration, batch.concentration, atol=0, rtol=1e-5)
    jacobian = torch.func.jacrev(lambda x: source.unmix(x)[0])(batch.views[0, 0])
    singular = torch.linalg.svdvals(jacobian) * math.sqrt(dim)
    assert 1 - 1e-4 <= singular.min() <= singular.max() <= 2 + 1e-4


def test_a_seed_gives_the_same_data_and_another_seed_another_mix():
    draws = []
    for mix, seed in [(7, 1), (7, 1), (8, 1), (7, 2)]:
        torch.manual_seed(seed)
        draws.append(ConjugateGenerator(4, seed=mix).sample(6))
    one, same, other, drawn_anew = draws
    for first, second in zip(one, same, strict=True):
        assert torch.equal(first, second)
    assert torch.equal(other.loc, one.loc)
    assert not torch.isclose(other.views, one.views).any()
    assert not torch.isclose(drawn_anew.loc, one.loc).any()


@pytest.mark.parametrize("views", [1, 2, 5])
def test_shapes_and_lengths(views):
    batch = ConjugateGenerator(7, (1.0, 1e6)).sample(11, views=views)
    assert batch.views.shape == (views, 11, 8)
    assert batch.loc.shape == (views, 11, 7)
    assert batch.concentration.shape == (views, 11)
    assert batch.latent.shape == (11, 7)
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in batch)
    torch.testing.assert_close(batch.loc.norm(dim=-1), torch.ones(views, 11))
    torch.testing.assert_close(batch.latent.norm(dim=-1), torch.ones(11))
    assert 1.0 <= batch.concentration.min() <= batch.concentration.max() <= 1e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 1}, "dim must be at least 2, got 1"),
        ({"concentration": (32.0, 16.0)}, r"concentration .* got \(32.0, 16.0\)"),
        ({"concentration": (0.0, 16.0)}, r"concentration .* got \(0.0, 16.0\)"),
        ({"concentration": (1.0, math.inf)}, r"concentration .* got \(1.0, inf\)"),
        ({"concentration": (1.0, math.nan)}, r"concentration .* got \(1.0, nan\)"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConjugateGenerator(**arguments)


@pytest.mark.parametrize("arguments", [{"batch": 0}, {"batch": 2, "views": 0}])
def test_bad_sizes_are_refused(arguments):
    name = list(arguments)[-1]
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        ConjugateGenerator().sample(**arguments)
