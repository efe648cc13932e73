"""The table of the runs in this folder: mean and standard deviation over their seeds."""

import json
from pathlib import Path
from statistics import mean, stdev

HERE = Path(__file__).parent
PROGRAMS = (
    "VSimCLR", "SimCLR", "MCInfoNCE", "MoCo", "BYOL", "SwAV", "VICReg", "BarlowTwins",
    "VSupCon", "SupCon", "VarCon", "CrossEntropy",
)  # fmt: skip
COLUMNS = {
    "linear probe": ("probe/top1", 3),
    "k-NN": ("knn/top1", 3),
    "ECE": ("cal/ece", 3),
    "effective rank": ("collapse/effective_rank", 1),
}


def table() -> str:
    """Return a row for each program."""
    lines = [f"| program | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for program in PROGRAMS:
        files = sorted(HERE.glob(f"{program.lower()}-seed*.json"))
        runs = [json.loads(path.read_text()) for path in files]
        cells = [f"`{program}`"]
        for metric, digits in COLUMNS.values():
            values = [run[metric] for run in runs]
            cells.append(f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
