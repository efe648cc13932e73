"""Pictures: what is drawn, where, and that each can be drawn from plain arrays."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from probcl.evaluation.bootstrap import Interval
from probcl.evaluation.calibration import smooth_reliability
from probcl.evaluation.selective import risk_coverage
from probcl.report import plots


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_terms_are_lines_over_the_epochs():
    _, axes = plots.plot_terms([0, 1, 2], {"loss": [3.0, 2.0, 1.0], "kl": [0.0, 0.1, 0.2]})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["loss", "kl"]
    assert np.array_equal(axes.lines[0].get_xydata(), [[0, 3], [1, 2], [2, 1]])


def test_reliability_draws_the_curve_its_band_and_the_images():
    torch.manual_seed(0)
    probabilities = torch.randn(300, 2).softmax(-1)
    curve = smooth_reliability(probabilities, torch.arange(300) % 2)
    _, axes = plots.plot_reliability(curve, probabilities.max(-1).values)
    drawn = axes[0].lines[1]
    np.testing.assert_allclose(drawn.get_xdata(), curve.confidence)
    np.testing.assert_allclose(drawn.get_ydata(), curve.accuracy)
    assert len(axes[0].collections) == 1
    assert sum(bar.get_height() for bar in axes[1].patches) == 300


def test_a_setting_has_a_mark_for_each_run_and_a_line_through_the_means():
    pairs = [(0.1, 1.0), (10.0, 4.0), (0.1, 3.0)]
    _, (numeric,) = plots.plot_setting({"accuracy": pairs}, "beta")
    np.testing.assert_allclose(numeric.lines[0].get_xydata(), [[0.1, 2], [10, 4]])
    np.testing.assert_allclose(numeric.lines[1].get_xydata(), pairs)
    assert (numeric.get_xscale(), numeric.get_xlabel()) == ("log", "beta")
    _, (named,) = plots.plot_setting({"accuracy": [("b", 1.0), (True, 2.0)]}, "kind")
    assert [label.get_text() for label in named.get_xticklabels()] == ["b", "True"]


def test_severity_draws_a_median_for_each_level_of_each_corruption():
    levels = {0: torch.tensor([1.0, 2.0, 3.0]), 5: torch.tensor([4.0, 5.0, 9.0])}
    figure, axes = plots.plot_severity({f"blur {n}": levels for n in range(8)}, "entropy")
    assert figure.get_supylabel() == "entropy"
    assert [panel.get_visible() for panel in axes.flat] == [True] * 8 + [False] * 4
    assert np.array_equal(axes[0, 0].lines[0].get_ydata(), [2, 5])


def test_risk_is_drawn_against_coverage_beside_the_best():
    curve = risk_coverage([0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1])
    _, axes = plots.plot_risk_coverage({"entropy": curve})
    np.testing.assert_allclose(axes.lines[0].get_ydata(), curve.risk)
    np.testing.assert_allclose(axes.lines[1].get_ydata(), curve.best)
    assert axes.get_legend().get_texts()[0].get_text() == f"entropy ({curve.area:.4f})"


def test_answers_have_their_intervals_and_the_best_a_mark():
    answers = {
        "entropy": {"ambiguity": Interval(0.8, 0.7, 0.85)},
        "energy": {"ambiguity": Interval(0.6, 0.5, 0.7)},
    }
    _, axes = plots.plot_answers(answers)
    (panel,) = axes
    assert panel.lines[-1].get_xdata() == [0.8]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["entropy", "energy"]


def test_shift_draws_every_corruption_and_their_mean():
    shift = {
        name: {s: {"top1": 1 - s * rate, "ece": s * rate} for s in (1, 2)}
        for name, rate in (("fog", 0.1), ("snow", 0.3))
    }
    _, axes = plots.plot_shift(shift)
    np.testing.assert_allclose(axes[0].lines[-1].get_ydata(), [0.8, 0.6])
    assert {panel.texts[0].get_text() for panel in axes} == {"snow"}


def test_sets_out_of_distribution_have_a_box_each():
    _, axes = plots.plot_out_of_distribution([0.0, 1.0], {"noise_only": [2.0, 3.0]}, "entropy")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["noise only", "test set"]


def test_runs_that_none_is_better_than_are_joined():
    points = {"a": [(0.9, 0.6), (0.9, 0.8)], "b": [(0.8, 0.9)], "c": [(0.7, 0.5)]}
    _, axes = plots.plot_pareto(points, "accuracy", "AUROC")
    front = axes.lines[-1].get_xydata()
    np.testing.assert_allclose(front, [[0.8, 0.9], [0.9, 0.7]])


def test_spectrum_is_relative_to_its_largest_value():
    _, axes = plots.plot_spectrum(torch.tensor([4.0, 2.0, 1.0, 0.0]))
    assert axes.lines[0].get_ydata().tolist() == [1, 0.5, 0.25]


def test_curves_beyond_the_colours_are_drawn_too():
    terms = {f"term {number}": [float(number)] * 3 for number in range(16)}
    _, axes = plots.plot_terms([0, 1, 2], terms)
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(axes.lines) == len(styles) == 16
    error = torch.arange(20) % 3 == 0
    curves = {f"score {seed}": risk_coverage(torch.rand(20), error) for seed in range(9)}
    _, axes = plots.plot_risk_coverage(curves)
    assert len(axes.lines) == 10  # and the best order


def test_corruptions_may_differ_in_their_severities():
    fog = {1: {"top1": 0.8, "ece": 0.1}, 5: {"top1": 0.4, "ece": 0.3}}
    shift = {"fog": fog, "snow": {5: {"top1": 0.2, "ece": 0.1}, 1: {"top1": 0.6, "ece": 0.2}},
             "blur": {1: {"top1": 1.0, "ece": 0.0}}}  # fmt: skip
    _, axes = plots.plot_shift(shift)
    *drawn, mean = (line.get_xydata().tolist() for line in axes[0].lines)
    assert drawn == [[[1, 0.8], [5, 0.4]], [[1, 0.6], [5, 0.2]], [[1, 1.0]]]
    np.testing.assert_allclose(mean, [[1, 0.8], [5, 0.3]])


def test_chance_is_where_the_measure_of_a_question_has_it():
    answers = {
        "entropy": {"ambiguity": Interval(0.8, 0.7, 0.85), "truth": Interval(0.3, 0.2, 0.4)},
        "gate": {"truth": Interval(0.1, 0.0, 0.2)},
    }
    _, axes = plots.plot_answers(answers)
    assert [panel.lines[0].get_xdata()[0] for panel in axes] == [0.5, 0]
