"""Encoders, and heads and priors that return distributions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from probcl.nn.conv_net import ConvNet
from probcl.nn.heads import (
    MLP,
    BatchNormMLP,
    PointHead,
    PowerSphericalHead,
    ProjectedNormalHead,
    VonMisesFisherHead,
)
from probcl.nn.momentum import MomentumEncoder
from probcl.nn.priors import UniformPrior, VonMisesFisherMixturePrior, VonMisesFisherPrior

if TYPE_CHECKING:
    from probcl.nn.resnet import ResNet
    from probcl.nn.torchvision_model import TorchvisionModel
    from probcl.nn.vision_transformer import VisionTransformer

__all__ = [
    "MLP", "BatchNormMLP", "ConvNet", "MomentumEncoder", "PointHead", "PowerSphericalHead",
    "ProjectedNormalHead", "ResNet", "TorchvisionModel", "UniformPrior", "VisionTransformer",
    "VonMisesFisherHead", "VonMisesFisherMixturePrior", "VonMisesFisherPrior",
]  # fmt: skip

_OF_TORCHVISION = {
    "ResNet": "resnet",
    "TorchvisionModel": "torchvision_model",
    "VisionTransformer": "vision_transformer",
}


def __getattr__(name: str) -> Any:
    """Import the encoders of torchvision when they are first used: it takes as long as torch."""
    if name not in _OF_TORCHVISION:
        raise AttributeError(f"module 'probcl.nn' has no attribute {name!r}.")
    return getattr(import_module(f"probcl.nn.{_OF_TORCHVISION[name]}"), name)
