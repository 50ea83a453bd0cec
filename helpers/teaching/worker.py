"""The other side of grading: one exercise of a learner's notebook, run in a process of its own.

It runs the lesson's own set-up cells, says that it is ready, runs the learner's cells, then the lesson's own check.
Names that those cells need and do not define are looked for in the rest of the learner's notebook. What it finds is
sent as JSON, never pickled: nothing that a learner's code says may run in the process that asks.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import inspect
import json
import math
import os
import re
import signal
import symtable
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Job", "memory_is_limited", "work"]

MAX_MESSAGE = 1000
MAX_FILE = 100_000_000  # bytes that learners' code may write to one file
_MEMORY = re.compile(r"MemoryError|can't allocate memory|not enough memory|Unable to allocate|DefaultCPUAllocator")
_RUNS = {"time", "timeit", "capture", "prun"}  # magics that run code
_ORDER = ("passed", "failed", "error", "open")  # from the best to the least


@dataclass(frozen=True)
class Job:
    """What one process is asked to do.

    Attributes:
        number: Of the exercise.
        setup: Sources of the lesson's set-up cells.
        check: Source of the lesson's check cell.
        before: The learner's cells of the exercise up to the check, in order.
        after: Those behind the check.
        elsewhere: All other code cells of the notebook, those nearest to the exercise first; one is run only if a name
            that it defines is needed.
        own: Those of them that are not the lesson's; answers are looked for in these only.
        folder: Where to run; empty, and removed afterwards.
        memory: MB that it may take on top of what Python and torch take.
        seconds: Time that it may compute for, so that it ends even if nobody is left to end it.
    """

    number: str
    setup: tuple[str, ...]
    check: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    elsewhere: tuple[str, ...]
    own: tuple[str, ...]
    folder: str
    memory: int
    seconds: float


def memory_is_limited() -> bool:
    """Whether this system lets a process limit its own memory: Linux does."""
    return sys.platform.startswith("linux")


def work(job: Job, connection: Connection) -> None:
    """Do the job, and send ``{"ready": true}``, then the verdict; the process's last deed.

    Args:
        job: What to do.
        connection: Where to send it.
    """
    _silence(job.folder)
    names: dict[str, Any] = {"__name__": "__main__", "get_ipython": _Magics, "display": lambda *things: None}
    try:
        for source in job.setup:
            _run(source, names)
    except BaseException as error:
        verdict = _verdict("error", "no-set-up", f"the lesson's own set-up failed: {_text(error)}")
    else:
        connection.send_bytes(json.dumps({"ready": True}).encode())
        _limit(job)
        verdict = _attempt(job, names)
    connection.send_bytes(json.dumps(verdict).encode())
    connection.close()
    os._exit(0)  # whatever threads and exit handlers the learner's code left


def _silence(folder: str) -> None:
    """A group of its own, no input, no output, no windows, one thread, and a folder of its own."""
    if hasattr(os, "setsid"):
        os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    import matplotlib
    import torch

    matplotlib.use("Agg")
    torch.set_num_threads(1)


def _limit(job: Job) -> None:
    """Limits that the system keeps, where it has them."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    bounds = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": MAX_FILE,
        "RLIMIT_CPU": math.ceil(_processor_time(resource) + job.seconds) + 10,
    }
    if memory_is_limited():
        with open("/proc/self/statm", encoding="ascii") as statistics:
            pages = int(statistics.read().split()[0])
        bounds["RLIMIT_AS"] = pages * resource.getpagesize() + job.memory * 2**20
    for name, bound in bounds.items():
        if hasattr(resource, name):
            hard = resource.getrlimit(getattr(resource, name))[1]
            bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(getattr(resource, name), (bound, bound))
    if hasattr(signal, "SIGXFSZ"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # too large a file raises OSError instead of ending the process


def _processor_time(resource: Any) -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class _Magics:
    """What IPython's magics reach: those that time code run it; the rest, shell commands too, does nothing."""

    current: dict[str, Any]

    def run_cell_magic(self, magic: str, line: str, body: str) -> None:
        if magic in _RUNS:
            _run(body, type(self).current)

    def run_line_magic(self, magic: str, line: str, *more: Any) -> None:
        if magic in _RUNS:
            _run(line, type(self).current)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


def _as_python(source: str) -> str:
    """A cell's source with magics and shell commands turned into calls."""
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(source)


def _run(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line, if that is an expression."""
    _Magics.current = names
    *statements, last = ast.parse(_as_python(source)).body or [ast.Pass(lineno=1, col_offset=0)]
    value = None
    for body in (statements, [last]):
        tree = ast.Expression(last.value) if body == [last] and isinstance(last, ast.Expr) else ast.Module(body, [])
        kind = "eval" if isinstance(tree, ast.Expression) else "exec"
        code = compile(tree, "<cell>", kind, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        value = eval(code, names)
        if code.co_flags & inspect.CO_COROUTINE:
            value = asyncio.run(value)
    return value


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _names(source: str) -> tuple[set[str], set[str]]:
    """Names that a cell defines at its top level, and names from outside that it uses anywhere."""
    try:
        top = symtable.symtable(_as_python(source), "<cell>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(), set()
    symbols = top.get_symbols()
    defined = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    used = {symbol.get_name() for symbol in symbols if symbol.is_referenced()}
    for table in _tables(top):
        used |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    return defined, used


def _needed(job: Job, known: set[str], answers: set[str]) -> list[str]:
    """Cells from elsewhere, in the order to run them, without which the exercise would miss a name."""
    cells = (*job.before, *job.after)
    facts = {source: _names(source) for source in (*cells, *job.elsewhere)}
    chosen: list[str] = []
    seen: set[str] = set()

    def require(missing: set[str], places: Sequence[str]) -> None:
        for name in sorted(missing):
            cell = next((cell for cell in places if name in facts[cell][0]), None)
            if cell is not None and cell not in seen:
                seen.add(cell)
                require(facts[cell][1] - facts[cell][0] - known, job.elsewhere)
                chosen.append(cell)

    defined = set().union(*(facts[cell][0] for cell in cells))
    require(answers - defined, job.own)
    require(set().union(*(facts[cell][1] for cell in cells)) - defined - known - answers, job.elsewhere)
    return chosen


def _attempt(job: Job, names: dict[str, Any]) -> dict[str, Any]:
    """Run the learner's cells and the check; once more with the cells behind the check if it did not pass."""
    given, known = dict(names), set(names) | set(dir(builtins))
    answers = _names(job.check)[1] - known
    try:
        verdict = _checked(job, names, given, answers, [*_needed(job, known, answers), *job.before])
        if verdict["status"] != "passed" and job.after:
            again = _checked(job, names, given, answers, job.after)
            verdict = min(verdict, again, key=lambda verdict: _ORDER.index(verdict["status"]))
        return verdict
    except BaseException as error:
        return _failure(error)


def _checked(
    job: Job, names: dict[str, Any], given: dict[str, Any], answers: set[str], cells: Sequence[str]
) -> dict[str, Any]:
    """Run cells, then the check, which sees the answers and the lesson's own names as they were."""
    trouble: dict[str, Any] | None = None
    for cell in cells:
        try:
            _run(cell, names)
        except BaseException as error:
            trouble = trouble or _failure(error)
    if missing := sorted(answers - set(names)):
        return trouble or _verdict("open", None, f"nothing here defines {' and '.join(missing)}")
    try:
        outcome = _run(job.check, {**names, **given})
    except BaseException as error:
        return _failure(error)
    if getattr(outcome, "exercise", None) != job.number or outcome.status not in ("passed", "failed", "open"):
        return _verdict("error", "no-outcome", "the check gave no outcome")
    if outcome.mistake == "raised" and _MEMORY.search(outcome.message):
        return _verdict("error", "out-of-memory", outcome.message)
    also = f" (A cell went wrong before: {trouble['message']})" if trouble and outcome.status != "passed" else ""
    return _verdict(outcome.status, outcome.mistake, outcome.message + also)


def _failure(error: BaseException) -> dict[str, Any]:
    if isinstance(error, MemoryError) or _MEMORY.search(str(error)):
        return _verdict("error", "out-of-memory", f"the code needs more memory than it may have: {_text(error)}")
    if isinstance(error, SystemExit):
        return _verdict("error", "exited", f"the code ends the program: {_text(error)}")
    if isinstance(error, SyntaxError):
        return _verdict("error", "syntax-error", f"line {error.lineno} of a cell: {error.msg}")
    return _verdict("error", "raised", f"the code raised {_text(error)}")


def _text(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def _verdict(status: str, mistake: str | None, message: str) -> dict[str, Any]:
    return {"status": str(status), "mistake": mistake and str(mistake), "message": str(message)[:MAX_MESSAGE]}
