"""Contrastive methods as Pyro programs: pairs of a model and a guide."""

from probcl.programs.baselines import CrossEntropy, SimCLR, SupCon
from probcl.programs.expected_likelihood import ExpectedLikelihood, SupExpectedLikelihood
from probcl.programs.program import Program, VariationalProgram
from probcl.programs.varcon import ProbabilisticVarCon, VarCon
from probcl.programs.vcl import MCInfoNCE, MCSupCon, VSimCLR, VSupCon

__all__ = [
    "CrossEntropy",
    "ExpectedLikelihood",
    "MCInfoNCE",
    "MCSupCon",
    "ProbabilisticVarCon",
    "Program",
    "SimCLR",
    "SupCon",
    "SupExpectedLikelihood",
    "VSimCLR",
    "VSupCon",
    "VarCon",
    "VariationalProgram",
]
