"""What the documentation takes from the repository: README, notebooks, experiments, docstrings.

A link in a page is relative to where its file lies in the repository, so that it works on GitHub.
Here every file that is linked to becomes a file of the site, and the link leads there.
"""

import html
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
PAGES = "notebooks/pages/"

_CODE = re.compile(r"^(`{3,}).*?^\1|^(?: {4}.*\n)+", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[([](.*?)\\[])]</\1>', re.DOTALL)

places: dict[str, str] = {}  # in the site, of files of the repository


def place_of(path: str) -> str:
    """Return where a file of the repository is in the site."""
    if path == "README.md":
        return "index.md"
    return re.sub(r"\.ipynb$", ".md", path.removeprefix(PAGES))


def target_of(link: str, path: str) -> str:
    """Return the file of the repository that a link in another one leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def with_links(text: str, of: Callable[[str], str]) -> str:
    """Return a page whose links to files are changed, but for what looks like one in code."""
    parts, end = [], 0
    for code in [*_CODE.finditer(text), None]:
        start = code.start() if code else len(text)
        parts.append(_LINK.sub(lambda link: of(link[1]), text[end:start]))
        if code:
            parts.append(code[0])
            end = code.end()
    return "".join(parts)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add README and notebooks, and whatever file they or a page link to."""
    places.clear()
    texts = {PAGES + file.src_uri: file.content_string for file in files.documentation_pages()}
    places.update({path: place_of(path) for path in texts})

    def add(path: str, content: str | bytes) -> None:
        places[path] = place_of(path)
        file = File.generated(
            config, places[path], content=content, inclusion=InclusionLevel.NOT_IN_NAV
        )
        files.append(file)
        if isinstance(content, str):
            texts[path] = content

    def find(link: str, path: str) -> str:
        target = target_of(link, path)
        file = ROOT / target
        if target not in places and file.is_file():
            if file.suffix == ".ipynb":
                key = {"unique_key": file.stem, "output_files_dir": f"{file.stem}_files"}
                text, resources = MarkdownExporter().from_filename(str(file), resources=key)
                for name, picture in resources["outputs"].items():
                    add(target_of(name, target), picture)
                add(target, text)
            else:
                add(target, file.read_text() if file.suffix == ".md" else file.read_bytes())
        return link

    find("README.md", "")
    for notebook in sorted(ROOT.glob("notebooks/*.ipynb")):
        find(f"notebooks/{notebook.name}", "")
    for path in (todo := list(texts)):
        with_links(texts[path], lambda link, path=path: find(link, path))
        todo += [new for new in texts if new not in todo]


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let each link to a file of the repository lead to its place in the site."""
    here = page.file.src_uri
    path = next(path for path, place in places.items() if place == here)

    def place(link: str) -> str:
        target = places.get(target_of(link, path))
        return posixpath.relpath(target, posixpath.dirname(here)) if target else link

    return with_links(markdown, place)


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML, which browsers show without a script."""
    return _FORMULA.sub(
        lambda found: convert(
            html.unescape(found[2]), display="inline" if found[1] == "span" else "block"
        ),
        content,
    )


class Roles(griffe.Extension):
    """Turns the roles and formulas of docstrings, which are those of Sphinx, into Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """Return a docstring with Markdown's formulas and code in place of Sphinx's."""

    def formula(found: re.Match) -> str:
        return indent(f"$$\n{dedent(found[2] + found[3]).strip()}\n$$\n", found[1])

    text = re.sub(r"^( *)\.\. math::(.*\n)((?:\n?\1 +.*\n?)*)", formula, docstring, flags=re.M)
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r":(?:func|class|meth|mod|attr):`~?([^`]*)`", r"`\1`", text)
    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)
