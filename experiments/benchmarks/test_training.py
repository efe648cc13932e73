"""The whole training loop against the bare step, and against lightly's own loop for SimCLR.

On a GPU: ResNet-18 for 32x32 images, batches of 512, bf16, compiled, held to its bars. On a CPU: a
small network, for the record. Run with ``python -m pytest experiments/benchmarks -s``; needs the
extra ``baselines``.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from measure import Row, settle, threads
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from probcl.data import SimAugment
from probcl.distributions.kl import gaussian_bound
from probcl.nn import ConvNet, ProjectedNormalHead, ResNet
from probcl.objectives import info_nce
from probcl.programs import VSimCLR
from probcl.training import Arrays, ContrastiveModule, ProgressBar, Throughput

SIZE, TEMPERATURE = 32, 0.2
BARS = {  # on one H200
    "probcl fit / bare step": (0.90, True),
    "probcl fit / lightly's SimCLR": (5.0, True),
    "seconds for 50,000 images": (4.0, False),
}


@dataclass
class Setting:
    """What is measured on a kind of device."""

    device: str
    images: int
    batch: int
    epochs: int
    precision: str
    compiled: bool

    def encoder(self) -> nn.Module:
        return ResNet(18, stem="cifar") if self.device == "cuda" else ConvNet((16, 32, 64))

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision != "32-true")


CPU = Setting("cpu", images=5120, batch=256, epochs=3, precision="32-true", compiled=False)
GPU = Setting("cuda", images=50_000, batch=512, epochs=4, precision="bf16-mixed", compiled=True)


class Rates(ProgressBar):
    """Note the images of a second of each epoch, as the bar shows them."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ContrastiveModule) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        (throughput,) = (c for c in trainer.callbacks if isinstance(c, Throughput))
        self.rates.append(throughput.images_per_second)
        super().on_train_epoch_end(trainer, pl_module)


def whole(setting: Setting, pixels: np.ndarray, folder: Path) -> float:
    """Return the images in a second of ``probcl fit``: augmentation, Pyro, Lightning, logging."""
    labels = np.arange(len(pixels)) % 10
    np.savez(
        folder / "images.npz",
        **{f"{part}_{name}": value for part in ("train", "test")
           for name, value in (("images", pixels.transpose(0, 3, 1, 2)), ("labels", labels))},
    )  # fmt: skip
    data = Arrays(
        str(folder / "images.npz"),
        augmentation=SimAugment(SIZE), batch_size=setting.batch, monitored=0,
    )  # fmt: skip
    module = ContrastiveModule(
        VSimCLR(setting.encoder(), ProjectedNormalHead(), temperature=TEMPERATURE),
        kl="gaussian_bound", compile_encoder=setting.compiled, channels_last=True,
    )  # fmt: skip
    rates = Rates()
    trainer = Trainer(
        accelerator="gpu" if setting.device == "cuda" else "cpu", devices=1,
        precision=setting.precision, max_epochs=setting.epochs, enable_model_summary=False,
        logger=CSVLogger(folder), callbacks=[rates, ModelCheckpoint(folder, save_top_k=0)],
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return max(rates.rates[1:])


def bare(setting: Setting) -> float:
    """Return the images in a second of forward, backward and step on resident random tensors."""
    encoder, head = setting.encoder(), ProjectedNormalHead()
    views = torch.rand(2, setting.batch, 3, SIZE, SIZE)
    head(encoder(views.flatten(0, 1)))  # lazy layers
    encoder, head = encoder.to(setting.device), head.to(setting.device)
    encoder.to(memory_format=torch.channels_last)
    views = views.to(setting.device)
    if setting.compiled:
        encoder.compile()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)

    def step() -> None:
        optimizer.zero_grad()
        with setting.autocast():
            q = head(encoder(views.flatten(0, 1)).unflatten(0, views.shape[:2]))
            z: Tensor = q.rsample()
            loss = info_nce(z, TEMPERATURE) + gaussian_bound(q).mean() / q.event_shape[0]
        loss.backward()
        optimizer.step()

    return rate(step, setting, steps=100 if setting.device == "cuda" else 20)


def lightly_loop(setting: Setting, pixels: np.ndarray) -> float:
    """Return the images in a second of SimCLR as lightly's example has it, with our encoder."""
    loss = pytest.importorskip("lightly.loss", reason="pip install 'probcl[baselines]'")
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(input_size=SIZE, gaussian_blur=0.0)

    class Pictures(Dataset):
        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, row: int) -> list[Tensor]:
            return transform(Image.fromarray(pixels[row]))

    encoder = setting.encoder()
    features = encoder(torch.rand(2, 3, SIZE, SIZE)).shape[-1]
    model = nn.Sequential(encoder, SimCLRProjectionHead(features, features, 128))
    model.to(setting.device)
    criterion = loss.NTXentLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    loader = DataLoader(
        Pictures(), setting.batch, shuffle=True, drop_last=True, num_workers=os.cpu_count() or 1
    )
    start = time.perf_counter()
    for first, second in loader:
        value = criterion(model(first.to(setting.device)), model(second.to(setting.device)))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
    if setting.device == "cuda":
        torch.cuda.synchronize()
    return len(loader) * setting.batch / (time.perf_counter() - start)


def rate(step: object, setting: Setting, steps: int) -> float:
    for index in range(steps + 5):
        if index == 5:  # the first ones compile and allocate
            if setting.device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
        step()
    if setting.device == "cuda":
        torch.cuda.synchronize()
    return steps * setting.batch / (time.perf_counter() - start)


def figures(setting: Setting, folder: Path) -> dict[str, object]:
    pixels = np.random.default_rng(0).integers(0, 256, (setting.images, SIZE, SIZE, 3))
    pixels = pixels.astype(np.uint8)
    speed = {
        "bare step": bare(setting),
        "probcl fit": whole(setting, pixels, folder),
        "lightly's SimCLR": lightly_loop(setting, pixels),
    }
    whole_share = speed["probcl fit"] / speed["bare step"]
    return {
        "images_per_second": speed,
        "probcl fit / bare step": whole_share,
        "probcl fit / lightly's SimCLR": speed["probcl fit"] / speed["lightly's SimCLR"],
        "seconds for 50,000 images": 50_000 / speed["probcl fit"],
    }


@pytest.mark.filterwarnings("ignore")  # Lightning's notices
def test_whole_loop(tmp_path: Path) -> None:
    """On a GPU the loop is within its bars; on a CPU it is measured."""
    with threads(2):
        cpu = figures(CPU, tmp_path)
    gpu: dict[str, object] | str = "not measured"
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        gpu = figures(GPU, tmp_path) | {
            "hardware": torch.cuda.get_device_name(),
            "peak memory, GiB": torch.cuda.max_memory_allocated() / 2**30,
        }
    print(f"\nCPU: {cpu}\nGPU: {gpu}")
    rows = (
        {} if isinstance(gpu, str) else {name: Row(gpu[name], *bar) for name, bar in BARS.items()}
    )
    settle(
        "training",
        "VSimCLR, two views of 32x32 images; CPU: ConvNet (16, 32, 64), batch 256, float32, "
        "2 threads; GPU: ResNet-18 with the CIFAR stem, batch 512, bf16, channels last, compiled",
        rows,
        cpu=cpu,
        gpu=gpu,
    )
