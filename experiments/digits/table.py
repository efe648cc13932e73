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
SCORES = ("entropy", "log_det_k", "nearest_cosine", "max_probability", "mahalanobis", "trust")
QUESTIONS = {
    "inverted (AUROC)": "auroc_inverted",
    "rotated (AUROC)": "auroc_rotated",
    "shuffled pixels (AUROC)": "auroc_shuffled",
    "noise only (AUROC)": "auroc_noise_only",
    "wrong neighbour (AUROC)": "retrieval_error",
    "blur (Spearman)": "spearman_gaussian_blur",
    "noise (Spearman)": "spearman_gaussian_noise",
    "occlusion (Spearman)": "spearman_occlusion",
    "contrast loss (Spearman)": "spearman_contrast",
    "all 17 corruptions (Spearman)": "corruption",
}


def runs_of(program: str) -> list[dict[str, float]]:
    """Return the numbers of a program's runs, one for each seed."""
    files = sorted(HERE.glob(f"{program.lower()}-seed*.json"))
    return [json.loads(path.read_text()) for path in files]


def uncertainty_table(program: str = "VSimCLR") -> str:
    """Return a row for each question asked of a program's scores, the best in bold."""
    lines = [f"| {program}, 3 seeds | {' | '.join(SCORES)} |", "|---" * (1 + len(SCORES)) + "|"]
    runs = runs_of(program)
    for question, metric in QUESTIONS.items():
        names = [f"unc/{metric}/{score}" for score in SCORES]
        columns = [[run[name] for run in runs] for name in names]
        best = max(round(mean(values), 2) for values in columns)
        cells = [question]
        for values in columns:
            cell = f"{mean(values):.2f} ± {stdev(values):.2f}"
            cells.append(f"**{cell}**" if round(mean(values), 2) == best else cell)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table() -> str:
    """Return a row for each program."""
    lines = [f"| program | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for program in PROGRAMS:
        runs = runs_of(program)
        cells = [f"`{program}`"]
        for metric, digits in COLUMNS.values():
            values = [run[metric] for run in runs]
            cells.append(f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(), uncertainty_table(), sep="\n\n")
