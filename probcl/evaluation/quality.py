"""Quality of embeddings: linear probe, nearest neighbours, calibration and collapse."""

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

__all__ = [
    "accuracy",
    "calibration_error",
    "effective_rank",
    "fit_linear_probe",
    "k_nearest_neighbours",
    "singular_spectrum",
]


def fit_linear_probe(features: Tensor, labels: Tensor) -> Pipeline:
    """Fit a multinomial logistic regression on standardised features.

    Args:
        features: Output of the frozen backbone, shape ``(N, F)``.
        labels: Classes, shape ``(N,)``.

    Returns:
        A scikit-learn classifier.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return probe.fit(features, labels)


def k_nearest_neighbours(train: Tensor, train_labels: Tensor, test: Tensor, k: int = 5) -> Tensor:
    """Classify embeddings by a vote of their ``k`` nearest training embeddings, by cosine.

    Args:
        train: Unit vectors, shape ``(M, d)``.
        train_labels: Classes, shape ``(M,)``.
        test: Unit vectors, shape ``(N, d)``.
        k: Number of neighbours, at most ``M``.

    Returns:
        Predicted classes, shape ``(N,)``.
    """
    neighbours = KNeighborsClassifier(n_neighbors=min(k, len(train)), metric="cosine")
    return torch.as_tensor(neighbours.fit(train, train_labels).predict(test))


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Return the fraction of right predictions."""
    return (predicted == labels).double().mean().item()


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error: confidence against accuracy in equal bins.

    Args:
        probabilities: Class probabilities, shape ``(N, C)``.
        labels: Classes, shape ``(N,)``.
        bins: Number of bins of the confidence.
    """
    classes = probabilities.shape[-1]
    return multiclass_calibration_error(probabilities, labels, classes, n_bins=bins).item()


def singular_spectrum(embedding: Tensor) -> Tensor:
    """Return the singular values of the embeddings ``(N, d)``, largest first."""
    return torch.linalg.svdvals(embedding.double())


def effective_rank(spectrum: Tensor) -> float:
    """Return the exponential of the entropy of the normalised singular values.

    Args:
        spectrum: Singular values, shape ``(d,)``.

    References:
        Garrido et al. (2023), RankMe. https://arxiv.org/abs/2210.02885

    Example:
        >>> round(effective_rank(torch.tensor([1.0, 1.0, 0.0])), 6)
        2.0
    """
    share = spectrum / spectrum.sum()
    return torch.special.entr(share).sum().exp().item()
