"""Data sets in memory and in files, augmentation on the device, corruptions, synthetic data."""

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
from probcl.data.cifar import (
    cifar10c_corruptions,
    read_cifar10c,
    read_cifar10h,
    read_cifar10n,
    read_image_list,
)
from probcl.data.corruptions import CORRUPTIONS, OUT_OF_DISTRIBUTION, SEVERITIES
from probcl.data.datasets import ImageArrays, ImageFiles, Unreadable, check_classes, class_names
from probcl.data.named import DATASETS, load_digits
from probcl.data.readers import read_arrays, read_folder
from probcl.data.synthetic import ConjugateBatch, ConjugateGenerator

__all__ = [
    "CORRUPTIONS", "DATASETS", "OUT_OF_DISTRIBUTION", "SEVERITIES", "Augmentation", "AutoAugment",
    "AutoAugmentPolicy", "ColorJitter", "ConjugateBatch", "ConjugateGenerator", "Degrade",
    "GaussianBlur", "ImageArrays", "ImageFiles", "MultiCrop", "RandAugmentPolicy", "RandomAffine",
    "RandomContrast", "RandomGrayscale", "RandomNoise", "RandomResizedCrop", "SimAugment",
    "StackedRandAugment", "Unreadable", "as_float", "check_classes", "cifar10c_corruptions",
    "class_names", "load_digits", "read_arrays", "read_cifar10c", "read_cifar10h", "read_cifar10n",
    "read_folder", "read_image_list",
]  # fmt: skip
