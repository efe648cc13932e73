"""The objective of a step with several samples, forward and backward, beside an older build's.

Run with ``python -m pytest experiments/benchmarks -s``, and ``PROBCL_BENCHMARK_OLD`` set to the
folder of the older build's checkout.
"""

import importlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from measure import Row, older_build, settle
from torch.nn.functional import normalize

SAMPLES, ITEMS, DIM, TEMPERATURE = 8, 256, 128, 0.07
ROUNDS, WARM_UP = 60, 5
BAR = 0.4


def steps() -> None:
    """Answer each line of input by the CPU seconds of one step of the build that is imported."""
    torch.set_num_threads(1)
    module = importlib.import_module("probcl.objectives.info_nce")
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(SAMPLES, 2, ITEMS, DIM, generator=generator)
    z = normalize(z, dim=-1).requires_grad_()
    for _ in sys.stdin:
        z.grad, start = None, time.process_time()
        if hasattr(module, "info_nce_anchors"):  # its name in the first builds
            losses = module.info_nce_anchors(z, TEMPERATURE)
        else:
            losses = module.info_nce(z, TEMPERATURE, reduction="none")
        (-losses).logsumexp(0).sum().backward()
        print(time.process_time() - start, flush=True)


def start(build: Path) -> subprocess.Popen[str]:
    """Start a process that takes the steps of one build."""
    return subprocess.Popen(
        [sys.executable, "-c", "import test_samples; test_samples.steps()"],
        cwd=build,  # which Python imports from before anything else
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def seconds_of(process: subprocess.Popen[str]) -> float:
    """Have one step taken."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def test_bar() -> None:
    """The two builds take their steps in turn, so that a busy machine disturbs both alike."""
    with start(Path(__file__).parents[2]) as ours, start(older_build()) as theirs:
        rounds = [(seconds_of(ours), seconds_of(theirs)) for _ in range(ROUNDS)]
    new, before = (1e3 * statistics.median(times) for times in zip(*rounds[WARM_UP:], strict=True))
    settle(
        "samples",
        f"InfoNCE of {SAMPLES} samples of two views of {ITEMS} images, d = {DIM}, float32, "
        "forward + backward, 1 thread",
        {f"InfoNCE of {SAMPLES} samples / older build": Row(new / before, BAR)},
        milliseconds={"this build": new, "older build": before},
    )
