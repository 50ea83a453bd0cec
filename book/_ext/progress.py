"""Quizzes that answer, and the reader's progress: scripts for every page, and the table of the progress page.

The directive ``progress-table`` lists the lessons as the notebooks describe themselves: title, minutes, difficulty, how
many exercises; and how many questions ``helpers/quizzes`` has for each. The scripts fill in what the reader has done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SCRIPTS = ["progress.js", "progress-marks.js", "progress-page.js", "quiz.js"]
EFFORT = re.compile(
    r"^\*About (?P<reading>\d+) minutes of reading and trying out · exercises (?P<exercises>\d+) minutes"
    r" · difficulty (?P<difficulty>[●○]{3})\*$",
    re.MULTILINE,
)
TOTALS = {"lessons": "Lessons", "exercises": "Exercises", "questions": "Questions"}
ACTIONS = [("save", "Save to a file"), ("read", "Read from a file …"), ("forget", "Forget everything …")]
HEAD = ["Lesson", "Minutes (reading + exercises)", "Difficulty", "Exercises", "Quiz", "Finished"]


@dataclass(frozen=True)
class Lesson:
    """What a notebook says of itself."""

    name: str
    title: str
    reading: int
    practice: int
    difficulty: str
    exercises: int
    questions: int

    @classmethod
    def of(cls, path: Path) -> Lesson:
        """Read the notebook, and its quiz."""
        cells = json.loads(path.read_text("utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        title, effort = re.search(r"^# (.+)$", text, re.MULTILINE), EFFORT.search(text)
        if title is None or effort is None:
            raise ValueError(f"{path.name} needs a title, and a line '*About … · difficulty ●●○*'")
        quiz = path.parents[1] / "helpers" / "quizzes" / f"{path.name[:2]}.json"
        return cls(
            name=path.stem,
            title=title[1],
            reading=int(effort["reading"]),
            practice=int(effort["exercises"]),
            difficulty=effort["difficulty"],
            exercises=len(re.findall(r"^### Exercise \d", text, re.MULTILINE)),
            questions=len(json.loads(quiz.read_text("utf-8"))),
        )

    def link(self) -> str:
        """Its title, as a link from a page of ``book/``."""
        return f'<a href="../notebooks/{self.name}.html">{escape(self.title)}</a>'

    def row(self) -> str:
        """The lesson's row of the table, as it is before anything is done."""
        level = f'<span role="img" aria-label="{self.difficulty.count("●")} of 3">{self.difficulty}</span>'
        return (
            f'<tr data-lesson="{int(self.name[:2])}">'
            f'<th scope="row">{self.link()}</th>'
            f"<td>{self.reading} + {self.practice}</td><td>{level}</td>"
            f'<td data-cell="exercises" data-total="{self.exercises}">{self.exercises}</td>'
            f'<td data-cell="questions" data-total="{self.questions}">{self.questions}</td>'
            f'<td data-cell="done"></td></tr>'
        )


def _page(lessons: list[Lesson]) -> Iterator[str]:
    """As it is before anything is done; what a script must do works only with one, and has its room from the start."""
    yield "<noscript><style>.progress-live { display: none }</style></noscript>"
    yield '<div class="course-progress"><div class="progress-live"><div class="progress-totals">'
    for kind, words in TOTALS.items():
        yield (
            f'<label data-total-of="{kind}"><span>{words}</span>'
            f'<progress value="0" max="1"></progress><output>0</output></label>'
        )
    yield f'</div><p class="progress-next">Begin with {lessons[0].link()}.</p><p class="progress-actions">'
    yield from (f'<button type="button" class="course-button" data-do="{do}">{words}</button>' for do, words in ACTIONS)
    yield '</p><p class="progress-status" role="status"></p></div>'
    yield '<table class="table"><thead><tr>'
    yield "".join(f'<th scope="col">{words}</th>' for words in HEAD)
    yield "</tr></thead><tbody>"
    yield from (lesson.row() for lesson in lessons)
    yield "</tbody></table></div>"


class ProgressTable(SphinxDirective):
    """All lessons with what they ask for, and what the reader has done."""

    def run(self) -> list[nodes.Node]:
        paths = sorted((Path(self.env.srcdir) / "notebooks").glob("*.ipynb"))
        for path in paths:
            self.env.note_dependency(str(path))
        return [nodes.raw("", "\n".join(_page([Lesson.of(path) for path in paths])), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the parts to Sphinx."""
    app.add_directive("progress-table", ProgressTable)
    app.add_css_file("learning.css")
    for script in SCRIPTS:
        app.add_js_file(script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
