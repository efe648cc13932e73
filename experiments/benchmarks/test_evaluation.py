"""Time and memory of the whole evaluation by the number of classes, and against an older build.

    PROBCL_BENCHMARK_RECORD=1 pytest experiments/benchmarks/test_evaluation.py -s

50,000 test items of 512 features are compared with 10,000 training items, each time in a process of
its own. With ``PROBCL_BENCHMARK_OLD=FOLDER``, a checkout of an older build, the two run in turns.
"""

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from measure import OLDER, hardware, record

SIZES = {"train": 10_000, "test": 50_000, "features": 512}
CLASSES, COMPARED, ROUNDS = (10, 100, 1000), 100, 5

MEASURED = """
import json, resource, sys, time
import torch
import probcl.evaluation as evaluation

train, test, dim, classes = map(int, sys.argv[1:])

def items(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    x = torch.randn(count, dim, generator=generator).mul_(2)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    for part, own in zip(x.split(1000), labels.split(1000)):
        part += centres[own]
    return x, labels

def in_parts(x, y):
    unit = torch.nn.functional.normalize(x, dim=-1)
    return evaluation.Embeddings(unit, x, y, torch.arange(len(y)), norm=x.norm(dim=-1))

known, asked = items(train, 1), items(test, 2)
start, cpu = time.perf_counter(), time.process_time()
if hasattr(evaluation, "evaluate") and callable(evaluation.evaluate):
    evaluation.evaluate(*known, *asked)
else:  # before there was one function for it
    evaluator, part = evaluation.Evaluator(in_parts(*known)), in_parts(*asked)
    evaluator.add_test(part, part.embedding[None])
    evaluator.result()
print(json.dumps({
    "seconds": time.perf_counter() - start,
    "cpu_seconds": time.process_time() - cpu,
    "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
}))
"""


def measured(folder: Path, classes: int) -> dict[str, float]:
    """Evaluate with the build in a folder, in a process of its own."""
    arguments = [*map(str, SIZES.values()), str(classes)]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_evaluation() -> None:
    here = Path(__file__).parents[2]
    by_classes = {classes: measured(here, classes) for classes in CLASSES}
    first, last = CLASSES[0], CLASSES[-1]
    growth = by_classes[last]["seconds"] / by_classes[first]["seconds"]
    figures: dict[str, Any] = {
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "sizes": SIZES,
        "by_classes": by_classes,
        "growth_exponent": math.log(growth) / math.log(last / first),
        "against_older_build": compared(here),
    }
    print(f"\n{json.dumps(figures, indent=2)}")
    record("evaluation", figures)
    if isinstance(figures["against_older_build"], str):
        pytest.skip(figures["against_older_build"])


def compared(here: Path) -> dict[str, float] | str:
    """Return the median ratios of this build's figures to an older one's, or why there are none."""
    folder = os.environ.get(OLDER)
    if not folder:
        return f"not measured: set {OLDER} to the folder of an older build"
    pairs = [(measured(here, COMPARED), measured(Path(folder), COMPARED)) for _ in range(ROUNDS)]
    ratios = {
        name: statistics.median(new[name] / old[name] for new, old in pairs) for name in pairs[0][0]
    }
    return {"classes": COMPARED, "rounds": ROUNDS} | ratios
