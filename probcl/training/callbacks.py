"""What looks on at a training: monitor, throughput, finite numbers, checkpoints, progress bar."""

import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    ModelCheckpoint,
    RichProgressBar,
    StochasticWeightAveraging,
)  # fmt: skip
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from probcl.evaluation import monitor
from probcl.training.batch import TEST, TRAIN, as_batch
from probcl.training.history import History, RowBeforeCheckpoint

__all__ = [
    "Materialize", "Monitor", "ProgressBar", "RequireFinite", "SaveOnTermination", "Throughput",
    "checkpoint_callbacks",
]  # fmt: skip

#: Between two checkpoints of an epoch that takes long.
INTERVAL = timedelta(minutes=15)
BEST = 3
_REDRAWN = 0.25  # seconds between two drawings of the bar


class Materialize(Callback):
    """Let lazy layers take their sizes, before other callbacks copy the module."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take them from one image."""
        pl_module.materialize(stage)  # type: ignore[operator]


class Monitor(Callback):
    """Log how good the embedding is, ``val/NAME``, at every validation."""

    @torch.inference_mode(False)  # in which a probe is fitted
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the images of the second validation loader with those of the first."""
        embedded = pl_module.embedded()  # type: ignore[operator]
        if trainer.sanity_checking or not {TRAIN, TEST} <= embedded.keys():
            return
        values = monitor(embedded[TRAIN], embedded[TEST])
        pl_module.log_dict(
            {f"val/{name}": value for name, value in values.items()},
            prog_bar=True,
            sync_dist=trainer.world_size > 1,
        )


class Throughput(Callback):
    """Log speed and memory of the training; note how long it and its evaluation take.

    ``images_per_second`` is of the epoch so far, each image with all its views, validation aside;
    ``memory_gib`` is the peak of the device's memory, or of the process's. The module's ``seconds``
    take ``time/fit_s`` and ``time/evaluate_s``.
    """

    def __init__(self) -> None:
        self._began = self._epoch_began = self._paused = 0.0
        self._images = 0

    @property
    def images_per_second(self) -> float:
        """Images that training has taken in a second of this epoch."""
        return self._images / (time.perf_counter() - self._epoch_began)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to count images."""
        self._epoch_began, self._images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of a batch."""
        self._images += as_batch(batch).size

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on."""
        self._epoch_began += time.perf_counter() - self._paused

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log speed and memory."""
        memory = _peak_memory(pl_module.device) / 2**30
        pl_module.log_dict({"images_per_second": self.images_per_second, "memory_gib": memory})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of a training or an evaluation."""
        self._began = time.perf_counter()

    on_test_start = on_fit_start

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the seconds that the training took."""
        pl_module.seconds["time/fit_s"] = time.perf_counter() - self._began  # type: ignore[index, operator]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the seconds that the evaluation took."""
        pl_module.seconds["time/evaluate_s"] = time.perf_counter() - self._began  # type: ignore[index, operator]


def _peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use on a GPU, or of the process's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # which Windows lacks

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class RequireFinite(Callback):
    """Stop a training whose loss or weights are not finite, before a checkpoint is written."""

    def __init__(self) -> None:
        self._terms: tuple[str, ...] = ()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss of a step that is logged: to read a number is to wait for the device."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if outputs and as_batch(batch).size:
            self._terms = tuple(outputs)
            if every and batch_idx % every == 0:
                _require_finite_loss(trainer, outputs)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the weights, where they are trained."""
        if trainer.state.fn == TrainerFn.FITTING:
            _require_finite_weights(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the mean loss of the epoch, and the weights."""
        means = trainer.callback_metrics  # empty where nothing is logged
        _require_finite_loss(trainer, {n: means[n] for n in self._terms if n in means})
        _require_finite_weights(trainer, pl_module)


def _require_finite_loss(trainer: Trainer, terms: dict[str, Tensor]) -> None:
    if "loss" in terms and not terms["loss"].isfinite():
        values = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
        raise ValueError(
            f"the loss is not finite in epoch {trainer.current_epoch} ({values}): lower the "
            "learning rate or raise the temperature."
        )


def _require_finite_weights(trainer: Trainer, pl_module: LightningModule) -> None:
    for name, parameter in pl_module.program.named_parameters():  # type: ignore[union-attr]
        if not parameter.isfinite().all():
            raise ValueError(
                f"the weights of {name} are not finite in epoch {trainer.current_epoch}: lower "
                "the learning rate or raise the temperature."
            )


class ProgressBar(RichProgressBar):
    """Rich progress bar with the images that are trained on in a second.

    The other numbers are means of an epoch. They are read once for each: to read a number is to
    wait for the device. In an evaluation it names what is embedded.
    """

    def __init__(self) -> None:
        super().__init__(leave=False)
        self._read: tuple[int, dict[str, Any]] = (-1, {})
        self._drawn = 0.0

    def refresh(self, hard: bool = False) -> None:
        """Draw the bar, unless that was done a moment ago: it takes a third of a small step."""
        if hard or time.monotonic() - self._drawn >= _REDRAWN:
            self._drawn = time.monotonic()
            super().refresh(hard)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the numbers beside the bar."""
        if self._read[0] != trainer.current_epoch:
            self._read = (trainer.current_epoch, super().get_metrics(trainer, pl_module))
        (throughput,) = (c for c in trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
        return self._read[1] | {"images/s": round(throughput.images_per_second)}

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Name what is embedded."""
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        if self.progress is not None and self.test_progress_bar_id is not None:
            words = as_batch(batch, dataloader_idx).part or ()
            part = " ".join(str(word) for word in words if word)
            self.progress.update(self.test_progress_bar_id, description=part.replace("_", " "))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make way for the bar of what is computed once all is embedded."""
        self._stop_progress()


def checkpoint_callbacks(folder: Path, held_out: bool, history: History) -> list[Callback]:
    """Return the callbacks that keep a training's checkpoints, each whole or not there at all.

    ``last.ckpt`` is of the end of the last epoch, of averaged weights where
    ``StochasticWeightAveraging`` leaves such; ``recent.ckpt`` of every 15 minutes, and of the
    moment where the process was told to stop. If images are held out, ``best-*.ckpt`` are of the
    three epochs whose nearest neighbours classify them best. The history has the row of an epoch
    before there is a checkpoint of it.
    """
    single = partial(ModelCheckpoint, folder, enable_version_counter=False)
    callbacks: list[Callback] = [
        RowBeforeCheckpoint(history),
        _Last(folder, "last", enable_version_counter=False, save_on_train_epoch_end=True),
        single("recent", train_time_interval=INTERVAL),
        SaveOnTermination(folder / "recent.ckpt"),
    ]
    if held_out:
        best = partial(ModelCheckpoint, folder, "best-{epoch}", save_on_train_epoch_end=False)
        callbacks.append(best(monitor="val/knn_top1", mode="max", save_top_k=BEST))
    return callbacks


class _Last(ModelCheckpoint):
    """The checkpoint of the last epoch, with the weights that averaging leaves at the end."""

    @property
    def state_key(self) -> str:
        """That of its kind, by which Lightning finds its state in a checkpoint."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it again, if the weights have been averaged since."""
        super().on_train_end(trainer, pl_module)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks):
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt")


class SaveOnTermination(Callback):
    """Write the checkpoint ``path`` where the process was told to stop (SIGTERM)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save, if that is why the training ends."""
        if isinstance(exception, SIGTERMException) and trainer.global_step:
            trainer.save_checkpoint(self.path)
