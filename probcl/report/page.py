"""What reports are made of: sections with a picture, and a template."""

import base64
import io
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

__all__ = ["Section", "drawn", "render"]


class Section(NamedTuple):
    """A picture with a title and how to read it, or the words that stand in its place."""

    title: str
    text: str
    picture: str | None = None


def drawn(title: str, text: str, plot: tuple[Figure, Any]) -> Section:
    """Return a section whose picture, an SVG image in the page, is a plot's figure; close it."""
    figure, buffer = plot[0], io.BytesIO()
    for words in figure.findobj(Text):
        words.set_parse_math(False)  # names come from data: a dollar is no formula
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Section(title, text, f"data:image/svg+xml;base64,{encoded}")


def render(template: str, **values: Any) -> str:
    """Return the page that a template of this package makes of values."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda name: files(__package__).joinpath(name).read_text()),
    )
    return environment.get_template(template).render(**values)
