"""What reports are made of: sections with a picture, and a template."""

import base64
import io
import re
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
import matplotlib.pyplot as plt
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter

__all__ = ["Section", "drawn", "render"]

# What is black to matplotlib takes the ink of the reader's theme, and blue is brighter in the dark.
_INK = (
    "<style>svg{color:#20242a;fill:currentColor;--blue:#0072b2}"
    "@media screen and (prefers-color-scheme:dark){svg{color:#dfe2e6;--blue:#4da3e0}}</style>"
)


class Section(NamedTuple):
    """A picture with a title and how to read it, or the words that stand in its place."""

    title: str
    text: str
    picture: str | None = None
    wide: bool = False


def drawn(title: str, text: str, plot: tuple[Figure, Any], wide: bool = False) -> Section:
    """Return a section whose picture, an SVG image in the page, is a plot's figure; close it."""
    figure, buffer = plot[0], io.StringIO()
    for words in figure.findobj(Text):
        words.set_parse_math(False)  # names come from data: a dollar is no formula
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if axis.get_scale() == "log":  # whose numbers are formulas
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    with plt.rc_context({"svg.hashsalt": title}):  # the same each time
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    plt.close(figure)
    picture = buffer.getvalue()
    start = picture.index(">", picture.index("<svg")) + 1
    body = re.sub(r"(fill|stroke): #000000", r"\1: currentColor", picture[start:])
    body = _INK + re.sub(r"(fill|stroke): #0072b2", r"\1: var(--blue)", body)
    encoded = base64.b64encode((picture[:start] + body).encode()).decode()
    return Section(title, text, f"data:image/svg+xml;base64,{encoded}", wide)


def render(template: str, **values: Any) -> str:
    """Return the page that a template of this package makes of values."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: files(__package__).joinpath(name).read_text()),
    )
    environment.filters["code"] = _code
    return environment.get_template(template).render(**values)


def _code(sentence: str) -> Markup:
    """Return a sentence for a page, what stands between backticks as code."""
    parts = (escape(part) for part in sentence.split("`"))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part
        for number, part in enumerate(parts)
    )
