"""Bootstrap intervals: their values, and their widths against known ones and plain resampling."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from probcl.evaluation import (
    auroc,
    auroc_interval,
    bootstrap_interval,
    correlation_interval,
    error_auroc,
    error_auroc_interval,
    rank_correlation,
    severity_correlation,
    severity_interval,
)
from probcl.evaluation.bootstrap import _resampled, _resampled_correlations


def test_the_interval_of_a_mean_is_the_normal_one():
    x = torch.randn(400)
    interval = bootstrap_interval(lambda values: values.mean().item(), x, resamples=2000)
    assert interval.value == pytest.approx(x.mean().item())
    half = 1.96 * x.std().item() / math.sqrt(400)
    assert interval.upper - interval.value == pytest.approx(half, rel=0.15)
    assert interval.value - interval.lower == pytest.approx(half, rel=0.15)


def test_rows_are_drawn_together():
    x = torch.randn(50)
    same = bootstrap_interval(lambda a, b: (a - b).abs().max().item(), x, x)
    assert same == (0.0, 0.0, 0.0)


def test_the_fast_auroc_has_the_width_of_plain_resampling():
    known, strange = torch.randn(300), torch.randn(200) + 1
    fast = auroc_interval(known, strange)
    assert fast.value == auroc(known, strange)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.tensor([
        auroc(
            known[torch.randint(300, (300,), generator=generator)],
            strange[torch.randint(200, (200,), generator=generator)],
        )
        for _ in range(300)
    ])  # fmt: skip
    lower, upper = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    assert fast.lower == pytest.approx(lower, abs=0.012)
    assert fast.upper == pytest.approx(upper, abs=0.012)


def test_many_items_are_drawn_as_few_are():
    """Beyond the number of bins, how many of each are drawn follows from their shares."""
    counts = torch.tensor([400, 0, 350, 250])
    many = _resampled(counts, np.random.default_rng(0))  # more items than bins
    few = _resampled(torch.cat([counts, torch.zeros(1000).long()]), np.random.default_rng(0))
    for drawn in (many, few[:, :4]):
        assert (drawn.sum(-1) == 1000).all()
        error = math.sqrt(250 / len(drawn))  # of the mean of a binomial number, at most
        assert drawn.mean(0) == pytest.approx(counts.double(), abs=4 * error)
        share = counts / 1000
        assert drawn.var(0) == pytest.approx(1000 * share * (1 - share), rel=0.45)


def test_several_sets_are_averaged():
    known, sets = torch.randn(100), [torch.randn(80) + shift for shift in (0.0, 1.0)]
    value = auroc_interval(known, *sets).value
    assert value == pytest.approx(sum(auroc(known, s) for s in sets) / 2)


def test_errors_and_their_limit():
    score, error = torch.randn(200), torch.rand(200) < 0.2
    assert error_auroc_interval(score, error).value == pytest.approx(error_auroc(score, error))
    assert error_auroc_interval(score, torch.zeros(200)) == (0.5, 0.5, 0.5)


def test_the_fast_correlation_has_the_width_of_plain_resampling():
    levels = {s: torch.randn(200) + 0.3 * s for s in range(4)}
    fast = severity_interval(levels)
    assert fast.value == severity_correlation(levels)
    plain = bootstrap_interval(
        lambda *parts: severity_correlation(dict(enumerate(parts))), *levels.values()
    )
    assert fast.lower == pytest.approx(plain.lower, abs=0.015)
    assert fast.upper == pytest.approx(plain.upper, abs=0.015)
    both = severity_interval(levels, {s: -values for s, values in levels.items()})
    assert both.value == pytest.approx(0)


def test_the_interval_of_a_correlation_has_the_width_of_plain_resampling():
    x = torch.randn(200)
    y = x + torch.randn(200)
    fast = correlation_interval(x, y)
    plain = bootstrap_interval(rank_correlation, x, y, resamples=800)
    assert fast.value == rank_correlation(x, y)
    assert fast.lower == pytest.approx(plain.lower, abs=0.03)
    assert fast.upper == pytest.approx(plain.upper, abs=0.03)
    assert correlation_interval(torch.ones(20), torch.rand(20)) == (0.0, 0.0, 0.0)


def test_a_constant_score_gives_no_nan():
    constant = torch.ones(20)
    assert severity_interval({0: constant, 1: constant}) == (0.0, 0.0, 0.0)
    assert auroc_interval(constant, constant).value == 0.5


def test_the_same_seed_gives_the_same_interval():
    known, strange = torch.randn(50), torch.randn(50)
    assert auroc_interval(known, strange) == auroc_interval(known, strange)
    assert auroc_interval(known, strange, seed=1) != auroc_interval(known, strange)


def test_the_correlation_of_a_resample_of_few_items_is_that_of_its_ranks():
    random = np.random.default_rng(3)
    scores, severity = torch.from_numpy(random.normal(size=(2, 5))), torch.tensor([[0.0], [1.0]])
    severity = severity.double().expand_as(scores)
    found = _resampled_correlations(scores, severity, seed=0)
    drawn = _resampled(torch.ones(5, dtype=torch.long), np.random.default_rng(0))
    counts = drawn.numpy().round().astype(int)
    ranks = [rankdata(x).reshape(x.shape) for x in (scores, severity)]
    for value, count in zip(found, counts, strict=True):
        items = np.repeat(np.arange(5), count)
        expected = np.corrcoef(*(rank[:, items].ravel() for rank in ranks))[0, 1]
        assert value.item() == pytest.approx(expected, abs=1e-12)


def test_a_resample_without_ranks_has_no_correlation():
    value, lower, upper = correlation_interval([0.0, 2, 1, 1, 0], [1.0, 2, 0, 1, 0])
    assert -1 <= lower <= value <= upper <= 1
    rare = torch.zeros(35)
    rare[:3] = 1
    for seed in range(20):
        other = torch.randn(35, generator=torch.Generator().manual_seed(seed))
        _, lower, upper = correlation_interval(rare, other)
        assert -1 <= lower <= upper <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(len, torch.ones(5), torch.ones(10)), "a row for each item"),
        (lambda: bootstrap_interval(len, torch.ones(0)), "a row for each item, one at least"),
        (lambda: auroc_interval([1.0, 2.0]), "out_of_distribution must be of one set at least"),
        (severity_interval, "scores must be of one corruption at least"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
