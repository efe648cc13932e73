"""Pictures: what is drawn, where, and that each can be drawn from plain arrays."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from probcl import plots


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_terms_are_lines_over_the_epochs():
    _, axes = plots.plot_terms([0, 1, 2], {"loss": [3.0, 2.0, 1.0], "kl": [0.0, 0.1, 0.2]})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["loss", "kl"]
    assert np.array_equal(axes.lines[0].get_xydata(), [[0, 3], [1, 2], [2, 1]])


def test_map_draws_every_point_by_class_and_by_rank():
    points, labels = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3
    _, axes = plots.plot_map(points, labels, uncertainty=torch.as_tensor(points[:, 0] * 1e6))
    assert axes.shape == (1, 2)
    colours = axes[0, 1].collections[0].get_array()
    assert np.array_equal(np.argsort(colours), np.argsort(points[:, 0]))
    assert (colours.min(), colours.max()) == (0, 1)
    _, alone = plots.plot_map(points, labels)
    assert alone.shape == (1, 1)


def test_reliability_places_bins_at_mean_confidence_and_accuracy():
    probabilities = [[0.9, 0.1], [0.92, 0.08], [0.35, 0.65]]
    _, axes = plots.plot_reliability(probabilities, [0, 1, 1])
    drawn = axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(drawn, [[0.65, 1.0], [0.91, 0.5]])
    assert sum(bar.get_height() for bar in axes[1].patches) == 3


def test_severity_draws_a_median_for_each_level():
    _, axes = plots.plot_severity(
        {"blur": {0: torch.tensor([1.0, 2.0, 3.0]), 5: torch.tensor([4.0, 5.0, 9.0])}}, "entropy"
    )
    assert axes.get_ylabel() == "entropy"
    assert np.array_equal(axes.lines[0].get_ydata(), [2, 5])


def test_spectrum_is_relative_to_its_largest_value():
    _, axes = plots.plot_spectrum(torch.tensor([4.0, 2.0, 1.0, 0.0]))
    assert axes.lines[0].get_ydata().tolist() == [1, 0.5, 0.25]
