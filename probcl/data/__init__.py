"""Data sets in memory, augmentation on the device, corruptions, and synthetic data."""

from probcl.data.arrays import ImageArrays, read_arrays
from probcl.data.augment import RandomAffine, RandomContrast, RandomNoise
from probcl.data.digits import load_digits
from probcl.data.synthetic import ConjugateBatch, ConjugateGenerator

__all__ = [
    "ConjugateBatch",
    "ConjugateGenerator",
    "ImageArrays",
    "RandomAffine",
    "RandomContrast",
    "RandomNoise",
    "load_digits",
    "read_arrays",
]
