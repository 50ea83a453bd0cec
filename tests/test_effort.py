"""Every lesson says what it teaches, how long it takes and how hard it is, and every exercise does."""

from __future__ import annotations

import re

import pytest
from _notebooks import LESSONS, exercises, markdown, notebook, sections, tags

EFFORT = re.compile(
    r"\*About (\d+) minutes of reading and trying out · exercises (\d+) minutes · difficulty ([●○]{3})\*"
)
OBJECTIVE = re.compile(r"^\*Objective: .+ · about (\d+) minutes · difficulty (●○○|●●○|●●●)\*$", re.MULTILINE)

each_lesson = pytest.mark.parametrize("name", LESSONS)


def part(name: str, title: str) -> str:
    [text] = [text for _, found, text in sections(markdown(name)) if found == title]
    return text


@each_lesson
def test_objectives_are_things_that_a_reader_will_do(name: str) -> None:
    """A list whose points begin with a verb in bold type."""
    points = re.findall(r"^- (.+)$", part(name, "What you will learn"), re.MULTILINE)
    assert len(points) >= 4
    assert all(re.match(r"\*\*\w+\*\* ", point) for point in points), points


@each_lesson
def test_minutes_and_difficulty_are_stated(name: str) -> None:
    """First thing under "What you need"; the exercises' minutes are the sum of theirs."""
    found = EFFORT.match(part(name, "What you need").split("\n\n")[1])
    assert found
    assert found[3] in {"●○○", "●●○", "●●●"}
    assert int(found[2]) == sum(int(OBJECTIVE.search(exercise.text)[1]) for exercise in exercises(name))
    assert len(re.findall(r"\bminutes\b", part(name, "What you need"))) - 2 <= 1, "said twice, it is wrong once"


@each_lesson
def test_minutes_of_reading_fit_the_text(name: str) -> None:
    """About 120 words or 10 lines of code a minute, before the exercises; and at most an hour and a half."""
    cells = notebook(name).cells
    end = next(k for k, cell in enumerate(cells) if cell.source.startswith("## Exercises"))
    words = sum(len(cell.source.split()) for cell in cells[:end] if cell.cell_type == "markdown")
    shown = [cell for cell in cells[:end] if cell.cell_type == "code" and not {"setup", "hide-input"} & set(tags(cell))]
    lines = sum(len(cell.source.splitlines()) for cell in shown)
    minutes = int(EFFORT.search(markdown(name))[1])
    assert minutes == pytest.approx(words / 120 + lines / 10, rel=0.15)
    assert 30 <= minutes <= 90


@each_lesson
def test_exercises_state_objective_minutes_and_difficulty(name: str) -> None:
    for exercise in exercises(name):
        assert len(OBJECTIVE.findall(exercise.text)) == 1, exercise.number
