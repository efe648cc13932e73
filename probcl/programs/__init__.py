"""Contrastive methods as Pyro programs: pairs of a model and a guide."""

from probcl.programs.baselines import CrossEntropy, SimCLR, SupCon
from probcl.programs.clusters import SwAV
from probcl.programs.expected_likelihood import ExpectedLikelihood, SupExpectedLikelihood
from probcl.programs.momentum import BYOL, MoCo
from probcl.programs.post_hoc import PostHoc, fit_posterior
from probcl.programs.program import Program, VariationalProgram
from probcl.programs.redundancy import BarlowTwins, VICReg
from probcl.programs.varcon import ProbabilisticVarCon, VarCon
from probcl.programs.vcl import MCInfoNCE, MCSupCon, VSimCLR, VSupCon

__all__ = [
    "BYOL",
    "BarlowTwins",
    "CrossEntropy",
    "ExpectedLikelihood",
    "MCInfoNCE",
    "MCSupCon",
    "MoCo",
    "PostHoc",
    "ProbabilisticVarCon",
    "Program",
    "SimCLR",
    "SupCon",
    "SupExpectedLikelihood",
    "SwAV",
    "VICReg",
    "VSimCLR",
    "VSupCon",
    "VarCon",
    "VariationalProgram",
    "fit_posterior",
]
