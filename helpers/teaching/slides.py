"""Slides of a lesson, chosen by rule, so that no lesson carries marks for them.

A heading of level 2 begins a new column of slides, a heading of level 3 a slide below. Shown are the first sentences of
each section, its displayed formulas with the sentence before each, its tables, its small functions ``*_inline``, its
figures with their captions, and its exercises without hints and solutions. Left out are set-up, experiments, quizzes
and references. What belongs together shares a slide as long as there is room.
"""

from __future__ import annotations

import ast
import base64
import html
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .lessons import Cell, cells_of, split_markdown

__all__ = ["slides_of"]

ROOM = 14.0  # lines of text that a slide holds below its heading
FIGURE = 9.5  # lines that a figure takes beside other things
WIDTH = 78  # characters of a line
MAX_ROWS = 12  # of a table
MAX_LIST = 500  # characters of a list that belongs to them
MAX_LEAD = 300  # characters of a section's first sentences
LEFT_OUT = {"What you need", "Check yourself", "References", "What to do next"}
_FORMULA = re.compile(r"^\$\$.*?\$\$", re.MULTILINE | re.DOTALL)
_FOLD = re.compile(r"<details>.*?</details>", re.DOTALL)
_CAPTION = re.compile(r"\*(Figure \d+\.\d+)\. (.*?)\*(?:\n|$)", re.DOTALL)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z*$`“\"(])")
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)]*\)")
_NO_PROSE = ("$$", "|", "<", "- ", "* ", "```", "1. ", "*Figure", "*Objective", "*About", "**Play", "#")
_LISTS = ("- ", "* ", "1. ")
_PICTURES = ("image/svg+xml", "image/png", "image/jpeg")


@dataclass
class _Slide:
    """One slide that is being filled."""

    kind: str
    heading: str
    blocks: list[str] = field(default_factory=list)
    lines: float = 0.0

    def cell(self) -> dict[str, Any]:
        source = "\n\n".join([self.heading, *self.blocks])
        return {"cell_type": "markdown", "metadata": {"slideshow": {"slide_type": self.kind}}, "source": source}


class _Deck:
    """The slides so far."""

    def __init__(self) -> None:
        self.slides: list[_Slide] = []

    def begin(self, title: str, level: int) -> None:
        heading = f"{'#' if level == 1 else '##'} {title}"
        self.slides.append(_Slide("slide" if level <= 2 else "subslide", heading))

    def add(self, block: str, lines: float) -> None:
        """On this slide if there is room, else on one more of the same heading."""
        current = self.slides[-1]
        if current.blocks and current.lines + lines > ROOM:
            current = _Slide("subslide", current.heading)
            self.slides.append(current)
        current.blocks.append(block)
        current.lines += lines


def slides_of(notebook: dict[str, Any]) -> dict[str, Any]:
    """Make a notebook of slides out of a lesson.

    Args:
        notebook: A lesson, of :func:`helpers.teaching.read_notebook`; it is not changed.

    Returns:
        A notebook of short Markdown cells, each a slide, with ``slideshow`` metadata for nbconvert.
    """
    deck, title = _Deck(), ""
    bodies = notebook["cells"]
    for place, (cell, body) in enumerate(zip(cells_of(notebook), bodies, strict=True)):
        if cell.kind == "markdown":
            for level, heading, text in split_markdown(cell.source):
                if level:
                    title = heading
                if level and title not in LEFT_OUT:
                    deck.begin(title, level)
                if title and title not in LEFT_OUT:
                    _add_text(deck, text, heading)
        elif cell.kind == "code" and title and title not in LEFT_OUT:
            following = bodies[place + 1]["source"] if place + 1 < len(bodies) else ""
            _add_code(deck, cell, body, following)
    slides = [slide.cell() for slide in deck.slides if slide.blocks]
    cells = [{"id": f"slide-{place:03d}", **slide} for place, slide in enumerate(slides)]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": dict(notebook.get("metadata", {})), "cells": cells}


def _lines(text: str) -> float:
    """About how many lines a piece of text takes."""
    return sum(math.ceil(max(len(line), 1) / WIDTH) for line in text.splitlines()) + 0.5


def _add_text(deck: _Deck, text: str, heading: str) -> None:
    """What to show of one piece of Markdown; with a heading it is the first of its section."""
    body = _LINK.sub(r"\1", _FOLD.sub("", text)).strip()
    parts = [part.strip() for part in re.split(r"\n\s*\n", body)]
    if heading:
        parts = parts[1:]
    if heading.startswith("Exercise "):
        for part in _brief(parts):
            deck.add(part, 2.5 if part.startswith("$$") else _lines(part))
    elif heading in ("What you will learn", "Summary"):
        points = "\n".join(part for part in parts if part.startswith("- "))
        for point in re.split(r"\n(?=- )", points):
            deck.add(point, _lines(point))
    else:
        lead = next((_lead(part, following) for part, following in _prose(parts)), "") if heading else ""
        if lead:
            deck.add(lead, _lines(lead))
        for formula, before in _formulas(body):
            intro = "" if before and before in lead else before
            rows = 2.5 + 1.4 * formula.count(r"\\")
            deck.add(f"{intro}\n\n{formula}".strip(), rows + (_lines(intro) if intro else 0))
        for part in parts:
            if part.startswith("|") and (rows := len(part.splitlines())) <= MAX_ROWS:
                deck.add(part, 1.1 * rows)


def _prose(parts: list[str]) -> Iterator[tuple[str, str]]:
    """Paragraphs of prose, each with the part that follows."""
    for part, following in itertools.pairwise([*parts, ""]):
        if part and not part.startswith(_NO_PROSE):
            yield part, following


def _sentences(paragraph: str) -> list[str]:
    return _SENTENCE.split(" ".join(paragraph.split()))


def _lead(paragraph: str, following: str) -> str:
    """The first sentences, as many as are short, with a list that ends them; no sentence is left without its end."""
    sentences = _sentences(paragraph)
    is_list = following.startswith(_LISTS) and len(following) <= MAX_LIST
    if (
        not (is_list or following.startswith("$$"))
        and len(sentences) > 1
        and not sentences[-1].endswith((".", "!", "?", ")", "*"))
    ):
        sentences.pop()
    lead = sentences[0]
    for sentence in sentences[1:]:
        if len(lead) + len(sentence) > MAX_LEAD:
            return lead
        lead += " " + sentence
    return f"{lead}\n\n{following}" if is_list else lead


def _formulas(body: str) -> Iterator[tuple[str, str]]:
    """Displayed formulas, each with the sentence that leads to it."""
    for found in _FORMULA.finditer(body):
        before = re.split(r"\n\s*\n", body[: found.start()].strip())[-1]
        sentence = _sentences(before)[-1] if before and not before.startswith(_NO_PROSE) else ""
        yield found[0], sentence if len(sentence) <= MAX_LEAD else ""


def _brief(parts: list[str]) -> Iterator[str]:
    """An exercise's objective and its first two paragraphs, with the formulas and lists among them."""
    prose = 0
    for part in parts:
        prose += bool(part) and not part.startswith(_NO_PROSE)
        if prose > 2:
            return
        yield part


def _add_code(deck: _Deck, cell: Cell, body: dict[str, Any], following: str) -> None:
    """What to show of one code cell: its ``*_inline`` functions and its pictures."""
    if {"setup", "exercise", "exercise-check"} & set(cell.tags):
        return
    for source in _inline(cell.source):
        deck.add(f"```python\n{source}\n```", 0.85 * len(source.splitlines()) + 1.5)
    caption = _CAPTION.match(following.strip())
    alt = body.get("metadata", {}).get("mystnb", {}).get("image", {}).get("alt", "")
    for output in body.get("outputs", []):
        if picture := _picture(output.get("data", {}), alt):
            text = f"**{caption[1]}.** {_LINK.sub(chr(92) + '1', caption[2])}" if caption else ""
            deck.add(f"<figure>\n{picture}\n<figcaption>\n\n{text}\n\n</figcaption>\n</figure>", FIGURE)


def _inline(source: str) -> Iterator[str]:
    if "_inline(" not in source:
        return
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # magics
        return
    for node in statements:
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_inline"):
            yield ast.get_source_segment(source, node) or ""


def _picture(data: dict[str, Any], alt: str) -> str:
    """An HTML image that holds its own data; empty if the output is no still picture."""
    for kind in _PICTURES:
        if kind in data:
            content = "".join(data[kind])
            if kind == "image/svg+xml":
                content = base64.b64encode(content.encode()).decode()
            return f'<img src="data:{kind};base64,{"".join(content.split())}" alt="{html.escape(alt)}">'
    return ""
