"""Train and evaluate every program of an experiment, and leave the record of each run.

    python experiments/run.py digits --jobs 2
    python experiments/run.py fashion_mnist vsimclr simclr --seeds 0 --jobs 2

A record, ``experiments/EXPERIMENT/NAME-seedN.json``, holds the configuration, versions, hardware
and metrics of a run; one that is there is not made again, and a run that was interrupted goes on.
Every run has one thread, unless it emulates another machine. Options after ``--`` go to
``probcl fit``.

Fashion-MNIST is looked for in ``--data``, as torchvision leaves it (``FashionMNIST/raw``), MNIST's
test split in ``MNIST_test`` beside it; CIFAR-10 as packed image files, ``cifar10.npz``.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

HERE = Path(__file__).parent
POST_HOC = "-posthoc"

EXACT, BOUND = ["--model.kl=auto"], ["--model.kl=gaussian_bound"]
# The form of the VCL paper, which programs chosen by name do not have, but for its bound on the KL.
PUBLISHED = ["--model.program.beta=1.0", "--model.program.temperature_correction=false",
             "--model.program.posterior=ProjectedNormalHead",
             "--model.program.posterior.initial_resultant_length=null"]  # fmt: skip
# The default run, and every program with its own defaults.
DIGITS: dict[str, list[str]] = {"default": []} | {
    name.lower(): [f"--model.program={name}"]
    for name in (
        "VSimCLR", "SimCLR", "MCInfoNCE", "MoCo", "BYOL", "SwAV", "VICReg", "BarlowTwins",
        "VSupCon", "SupCon", "VarCon", "CrossEntropy",
    )
}  # fmt: skip
DIGITS["crossentropy"].append("--model.program.num_classes=10")
DIGITS |= {f"{name.lower()}-published{kl}": [f"--model.program={name}", *PUBLISHED, *options]
           for name in ("VSimCLR", "VSupCon")
           for kl, options in (("", []), ("-kl-bound", BOUND))}  # fmt: skip

# Of one temperature, one length and one dimension, so that all can be compared.
WARM = ["--model.program.temperature=0.2"]
POINT = ["--model.program.projection=MLP", "--model.program.projection.dim=64"]
NORMAL = ["--model.program.posterior=ProjectedNormalHead", "--model.program.posterior.dim=64"]
VMF = ["--model.program.posterior=VonMisesFisherHead", "--model.program.posterior.dim=64"]
DEGRADED = ["--data.degraded_views=1"]
FASHION_MNIST = {
    "vsimclr": ["--model.program=VSimCLR", *NORMAL, *WARM],
    "vsimclr-published": ["--model.program=VSimCLR", *PUBLISHED, *NORMAL[1:], *WARM],
    "vsimclr-degraded": ["--model.program=VSimCLR", *NORMAL, *WARM, *DEGRADED],
    "simclr": ["--model.program=SimCLR", *POINT, *WARM],
    "simclr-degraded": ["--model.program=SimCLR", *POINT, *WARM, *DEGRADED],
    "simclr-degraded-posthoc": [],
    "expectedlikelihood": ["--model.program=ExpectedLikelihood", *VMF,
                           "--model.program.posterior.initial_resultant_length=0.62"],
    "vsupcon": ["--model.program=VSupCon", *NORMAL, *WARM],
    "vsupcon-published": ["--model.program=VSupCon", *PUBLISHED, *NORMAL[1:], *WARM],
    "supcon": ["--model.program=SupCon", *POINT, *WARM],
    "varcon": ["--model.program=VarCon", *POINT, *WARM],
}  # fmt: skip
FASHION_MNIST |= {f"{name}-kl-bound": [*FASHION_MNIST[name], *BOUND]
                  for name in ("vsimclr-published", "vsupcon-published")}  # fmt: skip
# The default run on machines of other kinds, as far as one machine can be like another. The last is
# made by the Python of an environment that has the lowest torch allowed.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
MACHINES = {
    "one-thread": ONE_THREAD,
    "two-threads": {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    "avx2": ONE_THREAD | {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "torch-2.5": ONE_THREAD,
}


def length(epochs: int, batch: int, samples: int, rate: float = 0.003) -> list[str]:
    """Return the options of a default run of another length, with the exact KL."""
    return [
        f"--trainer.max_epochs={epochs}", f"--data.batch_size={batch}",
        f"--model.program.num_samples={samples}", f"--model.optimizer.lr={rate}", *EXACT,
    ]  # fmt: skip


# Of the length that it had then. First four, tenfold apart; then between the two that were best.
DEFAULT_BETAS = {
    f"beta-{beta}": [f"--model.program.beta={beta}", *length(80, 256, 8)]
    for beta in (0.001, 0.01, 0.1, 1.0, 0.02, 0.03, 0.05)
}
# The default run's beta, and shorter runs.
DEFAULT_TIMES = {
    "epochs-80-batch-256-samples-8": length(80, 256, 8),
    "epochs-40-batch-256-samples-8": length(40, 256, 8),
    "epochs-40-batch-256-samples-8-rate-0.006": length(40, 256, 8, 0.006),
    "epochs-40-batch-256-samples-4": length(40, 256, 4),
    "epochs-40-batch-128-samples-8": length(40, 128, 8),
    "epochs-40-batch-64-samples-4": length(40, 64, 4),
    "epochs-60-batch-128-samples-4": length(60, 128, 4),
    "epochs-60-batch-128-samples-2": length(60, 128, 2),
    "epochs-50-batch-128-samples-2": length(50, 128, 2),
    "epochs-60-batch-128-samples-2-kl-bound": [*length(60, 128, 2), *BOUND],
}
HEAD = "--model.program.posterior"
CONCENTRATED = [f"{HEAD}.initial_resultant_length=0.97"]
# Twins at full size: their numbers of accuracy, and each entropy's of a wrong neighbour.
TWINS = {name: FASHION_MNIST[name] for name in ("simclr", "vsimclr", "supcon", "vsupcon")} | {
    f"{name}-degraded": [*FASHION_MNIST[name], *DEGRADED] for name in ("simclr", "vsimclr")
}
TWINS |= {f"{name}-beta-0.1": [*options, "--model.program.beta=0.1"]
          for name, options in TWINS.items() if name.startswith("v")}  # fmt: skip
TWINS |= {f"vsimclr-degraded-beta-{beta}":
          [*TWINS["vsimclr-degraded"], f"--model.program.beta={beta}"]
          for beta in ("0.3", "1")}  # fmt: skip
TWINS |= {f"{name}-kl-bound": [*TWINS[name], *BOUND] for name in ("vsimclr", "vsupcon")}
TWINS |= {f"vsupcon-kl-bound-beta-{beta}":
          [*TWINS["vsupcon-kl-bound"], f"--model.program.beta={beta}"]
          for beta in ("0.1", "1")}  # fmt: skip
TWINS["vsimclr-degraded-start-0.97"] = [*TWINS["vsimclr-degraded"], *CONCENTRATED]
TWINS |= {f"vsimclr-degraded-start-0.97-kl-bound-beta-{beta}":
          [*TWINS["vsimclr-degraded-start-0.97"], *BOUND, f"--model.program.beta={beta}"]
          for beta in ("0.1", "1")}  # fmt: skip
TWINS |= {f"vsimclr-degraded-uncorrected-{temperature}":
          [*TWINS["vsimclr-degraded"], "--model.program.temperature_correction=false",
           f"--model.program.temperature={temperature}"]
          for temperature in ("0.1", "0.05")}  # fmt: skip
TWINS |= {f"vsupcon-start-{start}": [*TWINS["vsupcon"], f"{HEAD}.initial_resultant_length={start}"]
          for start in ("0.97", "0.999")}  # fmt: skip
TWINS["vsupcon-start-0.99999-beta-0"] = [  # hardly any noise
    *TWINS["vsupcon"], f"{HEAD}.initial_resultant_length=0.99999", "--model.program.beta=0",
]  # fmt: skip
TWINS["vsupcon-isotropic"] = [*TWINS["vsupcon"], f"{HEAD}.covariance=isotropic"]
TWINS["vsupcon-samples-8"] = [*TWINS["vsupcon"], "--model.program.num_samples=8"]
# The same, a third of the images for four epochs.
SHORT_TWINS = {f"{v}{twin}{kl}": TWINS[f"{v}{twin}{kl}"] for twin in ("simclr", "supcon")
               for v, kl in (("", ""), ("v", ""), ("v", "-kl-bound"))}  # fmt: skip
# The same on the digits, which everyone has.
DIGITS_TWINS = {
    name: (FASHION_MNIST | TWINS)[name]
    for twin in ("simclr", "supcon")
    for name in (
        twin,
        f"v{twin}",
        f"v{twin}-kl-bound",
        f"v{twin}-published",
        f"v{twin}-published-kl-bound",
    )
}
QUICK = ["--data.corrupted=0", "--trainer.precision=bf16-mixed"]

# One change at a time: of the default form, and of the published form towards it.
CHANGES = {
    "start-0.3": [f"{HEAD}.initial_resultant_length=0.3"],
    "start-0.97": CONCENTRATED,
    "start-published": [f"{HEAD}.initial_resultant_length=null"],
    "uncorrected": ["--model.program.temperature_correction=false"],
    "beta-0": ["--model.program.beta=0"],
    "beta-0.1": ["--model.program.beta=0.1"],
    "beta-1": ["--model.program.beta=1"],
    "kl-not-divided": ["--model.program.beta=0.32"],  # the default, times d
    "kl-bound": BOUND,
    "samples-8": ["--model.program.num_samples=8"],
    "isotropic": [f"{HEAD}.covariance=isotropic"],
    "low-rank": [f"{HEAD}.covariance=low_rank"],
    "von-mises-fisher": VMF,
    "power-spherical": [f"{HEAD}=PowerSphericalHead", f"{HEAD}.dim=64"],
    "dim-16": [f"{HEAD}.dim=16"],
    "dim-256": [f"{HEAD}.dim=256"],
}
TOWARDS = {
    "published-started": [f"{HEAD}.initial_resultant_length=0.9"],
    "published-corrected": ["--model.program.temperature_correction=true"],
    "published-beta-0.005": ["--model.program.beta=0.005"],
}
VARIATIONAL = {
    f"{name}-{change}": [*FASHION_MNIST[base], *options]
    for name in ("vsimclr", "vsupcon")
    for changes, base in ((CHANGES, name), (TOWARDS, f"{name}-published"))
    for change, options in changes.items()
}

# One view degraded: does the entropy then tell of a wrong neighbour, without labels?
DEGRADED_VIEWS = {name: FASHION_MNIST[f"{name}-degraded"] for name in ("simclr", "vsimclr")} | {
    f"vsimclr-{change}": [*FASHION_MNIST["vsimclr-degraded"], *options]
    for change, options in {
        "start-0.97": CONCENTRATED,
        "kl-bound": BOUND,
        "start-0.99": [f"{HEAD}.initial_resultant_length=0.99"],
        "start-0.97-kl-bound": [*CONCENTRATED, *BOUND],
        "isotropic-samples-8": [*CHANGES["isotropic"], *CHANGES["samples-8"]],
    }.items()
}

# The paper's own measures on its own data: twins, VarCon beside its rivals, beta, and no KL at all.
CIFAR10 = {
    name: FASHION_MNIST[name]
    for name in ("simclr", "vsimclr", "vsimclr-published", "supcon", "vsupcon",
                 "vsupcon-published", "varcon")
} | {"crossentropy": ["--model.program=CrossEntropy", "--model.program.num_classes=10"]} | {
    f"{name}-beta-{beta}": [*FASHION_MNIST[name], f"--model.program.beta={beta}"]
    for name in ("vsimclr", "vsupcon")
    for beta in (0, 1, 10)
}  # fmt: skip


def fashion_mnist(items: int, data: Path, runs: Path) -> list[str]:
    """Write some training images, all test images and MNIST's as arrays; return the options."""
    runs.mkdir(parents=True, exist_ok=True)
    images, labels = read_idx(data / "FashionMNIST/raw", "train")
    rows = np.random.default_rng(0).permutation(len(images))[:items]
    test = read_idx(data / "FashionMNIST/raw", "t10k")
    mnist = read_idx(data / "MNIST_test", "t10k")
    names = ("train_images", "train_labels", "test_images", "test_labels")
    for name, arrays in (
        ("fashion", (images[rows], labels[rows], *test)),
        ("mnist", (*mnist, *mnist)),
    ):
        np.savez(runs / f"{name}.npz", **dict(zip(names, arrays, strict=True)))
    return [
        f"--config={HERE / 'fashion_mnist/recipe.yaml'}", "--data=Arrays",
        f"--data.path={runs / 'fashion.npz'}", "--data.out_of_distribution=Arrays",
        f"--data.out_of_distribution.path={runs / 'mnist.npz'}",
    ]  # fmt: skip


def training_digits(_: Path, runs: Path) -> list[str]:
    """Write four fifths of the training digits, and the rest as test images; return the options."""
    from sklearn.model_selection import train_test_split

    from probcl.data import load_digits

    runs.mkdir(parents=True, exist_ok=True)
    train = load_digits()[0]
    images, labels = train.images.numpy(), train.labels.numpy()
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    names = ("train_images", "test_images", "train_labels", "test_labels")
    np.savez(runs / "digits.npz", **dict(zip(names, parts, strict=True)))
    return [
        f"--config={HERE.parent / 'probcl/digits.yaml'}", "--data=Arrays",
        f"--data.path={runs / 'digits.npz'}",
    ]  # fmt: skip


def cifar10(data: Path, runs: Path) -> list[str]:
    """Return the options of CIFAR-10 from packed image files."""
    return [
        f"--config={HERE / 'cifar10/recipe.yaml'}", "--data=Arrays",
        f"--data.path={(data / 'cifar10.npz').absolute()}",
    ]  # fmt: skip


class Experiment(NamedTuple):
    """The programs by name, with their options; and what all their runs have."""

    programs: dict[str, list[str]]
    seeds: Sequence[int]
    data: Callable[[Path, Path], list[str]] | None = None  # by default the digits
    options: Sequence[str] = ()


EXPERIMENTS = {
    "digits": Experiment(DIGITS, range(3)),
    "digits_twins": Experiment(DIGITS_TWINS, range(5)),
    "machines": Experiment({name: [] for name in MACHINES}, range(10)),
    "default_beta": Experiment(DEFAULT_BETAS, range(10, 13), training_digits),
    "default_time": Experiment(DEFAULT_TIMES, range(10, 13), training_digits),
    "fashion_mnist": Experiment(FASHION_MNIST, range(2), partial(fashion_mnist, 20_000)),
    "variational": Experiment(VARIATIONAL, range(2), partial(fashion_mnist, 20_000), QUICK),
    "degraded": Experiment(DEGRADED_VIEWS, range(5), partial(fashion_mnist, 20_000), QUICK),
    "short_twins": Experiment(SHORT_TWINS, range(5), partial(fashion_mnist, 20_000), QUICK),
    "twins": Experiment(
        TWINS, range(5), partial(fashion_mnist, 60_000), [*QUICK, "--trainer.max_epochs=10"]
    ),
    "cifar10": Experiment(CIFAR10, range(3), cifar10, QUICK[1:]),
}


def read_idx(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images ``(N, 1, 28, 28)`` and labels ``(N,)`` of two files of MNIST's format."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        return images, np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)


def post_hoc(base: Path, folder: Path) -> None:
    """Give the network of a run posteriors, evaluate it, and write its numbers as a run does."""
    from lightning.pytorch import Trainer

    from probcl.data import Degrade
    from probcl.hub import Pretrained
    from probcl.programs import fit_posterior
    from probcl.runs import write_metrics
    from probcl.training import Arrays, ContrastiveModule

    config = yaml.safe_load((base / "config.yaml").read_text())
    options = config["data"]["init_args"]
    other = options["out_of_distribution"]["init_args"]["path"]
    data = Arrays(options["path"], out_of_distribution=Arrays(other))
    point = Pretrained.from_pretrained(base).program
    train, network = data.sets[0], point.encoder
    head = fit_posterior(
        train.images, train.labels, encoder=network, projection=point.posterior_head.projection,
        views=Degrade(), seed=config["seed_everything"],
    )  # fmt: skip
    module = ContrastiveModule(head)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.test(module, datamodule=data, verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {"fit_posterior": {"likelihood": "match", "views": "Degrade", "network_of": config}}
        )
    )
    write_metrics(folder, module.evaluation.metrics)


def run_one(stem: str, runs: Path, records: Path, options: list[str]) -> bool:
    """Make a run in a process of its own, write its record, and tell whether it succeeded."""
    from probcl.files import write_whole
    from probcl.runs import PROBCL, record_of_run

    folder = runs / stem
    if POST_HOC in stem:
        base = runs / stem.replace(POST_HOC, "")
        command = [sys.executable, __file__, "post_hoc", str(base), str(folder)]
    else:
        command = [*PROBCL, "fit", *options, f"--run_dir={folder}", "--ckpt_path=last",
                   "--trainer.enable_progress_bar=false"]  # fmt: skip
    started = time.perf_counter()
    machine = MACHINES.get(stem.rpartition("-seed")[0], ONE_THREAD)
    done = subprocess.run(command, env=os.environ | machine, capture_output=True, text=True)
    if done.returncode:
        print(f"{stem}: failed\n{done.stdout}{done.stderr}", flush=True)
        return False
    write_whole(records / f"{stem}.json", json.dumps(record_of_run(folder), indent=1) + "\n")
    print(f"{stem}: {time.perf_counter() - started:.0f} s", flush=True)
    return True


def main() -> bool:
    """Make the runs that the command line asks for, and tell whether all of them succeeded."""
    own = sys.argv[1:]
    extra = own[own.index("--") + 1 :] if "--" in own else []
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("names", nargs="*", help="by default all")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--records", type=Path, help="by default the folder of the experiment")
    parser.add_argument("--runs", type=Path, help="by default runs/EXPERIMENT")
    chosen = parser.parse_intermixed_args(own[: len(own) - len(extra) - ("--" in own)])
    programs, seeds, data, common = EXPERIMENTS[chosen.experiment]
    records = chosen.records or HERE / chosen.experiment
    runs = chosen.runs or Path("runs") / chosen.experiment
    records.mkdir(parents=True, exist_ok=True)
    names = chosen.names or list(programs)
    if unknown := set(names) - set(programs):
        parser.error(
            f"{chosen.experiment} has no {', '.join(unknown)}, it has: {', '.join(programs)}"
        )
    if "torch-2.5" in names and not version("torch").startswith("2.5"):
        print(f"torch-2.5 is left out: this Python has torch {version('torch')}", flush=True)
        names.remove("torch-2.5")
    try:
        common = [*data(chosen.data, runs), *common] if data else common
    except FileNotFoundError as error:
        sys.exit(f"data: {error.filename} is not there: name the folder of the data with --data.")
    options = {
        f"{name}-seed{seed}": [*common, *programs[name], f"--seed_everything={seed}", *extra]
        for seed in chosen.seeds or seeds
        for name in names
    }
    todo = [stem for stem in options if not (records / f"{stem}.json").is_file()]
    print(f"{len(options) - len(todo)} of {len(options)} runs have their records", flush=True)
    done = []
    with ThreadPoolExecutor(chosen.jobs) as pool:
        for after_others in (False, True):  # a post-hoc head is of a network that is trained
            now = [stem for stem in todo if (POST_HOC in stem) == after_others]
            done += pool.map(lambda stem: run_one(stem, runs, records, options[stem]), now)
    return all(done)


if __name__ == "__main__":
    if sys.argv[1:2] == ["post_hoc"]:
        post_hoc(*map(Path, sys.argv[2:]))
    else:
        sys.exit(not main())
