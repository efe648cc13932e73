"""Retrieval against brute force and pytorch-metric-learning."""

import numpy as np
import pytest
import torch

from probcl.evaluation import map_at_r, recall_at_1, retrieval
from probcl.sphere import normalize


@pytest.fixture(scope="module")
def items():
    random = torch.Generator().manual_seed(0)
    z = normalize(torch.randn(90, 5, generator=random, dtype=torch.double))
    return z, torch.cat([torch.arange(88) % 4, torch.tensor([4, 5])])  # two lone ones


def brute_force(query, labels, reference, classes, itself, k=10):
    rows = []
    for i, (z, y) in enumerate(zip(query, labels, strict=True)):
        order = np.argsort(-(reference @ z))
        order = order[order != i] if itself else order
        hits = classes[order] == y
        count = max(hits.sum(), 1)
        places = np.flatnonzero(hits) + 1
        precisions = np.arange(1, len(places) + 1) / places
        rows.append([
            hits[0], hits[:k].any(), hits[:count].sum() / count if hits.any() else 0,
            precisions[places <= count].sum() / count, precisions.sum() / count,
            1 / places[0] if len(places) else 0,
        ])  # fmt: skip
    return np.array(rows, float)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_measure_is_that_of_brute_force(items, dtype):
    z, y = items
    rows = brute_force(z.numpy(), y.numpy(), z.numpy(), y.numpy(), True)
    np.testing.assert_allclose(retrieval(z.to(dtype), y)[:-1], rows.mean(0), atol=1e-12)
    known = np.bincount(y)[y] > 1
    found = retrieval(z.to(dtype), y, leave_out_lone=True)
    np.testing.assert_allclose(found[:-1], rows[known].mean(0), atol=1e-12)
    assert found.queries == 88
    rows = brute_force(z[:30].numpy(), y[:30].numpy(), z[30:].numpy(), y[30:].numpy(), False, 3)
    apart = retrieval(z[:30].to(dtype), y[:30], z[30:], y[30:], k=3)
    np.testing.assert_allclose(apart[:-1], rows.mean(0), atol=1e-12)


def test_it_is_what_the_single_measures_say(items):
    found = retrieval(*items)
    assert found.recall_at_1 == pytest.approx(recall_at_1(*items))
    assert found.map_at_r == pytest.approx(map_at_r(*items)[0])
    some = retrieval(*items, queries=30)
    assert some.queries == 30
    assert some.map_at_r == pytest.approx(map_at_r(*items, queries=30)[0])


def test_it_is_that_of_pytorch_metric_learning(items):
    calculator = pytest.importorskip(
        "pytorch_metric_learning.utils.accuracy_calculator", reason="pip install it to compare"
    )
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.inference import CustomKNN

    z, y = items
    include = ("precision_at_1", "r_precision", "mean_average_precision_at_r",
               "mean_average_precision", "mean_reciprocal_rank")  # fmt: skip
    theirs = calculator.AccuracyCalculator(
        include=include, k=len(z) - 1, knn_func=CustomKNN(CosineSimilarity())
    ).get_accuracy(z, y)
    ours = retrieval(z, y, leave_out_lone=True)
    pairs = (ours.recall_at_1, ours.r_precision, ours.map_at_r, ours.mean_average_precision,
             ours.mean_reciprocal_rank)  # fmt: skip
    assert pairs == pytest.approx([theirs[name] for name in include], abs=1e-6)


def test_of_equal_ones_those_of_other_classes_come_first():
    """A collapsed embedding finds nothing, in whatever order its items stand."""
    z = torch.tensor([[1.0, 0.0]]).expand(6, 2)
    for labels in ([0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1]):
        found = retrieval(z, torch.tensor(labels), k=3)
        assert found.recall_at_1 == found.recall == found.r_precision == found.map_at_r == 0
        assert found.mean_average_precision == pytest.approx((1 / 4 + 2 / 5) / 2)
        assert found.mean_reciprocal_rank == 1 / 4


def test_bad_input_is_told(items):
    z, y = items
    with pytest.raises(ValueError, match="reference and reference_labels must be given together"):
        retrieval(z, y, z)
    with pytest.raises(ValueError, match="leave_out_lone leaves no query"):
        retrieval(z[-2:], y[-2:], leave_out_lone=True)
    with pytest.raises(ValueError, match="k must be"):
        retrieval(z, y, k=0)
