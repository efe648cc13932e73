"""Contrastive methods as Pyro programs: pairs of a model and a guide."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from probcl.programs.batch_statistics import BarlowTwins, SwAV, VICReg
from probcl.programs.classifier import CrossEntropy
from probcl.programs.contrastive import MCInfoNCE, MCSupCon, SimCLR, SupCon, VSimCLR, VSupCon
from probcl.programs.expected_likelihood import ExpectedLikelihood, SupExpectedLikelihood
from probcl.programs.match import Match
from probcl.programs.momentum import BYOL, MoCo
from probcl.programs.program import Program, VariationalProgram
from probcl.programs.varcon import ProbabilisticVarCon, VarCon

if TYPE_CHECKING:
    from probcl.programs.embedder import PosteriorEmbedder
    from probcl.programs.index import Found, PosteriorIndex
    from probcl.programs.posthoc import PostHoc
    from probcl.programs.posthoc_fit import fit_posterior

__all__ = [
    "BYOL", "BarlowTwins", "CrossEntropy", "ExpectedLikelihood", "Found", "MCInfoNCE", "MCSupCon",
    "Match", "MoCo", "PostHoc", "PosteriorEmbedder", "PosteriorIndex", "ProbabilisticVarCon",
    "Program", "SimCLR", "SupCon", "SupExpectedLikelihood", "SwAV", "VICReg", "VSimCLR", "VSupCon",
    "VarCon", "VariationalProgram", "fit_posterior",
]  # fmt: skip

# What stands on evaluation, and so on scikit-learn, is loaded at its first use.
_AFTER_TRAINING = {
    "Found": "index", "PostHoc": "posthoc", "PosteriorEmbedder": "embedder",
    "PosteriorIndex": "index", "fit_posterior": "posthoc_fit",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load what is fitted after training."""
    if name not in _AFTER_TRAINING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_AFTER_TRAINING[name]}"), name)
