"""One rank of a training with others, started by torchrun; alone, the whole of it.

The batch of all ranks together is the same however many there are. The encoder has no batch
statistics, and the noise of a sample follows from its location, so that it is the same on whichever
rank an image lies.
"""

import logging
import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from probcl.data import Augmentation
from probcl.distributions import ProjectedNormal
from probcl.nn import ProjectedNormalHead
from probcl.objectives.collectives import GATHER, SCATTER
from probcl.programs import SimCLR, VarCon, VSimCLR, VSupCon
from probcl.sphere import normalize
from probcl.training import ContrastiveModule, Folder, Named

BATCH, STEPS, DIM = 96, 20, 16


class Repeatable(ProjectedNormal):
    """Projected normal whose noise is a function of the location."""

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        noise = torch.sin(5 * self.loc.detach())
        return normalize(self.loc + self.scale * noise)


class RepeatableHead(ProjectedNormalHead):
    def forward(self, features: Tensor) -> Repeatable:
        q = super().forward(features)
        return Repeatable(q.loc, q.scale)


class Shift(nn.Module):
    """Views of an image that differ, without a draw."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.roll(self.calls % 2, -1)


def encoder() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh())


def digits(world: int) -> Named:
    augment = Augmentation(Shift())
    return Named(
        "Digits", augmentation=augment, batch_size=BATCH // world, monitored=0, corrupted=0
    )


def programs() -> dict[str, nn.Module]:
    torch.manual_seed(7)
    return {
        "VSimCLR": VSimCLR(encoder(), RepeatableHead(DIM), temperature=0.2),
        "VSupCon": VSupCon(encoder(), RepeatableHead(DIM), temperature=0.2),
        "VarCon": VarCon(encoder(), learn_epsilon=True),
    }


class Count:
    """Count the numbers that this rank sends through each collective."""

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}
        self.originals = {name: getattr(dist, name) for name in (GATHER, SCATTER, "all_reduce")}

    def __enter__(self) -> "Count":
        for name, original in self.originals.items():
            setattr(dist, name, self.counting(name, original))
        return self

    def __exit__(self, *_: object) -> None:
        for name, original in self.originals.items():
            setattr(dist, name, original)

    def counting(self, name: str, original):
        name = {GATHER: "all_gather_into_tensor", SCATTER: "reduce_scatter_tensor"}.get(name, name)

        def call(*tensors, **options):
            self.sent.setdefault(name, []).append(tensors[-1].numel())
            return original(*tensors, **options)

        return call


def sent_by(program: nn.Module, batch: int) -> dict[str, list[int]]:
    """Return what this rank sends in the forward and backward pass of one step."""
    from probcl.infer import ContrastiveELBO

    program = program.float()
    labels = torch.arange(batch) % 5
    loss = ContrastiveELBO()(program.model, program.guide)
    with Count() as count:
        loss(torch.rand(2, batch, 1, 8, 8), labels).backward()
    return count.sent


class Sizes(Callback):
    """Note how many images each batch has."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.seen.append(batch.size)


def train_on_files(images: Path, options: dict[str, object]) -> dict[str, object]:
    """Train on two images a batch, so that one rank's may all be lost where another's are not."""
    data = Folder(
        str(images), unreadable="skip", batch_size=2, num_workers=0, monitored=10, corrupted=0
    )
    torch.manual_seed(3)
    module = ContrastiveModule(SimCLR(nn.Sequential(nn.Flatten(), nn.Linear(192, 8))))
    sizes = Sizes()
    Trainer(max_epochs=2, callbacks=[sizes], **options).fit(module, datamodule=data)
    return {"weights": module.program.state_dict(), "sizes": sizes.seen}


def draws_of(options: dict[str, object]) -> dict[str, object]:
    """Return what each step of a training on a plain loader draws, and what is drawn after it."""
    torch.manual_seed(5)
    program, drawn = VSimCLR(encoder(), ProjectedNormalHead(DIM)), []
    program.posterior_head.register_forward_hook(lambda *_: drawn.append(torch.rand(1).item()))
    images = [torch.rand(2, 1, 8, 8) for _ in range(16)]
    loader = DataLoader(images, batch_size=4, collate_fn=lambda items: torch.stack(items, 1))
    Trainer(max_epochs=2, **options).fit(ContrastiveModule(program), loader)
    return {"within": drawn[1:], "after": torch.rand(1).item()}  # the first is of the lazy layers


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    results: dict[str, object] = {}
    options = {
        "accelerator": "cpu", "devices": world, "strategy": "ddp" if world > 1 else "auto",
        "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": folder,
    }  # fmt: skip
    for name, program in programs().items():
        torch.manual_seed(11)
        trainer = Trainer(precision="64-true", max_steps=STEPS, **options)
        module = ContrastiveModule(
            program, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.3, momentum=0.9)
        )
        trainer.fit(module, datamodule=digits(world))
        results[name] = {key: w.double().cpu() for key, w in program.state_dict().items()}
        results[f"{name}, loss"] = trainer.callback_metrics["loss"].double()
    module = ContrastiveModule(programs()["VSimCLR"].float())
    Trainer(**options).test(module, datamodule=digits(world), verbose=False)
    results["metrics"] = None if module.evaluation is None else module.evaluation.metrics
    if world > 1:
        for name, program in programs().items():
            program.materialize(torch.zeros(1, 1, 8, 8))
            results[f"{name}, sent"] = {size: sent_by(program, size) for size in (10, 40)}
        results["files"] = train_on_files(folder / "images", options)
        results["draws"] = draws_of(options)
    torch.save(results, folder / f"{world}-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
