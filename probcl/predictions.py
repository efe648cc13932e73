"""What ``probcl predict`` writes: embeddings, posteriors, classes and scores, by image."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probcl.evaluation import Embeddings, predict
from probcl.files import replacing

__all__ = ["check_predictions", "write_embeddings", "write_predictions"]


def write_embeddings(run_dir: Path, splits: Mapping[str, Sequence[Embeddings | None]]) -> Path:
    """Write what a program says of images: arrays with a row for each image.

    Args:
        run_dir: Folder of the run, which gets ``embeddings.npz``.
        splits: Embeddings of the batches of each split.

    Returns:
        The file, with ``embedding`` before it is normalised, ``row`` in the data set, ``split`` and
        ``label``; of a posterior its parameters, ``posterior_NAME``, ``mean_direction``,
        ``mean_resultant_length`` and ``entropy``, where it is known. What one of the splits
        lacks is left out.
    """
    there = {split: [part for part in parts if part is not None] for split, parts in splits.items()}
    whole = {split: Embeddings.concatenate(parts) for split, parts in there.items() if parts}
    arrays = [_arrays(part) for part in whole.values()]
    joined: dict[str, Any] = {
        name: np.concatenate([part[name] for part in arrays])
        for name in arrays[0]
        if all(name in part for part in arrays)
    }
    split = np.repeat(list(whole), [len(part) for part in whole.values()])
    with replacing(run_dir / "embeddings.npz") as partial, partial.open("wb") as file:
        np.savez(file, **joined, split=split)
    return run_dir / "embeddings.npz"


def write_predictions(
    path: Path,
    names: Sequence[str],
    train: Embeddings,
    new: Embeddings,
    classes: Sequence[str] = (),
) -> Path:
    """Write what is said of new images, one row for each: a table with a column for each thing.

    Args:
        path: An ``.npz`` file, or ``.parquet`` (extra ``parquet``).
        names: Names of the images, by row.
        train: Embeddings of the training images, from which classes and scores come.
        new: Embeddings of the new images.
        classes: Names of the classes, by number; fewer than there are of them, or none, are not
            used.

    Returns:
        The file, with ``name``; ``class``, a name if it has one, and ``probability`` of the linear
        probe, if there are classes; the arrays of ``write_embeddings``; and ``score_NAME`` of each
        uncertainty score.

    Raises:
        ValueError: If the file is of another kind, or there is no PyArrow to write it.
    """
    check_predictions(path)
    prediction, new = predict(train, None, new), new.sorted()
    columns: dict[str, Any] = {"name": np.array([names[row] for row in new.rows])}
    if prediction.probabilities.shape[1]:
        columns["probability"], number = map(np.asarray, prediction.probabilities.max(-1))
        named = len(classes) >= prediction.probabilities.shape[1]
        columns["class"] = np.array(classes)[number] if named else number
    columns |= {name: values for name, values in _arrays(new).items() if name != "row"}
    columns |= {f"score_{name}": np.asarray(x) for name, x in prediction.scores.items()}
    with replacing(path) as partial:
        if path.suffix == ".npz":
            with partial.open("wb") as file:
                np.savez(file, **columns)
        else:
            from pyarrow import parquet, table

            parquet.write_table(table({name: x.tolist() for name, x in columns.items()}), partial)
    return path


def check_predictions(path: Path) -> None:
    """Raise ``ValueError`` unless ``write_predictions`` can write the file."""
    if path.suffix not in (".npz", ".parquet"):
        raise ValueError(f"output must end in .npz or .parquet, got {path}.")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ValueError(
            "output: .parquet needs PyArrow: pip install 'probcl[parquet]', or choose .npz."
        )
    if path.exists():
        raise ValueError(f"output: {path} is there already: choose another name.")


def _arrays(part: Embeddings) -> dict[str, Any]:
    arrays: dict[str, Any] = {"embedding": part.embedding, "row": part.rows}
    if part.labels is not None:
        arrays["label"] = part.labels
    if part.posterior:
        blocks = part.posterior
        parameters = [name for name in blocks[0].arg_constraints if hasattr(blocks[0], name)]
        names = {f"posterior_{name}": name for name in parameters}
        names |= {name: name for name in ("mean_direction", "mean_resultant_length")}
        with torch.no_grad():
            said = {k: torch.cat([getattr(q, n) for q in blocks]) for k, n in names.items()}
            with suppress(NotImplementedError):
                said["entropy"] = torch.cat([q.entropy() for q in blocks])
        arrays |= {name: values[part._order] for name, values in said.items()}
    return {name: values.cpu().numpy() for name, values in arrays.items()}
