"""The teacher's page and the slides say what the lessons say: times, sections, exercises and mistakes."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from _browser import launched
from _notebooks import LESSONS, ROOT, notebook, sections

from helpers import teaching

FOUND = {int(lesson.name[:2]): lesson for lesson in teaching.find_lessons().values()}
EXERCISES = {exercise.number: exercise for lesson in FOUND.values() for exercise in lesson.exercises}
PAGE = (ROOT / "book" / "teaching.md").read_text("utf-8")


def section(title: str) -> str:
    return next(text for _, heading, text in sections(PAGE) if heading == title)


def rows(title: str) -> list[list[str]]:
    """The table of a section, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def lessons_in(cell: str) -> list[int]:
    """Numbers of the lessons that a cell links to, each link to its own file."""
    found = re.findall(r"\[(\d+)\]\(\.\./notebooks/(\w+)\.ipynb\)", cell)
    assert all(FOUND[int(number)].name == name for number, name in found)
    assert found or cell == "–", cell
    return [int(number) for number, _ in found]


def exercises_in(cell: str) -> list[str]:
    return re.findall(r"\d+\.\d+", cell)


def needs() -> dict[int, set[int]]:
    """What each lesson needs, as the page says."""
    return {
        number: set(map(int, re.findall(r"\d+", row[1]))) for number, row in zip(FOUND, rows(OVERVIEW), strict=True)
    }


OVERVIEW = "The lessons and their time"
PLANS = {"Two sessions": 2, "Six sessions": 6, "Twelve sessions": 12}


def test_every_lesson_states_its_time() -> None:
    assert all(lesson.minutes and 1 <= lesson.difficulty <= 3 for lesson in FOUND.values())
    assert all(exercise.minutes and exercise.objective and exercise.difficulty for exercise in EXERCISES.values())


def test_the_overview_says_what_the_lessons_say() -> None:
    for lesson, row in zip(FOUND.values(), rows(OVERVIEW), strict=True):
        exercises = sum(exercise.minutes for exercise in lesson.exercises)
        difficulty = "●" * lesson.difficulty + "○" * (3 - lesson.difficulty)
        assert row[0] == f"[{lesson.title}](../notebooks/{lesson.name}.ipynb)"
        assert row[2:] == [str(lesson.minutes), str(exercises), difficulty]
    for number, earlier in needs().items():
        text = next(part.text for part in _parts(number) if part.title == "What you need")
        assert earlier <= set(map(int, re.findall(r"\d+", " ".join(re.findall(r"[Ll]essons? \d+(?: and \d+)?", text)))))


def _parts(number: int) -> list[Any]:
    cells = teaching.lessons.cells_of(teaching.read_notebook(FOUND[number].path))
    return teaching.lessons.sections(cells)


@pytest.mark.parametrize("plan", PLANS)
def test_plans_add_up(plan: str) -> None:
    table = rows(plan)
    assert [row[0] for row in table] == [str(number + 1) for number in range(PLANS[plan])]
    seen: list[int] = []
    asked: list[str] = []
    for row in table:
        _, _, in_class, tasks, minutes, before, homework, at_home = row
        for lessons, exercises, sum_ in ((in_class, tasks, minutes), (before, homework, at_home)):
            total = sum(FOUND[n].minutes for n in lessons_in(lessons)) + sum(
                EXERCISES[n].minutes for n in exercises_in(exercises)
            )
            assert int(sum_) == total, row
        for number in (*lessons_in(before), *lessons_in(in_class)):
            missing = needs()[number] - set(seen)
            assert not missing, f"lesson {number} before {missing}"
            seen.append(number)
        asked += exercises_in(tasks) + exercises_in(homework)
        assert {int(number.split(".")[0]) for number in asked} <= set(seen)
    assert len(seen) == len(set(seen))
    assert len(asked) == len(set(asked))


def test_sections_to_leave_out_exist() -> None:
    table = rows("When time runs short")
    assert [int(row[0]) for row in table] == list(FOUND)
    for number, titles in table:
        named = re.findall(r"\*(.+?)\*", titles)
        assert named
        assert set(named) <= set(FOUND[int(number)].headings)


def test_misconceptions_are_mistakes_that_checks_name() -> None:
    wrong = _wrong_answers()
    table = rows("What learners get wrong")
    for number, mistake, explanation in table:
        assert mistake.strip("`") in wrong[number], f"{number} {mistake}"
        assert explanation.endswith((".", "?", "!"))
    assert len(table) == len({(row[0], row[1]) for row in table})
    lessons = [int(row[0].split(".")[0]) for row in table]
    assert lessons == sorted(lessons)
    assert all(lessons.count(number) >= 2 for number in FOUND)


def _wrong_answers() -> dict[str, set[str]]:
    """Names of the mistakes in the dictionaries WRONG of tests/checks, whose answers are tried in test_exercises."""
    names: dict[str, set[str]] = {}
    for path in (ROOT / "tests" / "checks").glob("test_*.py"):
        spec = importlib.util.spec_from_file_location(f"_wrong_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for number, answers in getattr(module, "WRONG", {}).items():
            names.setdefault(number, set()).update(answers)
    return names


def test_the_page_is_in_the_book_and_names_commands_that_exist() -> None:
    assert "file: book/teaching" in (ROOT / "_toc.yml").read_text("utf-8")
    source = (ROOT / "helpers" / "__main__.py").read_text("utf-8")
    for command in re.findall(r"python -m helpers (\w+)", PAGE):
        assert f'add_parser("{command}"' in source, command
    for option in re.findall(r"`(--[\w-]+)`", PAGE):
        assert f'"{option}"' in source, option
    for status in teaching.STATUSES:
        assert f"| `{status}` |" in PAGE


# Slides


@pytest.mark.parametrize("name", LESSONS)
def test_slides_show_what_matters(name: str) -> None:
    """Formulas of the text, inline functions, still figures with captions and exercises; nothing else of the code."""
    whole = teaching.read_notebook(ROOT / "notebooks" / f"{name}.ipynb")
    slides = teaching.slides_of(whole)
    nbformat.validate(nbformat.from_dict(slides))
    text = "\n\n".join(cell["source"] for cell in slides["cells"])
    assert 15 <= len(slides["cells"]) <= 80
    assert "<details" not in text
    assert "plt.show" not in text
    assert "%pip" not in text
    kinds = [cell["metadata"]["slideshow"]["slide_type"] for cell in slides["cells"]]
    assert kinds[0] == "slide"
    assert set(kinds) == {"slide", "subslide"}
    for cell in notebook(name).cells:
        if cell.cell_type == "code" and any("image/png" in output.get("data", {}) for output in cell.outputs):
            alt = cell.metadata.mystnb.image.alt
            assert f"{alt[:30]}" in text.replace("&quot;", '"').replace("&#x27;", "'").replace("&lt;", "<")
        if cell.cell_type == "code" and "_inline(" in cell.source and "%" not in cell.source:
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.FunctionDef) and node.name.endswith("_inline"):
                    assert f"def {node.name}(" in text
    for exercise in FOUND[int(name[:2])].exercises:
        assert f"## Exercise {exercise.number} {exercise.title}" in text
        assert exercise.check not in text


def build_module() -> ModuleType:
    """The script that makes the slides."""
    spec = importlib.util.spec_from_file_location("_slides_build", ROOT / "book" / "_slides" / "build.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


@pytest.fixture(scope="module")
def build() -> ModuleType:
    return build_module()


@pytest.fixture(scope="module")
def decks(build: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two decks, with reveal.js if it was ever fetched here, else with a stand-in."""
    reveal = build.cache_folder() / build.REVEAL
    if not all((reveal / name).is_file() for name in build.REVEAL_FILES):
        reveal = tmp_path_factory.mktemp("reveal")
        for name in build.REVEAL_FILES:
            (reveal / name).write_text("/* a stand-in */", "utf-8")
    out = tmp_path_factory.mktemp("slides")
    written = build.build(out, ["01_time_embedding", "03_forward_process"], reveal)
    assert [path.name for path in written] == ["01_time_embedding.html", "03_forward_process.html", "index.html"]
    return out


def test_decks_need_nothing_from_outside(decks: Path) -> None:
    for page in decks.glob("*.html"):
        text = page.read_text("utf-8")
        for link in re.findall(r"""<(?:script|link|img)\b[^>]*?(?:src|href)=["']([^"']+)""", text):
            assert link.startswith("data:") or (decks / link).is_file(), f"{page.name} asks for {link[:80]}"
        assert "<html lang=" in text
        assert all('alt="' in picture for picture in re.findall(r"<img [^>]*>", text))


def test_what_is_missing_is_said(build: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["03_forward_process", "--out", str(tmp_path), "--reveal", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert build.main(["no_lesson", "--out", str(tmp_path)]) == 2
    assert "03_forward_process" in capsys.readouterr().err


def test_without_npm_the_message_says_what_would_help(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> list[str]:
        raise build.Unavailable("there is no npm")

    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(build, "npm_command", none)
    with pytest.raises(FileNotFoundError, match=r"no npm[\s\S]*--reveal"):
        build.fetch_reveal()
    monkeypatch.setattr(build, "npm_command", lambda: [sys.executable, "-c", "open('x.tgz', 'w').write('other')", "--"])
    with pytest.raises(ValueError, match="sha512"):
        build.fetch_reveal()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from launched()


@pytest.mark.browser
def test_a_deck_opens_from_disk_and_every_slide_fits(browser: Any, decks: Path, build: ModuleType) -> None:
    if "stand-in" in (decks / "reveal.js").read_text("utf-8"):
        pytest.skip("reveal.js was never fetched here: `make slides` does it")
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
    page.goto((decks / "03_forward_process.html").as_uri())
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    slides = page.evaluate("Reveal.getTotalSlides()")
    assert slides == len(teaching.slides_of(teaching.read_notebook(FOUND[3].path))["cells"])
    for _ in range(slides):
        size = page.evaluate("(({scrollHeight, scrollWidth}) => [scrollWidth, scrollHeight])(Reveal.getCurrentSlide())")
        assert size[0] <= 1280
        assert size[1] <= 720
        page.evaluate("Reveal.next()")
    assert page.locator("mjx-merror").count() == 0
    assert page.locator("mjx-container").count() > 20
    assert not said
    page.close()
