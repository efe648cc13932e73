"""Data sets in memory and in files, augmentation on the device, corruptions, synthetic data."""

from probcl.data.arrays import ImageArrays, read_arrays, read_packed
from probcl.data.augment import (
    Augmentation,
    AutoAugment,
    AutoAugmentPolicy,
    ColorJitter,
    Degrade,
    GaussianBlur,
    MultiCrop,
    RandAugmentPolicy,
    RandomAffine,
    RandomContrast,
    RandomGrayscale,
    RandomNoise,
    RandomResizedCrop,
    SimAugment,
    StackedRandAugment,
)
from probcl.data.digits import load_digits
from probcl.data.files import ImageFiles, read_folder
from probcl.data.sources import (
    read_caltech256,
    read_cifar10,
    read_cifar100,
    read_fashion_mnist,
    read_imagenet,
    read_imagenet100,
    read_mnist,
    read_stl10,
    read_tiny_imagenet,
)
from probcl.data.synthetic import ConjugateBatch, ConjugateGenerator

__all__ = [
    "Augmentation",
    "AutoAugment",
    "AutoAugmentPolicy",
    "ColorJitter",
    "ConjugateBatch",
    "ConjugateGenerator",
    "Degrade",
    "GaussianBlur",
    "ImageArrays",
    "ImageFiles",
    "MultiCrop",
    "RandAugmentPolicy",
    "RandomAffine",
    "RandomContrast",
    "RandomGrayscale",
    "RandomNoise",
    "RandomResizedCrop",
    "SimAugment",
    "StackedRandAugment",
    "load_digits",
    "read_arrays",
    "read_caltech256",
    "read_cifar10",
    "read_cifar100",
    "read_fashion_mnist",
    "read_folder",
    "read_imagenet",
    "read_imagenet100",
    "read_mnist",
    "read_packed",
    "read_stl10",
    "read_tiny_imagenet",
]
