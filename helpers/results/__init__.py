"""Measured results that lessons and the book show: files of runs that took longer than a lesson may.

Each file was written by a command of this project: tables of ``benchmarks/`` as JSON, and the logs of
the trainings whose weights ship, one JSON object a line. Nothing here is typed in.
"""

from __future__ import annotations

import json
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

__all__ = ["load", "log", "log_of_all", "names"]


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
    folder = _logs()
    found = sorted(e.name.removesuffix(".jsonl") for e in folder.iterdir() if e.name.endswith(".jsonl"))
    if name not in found:
        raise FileNotFoundError(f"expected the log of one of {', '.join(found)}, got {name!r}")
    return _lines(folder / f"{name}.jsonl")


def log_of_all(name: str) -> list[dict[str, Any]]:
    """The logs of one training after the other that led to shipped weights, as if they were one.

    A training that goes on from finished weights has a log that begins at 0. Here ``images`` and ``seconds`` count
    from the start of the first whose log was kept (``logs/earlier/NAME.1.jsonl``); ``stage``, from 1, says which one
    an entry is from, and ``step`` is a step of it.

    Raises:
        FileNotFoundError: As :func:`log`.

    Example:
        >>> log_of_all("cifar10-edm")[0]["stage"]
        1
    """
    logs = [log(name)]
    while (path := _logs() / "earlier" / f"{name}.{len(logs)}.jsonl").is_file():
        logs.insert(-1, _lines(path))
    joined: list[dict[str, Any]] = []
    for stage, entries in enumerate(logs, start=1):
        images, seconds = (joined[-1][key] if joined else 0 for key in ("images", "seconds"))
        joined += [
            {**entry, "stage": stage, "images": images + entry["images"], "seconds": seconds + entry["seconds"]}
            for entry in entries
        ]
    return joined


def _logs() -> Traversable:
    return resources.files(__name__) / "logs"


def _lines(path: Traversable) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
