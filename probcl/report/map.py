"""The map of the embeddings: an SVG within the page, whose items one can point at."""

import json
from typing import Any

import torch

from probcl.report.choice import finder
from probcl.report.findings import Findings
from probcl.report.pictures import Tiles

__all__ = ["map_of"]

_WIDTH, _HEIGHT, _MARGIN = 1000, 620, 40
_SMALLEST, _LARGEST = 7, 34  # radius of a posterior's disc
_NAMED = 20  # classes


def map_of(found: Findings, tiles: Tiles) -> dict[str, Any] | None:
    """Return what the template of the map takes; None where there is no map."""
    if found.coordinates is None or found.mapped is None:
        return None
    score = finder(found, "probe")
    points = found.coordinates - found.coordinates.amin(0)
    points = points / points.amax(0).clamp_min(1e-9)
    size = torch.tensor([_WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN])
    points = points * size + _MARGIN
    mapped = found.mapped
    rank = torch.zeros(len(mapped))
    if score is not None:
        rank = found.scores[score][mapped].argsort().argsort() / max(1, len(mapped) - 1)
    labels = torch.zeros(len(mapped)).long() if found.labels is None else found.labels[mapped]
    classes = labels.unique()
    drawn, told = [], []
    for n, position in enumerate(mapped.tolist()):
        tile = tiles.tile(position)
        drawn.append({
            "x": f"{points[n, 0]:.0f}", "y": f"{points[n, 1]:.0f}",
            "hue": _hue(int((classes == labels[n]).nonzero()[0]), len(classes)),
            "rank": f"{rank[n]:.2f}", "radius": _radius(found, n), "wrong": tile.state == "wrong",
        })  # fmt: skip
        words = [tile.what]
        if score is not None:
            words.append(f"{score} {found.scores[score][position]:.3g}, rank {rank[n]:.0%}")
        if found.spread is not None:
            words.append(f"1 - |E z| {found.spread[n]:.3g}")
        told.append([tile.picture, *words])
    return {
        "width": _WIDTH, "height": _HEIGHT, "points": drawn, "score": score,
        "spread": found.spread is not None, "count": len(found.rows),
        "names": [] if found.labels is None else _names(points, labels, classes, tiles),
        "told": json.dumps(told).replace("<", "\\u003c"),
        "order": json.dumps(rank.argsort(descending=True).tolist()),
    }  # fmt: skip


def _hue(place: int, count: int) -> int:
    return round(360 * place / max(1, count) + 210) % 360


def _radius(found: Findings, place: int) -> str:
    """Return the radius of a posterior's disc, in proportion to its spread among those drawn."""
    if found.spread is None:
        return ""
    low, high = found.spread.aminmax()
    share = (found.spread[place] - low) / (high - low).clamp_min(1e-9)
    return f"{_SMALLEST + (_LARGEST - _SMALLEST) * share.item():.0f}"


def _names(
    points: torch.Tensor, labels: torch.Tensor, classes: torch.Tensor, tiles: Tiles
) -> list[dict[str, str]]:
    centres = [(c, points[labels == c].median(0).values) for c in classes[:_NAMED]]
    return [{"x": f"{x:.0f}", "y": f"{y:.0f}", "name": tiles.name(c)} for c, (x, y) in centres]
