"""``probcl reproduce``: the interval, a run that lies in it, one that does not, and bad input."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import probcl
from probcl import reproduce
from probcl.cli import main
from probcl.reproduce import prediction_interval
from probcl.runs import environment, record_of_run


def test_the_interval_covers_one_more_run_as_often_as_it_says():
    random = np.random.default_rng(0)
    draws = random.normal(0.8, 0.05, (2000, 11))
    inside = [draw[-1] in prediction_interval(draw[:-1].tolist()) for draw in draws]
    assert stats.binomtest(sum(inside), 2000, 0.95).pvalue > 0.01
    with pytest.raises(ValueError, match="values must be 2 at least for a spread, got 1: run more"):
        prediction_interval([0.9])


def test_the_interval_holds_every_run_that_it_is_made_from():
    runs = [1.0] * 39 + [0.8]
    assert all(run in prediction_interval(runs) for run in runs)


@pytest.fixture(scope="module")
def records(tmp_path_factory, small):
    """A record of a short run, and one whose numbers are a little higher."""
    folder = tmp_path_factory.mktemp("records")
    run = folder / "run"
    options = [*small, "--model.program=SimCLR", "--trainer.max_epochs=1", f"--run_dir={run}"]
    main(["fit", *options, "--trainer.enable_progress_bar=false"])
    record = record_of_run(run)
    (folder / "short-seed0.json").write_text(json.dumps(record))
    record["metrics"] = {name: 1.01 * value + 0.01 for name, value in record["metrics"].items()}
    (folder / "short-seed1.json").write_text(json.dumps(record))
    return folder


@pytest.mark.slow
def test_a_run_that_is_made_again_lies_inside(records, small, capfd, monkeypatch):
    data = next(option for option in small if option.startswith("--data.path="))
    with pytest.raises(SystemExit) as end:
        main(["reproduce", str(records / "short-seed0.json"), data])
    assert end.value.code == 0
    assert "probe/top1" in (out := capfd.readouterr().out)
    assert "OUTSIDE" not in out
    made = json.loads((records / "short-seed0.json").read_text())["metrics"]
    monkeypatch.setattr(reproduce, "_run_again", lambda config, options: made)
    for seed in (0, 1):  # records that no run comes near to
        path = records / f"short-seed{seed}.json"
        record = json.loads(path.read_text())
        record["metrics"]["probe/top1"] = 0.01 + 0.001 * seed
        (records / f"wrong-seed{seed}.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit) as end:
        main(["reproduce", str(records / "wrong-seed0.json"), "--metrics", "probe/top1"])
    assert end.value.code == 1
    assert "OUTSIDE" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("figure.json", {}, "record must be named NAME-seedN.json, got"),
        ("a-seed0.json", {"metrics": {}}, "has no config and metrics: it cannot be made again"),
        ("a-seed0.json", [1], "has no config and metrics: it cannot be made again"),
        ("a-seed0.json", {"config": 1, "metrics": 2}, "has no config and metrics"),
        (
            "a-seed0.json",
            {"config": {"model": {"class_path": "os.system"}}, "metrics": {}},
            "os.system",
        ),
        ("a-seed0.json", {"config": {}, "metrics": {"knn/top1": 1.0}}, "got 1: run more seeds"),
        ("a-seed0.json", {"config": {}, "metrics": {"knn/top1": "x"}}, "knn/top1 is not a number"),
    ],
)
def test_bad_records_end_in_one_sentence_before_any_run(
    tmp_path, name, content, message, monkeypatch
):
    monkeypatch.setattr(reproduce, "_run_again", None)
    path = tmp_path / name
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=message):
        main(["reproduce", str(path)])
    with pytest.raises(SystemExit):
        main(["reproduce", str(path), "--metrics", "knn/topp1"])


@pytest.mark.parametrize("option", ["--evaluate=false", "--run_dir", "--config=a.yaml"])
def test_options_that_make_another_run_are_refused_before_it(tmp_path, option):
    with pytest.raises(SystemExit, match=f"{option} must not be given"):
        main(["reproduce", str(tmp_path / "b-seed0.json"), option, "x"])


def test_a_record_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"b-seed0\.json cannot be read"):
        main(["reproduce", str(tmp_path / "b-seed0.json")])


def test_a_record_names_the_commit_that_made_it():
    checkout = Path(probcl.__file__).parents[1]
    asked = ["git", "-C", checkout, "rev-parse", "HEAD"]
    head = subprocess.run(asked, capture_output=True, text=True)
    commit = environment()["commit"]
    if (checkout / ".git").exists() and not head.returncode:
        assert len(commit) >= 12
        assert head.stdout.startswith(commit)
    else:
        assert commit is None


def test_what_is_a_share_is_expected_within_its_range():
    numbers = [{"knn/top1": x, "cal/nll": 5 * x, "unc/corruption/entropy": x} for x in (0.5, 0.9)]
    for name, least, most in (("knn/top1", 0, 1), ("unc/corruption/entropy", -1, 1)):
        assert reproduce._interval(name, numbers)[1:] == (least, most)
    assert reproduce._interval("cal/nll", numbers).high > 5
