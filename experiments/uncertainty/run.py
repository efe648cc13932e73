"""Which score answers which question, on 20,000 images of Fashion-MNIST: train and evaluate.

    python experiments/uncertainty/run.py FASHION_ROOT MNIST_TEST [PROGRAM ...] [--seeds 0 1]

``FASHION_ROOT`` holds ``FashionMNIST/raw``, as torchvision leaves it; ``MNIST_TEST`` is a folder
with the two files of MNIST's test split. The numbers of each run come into this folder, as
``NAME-seedN.json``; what was chosen was chosen with ``--validation``, which evaluates on 5,000
other training images and leaves its numbers in ``runs/uncertainty``.
"""

import argparse
import gzip
import json
import sys
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from numpy.typing import NDArray

from probcl.cli import main
from probcl.data import DATASETS
from probcl.hub import Pretrained
from probcl.programs import fit_posterior
from probcl.training import Arrays, ContrastiveModule

HERE = Path(__file__).parent
RUNS = Path("runs/uncertainty")
COMMON = [
    "--model.program.encoder=ConvNet", "--model.program.encoder.widths=[16, 32, 64, 128]",
    "--model.channels_last=true", "--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=4",
    "--trainer.enable_progress_bar=false", "--data=Arrays", "--data.augmentation=SimAugment",
    "--data.augmentation.size=28", "--data.augmentation.scale=[0.3, 1.0]",
    "--data.unfamiliar=Arrays",
]  # fmt: skip
POINT = ["--model.program.projection=MLP", "--model.program.projection.dim=64"]
NORMAL = ["--model.program.posterior=ProjectedNormalHead", "--model.program.posterior.dim=64"]
VMF = ["--model.program.posterior=VonMisesFisherHead", "--model.program.posterior.dim=64"]
LOW = ["--model.program.temperature=0.2"]
HIGH = ["--model.program.temperature=0.5"]
ONE_SAMPLE = ["--model.program.num_samples=1", "--model.program.beta=0.1"]
DEGRADED = ["--data.degraded_views=1"]
PROGRAMS = {
    "vsimclr": ["--model.program=VSimCLR", *NORMAL, *HIGH, *ONE_SAMPLE],
    "vsimclr-degraded": ["--model.program=VSimCLR", *NORMAL, *HIGH, *ONE_SAMPLE, *DEGRADED],
    "vsupcon": ["--model.program=VSupCon", *NORMAL, *LOW, *ONE_SAMPLE],
    "expectedlikelihood": ["--model.program=ExpectedLikelihood", *VMF],
    # Longer: on the validation images its post-hoc entropy got better with the training.
    "simclr": ["--model.program=SimCLR", *POINT, *LOW, *DEGRADED, "--trainer.max_epochs=16"],
    "supcon": ["--model.program=SupCon", *POINT, *LOW],
}
POST_HOC = "simclr-posthoc"


def make_arrays(fashion: str, mnist: Path, validation: bool) -> tuple[Path, Path]:
    """Write the images as arrays, and return their files."""
    RUNS.mkdir(parents=True, exist_ok=True)
    train, test = DATASETS["FashionMNIST"].read(fashion)
    order = np.random.default_rng(0).permutation(len(train))
    pixels, labels = np.asarray(train.images), np.asarray(train.labels)
    evaluated = (np.asarray(test.images), np.asarray(test.labels))
    if validation:
        evaluated = (pixels[order[20_000:25_000]], labels[order[20_000:25_000]])
    images = RUNS / ("validation.npz" if validation else "fashion.npz")
    np.savez(
        images, train_images=pixels[order[:20_000]], train_labels=labels[order[:20_000]],
        test_images=evaluated[0], test_labels=evaluated[1],
    )  # fmt: skip
    digits = read_idx(next(mnist.glob("*images*")), 16).reshape(-1, 1, 28, 28)
    classes = read_idx(next(mnist.glob("*labels*")), 8).astype(int)
    unfamiliar = RUNS / "mnist.npz"
    np.savez(unfamiliar, **{f"{part}_{name}": value for part in ("train", "test")
             for name, value in (("images", digits), ("labels", classes))})  # fmt: skip
    return images, unfamiliar


def read_idx(path: Path, header: int) -> NDArray[np.uint8]:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def evaluate_post_hoc(run: Path, images: Path, unfamiliar: Path, folder: Path) -> None:
    """Give the network of a run posteriors, evaluate it, and write its metrics."""
    point = Pretrained.from_pretrained(str(run / "pretrained")).program
    data = Arrays(str(images), batch_size=256, unfamiliar=Arrays(str(unfamiliar)))
    head = fit_posterior(point.encoder, data.sets[0].images, point.posterior_head.projection)
    module = ContrastiveModule(head)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.test(module, datamodule=data, verbose=False)
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(module.evaluation.metrics, indent=2) + "\n")


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fashion")
    parser.add_argument("mnist", type=Path)
    parser.add_argument("programs", nargs="*", default=[*PROGRAMS, POST_HOC])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--validation", action="store_true")
    chosen = parser.parse_args()
    images, unfamiliar = make_arrays(chosen.fashion, chosen.mnist, chosen.validation)
    data = [f"--data.path={images}", f"--data.unfamiliar.path={unfamiliar}"]
    part = "-validation" if chosen.validation else ""
    for seed in chosen.seeds:
        for name in chosen.programs:
            folder = RUNS / f"{name}{part}-seed{seed}"
            if name == POST_HOC:
                evaluate_post_hoc(RUNS / f"simclr{part}-seed{seed}", images, unfamiliar, folder)
            else:
                options = [*COMMON, *PROGRAMS[name], *data]
                main(["fit", *options, f"--seed_everything={seed}", f"--run_dir={folder}"])
            if not chosen.validation:
                metrics = (folder / "metrics.json").read_text()
                (HERE / f"{name}-seed{seed}.json").write_text(metrics)


if __name__ == "__main__":
    sys.exit(run())
