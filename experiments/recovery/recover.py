"""Does training recover the true posterior? Every method on data whose posterior is known.

Run with ``python experiments/recovery/recover.py``: it writes ``recovery.json`` beside itself. An
encoder is trained on views of ``ConjugateGenerator``, whose posterior is von Mises-Fisher with a
concentration of each view's own, and what it says of new items is compared with the truth.
"""

import datetime
import inspect
import json
import time
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

RESULTS = Path(__file__).parent / "recovery.json"
SEEDS = (0, 1, 2)
SETTING = {
    "data": {"class": "ConjugateGenerator", "dim": 10, "concentration": [16.0, 32.0]},
    "encoder": {"layers": 3, "width": 128, "activation": "SiLU"},
    # A concentration of 24.
    "posterior": {
        "class": "VonMisesFisherHead",
        "hidden": 128,
        "initial_resultant_length": 0.82668,
    },
    "optimizer": {"class": "Adam", "lr": 1e-3, "schedule": "cosine to 0"},
    "new items": 2048,
    "threads": 1,
}
MEASURES = ("concentration rank correlation", "cosine rank correlation", "mean log bias")


class Method(NamedTuple):
    """A program, what its arguments are beside encoder and head, and how long it is trained."""

    kind: type[Program]
    arguments: dict[str, Any] = {}  # noqa: RUF012 - never written to
    steps: int = 3500
    batch: int = 256


METHODS = {
    "untrained": Method(ExpectedLikelihood, steps=0),
    "ExpectedLikelihood": Method(ExpectedLikelihood),
    # With few samples inside the logarithm the concentration runs away: many, of fewer items.
    "MCInfoNCE, temperature 0.05, 64 samples": Method(
        MCInfoNCE, {"temperature": 0.05, "num_samples": 64}, steps=1000, batch=64
    ),
    "VSimCLR, temperature 0.05, beta 1": Method(
        VSimCLR, {"temperature": 0.05, "beta": 1.0, "temperature_correction": False}
    ),
    "VSimCLR, temperature 0.2, beta 1": Method(
        VSimCLR, {"temperature": 0.2, "beta": 1.0, "temperature_correction": False}
    ),
}


def recover(name: str, seed: int) -> dict[str, float]:
    """Train one method on views of hidden directions, and compare it with the truth."""
    pyro.set_rng_seed(seed)
    data, width = SETTING["data"], SETTING["encoder"]["width"]
    source = ConjugateGenerator(data["dim"], tuple(data["concentration"]), seed)
    layers: list[nn.Module] = []
    for inputs in (data["dim"] + 1, width, width):
        layers += [nn.Linear(inputs, width), nn.SiLU()]
    head = VonMisesFisherHead(
        data["dim"],
        SETTING["posterior"]["hidden"],
        SETTING["posterior"]["initial_resultant_length"],
    )
    method = METHODS[name]
    program = method.kind(nn.Sequential(*layers), head, **method.arguments)
    program.materialize(source.sample(1).views[0])
    start = time.process_time()
    train(program, source, method.steps, method.batch)
    seconds = time.process_time() - start  # of one thread, whatever else the machine does
    return measure(program, source) | {"seconds": seconds}


def train(program: Program, source: ConjugateGenerator, steps: int, batch: int) -> None:
    """Minimise a program's loss over new views in every step."""
    loss = ContrastiveELBO()(program.model, program.guide)
    optimizer = torch.optim.Adam(loss.parameters(), lr=SETTING["optimizer"]["lr"])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for _ in range(steps):
        optimizer.zero_grad()
        loss(source.sample(batch).views).backward()
        optimizer.step()
        scheduler.step()


@torch.no_grad()
def measure(program: Program, source: ConjugateGenerator) -> dict[str, float]:
    """Compare the posteriors of new items with the true ones; a constant has no correlation."""
    items = SETTING["new items"]
    (views,), (loc,), (concentration,), _ = source.sample(items, views=1)
    posterior = program.eval()(views)
    pairs = torch.triu_indices(items, items, offset=1).unbind()
    cosines = [(mean @ mean.T)[pairs] for mean in (posterior.mean_direction, loc)]
    bias = posterior.concentration.log().mean() - concentration.log().mean()
    found = dict(zip(MEASURES[1:], (spearmanr(*cosines)[0], bias.item()), strict=True))
    if posterior.concentration.unique().numel() == 1:
        return found
    return {MEASURES[0]: spearmanr(posterior.concentration, concentration)[0]} | found


def configuration(method: Method) -> dict[str, Any]:
    """Return the class of a program with every argument, those left to their defaults too."""
    arguments = inspect.signature(method.kind).bind_partial(**method.arguments)
    arguments.apply_defaults()
    given = {name: value for name, value in arguments.arguments.items() if name != "posterior"}
    program = {"class": method.kind.__name__, **given}
    return {"program": program, "kl": "auto", "steps": method.steps, "batch": method.batch}


def main() -> None:
    """Write the figures of every method and seed, with all that they were made with."""
    torch.set_num_threads(SETTING["threads"])
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    record = {"date": date, **environment(), "setting": SETTING, "methods": {}}
    for name, method in METHODS.items():
        seeds: dict[str, dict[str, float]] = {}
        record["methods"][name] = configuration(method) | {"seeds": seeds}
        for seed in SEEDS:
            result = recover(name, seed)
            seeds[str(seed)] = {key: round(float(x), 4) for key, x in result.items()}
            print(name, seed, seeds[str(seed)], flush=True)
            RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
