"""Start-up: the CPU time of imports and commands, beside bare imports and an older build.

Run with ``PROBCL_BENCHMARK_OLD=FOLDER python -m pytest experiments/benchmarks/test_start.py -s``,
where the folder is a checkout of an older commit.
"""

import resource
import statistics
from pathlib import Path

from measure import COMMAND, NEW, Row, older_build, run_build, settle

PAIRS = 5
BARE, PROGRAMS = ("-c", "import torch, pyro, torchvision"), ("-c", "import probcl.programs")
COMMANDS = {"probcl --help": ["--help"], "probcl fit --print_config": ["fit", "--print_config"]}
AGAINST = {"import probcl.programs": "import torch, pyro, torchvision"}
BARS = {"import probcl.programs": 1.15, "probcl --help": 0.5, "probcl fit --print_config": 0.5}


def cpu_seconds(folder: Path, *arguments: str) -> float:
    """Return the CPU time, user and system, of Python with a build."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_build(folder, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_start() -> None:
    """Imports cost little beyond those of the libraries below, commands less than they did."""
    older = older_build()
    runs = {"import probcl.programs": ((NEW, *PROGRAMS), (NEW, *BARE))}
    for name, arguments in COMMANDS.items():
        call = ("-c", COMMAND, *arguments)
        runs[name] = ((NEW, *call), (older, *call))
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(PAIRS):
        for name, (ours, other) in runs.items():
            seconds[name].append((cpu_seconds(*ours), cpu_seconds(*other)))
    medians = {
        name: [statistics.median(side) for side in zip(*rows, strict=True)]
        for name, rows in seconds.items()
    }
    settle(
        "start",
        f"CPU seconds, medians of {PAIRS} interleaved pairs: the import against torch, pyro and "
        "torchvision together, the commands against an older build",
        {
            f"{name} / {AGAINST.get(name, 'older build')}": Row(ours / other, BARS[name])
            for name, (ours, other) in medians.items()
        },
        cpu_seconds={name: ours for name, (ours, _) in medians.items()},
    )
