"""Live figures on a page of their own, opened in Chromium: a fixture for tests that drive them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from _notebooks import ROOT

STATIC = ROOT / "book" / "_static"
PLAY = ROOT / "book" / "play"
PHONE = {"width": 360, "height": 780}
DESKTOP = {"width": 1000, "height": 1200}

CORE = ("maths/random", "figures/theme", "figures/controls", "figures/axes", "figures/core")
"""Scripts that every figure needs, as ``book/_ext/figures.py`` has them."""

_DIRECTIVE = re.compile(r"```\{figure-live\} (\S+)\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """A figure as a page of the book asks for it.

    Attributes:
        name: As in ``data-figure``.
        page: The page's name, below ``book/play``.
        scripts: What it needs before its own script, relative to ``book/_static``, without ``.js``.
        alt: What its static picture shows.
        picture: That picture.
    """

    name: str
    page: str
    scripts: tuple[str, ...]
    alt: str
    picture: Path


def sources() -> dict[str, Source]:
    """All figures of the book, by name."""
    found = {}
    for page in sorted(PLAY.glob("*.md")):
        for name, body in _DIRECTIVE.findall(page.read_text("utf-8")):
            options = dict(re.findall(r"^:(\w+): (.*)$", body, re.MULTILINE))
            scripts = (*CORE, *options.get("scripts", "").split(), f"figures/{name}")
            picture = STATIC / options.get("picture", f"figures/{name}.png")
            found[name] = Source(name, page.stem, scripts, options.get("alt", ""), picture)
    return found


def write_page(name: str, path: Path) -> Path:
    """A page with this figure alone, and the scripts and styles that the book would load."""
    figure = sources()[name]
    scripts = "\n".join(f'<script defer src="{(STATIC / f"{s}.js").as_uri()}"></script>' for s in figure.scripts)
    path.write_text(
        f"""<!doctype html>
        <html lang="en"><head><meta charset="utf-8"><title>{name}</title>
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <link rel="stylesheet" href="{(STATIC / "figures.css").as_uri()}">
        <style>
          * {{ box-sizing: border-box }} body {{ margin: 1rem; font: 16px/1.6 sans-serif }}
          @media (prefers-color-scheme: dark) {{
            body {{ background: #121212; color: #ced6dd; --pst-color-text-muted: #9ca4af }} }}
        </style>
        {scripts}</head><body><main><h1>{name}</h1>
        <div class="course-figure" data-figure="{name}">
        <div class="figure-fallback"><p>{html.escape(figure.alt)}</p></div>
        <div class="figure-caption"><p>The caption.</p></div></div>
        </main></body></html>""",
        "utf-8",
    )
    return path


@dataclass
class Live:
    """A figure in a browser.

    Attributes:
        page: Playwright's page.
        stage: The element that the figure lives in; numbers for tests are among its data attributes.
        outside: Addresses asked for that are not on this disk.
        complaints: What the page said in error.
    """

    page: Any
    stage: Any
    outside: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def control(self, label: str) -> Any:
        """The control with this label."""
        return self.stage.get_by_label(label, exact=True)

    def put(self, label: str, value: object) -> None:
        """Set a slider or a select as a reader's hand does."""
        control = self.control(label)
        if control.evaluate("control => control.tagName") == "SELECT":
            control.select_option(str(value))
        else:
            control.fill(str(value))

    def press(self, label: str, *keys: str) -> None:
        """Keys on a control that has the focus."""
        self.control(label).focus()
        for key in keys:
            self.page.keyboard.press(key)

    def readout(self, label: str) -> str:
        """The text of a readout."""
        return self.stage.locator(f'[data-readout="{label}"]').text_content()

    def data(self, key: str) -> str:
        """One of the stage's data attributes, by its name in JavaScript."""
        return self.stage.evaluate("(stage, key) => stage.dataset[key]", key)

    def number(self, key: str) -> float:
        """That attribute as a number, to its last digit."""
        return float(self.data(key))

    def evaluate(self, expression: str, argument: object = None) -> Any:
        """The value of a JavaScript expression or function; arrays of floats come as lists."""
        return self.page.evaluate(expression, argument)

    def settle(self) -> None:
        """Wait until what is due has been drawn."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


def open_figure(browser: Any, name: str, folder: Path, **options: object) -> Live:
    """Open a figure on a page of its own, from disk; ``options`` are those of a browser context.

    The caller closes ``live.page.context``, and wants ``outside`` and ``complaints`` empty.
    """
    context = browser.new_context(**{"viewport": DESKTOP} | options)
    page = context.new_page()
    live = Live(page, page.locator(f'.course-figure[data-figure="{name}"] > .figure-stage'))

    def remember(request: Any) -> None:
        if urlsplit(request.url).scheme not in {"file", "data", "blob"}:
            live.outside.append(request.url)

    page.on("request", remember)
    page.on("console", lambda said: live.complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: live.complaints.append(str(error)))
    page.goto(write_page(name, folder / f"{name}.html").as_uri())
    live.stage.wait_for(timeout=10_000)
    live.settle()
    return live


def mathematics(browser: Any, names: tuple[str, ...], spread: tuple[str, ...]) -> Iterator[Any]:
    """An empty page with mathematics only, for a fixture: it must not need a document's elements, nor the figures.

    Args:
        browser: A running one.
        names: Files of ``book/_static/maths`` in the order in which they are loaded.
        spread: Those whose functions tests call by their bare names; beside them ``floats(numbers)``.
    """
    page = browser.new_page()
    page.goto("about:blank")
    for name in names:
        page.add_script_tag(path=STATIC / "maths" / f"{name}.js")
    page.evaluate("names => names.forEach(name => Object.assign(globalThis, Course.maths[name]))", list(spread))
    page.evaluate("() => { globalThis.floats = (numbers) => Float64Array.from(numbers); }")
    yield page
    page.close()
