"""Data sets in memory, augmentation on the device, and corruptions."""

from probcl.data.arrays import ImageArrays, read_arrays
from probcl.data.augment import RandomAffine, RandomContrast, RandomNoise
from probcl.data.digits import load_digits

__all__ = [
    "ImageArrays",
    "RandomAffine",
    "RandomContrast",
    "RandomNoise",
    "load_digits",
    "read_arrays",
]
