"""The reader's progress: marks, boxes and the page, in a small book of two lessons that opens from disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from _browser import launched
from _learning import LOOKS, barriers, watched
from _notebooks import LESSONS, ROOT, code_cells, exercises, headings, markdown, sections

from helpers import quizzes

OURS = {"offline", "progress"}
PAGES = {"page": "book/progress", "lesson": "notebooks/03_forward_process", "other": "notebooks/05_sampling"}
KEY = "diffusion-ebm-course"
SHIFT = """() => new Promise(done => {
  let total = 0;
  new PerformanceObserver(list => { for (const entry of list.getEntries()) total += entry.value; })
    .observe({ type: "layout-shift", buffered: true });
  setTimeout(() => done(total), 300);
})"""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


def cut_down(lesson: str) -> nbformat.NotebookNode:
    """Title, effort, headings of the exercises and quiz of a lesson."""
    found = nbformat.v4.new_notebook()
    for level, title, text in sections(markdown(lesson)):
        if level == 1 or title in {"What you need", "Exercises", "Check yourself"} or title.startswith("Exercise "):
            kept = "\n\n".join(text.split("\n\n")[:2])
            found.cells.append(nbformat.v4.new_markdown_cell(re.sub(r"\[(.*?)\]\(.*?\)|\$", r"\1", kept)))
    found.cells.append(code_cells(lesson)[-1])
    return found


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built book with the course's settings: the page of progress, and two lessons cut down to what counts here."""
    source = tmp_path_factory.mktemp("book")
    (source / "notebooks").mkdir()
    for name in LESSONS:
        nbformat.write(cut_down(name), source / "notebooks" / f"{name}.ipynb")
    shutil.copytree(ROOT / "helpers" / "quizzes", source / "helpers" / "quizzes")
    (source / "book" / "_ext").mkdir(parents=True)
    for name in OURS:
        shutil.copy(ROOT / "book" / "_ext" / f"{name}.py", source / "book" / "_ext")
    (source / "book" / "_static").mkdir()
    for path in (ROOT / "book" / "_static").iterdir():
        if path.suffix in {".css", ".js", ".svg"}:
            shutil.copy(path, source / "book" / "_static")
    for name in ("progress.md", "references.bib"):
        shutil.copy(ROOT / "book" / name, source / "book")
    settings = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    others = set(settings["sphinx"]["local_extensions"]) - OURS
    settings["sphinx"]["local_extensions"] = dict.fromkeys(OURS, "book/_ext")
    extensions = [name for name in settings["sphinx"]["config"]["extensions"] if name not in others]
    settings["sphinx"]["config"]["extensions"] = extensions
    (source / "_config.yml").write_text(yaml.safe_dump(settings), "utf-8")
    parts = [{"caption": "Lessons", "chapters": [{"file": PAGES[name]} for name in ("lesson", "other")]}]
    toc = {"format": "jb-book", "root": PAGES["page"], "parts": parts}
    (source / "_toc.yml").write_text(yaml.safe_dump(toc), "utf-8")
    builder = shutil.which("jupyter-book", path=str(Path(sys.executable).parent))
    run = subprocess.run(
        [builder, "build", "."], cwd=source, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return source / "_build" / "html"


class Reader:
    """Somebody who reads the book in one browser."""

    def __init__(self, page: Any, book: Path) -> None:
        self.page, self.book = page, book

    def open(self, name: str) -> Any:
        self.page.goto(f"{(self.book / PAGES[name]).as_uri()}.html")
        self.page.wait_for_load_state("load")
        return self.page

    def cell(self, lesson: int, kind: str) -> str:
        return self.page.locator(f"tr[data-lesson='{lesson}'] [data-cell='{kind}']").text_content()

    def mark(self, lesson: int) -> str:
        """What the contents say of a lesson."""
        return self.page.locator(f".bd-links a:has-text('{lesson}. ')").text_content().strip()

    def stored(self) -> Any:
        return json.loads(self.page.evaluate("key => localStorage.getItem(key)", KEY))

    def answer_first(self, right: bool) -> None:
        """Answer the first question of the lesson's quiz."""
        found = quizzes.load(3)[0]["answers"]
        place = [answer["correct"] for answer in found].index(right)
        question = self.page.locator(".quiz-question").first
        question.locator("input").nth(place).check()
        question.get_by_role("button", name="Check").click()


@pytest.fixture
def reader(browser: Any, book: Path, request: pytest.FixtureRequest) -> Iterator[Reader]:
    with watched(browser, **getattr(request, "param", LOOKS["light"])) as page:
        yield Reader(page, book)


def test_what_is_done_is_kept_and_shown(reader: Reader) -> None:
    page = reader.open("lesson")
    assert page.locator(".progress-mark[data-progress]:not([data-progress=''])").count() == 0
    page.get_by_label("Exercise 3.1 is done").check()
    assert "(begun)" in reader.mark(3)
    reader.answer_first(right=False)
    reader.answer_first(right=True)
    page.get_by_label("I have finished this lesson").check()
    assert "(finished)" in reader.mark(3)

    page = reader.open("other")
    assert "(finished)" in reader.mark(3), "the marks are on every page"
    assert "(" not in reader.mark(5)
    page = reader.open("page")
    assert reader.cell(3, "exercises") == "1 of 5"
    assert reader.cell(3, "questions") == f"1 of {len(quizzes.load(3))}"
    assert page.get_by_label("Finished: 3.").is_checked()
    assert page.locator("[data-total-of=lessons] output").text_content() == f"1 of {len(LESSONS)}"
    assert page.locator(".progress-next").text_content().startswith("Go on with 4.")
    entry = reader.stored()["lessons"]["3"]
    assert entry["questions"]["3-square-root"]["tries"] == 2
    assert set(entry["exercises"]) == {"3.1"}

    page.get_by_label("Finished: 3.").uncheck()
    page = reader.open("lesson")
    assert not page.get_by_label("I have finished this lesson").is_checked()
    assert page.get_by_label("Exercise 3.1 is done").is_checked()
    assert page.locator(".quiz-question[data-known]").count() == 1


def test_every_exercise_has_a_box(reader: Reader) -> None:
    page = reader.open("lesson")
    assert page.locator(".progress-box input[aria-label^='Exercise']").count() == len(exercises("03_forward_process"))


def test_the_table_lists_the_lessons_as_they_describe_themselves(reader: Reader) -> None:
    page = reader.open("page")
    rows = page.locator("tr[data-lesson]")
    assert rows.count() == len(LESSONS)
    for number, lesson in enumerate(LESSONS):
        row = rows.nth(number)
        title = headings(markdown(lesson))[0][1]
        assert row.locator("a").text_content() == title
        assert row.locator("[data-cell=exercises]").get_attribute("data-total") == str(len(exercises(lesson)))
        assert row.locator("[data-cell=questions]").get_attribute("data-total") == str(len(quizzes.load(number)))


def test_a_file_keeps_everything(reader: Reader, tmp_path: Path) -> None:
    page = reader.open("lesson")
    page.get_by_label("Exercise 3.2 is done").check()
    for _ in range(20):  # a busy browser hands its storage to the process of the next page a little late
        page = reader.open("page")
        if reader.cell(3, "exercises") == "1 of 5":
            break
    page.get_by_label("Finished: 5.").check()
    before = reader.stored()
    assert {"3", "5"} == set(before["lessons"])
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save to a file").click()
    waiting.value.save_as(tmp_path / "mine.json")
    assert json.loads((tmp_path / "mine.json").read_text("utf-8")) == before

    page.get_by_role("button", name="Forget everything …").click()
    page.get_by_role("button", name="Keep them").click()
    assert reader.stored() == before
    page.get_by_role("button", name="Forget everything …").click()
    page.get_by_role("button", name="Forget everything", exact=True).click()
    assert reader.stored() == {"version": 1, "lessons": {}}
    assert reader.cell(3, "exercises") == "0 of 5"

    page.get_by_label("Finished: 7.").check()  # reading a file adds to what is there
    page.locator("input[type=file]").set_input_files(tmp_path / "mine.json")
    page.get_by_text("Nothing was taken away.").wait_for()
    assert {"3", "5", "7"} == set(reader.stored()["lessons"])
    assert "(finished)" in reader.mark(5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cats", "not a file of this course"),
        ('{"lessons": {}}', "not a file of this course"),
        ('{"version": 2, "lessons": {}}', "Version 2"),
        ('{"version": 1, "lessons": {"3": {"done": true}}}', "damaged"),
        ('{"version": 1, "lessons": {"__proto__x": {}}}', "damaged"),
        ('{"version": 1, "lessons": {"3": {"questions": {"a": {"tries": -1}}}}}', "damaged"),
    ],
)
def test_a_wrong_file_is_refused_with_a_reason(reader: Reader, tmp_path: Path, text: str, words: str) -> None:
    page = reader.open("page")
    page.get_by_label("Finished: 1.").check()
    before = reader.stored()
    (tmp_path / "wrong.json").write_text(text, "utf-8")
    page.locator("input[type=file]").set_input_files(tmp_path / "wrong.json")
    page.get_by_text("wrong.json was not read").wait_for()
    assert words in page.locator(".progress-status").text_content()
    assert reader.stored() == before


def test_another_tab_sees_it_at_once(reader: Reader) -> None:
    page = reader.open("page")
    second = page.context.new_page()
    second.goto(f"{(reader.book / PAGES['lesson']).as_uri()}.html")
    second.get_by_label("I have finished this lesson").check()
    page.wait_for_function("document.querySelector('[data-total-of=lessons] output').textContent.startsWith('1 ')")
    assert page.get_by_label("Finished: 3.").is_checked()


@pytest.mark.parametrize("broken", ["getter", "full"])
def test_a_browser_that_keeps_nothing_is_told_of(browser: Any, book: Path, broken: str) -> None:
    """The page says so, works until it is left, and none of our scripts throws (the theme's do)."""
    refuse = "throw new DOMException('no', 'SecurityError')"
    script = {
        "getter": f"Object.defineProperty(window, 'localStorage', {{ get() {{ {refuse}; }} }})",
        "full": f"Storage.prototype.setItem = () => {{ {refuse}; }}",
    }[broken]
    with watched(browser, only_ours=True) as page:
        reader = Reader(page, book)
        reader.page.add_init_script(script)
        page = reader.open("page")
        assert "keeps nothing" in page.locator(".progress-status").text_content()
        page.get_by_label("Finished: 3.").check()
        assert "(finished)" in reader.mark(3)
        page = reader.open("lesson")
        assert "until you leave the page" in page.locator(".progress-foot").text_content()
        reader.answer_first(right=True)
        assert page.locator(".quiz-question[data-known]").count() == 1


def test_what_somebody_else_stored_is_not_a_catastrophe(reader: Reader) -> None:
    reader.open("page").evaluate("key => localStorage.setItem(key, '[1, 2')", KEY)
    page = reader.open("page")
    assert page.locator("[data-total-of=lessons] output").text_content() == f"0 of {len(LESSONS)}"
    page.get_by_label("Finished: 3.").check()
    assert set(reader.stored()["lessons"]) == {"3"}


@pytest.mark.parametrize("reader", [LOOKS[look] for look in LOOKS], ids=LOOKS, indirect=True)
def test_pages_are_accessible_and_nothing_moves(reader: Reader) -> None:
    """With something done, by axe-core; marks and boxes come without a shift of what is already there."""
    page = reader.open("lesson")
    page.get_by_label("I have finished this lesson").check()
    page.get_by_label("Exercise 3.1 is done").check()
    for name in ("lesson", "page"):
        page = reader.open(name)
        assert page.evaluate(SHIFT) < 0.01
        assert barriers(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Forget everything …").click()
    assert barriers(page) == []
    page.keyboard.press("Escape")
    assert not page.locator(".progress-dialog").is_visible()


@pytest.mark.parametrize("reader", [{"java_script_enabled": False}], indirect=True)
def test_without_scripts_the_table_is_there(reader: Reader) -> None:
    page = reader.open("page")
    assert page.locator("tr[data-lesson]").count() == len(LESSONS)
    assert not page.locator(".progress-live").is_visible()
