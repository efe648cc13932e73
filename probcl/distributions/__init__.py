"""Pyro distributions on the unit sphere, exact in every dimension."""

from probcl.distributions import kl
from probcl.distributions.posterior import Point, SphereDistribution, as_posterior
from probcl.distributions.power_spherical import PowerSpherical
from probcl.distributions.projected_normal import ProjectedNormal
from probcl.distributions.reparam import SphereReparam
from probcl.distributions.uniform import HypersphericalUniform
from probcl.distributions.von_mises_fisher import VonMisesFisher

__all__ = [
    "HypersphericalUniform",
    "Point",
    "PowerSpherical",
    "ProjectedNormal",
    "SphereDistribution",
    "SphereReparam",
    "VonMisesFisher",
    "as_posterior",
    "kl",
]
