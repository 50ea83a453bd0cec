"""How long does each lesson run, and which of its cells takes longest?

Every notebook is run from a copy, one after the other, in a kernel of its own, as a learner would with *Run all*::

    python benchmarks/run_times.py                    # all lessons: about ten minutes on two quiet cores
    python benchmarks/run_times.py 01_time_embedding  # some; the times of the others are kept

Nothing is changed in the notebooks. Results go to ``helpers/results/run_times.json``, and the book's page of run times
is made of them when it is built. A time says something only if nothing else runs beside it: the load before the first
lesson is written down (before the others it is mostly that of the lesson before).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from common import RESULTS, machine, read_json, write_json
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

__all__ = ["code_hash", "main", "measure"]

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
MOMENTS = ("iopub.status.busy", "shell.execute_reply")
PACKAGES = ("torch", "numpy", "matplotlib", "scikit-learn", "ipykernel")


def code_hash(notebook: Mapping[str, Any]) -> str:
    """SHA-256 of the notebook's code, so that a time can be told from one of an older version.

    Example:
        >>> code_hash({"cells": [{"cell_type": "code", "source": "1 + 1"}]})[:12]
        '72fce59447a0'
    """
    code = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def _seconds(cell: NotebookNode) -> float:
    """Between the kernel's start with a cell and its answer."""
    times = cell.metadata.get("execution", {})
    if not set(MOMENTS) <= set(times):
        return 0.0
    begin, end = (datetime.fromisoformat(times[moment].replace("Z", "+00:00")) for moment in MOMENTS)
    return (end - begin).total_seconds()


def _first_line(cell: NotebookNode) -> str:
    if "setup" in cell.metadata.get("tags", []):
        return "import …"
    return next((line.strip() for line in cell.source.splitlines() if line.strip()), "")


def measure(path: Path, timeout: int = 1800) -> dict[str, Any]:
    """Run one notebook.

    Returns:
        ``lesson, code, cells, seconds`` (with the start of the kernel) and ``longest``: the ``number`` of the cell that
        took longest among the code cells, from 1, its ``seconds`` and its first ``line``; ``load`` before the start.

    Raises:
        CellExecutionError: If a cell fails.
        CellTimeoutError: If a cell takes longer than ``timeout`` seconds.
        DeadKernelError: If the kernel dies, for want of memory for instance.
    """
    notebook = nbformat.read(path, as_version=4)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=True,
        resources={"metadata": {"path": path.parent}},
    )
    begin = time.perf_counter()
    client.execute()
    taken = time.perf_counter() - begin
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    number, longest = max(enumerate(cells, start=1), key=lambda numbered: _seconds(numbered[1]))
    return {
        "lesson": path.stem,
        "code": code_hash(notebook),
        "cells": len(cells),
        "seconds": round(taken, 1),
        "longest": {
            "number": number,
            "seconds": round(_seconds(longest), 1),
            "line": _first_line(longest),
        },
        "load": load,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write after every lesson; returns the exit code: 1 if a lesson fails, 2 after wrong input."""
    known = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help=f"out of {', '.join(known)} (default: all)")
    parser.add_argument("--out", type=Path, default=RESULTS / "run_times.json", help="JSON file to write")
    options = parser.parse_args(arguments)
    if unknown := set(options.lessons) - set(known):
        print(f"error: expected lessons out of {', '.join(known)}, got {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    # As in the tests: no progress bars, and no data that other machines do not have.
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.pop("CIFAR10_DIR", None)
    try:
        rows = {row["lesson"]: row for row in (read_json(options.out) or {"rows": []})["rows"]}
        for name in options.lessons or known:
            row = measure(NOTEBOOKS / f"{name}.ipynb")
            rows[name] = row
            words = f"{row['seconds']:.1f} s, longest cell {row['longest']['seconds']:.1f} s"
            print(f"{name}: {words} (load before: {row['load']})", flush=True)
            content = {
                "benchmark": "run_times",
                "machine": {key: value for key, value in machine().items() if key != "load_at_start"},
                "settings": {"packages": {package: version(package) for package in PACKAGES}},
                "rows": [rows[name] for name in known if name in rows],
            }
            write_json(options.out, content)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print(f"error: a cell of {name} failed: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the lessons that were finished are kept", file=sys.stderr)
        return 130
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
