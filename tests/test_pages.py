"""The code on the book's pages runs, and each page keeps the style of its sources."""

from __future__ import annotations

import itertools
import pkgutil
import re
from pathlib import Path

import pytest
from _notebooks import ROOT, headings

PAGES = sorted((ROOT / "book").glob("*.md"))
BLOCKS = [
    pytest.param(page.name, block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL), start=1)
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
