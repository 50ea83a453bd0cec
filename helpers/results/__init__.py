"""Measured results that lessons and the book show: files of runs that took longer than a lesson may.

Each file was written by a command of this project: tables of ``benchmarks/`` as JSON, and the logs of
the trainings whose weights ship, one JSON object a line. Nothing here is typed in.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

__all__ = ["load", "log", "names"]


def names() -> list[str]:
    """Names that :func:`load` takes, in alphabetical order.

    Example:
        >>> "training_throughput" in names()
        True
    """
    return sorted(
        entry.name.removesuffix(".json")
        for entry in resources.files(__name__).iterdir()
        if entry.name.endswith(".json")
    )


def load(name: str) -> dict[str, Any]:
    """The results of one measurement.

    Raises:
        FileNotFoundError: If there is none of this name; the message names those there are.

    Example:
        >>> load("training_throughput")["benchmark"]
        'training_throughput'
    """
    if name not in names():
        raise FileNotFoundError(f"expected results of one of {', '.join(names())}, got {name!r}")
    return json.loads(resources.files(__name__).joinpath(f"{name}.json").read_text("utf-8"))


def log(name: str) -> list[dict[str, Any]]:
    """The log of the training behind shipped weights, oldest first: ``step, images, loss, …`` in each entry.

    Raises:
        FileNotFoundError: If there is none of this name; the message names those there are.
    """
    folder = resources.files(__name__) / "logs"
    found = sorted(e.name.removesuffix(".jsonl") for e in folder.iterdir() if e.name.endswith(".jsonl"))
    if name not in found:
        raise FileNotFoundError(f"expected the log of one of {', '.join(found)}, got {name!r}")
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
