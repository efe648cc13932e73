"""Few-shot probes and Ward's clusters: on blobs, and against scikit-learn's measures."""

import pytest
import torch
from sklearn import metrics

from probcl.evaluation.clustering import clustering_scores, purity, ward_clustering
from probcl.evaluation.few_shot import few_shot_accuracy

CENTRES = 12 * torch.eye(5)


def blobs(count):
    labels = torch.arange(count) % 5
    return CENTRES[labels] + torch.randn(count, 5), labels


def test_few_images_are_enough_where_classes_lie_apart():
    (x, y), (test_x, test_y) = blobs(200), blobs(50)
    results = few_shot_accuracy(x, y, test_x, test_y, shots=(1, 5), subsets=3)
    assert {n: len(values) for n, values in results.items()} == {1: 3, 5: 3}
    assert min(results[5]) == 1.0
    assert results == few_shot_accuracy(x, y, test_x, test_y, shots=(1, 5), subsets=3)


def test_each_class_gives_as_many_images(monkeypatch):
    from probcl.evaluation import few_shot

    drawn = []
    fit = few_shot.fit_linear_probe
    monkeypatch.setattr(
        few_shot, "fit_linear_probe", lambda x, y: drawn.append((x, y)) or fit(x, y)
    )
    x, y = blobs(100)
    few_shot_accuracy(x, y, x, y, shots=(3,), subsets=4)
    assert all(labels.bincount().tolist() == [3] * 5 for _, labels in drawn)
    assert not torch.equal(drawn[0][0], drawn[1][0])


def test_a_class_with_too_few_images_is_named():
    x, y = blobs(100)
    with pytest.raises(ValueError, match="shots must be at most 20, the images of class 0, got 30"):
        few_shot_accuracy(x, y, x, y, shots=(30,))


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
