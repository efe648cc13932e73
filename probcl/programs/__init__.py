"""Contrastive methods as Pyro programs: pairs of a model and a guide."""

from probcl.programs.batch_statistics import BarlowTwins, SwAV, VICReg
from probcl.programs.classifier import CrossEntropy
from probcl.programs.contrastive import MCInfoNCE, MCSupCon, SimCLR, SupCon, VSimCLR, VSupCon
from probcl.programs.embedder import PosteriorEmbedder
from probcl.programs.expected_likelihood import ExpectedLikelihood, SupExpectedLikelihood
from probcl.programs.index import Found, PosteriorIndex
from probcl.programs.momentum import BYOL, MoCo
from probcl.programs.posthoc import PostHoc
from probcl.programs.posthoc_fit import fit_posterior
from probcl.programs.program import Program, VariationalProgram
from probcl.programs.varcon import ProbabilisticVarCon, VarCon

__all__ = [
    "BYOL", "BarlowTwins", "CrossEntropy", "ExpectedLikelihood", "Found", "MCInfoNCE", "MCSupCon",
    "MoCo", "PostHoc", "PosteriorEmbedder", "PosteriorIndex", "ProbabilisticVarCon", "Program",
    "SimCLR", "SupCon", "SupExpectedLikelihood", "SwAV", "VICReg", "VSimCLR", "VSupCon", "VarCon",
    "VariationalProgram", "fit_posterior",
]  # fmt: skip
