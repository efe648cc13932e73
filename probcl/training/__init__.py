"""Training with Lightning: one module, data modules, callbacks."""

from probcl.training.data import Batch, ImageData
from probcl.training.files import (
    Caltech256,
    Datasets,
    Folder,
    ImageNet,
    ImageNet100,
    TinyImageNet,
)
from probcl.training.module import ContrastiveModule
from probcl.training.sets import (
    CIFAR10,
    CIFAR100,
    MNIST,
    STL10,
    Arrays,
    Digits,
    FashionMNIST,
)
from probcl.training.synthetic import Synthetic

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "STL10",
    "Arrays",
    "Batch",
    "Caltech256",
    "ContrastiveModule",
    "Datasets",
    "Digits",
    "FashionMNIST",
    "Folder",
    "ImageData",
    "ImageNet",
    "ImageNet100",
    "Synthetic",
    "TinyImageNet",
]
