"""A few questions at the end of each lesson, with an explanation for every answer.

The questions are data: ``01.json`` holds those of lesson 1, in the format of the package jupyterquiz (so that
``jupyterquiz.display_quiz(quizzes.load(1))`` shows them too), each with an ``id`` that stays when its words change.
Texts are HTML that uses no more than ``<code>``, ``<em>``, ``<sub>`` and ``<sup>``; a numeric answer is a half-open
range ``[a, b)``. :func:`show` turns them into HTML that unfolds without a script: in JupyterLab, on Colab, in print.
In the book, ``quiz.js`` makes a form of the same HTML.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

__all__ = ["Quiz", "load", "show"]

HOW = {"multiple_choice": "One answer is right.", "many_choice": "Choose all that hold.", "numeric": "Give a number."}
KINDS = {"multiple_choice": "one", "many_choice": "many", "numeric": "number"}


def load(lesson: int) -> list[dict[str, Any]]:
    """The questions of a lesson, in jupyterquiz's format.

    Args:
        lesson: Number of the lesson.

    Returns:
        One dictionary a question: ``id``, ``type`` (``multiple_choice``, ``many_choice`` or ``numeric``),
        ``question``, and ``answers`` with ``correct`` and ``feedback``; a choice has its text under ``answer``, a
        number its ``range``, and the last of a number's answers, of type ``default``, speaks to all others.

    Raises:
        ValueError: If there is no quiz of this number.

    >>> [question["type"] for question in load(3)][:2]
    ['multiple_choice', 'numeric']
    """
    known = sorted(int(file.name[:2]) for file in files(__name__).iterdir() if file.name.endswith(".json"))
    if lesson not in known:
        raise ValueError(f"expected the number of a lesson, {known[0]} to {known[-1]}, got {lesson!r}")
    return json.loads(files(__name__).joinpath(f"{lesson:02d}.json").read_text("utf-8"))


def show(lesson: int) -> Quiz:
    """The quiz of a lesson, for a notebook's cell to display.

    Args:
        lesson: Number of the lesson.

    Raises:
        ValueError: If there is no quiz of this number.
    """
    return Quiz(lesson, tuple(load(lesson)))


@dataclass(frozen=True)
class Quiz:
    """Questions that unfold; the same text each time, so that stored outputs can be compared.

    Attributes:
        lesson: Number of the lesson.
        questions: As :func:`load` gives them.
    """

    lesson: int
    questions: tuple[dict[str, Any], ...]

    def __repr__(self) -> str:
        return f"The quiz of lesson {self.lesson}: {len(self.questions)} questions"

    def _repr_html_(self) -> str:
        return "\n".join([f'<div class="course-quiz" data-lesson="{self.lesson}">', *self._lines(), "</div>"])

    def _lines(self) -> Iterator[str]:
        for number, question in enumerate(self.questions, start=1):
            kind = question["type"]
            yield f'<div class="quiz-question" id="quiz-{question["id"]}" data-kind="{KINDS[kind]}">'
            yield f'<p class="quiz-text"><b>{number}.</b> {question["question"]} <i>{HOW[kind]}</i></p>'
            yield from (_number if kind == "numeric" else _choices)(question["answers"])
            yield "</div>"


def _choices(answers: list[dict[str, Any]]) -> Iterator[str]:
    for answer in answers:
        right = "true" if answer["correct"] else "false"
        yield f'<details class="quiz-answer" data-right="{right}"><summary>{answer["answer"]}</summary>'
        yield f"<p>{'✓' if answer['correct'] else '✗'} <span>{answer['feedback']}</span></p></details>"


def _number(answers: list[dict[str, Any]]) -> Iterator[str]:
    yield '<details class="quiz-answer"><summary>The answer</summary>'
    for answer in answers:
        if answer.get("type") == "default":
            yield f'<p data-right="false" hidden><span>{answer["feedback"]}</span></p>'
            continue
        low, high = answer["range"]
        right = "true" if answer["correct"] else "false"
        lead = "✓" if answer["correct"] else f"✗ If you got {_middle(low, high)}:"
        yield f'<p data-right="{right}" data-range="{low} {high}">{lead} <span>{answer["feedback"]}</span></p>'
    yield "</details>"


def _middle(low: float, high: float) -> str:
    return f"{(low + high) / 2:.3g}".replace("-", "−")
