"""What Pyro costs: a step through ContrastiveELBO against bare PyTorch with the same loss.

Run with ``python -m pytest experiments/benchmarks -s``.
"""

import pyro
import torch
from measure import Row, interleaved_times, settle, threads
from torch import Tensor, nn

from probcl.distributions.kl import gaussian_bound
from probcl.infer import ContrastiveELBO
from probcl.nn import ProjectedNormalHead, UniformPrior
from probcl.objectives import info_nce
from probcl.programs import VSimCLR

ITEMS, DIM, TEMPERATURE = 32, 64, 0.1
ROUNDS, WARM_UP = 500, 100
BAR = 0.6  # milliseconds a step


def test_price_of_pyro() -> None:
    """The loss is bit-equal, and Pyro's price within its bar."""
    views = torch.randn(2, ITEMS, DIM)
    program = VSimCLR(
        nn.Linear(DIM, DIM), ProjectedNormalHead(DIM, DIM), UniformPrior(DIM), TEMPERATURE,
        beta=1.0, temperature_correction=False,
    )  # fmt: skip
    program.materialize(views[0])
    elbo = ContrastiveELBO(kl="gaussian_bound")(program.model, program.guide)

    def bare(views: Tensor) -> Tensor:
        q = program.posterior_head(program.encoder(views.flatten(0, 1)).unflatten(0, (2, ITEMS)))
        z = q.rsample()
        return info_nce(z, TEMPERATURE) + gaussian_bound(q).mean() / DIM

    with threads(2), pyro.validation_enabled(False):
        losses = []
        for loss in (elbo, bare):
            pyro.set_rng_seed(0)
            losses.append(loss(views))
        milliseconds = interleaved_times(
            {"bare": lambda: bare(views).backward(), "ELBO": lambda: elbo(views).backward()},
            ROUNDS,
            WARM_UP,
        )
    assert losses[0] == losses[1]
    price = milliseconds["ELBO"] - milliseconds["bare"]
    settle(
        "programs",
        f"linear encoder, {2 * ITEMS} embeddings, d = {DIM}, forward + backward, 2 threads",
        {"Pyro and the ELBO beside bare PyTorch, ms a step": Row(price, BAR)},
        milliseconds=milliseconds,
    )
