"""What several tests need to know about the project: where things are, and what a lesson is made of."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]

_IGNORED = {".git", ".venv", "_build", "__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".ruff_cache"}
_DETAILS = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.DOTALL)
_PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@functools.cache
def tracked_files() -> tuple[Path, ...]:
    """The project's files, relative to its root: as git sees them, or by folder where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
        files = [Path(name) for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        everything = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        files = [path for path in everything if not any(p in _IGNORED or p.endswith(".egg-info") for p in path.parts)]
    return tuple(sorted(path for path in files if (ROOT / path).is_file()))


@functools.cache
def notebook(name: str) -> NotebookNode:
    """The lesson of this name, as it is stored."""
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def tags(cell: NotebookNode) -> list[str]:
    """The cell's tags."""
    return cell.metadata.get("tags", [])


def code_cells(name: str, tag: str | None = None) -> list[NotebookNode]:
    """Code cells of a lesson, all or those with this tag."""
    return [c for c in notebook(name).cells if c.cell_type == "code" and (tag is None or tag in tags(c))]


def markdown(name: str) -> str:
    """The text of a lesson."""
    return "\n\n".join(cell.source for cell in notebook(name).cells if cell.cell_type == "markdown")


def sections(text: str) -> list[tuple[int, str, str]]:
    """A Markdown text cut at its headings: (level, heading, text with it); what precedes the first has level 0."""
    parts: list[tuple[int, str, list[str]]] = [(0, "", [])]
    fence = ""
    for line in text.splitlines():
        marker = re.match(r" *(`{3,}|~{3,})", line)
        heading = re.match(r"(#{1,6}) +(.*)", line)
        if marker and (not fence or marker[1].startswith(fence)):
            fence = "" if fence else marker[1]
        elif heading and not fence:
            parts.append((len(heading[1]), heading[2].strip(), []))
        parts[-1][2].append(line)
    return [(level, title, "\n".join(lines)) for level, title, lines in parts]


def headings(text: str) -> list[tuple[int, str]]:
    """Level and text of each Markdown heading; comments in code do not count."""
    return [(level, title) for level, title, _ in sections(text) if level]


def as_python(source: str) -> str:
    """A cell's source with IPython's magics turned into calls, so that it parses."""
    return TransformerManager().transform_cell(source)


def defined_names(source: str) -> Iterator[str]:
    """Functions and classes that this source defines at its top level."""
    for node in ast.parse(as_python(source)).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson.

    Attributes:
        number: As in its heading, e.g. ``"1.2"``.
        text: All its Markdown.
        stubs: Sources of the cells that the learner fills in.
        check: Source of the check cell.
        solution: Code of the folded solution.
        folds: Titles of everything that unfolds.
    """

    number: str
    text: str
    stubs: tuple[str, ...]
    check: str
    solution: str
    folds: tuple[str, ...]


@functools.cache
def exercises(name: str) -> tuple[Exercise, ...]:
    """The exercises of a lesson, from their headings "Exercise N.k …" to the next heading of that level or above."""
    groups: list[tuple[str, list[str], list[NotebookNode]]] = [("", [], [])]
    for cell in notebook(name).cells:
        if cell.cell_type == "code":
            groups[-1][2].append(cell)
            continue
        for level, title, text in sections(cell.source):
            if 1 <= level <= 3:
                number = re.match(r"Exercise (\d+\.\d+)\b", title)
                groups.append((number[1] if number else "", [], []))
            groups[-1][1].append(text)
    return tuple(_exercise(number, "\n\n".join(texts), cells) for number, texts, cells in groups if number)


def _exercise(number: str, text: str, cells: list[NotebookNode]) -> Exercise:
    folds = {title.strip(): body for title, body in _DETAILS.findall(text)}
    solution = next((body for title, body in folds.items() if title.startswith("Solution")), "")
    stubs, checks = ([c.source for c in cells if tag in tags(c)] for tag in ("exercise", "exercise-check"))
    return Exercise(number, text, tuple(stubs), "\n".join(checks), "\n".join(_PYTHON.findall(solution)), tuple(folds))
