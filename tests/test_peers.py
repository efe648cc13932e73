"""What probcl equals in its peers: the rows of the table "Coming from", held to account.

Each row is a function that returns the peer's value and ours; ``python tests/test_peers.py``
prints the table.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from probcl.evaluation import (
    adaptive_calibration_error,
    auroc,
    average_precision,
    brier_score,
    calibration_error,
    map_at_r,
    maximum_calibration_error,
    nearest,
    negative_log_likelihood,
    neighbour_vote,
    recall_at_1,
    risk_coverage,
    top_k_accuracy,
)
from probcl.objectives import info_nce, sup_con
from probcl.sphere import normalize

PAGE = Path(__file__).parent.parent / "notebooks/pages/coming_from.md"
TEMPERATURE = 0.2
COLUMNS = ("coming from", "in probcl", "what differs")
ROWS: dict[str, tuple[str, str, str, float, Callable[[], tuple]]] = {}


def row(theirs: str, ours: str, package: str, differs: str = "", tolerance: float = 1e-12):
    """Add a row to the table: their name, ours, what they need installed, and how near they are."""

    def add(compare: Callable[[], tuple]) -> Callable[[], tuple]:
        ROWS[theirs] = (ours, package, differs, tolerance, compare)
        return compare

    return add


@cache
def views(count: int) -> Tensor:
    """Return unit vectors ``(count, 24, 6)`` of float64."""
    generator = torch.Generator().manual_seed(count)
    return normalize(torch.randn(count, 24, 6, dtype=torch.float64, generator=generator))


@cache
def labels() -> Tensor:
    """Return five classes of 24 items, the last of which has one item."""
    return torch.cat([torch.arange(23) % 4, torch.tensor([4])])


@cache
def predictions() -> tuple[Tensor, Tensor]:
    """Return class probabilities ``(500, 4)`` without ties, and labels that they half know."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(500, 4, generator=generator)
    noise = -torch.rand(500, 4, generator=generator).log().neg().log()
    return logits.double().softmax(-1), (logits + noise).argmax(-1)


def stacked(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return all views in one column, and the number of the item of each."""
    return z.flatten(0, 1), torch.arange(z.shape[1]).repeat(z.shape[0])


@row("lightly `NTXentLoss(t)(a, b)`", "`info_nce(torch.stack([a, b]), t)`", "lightly",
     "theirs normalises", 1e-6)  # fmt: skip
def _():
    from lightly.loss import NTXentLoss

    return NTXentLoss(TEMPERATURE)(*views(2)), info_nce(views(2), TEMPERATURE)


@row("pytorch-metric-learning `NTXentLoss(t)`, labels the items' numbers", "`info_nce(z, t)`",
     "pytorch_metric_learning", "theirs normalises")  # fmt: skip
def _():
    from pytorch_metric_learning.losses import NTXentLoss

    return NTXentLoss(TEMPERATURE)(*stacked(views(2))), info_nce(views(2), TEMPERATURE)


@row("pytorch-metric-learning `SupConLoss(t)`, one view or more", "`sup_con(z, labels, t)`",
     "pytorch_metric_learning", "theirs normalises; the anchors without a positive are left out "
     "of both")  # fmt: skip
def _():
    from pytorch_metric_learning.losses import SupConLoss

    loss = SupConLoss(TEMPERATURE)
    theirs = [loss(views(v).flatten(0, 1), labels().repeat(v)) for v in (1, 2, 3)]
    return theirs, [sup_con(views(v), labels(), TEMPERATURE) for v in (1, 2, 3)]


@row("SupContrast `SupConLoss(t, base_temperature=b)`", "`(t / b) * sup_con(z, labels, t)`", "",
     "by its formula: its code is no package")  # fmt: skip
def _():
    z, names = views(2).flatten(0, 1), labels().repeat(2)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-math.inf)
    positive = (names == names[:, None]).fill_diagonal_(False)
    log_share = (logits - logits.logsumexp(1, keepdim=True)).where(positive, 0)
    theirs = -(TEMPERATURE / 0.07) * (log_share.sum(1) / positive.sum(1)).mean()
    return theirs, TEMPERATURE / 0.07 * sup_con(views(2), labels(), TEMPERATURE)


@row("solo-learn `simclr_loss_func`, labels as indexes",
     '`sup_con(z, labels, t, average="inside")`', "",
     "by its formula: theirs is less by the mean logarithm of the number of positives")  # fmt: skip
def _():
    z, names = views(2).flatten(0, 1), labels().repeat(2)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-math.inf)
    positive = (names == names[:, None]).fill_diagonal_(False)
    above = logits.where(positive, -math.inf).logsumexp(1)
    theirs = (logits.logsumexp(1) - above).mean() + positive.sum(1).double().log().mean()
    return theirs, sup_con(views(2), labels(), TEMPERATURE, average="inside")


@row("torchmetrics `MulticlassCalibrationError`, `norm` l1, max",
     "`calibration_error`, `maximum_calibration_error`", "torchmetrics", "", 1e-6)  # fmt: skip
def _():
    from torchmetrics.functional.classification import multiclass_calibration_error

    p, y = predictions()
    theirs = [multiclass_calibration_error(p, y, 4, n_bins=15, norm=n) for n in ("l1", "max")]
    return theirs, [calibration_error(p, y), maximum_calibration_error(p, y)]


@row("torch-uncertainty `CalibrationError`, `AdaptiveCalibrationError`",
     "`calibration_error`, `adaptive_calibration_error`", "torch_uncertainty",
     "ours does not depend on the order of ties", 1e-6)  # fmt: skip
def _():
    from torch_uncertainty.metrics import AdaptiveCalibrationError, CalibrationError

    p, y = predictions()
    kinds = [CalibrationError("multiclass", num_classes=4, num_bins=15),
             AdaptiveCalibrationError("multiclass", num_classes=4, num_bins=15)]  # fmt: skip
    return [kind(p, y) for kind in kinds], [
        calibration_error(p, y),
        adaptive_calibration_error(p, y),
    ]


@row("torch-uncertainty `BrierScore`, `CategoricalNLL`",
     "`brier_score`, `negative_log_likelihood`", "torch_uncertainty", "", 1e-6)  # fmt: skip
def _():
    from torch_uncertainty.metrics import BrierScore, CategoricalNLL

    p, y = predictions()
    return [BrierScore(4)(p, y), CategoricalNLL()(p, y)], [
        brier_score(p, y), negative_log_likelihood(p, y),
    ]  # fmt: skip


@row("torch-uncertainty `AURC`", "`risk_coverage(score, error).area`", "torch_uncertainty",
     "theirs, by trapezoids, is `(n area - (risk_1 + risk_n) / 2) / (n - 1)`", 1e-6)  # fmt: skip
def _():
    from torch_uncertainty.metrics import AURC

    p, y = predictions()
    curve = risk_coverage(1 - p.max(-1).values, p.argmax(-1) != y)
    n = len(y)
    ours = (n * curve.area - (curve.risk[0] + curve.risk[-1]) / 2) / (n - 1)
    return AURC()(p, y), ours


@row("scikit-learn `brier_score_loss`, two classes", "`brier_score(p, y) / 2`", "sklearn",
     "ours sums over both classes")  # fmt: skip
def _():
    from sklearn.metrics import brier_score_loss

    p, y = predictions()
    two = torch.stack([1 - p[:, 0], p[:, 0]], -1)
    return brier_score_loss(y == 0, p[:, 0]), brier_score(two, (y == 0).long()) / 2


@row("scikit-learn `top_k_accuracy_score`", "`top_k_accuracy(p, y, k)`", "sklearn",
     "a tie counts by the share of its orders")  # fmt: skip
def _():
    from sklearn.metrics import top_k_accuracy_score

    p, y = predictions()
    return top_k_accuracy_score(y, p, k=2), top_k_accuracy(p, y, k=2)


@row("scikit-learn `roc_auc_score`, `average_precision_score` of scores of outliers",
     "`auroc(inside, outside)`, `average_precision(inside, outside)`", "sklearn")  # fmt: skip
def _():
    from sklearn.metrics import average_precision_score, roc_auc_score

    score, outside = predictions()[0][:, 0], torch.arange(500) % 3 == 0
    parts = score[~outside], score[outside]
    theirs = [measure(outside, score) for measure in (roc_auc_score, average_precision_score)]
    return theirs, [auroc(*parts), average_precision(*parts)]


@row('scikit-learn `KNeighborsClassifier(k, metric="cosine")`',
     "`neighbour_vote(nearest(query, reference, k), labels)`", "sklearn", "", 1e-7)  # fmt: skip
def _():
    from sklearn.neighbors import KNeighborsClassifier

    first, second = views(2)
    model = KNeighborsClassifier(3, metric="cosine").fit(first, labels())
    return model.predict_proba(second), neighbour_vote(nearest(second, first, 3), labels())


@row("lightly `knn_predict(..., knn_k=k, knn_t=t)`",
     "`neighbour_vote(nearest(query, reference, k), labels, temperature=t)`", "lightly",
     "theirs returns the order of the classes, ours their shares")  # fmt: skip
def _():
    from lightly.utils.benchmarking import knn_predict

    first, second = views(2)
    theirs = knn_predict(second, first.T, labels(), num_classes=5, knn_k=5, knn_t=0.1)
    ours = neighbour_vote(nearest(second, first, 5), labels(), temperature=0.1)
    return theirs[:, 0], ours.argmax(-1)


@row("pytorch-metric-learning `AccuracyCalculator`: `precision_at_1`, "
     "`mean_average_precision_at_r`", "`recall_at_1`, `map_at_r(..., queries=N)`",
     "pytorch_metric_learning",
     "a query whose class has no other item counts 0 here and is left out there", 1e-6)  # fmt: skip
def _():
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    z, y = views(2)[0], labels()
    names = ("precision_at_1", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(include=names, k="max_bin_count",
                                    knn_func=CustomKNN(CosineSimilarity()))  # fmt: skip
    theirs = calculator.get_accuracy(z, y)
    share = 23 / 24  # of the queries that are not alone
    return [theirs[name] * share for name in names], [recall_at_1(z, y), map_at_r(z, y, 24)[0]]


@pytest.mark.parametrize("peer", ROWS)
def test_the_row_holds(peer):
    _, package, _, tolerance, compare = ROWS[peer]
    if package:
        pytest.importorskip(package, reason=f"needs {package}: install it beside probcl")
    theirs, ours = (torch.as_tensor(value, dtype=torch.float64) for value in compare())
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def table() -> str:
    """Return the rows as the page shows them."""
    rows = [COLUMNS, ("---",) * 3, *((theirs, r[0], r[2]) for theirs, r in ROWS.items())]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def test_the_page_shows_the_table():
    assert table() in PAGE.read_text()


if __name__ == "__main__":
    print(table(), end="")
