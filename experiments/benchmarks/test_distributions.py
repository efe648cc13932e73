"""Speed and memory of the distributions, forward and backward, against their bars.

Run with ``python -m pytest experiments/benchmarks -s``. Every ratio is taken between medians over
rounds in which all cases run in turn in one process.
"""

from collections.abc import Callable

import pyro
import pytest
import torch
from measure import Row, interleaved_times, peak_bytes, settle, threads
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.distributions import kl_divergence

from probcl.distributions import HypersphericalUniform, ProjectedNormal

BATCH, DIM, ROUNDS, WARM_UP = 4096, 128, 30, 5

# Case, the case it is measured against, and the largest ratio allowed.
BARS = [
    ("diagonal log_prob", "rsample", 1.2),
    ("isotropic log_prob", "rsample", 1.0),
    ("isotropic KL", "rsample", 0.5),
    ("diagonal KL", "rsample", 2.0),
    ("log_prob at d = 3", "Pyro's log_prob at d = 3", 2.0),
]
# Peak memory beyond the arguments, in tensors of B d elements; the same at every size: O(B d).
MEMORY_CASES = ("diagonal log_prob", "diagonal KL")
MEMORY_SIZES = ((1024, 128), (4096, 128), (4096, 512))
MEMORY_BAR = 16.0


def cases(batch: int, dim: int, device: str) -> dict[str, Callable[[], Tensor]]:
    """Return the functions to time; each builds its distribution anew."""
    loc = torch.randn(batch, dim, device=device).requires_grad_()
    scale = (torch.rand(batch, dim, device=device) + 0.3).requires_grad_()
    radius = (torch.rand(batch, 1, device=device) + 0.3).requires_grad_()
    weights = torch.randn(batch, dim, device=device)
    value = ProjectedNormal(loc, scale).sample()
    prior = HypersphericalUniform(dim).expand([batch])
    loc3 = torch.randn(batch, 3, device=device).requires_grad_()
    value3 = ProjectedNormal(loc3).sample()
    pyros = pyro.distributions.ProjectedNormal
    return {
        "rsample": lambda: ProjectedNormal(loc, scale).rsample() * weights,
        "diagonal log_prob": lambda: ProjectedNormal(loc, scale).log_prob(value),
        "isotropic log_prob": lambda: ProjectedNormal(loc, radius).log_prob(value),
        "isotropic KL": lambda: kl_divergence(ProjectedNormal(loc, radius), prior),
        "diagonal KL": lambda: kl_divergence(ProjectedNormal(loc, scale), prior),
        "log_prob at d = 3": lambda: ProjectedNormal(loc3).log_prob(value3),
        "Pyro's log_prob at d = 3": lambda: pyros(loc3).log_prob(value3),
    }


def measure_times(device: str) -> dict[str, float]:
    """Return the median time of each case, forward and backward, in milliseconds."""
    torch.manual_seed(0)
    functions = cases(BATCH, DIM, device)
    backward = {name: _with_backward(function) for name, function in functions.items()}
    return interleaved_times(backward, ROUNDS, WARM_UP, device)


def _with_backward(function: Callable[[], Tensor]) -> Callable[[], None]:
    return lambda: function().sum().backward()


def ratios(milliseconds: dict[str, float]) -> dict[str, Row]:
    """Return each ratio with its bar."""
    return {
        f"{name} / {against}": Row(milliseconds[name] / milliseconds[against], bar)
        for name, against, bar in BARS
    }


def measure_memory() -> dict[str, dict[str, float]]:
    """Return the peak extra memory of forward and backward, in tensors of B d elements."""
    peaks: dict[str, dict[str, float]] = {name: {} for name in MEMORY_CASES}
    for batch, dim in MEMORY_SIZES:
        functions = cases(batch, dim, "cpu")
        for name in MEMORY_CASES:
            function = _with_backward(functions[name])
            function()  # gradients and cached series exist from here on
            peaks[name][f"B = {batch}, d = {dim}"] = peak_bytes(function) / (4 * batch * dim)
    return peaks


def gpu_figures() -> dict[str, object] | str:
    """Measure on a GPU, if there is one."""
    if not torch.cuda.is_available():
        return "not measured"
    times = measure_times("cuda")
    found = {name: row.value for name, row in ratios(times).items()}
    name = torch.cuda.get_device_name()
    return {"hardware": name, "milliseconds": times, "ratios": found}


def test_bars() -> None:
    """Every ratio and every peak stays within its bar."""
    with threads(1):
        milliseconds = measure_times("cpu")
        memory = measure_memory()
    peaks = {
        f"{name}, peak memory / (B d)": Row(max(sizes.values()), MEMORY_BAR)
        for name, sizes in memory.items()
    }
    settle(
        "distributions",
        f"B = {BATCH}, d = {DIM} or 3, float32, forward + backward, median of rounds, 1 thread",
        ratios(milliseconds) | peaks,
        milliseconds=milliseconds,
        memory=memory,
        gpu=gpu_figures(),
    )


@pytest.mark.parametrize("name", list(cases(2, 2, "cpu")))
def test_time(name: str, benchmark: BenchmarkFixture) -> None:
    """Each case alone, for pytest-benchmark's own table and comparisons."""
    function = cases(BATCH, DIM, "cpu")[name]
    benchmark.pedantic(lambda: function().sum().backward(), rounds=ROUNDS, warmup_rounds=2)
