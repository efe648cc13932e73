"""How the configuration of a run gets into its folder."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from probcl.files import write_whole
from probcl.runs import OF_THE_END, set_aside

__all__ = ["SaveConfig"]


class SaveConfig(SaveConfigCallback):
    """Write the configuration of a run into its folder, whole or not at all.

    That is done where the work begins: a checkpoint that is refused leaves its run as it was.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, unless that is done."""
        super().setup(trainer, pl_module, trainer.state.fn or "")

    on_fit_end = on_test_start = on_predict_start = on_train_start

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it; what an earlier part of a training left gets other names."""
        if stage == "fit":  # whose numbers are not those of the weights from now on
            for name in ("metrics.csv", *OF_THE_END):
                set_aside(Path(trainer.default_root_dir) / name)
        path = Path(trainer.default_root_dir) / "config.yaml"
        set_aside(path, leave=True)  # from here on, all processes have read it
        write_whole(path, self.parser.dump(self.config))
