"""The progress bar of a training."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

__all__ = ["ProgressBar"]


class ProgressBar(RichProgressBar):
    """Rich progress bar with the images that are trained on in a second.

    The other numbers are means of an epoch. They are read once for each: to read a number is to
    wait for the device.
    """

    def __init__(self) -> None:
        super().__init__(leave=False)
        self._read: tuple[int, dict[str, Any]] = (-1, {})

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the numbers beside the bar."""
        if self._read[0] != trainer.current_epoch:
            self._read = (trainer.current_epoch, super().get_metrics(trainer, pl_module))
        speed = getattr(pl_module, "images_per_second", 0.0)
        return self._read[1] | {"images/s": round(speed)}
