"""The code on the book's pages runs, and each page keeps the style of its sources."""

from __future__ import annotations

import inspect
import itertools
import pkgutil
import pydoc
import re
from pathlib import Path

import pytest
from _notebooks import ROOT, headings

PAGES = sorted((ROOT / "book").rglob("*.md"))
BLOCKS = [
    pytest.param(page.name, block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL), start=1)
    if page.stem != "serving"  # starts a server and waits; tests/test_serving_book.py runs it
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_code_on_pages_runs(page: str, block: str) -> None:
    exec(compile(block, page, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_one_sentence_a_line(page: Path) -> None:
    text = re.sub(r"```.*?```|<figure.*?</figure>", "", page.read_text("utf-8"), flags=re.DOTALL)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    assert not re.findall(r"^.*[a-z)]{3,}[.?!] [A-Z][a-z].*$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_headings_do_not_jump(page: Path) -> None:
    levels = [level for level, _ in headings(page.read_text("utf-8"))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_of_the_library_exist(page: Path) -> None:
    for name in re.findall(r"`(helpers(?:\.\w+)+)`", page.read_text("utf-8")):
        pkgutil.resolve_name(name)


def test_every_equation_has_a_label_of_its_own() -> None:
    labels = re.findall(r"^\$\$ \((eq-[a-z-]+)\)$", (ROOT / "book" / "notation.md").read_text("utf-8"), re.MULTILINE)
    assert len(labels) == len(set(labels)) > 10


# --- equations


NOTATION = (ROOT / "book" / "notation.md").read_text("utf-8")
EQUATIONS = re.findall(r"^\$\$ \((eq-[a-z0-9-]+)\)$", NOTATION, re.MULTILINE)
CITED = {
    (path.relative_to(ROOT).as_posix(), label)
    for path in (ROOT / "helpers").rglob("*.py")
    for label in re.findall(r"``(eq-[a-z0-9-]+)``", path.read_text("utf-8"))
}


def test_docstrings_cite_only_equations_that_exist() -> None:
    assert EQUATIONS
    assert {(path, label) for path, label in CITED if label not in EQUATIONS} == set()


@pytest.mark.parametrize("label", EQUATIONS)
def test_code_that_implements_an_equation_cites_it(label: str) -> None:
    """What stands beside the equation as its code says in its docstring which equation it is."""
    after = NOTATION[NOTATION.index(f"$$ ({label})") :]
    named = re.findall(r"`(helpers\.[\w.]+)`", re.search(r"^In code: (.*)$", after, re.MULTILINE)[1])
    assert named
    assert any(f"``{label}``" in (inspect.getdoc(pydoc.locate(name)) or "") for name in named)
    assert all("``eq-" in inspect.getdoc(pydoc.locate(name)) for name in named)
