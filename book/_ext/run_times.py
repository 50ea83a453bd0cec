"""Write the page of run times while the book is built: what a measurement found, and what the lessons' headers say.

The line ``<!-- run times -->`` of a page becomes a table. ``python benchmarks/run_times.py`` measures; where nothing
was measured yet, the table holds the readers' times alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

__all__ = ["reader_time", "table"]

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- run times -->"
READER = re.compile(r"^\*About (\d+) minutes of reading and trying out · exercises (\d+) minutes", re.MULTILINE)


def reader_time(text: str) -> tuple[int, int] | None:
    """Minutes of reading and of exercises, as a lesson's first lines promise them; None where they do not.

    Example:
        >>> reader_time("*About 85 minutes of reading and trying out · exercises 70 minutes · difficulty ●●●*")
        (85, 70)
    """
    found = READER.search(text)
    return (int(found[1]), int(found[2])) if found else None


def _lesson(path: Path) -> tuple[str, list[str], str]:
    """Title, minutes of reading and of exercises, and the hash of the code."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    title = re.search(r"^# (.+)$", texts[0], re.MULTILINE)[1]
    minutes = reader_time("\n".join(texts))
    code = "\0".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    reader = [f"{n}\N{NO-BREAK SPACE}min" for n in minutes] if minutes else ["–", "–"]
    return title, reader, hashlib.sha256(code.encode()).hexdigest()


def _time(seconds: float) -> str:
    return f"{seconds:.1f}\N{NO-BREAK SPACE}s" if seconds < 10 else f"{seconds:.0f}\N{NO-BREAK SPACE}s"


def _machine(result: Mapping[str, Any]) -> str:
    machine, packages = result["machine"], result["settings"]["packages"]
    versions = ", ".join(f"{name} {number.split('+')[0]}" for name, number in packages.items())
    return (
        f"Measured on {machine['processor']} ({machine['instructions']}), {machine['threads']} threads on "
        f"{machine['cores']} cores, {machine['system']}, with Python {machine['python']}, {versions}."
    )


def table(root: Path = ROOT) -> str:
    """The table, as Markdown, with a sentence about the machine."""
    stored = root / "helpers" / "results" / "run_times.json"
    result = json.loads(stored.read_text("utf-8")) if stored.exists() else {"rows": []}
    rows = {row["lesson"]: row for row in result["rows"]}
    body, older = [], False
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        title, reader, code = _lesson(path)
        line = [f"[{title}](../notebooks/{path.name})", *reader]
        if rows:
            line += _measured(rows.get(path.stem), code)
            older |= path.stem in rows and rows[path.stem]["code"] != code
        body.append(line)
    head = ["lesson", "reading and trying", "exercises"]
    head += ["run time", "longest cell", "its first line"] if rows else []
    lines = [head, [":--", "--:", "--:", *(["--:", "--:", ":--"] if rows else [])], *body]
    parts = ["\n".join("| " + " | ".join(line) + " |" for line in lines)]
    if rows:
        total = sum(row["seconds"] for row in rows.values())
        parts = [
            _machine(result),
            *parts,
            f"All that was measured: {total / 60:.1f} minutes, kernels' starts included.",
        ]
    if older:
        parts.append("An asterisk marks a lesson whose code has changed since.")
    return "\n\n".join(parts)


def _measured(row: Mapping[str, Any] | None, code: str) -> Sequence[str]:
    if row is None:
        return ["–", "–", "–"]
    longest, mark = row["longest"], "" if row["code"] == code else r" \*"
    words = longest["line"].replace("|", "¦").replace("`", "'")
    words = words if len(words) <= 28 else words[:27].rstrip() + "…"
    return [_time(row["seconds"]) + mark, _time(longest["seconds"]), f"`{words}`"]


def _fill_page(app: Sphinx, docname: str, source: list[str]) -> None:
    if MARK in source[0]:
        root = Path(app.srcdir)
        for path in (root / "helpers" / "results" / "run_times.json", *sorted((root / "notebooks").glob("*.ipynb"))):
            app.env.note_dependency(str(path))
        source[0] = source[0].replace(MARK, table(root))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("source-read", _fill_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
