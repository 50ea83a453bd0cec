"""Grade learners' notebooks with the lessons' own checks, whatever their stored outputs say.

Each exercise runs in a process of its own, with limits on time and memory, so that an endless loop, a crash or a
flood of output in one loses neither the others nor the report. The lesson's own set-up and check are run, not those
of the learner's file, which may have been edited. It is no sandbox: the code can read and send what its user can.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import json
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from .lessons import Cell, Exercise, Lesson, NotebookError, Section, cells_of, match_lesson, read_notebook, sections
from .worker import Job, memory_is_limited, work

__all__ = ["STATUSES", "Grade", "Report", "as_csv", "as_json", "as_overview", "as_text", "find_notebooks", "grade"]

STATUSES = ("passed", "failed", "open", "error", "timeout")
SETUP_SECONDS = 300.0  # for importing torch and the lesson's set-up, on a busy machine too
MAX_ANSWER = 100_000  # bytes
LONGEST_NAME = 80  # of a mistake, which a learner's code may have made up
DAY = 86_400.0


@dataclass(frozen=True)
class Grade:
    """What came of one exercise.

    Attributes:
        exercise: Its number, e.g. ``"1.2"``.
        title: Its title.
        status: ``"passed"``; ``"failed"`` (the check found a mistake); ``"open"`` (not attempted); ``"error"`` (the
            answer could not be asked: it does not run, ends the program, crashes, needs too much memory), or
            ``"timeout"``.
        mistake: Name of the mistake or of the error, e.g. ``"missing-root"`` or ``"out-of-memory"``.
        message: What the check says, in one line.
        seconds: How long it took, after the lesson's set-up.
    """

    exercise: str
    title: str
    status: str
    mistake: str | None
    message: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """What came of one notebook.

    Attributes:
        notebook: The file, as it was named.
        lesson: Name of the lesson that it is; ``None`` if it could not be read.
        grades: One for each exercise of the lesson, in the lesson's order.
        problem: Why it could not be graded, else ``None``.
    """

    notebook: str
    lesson: str | None
    grades: tuple[Grade, ...] = ()
    problem: str | None = None

    @property
    def passed(self) -> int:
        """How many exercises passed."""
        return sum(grade.status == "passed" for grade in self.grades)


def find_notebooks(paths: Iterable[str | Path]) -> list[Path]:
    """Files as they are, folders as all notebooks in them, without the copies that Jupyter keeps."""
    found: list[Path] = []
    for path in map(Path, paths):
        found += filter(_is_own_work, sorted(path.rglob("*.ipynb"))) if path.is_dir() else [path]
    return found


def _is_own_work(path: Path) -> bool:
    """Neither a copy that Jupyter keeps, nor what a Mac puts into archives beside each file."""
    return not {".ipynb_checkpoints", "__MACOSX"} & set(path.parts) and not path.name.startswith("._")


def grade(
    path: str | Path,
    lessons: dict[str, Lesson],
    *,
    seconds: float = 60.0,
    memory: int = 2048,
    on_result: Callable[[Grade], None] | None = None,
) -> Report:
    """Grade one notebook.

    Args:
        path: The learner's notebook.
        lessons: Of :func:`helpers.teaching.find_lessons`; which one this is, its headings tell.
        seconds: Time that each exercise may take, once the lesson's set-up has run.
        memory: MB that each exercise may take beyond what Python and torch take, where the system can limit it.
        on_result: Called with each grade as it comes.

    Returns:
        A report, also of a file that is no notebook of the course; its ``problem`` says why.

    Raises:
        ValueError: If a limit is not positive, or the time is more than a day.
    """
    if not 0 < seconds <= DAY or not memory > 0:
        raise ValueError(f"expected positive limits, and at most a day, got {seconds} seconds and {memory} MB")
    try:
        cells = cells_of(read_notebook(path))
        lesson = match_lesson(path, cells, lessons)
    except NotebookError as error:
        return Report(str(path), None, problem=str(error))
    grades = []
    for exercise in lesson.exercises:
        grades.append(_grade(lesson, exercise, cells, seconds, memory))
        if on_result is not None:
            on_result(grades[-1])
    return Report(str(path), lesson.name, tuple(grades))


def _is_check(cell: Cell) -> bool:
    return "exercise-check" in cell.tags


def _job(lesson: Lesson, exercise: Exercise, cells: Sequence[Cell], memory: int, seconds: float, folder: str) -> Job:
    """What to run of a learner's notebook for one exercise."""
    checks = {one.check.strip() for one in lesson.exercises}
    given = {source.strip() for source in lesson.code}
    stubs = {stub.strip() for stub in exercise.stubs}
    parts = [part for part in sections(cells) if part.exercise == exercise.number]
    inside = [place for part in parts for place in _places(part)]
    check = next((place for place in inside if _is_check(cells[place]) or cells[place].source.strip() in checks), None)

    def learners(places: Iterable[int], also: set[str]) -> tuple[str, ...]:
        """Sources of those cells that are the learner's, or are named."""
        chosen = [cells[place] for place in places]
        return tuple(
            cell.source
            for cell in chosen
            if not _is_check(cell) and (cell.source.strip() in also or cell.source.strip() not in given)
        )

    code = [place for place, cell in enumerate(cells) if cell.kind == "code"]
    first = inside[0] if inside else len(cells)
    outside = sorted(set(code) - set(inside), key=lambda place: (place > first, abs(place - first)))
    own = learners(outside, set())
    elsewhere = [cells[place] for place in [*inside, *outside]]
    return Job(
        number=exercise.number,
        setup=lesson.setup,
        check=exercise.check,
        before=learners([place for place in inside if check is None or place < check], stubs),
        after=learners([place for place in inside if check is not None and place > check], stubs),
        elsewhere=tuple(c.source for c in elsewhere if not _is_check(c) and c.source.strip() not in checks),
        own=own,
        folder=folder,
        memory=memory,
        seconds=seconds,
    )


def _places(section: Section) -> list[int]:
    return [place for place, _ in section.code]


def _grade(lesson: Lesson, exercise: Exercise, cells: Sequence[Cell], seconds: float, memory: int) -> Grade:
    with tempfile.TemporaryDirectory(prefix="grading-", ignore_cleanup_errors=True) as folder:
        verdict, taken = _ask(_job(lesson, exercise, cells, memory, seconds, folder), _modules(lesson))
    return Grade(
        exercise=exercise.number,
        title=exercise.title,
        status=verdict["status"],
        mistake=verdict["mistake"] and _one_line(verdict["mistake"])[:LONGEST_NAME],
        message=_one_line(verdict["message"]),
        seconds=round(taken, 2),
    )


def _modules(lesson: Lesson) -> list[str]:
    """What the lesson imports: loaded once, before processes are forked off."""
    found = []
    for source in lesson.setup:
        with contextlib.suppress(SyntaxError):  # the cell for Colab holds a magic
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Import):
                    found += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _context(modules: Sequence[str]) -> Any:
    """Processes that are forked from one which has imported what lessons need, where the system can do that."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    always = [__package__ + ".worker", "IPython.core.inputtransformer2", "matplotlib.pyplot", "torch"]
    context.set_forkserver_preload([*always, *modules])
    return context


def _ask(job: Job, modules: Sequence[str]) -> tuple[dict[str, Any], float]:
    """Have the job done, and be patient for as long as agreed; the verdict, and the seconds after the set-up."""
    context = _context(modules)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(job, sender))
    with receiver:
        try:
            with sender:
                process.start()
            answer, start = _receive(receiver, process, SETUP_SECONDS), time.perf_counter()
            if isinstance(answer, dict) and answer.get("ready") is True:
                answer = _receive(receiver, process, job.seconds)
            elif isinstance(answer, (TimeoutError, EOFError)):
                what = "crashed" if isinstance(answer, EOFError) else f"took more than {SETUP_SECONDS:g} seconds"
                answer = {"status": "error", "mistake": "no-set-up", "message": f"the lesson's own set-up {what}"}
            taken = time.perf_counter() - start
            return _understood(answer, process, job), taken
        finally:
            _end(process)


def _receive(receiver: Connection, process: BaseProcess, seconds: float) -> Any:
    """The next message; ``TimeoutError`` or ``EOFError`` (as values) if there is none, or only a part of one."""
    end = time.monotonic() + seconds
    if not wait([receiver, process.sentinel], seconds):
        return TimeoutError()
    if not receiver.poll():
        return EOFError()
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:  # waits for the whole message, however little of it was sent
        try:
            found.put(json.loads(receiver.recv_bytes(MAX_ANSWER)))
        except (EOFError, OSError, ValueError, RecursionError, TypeError):
            found.put(EOFError())

    threading.Thread(target=read, daemon=True).start()  # it ends with the process at the latest
    try:
        return found.get(timeout=max(end - time.monotonic(), 1.0))
    except queue.Empty:
        return TimeoutError()


def _understood(answer: Any, process: BaseProcess, job: Job) -> dict[str, Any]:
    """The verdict that was sent, if it is one, or what its absence means."""
    if isinstance(answer, TimeoutError):
        message = f"no end after {job.seconds:g} seconds: an endless loop, or too slow?"
        return {"status": "timeout", "mistake": None, "message": message}
    if (
        isinstance(answer, dict)
        and answer.get("status") in STATUSES
        and isinstance(answer.get("message"), str)
        and isinstance(answer.get("mistake"), (str, type(None)))
    ):
        return answer
    process.join(5)
    code = process.exitcode
    return {"status": "error", "mistake": "crashed", "message": f"the process ended without a result ({_ended(code)})"}


def _ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}: perhaps it needs more memory than there is" if name in ("SIGKILL", "SIGABRT") else name


def _end(process: BaseProcess) -> None:
    """End the process and those that it started, if they are still there."""
    if process.pid is None:
        return
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()
    process.join(10)
    if not process.is_alive():
        process.close()


def _one_line(text: str) -> str:
    """Text that a learner's code may have shaped, made harmless for terminals and tables."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def as_text(reports: Sequence[Report]) -> str:
    """For each notebook a table for people."""
    lines: list[str] = []
    for report in reports:
        lines.append(f"{_one_line(report.notebook)}: {report.problem or report.lesson}")
        for one in report.grades:
            lines.append(f"  {one.exercise:<5} {one.status:<8} {one.title}")
            if one.status not in ("passed", "open"):
                lines.append(f"        {one.mistake}: {one.message}" if one.mistake else f"        {one.message}")
        if report.grades:
            lines.append(f"  {report.passed} of {len(report.grades)} passed")
        lines.append("")
    return "\n".join(lines)


def as_overview(reports: Sequence[Report]) -> str:
    """Of a batch: a line for each notebook, and the commonest mistakes."""
    width = max(len(_one_line(report.notebook)) for report in reports)
    lines = ["All notebooks"]
    for report in reports:
        counts = Counter(one.status for one in report.grades)
        marks = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        lines.append(f"  {_one_line(report.notebook):<{width}}  {report.problem or marks}")
    mistakes = Counter((one.exercise, one.mistake) for report in reports for one in report.grades if one.mistake)
    if mistakes:
        lines += ["", "Mistakes, the commonest first"]
        lines += [f"  {count:>3} × {exercise} {name}" for (exercise, name), count in mistakes.most_common(10)]
    return "\n".join(lines) + "\n"


def as_csv(reports: Sequence[Report]) -> str:
    """One row an exercise, and one for each notebook that could not be read, for a spreadsheet.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["notebook", "lesson", "exercise", "title", "status", "mistake", "message", "seconds"])
    for report in reports:
        if report.problem:
            table.writerow([_cell(report.notebook), "", "", "", "unreadable", "", _cell(report.problem), ""])
        for one in report.grades:
            texts = (report.notebook, report.lesson or "", one.exercise, one.title, one.status, one.mistake or "")
            table.writerow([*map(_cell, (*texts, one.message)), one.seconds])
    return text.getvalue()


def _cell(text: str) -> str:
    text = _one_line(text)
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def as_json(reports: Sequence[Report], *, seconds: float, memory: int) -> str:
    """Everything, for programs."""
    limits = {"seconds": seconds, "memory_mb": memory if memory_is_limited() else None}
    notebooks = [asdict(report) | {"passed": report.passed} for report in reports]
    return json.dumps({"limits": limits, "notebooks": notebooks}, indent=2, ensure_ascii=False) + "\n"
