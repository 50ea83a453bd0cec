"""The book builds without a warning, and works when it is opened from disk in a browser with no network."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from _book import PAGES, TOC, built_book
from _browser import launched
from _notebooks import LESSONS, REPOSITORY, ROOT

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}

each_page = pytest.mark.parametrize("page", PAGES)
each_lesson = pytest.mark.parametrize("lesson", LESSONS)


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built book."""
    return built_book(tmp_path_factory)


@functools.cache
def parsed(path: Path) -> Page:
    """A built page, read once."""
    return Page(path)


class Page(HTMLParser):
    """Links, ids and pictures of a built page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.add(found["id"])
        if tag == "img":
            self.images.append(found)
        if tag in {"a", "link", "script", "img"} and (target := found.get("href") or found.get("src")):
            self.links.append(target)


# --- what the files say


def test_front_page_leads_to_the_book(book: Path) -> None:
    assert f"{TOC['root']}.html" in (book / "index.html").read_text("utf-8")


@each_page
def test_links_within_the_book_resolve(book: Path, page: str) -> None:
    path = book / f"{page}.html"
    for link in parsed(path).links:
        address, fragment = urldefrag(unquote(link))
        if urlsplit(address).scheme:
            continue
        target = (path.parent / address.split("?")[0]).resolve() if address else path
        assert target.exists(), link
        if fragment and target.suffix == ".html":
            assert fragment in parsed(target).ids, link


@each_page
def test_pictures_have_alt_text(book: Path, page: str) -> None:
    for image in parsed(book / f"{page}.html").images:
        assert image.get("alt"), image.get("src")


@each_lesson
def test_lessons_can_be_downloaded_and_launched(book: Path, lesson: str) -> None:
    links = parsed(book / "notebooks" / f"{lesson}.html").links
    stored = (ROOT / "notebooks" / f"{lesson}.ipynb").read_bytes()
    [download] = [link for link in links if link.endswith(f"{lesson}.ipynb") and not urlsplit(link).scheme]
    assert (book / "notebooks" / download).read_bytes() == stored
    place = REPOSITORY.removeprefix("https://github.com/")
    assert f"https://colab.research.google.com/github/{place}/blob/main/notebooks/{lesson}.ipynb" in links
    assert f"https://mybinder.org/v2/gh/{place}/main?urlpath=lab/tree/notebooks/{lesson}.ipynb" in links


# --- what a reader sees


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    yield from launched()


class Visit:
    """A page opened from disk, with all that it asked for and complained of."""

    def __init__(self, browser: object, book: Path, **options: object) -> None:
        self.book = book
        self.context = browser.new_context(**options)
        self.outside: list[str] = []
        self.complaints: list[str] = []
        self.page = self.context.new_page()
        self.page.route("**/*", self._answer)
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _answer(self, route: object) -> None:
        if urlsplit(route.request.url).scheme in {"file", "data", "blob"}:
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def open(self, page: str, query: str = "") -> object:
        """Open a page of the book and wait until its mathematics is set."""
        self.page.goto(f"{(self.book / page).as_uri()}.html{query}")
        self.page.wait_for_load_state("load")
        self.page.evaluate("window.MathJax ? MathJax.startup.promise.then(() => null) : null")
        return self.page


@pytest.fixture(scope="module", params=PAGES)
def opened(browser: object, book: Path, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """One page of the book, opened once for all tests that look at every page."""
    visit = Visit(browser, book, viewport=DESKTOP)
    visit.open(request.param)
    yield visit
    visit.context.close()


@pytest.fixture
def visit(browser: object, book: Path, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A browser window of its own; options by ``indirect`` parameters."""
    visit = Visit(browser, book, **{"viewport": DESKTOP} | getattr(request, "param", {}))
    yield visit
    visit.context.close()


on_a_phone = pytest.mark.parametrize("visit", [{"viewport": PHONE}], indirect=True, ids=["phone"])
in_the_dark = pytest.mark.parametrize(
    "visit", [{"viewport": DESKTOP, "color_scheme": "dark"}], indirect=True, ids=["dark"]
)


@pytest.mark.browser
def test_page_opens_from_disk_without_a_network(opened: Visit) -> None:
    page = opened.page
    assert page.title()
    assert opened.outside == []
    assert opened.complaints == []
    assert page.locator("mjx-container svg").count() >= page.locator("span.math, div.math").count()
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    broken = "images => images.filter(image => image.complete && !image.naturalWidth).map(image => image.src)"
    assert page.locator("img").evaluate_all(broken) == []


@pytest.mark.browser
def test_hints_and_solutions_unfold(opened: Visit) -> None:
    folds = opened.page.locator("article details:not([class])")
    if "/notebooks/" in opened.page.url:
        assert folds.count() >= 3  # of each exercise
    for number in range(folds.count()):
        content = folds.nth(number).locator("> :not(summary)").first
        assert not content.is_visible()
        folds.nth(number).locator("> summary").click()
        assert content.is_visible()


@pytest.mark.browser
def test_nothing_is_cut_off_on_a_desktop(opened: Visit) -> None:
    """Display formulas and code fit the column, and no inline formula has a scrollbar; also with all unfolded."""
    opened.page.set_viewport_size(DESKTOP)
    opened.page.evaluate("document.querySelectorAll('article details').forEach(fold => { fold.open = true })")
    wide = "box => box.clientWidth && box.scrollWidth > box.clientWidth + 1"
    cut = f"boxes => boxes.filter({wide}).map(box => box.textContent.trim().slice(0, 80))"
    boxes = "article :is(div.math, mjx-container[display='true'], .highlight pre)"
    assert opened.page.locator(boxes).evaluate_all(cut) == []
    scrolling = "boxes => boxes.filter(box => /auto|scroll/.test(getComputedStyle(box).overflow)).length"
    assert opened.page.locator("article :is(span.math, mjx-container:not([display]))").evaluate_all(scrolling) == 0


@pytest.mark.browser
def test_nothing_scrolls_sideways_on_a_phone(opened: Visit) -> None:
    """Also with everything unfolded; and pictures shrink without being squeezed."""
    opened.page.evaluate("document.querySelectorAll('article details').forEach(fold => { fold.open = true })")
    opened.page.set_viewport_size(PHONE)
    width = opened.page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
    assert width <= PHONE["width"]
    ratio = "image.clientWidth / image.clientHeight / (image.naturalWidth / image.naturalHeight)"
    squeezed = f"images => images.filter(image => Math.abs({ratio} - 1) > 0.05).map(image => image.alt)"
    assert opened.page.locator("article img").evaluate_all(squeezed) == []


@pytest.mark.browser
@pytest.mark.parametrize("word", ["Langevin", "posterior"])
def test_search_finds(visit: Visit, word: str) -> None:
    opened = visit.open("search", f"?q={word}")
    opened.wait_for_selector("#search-results li a", timeout=20_000)
    assert opened.locator("#search-results li a").count() >= 1
    assert visit.outside == []
    assert visit.complaints == []


@pytest.mark.browser
@in_the_dark
def test_dark_mode_is_dark_and_readable(visit: Visit) -> None:
    """Text and ground follow the system's setting, on the page and in the map of the course."""
    opened = visit.open(TOC["root"])

    def luminance(selector: str, of: str) -> float:
        color = opened.locator(selector).first.evaluate(f"element => getComputedStyle(element)['{of}']")
        return sum(map(float, re.findall(r"[\d.]+", color)[:3])) / 765

    assert luminance("html", "background-color") < 0.2 or luminance("body", "background-color") < 0.2
    assert luminance("article p", "color") > 0.6
    assert luminance(".map-title", "fill") > 0.6
    assert luminance(".map-box", "fill") < 0.3


@pytest.mark.browser
def test_the_map_leads_to_lessons(visit: Visit) -> None:
    opened = visit.open(TOC["root"])
    opened.locator(".course-map svg.wide a").first.click()
    opened.wait_for_load_state("load")
    assert "/notebooks/" in opened.url


@pytest.mark.browser
@on_a_phone
def test_the_map_has_a_layout_for_phones(visit: Visit) -> None:
    opened = visit.open(TOC["root"])
    assert opened.locator(".course-map svg.narrow").is_visible()
    assert not opened.locator(".course-map svg.wide").is_visible()
