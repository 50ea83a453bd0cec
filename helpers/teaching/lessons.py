"""What a lesson is made of: its sections, set-up cells and exercises, read from the notebook itself.

A section runs from a heading of the first three levels to the next, and an exercise is the section under
``### Exercise N.k Title``. Notebooks are read as JSON, with no more trust than that needs: they come from learners.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "Cell",
    "Exercise",
    "Lesson",
    "NotebookError",
    "Section",
    "cells_of",
    "find_lessons",
    "match_lesson",
    "read_notebook",
    "sections",
    "split_markdown",
]

MAX_BYTES = 50_000_000
_FENCE = re.compile(r" *(`{3,}|~{3,})")
_HEADING = re.compile(r"(#{1,6}) +(.*)")
_EXERCISE = re.compile(r"Exercise (\d+\.\d+)\b[\s.:]*(.*)")
_OBJECTIVE = re.compile(r"^\*Objective: (.*?) · about (\d+) minutes · difficulty ([●○]+)\*", re.MULTILINE)
_HEADER = re.compile(r"^\*About (\d+) minutes of .*? · exercises \d+ minutes · difficulty ([●○]+)\*", re.MULTILINE)
_NAME = re.compile(r"\d\d_\w+")


class NotebookError(ValueError):
    """A file that is no notebook, or none of this course."""


@dataclass(frozen=True)
class Cell:
    """One cell, without its outputs.

    Attributes:
        kind: ``"code"``, ``"markdown"`` or ``"raw"``.
        source: Its text.
        tags: Its tags.
    """

    kind: str
    source: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading of level 1 to 3 and what follows, up to the next; what precedes the first heading has level 0.

    Attributes:
        level: Level of the heading.
        title: Text of the heading.
        text: All Markdown, the heading too.
        code: The code cells, each with its place in the notebook.
    """

    level: int
    title: str
    text: str
    code: tuple[tuple[int, Cell], ...]

    @property
    def exercise(self) -> str | None:
        """Number of the exercise that this section is, e.g. ``"1.2"``."""
        found = _EXERCISE.match(self.title)
        return found[1] if found else None


@dataclass(frozen=True)
class Exercise:
    """An exercise as the lesson gives it.

    Attributes:
        number: E.g. ``"1.2"``.
        title: Its title.
        objective: What it trains.
        minutes: How long it takes, about.
        difficulty: 1 to 3.
        stubs: Sources of the cells that the learner fills in.
        check: Source of the check cell.
        given: Sources of its other code cells.
    """

    number: str
    title: str
    objective: str
    minutes: int
    difficulty: int
    stubs: tuple[str, ...]
    check: str
    given: tuple[str, ...]


@dataclass(frozen=True)
class Lesson:
    """A lesson of the course, as the course ships it.

    Attributes:
        name: File name without its ending, e.g. ``"01_time_embedding"``.
        path: The notebook.
        title: Its first heading.
        minutes: How long reading and trying out take, about, as it says itself; exercises have theirs.
        difficulty: 1 to 3.
        setup: Sources of the set-up cells.
        code: Sources of all code cells.
        headings: Its headings of level 1 to 3.
        exercises: Its exercises, in order.
    """

    name: str
    path: Path
    title: str
    minutes: int
    difficulty: int
    setup: tuple[str, ...]
    code: tuple[str, ...]
    headings: tuple[str, ...]
    exercises: tuple[Exercise, ...]


def read_notebook(path: str | Path) -> dict[str, Any]:
    """Read a notebook of format 4.

    Args:
        path: The file.

    Returns:
        The notebook's JSON; ``cells`` is a list of objects with ``cell_type`` and ``source``, the source a string.

    Raises:
        NotebookError: If it is none, in words that say what it is instead.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise NotebookError("expected a notebook, got a folder")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise NotebookError(f"expected at most {MAX_BYTES // 10**6} MB, got {size // 10**6} MB")
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise NotebookError("expected a notebook (.ipynb), got a file that is not text") from None
    except OSError as error:
        raise NotebookError(error.strerror or str(error)) from None
    if not text.strip():
        raise NotebookError("the file is empty")
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError):
        raise NotebookError("expected a notebook (.ipynb), got text that is not JSON") from None
    _check_form(notebook)
    return notebook


def _check_form(notebook: Any) -> None:
    """Refuse what is not a notebook of format 4; join sources that are lists of lines."""
    if not isinstance(notebook, dict) or not isinstance(notebook.get("nbformat"), int):
        raise NotebookError("expected a notebook (.ipynb), got other JSON")
    if (version := notebook["nbformat"]) != 4:
        advice = ": open and save it in JupyterLab, or use `jupyter nbconvert --to notebook`" if version < 4 else ""
        raise NotebookError(f"expected a notebook of format 4, got format {version}{advice}")
    cells = notebook.get("cells")
    if not isinstance(cells, list) or not cells:
        raise NotebookError("the notebook has no cells")
    for number, cell in enumerate(cells):
        source = cell.get("source") if isinstance(cell, dict) else None
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = cell["source"] = "".join(source)
        if not isinstance(source, str) or not isinstance(cell.get("cell_type"), str):
            raise NotebookError(f"cell {number + 1} has no type or no source")


def cells_of(notebook: dict[str, Any]) -> list[Cell]:
    """The cells of a notebook that :func:`read_notebook` has read."""
    found = []
    for cell in notebook["cells"]:
        metadata = cell.get("metadata")
        tags = metadata.get("tags") if isinstance(metadata, dict) else None
        tags = tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else ()
        found.append(Cell(cell["cell_type"], cell["source"], tags))
    return found


def split_markdown(text: str) -> Iterator[tuple[int, str, str]]:
    """Cut Markdown at its headings of level 1 to 3.

    Args:
        text: The Markdown of one cell.

    Yields:
        Level, heading, and the text with it; what precedes the first heading has level 0.
    """
    level, title, lines, fence = 0, "", [], ""
    for line in text.splitlines():
        marker, heading = _FENCE.match(line), _HEADING.match(line)
        if marker and (not fence or marker[1].startswith(fence)):
            fence = "" if fence else marker[1]
        elif heading and not fence and len(heading[1]) <= 3:
            yield level, title, "\n".join(lines)
            level, title, lines = len(heading[1]), heading[2].strip(), []
        lines.append(line)
    yield level, title, "\n".join(lines)


def sections(cells: Sequence[Cell]) -> list[Section]:
    """Cut a notebook at its headings.

    Args:
        cells: All its cells.

    Returns:
        Its sections in order; the first is what precedes the first heading, and may be empty.
    """
    parts: list[tuple[int, str, list[str], list[tuple[int, Cell]]]] = [(0, "", [], [])]
    for place, cell in enumerate(cells):
        if cell.kind == "code":
            parts[-1][3].append((place, cell))
        elif cell.kind == "markdown":
            for level, title, text in split_markdown(cell.source):
                if level:
                    parts.append((level, title, [], []))
                parts[-1][2].append(text)
    return [Section(level, title, "\n\n".join(text), tuple(code)) for level, title, text, code in parts]


def _exercise(section: Section) -> Exercise:
    found = _OBJECTIVE.search(section.text)
    objective, minutes, difficulty = found.groups() if found else ("", "0", "")
    by_tag: dict[str, list[str]] = {"exercise": [], "exercise-check": [], "": []}
    for _, cell in section.code:
        by_tag[next((tag for tag in cell.tags if tag in by_tag), "")].append(cell.source)
    return Exercise(
        number=section.exercise or "",
        title=_EXERCISE.match(section.title)[2],
        objective=objective,
        minutes=int(minutes),
        difficulty=difficulty.count("●"),
        stubs=tuple(by_tag["exercise"]),
        check="\n".join(by_tag["exercise-check"]),
        given=tuple(by_tag[""]),
    )


def _lesson(path: Path) -> Lesson:
    cells = cells_of(read_notebook(path))
    parts = sections(cells)
    header = _HEADER.search(next((part.text for part in parts if part.title == "What you need"), ""))
    minutes, difficulty = header.groups() if header else ("0", "")
    return Lesson(
        name=path.stem,
        path=path,
        title=next((part.title for part in parts if part.level == 1), path.stem),
        minutes=int(minutes),
        difficulty=difficulty.count("●"),
        setup=tuple(cell.source for cell in cells if cell.kind == "code" and "setup" in cell.tags),
        code=tuple(cell.source for cell in cells if cell.kind == "code"),
        headings=tuple(part.title for part in parts if part.level),
        exercises=tuple(_exercise(part) for part in parts if part.exercise),
    )


def find_lessons(folder: str | Path | None = None) -> dict[str, Lesson]:
    """The lessons of the course.

    Args:
        folder: Where they are; by default ``notebooks`` beside the package, as in the repository, or here.

    Returns:
        Lessons by name, in order.

    Raises:
        FileNotFoundError: If there are none; a package installed without the repository holds no lessons.
    """
    beside = Path(__file__).resolve().parents[2] / "notebooks"
    places = [Path(folder)] if folder is not None else [beside, Path("notebooks").resolve()]
    for place in places:
        paths = sorted(path for path in place.glob("*.ipynb") if _NAME.fullmatch(path.stem))
        if paths:
            return {path.stem: _lesson(path) for path in paths}
    looked = " and ".join(str(place) for place in places)
    raise FileNotFoundError(
        f"found no lessons (01_time_embedding.ipynb and the others) in {looked}: they are in the folder notebooks "
        "of the course's repository, which the installed package does not contain; clone it, and name the folder "
        "with --lessons"
    )


def match_lesson(path: str | Path, cells: Sequence[Cell], lessons: dict[str, Lesson]) -> Lesson:
    """Which lesson a learner's notebook is, by its headings and, if none is left, by the name of the file.

    Args:
        path: The learner's file.
        cells: Its cells.
        lessons: Of :func:`find_lessons`.

    Raises:
        NotebookError: If it resembles none.
    """
    count = Counter(title for lesson in lessons.values() for title in set(lesson.headings))
    here = {part.title for part in sections(cells)}
    votes = {
        name: sum(title in here and count[title] == 1 for title in lesson.headings) + (name in Path(path).stem)
        for name, lesson in lessons.items()
    }
    best = max(votes, key=votes.__getitem__)
    if not votes[best]:
        raise NotebookError("this is none of the course's lessons: neither its headings nor its name are one's")
    return lessons[best]
