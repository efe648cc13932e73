"""Encoders, and heads and priors that return distributions."""

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
from probcl.nn.resnet import ResNet
from probcl.nn.torchvision_model import TorchvisionModel
from probcl.nn.vision_transformer import VisionTransformer

__all__ = [
    "MLP",
    "BatchNormMLP",
    "ConvNet",
    "MomentumEncoder",
    "PointHead",
    "PowerSphericalHead",
    "ProjectedNormalHead",
    "ResNet",
    "TorchvisionModel",
    "UniformPrior",
    "VisionTransformer",
    "VonMisesFisherHead",
    "VonMisesFisherMixturePrior",
    "VonMisesFisherPrior",
]
