"""Encoders, and heads and priors that return distributions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from probcl.nn.by_name import encoder_by_name
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
    from probcl.nn.timm_model import TimmModel
    from probcl.nn.torchvision_model import TorchvisionModel
    from probcl.nn.vision_transformer import VisionTransformer

__all__ = [
    "MLP", "BatchNormMLP", "ConvNet", "MomentumEncoder", "PointHead", "PowerSphericalHead",
    "ProjectedNormalHead", "ResNet", "TimmModel", "TorchvisionModel", "UniformPrior",
    "VisionTransformer", "VonMisesFisherHead", "VonMisesFisherMixturePrior", "VonMisesFisherPrior",
    "encoder_by_name",
]  # fmt: skip

_OF_LIBRARIES = {
    "ResNet": "resnet",
    "TimmModel": "timm_model",
    "TorchvisionModel": "torchvision_model",
    "VisionTransformer": "vision_transformer",
}


def __getattr__(name: str) -> Any:
    """Import encoders of other libraries when first used: torchvision takes as long as torch."""
    if name not in _OF_LIBRARIES:
        raise AttributeError(f"module 'probcl.nn' has no attribute {name!r}.")
    return getattr(import_module(f"probcl.nn.{_OF_LIBRARIES[name]}"), name)
