"""The nearest of many directions, sought in a graph: in little time, and not all of them."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["NearestGraph"]


class NearestGraph:
    """A graph of directions (HNSW), along whose edges the nearest to others are sought.

    It is built on as many threads as PyTorch uses; on more than one it differs from time to time.

    Args:
        direction: Unit vectors ``(M, d)``, of which half precision is kept.

    Raises:
        ValueError: If usearch (extra ``index``) is not installed.

    References:
        Malkov and Yashunin (2016), https://arxiv.org/abs/1603.09320;
        https://github.com/unum-cloud/usearch
    """

    def __init__(self, direction: Tensor) -> None:
        self._index = _usearch().Index(ndim=direction.shape[1], metric="ip", dtype="f16")
        threads = torch.get_num_threads()
        self._index.add(np.arange(len(direction)), _array(direction), threads=threads)

    def nearest(self, query: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return rows of approximately the nearest, on the CPU, and which were found.

        Args:
            query: Unit vectors ``(N, d)``.
            count: How many are sought of each.

        Returns:
            Rows ``(N, count)``, and truth values: false where fewer were found.
        """
        both = query if len(query) > 1 else query.repeat(2, 1)  # of one the result has other types
        found = self._index.search(_array(both), count, threads=torch.get_num_threads())
        there = np.arange(count) < found.counts[:, None]
        row = np.where(there, found.keys, 0).astype(np.int64)
        return torch.from_numpy(row[: len(query)]), torch.from_numpy(there[: len(query)])

    def __getstate__(self) -> bytes:
        return bytes(self._index.save())

    def __setstate__(self, state: bytes) -> None:
        self._index = _usearch().Index.restore(state)


def _usearch() -> Any:
    try:
        return import_module("usearch.index")
    except ImportError as error:
        raise ValueError(
            "candidates needs usearch: pip install 'probcl[index]', or leave candidates out to "
            "search exactly."
        ) from error


def _array(direction: Tensor) -> np.ndarray:
    return direction.detach().float().cpu().numpy()
