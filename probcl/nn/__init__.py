"""Encoders, and heads and priors that return distributions."""

from probcl.nn.backbones import ConvNet
from probcl.nn.heads import (
    MLP,
    PointHead,
    PowerSphericalHead,
    ProjectedNormalHead,
    VonMisesFisherHead,
)
from probcl.nn.priors import UniformPrior, VonMisesFisherMixturePrior, VonMisesFisherPrior

__all__ = [
    "MLP",
    "ConvNet",
    "PointHead",
    "PowerSphericalHead",
    "ProjectedNormalHead",
    "UniformPrior",
    "VonMisesFisherHead",
    "VonMisesFisherMixturePrior",
    "VonMisesFisherPrior",
]
