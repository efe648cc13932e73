"""An encoder with its posterior's parameters through torch.export."""

import pytest
import torch
from torch import nn

from probcl.nn import ConvNet, PowerSphericalHead, ProjectedNormalHead, VonMisesFisherHead
from probcl.programs import VSimCLR

HEADS = {
    ProjectedNormalHead: ("loc", "scale", "mean"),
    VonMisesFisherHead: ("loc", "concentration", "mean"),
    PowerSphericalHead: ("loc", "concentration", "mean"),
}


class Parameters(nn.Module):
    """What a server returns of a posterior: tensors."""

    def __init__(self, program: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.program, self.names = program, names

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        posterior = self.program(images)
        return (*(getattr(posterior, name) for name in self.names), posterior.entropy())


@pytest.mark.slow
@pytest.mark.parametrize("head", list(HEADS))
def test_exported_for_batches_of_any_size(head):
    program = VSimCLR(ConvNet((4, 8)), head(5, 16))
    images = torch.rand(4, 1, 8, 8)
    program.materialize(images)
    module = Parameters(program.eval(), HEADS[head])
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
    exported = torch.export.export(module, (images,), dynamic_shapes=shapes).module()
    for count in (2, 7):
        images = torch.rand(count, 1, 8, 8)
        torch.testing.assert_close(exported(images), module(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_parameters_of_a_projected_normal_run_as_onnx(tmp_path):
    reason = "needs ONNX: pip install onnx onnxscript onnxruntime"
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=reason)
    runtime = pytest.importorskip("onnxruntime", reason=reason)
    program = VSimCLR(ConvNet((4, 8)), ProjectedNormalHead(5, 16))
    images = torch.rand(4, 1, 8, 8)
    program.materialize(images)

    class OfPosterior(nn.Module):
        def forward(self, images):
            posterior = program(images)
            return posterior.loc, posterior.scale

    module, path = OfPosterior().eval(), tmp_path / "posterior.onnx"
    module.program = program.eval()
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    torch.onnx.export(module, (images,), path, dynamo=True, dynamic_shapes=shapes)
    session = runtime.InferenceSession(path)
    given = session.get_inputs()[0].name
    for count in (2, 7):
        images = torch.rand(count, 1, 8, 8)
        found = session.run(None, {given: images.numpy()})
        for one, other in zip(found, module(images), strict=True):
            torch.testing.assert_close(torch.from_numpy(one), other)
