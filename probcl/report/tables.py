"""Tables of a report: confusion between classes, corrupted images, units of numbers."""

import re
from typing import Any

import torch

from probcl.report.findings import Findings
from probcl.report.pictures import Tiles, encoded
from probcl.report.story import confused

__all__ = ["confusion_of", "strips_of", "unit_of"]

_MOST_CLASSES, _MOST_PAIRS = 20, 12

# What a number is in, the first whose pattern its name has; the others are shares.
_UNITS = {
    r"^time/": "s",
    r"^unc/(spearman_|corruption/|truth/)|adjusted_rand": "-1 to 1",
    r"^unc/": "0 to 1",  # after it there are names of the user's data
    r"nll|^information/|uniformity": "nats",
    r"angle$": "degrees",
    r"rank$|participation": "dimensions",
    r"^conformal/size": "classes",
    r"brier": "0 to 2",
    r"alignment": "0 to 4",
    r"top\d|recall|map_at_r|ece|mce|purity|coverage|information|concentration": "0 to 1",
}


def unit_of(name: str) -> str:
    """Return the unit, or the range, of a number by its name; "" where it is not known."""
    return next((unit for pattern, unit in _UNITS.items() if re.search(pattern, name)), "")


def confusion_of(found: Findings, tiles: Tiles) -> dict[str, Any] | None:
    """Return how many items of each class get each; of many classes, the pairs most confused."""
    if found.labels is None or found.predicted is None:
        return None
    classes = torch.cat([found.labels, found.predicted]).unique()
    names = [tiles.name(c) for c in classes]
    pairs = [(tiles.name(a), tiles.name(b), n) for a, b, n in confused(found)[:_MOST_PAIRS]]
    if len(classes) > _MOST_CLASSES:
        return {"names": [], "rows": [], "pairs": pairs}
    own, said = (torch.searchsorted(classes, x) for x in (found.labels, found.predicted))
    counts = (own * len(classes) + said).bincount(minlength=len(classes) ** 2)
    table = counts.view(len(classes), -1)
    most = (table - table.diag().diag()).max().clamp_min(1)
    rows = [
        (name, [(int(n), f"{n / most:.2f}" if i != j else "") for j, n in enumerate(row)])
        for i, (name, row) in enumerate(zip(names, table, strict=True))
    ]
    return {"names": names, "rows": rows, "pairs": pairs}


def strips_of(found: Findings) -> list[dict[str, Any]]:
    """Return an image at each severity of each corruption, with the accuracy, the worst first."""
    strips = []
    clean = None if "probe" not in found.wrong else 1 - found.wrong["probe"].float().mean().item()
    for name, images in found.strips.items():
        accuracy = {level: x["top1"] for level, x in found.shift.get(name, {}).items()}
        if accuracy and clean is not None:
            accuracy[0] = clean
        frames = [
            (level, encoded(image), f"{accuracy[level]:.0%}" if level in accuracy else "")
            for level, image in enumerate(images)
        ]
        last = accuracy.get(len(images) - 1, 1.0)
        strips.append({"name": name.replace("_", " "), "frames": frames, "last": last})
    return sorted(strips, key=lambda strip: strip["last"])
