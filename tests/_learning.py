"""Quizzes and the reader's progress in Chromium: a watched window, and a quiz on a page of its own."""

from __future__ import annotations

import html
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from _notebooks import ROOT
from axe_playwright_python.sync_playwright import Axe

from helpers import quizzes

STATIC = ROOT / "book" / "_static"
THEME = ("pydata-sphinx-theme", "sphinx-book-theme")
LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
}


OURS = ("progress.js", "progress-marks.js", "progress-page.js", "quiz.js")


@contextmanager
def watched(browser: Any, only_ours: bool = False, **options: Any) -> Iterator[Any]:
    """A window of the browser; in the end nothing may have been asked for outside, and nothing said in error.

    With ``only_ours``, errors that none of our scripts had a part in are forgiven.
    """
    context = browser.new_context(**options)
    page, outside, complaints = context.new_page(), [], []
    inside = {"file", "data", "blob"}
    page.on("request", lambda request: urlsplit(request.url).scheme in inside or outside.append(request.url))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(error.stack or str(error)))
    try:
        yield page
    finally:
        context.close()
    assert outside == [], outside
    complaints = [said for said in complaints if not only_ours or any(name in said for name in OURS)]
    assert complaints == [], complaints


def _stylesheets() -> Iterator[Path]:
    for theme in THEME:
        package = theme.replace("-", "_")
        [folder] = importlib.util.find_spec(package).submodule_search_locations
        yield Path(folder, "theme", package, "static", "styles", f"{theme}.css")
    yield from (STATIC / name for name in ("learning.css", "course.css"))


def write_quiz_page(lesson: int, path: Path, theme: str = "light") -> str:
    """A page with this quiz alone, as the cell of the lesson shows it, in the book's styles; returns its address."""
    styles = "\n".join(f'<link rel="stylesheet" href="{sheet.as_uri()}">' for sheet in _stylesheets())
    scripts = "\n".join(f'<script src="{(STATIC / name).as_uri()}"></script>' for name in ("progress.js", "quiz.js"))
    page = f"""<!doctype html>
    <html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>Quiz {lesson}</title>
    <meta name="viewport" content="width=device-width, initial-scale=1">{styles}{scripts}</head>
    <body><main class="bd-content"><article class="bd-article"><h1>Quiz {lesson}</h1>
    <div class="cell"><div class="cell_input">code</div>
    <div class="cell_output"><div class="output text_html">{quizzes.show(lesson)._repr_html_()}</div></div></div>
    </article></main></body></html>"""
    path.write_text(page, "utf-8")
    return path.as_uri()


def plain(markup: str) -> str:
    """The words of a piece of HTML."""
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


def barriers(page: Any) -> list[str]:
    """Serious problems that axe-core finds in the main part of the page."""
    # axe would read style sheets anew, which a page from disk may not.
    found = Axe().run(page, context="main", options={"preload": False}).response["violations"]
    return [f"{rule['id']}: {rule['nodes'][0]['html']}" for rule in found if rule["impact"] in {"serious", "critical"}]
