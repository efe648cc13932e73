"""Time and memory of the whole evaluation by the number of classes, and against an older build.

    PROBCL_BENCHMARK_RECORD=1 pytest experiments/benchmarks/test_evaluation.py -s

50,000 test items of 512 features are compared with 10,000 training items, each time in a process of
its own. With ``PROBCL_BENCHMARK_OLD=FOLDER``, a checkout of an older build, the two run in turns.
"""

import json
import math
import os
import statistics
from pathlib import Path

import torch
from measure import NEW, OLDER, Row, run_build, settle

SIZES = {"train": 10_000, "test": 50_000, "features": 512}
CLASSES, COMPARED, ROUNDS = (10, 100, 1000), 100, 5
GROWTH_BAR, MEMORY_BAR, OLDER_BAR = 0.3, 1.2, 0.35

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
    return json.loads(run_build(folder, "-c", MEASURED, *arguments).splitlines()[-1])


def test_evaluation() -> None:
    by_classes = {classes: measured(NEW, classes) for classes in CLASSES}
    first, last = CLASSES[0], CLASSES[-1]
    growth = by_classes[last]["seconds"] / by_classes[first]["seconds"]
    exponent = math.log(growth) / math.log(last / first)
    rows = {
        f"evaluation grows from {first} to {last:,} classes as C to the power of":
            Row(exponent, GROWTH_BAR),
        f"evaluation, GiB at {COMPARED} classes": Row(by_classes[COMPARED]["peak_gib"], MEMORY_BAR),
    }  # fmt: skip
    if os.environ.get(OLDER):
        rows[f"evaluation, {COMPARED} classes / older build"] = Row(compared(), OLDER_BAR)
    settle(
        "evaluation",
        f"{SIZES['test']:,} x {SIZES['features']} items against {SIZES['train']:,}, "
        f"{torch.get_num_threads()} threads",
        rows,
        by_classes=by_classes,
    )


def compared() -> float:
    """Return the median ratio of this build's CPU time to that of an older one."""
    pairs = [
        (measured(NEW, COMPARED), measured(Path(os.environ[OLDER]), COMPARED))
        for _ in range(ROUNDS)
    ]
    return statistics.median(new["cpu_seconds"] / old["cpu_seconds"] for new, old in pairs)
