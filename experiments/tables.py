"""The tables of the experiments, from their records.

    python experiments/tables.py

prints nothing: it writes each table into the README or page that shows it, below a line such as
``<!-- table: digits -->``.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rows import (
    CHANGES,
    CHANGES_COLUMNS,
    CIFAR10,
    CIFAR10_COLUMNS,
    COLUMNS,
    DEFAULT_BETA,
    DEFAULT_BETA_COLUMNS,
    DEFAULT_TIME,
    DEFAULT_TIME_COLUMNS,
    DEGRADED,
    DIGITS,
    DIGITS_QUESTIONS,
    DIGITS_SCORES,
    DIGITS_TWINS,
    FASHION_MNIST,
    FASHION_MNIST_QUESTIONS,
    FASHION_MNIST_ROWS,
    MACHINES,
    MACHINES_COLUMNS,
    TWINS,
    TWINS_COLUMNS,
)
from scipy.stats import sem, t

from probcl.evaluation import SCORES

HERE = Path(__file__).parent
READMES = [
    HERE.parent / "README.md",
    *sorted(HERE.glob("*/README.md")),
    *sorted(HERE.glob("../notebooks/pages/*.md")),
]


@cache
def by_seed(experiment: str, name: str) -> dict[int, dict[str, float]]:
    """Return the metrics of the runs of a name by their seeds."""
    files = sorted((HERE / experiment).glob(f"{name}-seed*.json"))
    return {
        int(path.stem.rpartition("seed")[2]): json.loads(path.read_text())["metrics"]
        for path in files
    }


def runs_of(experiment: str, name: str) -> list[dict[str, float]]:
    """Return the metrics of the runs of a name, one for each seed."""
    return list(by_seed(experiment, name).values())


def values_of(runs: Sequence[Mapping[str, float]], metric: str) -> list[float]:
    return [run[metric] for run in runs if metric in run]


def cell(values: Sequence[float], digits: int = 2, half_range: bool = False) -> str:
    """Return the mean over seeds, and their standard deviation or half their range."""
    if len(values) < 2:
        return "".join(f"{value:.{digits}f}" for value in values)
    spread = (max(values) - min(values)) / 2 if half_range else stdev(values)
    return f"{mean(values):.{digits}f} ± {spread:.{digits}f}"


def markdown(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    if not columns or not rows:
        return "| not measured with this version |\n| --- |"
    lines = [("", *columns), ("---",) * (1 + len(columns)), *((n, *r) for n, r in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_program(
    experiment: str, programs: Mapping[str, str], columns: Mapping[str, tuple[str, int]]
) -> str:
    """Return a row for each program that is measured, and a column for each metric."""
    rows = {
        label: [cell(values_of(runs_of(experiment, name), metric), precision)
                for metric, precision in columns.values()]
        for name, label in programs.items()
        if runs_of(experiment, name)
    }  # fmt: skip
    return markdown(list(columns), rows)


def variational() -> str:
    """Return a row for each change of the variational form, beside the form itself and its twin."""
    rows = {}
    for change, label in CHANGES.items():
        cells = []
        for name in ("vsimclr", "vsupcon"):
            runs = runs_of("variational", f"{name}-{change}")
            of = {"": name, "twin": name[1:], "published": f"{name}-published",
                  "published-kl-bound": f"{name}-published-kl-bound"}  # fmt: skip
            if change in of:
                runs = runs_of("fashion_mnist", of[change])
            cells += [
                cell(values_of(runs, metric), precision, half_range=True)
                for metric, precision in CHANGES_COLUMNS.values()
            ]
        if any(cells):
            rows[label] = cells
    columns = [f"{program}: {column}" for program in ("VSimCLR", "VSupCon")
               for column in CHANGES_COLUMNS]  # fmt: skip
    return markdown(columns, rows)


def differences(experiment: str, programs: Mapping[str, str]) -> str:
    """Return a row for each variational program: by how much it is above its twin, seed by seed."""
    rows = {}
    for name, label in programs.items():
        twin = max((p for p in programs if name.startswith(f"v{p}")), key=len, default="")
        runs, twins = (by_seed(experiment, each) for each in (name, twin))
        seeds = runs.keys() & twins.keys()
        if len(seeds) < 3:
            continue
        cells = []
        for metric, precision in TWINS_COLUMNS.values():
            above = [
                runs[seed][metric] - twins[seed][metric]
                for seed in seeds
                if metric in runs[seed] and metric in twins[seed]
            ]
            if len(above) > 2:
                middle, half = mean(above), t.ppf(0.975, len(above) - 1) * sem(above)
                interval = f"[{middle - half:+.{precision}f}, {middle + half:+.{precision}f}]"
                cells.append(f"{middle:+.{precision}f} {interval}")
            else:
                cells.append("")
        rows[f"{label} - {programs[twin]}"] = cells
    return markdown(list(TWINS_COLUMNS), rows)


def machines() -> str:
    """Return a row for each machine, and one for all: mean, and the lowest and highest run."""
    runs = {label: runs_of("machines", name) for name, label in MACHINES.items()}
    runs = {label: found for label, found in runs.items() if found}
    if runs:
        runs["all of them"] = [run for found in runs.values() for run in found]

    def row(found: list[dict[str, float]]) -> list[str]:
        cells = []
        for metric, digits in MACHINES_COLUMNS.values():
            values = values_of(found, metric)
            spread = f"[{min(values):.{digits}f}, {max(values):.{digits}f}]"
            cells.append(f"{mean(values):.{digits}f} {spread}")
        return [str(len(found)), *cells]

    return markdown(["runs", *MACHINES_COLUMNS], {name: row(found) for name, found in runs.items()})


def digits_uncertainty() -> str:
    """Return a row for each question asked of the default run's scores, the best in bold."""
    rows = {}
    for question, metric in DIGITS_QUESTIONS.items():
        runs = runs_of("machines", "one-thread")
        columns = [values_of(runs, f"unc/{metric}/{score}") for score in DIGITS_SCORES]
        best = max((round(mean(values), 2) for values in columns if values), default=0.0)
        rows[question] = [
            f"**{cell(values)}**" if values and round(mean(values), 2) == best else cell(values)
            for values in columns
        ]
    return markdown(DIGITS_SCORES, rows)


def fashion_mnist(rows: Mapping[str, str]) -> str:
    """Return a row for each metric that a run has, by its label, and a column for each program."""
    measured = [name for name in FASHION_MNIST if runs_of("fashion_mnist", name)]
    cells = {
        label: [cell(values_of(runs_of("fashion_mnist", name), metric), half_range=True)
                for name in measured]
        for label, metric in rows.items()
    }  # fmt: skip
    cells = {label: row for label, row in cells.items() if any(row)}
    return markdown([FASHION_MNIST[name] for name in measured], cells)


def recovery() -> str:
    """Return a row for each method: how well it recovers a posterior that is known."""
    record = json.loads((HERE / "recovery/recovery.json").read_text())
    columns = {
        "concentration, rank correlation": ("concentration rank correlation", 3),
        "cosine, rank correlation": ("cosine rank correlation", 3),
        "mean log bias": ("mean log bias", 2),
    }
    rows = {}
    for name, method in record["methods"].items():
        runs = list(method["seeds"].values())
        trained = method["steps"] > 0
        rows[name] = [
            f"{method['steps']:,} x {method['batch']}" if trained else "none",
            *(cell(values_of(runs, metric), digits) for metric, digits in columns.values()),
        ]
    return markdown(["steps x batch", *columns], rows)


def posteriors() -> str:
    """Return a row for each number, and a column for each set of embeddings."""
    names = {"fashion_mnist": "Fashion-MNIST, SupCon, views", "cifar10": "CIFAR-10, EfficientNet",
             "text": "text, MiniLM"}  # fmt: skip
    files = {name: sorted((HERE / "posteriors").glob(f"{name}-seed*.json")) for name in names}
    runs = {name: [json.loads(path.read_text()) for path in files[name]] for name in names}

    def row(of: Callable[[dict[str, Any]], float | None]) -> list[str]:
        found = [[of(run) for run in runs[name]] for name in names]
        return [cell([x for x in part if x is not None], 3, half_range=True) for part in found]

    def averaged(question: str, score: str) -> list[str]:
        """Return a row of a score's mean over the sets or corruptions of a question."""

        def of(run: dict[str, Any]) -> float | None:
            each = [scores[score] for scores in run[question].values()]
            return mean(each) if each else None

        return row(of)

    scores = runs["text"][0]["retrieval_error"]
    rows = {
        f"wrong neighbour: {s}": row(lambda run, s=s: run["retrieval_error"][s]) for s in scores
    }
    rows |= {
        f"out of distribution: {s}": averaged("out_of_distribution", s)
        for s in ("entropy", "gated", "agreement")
    }
    rows |= {
        f"severity, rank correlation: {s}": averaged("severity", s)
        for s in ("entropy", "gated", "agreement", "nearest cosine")
    }
    rows |= {
        f"people's votes, rank correlation: {s}": row(lambda run, s=s: run.get("people", {}).get(s))
        for s in ("entropy", "agreement", "max probability")
    }
    keys = {"R@1": "recall_at_1", "linear probe": "probe", "match NLL": "match_loss",
            "match ECE": "match_calibration_error"}  # fmt: skip
    rows |= {label: row(lambda run, key=key: run[key]) for label, key in keys.items()}
    return markdown(list(names.values()), rows)


def benchmarks() -> str:
    """Return a row for each figure of a benchmark that has a bar."""
    rows: dict[str, list[str]] = {}
    for path in sorted((HERE / "benchmarks/results").glob("*.json")):
        record = json.loads(path.read_text())
        for what, row in record["rows"].items():
            rows[what] = [f"{row['value']:.3g}", row["bar"], record["date"], record["hardware"]]
    return markdown(["figure", "bar", "day", "machine"], rows)


TABLES = {
    "benchmarks": benchmarks,
    "digits": partial(by_program, "digits", DIGITS, COLUMNS),
    "default_beta": partial(by_program, "default_beta", DEFAULT_BETA, DEFAULT_BETA_COLUMNS),
    "default_time": partial(by_program, "default_time", DEFAULT_TIME, DEFAULT_TIME_COLUMNS),
    "cifar10": partial(by_program, "cifar10", CIFAR10, CIFAR10_COLUMNS),
    "degraded": partial(by_program, "degraded", DEGRADED, TWINS_COLUMNS),
    "machines": machines,
    "twins": partial(by_program, "twins", TWINS, TWINS_COLUMNS),
    "twins/differences": partial(differences, "twins", TWINS),
    "short_twins": partial(by_program, "short_twins", TWINS, TWINS_COLUMNS),
    "short_twins/differences": partial(differences, "short_twins", TWINS),
    "digits_twins": partial(by_program, "digits_twins", DIGITS_TWINS, TWINS_COLUMNS),
    "digits_twins/differences": partial(differences, "digits_twins", DIGITS_TWINS),
    "variational": variational,
    "posteriors": posteriors,
    "recovery": recovery,
    "digits/uncertainty": digits_uncertainty,
    "fashion_mnist": partial(fashion_mnist, FASHION_MNIST_ROWS),
} | {
    f"fashion_mnist/{question}": partial(
        fashion_mnist, {score: f"unc/{question}/{score}" for score in SCORES}
    )
    for question in FASHION_MNIST_QUESTIONS
}


def with_tables(page: str) -> str:
    """Return a page with each of its tables as the records have it."""
    mark = re.compile(r"(<!-- table: (\S+) -->\n)(?:\|.*\n)*")
    return mark.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n", page)


if __name__ == "__main__":
    for path in READMES:
        path.write_text(with_tables(path.read_text()))
