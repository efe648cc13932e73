"""How checkpoints are written and read: whole or not at all, and as they were written."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from probcl.files import has_its_checksums, replacing

__all__ = ["WholeCheckpointIO"]


class WholeCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its target, put it on disk and rename it; check what is read.

    A full disk, a killed process or a power cut leaves the previous checkpoint. ``probcl fit`` uses
    it; so may any Trainer, ``Trainer(plugins=[WholeCheckpointIO()])``. What is not a local file is
    left to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # Through a file of Python's, for torch does not say of its own that the disk is full.
        with replacing(path) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, or raise ``ValueError`` if it is not as it was written.

        Nothing but tensors and plain values is loaded, unless ``weights_only`` is False.
        """
        if not Path(path).is_file():
            return super().load_checkpoint(path, map_location, weights_only is not False)
        torn = f"{path} is not a whole checkpoint: take another one of its run."
        if not has_its_checksums(path):
            raise ValueError(torn)
        try:
            return torch.load(path, map_location, weights_only=weights_only is not False)
        except UnpicklingError as error:
            raise ValueError(
                f"{path} is no checkpoint of weights and numbers alone: to run what it holds, "
                "load it with weights_only=False."
            ) from error
        except OSError:
            raise
        except Exception as error:  # whatever the parsers of a damaged file meet
            raise ValueError(torn) from error
