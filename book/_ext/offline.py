"""Let the built book work from disk with no network.

Mathematics is set by a MathJax that is part of the book: one file of it, the one that draws with SVG and so needs
no fonts, is copied from the package ``sphinx-mathjax-offline`` when the book is built. (That package's own extension
copies every variant, 25 MB, and chooses one whose fonts browsers may refuse to load from disk.)
"""

from __future__ import annotations

from importlib.metadata import files
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

MATHJAX = "tex-svg-full.js"


def _mathjax() -> Path:
    for file in files("sphinx-mathjax-offline") or []:
        if file.name == MATHJAX:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the package sphinx-mathjax-offline holds no {MATHJAX}")


def _name_the_lab(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """The theme calls the button that opens JupyterLab after its host; say what opens."""
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("text") == "Binder":
                button["text"] = "JupyterLab"


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the parts to Sphinx."""
    app.config.html_static_path.append(str(_mathjax()))
    app.config.mathjax_path = MATHJAX
    app.config.mathjax_options = {"defer": "defer"}
    app.connect("html-page-context", _name_the_lab, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
