"""Runs side by side: seeds together, means and spreads, and what is no run."""

import base64
import json
import re
from pathlib import Path

import pytest
import yaml

from probcl.cli import main
from probcl.report import compare_runs
from probcl.report.compare import _cell
from probcl.report.settings import settings_of


@pytest.fixture
def runs(tmp_path):
    for name, accuracy, entropy in (
        ("simclr-digits-seed0", 0.9, None), ("simclr-digits-seed1", 0.8, None),
        ("vsimclr-digits-seed0", 0.7, 0.75), ("vsimclr-digits-seed1-2", 0.7, 0.85),
    ):  # fmt: skip
        metrics = {"probe/top1": accuracy, "knn/top1": accuracy, "time/fit_s": 3.0}
        metrics["unc/retrieval_error/nearest_cosine"] = 0.6
        if entropy:
            metrics["unc/retrieval_error/entropy"] = entropy
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    return tmp_path


def test_seeds_stand_together_with_mean_and_spread(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    main(["compare", *(str(path) for path in sorted(runs.glob("*seed*")))])
    assert "comparison: compare.html" in capsys.readouterr().out
    page = (runs / "compare.html").read_text()
    assert "simclr-digits (2), vsimclr-digits (2)" in re.sub(r"\s+", " ", page)
    assert "0.850 ± 0.071" in page  # the mean and standard deviation of 0.9 and 0.8
    assert "0.800 ± 0.071" in page  # of the entropy
    assert "0.7 ± 0" in page
    assert page.count("data:image/svg+xml;base64,") == 1
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_files_and_records_are_taken_too_and_a_number_that_one_lacks_is_left_blank(runs):
    copied, record = runs / "other-seed3.json", runs / "recorded-seed0.json"
    copied.write_text(json.dumps({"probe/top1": 0.5, "mine/unheard": None}))
    metrics = {"probe/top1": 0.25, "unc/mine/unheard": 0.125}
    record.write_text(json.dumps({"config": {}, "metrics": metrics}))
    page = compare_runs([runs / "simclr-digits-seed0", copied, record], runs / "c.html").read_text()
    for text in ("<th>other</th>", "<th>recorded</th>", "<td></td>", "0.25", "unc/mine/unheard"):
        assert text in page


def test_runs_on_other_data_are_no_seeds_of_one(tmp_path):
    for name in ("../easy.npz", "../noise.npz"):
        run = tmp_path / f"simclr-arrays-seed{len(name)}"
        run.mkdir()
        (run / "metrics.json").write_text(json.dumps({"probe/top1": 0.5}))
        data = {"class_path": "probcl.data.Arrays", "init_args": {"path": name}}
        (run / "config.yaml").write_text(yaml.safe_dump({"data": data}))
        assert settings_of({"data": data}) == {"data": "Arrays", "data.path": name}
    page = compare_runs(list(tmp_path.glob("simclr*")), tmp_path / "c.html").read_text()
    assert "../easy.npz" in page and "../noise.npz" in page


def test_a_run_that_is_named_twice_counts_once_and_a_new_folder_is_made(runs):
    run = runs / "simclr-digits-seed0"
    page = compare_runs([run, run.parent / "." / run.name], runs / "new" / "c.html").read_text()
    assert "simclr-digits (1)" in page


def test_bad_input(runs):
    with pytest.raises(ValueError, match=r"output must be an \.html file, got c\.txt"):
        compare_runs([runs / "simclr-digits-seed0"], Path("c.txt"))
    (runs / "empty.json").write_text("{}")
    with pytest.raises(ValueError, match=r"empty\.json holds no metrics"):
        compare_runs([runs / "empty.json"], runs / "c.html")
    with pytest.raises(ValueError, match=r"output: the folder .* cannot be written"):
        compare_runs([runs / "simclr-digits-seed0"], runs / "empty.json" / "c.html")
    with pytest.raises(SystemExit) as stopped:
        main(["compare"])
    assert stopped.value.code == 2


def test_means_have_the_digits_of_their_spread():
    runs = [{"a": 0.9, "b": 1234.0, "c": 1e-8, "d": 0.7}, {"a": 0.8, "b": 1834.0, "c": 3e-8}]
    cells = [_cell(runs, name) for name in "abcde"]
    assert cells == ["0.850 ± 0.071", "1534 ± 424", "2e-08 ± 1.4e-08", "0.7", ""]


def test_what_differs_has_a_column_for_each_setting_and_unfinished_runs_are_listed(
    tmp_path, capsys
):
    def run(name, config, metrics=None):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
        if metrics:
            (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
        return tmp_path / name

    def program(name, **options):
        return {
            "seed_everything": len(runs), "run_dir": f"runs/{len(runs)}",
            "trainer": {"max_epochs": 7},
            "model": {"program": {"class_path": f"probcl.programs.{name}", "init_args": options}},
        }  # fmt: skip

    runs = []
    for beta, accuracy in ((0.1, 0.5), (0.1, 0.7), (10.0, 0.9)):
        config = program("VSimCLR", beta=beta, temperature=0.07)
        runs.append(run(f"v-seed{len(runs)}", config, {"probe/top1": accuracy}))
    runs.append(run("s-seed0", program("SimCLR", average="outside"), {"probe/top1": 0.25}))
    stopped = run("stopped", program("VSimCLR", beta=1.0))
    (stopped / "metrics.csv").write_text("epoch,loss\n0,3.0\n1,2.0\n2,1.5\n")
    page = compare_runs([*runs, stopped], tmp_path / "c.html").read_text()
    head = "<tr><th>run</th><th>program</th><th>beta</th><th>probe/top1</th></tr>"
    assert head in page  # neither seed nor folder, nor what only one program has
    rows = [["v · beta 0.1", "VSimCLR", "0.1", "0.60 ± 0.14"]]
    rows += [["v · beta 10", "VSimCLR", "10", "0.9"], ["s", "SimCLR", "", "0.25"]]
    for cells in rows:
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    of_program, of_beta = (base64.b64decode(picture).decode() for picture in pictures)
    assert "VSimCLR" in of_program
    assert "<!-- 0.1 -->" in of_beta  # a number, though the axis is logarithmic
    assert "math" not in of_beta
    assert "3 of 7 epochs" in page
    assert f"not finished: {stopped} (3 of 7 epochs)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds no metrics, nor does another run"):
        compare_runs([stopped], tmp_path / "none.html")
