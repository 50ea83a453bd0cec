"""The students' edition: no solution is left, nothing else is lost, and links work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from _notebooks import LESSONS, ROOT, exercises, notebook

from helpers import __main__ as command_line
from helpers import teaching

FOUND = teaching.find_lessons()


@pytest.fixture(scope="module")
def edition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole students' edition, with hints and outputs."""
    out = tmp_path_factory.mktemp("edition") / "course"
    teaching.student_edition(FOUND, out)
    return out


def text_of(notebook: dict[str, Any]) -> str:
    return "\n\n".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("name", LESSONS)
def test_no_solution_is_left(edition: Path, name: str) -> None:
    made = teaching.read_notebook(edition / "notebooks" / f"{name}.ipynb")
    assert "<summary>Solution" not in text_of(made)
    for exercise in exercises(name):
        assert exercise.solution.strip()
        assert not any(exercise.solution.strip() in cell["source"] for cell in made["cells"]), exercise.number


@pytest.mark.parametrize("name", LESSONS)
def test_nothing_else_is_lost(edition: Path, name: str) -> None:
    made, whole = nbformat.read(edition / "notebooks" / f"{name}.ipynb", as_version=4), notebook(name)
    nbformat.validate(made)
    assert made.metadata == whole.metadata
    codes = [[cell for cell in one.cells if cell.cell_type == "code"] for one in (made, whole)]
    assert codes[0] == codes[1]
    ids = [cell.id for cell in whole.cells]
    assert [cell.id for cell in made.cells] == [i for i in ids if i in {cell.id for cell in made.cells}]
    without = re.sub(r"<details>\s*<summary>Solution.*?</details>", "", text_of(whole), flags=re.DOTALL)
    assert text_of(made).split() == without.split()


def test_hints_and_outputs_can_be_dropped() -> None:
    whole = teaching.read_notebook(ROOT / "notebooks" / "01_time_embedding.ipynb")
    before = json.dumps(whole)
    bare = teaching.without_solutions(whole, hints=False, outputs=False)
    assert json.dumps(whole) == before
    assert "<summary>Hint" in text_of(teaching.without_solutions(whole))
    assert "<details>" not in text_of(bare)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in bare["cells"])
    assert all(cell["source"].strip() for cell in bare["cells"])


def test_links_work(edition: Path) -> None:
    looked_at = 0
    for page in [*edition.rglob("*.md"), *edition.rglob("*.ipynb")]:
        text = page.read_text("utf-8") if page.suffix == ".md" else text_of(teaching.read_notebook(page))
        text = re.sub(r"\$[^$]*\$|`[^`]*`", "", text)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if not re.match(r"[a-z]+:|#", link):
                looked_at += 1
                assert (page.parent / link.split("#")[0]).is_file(), f"{page.relative_to(edition)} links to {link}"
    assert looked_at > 50


def test_the_front_page_leads_to_every_lesson(edition: Path) -> None:
    page = (edition / "README.md").read_text("utf-8")
    assert re.findall(r"\(notebooks/(\w+)\.ipynb\)", page) == list(LESSONS)
    assert "(book/how_to_run.md)" in page


def test_what_it_writes_is_always_the_same(edition: Path, tmp_path: Path) -> None:
    again = teaching.student_edition(FOUND, tmp_path / "again")
    assert sorted(path.relative_to(tmp_path / "again") for path in again) == sorted(
        path.relative_to(edition) for path in edition.rglob("*") if path.is_file()
    )
    for path in again:
        assert path.read_bytes() == (edition / path.relative_to(tmp_path / "again")).read_bytes()


def test_its_notebooks_are_graded_as_their_lessons(edition: Path) -> None:
    for name, lesson in FOUND.items():
        made = teaching.lessons.cells_of(teaching.read_notebook(edition / "notebooks" / f"{name}.ipynb"))
        assert teaching.lessons.match_lesson("homework.ipynb", made, FOUND) is lesson
        numbers = [part.exercise for part in teaching.lessons.sections(made) if part.exercise]
        assert numbers == [exercise.number for exercise in lesson.exercises]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "edition"
    assert command_line.main(["student", "--out", str(out), "--drop-hints", "--drop-outputs"]) == 0
    assert f"wrote {len(LESSONS)} lessons" in capsys.readouterr().out
    assert {path.stem for path in (out / "notebooks").iterdir()} == set(LESSONS)
    assert "<details>" not in text_of(teaching.read_notebook(out / "notebooks" / f"{LESSONS[1]}.ipynb"))
    assert command_line.main(["student", "--out", str(out)]) == 2
    assert "empty folder" in capsys.readouterr().err
    assert command_line.main(["student", "--out", str(tmp_path / "other"), "--lessons", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "repository" in message
    assert "--lessons" in message
