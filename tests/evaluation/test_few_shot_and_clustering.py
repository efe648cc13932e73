"""Few-shot probes and Ward's clusters: on blobs, and against scikit-learn's measures."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from probcl.evaluation import (
    accuracy,
    clustering_scores,
    few_shot_accuracy,
    few_shot_rows,
    fit_linear_probe,
    purity,
    ward_clustering,
)

CENTRES = 12 * torch.eye(5)


def blobs(count):
    labels = torch.arange(count) % 5
    return CENTRES[labels] + torch.randn(count, 5), labels


def test_few_items_are_enough_where_classes_lie_apart():
    (x, y), (test_x, test_y) = blobs(200), blobs(50)
    one, five = (few_shot_accuracy(x, y, test_x, test_y, n, subsets=3) for n in (1, 5))
    assert len(one) == 3
    assert five == [1.0] * 3
    assert one == few_shot_accuracy(x, y, test_x, test_y, 1, subsets=3)


def test_where_all_items_are_few_each_draw_is_of_all_of_them():
    (x, y), (test_x, test_y) = ((z - 0.9 * CENTRES[k], k) for z, k in (blobs(50), blobs(500)))
    scores = few_shot_accuracy(x, y, test_x, test_y, 10, subsets=3)
    of_all = accuracy(fit_linear_probe(x, y).predict(test_x), test_y)
    assert 0.5 < of_all < 1
    assert scores == pytest.approx([of_all] * 3, abs=0.002)
    assert [few_shot_accuracy(x, y, x, y, shots, subsets=0) for shots in (1, 10)] == [[], []]


def test_each_class_gives_as_many_items():
    labels = torch.arange(100) % 5 * 2
    labels[::7] = 8
    generator = torch.Generator().manual_seed(0)
    one, other = (few_shot_rows(labels, 3, generator) for _ in range(2))
    assert labels[one].bincount().tolist() == [3, 0, 3, 0, 3, 0, 3, 0, 3]
    assert len(one.unique()) == 15
    assert one.tolist() != other.tolist()


def test_a_class_with_too_few_items_is_named():
    x, y = blobs(100)
    with pytest.raises(ValueError, match="from 1 to 20, the items of class 0, got 30"):
        few_shot_accuracy(x, y, x, y, shots=30)


def test_clusters_of_blobs_are_their_classes():
    x, y = blobs(100)
    scores = ward_clustering(x, y)
    assert scores.pop("count") == 100
    assert set(scores.values()) == {1.0}
    assert ward_clustering(x, y, largest=40)["count"] == 40


def test_measures_are_scikit_learns():
    found, labels = torch.randint(4, (80,)), torch.randint(3, (80,))
    scores = clustering_scores(found, labels)
    assert scores["adjusted_rand_index"] == metrics.adjusted_rand_score(labels, found)
    nmi = metrics.normalized_mutual_info_score(labels, found)
    assert scores["normalized_mutual_information"] == nmi
    assert scores["v_measure"] == pytest.approx(metrics.v_measure_score(labels, found))
    assert scores["purity"] == purity(found, labels)
    assert purity([0, 0, 0, 1, 1], [2, 2, 0, 1, 0]) == pytest.approx(3 / 5)


def test_duplicates_and_order_change_no_measure():
    found, labels = torch.randint(4, (80,)), torch.randint(3, (80,))
    order, scores = torch.randperm(80), clustering_scores(found, labels)
    assert clustering_scores(found[order], labels[order]) == pytest.approx(scores)
    twice = clustering_scores(found.repeat(2), labels.repeat(2))
    for name in ("homogeneity", "completeness", "v_measure", "purity"):
        assert twice[name] == pytest.approx(scores[name])


def test_bad_input():
    with pytest.raises(ValueError, match="clusters must be from 1 to 3"):
        ward_clustering(torch.rand(3, 2), torch.arange(3), clusters=4)
    with pytest.raises(ValueError, match="at least 2 rows"):
        ward_clustering(torch.rand(1, 2), torch.arange(1))
    with pytest.raises(ValueError, match="row for each of the 2 items, got 3"):
        purity(torch.arange(3), torch.arange(2))


def test_the_items_to_cluster_reach_from_the_first_to_the_last():
    """The last class has one item, at the end: without it there is a class less."""
    z = np.repeat(np.eye(3), [6, 6, 1], axis=0) * 10
    y = np.repeat([0, 1, 2], [6, 6, 1])
    measures = ward_clustering(z, y, clusters=3, largest=7)
    assert measures["count"] == 7
    assert measures["adjusted_rand_index"] == 1
    assert ward_clustering(z, y, clusters=1)["purity"] == pytest.approx(6 / 13)
