"""Training with Lightning: one module, data modules, callbacks."""

from probcl.training.batch import Batch
from probcl.training.callbacks import Monitor, ProgressBar, Throughput
from probcl.training.datamodule import ImageData
from probcl.training.datasets import Arrays, Datasets, Folder, Named, Synthetic
from probcl.training.module import ContrastiveModule

__all__ = [
    "Arrays", "Batch", "ContrastiveModule", "Datasets", "Folder", "ImageData", "Monitor", "Named",
    "ProgressBar", "Synthetic", "Throughput",
]  # fmt: skip
