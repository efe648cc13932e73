"""Speed and memory of the objectives, forward and backward, beside their peers.

Run with ``python -m pytest experiments/benchmarks -s``; lightly's loss needs the extra
``baselines``. The dense forms of SupCon and VarCon are written from the papers.
"""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from measure import Row, interleaved_times, peak_bytes, settle, threads
from torch import Tensor
from torch.nn.functional import normalize

from probcl.objectives import info_nce, sup_con, varcon

COUNT, DIM, CLASSES, TEMPERATURE, EPSILON = 8192, 128, 100, 0.1, 0.02
SAMPLES, ITEMS = 8, 256  # of a step with several samples of the posterior
ROUNDS, WARM_UP = 7, 2
BARS = [
    ("InfoNCE", "lightly's NTXentLoss", 0.09),
    ("SupCon", "dense SupCon", 0.10),
    ("VarCon", "dense VarCon", 0.25),
    ("InfoNCE of samples", "lightly's NTXentLoss of samples", 0.5),
    ("SupCon of samples", "dense SupCon of samples", 0.5),
]
MEMORY_BARS = {8192: 40.0, 32768: 150.0}  # MiB
LARGEST, LARGEST_BAR = 65536, 120.0  # MiB, of InfoNCE alone
GROWTH_SIZES, GROWTH_BAR = (2048, 4096, 8192, 16384, 32768), 1.15
MIB = 2**20


def dense_sup_con(z: Tensor, labels: Tensor) -> Tensor:
    """Equation 2 of Khosla et al. (2020), over the matrix of all pairs."""
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels) & ~itself
    logits = z @ z.T / TEMPERATURE
    log_prob = logits - logits.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    return -((log_prob * positive).sum(1) / positive.sum(1)).mean()


def dense_varcon(z: Tensor, labels: Tensor) -> Tensor:
    """Equations 7-13 of Wang et al. (2025), over the matrix of all embeddings and classes."""
    names, row = labels.unique(return_inverse=True)
    own = torch.nn.functional.one_hot(row, len(names)).to(z.dtype)
    centroids = normalize(own.T @ z, dim=1).detach()
    p = torch.softmax(z @ centroids.T / TEMPERATURE, dim=1)
    tau2 = (TEMPERATURE - EPSILON) + 2 * EPSILON * (p * own).sum(1)
    q = 1 + (torch.exp(1 / tau2)[:, None] - 1) * own
    q = q / q.sum(1, keepdim=True)
    return ((q * (q.log() - p.log())).sum(1) - (p * own).sum(1).log()).mean()


def cases(count: int, device: str = "cpu") -> dict[str, Callable[[], None]]:
    """Return each loss with its backward pass, on one set of embeddings."""
    lightly_loss = pytest.importorskip("lightly.loss", reason="pip install 'probcl[baselines]'")
    nt_xent = lightly_loss.NTXentLoss(temperature=TEMPERATURE)
    generator = torch.Generator().manual_seed(0)
    z = normalize(torch.randn(count, DIM, generator=generator), dim=1).to(device).requires_grad_()
    labels = torch.randint(CLASSES, (count,), generator=generator).to(device)
    views, classes = z.view(2, -1, DIM), labels[: count // 2]
    losses: dict[str, Callable[[], Tensor]] = {
        "InfoNCE": lambda: info_nce(views, TEMPERATURE),
        "lightly's NTXentLoss": lambda: nt_xent(*views),
        "SupCon": lambda: sup_con(views, classes, TEMPERATURE),
        "dense SupCon": lambda: dense_sup_con(z, classes.repeat(2)),
        "VarCon": lambda: varcon(views, classes, TEMPERATURE, epsilon=EPSILON),
        "dense VarCon": lambda: dense_varcon(z, classes.repeat(2)),
    }
    return {name: partial(with_backward, loss, z) for name, loss in losses.items()}


def cases_of_samples(device: str = "cpu") -> dict[str, Callable[[], None]]:
    """Return the losses of a few hundred embeddings, of all samples at once and one by one."""
    lightly_loss = pytest.importorskip("lightly.loss", reason="pip install 'probcl[baselines]'")
    nt_xent = lightly_loss.NTXentLoss(temperature=TEMPERATURE)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(SAMPLES, 2, ITEMS, DIM, generator=generator)
    z = normalize(z, dim=-1).to(device).requires_grad_()
    labels = torch.randint(CLASSES, (ITEMS,), generator=generator).to(device)
    losses: dict[str, Callable[[], Tensor]] = {
        "InfoNCE of samples": lambda: info_nce(z, TEMPERATURE),
        "lightly's NTXentLoss of samples": lambda: sum(nt_xent(*views) for views in z),
        "SupCon of samples": lambda: sup_con(z, labels, TEMPERATURE),
        "dense SupCon of samples": lambda: sum(
            dense_sup_con(views.flatten(0, 1), labels.repeat(2)) for views in z
        ),
    }
    return {name: partial(with_backward, loss, z) for name, loss in losses.items()}


def with_backward(loss: Callable[[], Tensor], z: Tensor) -> None:
    z.grad = None
    loss().backward()


def ours(functions: dict[str, Callable[[], None]]) -> dict[str, Callable[[], None]]:
    """Leave out the peers."""
    return {name: functions[name] for name, _, _ in BARS if name in functions}


def ratios(milliseconds: dict[str, float]) -> dict[str, Row]:
    """Return each ratio with its bar."""
    return {
        f"{name} / {peer}": Row(milliseconds[name] / milliseconds[peer], bar)
        for name, peer, bar in BARS
    }


def gpu_figures() -> dict[str, object] | str:
    """Measure on a GPU, if there is one."""
    if not torch.cuda.is_available():
        return "not measured"
    times = interleaved_times(cases(COUNT, "cuda") | cases_of_samples("cuda"), 20, 5, "cuda")
    peaks = {}
    for name, function in cases(COUNT, "cuda").items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        peaks[name] = (torch.cuda.max_memory_allocated() - before) / MIB
    found = {name: row.value for name, row in ratios(times).items()}
    name = torch.cuda.get_device_name()
    return {"hardware": name, "milliseconds": times, "ratios": found, "peak MiB": peaks}


def test_bars() -> None:
    """Every ratio, every peak and the growth stay within their bars."""
    with threads(2):
        milliseconds = interleaved_times(cases(COUNT), ROUNDS, WARM_UP)
        milliseconds |= interleaved_times(cases_of_samples(), 10 * ROUNDS, WARM_UP)
        growth = {
            count: interleaved_times(ours(cases(count)), 3 if count > COUNT else 9, 1)
            for count in GROWTH_SIZES
        }
    memory = {
        count: {name: peak_bytes(function) / MIB for name, function in ours(cases(count)).items()}
        for count in MEMORY_BARS
    }
    largest = peak_bytes(cases(LARGEST)["InfoNCE"]) / MIB
    first, last = GROWTH_SIZES[0], GROWTH_SIZES[-1]
    exponent = math.log(growth[last]["VarCon"] / growth[first]["VarCon"]) / math.log(last / first)
    rows = ratios(milliseconds) | {
        f"{name}, extra MiB at N = {count:,}": Row(peak, MEMORY_BARS[count])
        for count, peaks in memory.items()
        for name, peak in peaks.items()
    }
    rows[f"InfoNCE, extra MiB at N = {LARGEST:,}"] = Row(largest, LARGEST_BAR)
    rows["VarCon's time grows as N to the power of"] = Row(exponent, GROWTH_BAR)
    settle(
        "objectives",
        f"N = {COUNT}, d = {DIM}, {CLASSES} classes, float32, forward + backward, 2 threads; "
        f"of samples: {SAMPLES} samples of two views of {ITEMS} images",
        rows,
        milliseconds=milliseconds,
        milliseconds_by_size=growth,
        gpu=gpu_figures(),
    )
