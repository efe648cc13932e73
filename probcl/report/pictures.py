"""Small images within a page: one item each, as data that needs no other file."""

import base64
import io
from collections.abc import Iterable
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from probcl.report.choice import choose
from probcl.report.findings import Findings

__all__ = ["Tile", "Tiles", "encoded"]

_SIDE = 56  # in a page, or the nearest multiple of an image's own


class Tile(NamedTuple):
    """An item as a page shows it.

    Attributes:
        picture: Its image as data; "" where there is none.
        what: What it is, in words, for those who do not see it.
        caption: A few words under it.
        state: ``wrong``, ``right`` or "".
    """

    picture: str
    what: str
    caption: str
    state: str = ""


class Tiles:
    """Makes tiles of the items of what was found."""

    def __init__(self, found: Findings) -> None:
        self.found = found
        pictured = [] if found.pictured is None else found.pictured.tolist()
        self.place = {position: n for n, position in enumerate(pictured)}
        self.made: dict[int, str] = {}

    @property
    def side(self) -> int:
        """The width of an image in the page, in pixels: a multiple of its own."""
        if self.found.images is None:
            return _SIDE
        own = max(self.found.images.shape[-2:])
        return own * max(1, round(_SIDE / own))

    def picture(self, position: int) -> str:
        """Return the image of an item as data, or "" if there is none."""
        if self.found.images is None or position not in self.place:
            return ""
        if position not in self.made:
            self.made[position] = encoded(self.found.images[self.place[position]])
        return self.made[position]

    def name(self, label: Any) -> str:
        """Return the name of a class."""
        classes, number = self.found.classes, int(label)
        return classes[number] if number < len(classes) else str(number)

    def tile(self, position: int, caption: str | None = None, state: str | None = None) -> Tile:
        """Return an item with its class, and the probe's where that is another one."""
        found = self.found
        what, own, shown = f"test item {int(found.rows[position])}", "", ""
        if found.labels is not None:
            own = self.name(found.labels[position])
            what += f", class {own}"
        if found.predicted is not None and found.confidence is not None:
            said = self.name(found.predicted[position])
            what += f", the probe says {said} ({found.confidence[position]:.0%})"
            wrong = said != own
            shown = f"{own} ✗ {said}" if wrong else own
            state = ("wrong" if wrong else "right") if state is None else state
        shown = shown or own or f"#{int(found.rows[position])}"
        return Tile(self.picture(position), what, caption or shown, state or "")

    def tiles(self, positions: Iterable[int]) -> list[Tile]:
        """Return several items."""
        return [self.tile(int(position)) for position in positions]

    def rows(self) -> list[dict[str, Any]]:
        """Return each query with its nearest, and the match probability or cosine under each."""
        found, rows = self.found, []
        if found.queries is None or found.neighbours is None or found.cosine is None:
            return []
        shown, digits = (found.cosine, 3) if found.match is None else (found.match, 2)
        for n, (query, why) in enumerate(self.reasons.items()):
            near = []
            for place, other in enumerate(found.neighbours[n].tolist()):
                value = shown[n, place].item()
                same = None
                if found.labels is not None:
                    same = bool(found.labels[other] == found.labels[query])
                state = "" if same is None else "right" if same else "wrong"
                near.append(self.tile(other, f"{value:.{digits}f}", state))
            rows.append({"why": why, "query": self.tile(query, state=""), "near": near})
        return rows

    @property
    def reasons(self) -> dict[int, str]:
        """Queries with why they are shown."""
        chosen = choose(self.found).queries
        kept = [] if self.found.queries is None else self.found.queries.tolist()
        return {query: chosen.get(query, "") for query in kept}


def encoded(image: Tensor) -> str:
    """Return an image ``(channels, height, width)`` as data: JPEG if it is large and coloured."""
    array = image.permute(1, 2, 0).squeeze(-1).numpy()
    small = array.ndim == 2 or array.size < 1000
    kind, buffer = "PNG" if small else "JPEG", io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **({"optimize": True} if small else {"quality": 85}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
