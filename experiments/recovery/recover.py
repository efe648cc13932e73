"""Does training recover the true posterior? Every method on data whose posterior is known.

Run with ``python experiments/recovery/recover.py``: it writes ``recovery.json`` beside itself. An
encoder is trained on views of ``ConjugateGenerator``, whose posterior is von Mises-Fisher with a
concentration of each view's own, and what it says of new items is compared with the truth.
"""

import json
import time
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from scipy.stats import spearmanr
from torch import nn

from probcl.data import ConjugateGenerator
from probcl.infer import ContrastiveELBO
from probcl.nn import VonMisesFisherHead
from probcl.programs import ExpectedLikelihood, MCInfoNCE, Program, VSimCLR
from probcl.runs import environment

DIM, CONCENTRATION, LEARNING_RATE, ITEMS = 10, (16.0, 32.0), 1e-3, 2048
WIDTH, START = 128, 24.0  # of the hidden layers; the concentration that training starts about
SEEDS = (0, 1, 2)
RESULTS = Path(__file__).parent / "recovery.json"
SETTING = {
    "dimension": DIM, "true concentration": CONCENTRATION, "optimizer": "Adam",
    "learning rate": LEARNING_RATE, "schedule": "cosine", "hidden width": WIDTH,
    "head": f"VonMisesFisherHead, started at {START:g}", "new items": ITEMS,
}  # fmt: skip


class Method(NamedTuple):
    """A program, its arguments beside encoder and head, and how long it is trained."""

    program: type[Program]
    arguments: dict[str, Any] = {}  # noqa: RUF012
    steps: int = 3500
    batch: int = 256

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration, defaults included."""
        own = {
            name: parameter.default
            for name, parameter in signature(self.program).parameters.items()
            if name not in ("encoder", "posterior")
        }
        return {"program": self.program.__name__} | own | self.arguments | SETTING


METHODS = {
    "untrained": Method(ExpectedLikelihood, steps=0),
    "ExpectedLikelihood": Method(ExpectedLikelihood),
    # With few samples inside the logarithm the concentration runs away: many, of fewer items.
    "MCInfoNCE, temperature 0.05, 64 samples": Method(
        MCInfoNCE, {"temperature": 0.05, "num_samples": 64}, steps=1000, batch=64
    ),
    "VSimCLR, temperature 0.05, beta 1": Method(VSimCLR, {"temperature": 0.05}),
    "VSimCLR, temperature 0.2, beta 1": Method(VSimCLR, {"temperature": 0.2}),
}


def recover(method: str, seed: int) -> dict[str, float]:
    """Train one method on views of hidden directions, and compare it with the truth."""
    pyro.set_rng_seed(seed)
    source = ConjugateGenerator(DIM, CONCENTRATION, seed)
    encoder = nn.Sequential(
        *(nn.Linear(DIM + 1, WIDTH), nn.SiLU()),
        *(nn.Linear(WIDTH, WIDTH), nn.SiLU()),
        *(nn.Linear(WIDTH, WIDTH), nn.SiLU()),
    )
    make, arguments, steps, batch = METHODS[method]
    program = make(encoder, VonMisesFisherHead(DIM, WIDTH, concentration=START), **arguments)
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
    """Write the figures of every method and seed, with configuration, versions and hardware."""
    torch.set_num_threads(1)
    methods: dict[str, dict[str, Any]] = {}
    report = {**environment(), "methods": methods}
    for name, method in METHODS.items():
        figures = {"config": method.config, "steps": method.steps, "batch": method.batch}
        methods[name] = figures | {"seeds": {}}
        for seed in SEEDS:
            result = recover(name, seed)
            methods[name]["seeds"][seed] = {key: round(float(x), 4) for key, x in result.items()}
            print(name, seed, methods[name]["seeds"][seed], flush=True)
            RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
