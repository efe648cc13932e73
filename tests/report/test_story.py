"""What a report says and shows: of data whose answers are known, and what is saved of it."""

import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from probcl.cli import main
from probcl.distributions import VonMisesFisher
from probcl.evaluation import Embeddings, evaluate
from probcl.evaluation.bootstrap import error_auroc_interval
from probcl.files import read_tensors, write_tensors
from probcl.programs.matches import Link, match_probability
from probcl.report import findings
from probcl.report.choice import choose, finder
from probcl.report.map import map_of
from probcl.report.pictures import Tiles
from probcl.report.story import answers_of, confused, opening, three_answers
from probcl.report.tables import confusion_of, unit_of
from probcl.report.words import limit, percent


def made(count=400, noise=0.55, posterior=True):
    """Return an evaluation of three classes, whose test images are their labels as a grey."""
    random = np.random.default_rng(0)
    y = np.arange(count) % 3
    z = torch.as_tensor(np.eye(6)[y] + noise * random.normal(size=(count, 6))).float()
    half = count // 2
    parts = []
    for part in (slice(half), slice(half, count)):
        own = torch.nn.functional.normalize(z[part], dim=-1)
        vmf = VonMisesFisher(own, 5 + 20 * z[part].norm(dim=-1)) if posterior else None
        parts.append(Embeddings(z[part], y[part], posterior=vmf))
    return evaluate(
        parts[0], None, parts[1], None, metrics=["probe/top1"],
        out_of_distribution=None if posterior else {"noise": random.normal(size=(60, 6))},
        scores=["entropy", "max_probability", "agreement"] if posterior else None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluation():
    return made()


@pytest.fixture(scope="module")
def found(evaluation):
    def images(rows, part):
        shade = torch.arange(len(evaluation.test))[rows].float() / len(evaluation.test)
        return shade[:, None, None, None].expand(-1, 3, 96, 64)

    link = Link()
    return findings.find(evaluation, images, lambda own, other: match_probability(own, other, link))


def test_the_opening_counts_what_was_counted(evaluation, found):
    first, second, third = opening(found, {}, {})
    assert first == "Embeddings of 200 test items were evaluated against 200 training items."
    right = 1 - evaluation.wrong["probe"].double().mean().item()
    assert f"right class for {100 * right:.1f} %" in second
    rule = r"`(\w+)` .*is at most (\S+): of those (\S+) % of the items at most (\S+) % are wrong"
    told = re.search(rule, third)
    score, threshold, _, risk = told.groups()
    accepted = evaluation.scores[score] <= float(threshold)
    assert evaluation.wrong["probe"][accepted].float().mean() <= float(risk) / 100


@pytest.mark.parametrize(
    ("power", "verdict"),
    [(1.0, "No sign of it:"), (4.0, "Yes, by "), (0.2, "No, it is underconfident, by ")],
)
def test_overconfidence_is_that_of_probabilities_that_are_sharpened(power, verdict):
    torch.manual_seed(0)
    true = torch.distributions.Beta(4.0, 1.0).sample((2000,)).clamp(0.51, 0.99)
    wrong = torch.rand(2000) > true
    sharp = true**power / (true**power + (1 - true) ** power)
    some = SimpleNamespace(
        confidence=sharp, wrong={"probe": wrong, "retrieval": wrong}, shift={}, metrics={},
        scores={"max_probability": 1 - sharp}, answers={}, labels=None, predicted=None,
        spectrum=torch.ones(4), rows=torch.arange(2000), noun="items",
    )  # fmt: skip
    (answer,) = three_answers(some, {}, {})["Is the model overconfident?"]
    assert answer.startswith(verdict)
    assert f"there are {int(wrong.sum()):,}" in answer


def test_a_loss_that_falls_calls_for_more_epochs(found):
    falling, settled = np.linspace(3, 1, 20), np.r_[np.linspace(3, 1, 10), np.full(10, 1.0)]
    for loss, wanted in ((falling, True), (settled, False)):
        advice = " ".join(three_answers(found, {}, {"loss": loss})["What should be tried next?"])
        assert ("--trainer.max_epochs 40" in advice) == wanted


def test_a_training_of_few_epochs_is_not_called_short_by_its_last(found):
    advice = three_answers(found, {}, {"loss": np.array([3.0, 1.0])})["What should be tried next?"]
    assert not any("Train longer" in text for text in advice)


def judged(errors, count, spread):
    """Return what is found where some items are wrong; a score tells them, the less the spread."""
    wrong = torch.arange(count) < errors
    score = wrong + spread * torch.rand(count, generator=torch.Generator().manual_seed(0))
    answers = {"trust": {"ambiguity": error_auroc_interval(score, wrong)}}
    return findings.Findings(
        metrics={}, answers=answers, left_out={}, shift={}, trained_on=9, rows=torch.arange(count),
        spectrum=torch.ones(4), scores={"trust": score}, wrong={"probe": wrong, "retrieval": wrong},
    )  # fmt: skip


TOO_FEW = "test items are too few to say when to trust it:"


@pytest.mark.parametrize(
    ("errors", "count", "spread", "says"),
    [
        (2, 2, 99, f"2 {TOO_FEW} 2 of 2 are wrong."),
        (1, 2, 99, f"2 {TOO_FEW} 1 of 2 is wrong, at most 94.9 % with 90 % confidence."),
        (0, 8, 99, f"8 {TOO_FEW} none of 8 is wrong, at most 25.1 % with 90 % confidence."),
        (7, 40, 99, f"40 {TOO_FEW} 7 of 40 are wrong, at most 27.7 % with 90 % confidence."),
        (12, 60, 2, f"60 {TOO_FEW} 12 of 60 are wrong, at most 28.2 % with 90 % confidence, but "
         "`trust` finds its errors (AUROC 0.9"),
        (0, 200, 99, "Trust it on items like these: none of 200 is wrong, at most 1.2 % with "),
        (3, 200, 99, "Trust it on items like these: 3 of 200 are wrong, at most 3.4 % with "),
        (14, 360, 2, "Trust it on items like these: 14 of 360 are wrong, at most 5.6 % with 90 % "
         "confidence; 360 items are too few to guarantee less, but `trust` finds its errors (AU"),
        (400, 4000, 1.4, "Trust it where its uncertainty `trust` is at most "),
        (80, 400, 99, "No score finds its errors well enough to say when to trust it, the best "),
        (30, 30, 99, "Do not trust it: 30 of 30 are wrong, at least 92.6 % with 90 % confidence."),
        (200, 400, 99, "Do not trust it: 200 of 400 are wrong, at least 46.6 % with 90 % conf"),
    ],
)  # fmt: skip
def test_trust_is_by_the_bound_of_the_error_rate(errors, count, spread, says):
    found = judged(errors, count, spread)
    told = opening(found, {}, {})[2]
    assert told[: len(says)] == says
    if min(errors, count - errors) < 10:
        assert "AUROC" not in told
        (answered,) = answers_of(found)
        assert answered.score == ""
        assert answered.text.startswith("no such items" if errors == 0 else ("only", "all but"))


def test_degraded_views_are_not_advised_to_who_has_them(found, monkeypatch):
    monkeypatch.setattr(found, "shift", {"gaussian_blur": {5: {"top1": 0.3, "ece": 0.2}}})
    for views, wanted in ((0, "`--data.degraded_views 1`"), (1, "though views were degraded")):
        config = {"data": {"init_args": {"degraded_views": views}}}
        advice = " ".join(three_answers(found, config, {})["What should be tried next?"])
        assert "30 %" in advice
        assert wanted in advice


def test_errors_that_are_few_have_no_winner_and_no_curve(tmp_path):
    few = findings.find(made(noise=0.2, posterior=False))
    errors = int(few.wrong["probe"].sum())
    assert errors < 10
    winners = {answered.question: answered for answered in answers_of(few)}
    assert winners["Is its class wrong?"].score == ""
    assert "too few to tell" in winners["Is its class wrong?"].text
    assert winners["Is it unlike the training set?"].score != ""
    assert opening(few, {}, {})[2].startswith("Trust it on items like these")


def test_the_choice_is_of_the_extremes(found):
    choice = choose(found)
    assert found.wrong["probe"][choice.clear[0]] == 0
    ranked = found.scores[finder(found, "probe")]
    assert choice.doubtful == ranked.argsort(descending=True, stable=True)[:12].tolist()
    for label, (sure, unsure) in choice.by_class.items():
        rows = found.labels == label
        assert (found.labels[torch.tensor(sure + unsure)] == label).all()
        assert ranked[unsure[0]] == ranked[rows].max()
        assert ranked[sure[0]] == ranked[rows].min()
    entropy, probe = (found.scores[s].argsort().argsort() for s in ("entropy", "max_probability"))
    assert (
        entropy[choice.posterior_doubts[0]] - probe[choice.posterior_doubts[0]]
        == (entropy - probe).max()
    )


def test_retrieval_rows_have_the_match_probability_of_the_nearest(evaluation, found):
    z = torch.nn.functional.normalize(evaluation.test.embedding, dim=-1)
    query = int(found.queries[0])
    cosine = z @ z[query]
    cosine[query] = -2
    assert found.neighbours[0].tolist() == cosine.topk(6).indices.tolist()
    (vmf,) = evaluation.test.posterior
    length = vmf.mean_resultant_length
    other = found.neighbours[0, 2]
    expected = length[query] * length[other] * Link()(cosine[other])
    torch.testing.assert_close(found.match[0, 2], expected.detach())
    assert [row["why"] for row in Tiles(found).rows()][-1] == "abstain"


def test_confusion_counts_and_its_pairs(found):
    table = confusion_of(found, Tiles(found))
    counts = np.array([[count for count, _ in cells] for _, cells in table["rows"]])
    own, said = found.labels.numpy(), found.predicted.numpy()
    expected = [[((own == i) & (said == j)).sum() for j in range(3)] for i in range(3)]
    assert np.array_equal(counts, expected)
    one, other, count = confused(found)[0]
    assert count == counts[one, other] + counts[other, one]


def test_the_map_has_every_point_by_class_and_by_rank(found):
    drawn = map_of(found, Tiles(found))
    assert len(drawn["points"]) == 200
    assert len({point["hue"] for point in drawn["points"]}) == 3
    order = json.loads(drawn["order"])
    score = found.scores[drawn["score"]][found.mapped]
    assert order[0] == score.argmax()
    radii = torch.tensor([float(point["radius"]) for point in drawn["points"]])
    assert radii.argmax() == found.spread.argmax()
    assert "<" not in drawn["told"]  # which stands in a script


def test_items_without_images_are_told_by_their_rows(evaluation):
    test = evaluation.test
    rows = 1000 + 2 * torch.arange(len(test))
    other = Embeddings(test.embedding, test.labels, posterior=test.posterior, rows=rows)
    scores = ["entropy", "max_probability", "agreement"]
    found = findings.find(evaluate(test, None, other, None, metrics=[], scores=scores))
    tiles, ranked = Tiles(found), found.scores[finder(found, "probe")]
    listed = tiles.listed(choose(found).doubtful, finder(found, "probe"))
    assert [one["row"] for one in listed] == rows[ranked.argsort(descending=True)[:12]].tolist()
    assert listed[0]["score"] == f"{ranked.max():.3g}"
    assert listed[0]["own"] == str(int(test.labels[ranked.argmax()]))
    assert tiles.rows_are == "Rows are counted from 0 among the items of the data."
    assert next(iter(three_answers(found, {}, {}))) == "Which items cannot be trusted?"


def test_small_images_are_those_of_the_items(found):
    assert found.images.shape[1:] == (3, 48, 32)
    place = {int(p): n for n, p in enumerate(found.pictured)}
    shown = found.images[place[int(found.queries[0])]]
    assert shown.unique().tolist() == [round(255 * int(found.queries[0]) / 200)]


def test_what_is_saved_gives_the_same_findings(found, tmp_path):
    findings.save(found, tmp_path)
    again = findings.load(tmp_path)
    assert again.answers == found.answers
    assert torch.equal(again.images, found.images)
    assert torch.equal(again.reliability.accuracy, found.reliability.accuracy)
    assert opening(again, {}, {}) == opening(found, {}, {})


def test_units():
    units = {
        "time/fit_s": "s", "cal/nll": "nats", "probe/top1": "0 to 1", "mine/other": "",
        "geometry/mean_class_angle": "degrees", "geometry/alignment": "0 to 4",
        "unc/auroc_nllset/entropy": "0 to 1", "unc/auroc_truth/entropy": "0 to 1",
        "unc/truth/entropy": "-1 to 1", "unc/spearman_rank/entropy": "-1 to 1",
        "unc/corruption/entropy": "-1 to 1",
    }  # fmt: skip
    assert {name: unit_of(name) for name in units} == units


def test_a_share_that_is_not_all_is_not_called_so():
    shares = {0.9996: "99.96 %", 0.99999: "99.999 %", 3e-5: "0.003 %", 1.0: "100 %", 0.0: "0 %",
              0.5: "50 %", 0.123: "12.3 %", 0.004: "0.40 %"}  # fmt: skip
    assert {share: percent(share) for share in shares} == shares


def test_bounds_are_rounded_to_the_side_that_they_hold_on():
    assert percent(0.01846, math.ceil) == "1.9 %"
    assert percent(0.01846, math.floor) == "1.8 %"
    assert percent(0.07, math.ceil) == percent(0.07, math.floor) == "7 %"
    assert percent(0.9996, math.floor) == "99.9 %"


def test_a_rule_as_printed_lets_through_what_was_tested():
    values = -1062.9 + 9 * torch.rand(500, generator=torch.Generator().manual_seed(0))
    for largest in values.sort().values[::50]:
        shown = float(limit(float(largest), values))
        assert torch.equal(values <= shown, values <= largest)
    assert limit(0.25, torch.tensor([0.25, 0.5])) == "0.25"


def test_where_every_score_is_constant_none_is_named():
    wrong = torch.arange(100) < 30
    answer = error_auroc_interval(torch.zeros(100), wrong)
    found = judged(30, 100, 99)
    found.answers = {"trust": {"ambiguity": answer}}
    (answered,) = answers_of(found)
    assert (answered.score, answered.text) == ("", "no score tells more than chance")


def test_the_map_is_of_directions():
    maps = []
    for scale in (1.0, 2.0**-60):  # exactly the same directions
        small = made(60)
        small.test.embedding = small.test.embedding * scale
        vars(small.test).pop("direction", None)
        maps.append(findings.find(small).coordinates)
    assert torch.equal(*maps)


def test_report_makes_the_page_anew(trained, tmp_path, capsys):
    run = tmp_path / trained.name
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("checkpoints", "pretrained"))
    page = (run / "report.html").read_text()
    (run / "report.html").unlink()
    main(["report", str(run)])
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    assert (run / "report.html").read_text() == page
    assert page.count("data:image/png;base64,") > 100
    assert len(page) < 3e6
    assert "VSimCLR was trained on 1,437 images of Digits for 2 epochs in " in page
    for heading in ("cannot be trusted?", "overconfident?", "tried next?", "Abstain", "glass blur"):
        assert heading in page


def test_bad_input_is_answered_with_one_sentence(found, tmp_path):
    def answer(run):
        with pytest.raises(SystemExit) as stopped:
            main(["report", str(run)])
        told = str(stopped.value)
        assert told.startswith("probcl: error: ")
        assert "\n" not in told
        return told

    assert "is no folder" in answer(tmp_path / "nothing")
    assert "holds no numbers" in answer(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    assert f"has no {findings.FINDINGS}" in answer(tmp_path)
    findings.save(found, tmp_path)
    tensors, about = read_tensors(tmp_path / findings.FINDINGS)
    version, words = json.loads(about["report"])
    other = {"report": json.dumps([version + 1, words])}
    write_tensors(tmp_path / findings.FINDINGS, tensors, other)
    assert f"of another version of the report (it is of version {version + 1}" in answer(tmp_path)
    (tmp_path / findings.FINDINGS).write_bytes(b"torn")
    assert "not as it was written" in answer(tmp_path)
