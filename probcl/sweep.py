"""The command ``probcl sweep``: runs that differ in a few options, as a grid or as a search."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import StringIO
from itertools import product
from math import inf
from pathlib import Path
from queue import SimpleQueue
from statistics import mean
from typing import Any, Literal, NamedTuple

import torch

from probcl.arguments import Parser
from probcl.checks import check_count
from probcl.files import write_whole
from probcl.report import compare_runs
from probcl.runs import PROBCL, not_writable, read_metrics
from probcl.trust import read_config

__all__ = ["Run", "Search", "Sweep", "read_sweep", "run"]

# Options of fit that a sweep gives each run itself, or cannot do without.
_OWN = ("seed_everything", "run_dir", "ckpt_path", "evaluate")
_OF_A_RANGE = {"low", "high", "log"}


class Search(NamedTuple):
    """What Optuna searches for: the values of the options with the best mean over the seeds."""

    metric: str
    trials: int
    direction: Literal["maximize", "minimize"] = "maximize"


class Run(NamedTuple):
    """One run of a sweep: its name, its seed, and the values of the options that vary."""

    name: str
    seed: int
    values: dict[str, Any]

    def folder(self, sweep: Path) -> Path:
        """Return the run's folder in that of its sweep."""
        return sweep / f"{self.name}-seed{self.seed}"


class Sweep(NamedTuple):
    """A sweep as its file has it.

    Attributes:
        vary: The values of each option that varies; of a search, also ``low``, ``high`` and
            ``log`` of a range.
        fit: Options that all runs have.
        seeds: Seeds of every combination.
        search: What to search for; None for a grid of all combinations.
    """

    vary: dict[str, Any]
    fit: dict[str, Any]
    seeds: list[int]
    search: Search | None = None

    def grid(self) -> list[Run]:
        """Return the runs of all combinations, all seeds of one after another."""
        combinations = (dict(zip(self.vary, c, strict=True)) for c in product(*self.vary.values()))
        return [run for values in combinations for run in self.runs_of(values)]

    def runs_of(self, values: dict[str, Any]) -> list[Run]:
        """Return the runs of one combination, one for each seed."""
        ends = Counter(option.rpartition(".")[-1] for option in values)
        named = {
            option if ends[end := option.rpartition(".")[-1]] > 1 else end: value
            for option, value in values.items()
        }
        text = ",".join(f"{name}={_text(value)}" for name, value in named.items())
        name = re.sub(r"[^\w.,=+-]", "_", text)
        return [Run(name, seed, values) for seed in self.seeds]

    def arguments(self, run: Run) -> list[str]:
        """Return the arguments of ``probcl fit`` for a run."""
        options = self.fit | run.values | {"seed_everything": run.seed}
        return [f"--{option}={_text(value)}" for option, value in options.items()]


def _text(value: Any) -> str:
    """Return a value as it is written on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def read_sweep(path: Path) -> Sweep:
    """Read the file of a sweep.

    Args:
        path: YAML with ``vary``; and ``seeds``, ``fit`` and ``search``, each of which may lack.

    Raises:
        ValueError: If it is no such file, or a value in it does not fit.
    """
    content = read_config(path)
    if not isinstance(content, dict) or not {"vary"} <= content.keys() <= set(Sweep._fields):
        raise ValueError(f"{path} must have vary, and may have seeds, fit and search.")
    vary, fit = content["vary"], content.get("fit") or {}
    seeds = content.get("seeds", [0])
    if not isinstance(vary, dict) or not vary or not isinstance(fit, dict):
        raise ValueError(f"{path}: vary and fit must have options and their values.")
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int for s in seeds):
        raise ValueError(f"{path}: seeds must be a list of integers, got {seeds}.")
    try:
        search = Search(**content["search"]) if content.get("search") else None
    except TypeError as error:
        fields = ", ".join(Search._fields)
        raise ValueError(f"{path}: search must have a metric and trials ({fields}).") from error
    if search and (type(search.trials) is not int or search.trials < 1):
        raise ValueError(f"{path}: trials must be an integer above 0, got {search.trials!r}.")
    for option in [*vary, *fit]:
        if not isinstance(option, str):
            raise ValueError(f"{path}: vary and fit must have options by name, got {option!r}.")
        if option in _OWN:
            raise ValueError(
                f"{path}: {option} must not be in vary or fit: seeds has the seeds, and a sweep "
                "gives each run its folder and evaluates it."
            )
    for option, values in vary.items():
        if search and isinstance(values, dict):
            vary[option] = _range(f"{path}: {option}", values)
        elif not isinstance(values, list) or not values:
            ranges = "a list of values, or low and high" if search else "a list of values"
            raise ValueError(f"{path}: {option} must have {ranges}, got {values}.")
    return Sweep(vary, fit, seeds, search)


def _range(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return a range whose ends are numbers, which YAML's 1e-4 is not."""
    told = f"{name} must have low and high, numbers, the lower first; it may have log, got {values}"
    if not {"low", "high"} <= values.keys() <= _OF_A_RANGE:
        raise ValueError(told)
    try:
        ends = [x if type(x) is int else float(x) for x in (values["low"], values["high"])]
    except (TypeError, ValueError) as error:
        raise ValueError(told) from error
    if not (-inf < ends[0] < ends[1] < inf) or (values.get("log") and ends[0] <= 0):
        raise ValueError(told)
    return values | {"low": ends[0], "high": ends[1]}


def run(args: list[str]) -> None:
    """Run ``probcl sweep``."""
    parser = Parser(
        prog="probcl sweep",
        description="Run probcl fit for every combination of some options and every seed, or let "
        "Optuna choose them; then write results.csv and compare.html. A sweep that was "
        "interrupted goes on where it was. In a SLURM array each task takes its share.",
    )
    parser.add_argument("file", type=Path, help="YAML: vary, and seeds, fit and search")
    parser.add_argument("--output", type=Path, help="folder to write (default: runs/NAME)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one, or one a GPU)")
    chosen = parser.parse_args(args)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sweep = read_sweep(chosen.file)
        folder = chosen.output or Path("runs") / chosen.file.stem
        _claim(folder, chosen.file)
        jobs = max(torch.cuda.device_count(), 1) if chosen.jobs is None else chosen.jobs
        work = Work(sweep, folder, check_count("jobs", jobs))
        _write_results(work, (_search if sweep.search else _grid)(work))
    except ValueError as error:
        sys.exit(f"probcl: error: {error}")
    finally:
        signal.signal(signal.SIGTERM, before)
    if work.failed:
        sys.exit(f"probcl: error: {len(work.failed)} runs failed: {', '.join(work.failed)}.")


def _claim(folder: Path, file: Path) -> None:
    """Keep the file of a sweep in its folder; refuse the folder of another."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable(folder, error, "output") from error
    copy = folder / "sweep.yaml"
    if copy.is_file() and read_config(copy) != read_config(file):
        raise ValueError(
            f"{file} is not as it was when the runs in {folder} were made: choose another folder "
            f"with --output, or go on with {copy}."
        )
    write_whole(copy, file.read_text(encoding="utf-8"))


class Work:
    """The runs of a sweep that are made by this process."""

    def __init__(self, sweep: Sweep, folder: Path, jobs: int) -> None:
        self.sweep, self.folder, self.jobs = sweep, folder, jobs
        self.failed: list[str] = []
        self._checked = False
        self._running: set[subprocess.Popen] = set()
        self._places: SimpleQueue[int] = SimpleQueue()
        for place in range(jobs):
            self._places.put(place)

    def make(self, runs: Sequence[Run]) -> None:
        """Make those of some runs that are not there yet."""
        todo = [run for run in runs if not _is_made(run.folder(self.folder))]
        if todo and not self._checked:
            self._check(todo[0])
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                for number, line in enumerate(pool.map(self._make, todo), 1):
                    print(f"{number} of {len(todo)}: {line}", flush=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in [*self._running]:
                    process.terminate()  # it writes a checkpoint, and ends
                raise

    def _check(self, run: Run) -> None:
        """Raise ``ValueError`` if ``probcl fit`` does not take the options of a run."""
        command = [*PROBCL, "fit", *self.sweep.arguments(run), "--print_config"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(done.stderr.strip().removeprefix("probcl: error: "))
        self._checked = True

    def _make(self, run: Run) -> str:
        """Make a run in a process of its own, and return what to say of it."""
        folder = run.folder(self.folder)
        command = [*PROBCL, "fit", *self.sweep.arguments(run), f"--run_dir={folder}",
                   "--ckpt_path=last", "--trainer.enable_progress_bar=false"]  # fmt: skip
        place, gpus = self._places.get(), torch.cuda.device_count()
        device = {"CUDA_VISIBLE_DEVICES": str(place % gpus)} if gpus > 1 else {}
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env=os.environ | device, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self._running.add(process)
        said, _ = process.communicate()
        self._running.discard(process)
        self._places.put(place)
        if not process.returncode:
            return f"{folder.name}, {time.perf_counter() - started:.0f} s"
        self.failed.append(folder.name)
        return f"{folder.name} failed: {said.strip().rpartition(chr(10))[2]}"


def _is_made(folder: Path) -> bool:
    with suppress(ValueError):
        return bool(read_metrics(folder))
    return False


def _grid(work: Work) -> list[Run]:
    """Make this task's share of all combinations, and return all of them."""
    runs = work.sweep.grid()
    twice = [name for name, n in Counter(r.folder(work.folder) for r in runs).items() if n > 1]
    if twice:
        raise ValueError(f"vary must not have a value twice, got {twice[0].name} again.")
    first, count = _share()
    work.make(runs[first::count])
    return runs


def _share() -> tuple[int, int]:
    """Return which task of a SLURM array this is, from 0, and how many there are."""
    number, first, step, count = (
        int(os.environ.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("ID", 0), ("MIN", 0), ("STEP", 1), ("COUNT", 1))
    )
    return (number - first) // step, count


def _search(work: Work) -> list[Run]:
    """Let Optuna choose values until there are as many trials as are asked for; return the runs."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise ValueError("search needs Optuna: pip install 'probcl[sweeps]'.") from error
    search = work.sweep.search
    assert search
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(work.folder / "optuna.log"))),
        study_name=work.folder.name, direction=search.direction, load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=0),
    )  # fmt: skip
    begun = optuna.trial.TrialState.RUNNING
    if _share()[1] == 1:  # else they may be those of other tasks
        for left in study.get_trials(states=[begun]):
            study.tell(left.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(left.params)
    counted = (begun, optuna.trial.TrialState.COMPLETE)
    while len(study.get_trials(states=counted)) < search.trials and not work.failed:
        trial = study.ask()
        runs = work.sweep.runs_of({n: _suggest(trial, n, v) for n, v in work.sweep.vary.items()})
        work.make(runs)
        if work.failed:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            break
        study.tell(trial, mean(_metric(read_metrics(r.folder(work.folder)), search) for r in runs))
    if not work.failed:
        best = study.best_trial
        print(f"best {search.metric}: {best.value:.4g} with {best.params}")
    return [run for trial in study.get_trials() for run in work.sweep.runs_of(trial.params)]


def _suggest(trial: Any, name: str, values: Any) -> Any:
    if isinstance(values, list):
        return trial.suggest_categorical(name, values)
    whole = type(values["low"]) is type(values["high"]) is int
    return (trial.suggest_int if whole else trial.suggest_float)(name, **values)


def _metric(metrics: Mapping[str, float], search: Search) -> float:
    if search.metric not in metrics:
        raise ValueError(f"search: a run has no metric {search.metric!r}, but {', '.join(metrics)}")
    return metrics[search.metric]


def _write_results(work: Work, runs: Sequence[Run]) -> None:
    """Write a row for each run that is there, whoever made it, and the page that compares them."""
    every = {run.folder(work.folder): run for run in runs}
    made = {folder: run for folder, run in sorted(every.items()) if _is_made(folder)}
    if not made:
        raise ValueError(f"not one run of {work.folder} was made: see the messages above.")
    rows = [{**run.values, "seed": run.seed, **read_metrics(path)} for path, run in made.items()]
    columns = dict.fromkeys(name for row in rows for name in row)
    text = StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows({n: _text(v) if isinstance(v, dict | list) else v for n, v in row.items()}
                    for row in rows)  # fmt: skip
    write_whole(work.folder / "results.csv", text.getvalue())
    compare_runs(list(made), work.folder / "compare.html")
    print(f"results: {work.folder / 'results.csv'}, {len(made)} runs")
