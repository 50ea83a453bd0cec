"""Every exercise: open as given, passed with its own solution, and its check tried on right and wrong answers."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from _notebooks import LESSONS, ROOT, Exercise, as_python, code_cells, exercises

import helpers.checks
from helpers.checks import REGISTRY, Outcome

EXERCISES = [
    pytest.param(lesson, exercise, id=f"{lesson}-{exercise.number}")
    for lesson in LESSONS
    for exercise in exercises(lesson)
]

for _module in pkgutil.iter_modules(helpers.checks.__path__):
    importlib.import_module(f"helpers.checks.{_module.name}")


@functools.cache
def setup(lesson: str) -> dict[str, Any]:
    """The names that the lesson's set-up cells make; they run once."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in code_cells(lesson, "setup"):
        exec(compile(as_python(cell.source), f"{lesson}, set-up", "exec"), names)
    return names


def outcome(lesson: str, answer: str, check: str) -> Outcome:
    """Run an answer after the set-up, then the check cell; return the value of the check's last line."""
    names = dict(setup(lesson))
    exec(compile(answer, f"{lesson}, answer", "exec"), names)
    *statements, last = ast.parse(check).body
    assert isinstance(last, ast.Expr), "a check cell ends with the call of the check"
    exec(compile(ast.Module(statements, []), f"{lesson}, check", "exec"), names)
    return eval(compile(ast.Expression(last.value), f"{lesson}, check", "eval"), names)


@pytest.mark.parametrize(("lesson", "exercise"), EXERCISES)
def test_is_open_as_given(lesson: str, exercise: Exercise) -> None:
    result = outcome(lesson, "\n".join(exercise.stubs), exercise.check)
    assert (result.exercise, result.status) == (exercise.number, "open"), result


@pytest.mark.parametrize(("lesson", "exercise"), EXERCISES)
def test_its_solution_passes(lesson: str, exercise: Exercise) -> None:
    result = outcome(lesson, exercise.solution, exercise.check)
    assert (result.exercise, result.status) == (exercise.number, "passed"), result


@functools.cache
def answers(kind: str) -> dict[str, Any]:
    """The dictionaries ``RIGHT`` or ``WRONG`` of all modules in tests/checks, joined."""
    joined: dict[str, Any] = {}
    for path in sorted((ROOT / "tests" / "checks").glob("test_*.py")):
        for number, given in getattr(_load(path), kind, {}).items():
            assert number not in joined, f"{kind}[{number!r}] stands in two modules"
            joined[number] = given
    return joined


@functools.cache
def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"_answers_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_check_is_used_and_tried() -> None:
    asked = {exercise.number for lesson in LESSONS for exercise in exercises(lesson)}
    assert set(REGISTRY) == asked, "checks without an exercise, or exercises without a check"
    assert {number for number, given in answers("RIGHT").items() if len(given) >= 2} == asked
    assert {number for number, given in answers("WRONG").items() if len(given) >= 1} == asked


def test_right_answers_differ() -> None:
    for number, given in answers("RIGHT").items():
        assert len({id(answer) for answer in given}) == len(given), number


def ask(number: str, answer: Any) -> Outcome:
    """A check's verdict; a tuple holds the answers of a check that takes several."""
    return REGISTRY[number](*answer) if isinstance(answer, tuple) else REGISTRY[number](answer)


@pytest.mark.parametrize(
    ("number", "index"), [(n, i) for n, given in answers("RIGHT").items() for i in range(len(given))]
)
def test_a_right_answer_passes(number: str, index: int) -> None:
    outcome = ask(number, answers("RIGHT")[number][index])
    assert (outcome.exercise, outcome.status) == (number, "passed"), outcome


@pytest.mark.parametrize(("number", "name"), [(n, name) for n, given in answers("WRONG").items() for name in given])
def test_a_wrong_answer_fails_by_its_own_name(number: str, name: str) -> None:
    outcome = ask(number, answers("WRONG")[number][name])
    assert (outcome.status, outcome.mistake) == ("failed", name), outcome
