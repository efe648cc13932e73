"""Trained programs as files to share: weights without code, and the configuration beside them."""

from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.distributions import Distribution

from probcl.programs import Program
from probcl.programs.program import mean_direction

__all__ = ["Pretrained"]


class Pretrained(nn.Module, PyTorchModelHubMixin, library_name="probcl"):
    """A program made from its configuration, to be saved, shared and loaded.

    ``save_pretrained(folder)`` writes ``model.safetensors`` and ``config.json``;
    ``Pretrained.from_pretrained(folder)`` reads them, or those of a repository by its name. A run
    leaves them in its folder ``pretrained``.

    Args:
        program: Import path and arguments, ``{"class_path": ..., "init_args": {...}}``, as in a
            run's ``config.yaml``.
        image_shape: Channels, height and width of an image.

    Raises:
        ValueError: If there is no such program, or its arguments are wrong.

    Example:
        >>> encoder = {"class_path": "probcl.nn.ConvNet", "init_args": {"widths": [4, 8]}}
        >>> program = {"class_path": "probcl.programs.VSimCLR", "init_args": {"encoder": encoder}}
        >>> Pretrained(program, (1, 8, 8)).posterior(torch.zeros(2, 1, 8, 8)).batch_shape
        torch.Size([2])
    """

    def __init__(self, program: dict, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(Program, "program")
        try:
            config = parser.parse_object({"program": program})
        except Exception as error:
            raise ValueError(f"program: this configuration makes none: {error}") from error
        self.program: Program = parser.instantiate_classes(config).program
        self.program.materialize(torch.zeros(1, *image_shape))
        self.eval()

    @classmethod
    def from_pretrained(cls, *args: Any, strict: bool = True, **kwargs: Any) -> "Pretrained":
        """Load a program; see ``huggingface_hub.PyTorchModelHubMixin``.

        Args:
            *args: Folder, or name of a repository.
            strict: Whether every weight must be there.
            **kwargs: As the mixin takes them.
        """
        return super().from_pretrained(*args, strict=strict, **kwargs)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, channels, height, width)`` in [0, 1] to embeddings ``(N, d)``."""
        return mean_direction(self.program(images))

    def posterior(self, images: Tensor) -> Distribution:
        """Map images to posteriors over the sphere, of batch shape ``(N,)``."""
        return self.program(images)
