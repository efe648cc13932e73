"""What reports are made of: sections with a picture, a template, files that are whole."""

import base64
import io
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

__all__ = ["Section", "picture", "render"]


@dataclass
class Section:
    """A picture with a title and how to read it, or the words that stand in its place."""

    title: str
    text: str
    picture: str | None = None


def picture(figure: Figure) -> str:
    """Return a figure as an SVG image that an HTML page can hold, and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def render(template: str, **values: Any) -> str:
    """Return the page that a template of this package makes of values."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda name: files(__package__).joinpath(name).read_text()),
    )
    return environment.get_template(template).render(**values)
