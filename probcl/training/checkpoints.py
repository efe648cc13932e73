"""What a training keeps of itself, so that it can go on after any end."""

from datetime import timedelta
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

__all__ = ["SaveOnTermination", "checkpoint_callbacks"]

#: Between two checkpoints of an epoch that takes long.
INTERVAL = timedelta(minutes=15)
BEST = 3


def checkpoint_callbacks(folder: Path, held_out: bool) -> list[Callback]:
    """Return the callbacks that keep a training's checkpoints, each whole or not there at all.

    ``last.ckpt`` is of the end of the last epoch, ``recent.ckpt`` of every 15 minutes, and of the
    moment where the process was told to stop. If images are held out, ``best-*.ckpt`` are of the
    three epochs whose nearest neighbours classify them best.

    Args:
        folder: Folder of the checkpoints.
        held_out: Whether images are held out from training.
    """
    callbacks: list[Callback] = [
        ModelCheckpoint(
            folder,
            filename="last",
            enable_version_counter=False,
            save_on_train_epoch_end=True,  # else only where there is a validation
        ),
        ModelCheckpoint(
            folder, filename="recent", train_time_interval=INTERVAL, enable_version_counter=False
        ),
        SaveOnTermination(folder / "recent.ckpt"),
    ]
    if held_out:
        callbacks.append(
            ModelCheckpoint(
                folder,
                filename="best-{epoch}",
                monitor="val/knn_top1",
                mode="max",
                save_top_k=BEST,
                save_on_train_epoch_end=False,
            )
        )
    return callbacks


class SaveOnTermination(Callback):
    """Write a checkpoint where the process was told to stop (SIGTERM), between two steps.

    Args:
        path: The checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save, if that is why the training ends."""
        if isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(self.path)
