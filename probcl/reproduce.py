"""The command ``probcl reproduce``: does another machine give the figure that was recorded?"""

import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import yaml
from scipy.stats import t

from probcl.arguments import Parser
from probcl.evaluation import METRICS
from probcl.runs import PROBCL, read_metrics
from probcl.trust import check_trusted, read_config

__all__ = ["Interval", "prediction_interval", "run"]

_CONFIDENCE = 0.95
_OWN = {"config", "run_dir", "ckpt_path", "evaluate"}
_RANGES = {"0 to 1": (0.0, 1.0), "-1 to 1": (-1.0, 1.0)}


class Interval(NamedTuple):
    """Where one more run is expected, and the mean of the runs that say so."""

    mean: float
    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float) and self.low <= value <= self.high


def prediction_interval(values: Sequence[float], confidence: float = _CONFIDENCE) -> Interval:
    r"""Return where one more run lies, with a probability, if runs are normally distributed.

    .. math:: \bar x \pm t_{n-1} \, s \sqrt{1 + 1/n}

    It is no narrower than the runs themselves, which a skew may lead beyond.

    Args:
        values: The same number of ``n`` runs, 2 at least.
        confidence: The probability.

    Raises:
        ValueError: If there are fewer than two values.

    Example:
        >>> low, high = prediction_interval([0.90, 0.92, 0.94])[1:]
        >>> round(low, 2), round(high, 2)
        (0.82, 1.02)
    """
    if len(values) < 2:
        raise ValueError(
            f"values must be 2 at least for a spread, got {len(values)}: run more seeds."
        )
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * stdev(values)
    half *= (1 + 1 / len(values)) ** 0.5
    middle = mean(values)
    return Interval(middle, min(middle - half, *values), max(middle + half, *values))


def run(args: list[str]) -> None:
    """Run ``probcl reproduce``."""
    parser = Parser(
        prog="probcl reproduce",
        description="Make the run of a record again, and say whether its numbers lie within the "
        "spread of the records of its row, of this seed and others. Further options go to probcl "
        "fit, such as --data.path for data that is not downloaded.",
    )
    parser.add_argument("record", type=Path, help="NAME-seedN.json, beside those of other seeds")
    parser.add_argument("--metrics", nargs="+", help="which; by default those shown first")
    chosen, options = parser.parse_known_args(args)
    try:
        _check_options(options)
        records = _records_of_row(chosen.record)
        config = records[chosen.record]["config"]
        numbers = [record["metrics"] for record in records.values()]
        names = chosen.metrics or _shown_first(numbers)
        intervals = {name: _interval(name, numbers) for name in names}
        recorded = records[chosen.record]["metrics"]
        print(f"{len(numbers)} records; one more run lies in the interval with 95 %", flush=True)
        sys.exit(not _report(intervals, recorded, _run_again(config, options)))
    except ValueError as error:
        sys.exit(f"probcl: error: {error}")


def _check_options(options: list[str]) -> None:
    """Raise ``ValueError`` if an option is one that the new run must have as it is."""
    for option in options:
        name = option.lstrip("-").partition("=")[0]
        if name in _OWN:
            raise ValueError(
                f"{option} must not be given: the new run has the record's configuration and a "
                "folder of its own, and is evaluated."
            )


def _records_of_row(path: Path) -> dict[Path, Any]:
    """Return a record and those of its other seeds, by path."""
    name, _, seed = path.stem.rpartition("-seed")
    if path.suffix != ".json" or not name or not seed.isdecimal():
        raise ValueError(
            f"record must be named NAME-seedN.json, got {path}: it comes first, options after it."
        )
    paths = {path, *path.parent.glob(f"{name}-seed*.json")}
    records = {each: read_config(each) for each in sorted(paths)}
    for each, record in records.items():
        parts = ("config", "metrics")
        if not isinstance(record, dict) or not all(isinstance(record.get(p), dict) for p in parts):
            raise ValueError(f"{each} has no config and metrics: it cannot be made again.")
        check_trusted(record["config"], each)
    return records


def _run_again(config: Any, options: list[str]) -> dict[str, float]:
    """Return the numbers of a run of a configuration, made in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file, run_dir = Path(folder, "config.yaml"), Path(folder, "run")
        file.write_text(yaml.safe_dump(config))
        command = [*PROBCL, "fit", f"--config={file}", f"--run_dir={run_dir}", *options]
        if subprocess.run(command).returncode:
            raise ValueError("the run failed, as is said above; nothing is compared.")
        return read_metrics(run_dir)


def _shown_first(numbers: list[dict[str, float]]) -> list[str]:
    """Return the headline metrics that records have, and each question's entropy."""
    first = [name for name, metric in METRICS.items() if metric.headline]
    asked = [name for name in numbers[0] if name.startswith("unc/") and name.endswith("/entropy")]
    return [name for name in [*first, *asked] if all(name in each for each in numbers)]


def _interval(name: str, numbers: list[dict[str, float]]) -> Interval:
    """Return where one more run is expected, of what is a share within its range."""
    if any(not isinstance(each.get(name), float | int) for each in numbers):
        raise ValueError(f"metrics: {name} is not a number of every record.")
    from probcl.report.tables import unit_of  # takes as long to import as all the rest

    middle, low, high = prediction_interval([each[name] for each in numbers])
    least, most = _RANGES.get(unit_of(name), (-math.inf, math.inf))
    return Interval(middle, max(low, least), min(high, most))


def _report(
    intervals: dict[str, Interval], recorded: dict[str, float], found: dict[str, float]
) -> bool:
    """Print each number beside where it is expected, and tell whether all lie there."""
    unknown = intervals.keys() - found.keys()
    if unknown:
        raise ValueError(f"metrics: {', '.join(sorted(unknown))} is not in the new run.")
    inside = True
    for name, interval in intervals.items():
        within = found[name] in interval
        inside &= within
        print(
            f"{name:38} {interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
            f"  recorded {recorded[name]:.3f}  now {found[name]:.3f}"
            f"  {'inside' if within else 'OUTSIDE'}"
        )
    return inside
