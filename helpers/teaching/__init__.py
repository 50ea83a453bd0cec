"""For teachers: grade notebooks in a batch, make the students' edition and slides of the lessons.

:func:`grade` runs learners' answers against the lessons' own checks, each in a process of its own;
:func:`student_edition` writes the lessons without their solutions; :func:`slides_of` chooses what of a lesson to show.
"""

from __future__ import annotations

from .grading import STATUSES, Grade, Report, as_csv, as_json, as_overview, as_text, find_notebooks, grade
from .lessons import Exercise, Lesson, NotebookError, find_lessons, read_notebook
from .slides import slides_of
from .student import student_edition, without_solutions
from .worker import memory_is_limited

__all__ = [
    "STATUSES",
    "Exercise",
    "Grade",
    "Lesson",
    "NotebookError",
    "Report",
    "as_csv",
    "as_json",
    "as_overview",
    "as_text",
    "find_lessons",
    "find_notebooks",
    "grade",
    "memory_is_limited",
    "read_notebook",
    "slides_of",
    "student_edition",
    "without_solutions",
]
