"""Data with a known posterior through the command: the report tells how well it was recovered."""

import json
from pathlib import Path

import torch

from probcl.cli import main
from probcl.training import Synthetic


def test_items_are_always_the_same_and_views_always_new():
    data, again = Synthetic(items=50, tested=20), Synthetic(items=50, tested=20)
    for part, other in zip(data.sets, again.sets, strict=True):
        assert torch.equal(part.images, other.images)
    batch = data.sets[0].__getitems__([0, 3])
    (fixed,) = data._views(batch, training=False)
    assert torch.equal(fixed, data._views(batch, training=False)[0])
    first, second = data._views(batch, training=True)
    assert first.shape == second.shape == fixed.shape == (2, 11)
    assert not torch.equal(first, second)


def test_the_truth_is_that_of_the_generator():
    data = Synthetic(tested=30)
    view = data.sets[1].images[:, data.dim :]
    _, concentration = data.source.unmix(view)
    torch.testing.assert_close(data.truth, concentration, rtol=1e-3, atol=1e-3)
    assert data.truth.min() >= 16
    assert data.truth.max() <= 32


def test_the_report_gives_the_rank_correlation_and_that_of_the_untrained_encoder(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    main([
        "fit", "--data=Synthetic", "--data.tested=500", "--data.items=10000",
        "--model.program=ExpectedLikelihood", "--model.program.encoder=MLP",
        "--model.program.posterior=VonMisesFisherHead", "--model.program.posterior.dim=10",
        "--trainer.max_epochs=10", "--trainer.enable_progress_bar=false", "--run_dir=run",
    ])  # fmt: skip
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["truth/rank_correlation"] > 0.9
    assert abs(metrics["truth/rank_correlation_untrained"]) < 0.5
    assert metrics["unc/truth"] == metrics["truth/rank_correlation"]
    assert "before it was trained" in Path("run/report.html").read_text()
