"""Live figures in the book: a directive for their own pages, and the same figures inside lessons.

On its page (``book/play/<page>.md``) a figure is written as::

    ```{figure-live} schedules
    :alt: What the static picture shows.
    :scripts: maths/schedules figures/digits
    The caption.
    ```

``book/_static/figures/schedules.js`` draws it, after what all figures need and the scripts that it asks for, all
relative to ``book/_static`` and loaded only on the pages that need them. What a browser without JavaScript shows is the
picture ``figures/schedules.png``, unless the option ``picture`` names another.

In a lesson, a paragraph that begins with "Play with it:" and holds a link to such a page gets that page's figures put
below it. In JupyterLab and Colab, which know nothing of this file, and without JavaScript, the link remains.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri
from sphinx.writers.html5 import HTML5Translator

STATIC = Path(__file__).parents[1] / "_static"
CORE = ("maths/random", "figures/theme", "figures/controls", "figures/axes", "figures/core")
INVITATION = "Play with it:"

logger = logging.getLogger(__name__)


class LiveFigure(nodes.General, nodes.Element):
    """A place for a figure; attributes name, scripts, and, unless it is embedded in a lesson, picture and alt."""


class FigureLive(SphinxDirective):
    """``figure-live``: a live figure with a static picture and a caption."""

    required_arguments = 1
    has_content = True
    option_spec = {  # noqa: RUF012  # docutils reads it as a plain attribute
        "alt": directives.unchanged_required,
        "picture": directives.path,
        "scripts": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        """The figure with its caption inside."""
        name = self.arguments[0]
        picture = self.options.get("picture", f"figures/{name}.png")
        scripts = [*CORE, *self.options.get("scripts", "").split(), f"figures/{name}"]
        for file in [*(f"{script}.js" for script in scripts), picture]:
            if not (STATIC / file).is_file():
                self._complain(f"the live figure {name!r} needs book/_static/{file}, which does not exist", name)
        if not self.options.get("alt"):
            self._complain(f"the live figure {name!r} needs the option alt: what its picture shows", name)
        if not self.content:
            self._complain(f"the live figure {name!r} needs a caption", name)
        figure = LiveFigure(name=name, scripts=scripts, picture=picture, alt=self.options.get("alt", ""))
        self.set_source_info(figure)
        self.state.nested_parse(self.content, self.content_offset, figure)
        _known(self.env).setdefault(self.env.docname, []).append((name, scripts))
        return [figure]

    def _complain(self, message: str, name: str) -> None:
        files = sorted(path.stem for path in STATIC.glob("figures/*.js"))
        known = ", ".join(file for file in files if f"figures/{file}" not in CORE)
        hint = f" (scripts in book/_static/figures: {known})" if not (STATIC / f"figures/{name}.js").is_file() else ""
        logger.warning(message + hint, location=self.get_location())


def _known(env: BuildEnvironment) -> dict[str, list[tuple[str, list[str]]]]:
    """The figures of each page that has some: page → (name, scripts)."""
    if not hasattr(env, "live_figures"):
        env.live_figures = {}
    return env.live_figures


def _forget(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    _known(env).pop(page, None)


def _merge(app: Sphinx, env: BuildEnvironment, pages: set[str], other: BuildEnvironment) -> None:
    _known(env).update({page: figures for page, figures in _known(other).items() if page in pages})


def _pages_linked(paragraph: nodes.paragraph, page: str) -> Iterator[str]:
    """The pages of the book that the links of a paragraph lead to."""
    for reference in paragraph.findall(nodes.reference):
        if reference.get("internal") and (address := reference.get("refuri", "")):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), address.split("#")[0]))
            yield re.sub(r"\.html$", "", target)


def _embed(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put live figures below the paragraphs that invite to play."""
    known = _known(app.env)
    if page in known:
        return
    for paragraph in list(doctree.findall(nodes.paragraph)):
        if not paragraph.astext().startswith(INVITATION):
            continue
        figures = [figure for target in _pages_linked(paragraph, page) for figure in known.get(target, [])]
        if not figures:
            logger.warning(f'"{INVITATION}" without a link to a page with a live figure', location=paragraph)
        paragraph["classes"].append("figure-invitation")
        index = paragraph.parent.index(paragraph) + 1
        paragraph.parent.insert(index, [LiveFigure(name=name, scripts=scripts) for name, scripts in figures])


def _load(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Load styles and scripts on the pages that have figures, each once, in order."""
    figures = list(doctree.findall(LiveFigure)) if doctree else []
    if figures:
        app.add_css_file("figures.css")
    for script in dict.fromkeys(script for figure in figures for script in figure["scripts"]):
        app.add_js_file(f"{script}.js", loading_method="defer")


def _visit(self: HTML5Translator, node: LiveFigure) -> None:
    self.body.append(self.starttag(node, "div", CLASS="course-figure", **{"data-figure": node["name"]}))
    if "picture" in node:
        here = self.builder.get_target_uri(self.builder.current_docname)
        address = relative_uri(here, f"_static/{node['picture']}")
        image = self.emptytag(node, "img", "", src=address, alt=node["alt"])
        self.body.append(f'<div class="figure-fallback">{image}</div>\n<div class="figure-caption">\n')


def _depart(self: HTML5Translator, node: LiveFigure) -> None:
    self.body.append("</div>\n</div>\n" if "picture" in node else "</div>\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the parts to Sphinx."""
    app.add_node(LiveFigure, html=(_visit, _depart))
    app.add_directive("figure-live", FigureLive)
    app.connect("env-purge-doc", _forget)
    app.connect("env-merge-info", _merge)
    app.connect("doctree-resolved", _embed)
    app.connect("html-page-context", _load)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
