"""One rank of a gloo group that trains programs without batch normalisation, a few steps each.

Run as ``python gloo_programs.py RANK WORLD FOLDER``; the folder receives ``rank<RANK>.pt``: the
weights and buffers of each program afterwards. A single process calls ``train``.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from probcl.distributions import VonMisesFisher
from probcl.infer import ContrastiveELBO
from probcl.nn import MLP, VonMisesFisherHead
from probcl.programs import BYOL, Match, MoCo, SimCLR, SupCon, SwAV, VarCon, VICReg, VSimCLR


class Still(VonMisesFisher):
    """A posterior whose samples are its mode: no rank draws what another does not."""

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> torch.Tensor:  # noqa: B008
        return self.loc.expand(*sample_shape, *self.loc.shape)


class StillHead(VonMisesFisherHead):
    """Its concentrations differ from item to item, and so from rank to rank."""

    family = Still

    def forward(self, features: torch.Tensor) -> VonMisesFisher:
        q = super().forward(features)
        return Still(q.loc, q.concentration * features.norm(dim=-1))


PROGRAMS = {  # the temperature too, where there is one
    "SimCLR": lambda encoder: SimCLR(encoder, MLP(5, 16), learn_temperature=True),
    "VSimCLR": lambda encoder: VSimCLR(encoder, StillHead(5, 16), learn_temperature=True),
    "SupCon": lambda encoder: SupCon(encoder, MLP(5, 16), learn_temperature=True),
    "Match": lambda encoder: Match(encoder, MLP(5, 16), learn_temperature=True, memory=20),
    "VarCon": lambda encoder: VarCon(
        encoder, MLP(5, 16), learn_epsilon=True, learn_temperature=True
    ),
    "MoCo": lambda encoder: MoCo(encoder, MLP(5, 16), queue_size=20, learn_temperature=True),
    "BYOL": lambda encoder: BYOL(encoder, MLP(5, 16), MLP(5, 16), momentum=0.9),
    "SwAV": lambda encoder: SwAV(encoder, MLP(5, 16), num_prototypes=7),
    "VICReg": lambda encoder: VICReg(encoder, MLP(5, 16)),
}


def train(name: str, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
    """Return the state of a program after three steps on this rank's part of each batch."""
    torch.manual_seed(1)
    program = PROGRAMS[name](nn.Sequential(nn.Flatten(), nn.LazyLinear(8))).double()
    views = torch.rand(3, 2, 8, 1, 4, 4, dtype=torch.float64)
    labels = torch.arange(8) % 3
    program.materialize(views[0, 0])
    loss = ContrastiveELBO()(program.model, program.guide)
    learned = [p for p in program.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.1)
    for batch in views:
        optimizer.zero_grad()
        loss(batch.chunk(world, dim=1)[rank], labels.chunk(world)[rank]).backward()
        for parameter in learned:
            if world > 1:
                dist.all_reduce(parameter.grad)
            parameter.grad /= world
        optimizer.step()
    return program.state_dict()


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    torch.save({name: train(name, rank, world) for name in PROGRAMS}, folder / f"rank{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads may still run when the interpreter takes its modules down


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
