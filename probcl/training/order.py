"""The order of a training's images and its random draws: functions of seed, epoch and step.

Nothing of them need be saved: a training that goes on after any step draws what it would have.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from probcl.data.views import CroppedViews

__all__ = ["ShuffledRows", "TrainingLoader", "derived_seed"]


def derived_seed(*numbers: int) -> int:
    """Return a seed that follows from others, and hardly ever equals that of other numbers.

    Example:
        >>> derived_seed(0, 1) == derived_seed(0, 1), derived_seed(0, 1) == derived_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1, np.uint64)[0])


class ShuffledRows(DistributedSampler):
    """Rows of a data set, in an order of its own for each epoch, from any batch on.

    The batches of all ranks together are those of one process whose batch is as large as theirs.

    Args:
        rows: Rows to choose from.
        batch_size: Images in a batch of one rank; what is left of an epoch is dropped.
        seed: Seed of the training.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(
        self, rows: Sequence[int], batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rows = torch.as_tensor(rows)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.batches = len(rows) // (batch_size * world_size)
        self.epoch = self.start = 0
        self.num_replicas = world_size

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.epoch))
        order = self.rows[torch.randperm(len(self.rows), generator=generator)]
        batches = order[: len(self) * self.num_replicas].view(self.batches, self.num_replicas, -1)
        return iter(batches[self.start :, self.rank].flatten().tolist())


class TrainingLoader(DataLoader):
    """Loader that begins where the training stands, when its first batch is asked for.

    Args:
        data: Data set to load from.
        sampler: Rows of the batches.
        position: Returns the epoch, and the number of its batches that are done.
        **options: As for ``torch.utils.data.DataLoader``.
    """

    def __init__(
        self,
        data: Dataset,
        sampler: ShuffledRows,
        position: Callable[[], tuple[int, int]],
        **options: Any,
    ) -> None:
        # A generator of its own: else each pass over the data would draw from the global one.
        options["generator"] = torch.Generator()
        super().__init__(
            data, batch_size=sampler.batch_size, sampler=sampler, drop_last=True, **options
        )
        self.rows = sampler
        self.position = position

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # Lightning asks for an iterator before it has restored how far the training is.
        self.rows.epoch, self.rows.start = self.position()
        if isinstance(self.dataset, CroppedViews):
            self.dataset.seed = derived_seed(self.rows.seed, self.rows.epoch)
        yield from super().__iter__()
