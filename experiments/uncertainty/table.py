"""The tables of the runs in this folder, as Markdown: mean over the seeds, and their range."""

import json
from pathlib import Path
from statistics import mean

from probcl.evaluation import SCORES

HERE = Path(__file__).parent
PROGRAMS = {
    "vsimclr": "VSimCLR",
    "vsimclr-degraded": "VSimCLR, degraded views",
    "vsupcon": "VSupCon",
    "expectedlikelihood": "Expected likelihood",
    "simclr": "SimCLR, degraded views",
    "simclr-posthoc": "the same, post-hoc head",
    "supcon": "SupCon",
}
SHORT = {
    "R@1": ("retrieval/recall_at_1", None),
    "wrong neighbour: entropy": ("retrieval_error", "entropy"),
    "wrong neighbour: `log det K`": ("retrieval_error", "log_det_k"),
    "wrong neighbour: nearest cosine": ("retrieval_error", "nearest_cosine"),
    "wrong neighbour: neighbours' vote": ("retrieval_error", "vote_entropy"),
    "wrong neighbour: trust": ("retrieval_error", "trust"),
    "unfamiliar: entropy": ("out_of_distribution", "entropy"),
    "unfamiliar: `log det K`": ("out_of_distribution", "log_det_k"),
    "unfamiliar: max probability": ("out_of_distribution", "max_probability"),
    "unfamiliar: Mahalanobis": ("out_of_distribution", "mahalanobis"),
    "unfamiliar: trust": ("out_of_distribution", "trust"),
}
QUESTIONS = {
    "retrieval_error": "Is the nearest other test image of another class? AUROC (R-AUROC)",
    "ambiguity": "Is the linear probe wrong? AUROC",
    "aurc": "Area under the risk-coverage curve of the linear probe (smaller is better)",
    "out_of_distribution": "Unlike the training images? AUROC, mean of MNIST, inverted, rotated, "
    "shuffled, noise",
    "auroc_mnist": "MNIST, AUROC",
    "corruption": "Severity, Spearman's correlation, mean of 17 corruptions",
}


def runs() -> dict[str, list[dict[str, float]]]:
    """Return the numbers of each program's runs, one for each seed."""
    return {
        name: [json.loads(path.read_text()) for path in sorted(HERE.glob(f"{name}-seed*.json"))]
        for name in PROGRAMS
    }


def cell(values: list[float], digits: int = 2) -> str:
    """Return the mean of the seeds, and half their range."""
    if not values:
        return ""
    half = (max(values) - min(values)) / 2
    return f"{mean(values):.{digits}f} ± {half:.{digits}f}"


def key(question: str, score: str | None) -> str:
    if score is None:
        return question
    return f"unc/{question}/{score}"


def rows(labels: dict[str, tuple[str, str | None]]) -> str:
    """Return a table with a row for each label."""
    every = runs()
    lines = ["| | " + " | ".join(PROGRAMS.values()) + " |", "|---" * (1 + len(PROGRAMS)) + "|"]
    for label, (question, score) in labels.items():
        name = key(question, score)
        cells = [cell([run[name] for run in every[p] if name in run]) for p in PROGRAMS]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def short_table() -> str:
    """Return what the README shows."""
    return rows(SHORT)


def question_table(question: str) -> str:
    """Return a row for each score."""
    return rows({score: (question, score) for score in SCORES})


if __name__ == "__main__":
    print(short_table())
    for question, meaning in QUESTIONS.items():
        print(f"\n### {meaning}\n\n{question_table(question)}")
