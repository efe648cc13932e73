"""An encoder with its posterior's parameters through torch.export, and as ONNX."""

from functools import partial

import pytest
import torch
from torch import nn

from probcl.nn import (
    ConvNet,
    PointHead,
    PowerSphericalHead,
    ProjectedNormalHead,
    VonMisesFisherHead,
)
from probcl.nn.heads import MLP
from probcl.programs import VSimCLR
from probcl.sphere import normalize

HEADS = {
    "projected normal": (ProjectedNormalHead, ("loc", "scale")),
    "of low rank": (partial(ProjectedNormalHead, covariance="low_rank", rank=2),
                    ("loc", "cov_factor", "cov_diag")),
    "von Mises-Fisher": (VonMisesFisherHead, ("loc", "concentration")),
    "Power Spherical": (PowerSphericalHead, ("loc", "concentration")),
    "point": (lambda *sizes: PointHead(MLP(*sizes)), ("loc",)),
}  # fmt: skip
NO_ONNX = "needs ONNX: pip install onnx onnxscript onnxruntime"


class Parameters(nn.Module):
    """What a server returns of a posterior: tensors."""

    def __init__(self, name: str) -> None:
        super().__init__()
        head, self.names = HEADS[name]
        self.program = VSimCLR(ConvNet((4, 8)), head(5, 16))
        self.program.materialize(torch.rand(4, 1, 8, 8))
        self.eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        posterior = self.program(images)
        return tuple(getattr(posterior, name) for name in self.names)


class Summary(Parameters):
    """With what is computed from the parameters."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        posterior = self.program(images)
        return posterior.mean, posterior.entropy()


def batches_of_any_size():
    return ({0: torch.export.Dim("batch", min=1)},)


def check_exported(module):
    given = (torch.rand(4, 1, 8, 8),)
    exported = torch.export.export(module, given, dynamic_shapes=batches_of_any_size()).module()
    for count in (2, 7):
        images = torch.rand(count, 1, 8, 8)
        torch.testing.assert_close(exported(images), module(images))


@pytest.mark.parametrize("name", list(HEADS))
def test_parameters_are_exported_for_batches_of_any_size(name):
    check_exported(Parameters(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["projected normal", "von Mises-Fisher", "Power Spherical"])
def test_mean_and_entropy_are_exported_for_batches_of_any_size(name):
    check_exported(Summary(name))


def as_onnx(module, given, path):
    """Return what the ONNX form of a module computes, as a function of its input."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=NO_ONNX)
    runtime = pytest.importorskip("onnxruntime", reason=NO_ONNX)
    shapes = batches_of_any_size()
    torch.onnx.export(module, (given,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = runtime.InferenceSession(path)
    (node,) = session.get_inputs()
    return lambda x: tuple(map(torch.from_numpy, session.run(None, {node.name: x.numpy()})))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize("name", list(HEADS))
def test_parameters_run_as_onnx(name, tmp_path):
    module = Parameters(name)
    converted = as_onnx(module, torch.rand(4, 1, 8, 8), tmp_path / "posterior.onnx")
    for count in (2, 7):
        images = torch.rand(count, 1, 8, 8)
        torch.testing.assert_close(converted(images), module(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_vectors_of_any_length_are_normalised_as_onnx(tmp_path):
    class Unit(nn.Module):
        def forward(self, x):
            return normalize(x)

    converted = as_onnx(Unit(), torch.rand(3, 2), tmp_path / "unit.onnx")
    x = torch.tensor([[3.0, 4.0], [3e-30, 4e-30], [3e37, -4e37], [0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.6, -0.8], [0.5**0.5, 0.5**0.5]])
    torch.testing.assert_close(converted(x)[0], expected)
