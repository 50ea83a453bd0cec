"""Every lesson keeps the rules that CONTRIBUTING.md states, so that it reads, runs and compares everywhere alike."""

from __future__ import annotations

import ast
import collections
import itertools
import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from _notebooks import (
    LESSONS,
    REPOSITORY,
    ROOT,
    code_cells,
    defined_names,
    exercises,
    headings,
    markdown,
    notebook,
    tags,
)
from nbformat import NotebookNode

MAX_LINES = 30
MAX_BYTES = 1_500_000
MIN_COMPARED = 0.8
MIN_EXERCISES = 3

COLAB_CELL = f"""\
try:
    import helpers  # noqa: F401
except ModuleNotFoundError:  # on Colab: install the course, and leave Colab's own torch alone
    %pip install -q --no-deps "git+{REPOSITORY}"
"""

# Every cell whose output nbval does not compare: lesson → first line of the cell → why its output may differ.
UNCOMPARED: dict[str, dict[str, str]] = {
    "00_start_here": {
        'device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"': (
            "shows which device this machine has"
        ),
    },
    "13_performance": {
        "peak = {dtype: max(rates.values()) for dtype, rates in product_rate.items()}": "this machine's two speeds",
        "for name, times in spent.items():": "the longest operations of a step, by their time here",
        "for before, after in itertools.pairwise(names):": "what each change bought on this machine",
    },
    "14_serving_api": {
        'print(f"this machine: {throughput:.0f} requests a second in batches, {one_by_one:.0f} one by one,")': (
            "what batching buys on this machine"
        ),
        "hourly = 1.0  # yours": "the price of a picture follows from this machine's speed",
    },
}

TAGS = {"setup", "exercise", "exercise-check", "hide-input", "hide-output", "raises-exception", "nbval-ignore-output"}

pytestmark = pytest.mark.filterwarnings("error")
each_lesson = pytest.mark.parametrize("name", LESSONS)


def outputs(name: str) -> list[tuple[NotebookNode, NotebookNode]]:
    return [(cell, output) for cell in code_cells(name) for output in cell.outputs]


def first_line(cell: NotebookNode) -> str:
    return cell.source.splitlines()[0]


def shows_picture(cell: NotebookNode) -> bool:
    data = [output.get("data", {}) for output in cell.outputs]
    return any(
        kind.startswith("image/") or (kind == "text/html" and re.search("<(img|svg|video)", "".join(content)))
        for bundle in data
        for kind, content in bundle.items()
    )


def test_lessons_are_those_of_the_book() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert sorted(Path(file).name for file in files if file.startswith("notebooks/")) == LESSONS
    assert LESSONS


@each_lesson
def test_was_executed_in_order_without_complaints(name: str) -> None:
    cells = code_cells(name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell, output in outputs(name):
        assert output.get("name") != "stderr", f"stderr under: {first_line(cell)}\n{output.text}"
        if output.output_type == "error":
            assert "raises-exception" in tags(cell), f"untagged {output.ename} under: {first_line(cell)}"
    for cell in cells:
        errors = [output for output in cell.outputs if output.output_type == "error"]
        assert bool(errors) == ("raises-exception" in tags(cell)), f"tagged raises-exception: {first_line(cell)}"


@each_lesson
def test_is_portable(name: str) -> None:
    """Valid, small, for any Python 3 kernel, and without a trace of the machine that ran it."""
    path = ROOT / "notebooks" / f"{name}.ipynb"
    nbformat.validate(json.loads(path.read_text("utf-8")))
    assert path.stat().st_size <= MAX_BYTES
    assert notebook(name).metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    stored = json.dumps([(cell.source, cell.get("outputs", [])) for cell in notebook(name).cells])
    stored = re.sub(r"[A-Za-z0-9+/=\\n]{200,}", "", stored)  # pictures
    for trace in (r"/(home|root|work|tmp|usr|Users|mnt|content)/\w+", r"[A-Z]:\\\\\w", "site-packages", "ipykernel_"):
        found = re.search(trace, stored)
        assert not found, f"a machine's path in {name}: …{stored[max(0, found.start() - 60) : found.end() + 60]}…"


@each_lesson
def test_cells_are_short_and_tagged_from_the_list(name: str) -> None:
    for cell in code_cells(name):
        assert len(cell.source.splitlines()) <= MAX_LINES, f"more than {MAX_LINES} lines: {first_line(cell)}"
        assert set(tags(cell)) <= TAGS, f"unknown tag: {tags(cell)}"
        assert "NBVAL" not in cell.source, "tags, not comments, tell nbval what to do"
        assert "\r" not in "".join(output.get("text", "") for output in cell.outputs), "a progress bar in the output"


@each_lesson
def test_starts_on_colab(name: str) -> None:
    first = code_cells(name)[0]
    assert first.source.strip() == COLAB_CELL.strip()
    assert "setup" in tags(first)


@each_lesson
def test_uncompared_outputs_are_few_and_have_a_reason(name: str) -> None:
    uncompared = [first_line(cell) for cell in code_cells(name, "nbval-ignore-output")]
    reasons = UNCOMPARED.get(name, {})
    assert sorted(uncompared) == sorted(reasons), "UNCOMPARED lists each tagged cell, with its reason"
    assert all(reasons.values())
    assert len(uncompared) <= (1 - MIN_COMPARED) * len(code_cells(name))


@each_lesson
def test_figures_have_alt_text_and_numbered_captions(name: str) -> None:
    cells = notebook(name).cells
    number = int(name[:2])
    captions = []
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if cell.cell_type != "code" or not shows_picture(cell):
            continue
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        assert len(alt) > 10, f"no alt text: {first_line(cell)}"
        caption = re.match(rf"\*Figure {number}\.(\d+)\. .+?\*", following.source if following else "", re.DOTALL)
        assert caption, f"no caption '*Figure {number}.k. …*' after: {first_line(cell)}"
        captions.append(int(caption[1]))
    assert captions == list(range(1, len(captions) + 1))


@each_lesson
def test_has_the_parts_of_a_lesson_in_order(name: str) -> None:
    found = headings(markdown(name))
    assert [title for level, title in found if level == 1] == [found[0][1]], "one title, and it comes first"
    assert re.match(rf"{int(name[:2])}\. \S", found[0][1]), found[0][1]
    levels = [level for level, _ in found]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), "a level is skipped"
    parts = [title for level, title in found if level == 2]
    assert len(parts) == len(set(parts))
    wanted = ["What you will learn", "What you need", "Exercises", "Summary", "References"]
    if not exercises(name):
        wanted.remove("Exercises")
    assert [title for title in parts if title in wanted] == wanted


@each_lesson
def test_text_is_plain_markdown(name: str) -> None:
    """MyST's directives, roles and equation labels show as raw text in JupyterLab and on Colab."""
    for raw in (
        r"^ *:::",
        r"^ *`{3,}\{",
        r"\{(eq|ref|cite|cite:\w|doc|numref|term)\}`",
        r"\$\$ \(",
        r"\\label\{",
    ):
        found = re.search(raw, markdown(name), re.MULTILINE)
        assert not found, found


@each_lesson
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", markdown(name)):
        if not re.match(r"https?://|#|mailto:", target):
            assert (ROOT / "notebooks" / target.split("#")[0]).is_file(), target


@each_lesson
def test_exercises_are_complete(name: str) -> None:
    number = int(name[:2])
    found = exercises(name)
    assert [exercise.number for exercise in found] == [f"{number}.{k + 1}" for k in range(len(found))]
    assert len(found) >= MIN_EXERCISES or number == 0
    for exercise in found:
        assert re.search(r"^\*.+minutes.+difficulty [●○]{3}\*$", exercise.text, re.MULTILINE), exercise.number
        assert exercise.stubs, f"exercise {exercise.number} has no stub"
        assert exercise.check, f"exercise {exercise.number} has no check"
        assert any(title.startswith("Hint") for title in exercise.folds), f"exercise {exercise.number} has no hint"
        assert exercise.solution, f"exercise {exercise.number} has no solution"


def test_nothing_is_defined_twice() -> None:
    """A name stands for one thing: in helpers, or in one lesson. Derivations have names of their own, ``*_inline``."""
    homes = collections.defaultdict(set)
    for path in (ROOT / "helpers").rglob("*.py"):
        if path.parts[-2] != "checks":
            for name in defined_names(path.read_text("utf-8")):
                if not name.startswith("_"):
                    homes[name].add("helpers")
    for lesson in LESSONS:
        for cell in code_cells(lesson):
            for name in defined_names(cell.source):
                homes[name].add(lesson)
    twice = {name: sorted(places) for name, places in homes.items() if len(places) > 1}
    assert not twice


def test_inline_derivations_are_short_and_explicit() -> None:
    for lesson in LESSONS:
        for cell in code_cells(lesson):
            if "_inline" not in cell.source or cell.source.lstrip().startswith(("%", "!", "try:")):
                continue
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.FunctionDef) and node.name.endswith("_inline"):
                    lines = node.end_lineno - node.lineno + 1
                    assert lines <= 15, f"{lesson}: {node.name} has {lines} lines"
