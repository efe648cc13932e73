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
