"""The extension that puts live figures into pages: the right scripts, the right places, clear words where it cannot."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _browser import launched
from _figures import CORE, STATIC, sources
from _notebooks import LESSONS, ROOT, notebook

CONF = f"""
import sys
sys.path.insert(0, {str(ROOT / "book" / "_ext")!r})
extensions = ["myst_parser", "figures"]
html_static_path = [{str(STATIC)!r}]
html_theme = "basic"
suppress_warnings = ["toc.not_readable"]
"""
PLAY = """# Play

```{figure-live} schedules
:alt: A digit under noise.
:scripts: maths/schedules figures/digits

The *caption*.
```
"""
LESSON = """# A lesson

Before.

**Play with it:** drag $t$ in [the figure](../book/play/drowning.md).

After.
"""
PLAIN = "# A page\n\n[A link](../book/play/drowning.md) alone puts nothing here.\n"


def build(folder: Path, pages: dict[str, str]) -> tuple[Path, str]:
    """Build a small book; the folder of its pages, and what Sphinx warned of."""
    source, html = folder / "source", folder / "html"
    listed = "\n".join(pages)
    for name, text in {**pages, "index": f"# Book\n\n```{{toctree}}\n{listed}\n```\n"}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / f"{name}.md").write_text(text, "utf-8")
    (source / "conf.py").write_text(CONF, "utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(source), str(html)]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
    assert run.returncode == 0, run.stderr
    return html, run.stderr


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pages = {"book/play/drowning": PLAY, "lessons/with": LESSON, "lessons/without": PLAIN}
    html, warnings = build(tmp_path_factory.mktemp("small"), pages)
    assert warnings == ""
    return html


def scripts(page: Path) -> list[str]:
    """The figures' scripts of a page, in order, without the checksum of their content."""
    found = re.findall(r'<script defer="defer" src="([^"?]+)[^"]*"', page.read_text("utf-8"))
    return [address for address in found if "_static/figures/" in address or "_static/maths/" in address]


@pytest.mark.parametrize(("page", "up"), [("book/play/drowning", "../../"), ("lessons/with", "../")])
def test_a_page_loads_what_its_figure_needs(small: Path, page: str, up: str) -> None:
    path = small / f"{page}.html"
    names = [*CORE, "maths/schedules", "figures/digits", "figures/schedules"]
    assert scripts(path) == [f"{up}_static/{name}.js" for name in names]
    for address in [*scripts(path), f"{up}_static/figures.css"]:
        assert (path.parent / address).resolve().is_file()
    assert f'href="{up}_static/figures.css' in path.read_text("utf-8")


def test_other_pages_load_nothing(small: Path) -> None:
    path = small / "lessons" / "without.html"
    assert scripts(path) == []
    assert "figures.css" not in path.read_text("utf-8")
    assert "course-figure" not in path.read_text("utf-8")


def test_the_figures_own_page_has_picture_and_caption(small: Path) -> None:
    text = (small / "book" / "play" / "drowning.html").read_text("utf-8")
    figure = text[text.index('class="course-figure"') :]
    assert 'data-figure="schedules"' in figure
    image = re.search(r'<img alt="A digit under noise." src="([^"]+)"', figure)
    assert (small / "book" / "play" / image[1]).resolve().is_file()
    assert "<em>caption</em>" in figure[figure.index('class="figure-caption"') :]


def test_a_lesson_has_the_figure_below_the_invitation(small: Path) -> None:
    text = (small / "lessons" / "with.html").read_text("utf-8")
    places = [text.index(part) for part in ("Before.", "Play with it:", 'data-figure="schedules"', "After.")]
    assert places == sorted(places)
    assert text.count("course-figure") == 1
    assert "<img" not in text  # without JavaScript the link is all there is


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.mark.browser
@pytest.mark.parametrize("page", ["book/play/drowning", "lessons/with"])
def test_the_figure_comes_to_life_from_disk(browser: Any, small: Path, page: str) -> None:
    opened = browser.new_page()
    opened.goto((small / f"{page}.html").as_uri())
    opened.locator(".course-figure > .figure-stage canvas").first.wait_for(timeout=10_000)
    opened.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PLAY.replace("} schedules", "} shedules"), "needs book/_static/figures/shedules.js, which does not exist"),
        (PLAY.replace("} schedules", "} shedules"), "scripts in book/_static/figures: "),
        (PLAY.replace("maths/schedules", "maths/nothing"), "needs book/_static/maths/nothing.js"),
        (PLAY.replace(":alt:", ":picture: figures/none.png\n:alt:"), "needs book/_static/figures/none.png"),
        (PLAY.replace(":alt: A digit under noise.\n", ""), "needs the option alt"),
        (PLAY.replace("The *caption*.\n", ""), "needs a caption"),
        (LESSON.replace("../book/play/drowning.md", "index.md"), "without a link to a page with a live figure"),
    ],
    ids=["figure", "figure-hint", "script", "picture", "alt", "caption", "invitation"],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    _, warnings = build(tmp_path, {"page": text})
    assert words in warnings
    assert "page.md" in warnings


# --- the book's own pages and lessons


def test_every_figure_has_a_page_and_a_lesson() -> None:
    invitations = [
        line
        for lesson in LESSONS
        for cell in notebook(lesson).cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("**Play with it:**")
    ]
    for figure in sources().values():
        assert any(f"(../book/play/{figure.page}.md)" in line for line in invitations), figure.name
        overview = (ROOT / "book" / "play.md").read_text("utf-8")
        assert f":link: play/{figure.page}\n" in overview
        for suffix in ("card", "card-dark"):
            assert f"_static/figures/{figure.name}-{suffix}.png" in overview


def test_scripts_use_the_names_that_pages_use() -> None:
    """Each figure registers itself under the name of its file, and is strict."""
    for name in sources():
        text = (STATIC / "figures" / f"{name}.js").read_text("utf-8")
        assert f'Course.figures.register("{name}"' in text
    for path in [*STATIC.glob("figures/*.js"), *STATIC.glob("maths/*.js")]:
        text = path.read_text("utf-8")
        assert text.startswith('"use strict";'), path
        assert "globalThis.Course ??= {};" in text, path
        assert not re.search(r"\bfetch\(|XMLHttpRequest|import\(|^import |^export ", text, re.MULTILINE), path
