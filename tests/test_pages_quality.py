"""Every page of the built book is accessible, light enough, quick, sharp, fit for print, and can be shared."""

from __future__ import annotations

import gzip
import os
import re
import statistics
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from _book import PAGES, TOC, built_book
from _browser import launched
from _notebooks import LESSONS, REPOSITORY
from PIL import Image

DESKTOP = {"width": 1280, "height": 900}
OWNER, NAME = urlsplit(REPOSITORY).path.strip("/").split("/")
ADDRESS = f"https://{OWNER.lower()}.github.io/{NAME}/"
MEGABYTE = 1_000_000
AS_SENT, ON_DISK = 3 * MEGABYTE, 5 * MEGABYTE
"""Budgets for a page with all that it loads: as a web server sends it (text compressed), and as it lies on the disk.
2.3 MB of the second are MathJax, one file for the whole book. The demos bring models and a runtime; not here."""

DEMO = re.compile(r"(^|/)demo")
FIRST_PAINT = 1500
"""Milliseconds."""

SERIOUS = {"serious", "critical"}

# Formulas and code make nearly all elements of a lesson, thousands of them, all alike: axe looks at what is around
# them, at the accessible form of each formula, and at the text of code; CODE_CONTRAST measures contrasts within code.
THIN = """() => {
  document.querySelectorAll("article details").forEach(fold => { fold.open = true; });
  document.querySelectorAll("mjx-container > svg").forEach(drawn => drawn.replaceChildren());
  document.querySelectorAll("article pre").forEach(code => { code.textContent = code.textContent.slice(0, 80); });
  const still = "<style>* { transition: none !important; animation: none !important }</style>";
  document.head.insertAdjacentHTML("beforeend", still);
}"""

THEME = "theme => { document.documentElement.dataset.theme = document.documentElement.dataset.mode = theme; }"

# One span of each class is measured, against the ground of its block; the formula is WCAG 2's.
CODE_CONTRAST = """() => {
  const parse = text => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = rgb => {
    const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.slice(0, 3).map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const rgb = parse(getComputedStyle(at).backgroundColor);
      if (rgb.length === 3 || rgb[3] > 0.99) return rgb;
    }
    return [255, 255, 255];
  };
  const seen = new Set(), poor = [];
  for (const span of document.querySelectorAll("article pre, article pre span, article pre a")) {
    const key = span.className + "|" + (span.closest(".output, .cell_input, .highlight")?.className ?? "");
    if (seen.has(key) || !span.textContent.trim()) continue;
    seen.add(key);
    const [a, b] = [light(parse(getComputedStyle(span).color)), light(ground(span))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) poor.push([key, span.textContent.trim().slice(0, 30), contrast.toFixed(2)]);
  }
  return poor;
}"""


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_book(tmp_path_factory)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.fixture(scope="module")
def window(browser: Any) -> Iterator[Any]:
    """One window for all pages."""
    context = browser.new_context(viewport=DESKTOP)
    yield context.new_page()
    context.close()


def visit(window: Any, book: Path, page: str) -> Any:
    """Go to a page from disk, and wait until its formulas are set."""
    window.goto(f"{(book / page).as_uri()}.html")
    window.wait_for_load_state("load")
    window.evaluate("window.MathJax ? MathJax.startup.promise.then(() => null) : null")
    return window


each_page = pytest.mark.parametrize("page", PAGES)


# --- accessible


def found_by_axe(window: Any, **options: Any) -> list[str]:
    """What axe-core calls serious or critical, with the first elements of each kind."""
    result = window.evaluate("options => axe.run(document, options)", {"resultTypes": ["violations"], **options})
    return [
        f"{problem['id']}: {node['target']} {node['html'][:120]} {node['failureSummary'][:200]}"
        for problem in result["violations"]
        if problem["impact"] in SERIOUS
        for node in problem["nodes"][:5]
    ]


@pytest.mark.browser
@each_page
def test_axe_finds_no_serious_problem(window: Any, book: Path, page: str) -> None:
    """In light everything, in dark what depends on colours; with everything unfolded, and code's contrast apart."""
    pytest.importorskip("axe_playwright_python")
    visit(window, book, page)
    problems = []
    for theme in ("light", "dark"):
        window.evaluate(THEME, theme)
        problems += [f"{theme}: contrast of code {poor}" for poor in window.evaluate(CODE_CONTRAST)]
    window.evaluate(THIN)
    window.evaluate(_axe_script())
    window.evaluate(THEME, "light")
    problems += [f"light: {problem}" for problem in found_by_axe(window)]
    window.evaluate(THEME, "dark")
    of_colours = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
    problems += [f"dark: {problem}" for problem in found_by_axe(window, **of_colours)]
    assert problems == []


def _axe_script() -> str:
    from axe_playwright_python.sync_playwright import Axe

    return Axe().axe_script


@each_page
def test_no_id_stands_twice(book: Path, page: str) -> None:
    """Within the page; a browser and a screen reader would take the first for the second."""
    ids = re.findall(r'<[a-z][^>]*?\sid="([^"]+)"', (book / f"{page}.html").read_text("utf-8"))
    assert sorted(name for name in set(ids) if ids.count(name) > 1) == []


# --- light and quick


def _sent(path: Path) -> int:
    """Bytes of a file as a web server sends it."""
    content = path.read_bytes()
    compressible = path.suffix in {".html", ".js", ".css", ".svg", ".json"}
    return len(gzip.compress(content, 6)) if compressible else len(content)


@pytest.mark.browser
@each_page
def test_page_keeps_to_its_budget(browser: Any, book: Path, page: str) -> None:
    if DEMO.search(page):
        pytest.skip("the demos load models and a runtime; they have budgets of their own")
    asked: list[str] = []
    context = browser.new_context(viewport=DESKTOP)
    window = context.new_page()
    window.on("request", lambda request: asked.append(request.url))
    visit(window, book, page)
    context.close()
    files = {Path(unquote(urlsplit(url).path)) for url in asked if url.startswith("file:")}
    files = {path for path in files if path.is_file()}
    on_disk = sum(path.stat().st_size for path in files)
    biggest = sorted(((path.stat().st_size, path.name) for path in files), reverse=True)[:4]
    assert on_disk <= ON_DISK, biggest
    assert sum(map(_sent, files)) <= AS_SENT, biggest


@pytest.mark.browser
def test_first_paint_is_quick(browser: Any, book: Path) -> None:
    """Of the front page, and of the three longest: the median of three."""
    longest = sorted(PAGES, key=lambda page: (book / f"{page}.html").stat().st_size)[-3:]
    medians = {
        page: statistics.median(_first_paint(browser, book, page) for _ in range(3)) for page in [TOC["root"], *longest]
    }
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0, os.cpu_count() or 1
    if max(medians.values()) >= FIRST_PAINT and load > 2 * cores:
        pytest.skip(f"{load:.0f} programs want {cores} cores: times say nothing about the pages")
    assert max(medians.values()) < FIRST_PAINT, medians


def _first_paint(browser: Any, book: Path, page: str) -> float:
    context = browser.new_context(viewport=DESKTOP)
    window = context.new_page()
    window.goto(f"{(book / page).as_uri()}.html")
    window.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    paint = window.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    return paint


@pytest.mark.browser
def test_icons_that_are_used_are_there(window: Any, book: Path) -> None:
    """The theme's script of icons holds those of its buttons only; each is drawn."""
    visit(window, book, f"notebooks/{LESSONS[0]}")
    assert (book / "_static" / "scripts" / "fontawesome.js").stat().st_size < MEGABYTE / 4
    assert window.locator("i[class*='fa-']").count() == 0
    drawn = "icons => icons.every(icon => icon.querySelector('path')?.getAttribute('d')?.length > 20)"
    icons = window.locator("svg.svg-inline--fa")
    assert icons.count() > 5
    assert icons.evaluate_all(drawn)


# --- sharp, and legible in the dark


@pytest.mark.browser
@pytest.mark.parametrize("lesson", LESSONS)
def test_figures_are_sharp_at_twice_the_resolution(window: Any, book: Path, lesson: str) -> None:
    """A figure has at least 1.6 dots for each of the page's, or is drawn dot for dot on purpose."""
    visit(window, book, f"notebooks/{lesson}")
    blurred = """images => images
      .filter(image => image.clientWidth && !image.src.endsWith(".svg") && !image.closest(".animation"))
      .filter(image => getComputedStyle(image).imageRendering !== "pixelated")
      .filter(image => image.naturalWidth < 1.6 * image.clientWidth)
      .map(image => [image.naturalWidth, image.clientWidth, image.alt])"""
    assert window.locator("article .cell_output img").evaluate_all(blurred) == []


@pytest.mark.browser
def test_figures_have_a_light_ground_in_the_dark(window: Any, book: Path) -> None:
    visit(window, book, f"notebooks/{LESSONS[3]}").evaluate(THEME, "dark")
    grounds = window.locator("article .cell_output img").evaluate_all(
        "images => [...new Set(images.map(image => getComputedStyle(image).backgroundColor))]"
    )
    assert grounds == ["rgb(255, 255, 255)"]


# --- on paper


@pytest.mark.browser
def test_a_lesson_prints(browser: Any, book: Path) -> None:
    """From a dark screen too: white, without what is for the screen only, and nothing is wider than the paper."""
    context = browser.new_context(viewport={"width": 680, "height": 960}, color_scheme="dark")
    window = visit(context.new_page(), book, f"notebooks/{LESSONS[4]}")
    dark = window.evaluate("document.documentElement.dataset.theme")
    document = window.pdf(format="A4", prefer_css_page_size=True)
    assert document.startswith(b"%PDF-")
    assert 8 <= len(re.findall(rb"/Type\s*/Page\b", document)) <= 60
    assert window.evaluate("document.documentElement.dataset.theme") == dark
    window.emulate_media(media="print")
    window.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert window.evaluate("document.documentElement.dataset.theme") == "light"
    assert window.locator("article h1").first.is_visible()
    for selector in (
        ".bd-sidebar-primary",
        ".bd-sidebar-secondary",
        ".bd-header-article",
        ".prev-next-area",
        ".copybtn",
    ):
        assert not any(box.is_visible() for box in window.locator(selector).all()), selector
    wide = "boxes => boxes.filter(box => box.clientWidth && box.scrollWidth > box.clientWidth + 1).length"
    assert window.locator("article pre").evaluate_all(wide) == 0
    assert window.locator("article img").evaluate_all(
        "images => images.every(image => image.getBoundingClientRect().right <= innerWidth + 1)"
    )
    context.close()


# --- shared, and found


def test_site_map_lists_every_page(book: Path) -> None:
    urls = ET.parse(book / "sitemap.xml").getroot()
    listed = {place.text for place in urls.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")}
    assert listed >= {f"{ADDRESS}{page}.html" for page in PAGES}
    assert all((book / address.removeprefix(ADDRESS)).exists() for address in listed)


@each_page
def test_page_says_how_to_show_it(book: Path, page: str) -> None:
    head = (book / f"{page}.html").read_text("utf-8").split("</head>", 1)[0]
    tags = dict(re.findall(r'<meta (?:property|name)="([^"]+)" content="([^"]*)"', head))
    assert tags["og:url"] == f"{ADDRESS}{page}.html"
    assert tags["og:title"]
    assert 40 <= len(tags["og:description"]) <= 220
    assert tags["og:description"] == tags["description"]
    assert tags["og:image"] == f"{ADDRESS}_static/social-card.png"
    assert re.search(r'<link rel="(shortcut )?icon"', head)


def test_descriptions_differ(book: Path) -> None:
    heads = [(book / f"{page}.html").read_text("utf-8").split("</head>", 1)[0] for page in PAGES]
    said = [re.search(r'<meta name="description" content="([^"]*)"', head)[1] for head in heads]
    assert sorted(text for text in set(said) if said.count(text) > 1) == []


def test_social_card_is_a_small_picture_of_the_usual_size(book: Path) -> None:
    card = book / "_static" / "social-card.png"
    with Image.open(card) as picture:
        assert picture.size == (1200, 630)
    assert card.stat().st_size <= 200_000
