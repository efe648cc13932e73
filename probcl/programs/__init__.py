"""Contrastive methods as Pyro programs: pairs of a model and a guide."""

from probcl.programs.baselines import SimCLR, SupCon
from probcl.programs.program import Program
from probcl.programs.vcl import VSimCLR, VSupCon

__all__ = ["Program", "SimCLR", "SupCon", "VSimCLR", "VSupCon"]
