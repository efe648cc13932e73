"""Clustering: do the embeddings fall into the classes by themselves?

Functions import scikit-learn when they run: it takes a third as long to import as torch.
"""

from typing import Any

import torch
from scipy.cluster.hierarchy import cut_tree, ward
from torch import Tensor

from probcl.checks import as_labels, as_matrix
from probcl.evaluation.subsets import evenly_spaced

__all__ = ["clustering_scores", "purity", "ward_clustering"]

_ROWS = 128  # whose distances are held at once


def purity(clusters: Any, labels: Any) -> float:
    """Return the share of items in the commonest class, ``(N,)``, of their cluster, ``(N,)``.

    Example:
        >>> purity(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]))
        0.75
    """
    from sklearn.metrics.cluster import contingency_matrix

    truth = as_labels("labels", labels)
    counts = contingency_matrix(truth, as_labels("clusters", clusters, len(truth)))
    return float(counts.max(0).sum() / counts.sum())


def clustering_scores(clusters: Any, labels: Any) -> dict[str, float]:
    """Compare clusters ``(N,)`` with classes ``(N,)``, by scikit-learn's measures and purity."""
    from sklearn import metrics

    truth = as_labels("labels", labels)
    found = as_labels("clusters", clusters, len(truth))
    homogeneity, completeness, v_measure = metrics.homogeneity_completeness_v_measure(truth, found)
    return {
        "adjusted_rand_index": float(metrics.adjusted_rand_score(truth, found)),
        "normalized_mutual_information": float(metrics.normalized_mutual_info_score(truth, found)),
        "homogeneity": float(homogeneity),
        "completeness": float(completeness),
        "v_measure": float(v_measure),
        "purity": purity(found, truth),
    }


def ward_clustering(
    embedding: Any, labels: Any, clusters: int | None = None, largest: int = 4000
) -> dict[str, float]:
    """Cluster embeddings by Ward's linkage, and compare with the classes.

    Args:
        embedding: Shape ``(N, d)``.
        labels: Classes, shape ``(N,)``.
        clusters: Number of clusters; by default that of the classes.
        largest: At most so many items, evenly spaced, since time grows with their square.

    Returns:
        The measures of ``clustering_scores``, and ``count``, the number of items clustered.

    Raises:
        ValueError: If there are fewer items than clusters, or than two.
    """
    z = as_matrix("embedding", embedding, least=2)
    y = as_labels("labels", labels, len(z))
    rows = evenly_spaced(len(z), largest)
    number = len(y.unique()) if clusters is None else clusters
    if not 1 <= number <= len(rows):
        raise ValueError(f"clusters must be from 1 to {len(rows)}, the items, got {number}.")
    z = z[rows].double()
    found = cut_tree(ward(_distances(z - z.mean(0))), number)[:, 0]
    return clustering_scores(found, y[rows]) | {"count": float(len(rows))}


def _distances(z: Tensor) -> Tensor:
    """Return the distances of all pairs, in SciPy's order, by products of matrices."""
    found, end = z.new_empty(len(z) * (len(z) - 1) // 2), 0
    for block, part in enumerate(z.split(_ROWS)):
        rows = torch.cdist(part, z[_ROWS * block :], compute_mode="use_mm_for_euclid_dist")
        for i, row in enumerate(rows):
            others = row[i + 1 :]
            found[end : end + len(others)] = others
            end += len(others)
    return found
