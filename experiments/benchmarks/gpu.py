"""Everything that a GPU is to show, in one call; the figures go to ``results/gpu.json``.

    python experiments/benchmarks/gpu.py --data FOLDER    # with cifar10.npz: packed images
    python experiments/benchmarks/gpu.py --toy            # the same, small, on a CPU

Without a GPU nothing is measured, and the script says so; of a toy nothing is written. Needs the
extra ``baselines``.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from measure import Row, interleaved_times, settle
from test_objectives import with_backward
from test_training import BARS, CPU, GPU, SIZE, Setting, figures
from torch.nn.functional import normalize

from probcl.data import SimAugment
from probcl.evaluation import evaluate
from probcl.nn import ProjectedNormalHead
from probcl.objectives import info_nce, sup_con, varcon
from probcl.programs import VSimCLR
from probcl.training import Arrays, ContrastiveModule

ALL_BARS = BARS | {
    "InfoNCE, ms": (60.0, False), "InfoNCE, GB": (1.5, False), "evaluation, s": (120.0, False),
    "k-NN after five minutes": (0.848, True),
}  # fmt: skip


class Size(NamedTuple):
    """How much of everything."""

    loop: Setting
    pairs: tuple[int, int]  # embeddings and their dimension
    evaluation: tuple[int, int, int, int]  # training and test items, features, classes
    seconds: float  # of a training on CIFAR-10


FULL = Size(GPU, (65_536, 512), (1_281_167, 50_000, 2048, 1000), 300)
TOY = Size(replace(CPU, images=128, batch=32, epochs=2), (1024, 32), (2000, 400, 16, 10), 2)


def pairs(count: int, dim: int, device: str) -> dict[str, float]:
    """Return time and memory of InfoNCE in bfloat16, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    z = normalize(torch.randn(2, count // 2, dim, generator=generator), dim=-1)
    z = z.to(device, torch.bfloat16).requires_grad_()
    step = partial(with_backward, partial(info_nce, z, 0.1), z)
    found = interleaved_times({"InfoNCE, ms": step}, 13, 3, device)
    if device == "cuda":
        z.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        found["InfoNCE, GB"] = (torch.cuda.max_memory_allocated() - before) / 1e9
    return found


def compiled(device: str) -> dict[str, str]:
    """Say whether each objective is one compiled graph, which never waits for the device."""
    said = {}
    z = normalize(torch.randn(2, 256, 64), dim=-1).to(device).requires_grad_()
    labels = (torch.arange(256) % 10).to(device)
    losses = {
        "InfoNCE": lambda: info_nce(z, 0.1),
        "SupCon": lambda: sup_con(z, labels, 0.1),
        "VarCon": lambda: varcon(z, labels, 0.1, epsilon=0.02),
    }
    for name, loss in losses.items():
        backend = "inductor" if device == "cuda" else "aot_eager"
        graph = torch.compile(loss, fullgraph=True, backend=backend)
        try:
            with_backward(graph, z)
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            with_backward(graph, z)
            said[name] = "one graph, no synchronisation"
        except Exception as error:  # whatever the compiler meets is the figure
            said[name] = str(error).splitlines()[0]
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    return {f"{name}, compiled": value for name, value in said.items()}


def evaluation(train: int, test: int, features: int, classes: int) -> dict[str, float]:
    """Return the time of the whole evaluation of random features about the centres of classes."""
    centres = torch.randn(classes, features)
    labels = [torch.arange(count) % classes for count in (train, test)]
    items = [centres[y] + 2 * torch.randn(len(y), features) for y in labels]
    start = time.perf_counter()
    evaluate(items[0], labels[0], items[1], labels[1])
    return {"evaluation, s": time.perf_counter() - start}


def training(data: Path, setting: Setting, seconds: float, per_epoch: float) -> dict[str, float]:
    """Return the accuracy of neighbours after as many epochs of CIFAR-10 as the time holds."""
    images = Arrays(
        str(data), augmentation=SimAugment(SIZE), batch_size=setting.batch, monitored=0,
        corrupted=0,
    )  # fmt: skip
    module = ContrastiveModule(
        VSimCLR(setting.encoder(), ProjectedNormalHead(), temperature=0.2),
        compile_encoder=setting.compiled, channels_last=True,
    )  # fmt: skip
    epochs = max(int(seconds / per_epoch), 1)
    trainer = Trainer(
        accelerator="gpu" if setting.device == "cuda" else "cpu", devices=1, logger=False,
        precision=setting.precision, max_epochs=epochs, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip
    start = time.perf_counter()
    trainer.fit(module, datamodule=images)
    took = time.perf_counter() - start
    trainer.test(module, datamodule=images, verbose=False)
    knn = module.evaluation.metrics["knn/top1"]
    return {"epochs": epochs, "training, s": took, "k-NN after five minutes": knn}


def measured(size: Size, data: Path | None) -> dict[str, object]:
    """Return every figure."""
    device = size.loop.device
    with tempfile.TemporaryDirectory() as folder:
        loop = figures(size.loop, Path(folder))
        if data is None:  # a toy: random images
            data = Path(folder) / "random.npz"
            random = np.random.default_rng(0)
            parts = {
                f"{part}_{name}": value
                for part in ("train", "test")
                for name, value in (
                    ("images", random.integers(0, 256, (size.loop.images, 3, SIZE, SIZE))),
                    ("labels", np.arange(size.loop.images) % 10),
                )
            }
            np.savez(data, **{name: value.astype(np.uint8) for name, value in parts.items()})
        per_epoch = float(loop["seconds for 50,000 images"])  # type: ignore[arg-type]
        return {
            **loop, **pairs(*size.pairs, device), **compiled(device),
            **evaluation(*size.evaluation), **training(data, size.loop, size.seconds, per_epoch),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="small, on a CPU; nothing is written")
    parser.add_argument("--data", type=Path, help="folder with cifar10.npz")
    chosen = parser.parse_args()
    if not chosen.toy and not torch.cuda.is_available():
        sys.exit(print("not measured: this machine has no GPU."))
    if not chosen.toy and not (chosen.data and (chosen.data / "cifar10.npz").is_file()):
        sys.exit("data must be a folder with cifar10.npz: name it with --data.")
    found = measured(*((TOY, None) if chosen.toy else (FULL, chosen.data / "cifar10.npz")))
    if chosen.toy:
        print("", *(f"{name:32s} {value}" for name, value in found.items()), sep="\n")
        return
    os.environ["PROBCL_BENCHMARK_RECORD"] = "1"
    rows = {name: Row(float(found[name]), *bar) for name, bar in ALL_BARS.items()}
    setting = (
        "VSimCLR, ResNet-18 with the CIFAR stem, batch 512, bf16, compiled; InfoNCE of "
        "65,536 x 512 in bf16; evaluation of 50,000 x 2,048 features against 1,281,167"
    )
    settle("gpu", setting, rows, hardware=torch.cuda.get_device_name(), figures=found)


if __name__ == "__main__":
    main()
