"""Posteriors for ArviZ: embeddings, predictions and scores as one object with named dimensions."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from probcl.checks import check_count
from probcl.distributions import as_posterior

__all__ = ["to_arviz"]

DIMENSIONS = ("chain", "draw", "item", "dim", "class")


def to_arviz(
    posterior: Distribution,
    *,
    labels: Tensor | None = None,
    index: Tensor | None = None,
    scores: Mapping[str, Tensor] | None = None,
    classify: Callable[[Tensor], Tensor] | None = None,
    draws: int = 250,
    chains: int = 4,
    seed: int = 0,
) -> Any:
    """Draw from posteriors over the sphere, and give the draws to ArviZ.

    The draws of an item are independent: the chains only make ArviZ's diagnostics possible. Items
    share their base samples, so differences between them are not noise. The groups are

    - ``posterior``: ``embedding`` (chain, draw, item, dim);
    - ``sample_stats``: ``lp`` (chain, draw, item), the log density of each draw;
    - ``posterior_predictive``: ``probability`` (chain, draw, item, class), with ``classify``;
    - ``observed_data``: ``label`` (item), with labels;
    - ``constant_data``: each score (item), with scores.

    Args:
        posterior: Distribution over the sphere, of batch shape ``(N,)``: a few images, for each has
            ``chains x draws x d`` numbers.
        labels: Classes, shape ``(N,)``.
        index: Names of the items, such as rows of a data set, shape ``(N,)``; by default from 0.
        scores: Uncertainty by name, each of shape ``(N,)``. A name may be that of an array of
            another group, not that of a dimension.
        classify: Embeddings ``(*, d)`` to class probabilities ``(*, C)``, such as
            ``LinearProbe.probabilities``.
        draws: Draws of each chain, at least 1.
        chains: Number of chains, at least 1.
        seed: Seed of the draws; the global random state is left alone.

    Returns:
        An ``InferenceData`` (ArviZ below 1) or a ``DataTree``: ``az.summary`` and ``az.plot_*``
        take it, ``.to_netcdf(path)`` saves it.

    Raises:
        ValueError: If the batch shape is not ``(N,)``, or an argument does not fit.

    Example:
        >>> from probcl.distributions import VonMisesFisher
        >>> data = to_arviz(VonMisesFisher(torch.eye(3), 50.0), draws=10)
        >>> dict(data["posterior"]["embedding"].sizes)
        {'chain': 4, 'draw': 10, 'item': 3, 'dim': 3}
    """
    if len(posterior.batch_shape) != 1 or len(posterior.event_shape) != 1:
        raise ValueError(
            f"posterior must have a batch shape (N,) of vectors, got {tuple(posterior.batch_shape)}"
            f" of events {tuple(posterior.event_shape)}."
        )
    check_count("draws", draws)
    check_count("chains", chains)
    count = posterior.batch_shape[0]
    with torch.no_grad():
        z = as_posterior(posterior).draw(chains * draws, seed).unflatten(0, (chains, draws))
        density = posterior.log_prob(z)
    per_item = ("item",)
    draw = ("chain", "draw", "item")
    groups: dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]] = {
        "posterior": {"embedding": ((*draw, "dim"), _array(z))},
        "sample_stats": {"lp": (draw, _array(density))},
    }
    if classify is not None:
        with torch.no_grad():
            probability = _array(classify(z))
        groups["posterior_predictive"] = {"probability": ((*draw, "class"), probability)}
    if labels is not None:
        groups["observed_data"] = {"label": (per_item, _per_item("labels", labels, count))}
    if scores:
        _check_names(scores)
        groups["constant_data"] = {
            name: (per_item, _per_item(f"scores[{name!r}]", values, count))
            for name, values in scores.items()
        }
    items = np.arange(count) if index is None else _per_item("index", index, count)
    return _assembled(groups, {"item": items})


def _assembled(groups: dict[str, Any], coords: dict[str, np.ndarray]) -> Any:
    """Return the groups as the object of the version of ArviZ that is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # 0.23 tells of version 1 when imported
        import arviz
    import xarray

    # Not by arviz.from_dict: it takes dimensions by the name of an array, whatever its group.
    sets: dict[str, Any] = {}
    for group, arrays in groups.items():
        lengths = {n: k for dims, a in arrays.values() for n, k in zip(dims, a.shape, strict=True)}
        numbered = {name: np.arange(length) for name, length in lengths.items()}
        sets[group] = xarray.Dataset(arrays, numbered | coords)
    if int(arviz.__version__.partition(".")[0]) < 1:
        return arviz.InferenceData(**sets)
    return xarray.DataTree.from_dict(sets)


def _check_names(scores: Mapping[str, Tensor]) -> None:
    for name in scores:
        if not isinstance(name, str) or not name or "/" in name or name in DIMENSIONS:
            raise ValueError(
                f"scores can't have the name {name!r}: that of an array in ArviZ is a text without"
                f" '/', and not a dimension ({', '.join(DIMENSIONS)}); rename it."
            )


def _array(values: Tensor) -> np.ndarray:
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _per_item(name: str, values: Tensor, count: int) -> np.ndarray:
    array = np.asarray(_array(values) if isinstance(values, Tensor) else values)
    if array.shape != (count,):
        raise ValueError(
            f"{name} must have shape ({count},), one for each posterior, got {array.shape}."
        )
    return array
