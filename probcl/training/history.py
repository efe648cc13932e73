"""What a training logs, ``metrics.csv``: whole at every moment, and ahead of its checkpoints."""

import csv
import time
from io import StringIO
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from probcl.files import write_whole

__all__ = ["History", "RowBeforeCheckpoint"]

# Seconds between two writings of what is logged within an epoch.
INTERVAL = 10.0


class History(Logger):
    """Log to ``metrics.csv`` in the folder of a run, which is never there half-written.

    Args:
        run_dir: Folder of the run.
    """

    name = version = ""  # so that Lightning takes the folder for that of the run

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self._path = run_dir / "metrics.csv"
        self._rows: list[dict[str, float]] = []
        self._ahead: list[dict[str, float]] = []
        self._written = -INTERVAL

    @property
    def save_dir(self) -> str:
        """The folder of the run."""
        return str(self._path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Leave them out: ``config.yaml`` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row, in place of one that was written ahead."""
        self._ahead = []
        self._rows.append(metrics | {"step": len(self._rows) if step is None else step})

    @rank_zero_only
    def save(self) -> None:
        """Write all rows, unless that was done a moment ago."""
        if time.monotonic() - self._written >= INTERVAL:
            self.finalize()

    @rank_zero_only
    def write_ahead(self, row: dict[str, float]) -> None:
        """Write all rows, and the one that is logged next."""
        self._ahead = [row]
        self.finalize()

    @rank_zero_only
    def finalize(self, status: str = "") -> None:
        """Write all rows."""
        if rows := self._rows + self._ahead:
            text = StringIO()
            table = csv.DictWriter(text, sorted(set().union(*rows)), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
            write_whole(self._path, text.getvalue())
        self._written = time.monotonic()


class RowBeforeCheckpoint(Checkpoint):
    """Write the row of an epoch ahead of its checkpoint: Lightning logs it afterwards.

    A run that is killed between the two goes on with the next epoch, and would never log it.

    Args:
        history: Where the row is written.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it; the checkpoint callbacks that follow save what they save."""
        row = {name: value.item() for name, value in trainer.logged_metrics.items()}
        row |= {"epoch": trainer.current_epoch, "step": trainer.global_step - 1}
        self.history.write_ahead(row)
