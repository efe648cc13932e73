"""The order of a training's images and its random draws: functions of seed, epoch and step.

Nothing of them need be saved: a training that goes on after any step draws what it would have.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["Batches", "Place", "blocks", "derived_seed", "shuffled_batches"]


def derived_seed(*numbers: int) -> int:
    """Return a seed that follows from others, and hardly ever equals that of other numbers.

    Example:
        >>> derived_seed(0, 1) == derived_seed(0, 1), derived_seed(0, 1) == derived_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1, np.uint64)[0])


def shuffled_batches(
    rows: Sequence[int], batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    """Return a rank's batches of rows in an epoch; what fills no batch is left out.

    The batches of all ranks together are those of one process whose batch is as large as theirs.

    Example:
        >>> [len(batch) for batch in shuffled_batches(range(10), 4, seed=0, epoch=0)]
        [4, 4]
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    order = torch.as_tensor(rows)[torch.randperm(len(rows), generator=generator)]
    together = batch_size * world_size
    whole = order[: len(order) // together * together].view(-1, world_size, batch_size)
    return whole[:, rank].tolist()


class Place(NamedTuple):
    """How far a training is.

    Attributes:
        epoch: Number of the epoch.
        done: Number of its batches that are done.
        per_epoch: Number of its batches.
        batches: Number of batches that are done of all epochs.
    """

    epoch: int = 0
    done: int = 0
    per_epoch: int = 0
    batches: int = 0

    def after(self, batches: int, per_epoch: int) -> "Place":
        """Return the place of a training that went on from here.

        Args:
            batches: Number of batches that are done of all epochs, those before this place too.
            per_epoch: Number of batches of each epoch from here.

        Raises:
            ValueError: If this place is within an epoch of another number of batches.

        Example:
            >>> Place(epoch=2, batches=20).after(26, per_epoch=5)
            Place(epoch=3, done=1, per_epoch=5, batches=26)
        """
        if self.done and self.per_epoch != per_epoch:
            raise ValueError(
                f"batch_size: the checkpoint stands within an epoch of {self.per_epoch} batches, "
                f"which now has {per_epoch}: go on with the batch size and the devices that it was "
                "made with, or from the checkpoint of the end of an epoch."
            )
        epochs, done = divmod(self.done + batches - self.batches, per_epoch)
        return Place(self.epoch + epochs, done, per_epoch, batches)


def blocks(
    rows: Sequence[int], size: int, rank: int = 0, world_size: int = 1
) -> list[Sequence[int]]:
    """Return rows in blocks of one size, the last one shorter, which ranks take in turns.

    Example:
        >>> blocks([0, 1, 2, 3, 4], 2), blocks([0, 1, 2, 3, 4], 2, rank=1, world_size=2)
        ([[0, 1], [2, 3], [4]], [[2, 3]])
    """
    return [rows[start : start + size] for start in range(0, len(rows), size)][rank::world_size]


class Batches:
    """Batches whose number is known, and which begin when the first one is asked for.

    Lightning asks for an iterator before it has restored how far a training is, and puts a sampler
    of its own into a ``DataLoader``; it leaves this alone.

    Args:
        count: Number of batches.
        begin: Returns the batches.

    Example:
        >>> batches = Batches(2, lambda: iter("ab"))
        >>> len(batches), list(batches), list(batches)
        (2, ['a', 'b'], ['a', 'b'])
    """

    def __init__(self, count: int, begin: Callable[[], Iterable[Any]]) -> None:
        self.count = count
        self.begin = begin

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        yield from self.begin()
