"""Scores of a posterior against closed forms, SciPy, and what they must be invariant to."""

import pyro.distributions as dist
import pytest
import torch
from scipy.stats import vonmises_fisher

from probcl.distributions import (
    HypersphericalUniform,
    PowerSpherical,
    ProjectedNormal,
    VonMisesFisher,
)
from probcl.evaluation import LIBRARY_SCORE, QUESTIONS, SCORES
from probcl.evaluation.posterior_scores import draw, mean_resultant_length, posterior_scores
from probcl.special import bessel_ratio
from probcl.sphere import normalize


def test_the_librarys_score_is_free_of_the_joint_scale_and_log_det_k_is_not():
    loc, scale = torch.randn(5, 8), torch.rand(5, 8) + 0.5
    one, ten = (posterior_scores(ProjectedNormal(c * loc, c * scale)) for c in (1.0, 10.0))
    for name in (LIBRARY_SCORE, "mean_resultant_length", "cap_radius"):
        torch.testing.assert_close(one[name], ten[name], atol=1e-4, rtol=1e-5)
    shift = 2 * 8 * torch.log(torch.tensor(10.0))
    torch.testing.assert_close(ten["log_det_k"], one["log_det_k"] + shift)


@pytest.mark.parametrize("form", ["diagonal", "low rank", "full"])
def test_log_det_k_is_that_of_the_covariance(form):
    loc = torch.randn(4, 5)
    factor, diagonal = torch.randn(4, 5, 2), torch.rand(4, 5) + 0.5
    covariance = factor @ factor.mT + torch.diag_embed(diagonal)
    posterior = {
        "diagonal": lambda: ProjectedNormal(loc, diagonal.sqrt()),
        "low rank": lambda: ProjectedNormal(loc, cov_factor=factor, cov_diag=diagonal),
        "full": lambda: ProjectedNormal(loc, scale_tril=torch.linalg.cholesky(covariance)),
    }[form]()
    expected = torch.diag_embed(diagonal) if form == "diagonal" else covariance
    torch.testing.assert_close(posterior_scores(posterior)["log_det_k"], expected.logdet())


def test_of_von_mises_fisher_they_are_known():
    kappa = torch.tensor([1.0, 10.0, 100.0])
    scores = posterior_scores(VonMisesFisher(torch.eye(3), kappa))
    expected = [vonmises_fisher([1.0, 0, 0], k.item()).entropy() for k in kappa]
    torch.testing.assert_close(scores["entropy"], torch.tensor(expected).float())
    torch.testing.assert_close(scores["mean_resultant_length"], 1 - bessel_ratio(kappa, 3))
    assert torch.equal(scores["concentration"], -kappa)
    # On the sphere of three dimensions 1 - exp(-kappa (1 - cos r)) lies within r, nearly.
    radius = torch.acos(1 + torch.log(torch.tensor(0.05)) / kappa[2])
    assert scores["cap_radius"][2].item() == pytest.approx(radius.item(), rel=0.15)


@pytest.mark.parametrize("name", ["entropy", "mean_resultant_length", "cap_radius"])
def test_they_grow_with_the_spread(name):
    loc = torch.eye(8)[:1].expand(6, 8)
    scores = posterior_scores(ProjectedNormal(loc, torch.logspace(-2, 1, 6)[:, None]))
    assert scores[name].diff().gt(0).all()


def test_the_length_from_samples_is_that_in_closed_form():
    loc = 2 * torch.randn(20, 6, dtype=torch.double)
    exact = ProjectedNormal(loc, 1.0).mean_resultant_length
    sampled = mean_resultant_length(ProjectedNormal(loc, torch.ones(20, 6, dtype=torch.double)))
    assert (sampled - exact).abs().max() < 0.06


def test_a_point_has_no_score_of_its_own_and_the_uniform_has():
    assert posterior_scores(dist.Delta(torch.eye(3), event_dim=1)) == {}
    scores = posterior_scores(HypersphericalUniform(3).expand([2]))
    assert scores["entropy"].shape == (2,)


def test_draws_are_the_same_each_time_and_leave_the_random_state_alone():
    posterior = PowerSpherical(normalize(torch.randn(3, 4)), 5.0)
    state = torch.get_rng_state()
    assert torch.equal(draw(posterior), draw(posterior))
    assert torch.equal(state, torch.get_rng_state())


def test_every_score_is_explained_and_asked_a_question():
    assert {score.question for score in SCORES.values()} <= QUESTIONS.keys()
    assert {score.needs for score in SCORES.values()} == {"posterior", "labels", "both", "nothing"}
    posteriors = (ProjectedNormal(torch.randn(2, 3)), VonMisesFisher(torch.eye(3), 1.0))
    for posterior in posteriors:
        assert posterior_scores(posterior).keys() <= SCORES.keys()
