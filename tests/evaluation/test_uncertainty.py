"""Uncertainty scores and their metrics, against brute force and closed forms."""

import pyro.distributions as dist
import pytest
import torch
from scipy.stats import spearmanr

from probcl.distributions import ProjectedNormal
from probcl.evaluation.uncertainty import (
    LIBRARY_SCORE,
    SCORES,
    nearest_cosine,
    posterior_scores,
    severity_correlation,
    shift_auroc,
)


def test_the_librarys_score_is_free_of_the_joint_scale_and_log_det_k_is_not():
    loc, scale = torch.randn(5, 8), torch.rand(5, 8) + 0.5
    one, ten = (posterior_scores(ProjectedNormal(c * loc, c * scale)) for c in (1.0, 10.0))
    torch.testing.assert_close(one[LIBRARY_SCORE], ten[LIBRARY_SCORE], atol=1e-4, rtol=1e-5)
    shift = 2 * 8 * torch.log(torch.tensor(10.0))
    torch.testing.assert_close(ten["log_det_k"], one["log_det_k"] + shift)


def test_the_librarys_score_grows_with_the_spread():
    loc = torch.eye(8)[:1].expand(6, 8)
    scores = posterior_scores(ProjectedNormal(loc, torch.logspace(-2, 1, 6)[:, None]))
    assert scores[LIBRARY_SCORE].diff().gt(0).all()


def test_a_point_has_no_score_of_its_own():
    assert posterior_scores(dist.Delta(torch.eye(3), event_dim=1)) == {}


def test_scores_are_explained():
    posterior = ProjectedNormal(torch.randn(2, 3))
    assert posterior_scores(posterior).keys() <= SCORES.keys()


def test_nearest_cosine_equals_brute_force():
    z = torch.nn.functional.normalize(torch.randn(40, 3), dim=-1)
    expected = torch.stack([min(1 - a @ b for b in z[10:]) for a in z[:10]])
    torch.testing.assert_close(nearest_cosine(z[:10], z[10:], block=3), expected)


def test_auroc_counts_pairs():
    familiar, unfamiliar = torch.tensor([0.1, 0.4, 0.4]), torch.tensor([0.4, 0.9])
    pairs = [(0.5 if u == f else float(u > f)) for u in unfamiliar for f in familiar]
    assert shift_auroc(familiar, unfamiliar) == pytest.approx(sum(pairs) / 6)


def test_a_constant_score_tells_nothing():
    constant = torch.ones(4)
    assert severity_correlation({0: constant, 1: constant}) == 0
    assert shift_auroc(constant, constant) == 0.5


def test_severity_correlation_is_spearmans_over_all_images():
    levels = {s: torch.randn(20) + 0.3 * s for s in range(4)}
    severity = torch.arange(4).repeat_interleave(20)
    expected = spearmanr(severity, torch.cat(list(levels.values()))).statistic
    assert severity_correlation(levels) == pytest.approx(expected)
