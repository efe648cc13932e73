"""Progress bars follow the work, and take no time from it."""

import pytest
from lightning.pytorch.callbacks import RichProgressBar
from rich.live import Live

from probcl.evaluation.progress import progress_bar, step, track
from probcl.training.callbacks import ProgressBar


@pytest.fixture
def drawings(monkeypatch):
    """Count how often a bar is drawn."""
    count = []
    draw = Live.refresh
    monkeypatch.setattr(Live, "refresh", lambda live: (count.append(live), draw(live))[1])
    return count


def test_a_step_is_not_drawn_for_itself(drawings):
    with progress_bar():
        for _ in range(500):
            with step("short", 1) as advance:
                advance()
    assert 0 < len(drawings) < 250  # ten a second, and once at the start and at the end


def test_parts_are_gone_through_with_and_without_a_bar():
    for shown in (True, False):
        with progress_bar(shown):
            assert list(track("parts", [1, 2, 3])) == [1, 2, 3]


def test_a_training_bar_is_drawn_a_few_times_a_second(monkeypatch):
    drawn = []
    monkeypatch.setattr(RichProgressBar, "refresh", lambda bar, hard: drawn.append(hard))
    bar = ProgressBar()
    for _ in range(1000):
        bar.refresh()
    assert 0 < len(drawn) < 500
    bar.refresh(hard=True)
    assert drawn[-1]
