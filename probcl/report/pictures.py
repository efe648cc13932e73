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
        row: Its row, which stands for it where there is no picture.
    """

    picture: str
    what: str
    caption: str
    state: str
    row: int


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

    @property
    def rows_are(self) -> str:
        """From where rows are counted: those that are not given are of the test items."""
        rows = self.found.rows.tolist()
        among = "test items" if rows == list(range(len(rows))) else "items of the data"
        return f"Rows are counted from 0 among the {among}."

    def name(self, label: Any) -> str:
        """Return the name of a class."""
        return self.found.class_name(label)

    def tile(self, position: int, caption: str | None = None, state: str | None = None) -> Tile:
        """Return an item with its class, and the probe's where that is another one."""
        found, row = self.found, int(self.found.rows[position])
        what, own, shown = f"row {row}", "", ""
        if found.labels is not None:
            own = self.name(found.labels[position])
            what += f", class {own}"
        if found.predicted is not None and found.confidence is not None:
            said = self.name(found.predicted[position])
            what += f", the probe says {said} ({found.confidence[position]:.0%})"
            wrong = "probe" in found.wrong and bool(found.wrong["probe"][position])
            shown = f"{own} ✗ {said}" if wrong else own
            state = ("wrong" if wrong else "right") if state is None else state
        picture = self.picture(position)
        shown = shown or own or (f"#{row}" if picture else "")
        return Tile(picture, what, caption or shown, state or "", row)

    def tiles(self, positions: Iterable[int]) -> list[Tile]:
        """Return several items."""
        return [self.tile(int(position)) for position in positions]

    def listed(self, positions: Iterable[int], score: str) -> list[dict[str, Any]]:
        """Return several items in words: row, score, class, and what the probe says."""
        found, told = self.found, []
        for position in positions:
            own, said = (
                "" if classes is None else self.name(classes[position])
                for classes in (found.labels, found.predicted)
            )
            told.append({
                "row": int(found.rows[position]), "score": f"{found.scores[score][position]:.3g}",
                "own": own, "said": said, "wrong": self.tile(position).state == "wrong",
            })  # fmt: skip
        return told

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
                own, state = "", ""
                if found.labels is not None:
                    same = bool(found.labels[other] == found.labels[query])
                    state = "right" if same else "wrong"
                    own = "" if found.images is not None else self.name(found.labels[other])
                near.append(self.tile(other, f"{own} {value:.{digits}f}".strip(), state))
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
