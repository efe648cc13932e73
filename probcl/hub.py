"""Trained programs as files to share: weights without code, and the configuration beside them."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCard, PyTorchModelHubMixin, snapshot_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.distributions import Distribution

from probcl.files import read_tensors, write_tensors, write_whole
from probcl.programs import Program
from probcl.trust import check_trusted, read_config

__all__ = ["Pretrained"]

#: The most values of an image by which a shared program takes its sizes: 2048 x 2048 in colour.
LARGEST_IMAGE = 3 * 2**22

_NEEDED = {"program", "image_shape"}
_KNOWN = {*_NEEDED, "data", "metrics"}

CARD = """\
---
{{ card_data }}
---
# {{ program }}

A program of probcl, which maps images of shape {{ image_shape }} (channels, height, width), with
values in [0, 1], to probability distributions over the unit sphere.

```python
from probcl.hub import Pretrained

program = Pretrained.from_pretrained("THIS FOLDER OR REPOSITORY")
posterior = program(images)  # batch shape (N,)
posterior.mean_direction, posterior.mean_resultant_length
```
{% if metrics %}
## Figures on the test images

| | |
|---|---|
{% for name, value in metrics.items() %}| {{ name }} | {{ "%.4g" | format(value) }} |
{% endfor %}{% else %}
There are no figures: it was saved without an evaluation.
{% endif %}{% if data %}
## Data that it was trained on

```yaml
{{ data }}```
{% endif %}
## Configuration

```yaml
{{ config }}```
"""


class Pretrained(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="probcl",
    tags=["contrastive-learning", "uncertainty"],
    model_card_template=CARD,
):
    """A program made from its configuration, to be saved, shared and loaded.

    ``save_pretrained(folder)`` writes ``model.safetensors``, ``config.json`` and a model card;
    ``Pretrained.from_pretrained(folder)`` reads them, or those of a repository by its name. A run
    leaves them in its folder ``pretrained``.

    Args:
        program: Import path and arguments, ``{"class_path": ..., "init_args": {...}}``, as in a
            run's ``config.yaml``.
        image_shape: Channels, height and width of an image.
        data: Configuration of the data that it was trained on, for the model card.
        metrics: Figures by name, for the model card.

    Raises:
        ValueError: If there is no such program, or its arguments or the shape are wrong.

    Example:
        >>> encoder = {"class_path": "probcl.nn.ConvNet", "init_args": {"widths": [4, 8]}}
        >>> program = {"class_path": "probcl.programs.VSimCLR", "init_args": {"encoder": encoder}}
        >>> Pretrained(program, (1, 8, 8))(torch.zeros(2, 1, 8, 8)).batch_shape
        torch.Size([2])
    """

    def __init__(
        self,
        program: dict,
        image_shape: tuple[int, ...],
        data: dict | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(Program, "program")
        try:
            config = parser.parse_object({"program": program})
            self.program: Program = parser.instantiate(config).program
        except Exception as error:
            reason = " ".join(str(error).split()).removesuffix(".")
            raise ValueError(f"program: this configuration cannot be built: {reason}.") from error
        _check_shape(image_shape)
        try:
            self.program.materialize(torch.zeros(1, *image_shape))
        except RuntimeError as error:  # of a layer, in its own words
            raise ValueError(
                f"image_shape: the program takes no images of shape {tuple(image_shape)}: "
                f"{str(error).splitlines()[0].removesuffix('.')}."
            ) from error
        self.eval()
        self._card = {
            "program": type(self.program).__name__,
            "image_shape": tuple(image_shape),
            "metrics": {n: x for n, x in (metrics or {}).items() if not n.startswith("time/")},
            "data": data and yaml.safe_dump(data, sort_keys=False),
            "config": yaml.safe_dump(program, sort_keys=False),
        }

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, path: str | Path, *, strict: bool = True, trust: bool = False, **download: Any
    ) -> "Pretrained":
        """Load a program.

        Args:
            path: Folder that a program was saved in, folder of a run, or name of a repository.
            strict: Whether every weight must be there.
            trust: Whether its configuration may name other classes than those of probcl, torch and
                torchvision; to load it runs their code.
            **download: How to find a repository, as ``huggingface_hub.snapshot_download`` takes it.

        Raises:
            ValueError: If there is neither such a folder nor a repository, it lacks a file, the
                configuration is no program's or names other classes, or a weight is not as it was
                written.
        """
        folder = Path(path)
        if not folder.is_dir():
            names = [CONFIG_NAME, SAFETENSORS_SINGLE_FILE]
            try:
                folder = Path(snapshot_download(str(path), allow_patterns=names, **download))
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split()).removesuffix(".")
                raise ValueError(
                    f"path: there is no folder {path}, and no repository of that name: {reason}."
                ) from error
        elif (folder / "pretrained").is_dir():
            folder /= "pretrained"
        config, weights = folder / CONFIG_NAME, folder / SAFETENSORS_SINGLE_FILE
        for file in (config, weights):
            if not file.is_file():
                raise ValueError(f"path: {folder} holds no {file.name}: name the folder of a run.")
        options = read_config(config, trust)
        if not isinstance(options, dict) or not _NEEDED <= options.keys() <= _KNOWN:
            raise ValueError(f"path: {config} is not the configuration of a program.")
        if not trust:
            check_trusted(options, config)
        shared = cls(**options)
        shared.load_state_dict(read_tensors(weights)[0], strict=strict)
        return shared

    def _save_pretrained(self, save_directory: Path) -> None:
        write_tensors(save_directory / SAFETENSORS_SINGLE_FILE, self.state_dict())
        config = json.dumps(self._hub_mixin_config, sort_keys=True, indent=2)
        write_whole(save_directory / CONFIG_NAME, config)
        card = save_directory / "README.md"
        if not card.exists():
            write_whole(card, str(self.generate_model_card()))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return the model card: program, figures, data, configuration, and how to load it."""
        return super().generate_model_card(*args, **self._card, **kwargs)

    def forward(self, images: Tensor) -> Distribution:
        """Map images ``(N, channels, height, width)`` in [0, 1] to posteriors of the sphere."""
        return self.program(images)


def _check_shape(shape: Any) -> None:
    """Raise ``ValueError`` unless a shape is that of an image that one may ask for."""
    counts = isinstance(shape, list | tuple) and all(type(n) is int and n > 0 for n in shape)
    if not counts or not 0 < len(shape) <= 3 or prod(shape) > LARGEST_IMAGE:
        raise ValueError(
            "image_shape must be up to three whole numbers above 0, channels, height and width, "
            f"for at most {LARGEST_IMAGE} values, got {shape}."
        )
