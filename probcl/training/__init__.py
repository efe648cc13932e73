"""Training with Lightning: one module, data modules, callbacks."""

from probcl.training.data import Arrays, Digits, ImageData
from probcl.training.module import ContrastiveModule

__all__ = ["Arrays", "ContrastiveModule", "Digits", "ImageData"]
