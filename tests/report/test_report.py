"""The report on an evaluation: of anyone's arrays, with scores and metrics of their own."""

import re
from base64 import b64decode

import numpy as np
import pytest

from probcl.evaluation import METRICS, SCORES, Metric, Score, evaluate
from probcl.report import print_summary, write_report


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(0)
    y = np.arange(120) % 3
    z = np.eye(6)[y] + 0.4 * random.normal(size=(120, 6))
    return z[:60], y[:60], z[60:], y[60:]


def test_a_report_on_arrays_needs_no_run(arrays, tmp_path, capsys):
    noise = np.random.default_rng(1).normal(size=(30, 6))
    evaluation = evaluate(*arrays, out_of_distribution={"noise": noise})
    path = evaluation.report(tmp_path / "new/report.html")
    page = path.read_text()
    errors = int(evaluation.wrong["probe"].sum())
    assert 0 < errors < 10
    assert f"The probe makes {errors} error" in page  # in place of two curves
    assert page.count('src="data:image/svg+xml;base64,') == 2
    assert page.count('<g class="point') == 60
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    for text in (METRICS["probe/top1"].meaning, SCORES["agreement"].meaning, "needs posteriors"):
        assert text.replace("'", "&#39;") in page
    assert "How it was made" not in page
    print_summary(evaluation.metrics, evaluation.answers)
    out = capsys.readouterr().out
    assert f"{evaluation.metrics['probe/top1']:.4g}" in out
    assert "agreement" in out


def test_what_the_tables_do_not_know_is_shown(arrays, tmp_path, monkeypatch):
    """A row of the user's own, then numbers whose rows are gone when the report is written."""
    with monkeypatch.context() as patch:
        patch.setitem(METRICS, "mine/spread", Metric("my spread", lambda items: 1.25))
        patch.setitem(
            SCORES, "first", Score("my score", "corruption", (), lambda items: items.features[:, 0])
        )
        evaluation = evaluate(*arrays, scores=["first"], metrics=["mine/spread"])
        page = write_report(evaluation, tmp_path / "known.html").read_text()
        assert "my spread" in page
        assert "my score" in page
    evaluation.metrics |= {"unheard": 7.125, "unc/of_mine/first": 0.375}
    page = write_report(evaluation, tmp_path / "unknown.html").read_text()
    for text in ("mine/spread", "1.25", "unheard", "7.125", "first", "of mine", "0.375"):
        assert text in page


def test_embeddings_without_labels_and_without_scores_have_a_report_too(arrays, tmp_path):
    evaluation = evaluate(arrays[0], None, arrays[2], None, scores=[])
    page = write_report(evaluation, tmp_path / "report.html").read_text()
    assert "collapse/effective_rank" in page
    assert "Which score" not in page


@pytest.mark.parametrize("labelled", [True, False])
def test_a_page_without_images_names_rows_in_their_place(arrays, tmp_path, labelled):
    train, y, test, labels = arrays
    strange = np.random.default_rng(0).normal(size=(20, train.shape[1]))
    known = (y, labels) if labelled else (None, None)
    evaluation = evaluate(train, known[0], test, known[1], out_of_distribution={"noise": strange})
    page = evaluation.report(tmp_path / "report.html").read_text()
    start, end = page.index("<header"), page.index('id="training"')
    told = re.sub(r"<script>.*?</script>|<details>.*?</details>", "", page[start:end], flags=re.S)
    words = re.sub(r"<[^>]+>", " ", told)
    assert "image" not in words.lower()
    score = "trust" if labelled else "trust_without_labels"
    ranked = evaluation.scores[score].float().argsort(stable=True)
    doubtful = int(ranked[-1])
    assert f"<b>row {doubtful}</b>" in told  # at the top
    value = f"{evaluation.scores[score].max():.3g}"
    own = f"<td>{labels[doubtful]}</td>" if labelled else "</tr>"
    assert f"<td>{doubtful}</td><td>{value}</td>{own}" in told


def test_every_score_is_explained_by_itself():
    assert not [name for name, score in SCORES.items() if "the same" in score.meaning]


def test_bad_input(arrays, tmp_path):
    evaluation = evaluate(*arrays, scores=[], metrics=[])
    with pytest.raises(ValueError, match=r"path must be an \.html file, got report\.txt"):
        write_report(evaluation, "report.txt")


def test_names_from_data_are_text_in_the_page_and_in_its_pictures(arrays, tmp_path):
    name = "<script>alert(1)</script> $\\frac$ a_b"
    train, y, test, labels = arrays
    strange = np.random.default_rng(0).normal(size=(20, train.shape[1]))
    evaluation = evaluate(train, y, test, labels, out_of_distribution={name: strange})
    page = evaluation.report(tmp_path / "report.html").read_text()
    assert "<script>alert" not in page
    pictures = [b64decode(code).decode() for code in re.findall(r"svg\+xml;base64,([^\"]+)", page)]
    assert any("alert(1)" in picture and "$\\frac$" in picture for picture in pictures)
    assert not any("<script>alert" in picture for picture in pictures)
