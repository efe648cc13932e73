"""``probcl sweep``: grids and searches that go on, their results, and bad input."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from probcl import sweep
from probcl.cli import main
from probcl.report.settings import settings_of
from probcl.runs import read_metrics
from probcl.sweep import read_sweep

SWEEPS = Path(__file__).parents[1] / "experiments/sweeps"
# In place of `probcl fit`: a run whose number is known, or that fails where beta is 13.
FIT = """
import json, sys
from pathlib import Path
import yaml
options = dict(arg.removeprefix("--").split("=", 1) for arg in sys.argv[2:] if "=" in arg)
if "no.option" in options:
    sys.exit("probcl: error: unrecognized arguments: --no.option")
if "--print_config" in sys.argv:
    sys.exit()
beta = float(options["model.program.beta"])
if beta == 13:
    sys.exit("probcl: error: it went wrong")
folder = Path(options["run_dir"])
folder.mkdir()
init = {"class_path": "probcl.programs.VSimCLR", "init_args": {"beta": beta}}
(folder / "config.yaml").write_text(yaml.safe_dump({"model": {"program": init}}))
number = 1 - (beta - 0.3) ** 2
(folder / "metrics.json").write_text(json.dumps({"knn/top1": number, "probe/top1": 0.5}))
"""


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Let runs take no time, and count them."""
    script = tmp_path / "fit.py"
    script.write_text(FIT)
    monkeypatch.setattr(sweep, "PROBCL", [sys.executable, str(script)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return str(path)


def rows_of(folder):
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_grid_is_every_combination_and_goes_on(quick, capsys):
    file = write(
        quick / "betas.yaml", {"vary": {"model.program.beta": [0.1, 1.0]}, "seeds": [0, 1]}
    )
    main(["sweep", file])
    assert "4 of 4: beta=1.0-seed1" in capsys.readouterr().out
    made = quick / "runs/betas"
    rows = rows_of(made)
    assert [(row["model.program.beta"], row["seed"]) for row in rows] == [
        ("0.1", "0"), ("0.1", "1"), ("1.0", "0"), ("1.0", "1")
    ]  # fmt: skip
    assert float(rows[0]["knn/top1"]) == pytest.approx(0.96)
    assert "beta=0.1" in (made / "compare.html").read_text()
    (made / "beta=0.1-seed1/metrics.json").unlink()
    (made / "beta=0.1-seed1/config.yaml").unlink()
    (made / "beta=0.1-seed1").rmdir()
    main(["sweep", file])
    assert "1 of 1: beta=0.1-seed1" in capsys.readouterr().out


def test_the_tasks_of_an_array_share_the_runs(quick, monkeypatch):
    file = write(quick / "b.yaml", {"vary": {"model.program.beta": [1, 2, 3]}, "seeds": [0, 1]})
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    counts = []
    for task in ("1", "2"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        main(["sweep", file, "--output", "shared"])
        counts.append(len(rows_of(quick / "shared")))
    assert counts == [3, 6]


def test_a_search_finds_the_best_value_and_goes_on(quick, capsys):
    pytest.importorskip("optuna", reason="pip install 'probcl[sweeps]'")
    content = {
        "vary": {"model.program.beta": {"low": 0.01, "high": 1.0}},
        "search": {"metric": "knn/top1", "trials": 5},
    }
    file = write(quick / "search.yaml", content)
    main(["sweep", file])
    assert "best knn/top1" in capsys.readouterr().out
    rows = rows_of(quick / "runs/search")
    assert len(rows) == 5
    assert max(float(row["knn/top1"]) for row in rows) > 0.9
    main(["sweep", file])
    assert len(rows_of(quick / "runs/search")) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "must have vary"),
        ({"vary": {"a": [1]}, "more": 1}, "must have vary"),
        ({"vary": []}, "vary and fit must have options"),
        ({"vary": {"a": 1}}, "a must have a list of values, got 1"),
        ({"vary": {"a": {"low": 0, "high": 1}}}, "a must have a list of values, got"),
        ({"vary": {"a": [1]}, "seeds": 3}, "seeds must be a list of integers, got 3"),
        ({"vary": {"a": [1]}, "search": {"metric": "b"}}, "search must have a metric and trials"),
        (
            {"vary": {"a": [1]}, "search": {"metric": "b", "trials": "3"}},
            "trials must be an integer above 0, got '3'",
        ),
        ({"vary": {"a.b": [1, 1]}}, "vary must not have a value twice, got b=1-seed0"),
        ({"vary": {"no.option": [1]}}, "unrecognized arguments: --no.option"),
        ({"vary": {"seed_everything": [1, 2]}}, "seed_everything must not be in vary or fit"),
        ({"vary": {"a": [1]}, "fit": {"run_dir": "x"}}, "run_dir must not be in vary or fit"),
        ({"vary": {"a": [1]}, "fit": {"evaluate": False}}, "evaluate must not be in vary or fit"),
        ({"vary": {3: [1]}}, "vary and fit must have options by name, got 3"),
        *(
            (
                {"vary": {"a": ends}, "search": {"metric": "b", "trials": 1}},
                "a must have low and high, numbers, the lower first",
            )
            for ends in (
                {"low": 0, "high": "x"},
                {"low": 2, "high": 1},
                {"low": 0, "high": 1, "log": True},
                {"low": 0, "high": 1, "step": 2},
                {"low": 0, "high": None},
            )
        ),
    ],
)
def test_bad_files_end_in_one_sentence_before_any_run(quick, content, message):
    with pytest.raises(SystemExit, match=message):
        main(["sweep", write(quick / "bad.yaml", content)])
    assert not list(quick.glob("runs/bad/*-seed*"))


def test_a_number_of_jobs_that_is_none_is_named(quick):
    file = write(quick / "sweep.yaml", {"vary": {"model.program.beta": [1]}})
    with pytest.raises(SystemExit, match="jobs must be at least 1, got -1"):
        main(["sweep", file, "--jobs", "-1"])


def test_a_folder_that_cannot_be_made_is_named(quick):
    (quick / "taken").write_text("")
    file = write(quick / "sweep.yaml", {"vary": {"model.program.beta": [1]}})
    with pytest.raises(SystemExit, match=r"folder .*taken cannot be written \(File exists\)"):
        main(["sweep", file, "--output", str(quick / "taken")])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_another_sweep_in_its_folder_is_refused(quick):
    vary = {"model.program.beta": [0.1]}
    main(["sweep", write(quick / "s.yaml", {"vary": vary})])
    with pytest.raises(SystemExit, match="is not as it was when the runs in runs/s were made"):
        main(["sweep", write(quick / "s.yaml", {"vary": vary, "seeds": [4]})])


def test_the_others_go_on_where_a_run_fails(quick, capsys):
    file = write(quick / "f.yaml", {"vary": {"model.program.beta": [0.1, 13, 1]}})
    with pytest.raises(SystemExit, match="1 runs failed: beta=13-seed0"):
        main(["sweep", file])
    assert "beta=13-seed0 failed: probcl: error: it went wrong" in capsys.readouterr().out
    assert len(rows_of(quick / "runs/f")) == 2


def test_a_search_whose_first_run_fails_says_why(quick, capsys):
    pytest.importorskip("optuna", reason="pip install 'probcl[sweeps]'")
    vary, search = {"model.program.beta": [13]}, {"metric": "knn/top1", "trials": 2}
    file = write(quick / "f.yaml", {"vary": vary, "search": search})
    with pytest.raises(SystemExit, match="not one run of runs/f was made: see the messages above"):
        main(["sweep", file])
    assert "beta=13-seed0 failed: probcl: error: it went wrong" in capsys.readouterr().out


def test_a_range_may_have_what_yaml_takes_for_text(tmp_path):
    file = tmp_path / "rates.yaml"
    file.write_text("vary: {lr: {low: 1e-4, high: 3e-2, log: true}}\n"
                    "search: {metric: a, trials: 2}\n")  # fmt: skip
    assert read_sweep(file).vary["lr"] == {"low": 1e-4, "high": 0.03, "log": True}


def test_options_of_one_name_keep_their_whole_names():
    own = sweep.Sweep({"a.dim": [1], "b.dim": [2], "c.tau": [3]}, {}, [0])
    assert own.grid()[0].name == "a.dim=1,b.dim=2,tau=3"


@pytest.mark.slow
def test_a_sweep_of_real_runs_is_stopped_and_goes_on(tmp_path, small):
    options = dict(option.removeprefix("--").split("=", 1) for option in small)
    file = write(
        tmp_path / "betas.yaml",
        {"vary": {"model.program.beta": [0.1, 1.0]}, "fit": {**options, "trainer.max_epochs": 1}},
    )
    command = [sys.executable, "-c", "from probcl.cli import main; main()", "sweep", file]
    made = tmp_path / "runs/betas"
    environment = os.environ | {"PYTHONPATH": str(Path(sweep.__file__).parents[1])}
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
        while not (made / "beta=0.1-seed0/metrics.json").is_file():
            time.sleep(0.2)
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    first = read_metrics(made / "beta=0.1-seed0")
    assert not (made / "results.csv").is_file()
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    rows = rows_of(made)
    assert [row["model.program.beta"] for row in rows] == ["0.1", "1.0"]
    assert float(rows[0]["knn/top1"]) == first["knn/top1"]
    assert read_sweep(made / "sweep.yaml").seeds == [0]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_of_the_experiments_has_options_that_there_are(path, capsys):
    own = read_sweep(path)
    values = {n: v if isinstance(v, list) else [v["low"]] for n, v in own.vary.items()}
    run = own._replace(vary=values).grid()[-1]
    with pytest.raises(SystemExit) as end:
        main(["fit", *own.arguments(run), "--print_config"])
    assert not end.value.code
    printed = settings_of(yaml.safe_load(capsys.readouterr().out))
    for name, value in run.values.items():
        assert str(printed[name]).endswith(str(value))
