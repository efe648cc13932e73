"""The first minute: the whole of ``probcl fit``, without arguments, beside an older build's.

Run with ``PROBCL_BENCHMARK_OLD=FOLDER python -m pytest experiments/benchmarks/test_whole_run.py
-s``, where the folder is a checkout of an older commit; it takes about 20 minutes. What the runs
find is in ``experiments/machines``.
"""

import statistics
import time
from pathlib import Path

import torch
from measure import COMMAND, NEW, Row, older_build, run_build, settle

PAIRS, BAR = 5, 0.4


def wall_seconds(build: Path, folder: Path) -> float:
    """Return how long the default run takes, from the command to its report."""
    folder.mkdir()
    start = time.perf_counter()
    run_build(build, "-c", COMMAND, "fit", folder=folder)
    return time.perf_counter() - start


def test_the_whole_default_run(tmp_path: Path) -> None:
    older = older_build()
    pairs = [
        (wall_seconds(NEW, tmp_path / f"new-{i}"), wall_seconds(older, tmp_path / f"older-{i}"))
        for i in range(PAIRS)
    ]
    ratios = [new / old for new, old in pairs]
    settle(
        "whole_run",
        f"wall clock, medians of {PAIRS} interleaved pairs, {torch.get_num_threads()} threads",
        {"whole probcl fit / older build": Row(statistics.median(ratios), BAR)},
        seconds={
            "new": statistics.median(new for new, _ in pairs),
            "older": statistics.median(old for _, old in pairs),
        },
        lowest=min(ratios),
        highest=max(ratios),
    )
