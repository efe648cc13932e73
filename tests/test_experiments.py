"""Figures of experiments: the tables shown are those of the files, and the files meet the bars."""

import runpy
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DIGITS = runpy.run_path(str(ROOT / "experiments/digits/table.py"))
UNCERTAINTY = runpy.run_path(str(ROOT / "experiments/uncertainty/table.py"))


def test_the_tables_of_the_digits_are_those_of_the_files():
    assert DIGITS["table"]() in (ROOT / "experiments/digits/README.md").read_text()
    assert DIGITS["uncertainty_table"]() in README


@pytest.mark.parametrize("program", DIGITS["PROGRAMS"])
def test_each_seed_of_each_program_classifies_the_digits(program):
    runs = DIGITS["runs_of"](program)
    assert len(runs) == 3
    assert min(run["probe/top1"] for run in runs) >= 0.95


def test_each_seed_of_the_default_run_meets_its_bars():
    for run in DIGITS["runs_of"]("VSimCLR"):
        assert run["probe/top1"] >= 0.97
        assert run["knn/top1"] >= 0.96
        assert run["cal/ece"] <= 0.03
        assert run["unc/auroc_inverted"] >= 0.80


@pytest.mark.parametrize(
    ("question", "bar"),
    [
        ("auroc_inverted", 0.85),
        ("auroc_rotated", 0.85),
        ("auroc_shuffled", 0.85),
        ("spearman_gaussian_blur", 0.5),
        ("spearman_contrast", 0.5),
    ],
)
def test_the_default_runs_entropy_notices_what_it_should(question, bar):
    runs = DIGITS["runs_of"]("VSimCLR")
    assert mean(run[f"unc/{question}"] for run in runs) >= bar
    assert all(f"unc/{question}/{score}" in run for run in runs for score in DIGITS["SCORES"][1:])


def test_the_tables_of_fashion_mnist_are_those_of_the_files():
    page = (ROOT / "experiments/uncertainty/README.md").read_text()
    assert UNCERTAINTY["short_table"]() in README
    for question in UNCERTAINTY["QUESTIONS"]:
        assert UNCERTAINTY["question_table"](question) in page


@pytest.mark.parametrize(
    ("program", "metric", "bar"),
    [
        ("vsupcon", "unc/retrieval_error", 0.75),
        ("vsimclr-degraded", "unc/retrieval_error", 0.65),
        ("supcon", "unc/retrieval_error/trust", 0.82),
        ("supcon", "unc/out_of_distribution/trust", 0.90),
    ],
)
def test_scores_on_fashion_mnist_meet_their_bars(program, metric, bar):
    runs = UNCERTAINTY["runs"]()[program]
    assert len(runs) == 2
    assert mean(run[metric] for run in runs) >= bar


def test_mahalanobis_distances_find_what_is_unfamiliar():
    for runs in UNCERTAINTY["runs"]().values():
        assert mean(run["unc/out_of_distribution/mahalanobis"] for run in runs) >= 0.95


def test_a_post_hoc_head_costs_no_accuracy_and_beats_what_needs_no_training():
    every = UNCERTAINTY["runs"]()
    for point, head in zip(every["simclr"], every["simclr-posthoc"], strict=True):
        assert head["retrieval/recall_at_1"] == point["retrieval/recall_at_1"]
        assert head["unc/retrieval_error"] > point["unc/retrieval_error/nearest_cosine"]
