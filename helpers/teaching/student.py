"""The students' edition: the lessons without their solutions, made from the lessons whenever it is wanted.

The folder is laid out as the repository is, ``notebooks/`` beside ``book/``, with every page and picture that a lesson
links to, so that all links work from disk.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .lessons import Lesson, read_notebook

__all__ = ["student_edition", "without_solutions"]

_FOLD = re.compile(r"<details>\s*<summary>\s*(.*?)\s*</summary>.*?</details>[ \t]*\n*", re.DOTALL)
_LINKS = re.compile(
    r"""\]\(([^)\s]+)\)|(?:src|href)=["']([^"']+)["']|^`{3,}\{(?:figure|image)\} +(\S+)""", re.MULTILINE
)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#", re.IGNORECASE)
_PAGES = (".md", ".ipynb")
_HOW_TO_RUN = "book/how_to_run.md"


def without_solutions(notebook: dict[str, Any], *, hints: bool = True, outputs: bool = True) -> dict[str, Any]:
    """A lesson as a student gets it.

    Args:
        notebook: A lesson, of :func:`helpers.teaching.read_notebook`; it is not changed.
        hints: Whether to keep the folded hints.
        outputs: Whether to keep what the cells printed and drew.

    Returns:
        The notebook without the cells' parts ``<details><summary>Solution`` … ``</details>``.
    """
    unwanted = ("solution",) if hints else ("solution", "hint")
    edition = copy.deepcopy(notebook)
    for cell in edition["cells"]:
        if cell["cell_type"] == "markdown":
            kept = _FOLD.sub(lambda fold: "" if fold[1].lower().startswith(unwanted) else fold[0], cell["source"])
            cell["source"] = kept if kept == cell["source"] else kept.rstrip()
        elif cell["cell_type"] == "code" and not outputs:
            cell["outputs"], cell["execution_count"] = [], None
    edition["cells"] = [cell for cell in edition["cells"] if cell["source"].strip()]
    return edition


def _links(path: Path) -> Iterator[Path]:
    """Files that a page or notebook links to, those that exist."""
    cells = read_notebook(path)["cells"] if path.suffix == ".ipynb" else [{"source": path.read_text("utf-8")}]
    for cell in cells:
        for found in _LINKS.finditer(cell["source"]):
            link = next(filter(None, found.groups())).split("#")[0]
            if link and not _ELSEWHERE.match(link) and (target := (path.parent / link).resolve()).is_file():
                yield target


def _linked(start: list[Path], root: Path) -> list[Path]:
    """These files and all that they link to, directly or not, inside the root's notebooks and book."""
    found, waiting = set(start), list(start)
    while waiting:
        path = waiting.pop()
        for target in _links(path) if path.suffix in _PAGES else ():
            inside = target.is_relative_to(root / "notebooks") or target.is_relative_to(root / "book")
            if inside and target not in found:
                found.add(target)
                waiting.append(target)
    return sorted(found)


def _front_page(lessons: dict[str, Lesson], root: Path) -> str:
    """Where to begin: how to install the course, if that page exists, and the lessons in order."""
    how = f" [How to run the lessons]({_HOW_TO_RUN}) says what they need." if (root / _HOW_TO_RUN).exists() else ""
    listed = [f"- [{lessons[name].title}](notebooks/{lessons[name].path.name})" for name in sorted(lessons)]
    return "\n".join(["# The lessons, without their solutions", "", f"Begin with the first.{how}", "", *listed, ""])


def student_edition(
    lessons: dict[str, Lesson], out: str | Path, *, hints: bool = True, outputs: bool = True
) -> list[Path]:
    """Write the students' edition of the lessons.

    Args:
        lessons: Of :func:`helpers.teaching.find_lessons`.
        out: Folder to write to; new or empty, so that nobody's work is written over.
        hints: Whether to keep the hints.
        outputs: Whether to keep the outputs.

    Returns:
        The files written.

    Raises:
        ValueError: If the folder holds something already.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"expected --out to be a new or empty folder, got {out}")
    start = [lesson.path.resolve() for lesson in lessons.values()]
    root = start[0].parent.parent
    written = [out / "README.md"]
    out.mkdir(parents=True, exist_ok=True)
    written[0].write_text(_front_page(lessons, root), "utf-8")
    start += [page for page in (root / _HOW_TO_RUN,) if page.exists()]
    for path in _linked(start, root):
        target = out / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            edition = without_solutions(read_notebook(path), hints=hints, outputs=outputs)
            for cell in edition["cells"]:
                cell["source"] = cell["source"].splitlines(keepends=True)
            target.write_text(json.dumps(edition, indent=1, ensure_ascii=False) + "\n", "utf-8")
        else:
            shutil.copyfile(path, target)
        written.append(target)
    return written
