"""The history of a training, read from what it logged."""

import csv
from pathlib import Path

import numpy as np

__all__ = ["read_history"]


def read_history(path: Path) -> dict[str, np.ndarray]:
    """Read the epochs and each logged term of a training from its ``metrics.csv``.

    A training that was taken up again has left its earlier parts beside it, ``metrics-1.csv`` and
    so on; an epoch that is in several is read from the last.

    Args:
        path: The file; an empty history is returned where there is none.

    Returns:
        Values by column, each of shape ``(E,)``, the columns ``epoch`` and ``loss`` first.
    """
    earlier = sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"), key=_part)
    epochs: dict[int, dict[str, str]] = {}
    for part in (*earlier, path):
        if part.is_file():
            with part.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("loss")]
            epochs |= {int(row["epoch"]): row for row in rows}
    rows = [epochs[epoch] for epoch in sorted(epochs)]
    # Columns of other callbacks share the file, and are empty in these rows or not terms.
    if not rows:
        return {}
    columns = rows[0]
    names = sorted(n for n in columns if n in ("contrastive", "y") or n.startswith("kl_"))
    return {n: np.array([float(row[n]) for row in rows]) for n in ("epoch", "loss", *names)}


def _part(path: Path) -> int:
    """Return the number of a part of the history."""
    return int(path.stem.rpartition("-")[2])
