"""A posterior for arrays as scikit-learn's estimators are used."""

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from torch import Tensor

from probcl.checks import as_matrix
from probcl.programs.posthoc import Likelihood
from probcl.programs.posthoc_fit import fit_posterior
from probcl.sphere import normalize

__all__ = ["PosteriorEmbedder"]


class PosteriorEmbedder(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Directions of embeddings, and how certain each is, as a scikit-learn estimator.

    ``fit_posterior`` fits the posterior, ``posterior_`` is what it returns, in float64. An
    embedding that is zero has no direction: it is not fitted to, stays zero and has the score 0.

    Args:
        likelihood: ``"match"`` or ``"neighbours"``; by default the first with classes, the second
            without.
        neighbours: As for ``fit_posterior``.
        hidden: As for ``fit_posterior``.
        steps: As for ``fit_posterior``.
        learning_rate: As for ``fit_posterior``.
        random_state: Seed, as scikit-learn takes it.

    References:
        https://scikit-learn.org/stable/developers/develop.html

    Example:
        >>> rng = np.random.default_rng(0)
        >>> y = np.array(["cat", "dog"])[np.arange(100) % 2]
        >>> x = (y == "cat")[:, None] + rng.normal(size=(100, 4))
        >>> embedder = PosteriorEmbedder(steps=20).fit(x, y)
        >>> embedder.transform(x[:3]).shape, embedder.score_samples(x[:3]).shape
        ((3, 4), (3,))
    """

    def __init__(
        self,
        likelihood: Likelihood | None = None,
        neighbours: int = 5,
        hidden: int = 128,
        steps: int = 800,
        learning_rate: float = 2e-3,
        random_state: Any = 0,
    ) -> None:
        self.likelihood = likelihood
        self.neighbours = neighbours
        self.hidden = hidden
        self.steps = steps
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "PosteriorEmbedder":
        """Fit the concentration of embeddings.

        Args:
            X: Embeddings, ``(N, d)``, of any length.
            y: Classes of any kind, ``(N,)``. Numbers that are not classes, and a single class, say
                nothing of matches: then the likelihood is that without classes.

        Raises:
            ValueError: If an argument does not fit.
        """
        embedding = self._read(X, reset=True)
        classes, some = self._classes(embedding, y), embedding.any(-1)
        if classes is None and self.likelihood == "match":
            raise ValueError(
                "y must hold two classes at least for likelihood='match': give them, or leave the "
                "likelihood out."
            )
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        program = fit_posterior(
            embedding[some],
            None if classes is None else classes[some.numpy()],
            likelihood=self.likelihood,
            neighbours=self.neighbours,
            hidden=self.hidden,
            steps=self.steps,
            learning_rate=self.learning_rate,
            seed=seed,
        )
        # In float64 an item scores the same in any batch, as scikit-learn asks for.
        self.posterior_ = program.double()
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the directions of embeddings, unit vectors ``(N, d)``."""
        check_is_fitted(self)
        embedding = self._read(X)
        some = embedding.any(-1)
        embedding[some] = normalize(embedding[some])
        return embedding.numpy()

    def score_samples(self, X: Any) -> np.ndarray:
        """Return how certain embeddings are, ``w rho``, from 0 to 1, ``(N,)``.

        It is the mean resultant length of the gated posterior, the gate times that of the other.
        """
        check_is_fitted(self)
        embedding = self._read(X)
        some = embedding.any(-1)
        scores = np.zeros(len(embedding))
        if some.any():
            with torch.no_grad():
                length = self.posterior_(embedding[some]).mean_resultant_length
                scores[some.numpy()] = self.posterior_.gate(embedding[some]) * length
        return scores

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _read(self, X: Any, reset: bool = False) -> Tensor:
        samples, numbers = (self.neighbours + 2, 2) if reset else (1, 1)
        checked = validate_data(
            self, X, reset=reset, dtype=[np.float64, np.float32], copy=True,
            ensure_min_samples=samples, ensure_min_features=numbers,
        )  # fmt: skip
        return as_matrix("X", checked)

    def _classes(self, embedding: Tensor, y: Any) -> np.ndarray | None:
        """Return classes numbered from 0; None where there are none, or nothing to tell apart."""
        if y is None:
            return None
        given = column_or_1d(y, warn=True)
        check_consistent_length(embedding, given)
        if type_of_target(given, input_name="y") not in ("binary", "multiclass"):
            return None
        names, classes, counts = np.unique(given, return_inverse=True, return_counts=True)
        return classes if len(names) > 1 and counts.max() > 1 else None
