"""What the benchmarks share: interleaved times, peak memory, and rows of figures with their bars.

Set ``PROBCL_BENCHMARK_RECORD=1`` to write the figures, with hardware, versions and date, to
``results/``, of which ``experiments/tables.py`` makes a table.
"""

import datetime
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyro
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import probcl

RESULTS = Path(__file__).parent / "results"
OLDER = "PROBCL_BENCHMARK_OLD"  # a folder, for what is measured beside an older build
NEW = Path(probcl.__file__).parents[1]
COMMAND = "from probcl.cli import main; main()"


class Row(NamedTuple):
    """A figure, and the most that it may be, or the least."""

    value: float
    bar: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    @property
    def limit(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.bar:g}"


def interleaved_times(
    functions: dict[str, Callable[[], object]], rounds: int, warm_up: int, device: str = "cpu"
) -> dict[str, float]:
    """Return the median time of each function in milliseconds.

    All functions run in turn in every round, so that a busy machine disturbs them alike.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values[warm_up:]) for name, values in times.items()}


def peak_bytes(function: Callable[[], object]) -> int:
    """Return the highest level of memory above that at the start, from the allocator's events."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    events = record.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    level = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        level += change
        peak = max(peak, level)
    return peak


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Set PyTorch's number of threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def older_build() -> Path:
    """Return the folder of an older build's checkout, or skip the test where none is named."""
    folder = os.environ.get(OLDER)
    if not folder:
        pytest.skip(f"set {OLDER} to the folder of an older build's checkout.")
    return Path(folder)


def run_build(build: Path, *arguments: str, folder: Path | None = None) -> str:
    """Run Python with the build in a folder, and return what it prints."""
    command = [sys.executable, "-P", *arguments]  # -P: not the build in the working folder
    environment = os.environ | {"PYTHONPATH": str(build)}
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=True
    ).stdout


def hardware() -> str:
    """Name the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def settle(name: str, setting: str, rows: Mapping[str, Row], **details: object) -> None:
    """Print rows, write them with details if asked to, and fail if one does not meet its bar."""
    print()
    for what, row in rows.items():
        print(f"{what:60s} {row.value:8.3g}  {row.limit}")
    figures = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
        },
        "hardware": details.pop("hardware", hardware()),
        "config": setting,
        "rows": {what: {"value": row.value, "bar": row.limit} for what, row in rows.items()},
        **details,
    }
    if os.environ.get("PROBCL_BENCHMARK_RECORD") == "1":
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(figures)
        rounded = json.loads(text, parse_float=lambda x: float(f"{float(x):.4g}"))
        (RESULTS / f"{name}.json").write_text(json.dumps(rounded, indent=2) + "\n")
    assert [what for what, row in rows.items() if not row.met] == []
