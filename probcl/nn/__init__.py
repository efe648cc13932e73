"""Encoders, and heads and priors that return distributions."""

from probcl.nn.backbones import ConvNet
from probcl.nn.heads import MLP, ProjectedNormalHead
from probcl.nn.priors import UniformPrior

__all__ = ["MLP", "ConvNet", "ProjectedNormalHead", "UniformPrior"]
