"""One rank of a gloo group: every objective through DistributedDataParallel, value and gradient.

Run as ``python gloo_worker.py RANK WORLD FOLDER``; the folder holds ``problem.pt`` and receives
``rank<RANK>.pt``. The objectives are those that a single process is compared with.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from probcl.objectives import expected_likelihood, info_nce, sup_con, varcon

TEMPERATURE = 0.1


class Encoder(nn.Module):
    """A linear map to the sphere, and a concentration in the last coordinate."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, views: Tensor) -> Tensor:
        return views @ self.weight


def _directions(z: Tensor) -> Tensor:
    return normalize(z[..., :-1], dim=-1)


def _info_nce(z: Tensor, labels: Tensor, gather: bool) -> Tensor:
    return info_nce(_directions(z), TEMPERATURE, gather=gather)


def _sup_con(z: Tensor, labels: Tensor, gather: bool) -> Tensor:
    return sup_con(_directions(z), labels, TEMPERATURE, gather=gather)


def _varcon(z: Tensor, labels: Tensor, gather: bool) -> Tensor:
    return varcon(_directions(z), labels, TEMPERATURE, gather=gather)


def _expected_likelihood(z: Tensor, labels: Tensor, gather: bool) -> Tensor:
    return expected_likelihood(_directions(z), 10 * torch.exp(z[..., -1]), gather=gather)


def _supervised_likelihood(z: Tensor, labels: Tensor, gather: bool) -> Tensor:
    concentration = 10 * torch.exp(z[..., -1])
    return expected_likelihood(_directions(z), concentration, labels, gather=gather)


OBJECTIVES = {
    "info_nce": _info_nce,
    "sup_con": _sup_con,
    "varcon": _varcon,
    "expected_likelihood": _expected_likelihood,
    "supervised expected_likelihood": _supervised_likelihood,
}


def shard(x: torch.Tensor, rank: int, world: int) -> torch.Tensor:
    return x.chunk(world, dim=1)[rank]


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    problem = torch.load(folder / "problem.pt")
    results: dict[str, object] = {}
    for name, objective in OBJECTIVES.items():
        encoder = DistributedDataParallel(Encoder(problem["weight"]))
        z = encoder(shard(problem["views"], rank, world))
        loss = objective(z, problem["labels"].chunk(world)[rank], gather=True)
        loss.backward()
        results[name] = (loss.detach(), encoder.module.weight.grad)
        with torch.no_grad():
            alone = objective(z, problem["labels"].chunk(world)[rank], gather=False)
        results[f"{name}, local"] = alone
    results.update(unequal_batches(problem, rank, world))
    results["varcon, odd labels"] = odd_labels(problem, rank, world)
    z = shard(normalize(problem["views"], dim=-1), rank, world)[:1]
    if rank == 0:
        z[0, 0, 0] = torch.nan
    try:
        varcon(z, problem["labels"].chunk(world)[rank], TEMPERATURE)
    except ValueError as error:
        results["NaN on one rank"] = str(error)
    torch.save(results, folder / f"rank{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads may still run when the interpreter takes its modules down


def odd_labels(problem: dict, rank: int, world: int) -> list[Tensor]:
    """Give VarCon labels of other types, with gaps, and a rank without any embedding."""
    z = shard(normalize(problem["views"], dim=-1), rank, world)[:1]
    labels = problem["labels"].chunk(world)[rank]
    names = torch.tensor([-7, 10**12, 3, 99])
    values = [varcon(z, labels.to(kind), TEMPERATURE) for kind in (torch.uint8, torch.int8)]
    values.append(varcon(z, names[labels], TEMPERATURE))
    kept = len(labels) if rank else 0
    values.append(varcon(z[:, :kept], labels[:kept], TEMPERATURE))
    return values


def unequal_batches(problem: dict, rank: int, world: int) -> dict[str, object]:
    """Give the first rank half of its batch: VarCon takes that, the others refuse it."""
    views = shard(problem["views"], rank, world)
    labels = problem["labels"].chunk(world)[rank]
    if rank == 0:
        views, labels = views[:, : len(labels) // 2], labels[: len(labels) // 2]
    messages: dict[str, object] = {}
    for name, objective in OBJECTIVES.items():
        encoder = DistributedDataParallel(Encoder(problem["weight"]))
        try:
            loss = objective(encoder(views), labels, gather=True)
        except ValueError as error:
            messages[f"{name}, unequal"] = str(error)
        else:
            loss.backward()
            messages[f"{name}, unequal"] = (loss.detach(), encoder.module.weight.grad)
    return messages


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
