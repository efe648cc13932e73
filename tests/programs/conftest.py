"""Every program, small: what the tests of this folder share."""

import pyro
import pytest
import torch

from probcl.nn import MLP, BatchNormMLP, ConvNet, ProjectedNormalHead, VonMisesFisherHead
from probcl.programs import (
    BYOL,
    BarlowTwins,
    CrossEntropy,
    ExpectedLikelihood,
    Match,
    MCInfoNCE,
    MCSupCon,
    MoCo,
    ProbabilisticVarCon,
    SimCLR,
    SupCon,
    SupExpectedLikelihood,
    SwAV,
    VarCon,
    VICReg,
    VSimCLR,
    VSupCon,
)

WIDTHS = (4, 8)
PROGRAMS = {
    "VSimCLR": lambda **options: VSimCLR(ConvNet(WIDTHS), ProjectedNormalHead(5, 16), **options),
    "VSupCon": lambda **options: VSupCon(ConvNet(WIDTHS), ProjectedNormalHead(5, 16), **options),
    "MCInfoNCE": lambda **options: MCInfoNCE(
        ConvNet(WIDTHS), VonMisesFisherHead(5, 16), **{"num_samples": 3} | options
    ),
    "MCSupCon": lambda **options: MCSupCon(
        ConvNet(WIDTHS), VonMisesFisherHead(5, 16), **{"num_samples": 3} | options
    ),
    "SimCLR": lambda **options: SimCLR(ConvNet(WIDTHS), MLP(5, 16), **options),
    "SupCon": lambda **options: SupCon(ConvNet(WIDTHS), MLP(5, 16), **options),
    "Match": lambda **options: Match(ConvNet(WIDTHS), MLP(5, 16), **{"memory": 20} | options),
    "VarCon": lambda **options: VarCon(
        ConvNet(WIDTHS), MLP(5, 16), **{"learn_epsilon": True} | options
    ),
    "ProbabilisticVarCon": lambda **options: ProbabilisticVarCon(
        ConvNet(WIDTHS), ProjectedNormalHead(5, 16), **options
    ),
    "ExpectedLikelihood": lambda: ExpectedLikelihood(ConvNet(WIDTHS), VonMisesFisherHead(5, 16)),
    "SupExpectedLikelihood": lambda: SupExpectedLikelihood(
        ConvNet(WIDTHS), ProjectedNormalHead(5, 16, covariance="isotropic"), 20.0
    ),
    "CrossEntropy": lambda: CrossEntropy(ConvNet((4, 5)), num_classes=3),
    "MoCo": lambda **options: MoCo(ConvNet(WIDTHS), MLP(5, 16), queue_size=20, **options),
    "BYOL": lambda: BYOL(ConvNet(WIDTHS), BatchNormMLP(5, 16), BatchNormMLP(5, 16), momentum=0.9),
    "SwAV": lambda **options: SwAV(
        ConvNet(WIDTHS), BatchNormMLP(5, 16), num_prototypes=7, **options
    ),
    "VICReg": lambda: VICReg(ConvNet(WIDTHS), BatchNormMLP(5, 16)),
    "BarlowTwins": lambda: BarlowTwins(ConvNet(WIDTHS), BatchNormMLP(5, 16)),
}
OF_LIGHTLY = ("SwAV", "VICReg", "BarlowTwins")


def make_program(name, **options):
    if name in OF_LIGHTLY:
        pytest.importorskip("lightly", reason="needs lightly: pip install 'probcl[baselines]'")
    pyro.set_rng_seed(3)
    return PROGRAMS[name](**options)


@pytest.fixture(scope="session")
def make():
    """Give access to the programs by name, with options."""
    return make_program


@pytest.fixture(params=PROGRAMS)
def program(request):
    return make_program(request.param)


@pytest.fixture(scope="session")
def views():
    return torch.rand(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def labels():
    return torch.tensor([0, 1, 2, 0, 1, 2])
