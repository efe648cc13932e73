"""Speed of the distributions, forward and backward, as ratios taken in one process.

Run with ``python -m pytest experiments/benchmarks -s`` or directly. Every ratio is the median
over rounds in which all cases run in turn, so that a busy machine disturbs them alike.
"""

import statistics
import time
from collections.abc import Callable

import pyro.distributions
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from probcl.distributions import HypersphericalUniform, ProjectedNormal

BATCH, DIM, ROUNDS, WARM_UP = 4096, 128, 30, 5

# Case, the case it is measured against, and the largest ratio allowed.
BARS = [
    ("diagonal log_prob", "rsample", 2.0),
    ("isotropic log_prob", "rsample", 1.0),
    ("isotropic KL", "rsample", 0.5),
    ("diagonal KL", "rsample", 3.5),
    ("log_prob at d = 3", "Pyro's log_prob at d = 3", 2.0),
]


def cases() -> dict[str, Callable[[], Tensor]]:
    """Return the functions to time; each builds its distribution anew."""
    loc = torch.randn(BATCH, DIM, requires_grad=True)
    scale = (torch.rand(BATCH, DIM) + 0.3).requires_grad_()
    radius = (torch.rand(BATCH, 1) + 0.3).requires_grad_()
    weights = torch.randn(BATCH, DIM)
    value = ProjectedNormal(loc, scale).sample()
    prior = HypersphericalUniform(DIM)
    loc3 = torch.randn(BATCH, 3, requires_grad=True)
    value3 = ProjectedNormal(loc3).sample()
    return {
        "rsample": lambda: ProjectedNormal(loc, scale).rsample() * weights,
        "diagonal log_prob": lambda: ProjectedNormal(loc, scale).log_prob(value),
        "isotropic log_prob": lambda: ProjectedNormal(loc, radius).log_prob(value),
        "isotropic KL": lambda: kl_divergence(ProjectedNormal(loc, radius), prior),
        "diagonal KL": lambda: kl_divergence(ProjectedNormal(loc, scale), prior),
        "log_prob at d = 3": lambda: ProjectedNormal(loc3).log_prob(value3),
        "Pyro's log_prob at d = 3": lambda: pyro.distributions.ProjectedNormal(loc3).log_prob(
            value3
        ),
    }


def measure() -> dict[str, float]:
    """Return the median time of each case, forward and backward, in milliseconds."""
    torch.manual_seed(0)
    functions = cases()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter()
            function().sum().backward()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values[WARM_UP:]) for name, values in times.items()}


def test_ratios() -> None:
    """Every ratio stays within its bar."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        medians = measure()
    finally:
        torch.set_num_threads(threads)
    print()
    for name, milliseconds in medians.items():
        print(f"{name:26s} {milliseconds:8.3f} ms")
    misses = []
    for name, against, bar in BARS:
        ratio = medians[name] / medians[against]
        print(f"{name:20s} / {against:26s} {ratio:5.2f}  (bar {bar})")
        if ratio > bar:
            misses.append((name, ratio, bar))
    assert not misses


if __name__ == "__main__":
    test_ratios()
