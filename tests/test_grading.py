"""Grading: learners' notebooks, finished, empty, wrong and hostile, each graded by the lesson's own checks."""

from __future__ import annotations

import copy
import csv
import io
import json
import multiprocessing
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _notebooks import ROOT, exercises

from helpers import __main__ as command_line
from helpers import teaching

LESSON = "01_time_embedding"
LESSONS = teaching.find_lessons()
FIRST = "def my_embedding(t, d, max_period):\n"
on_linux = pytest.mark.skipif(not teaching.memory_is_limited(), reason="this system cannot limit a process's memory")


def lesson(name: str = LESSON) -> dict[str, Any]:
    return teaching.read_notebook(ROOT / "notebooks" / f"{name}.ipynb")


def code(source: str, *tags: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": f"cell-{abs(hash((source, tags)))}",
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }


def markdown(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": "text", "metadata": {}, "source": source}


def answered(answers: dict[str, str], name: str = LESSON) -> dict[str, Any]:
    """The lesson with these answers (exercise → code) in place of its stubs."""
    notebook = lesson(name)
    stubs = {exercise.stubs[0]: answers[exercise.number] for exercise in exercises(name) if exercise.number in answers}
    for cell in notebook["cells"]:
        cell["source"] = stubs.get(cell["source"], cell["source"])
    return notebook


def solved(*numbers: str, name: str = LESSON) -> dict[str, str]:
    """The lesson's own solutions, all or those named."""
    return {e.number: e.solution for e in exercises(name) if not numbers or e.number in numbers}


def only(number: str, *cells: dict[str, Any]) -> dict[str, Any]:
    """A notebook that is cut down to one exercise: grading it costs little, the others are open."""
    title = next(e.title for e in LESSONS[LESSON].exercises if e.number == number)
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {},
        "cells": [markdown(f"### Exercise {number} {title}"), *cells],
    }


@pytest.fixture
def grade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., teaching.Report]:
    """Write a notebook and grade it; with ``exercise`` only that one."""

    def graded(notebook: dict[str, Any] | str, *, exercise: str | None = None, **limits: Any) -> teaching.Report:
        path = tmp_path / "learner.ipynb"
        path.write_text(notebook if isinstance(notebook, str) else json.dumps(notebook), "utf-8")
        lessons = LESSONS
        if exercise:
            whole = LESSONS[LESSON]
            one = tuple(e for e in whole.exercises if e.number == exercise)
            lessons = LESSONS | {LESSON: type(whole)(**(vars(whole) | {"exercises": one}))}
        return teaching.grade(path, lessons, **{"seconds": 60.0, **limits})

    return graded


def statuses(report: teaching.Report) -> dict[str, str]:
    assert report.problem is None, report.problem
    return {one.exercise: one.status for one in report.grades}


@pytest.mark.parametrize("name", [LESSON, "03_forward_process"])
def test_a_finished_notebook_passes_and_an_empty_one_is_open(grade: Callable[..., Any], name: str) -> None:
    answers = solved(name=name)
    half = dict(list(answers.items())[::2])
    report = grade(answered(half, name))
    assert report.lesson == name
    assert statuses(report) == {number: "passed" if number in half else "open" for number in answers}
    assert report.passed == len(half)


def test_mistakes_are_named(grade: Callable[..., Any]) -> None:
    wrong = {
        "1.1": FIRST + "    angles = t[:, None] * max_period ** (-torch.arange(d // 2) / (d // 2))\n"
        "    return torch.cat([angles.cos(), angles.sin()], 1)",
        "1.2": "def to_interleaved(e):\n    return e",
        "1.3": "def my_rotation(shift, d, max_period):\n    return 1 / 0",
        "1.4": "my_max_period = 10_000",
        "1.5": "def read_clock(e):\n    pass",
    }
    report = grade(answered(wrong))
    assert set(statuses(report).values()) == {"failed"}
    mistakes = {one.exercise: one.mistake for one in report.grades}
    assert mistakes["1.1"] == "cosines-first"
    assert mistakes["1.3"] == "raised"
    assert mistakes["1.5"] == "returned-none"
    assert all(one.message for one in report.grades)


def test_stored_outputs_and_edited_checks_count_for_nothing(grade: Callable[..., Any]) -> None:
    notebook = answered({"1.1": FIRST + "    return torch.zeros(len(t), d)"})
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "exercise-check" in cell["metadata"].get("tags", []):
            cell["outputs"] = [{"output_type": "execute_result", "data": {"text/plain": "✓"}, "metadata": {}}]
            cell["source"] = "print('✓ Exercise 1.1 (Write the embedding): passed')"
    notebook["cells"].insert(5, code("class checks:\n    pass"))
    report = grade(notebook, exercise="1.1")
    assert statuses(report) == {"1.1": "failed"}
    without = copy.deepcopy(notebook)
    without["cells"] = [c for c in without["cells"] if "exercise-check" not in c["metadata"].get("tags", [])]
    assert statuses(grade(without, exercise="1.1")) == {"1.1": "failed"}


def test_a_rebound_name_does_not_disarm_the_check(grade: Callable[..., Any]) -> None:
    cheat = "checks = type('', (), {'time_embedding': type('', (), {'halves': lambda *a: None})})\n"
    assert statuses(grade(only("1.1", code(cheat + solved()["1.1"])), exercise="1.1")) == {"1.1": "passed"}


@pytest.mark.parametrize(
    "cells",
    {
        "helper cell before": [
            code("def angles_of(t, h, P):\n    return t[:, None] * P ** (-torch.arange(h) / h)"),
            code(
                FIRST + "    a = angles_of(t, d // 2, max_period)\n    return torch.cat([a.sin(), a.cos()], 1)",
                "exercise",
            ),
        ],
        "answer below the check": [
            code(exercises(LESSON)[0].stubs[0], "exercise"),
            code(exercises(LESSON)[0].check, "exercise-check"),
            code(solved()["1.1"]),
        ],
        "magics, output, and a scratch cell that fails": [
            code("%pip install nothing\n!echo hello\n%matplotlib inline"),
            code("%%time\n" + solved()["1.1"], "exercise"),
            code("print(my_embedding(torch.arange(2), 4, 100))\ndisplay(1)\n1 / 0"),
        ],
        "helper elsewhere": [
            code(FIRST + "    a = far_away(t, d // 2, max_period)\n    return torch.cat([a.sin(), a.cos()], 1)"),
            markdown("## My notes"),
            code("import numpy as np"),
            code("raise ValueError('not needed, not run')"),
            code("def far_away(t, h, P):\n    return t[:, None] * torch.tensor(np.power(P, -np.arange(h) / h))"),
        ],
        "no heading left": [markdown("# My work"), code(solved()["1.1"])],
    }.items(),
    ids=lambda item: item[0],
)
def test_learners_arrange_their_cells_as_they_like(grade: Callable[..., Any], cells: tuple[str, Any]) -> None:
    notebook = only("1.1", *cells[1])
    if cells[0] == "no heading left":
        notebook["cells"][0]["source"] = "# 1. Time embedding: Q1–Q3"
    report = grade(notebook, exercise="1.1")
    assert statuses(report) == {"1.1": "passed"}, report


def test_nothing_of_a_lesson_left_is_open(grade: Callable[..., Any]) -> None:
    report = grade(only("1.1", code("x = 1")), exercise="1.1")
    assert statuses(report) == {"1.1": "open"}
    assert "my_embedding" in report.grades[0].message


HOSTILE = {
    "endless loop": ("while True: pass", "timeout", None),
    "endless loop when called": (FIRST + "    while True: pass", "timeout", None),
    "ends the program": (FIRST + "    raise SystemExit", "error", "exited"),
    "ends the process": (FIRST + "    import os; os._exit(0)", "error", "crashed"),
    "crashes": (FIRST + "    import ctypes; ctypes.string_at(0)", "error", "crashed"),
    "kills itself": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "error", "crashed"),
    "does not parse": (FIRST + "    return (", "error", "syntax-error"),
    "recurses": (FIRST + "    return my_embedding(t, d, max_period)", "failed", "raised"),
    "asks a question": (FIRST + "    return input()", "failed", "raised"),
    "floods": (FIRST + "    while True: print('flood' * 10_000)", "timeout", None),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_code_loses_one_exercise_only(grade: Callable[..., Any], kind: str) -> None:
    source, status, mistake = HOSTILE[kind]
    report = grade(only("1.1", code(source, "exercise")), exercise="1.1", seconds=2.0)
    assert (report.grades[0].status, report.grades[0].mistake) == (status, mistake), report


def test_others_are_graded_beside_it(grade: Callable[..., Any]) -> None:
    answers = solved() | {"1.2": "import os\nos._exit(1)", "1.3": "while True: pass"}
    report = grade(answered(answers), seconds=3.0)
    assert statuses(report) == {"1.1": "passed", "1.2": "error", "1.3": "timeout", "1.4": "passed", "1.5": "passed"}


@on_linux
@pytest.mark.parametrize("bomb", ["bytearray(2**30)", "torch.ones(2**28)", "[bytes(2**24) for _ in range(64)]"])
def test_memory_is_limited(grade: Callable[..., Any], bomb: str) -> None:
    """One GB is asked for: without a limit, this would do no harm, and the check would answer."""
    for source in (FIRST + f"    x = {bomb}\n    return t", f"x = {bomb}"):
        report = grade(only("1.1", code(source)), exercise="1.1", memory=500)
        assert (report.grades[0].status, report.grades[0].mistake) == ("error", "out-of-memory"), report
        assert grade(only("1.1", code(source)), exercise="1.1", memory=4000).grades[0].mistake != "out-of-memory"


@on_linux
def test_children_and_files_of_the_code_are_gone_afterwards(grade: Callable[..., Any], tmp_path: Path) -> None:
    note = tmp_path / "pid"
    source = (
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(note)!r}).write_text(f'{{child.pid}} {{pathlib.Path.cwd()}}')\n"
        "pathlib.Path('left').write_text('over')\n" + solved()["1.1"]
    )
    assert statuses(grade(only("1.1", code(source)), exercise="1.1")) == {"1.1": "passed"}
    pid, folder = note.read_text("utf-8").split()
    assert not Path(folder).exists()
    for _ in range(50):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("a process that the learner's code had started is still running")


BAD = {
    "": "empty",
    "hello": "not JSON",
    "[1, 2]": "other JSON",
    '{"cells": []}': "other JSON",
    '{"nbformat": 4, "cells": []}': "no cells",
    '{"nbformat": 3, "worksheets": []}': "format 3",
    '{"nbformat": 5, "cells": []}': "format 5",
    '{"nbformat": 4, "cells": [{"cell_type": "code"}]}': "cell 1",
    '{"nbformat": 4, "cells": [{"cell_type": "code", "source": "1"}]}': "none of the course's lessons",
    "[" * 200_000: "not JSON",
}


@pytest.mark.parametrize("content", BAD, ids=lambda content: BAD[content])
def test_what_is_no_notebook_of_ours_is_refused_in_words(grade: Callable[..., Any], content: str) -> None:
    report = grade(content)
    assert report.lesson is None
    assert BAD[content] in report.problem


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "picture.ipynb").write_bytes(b"\x89PNG\xff\xfe")
    for path, words in (
        (tmp_path / "none.ipynb", "No such file"),
        (tmp_path, "folder"),
        (tmp_path / "picture.ipynb", "not text"),
    ):
        assert words in teaching.grade(path, LESSONS).problem


def test_lessons_are_recognised_by_heading_or_name(tmp_path: Path) -> None:
    for name, found in LESSONS.items():
        cells = [teaching.lessons.Cell("markdown", f"# {found.title}")]
        assert teaching.lessons.match_lesson("smith.ipynb", cells, LESSONS) is found
        assert teaching.lessons.match_lesson(f"smith {name} (1).ipynb", [], LESSONS) is found
    with pytest.raises(FileNotFoundError, match="--lessons"):
        teaching.find_lessons(tmp_path)


def test_limits_must_be_positive(tmp_path: Path) -> None:
    for limits in ({"seconds": 0.0}, {"memory": -1}, {"seconds": float("nan")}, {"seconds": float("inf")}):
        with pytest.raises(ValueError, match="positive"):
            teaching.grade(tmp_path / "any.ipynb", LESSONS, **limits)


REPORTS = [
    teaching.Report(
        "=smith.ipynb",
        LESSON,
        (
            teaching.Grade("1.1", "Write the embedding", "passed", None, "Well done.", 0.5),
            teaching.Grade("1.2", "From halves to interleaved", "failed", "a-mistake", "=HYPERLINK(1)", 0.5),
        ),
    ),
    teaching.Report("jones.ipynb", None, problem="the file is empty"),
]


def test_reports_for_people_programs_and_spreadsheets() -> None:
    text = teaching.as_text(REPORTS) + teaching.as_overview(REPORTS)
    for words in (
        "1 of 2 passed",
        "a-mistake: =HYPERLINK(1)",
        "the file is empty",
        "1 passed, 1 failed",
        "1 × 1.2 a-mistake",
    ):
        assert words in text
    rows = list(csv.DictReader(io.StringIO(teaching.as_csv(REPORTS))))
    assert [row["status"] for row in rows] == ["passed", "failed", "unreadable"]
    assert not any(value.startswith("=") for row in rows for value in row.values())
    stored = json.loads(teaching.as_json(REPORTS, seconds=60.0, memory=2048))
    assert [notebook["passed"] for notebook in stored["notebooks"]] == [1, 0]


def test_text_from_learners_cannot_steer_a_terminal(grade: Callable[..., Any]) -> None:
    source = FIRST + "    raise ValueError('\\x1b[2Jgone\\nnew line')"
    report = grade(only("1.1", code(source)), exercise="1.1")
    assert report.grades[0].message.isprintable()
    assert "gone new line" in report.grades[0].message
    source = FIRST + "    raise checks.Mistake('\\x1b[2J' + 999 * 'a', 'x')"
    report = grade(only("1.1", code(source)), exercise="1.1")
    assert "\x1b" not in teaching.as_text([report]) + teaching.as_overview([report])
    assert len(report.grades[0].mistake) <= 80


def test_text_that_is_no_unicode_loses_nothing(grade: Callable[..., Any]) -> None:
    report = grade(only("1.1", code(FIRST + "    raise ValueError('half a letter: \\ud800')")), exercise="1.1")
    for text in (teaching.as_text([report]), teaching.as_csv([report])):
        assert "half a letter" in text.encode().decode()


def test_half_a_message_is_not_waited_for() -> None:
    """Sleeping uses no processor time, so nothing but the clock would end it."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    alive, _ended = multiprocessing.Pipe(duplex=False)
    process = types.SimpleNamespace(sentinel=alive)
    os.write(sender.fileno(), (65_536).to_bytes(4, "big"))
    start = time.perf_counter()
    assert isinstance(teaching.grading._receive(receiver, process, 0.2), TimeoutError)
    assert time.perf_counter() - start < 5
    sender.close()


@pytest.mark.parametrize(
    ("setup", "seconds", "what"),
    [("import time; time.sleep(600)", 0.5, "took more than 0.5 seconds"), ("import os; os._exit(1)", 60.0, "crashed")],
)
def test_a_set_up_that_fails_is_not_the_learners_mistake(
    grade: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, setup: str, seconds: float, what: str
) -> None:
    job = teaching.grading._job
    monkeypatch.setattr(teaching.grading, "_job", lambda *of: replace(job(*of), setup=(setup,)))
    monkeypatch.setattr(teaching.grading, "SETUP_SECONDS", seconds)
    [one] = grade(only("1.1", code(solved()["1.1"])), exercise="1.1").grades
    assert (one.status, one.mistake) == ("error", "no-set-up")
    assert what in one.message


def test_what_systems_put_beside_notebooks_is_no_work(tmp_path: Path) -> None:
    names = ["smith.ipynb", "._jones.ipynb", "__MACOSX/smith.ipynb", ".ipynb_checkpoints/smith.ipynb"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert teaching.find_notebooks([tmp_path]) == [tmp_path / "smith.ipynb"]


def test_marks_are_kept_when_grading_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def grade_one(path: Path, *_: Any, **__: Any) -> teaching.Report:
        if path.stem == "second":
            raise KeyboardInterrupt
        return teaching.Report(str(path), LESSON, REPORTS[0].grades)

    for name in ("first", "second"):
        (tmp_path / f"{name}.ipynb").touch()
    monkeypatch.setattr(teaching, "grade", grade_one)
    table = tmp_path / "marks.csv"
    assert command_line.main(["grade", str(tmp_path), "--csv", str(table)]) == 130
    assert "1 of 2 notebooks were graded" in capsys.readouterr().err
    assert len(table.read_text("utf-8-sig").splitlines()) == 3


def test_where_marks_cannot_be_written_nothing_is_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "first.ipynb").touch()
    monkeypatch.setattr(teaching, "grade", lambda *_, **__: pytest.fail("graded"))
    assert command_line.main(["grade", str(tmp_path), "--csv", str(tmp_path)]) == 2
    assert "expected --csv to be a file, got the folder" in capsys.readouterr().err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = tmp_path / "work"
    work.mkdir()
    path = work / "smith.ipynb"
    path.write_text(json.dumps(only("1.1", code(solved()["1.1"]))), "utf-8")
    table = tmp_path / "marks.csv"
    stored = tmp_path / "marks.json"
    limits = ["--seconds", "60", "--memory", "2000"]
    assert command_line.main(["grade", str(work), "--csv", str(table), "--json", str(stored), *limits]) == 0
    printed = capsys.readouterr().out
    assert "1 of 5 passed" in printed
    assert len(table.read_text("utf-8-sig").splitlines()) == 6
    assert json.loads(stored.read_text("utf-8"))["notebooks"][0]["lesson"] == LESSON
    path.write_text("", "utf-8")
    assert command_line.main(["grade", str(path)]) == 1
    assert "the file is empty" in capsys.readouterr().out
    assert command_line.main(["grade", str(tmp_path / "nothing")]) == 1
    assert command_line.main(["grade", str(path), "--seconds", "0"]) == 2
    assert command_line.main(["grade", str(path), "--lessons", str(work)]) == 2
    (work / "smith.ipynb").unlink()
    assert command_line.main(["grade", str(work)]) == 2
    assert "notebook" in capsys.readouterr().err


def test_the_processes_know_nothing_of_this_one() -> None:
    """In an interpreter of its own, as a teacher would call it: nothing is left behind, and nothing on stderr."""
    source = (
        "import sys; from helpers import teaching; from helpers.teaching import find_lessons, grade\n"
        "if __name__ == '__main__':\n"
        f"    print(grade({str(ROOT / 'notebooks' / (LESSON + '.ipynb'))!r}, find_lessons()).passed)"
    )
    run = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert (run.stdout.strip(), run.stderr) == ("0", "")
