"""Quality metrics against hand-computed values and brute force."""

import pytest
import torch

from probcl.evaluation.quality import (
    accuracy,
    calibration_error,
    effective_rank,
    fit_linear_probe,
    k_nearest_neighbours,
    singular_spectrum,
)


def test_linear_probe_separates_what_is_linear():
    features = torch.randn(400, 3)
    labels = (features[:, 0] + 0.5 * features[:, 1] > 0).long()
    probe = fit_linear_probe(features[:300], labels[:300])
    assert accuracy(torch.as_tensor(probe.predict(features[300:])), labels[300:]) > 0.95


def test_nearest_neighbours_equal_brute_force():
    z = torch.nn.functional.normalize(torch.randn(90, 4), dim=-1)
    labels = torch.randint(3, (90,))
    predicted = k_nearest_neighbours(z[:60], labels[:60], z[60:], k=5)
    nearest = (z[60:] @ z[:60].T).topk(5).indices
    votes = torch.stack([torch.bincount(labels[row], minlength=3) for row in nearest])
    assert torch.equal(votes.gather(1, predicted[:, None])[:, 0], votes.amax(1))


def test_calibration_error_by_hand():
    # Two bins in use: confidence 0.9 with accuracy 1/2, confidence 0.6 with accuracy 1.
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    labels = torch.tensor([0, 1, 1, 1])
    assert calibration_error(probabilities, labels, 10) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_effective_rank_counts_equal_directions():
    assert effective_rank(singular_spectrum(torch.eye(5)[[0, 1, 2]])) == pytest.approx(3)
    assert effective_rank(singular_spectrum(torch.ones(6, 4))) == pytest.approx(1, abs=1e-5)
