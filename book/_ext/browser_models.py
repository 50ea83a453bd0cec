"""Demos that run models in the reader's browser, also where the book is opened from disk and there is no network.

A page asks for a demo by the directive ``browser-demo``; it becomes a live figure (see ``figures.py``), which loads the
packs that ``browser_packs.py`` has made::

    ```{browser-demo} digits-studio
    :alt: What the recorded film shows.
    The caption.
    ```

Where npm cannot be reached (or the extra ``export`` is missing), the page shows a film that was recorded with PyTorch
instead, and says so.
"""

from __future__ import annotations

import json
from typing import Any

import browser_packs as packs
from docutils import nodes
from docutils.parsers.rst import directives
from figures import CORE
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri
from sphinx.writers.html5 import HTML5Translator

log = logging.getLogger(__name__)


class Demo(nodes.General, nodes.Element):
    """A place for a demo; attributes name and alt, the caption inside."""


class BrowserDemo(SphinxDirective):
    """``browser-demo``: a live figure that runs a model."""

    required_arguments = 1
    has_content = True
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012  # docutils reads it as a plain attribute

    def run(self) -> list[nodes.Node]:
        """The demo with its caption inside."""
        name = self.arguments[0]
        if name not in packs.DEMOS:
            raise self.error(f"expected a demo out of {', '.join(packs.DEMOS)}, got {name!r}")
        if not self.content or not self.options.get("alt"):
            raise self.error(f"the demo {name} needs a caption, and the option alt: what its picture shows")
        demo = Demo(name=name, alt=self.options["alt"])
        self.set_source_info(demo)
        self.state.nested_parse(self.content, self.content_offset, demo)
        return [demo]


def _visit(self: HTML5Translator, node: Demo) -> None:
    self.body.append(self.starttag(node, "div", CLASS="course-figure", **{"data-figure": node["name"]}))
    here = self.builder.get_target_uri(self.builder.current_docname)
    image = self.emptytag(node, "img", "", src=relative_uri(here, f"_static/film-{node['name']}.png"), alt=node["alt"])
    self.body.append(f'<div class="figure-fallback">{image}</div>\n<div class="figure-caption">\n')


def _depart(self: HTML5Translator, node: Demo) -> None:
    self.body.append("</div>\n</div>\n")


def _prepare(app: Sphinx) -> None:
    """Make all packs, and let Sphinx copy them."""
    if app.builder.format != "html":
        return
    packs.say = lambda text: log.info("browser models: %s", text)
    app.demo_packs, missing = {}, None  # type: ignore[attr-defined]
    with packs.locked():
        for demo in packs.DEMOS:
            app.config.html_static_path.append(str(packs.film_of(demo)))
            try:
                made = packs.packs_of(demo)
            except packs.Unavailable as error:
                missing = str(error)
                continue
            for name, folder in made.items():
                if name not in app.demo_packs:  # type: ignore[attr-defined]
                    app.config.html_static_path.append(str(folder))
                    files = sorted(folder.iterdir(), key=packs.part_number)
                    app.demo_packs[name] = [[f.name, f.stat().st_size] for f in files]  # type: ignore[attr-defined]
    if missing:
        log.info("browser models: %s. The demos show recorded films.", missing)


SCRIPTS = {
    "": ("maths/noise", "demo/lzma", "demo/packs", "demo/worker", "demo/engine", "demo/pictures", *CORE),
    "digits-studio": ("maths/ddim", "maths/edm", "demo/runs", "demo/film", "demo/studio"),
    "digits-easel": ("maths/ink", "demo/film", "demo/easel"),
    "cifar10-studio": ("maths/ddim", "maths/edm", "demo/runs", "demo/film", "demo/studio"),
}
"""The scripts of all demos, and of each."""


def _add_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    demos = [demo["name"] for demo in doctree.findall(Demo)] if doctree else []
    if not demos:
        return
    wanted = {name for demo in demos for name in packs.DEMOS[demo]}
    files = {name: files for name, files in app.demo_packs.items() if name in wanted}  # type: ignore[attr-defined]
    # Readers learn that there is no runtime; the builder's troubles with it are for the log.
    manifest = {"folder": "../" * page.count("/") + "_static/", "packs": files}
    for style in ("figures.css", "demo/demo.css"):
        app.add_css_file(style)
    app.add_js_file(None, body=f"globalThis.Course ??= {{}}; Course.manifest = {json.dumps(manifest)};")
    for script in dict.fromkeys(script for demo in ("", *demos) for script in SCRIPTS[demo]):
        app.add_js_file(f"{script}.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the parts to Sphinx."""
    app.add_node(Demo, html=(_visit, _depart))
    app.add_directive("browser-demo", BrowserDemo)
    app.connect("builder-inited", _prepare)
    app.connect("html-page-context", _add_scripts)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
