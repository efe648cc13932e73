"""Estimates of mutual information, where it is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.feature_selection import mutual_info_classif

from probcl.evaluation.information import (
    info_nce_information_bound,
    ksg_information,
    label_entropy,
    probe_information,
)
from probcl.sphere import normalize


def test_entropy_of_labels():
    assert label_entropy([0, 0, 1, 1]) == pytest.approx(math.log(2))
    assert label_entropy([3, 3]) == 0


def test_the_probes_bound_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    expected = math.log(2) + (math.log(0.9) + math.log(0.8)) / 2
    assert probe_information(p, [0, 1]) == pytest.approx(expected, rel=1e-6)
    assert probe_information(torch.full((4, 2), 0.5), [0, 1, 0, 1]) == pytest.approx(0, abs=1e-9)


def test_info_nce_is_bounded_by_the_batch_and_zero_for_strangers():
    z = normalize(torch.randn(512, 64))
    assert info_nce_information_bound(z, z, 0.01, batch=128) == pytest.approx(math.log(128), 1e-3)
    other = normalize(torch.randn(512, 64))
    assert info_nce_information_bound(z, other, 1.0, batch=128) < 0.05


def test_info_nce_equals_a_loop():
    a, b = normalize(torch.randn(6, 3)).double(), normalize(torch.randn(6, 3)).double()
    terms = [
        math.log(3)
        + math.log(math.exp(a[i] @ b[i] / 0.5) / sum(math.exp(a[i] @ b[j] / 0.5) for j in batch))
        for batch in (range(3), range(3, 6))
        for i in batch
    ]
    assert info_nce_information_bound(a, b, 0.5, batch=3) == pytest.approx(sum(terms) / 6)


def test_neighbours_find_the_information_where_it_is_known():
    labels = torch.arange(1000) % 4
    apart = 100.0 * labels[:, None] + torch.randn(1000, 1)
    assert ksg_information(apart, labels) == pytest.approx(math.log(4), abs=0.02)
    assert ksg_information(torch.randn(1000, 2), labels) < 0.05


def test_neighbours_agree_with_scikit_learn_in_one_dimension():
    labels = torch.arange(800) % 3
    x = labels[:, None] + torch.randn(800, 1).double()
    theirs = mutual_info_classif(x, labels, n_neighbors=3, random_state=0)[0]
    assert ksg_information(x, labels) == pytest.approx(theirs, abs=0.02)


def test_a_class_of_one_is_not_counted():
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    x = torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2], [5.0]])
    assert ksg_information(x, labels) == pytest.approx(ksg_information(x[:6], labels[:6]))
    with pytest.raises(ValueError, match="a class of two members"):
        ksg_information(x[:2], [0, 1])


def test_a_far_item_changes_no_others_neighbours():
    from sklearn.feature_selection._mutual_info import _compute_mi_cd

    random = np.random.default_rng(0)
    y = np.arange(600) % 3
    z = random.normal(size=(600, 1)) + 3 * y[:, None]
    for far in (1e4, 1e6, 1e8):
        z[0] = far
        expected = _compute_mi_cd(z[:, 0], y, 3)
        assert ksg_information(z, y) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": 0.0}, "temperature must be"), ({"batch": 1}, "batch must be at least 2")],
)
def test_what_a_bound_refuses(options, message):
    z = torch.eye(4)
    with pytest.raises(ValueError, match=message):
        info_nce_information_bound(z, z, **options)
    with pytest.raises(ValueError, match="second must have 4 numbers in each row"):
        info_nce_information_bound(z, z[:, :3])
