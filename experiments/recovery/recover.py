"""Does training recover the true posterior? Every method on data whose posterior is known.

Run with ``python experiments/recovery/recover.py``: it writes ``recovery.json`` beside itself. An
encoder is trained on views of ``ConjugateGenerator``, whose posterior is von Mises-Fisher with a
concentration of each view's own, and what it says of new items is compared with the truth.
"""

import datetime
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
from scipy.stats import spearmanr
from torch import nn

from probcl.data import ConjugateGenerator
from probcl.infer import ContrastiveELBO
from probcl.nn import VonMisesFisherHead
from probcl.programs import ExpectedLikelihood, MCInfoNCE, Program, VSimCLR

DIM, CONCENTRATION, LEARNING_RATE, ITEMS = 10, (16.0, 32.0), 1e-3, 2048
SEEDS = (0, 1, 2)
RESULTS = Path(__file__).parent / "recovery.json"


class Method(NamedTuple):
    """A program, given encoder and head, and how long it is trained."""

    program: Callable[[nn.Module, nn.Module], Program]
    steps: int = 3500
    batch: int = 256


METHODS = {
    "untrained": Method(ExpectedLikelihood, steps=0),
    "ExpectedLikelihood": Method(ExpectedLikelihood),
    # With few samples inside the logarithm the concentration runs away: many, of fewer items.
    "MCInfoNCE, temperature 0.05, 64 samples": Method(
        partial(MCInfoNCE, temperature=0.05, num_samples=64), steps=1000, batch=64
    ),
    "VSimCLR, temperature 0.05, beta 1": Method(partial(VSimCLR, temperature=0.05)),
    "VSimCLR, temperature 0.2, beta 1": Method(partial(VSimCLR, temperature=0.2)),
}


def recover(method: str, seed: int) -> dict[str, float]:
    """Train one method on views of hidden directions, and compare it with the truth."""
    pyro.set_rng_seed(seed)
    source = ConjugateGenerator(DIM, CONCENTRATION, seed)
    width = 128
    encoder = nn.Sequential(
        *(nn.Linear(DIM + 1, width), nn.SiLU()),
        *(nn.Linear(width, width), nn.SiLU()),
        *(nn.Linear(width, width), nn.SiLU()),
    )
    make, steps, batch = METHODS[method]
    program = make(encoder, VonMisesFisherHead(DIM, width, concentration=24.0))
    program.materialize(source.sample(1).views[0])
    start = time.perf_counter()
    train(program, source, steps, batch)
    seconds = time.perf_counter() - start
    return measure(program, source) | {"seconds": seconds}


def train(program: Program, source: ConjugateGenerator, steps: int, batch: int) -> None:
    """Minimise a program's loss over new views in every step."""
    loss = ContrastiveELBO()(program.model, program.guide)
    optimizer = torch.optim.Adam(loss.parameters(), lr=LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for _ in range(steps):
        optimizer.zero_grad()
        loss(source.sample(batch).views).backward()
        optimizer.step()
        scheduler.step()


@torch.no_grad()
def measure(program: Program, source: ConjugateGenerator) -> dict[str, float]:
    """Compare the posteriors of new items with the true ones."""
    (views,), (loc,), (concentration,), _ = source.sample(ITEMS, views=1)
    posterior = program.eval()(views)
    pairs = torch.triu_indices(ITEMS, ITEMS, offset=1).unbind()
    cosines = [(mean @ mean.T)[pairs] for mean in (posterior.loc, loc)]
    bias = posterior.concentration.log().mean() - concentration.log().mean()
    return {
        "concentration rank correlation": spearmanr(posterior.concentration, concentration)[0],
        "cosine rank correlation": spearmanr(*cosines)[0],
        "mean log bias": bias.item(),
    }


def main() -> None:
    """Write the figures of every method and seed, with date, versions and setting."""
    torch.set_num_threads(1)
    report = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
        },
        "setting": (
            f"d = {DIM}, true concentration {CONCENTRATION[0]:g} to {CONCENTRATION[1]:g}, Adam at "
            f"{LEARNING_RATE:g} with cosine decay, {ITEMS} new items, 1 CPU thread"
        ),
    }
    for name, method in METHODS.items():
        figures = {"steps": method.steps, "batch": method.batch}
        report[name] = figures
        for seed in SEEDS:
            result = recover(name, seed)
            figures[f"seed {seed}"] = {key: round(float(x), 4) for key, x in result.items()}
            print(name, seed, figures[f"seed {seed}"], flush=True)
            RESULTS.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
