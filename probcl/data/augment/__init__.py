"""Augmentation of whole batches on the device, with a draw for each image."""

from probcl.data.augment.colour import ColorJitter, GaussianBlur, RandomGrayscale
from probcl.data.augment.crop import RandomResizedCrop
from probcl.data.augment.draws import as_float
from probcl.data.augment.policies import AutoAugmentPolicy, RandAugmentPolicy
from probcl.data.augment.recipes import (
    Augmentation,
    AutoAugment,
    MultiCrop,
    SimAugment,
    StackedRandAugment,
)
from probcl.data.augment.simple import Degrade, RandomAffine, RandomContrast, RandomNoise

__all__ = [
    "Augmentation",
    "AutoAugment",
    "AutoAugmentPolicy",
    "ColorJitter",
    "Degrade",
    "GaussianBlur",
    "MultiCrop",
    "RandAugmentPolicy",
    "RandomAffine",
    "RandomContrast",
    "RandomGrayscale",
    "RandomNoise",
    "RandomResizedCrop",
    "SimAugment",
    "StackedRandAugment",
    "as_float",
]
