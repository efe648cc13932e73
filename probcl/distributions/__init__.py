"""Distributions on the unit sphere, as Pyro distributions."""

from probcl.distributions import kl
from probcl.distributions.projected_normal import ProjectedNormal
from probcl.distributions.uniform import HypersphericalUniform

__all__ = ["HypersphericalUniform", "ProjectedNormal", "kl"]
