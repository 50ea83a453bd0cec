"""A folder in which a long training lives: checkpoints to go on from, and a log.

``checkpoint.safetensors`` holds *everything* that the next step depends on: weights, average, optimiser, random states
and the position in the data. It is one file, replaced by one rename, so that it is whole at any moment, whatever
happens. ``log.jsonl`` has one line for every few steps. ``.lock`` is empty: who trains here holds it, so that no other
process puts an older state over a newer one.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from .files import temporaries_of, write_atomically

__all__ = ["Run", "StopRequest"]

_START_ANEW = "remove it to start anew"


@dataclass
class Run:
    """Where a training keeps its state, and how often.

    Attributes:
        folder: Made if missing. A checkpoint that is there already is gone on from.
        identity: What must agree between a checkpoint and the training that goes on from it: anything JSON can hold.
            What may change from one session to the next, such as the number of steps, is left out.
        every_minutes: Time between checkpoints.
        log_every: Steps between lines of the log.
        origin: From what other training this one went on, for a warm start: anything JSON can hold. Each checkpoint
            keeps it, whatever becomes of those weights.

    Raises:
        ValueError: If ``identity`` or ``origin`` is not JSON, or a number makes no sense.
    """

    folder: Path
    identity: Mapping[str, Any] = field(default_factory=dict)
    every_minutes: float = 5.0
    log_every: int = 50
    origin: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.every_minutes >= 0:
            raise ValueError(f"expected every_minutes >= 0, got {self.every_minutes}")
        if not isinstance(self.log_every, int) or self.log_every < 1:
            raise ValueError(f"expected log_every to be an integer >= 1, got {self.log_every!r}")
        try:
            self.identity = json.loads(json.dumps(self.identity))  # as it comes back from a file: tuples are lists
            self.origin = json.loads(json.dumps(self.origin))
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected an identity and an origin that JSON can hold: {error}") from error
        self.folder = Path(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._saved_at = time.monotonic()
        self._lock = FileLock(self.folder / ".lock")

    def acquire(self) -> None:
        """Hold the folder until :meth:`release`, or until this process ends in any way.

        Raises:
            ValueError: If another process holds it, or this one has no right to.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"another process trains in {self.folder}: wait until it has ended, or choose another folder"
            ) from error
        except PermissionError as error:
            raise ValueError(
                f"expected to be allowed to lock {self.folder / '.lock'}, got {error.strerror}: somebody else may be "
                "training here; choose another folder"
            ) from error
        except (OSError, NotImplementedError):  # a file system without locks
            pass

    def release(self) -> None:
        """Let go of the folder, if it is held."""
        self._lock.release()

    @property
    def checkpoint(self) -> Path:
        """The file of the last good state."""
        return self.folder / "checkpoint.safetensors"

    @property
    def log(self) -> Path:
        """The file of the log."""
        return self.folder / "log.jsonl"

    def is_due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._saved_at >= 60 * self.every_minutes

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace the checkpoint; on an error the old one is kept.

        Raises:
            OSError: If it cannot be written, for example because the disk is full.
        """
        plain = {
            key: value.detach().cpu().clone(memory_format=torch.contiguous_format)  # safetensors refuses shared memory
            for key, value in tensors.items()
        }
        own = {"identity": self.identity, "origin": self.origin, "checksum": _checksum(plain)}
        whole = {**state, **own}
        metadata = {"state": json.dumps({**whole, "state_checksum": _checksum_of_state(whole)})}
        try:
            write_atomically(self.checkpoint, safetensors.torch.save(plain, metadata))
        except OSError as error:
            kept = "the last one is kept" if self.checkpoint.exists() else "there is none yet"
            reason = f"no checkpoint could be written, {kept} ({error.strerror or error})"
            raise OSError(error.errno, reason, str(self.checkpoint)) from error
        self._saved_at = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state of the last checkpoint, or None where there is none.

        Raises:
            ValueError: If the file is damaged, or belongs to another training (the message names what differs).
        """
        if not self.checkpoint.exists():
            return None
        with self._opened() as (file, state):
            # Copies: the tensors themselves are windows into the file, which is about to be replaced.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a dictionary)
        self.check_same(self.identity, state["identity"])
        if state.get("checksum", checksum := _checksum(tensors)) != checksum:
            raise ValueError(f"{self.checkpoint} is damaged (its checksum differs): {_START_ANEW}")
        return tensors, state

    def state(self) -> dict[str, Any] | None:
        """The state of the last checkpoint alone, whatever training it belongs to, or None where there is none.

        Raises:
            ValueError: If the file is damaged.
        """
        if not self.checkpoint.exists():
            return None
        with self._opened() as (_, state):
            return state

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        try:
            with safetensors.safe_open(self.checkpoint, "pt") as file:
                state = json.loads((file.metadata() or {})["state"])
                dict(state["identity"])
                known = state.pop("state_checksum", None)
                if known is not None and known != _checksum_of_state(state):
                    raise ValueError("the checksum of its state differs")
                yield file, state
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.checkpoint} is damaged or no checkpoint ({error}): {_START_ANEW}") from error

    def check_same(self, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Refuse a checkpoint that is described by ``found`` if that is not what is ``wanted``.

        Raises:
            ValueError: With the names and values of what differs.
        """
        wanted, found = _flat(wanted), _flat(found)
        differing = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
        if differing:
            details = "; ".join(f"{key}: expected {wanted.get(key)!r}, got {found.get(key)!r}" for key in differing)
            raise ValueError(f"{self.checkpoint} is of another training ({details}): choose another folder")

    def append_log(self, entry: Mapping[str, Any]) -> None:
        """Add one line to the log.

        Raises:
            OSError: If it cannot be written, for example because the disk is full.
        """
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise OSError(error.errno, f"the log could not be written ({error.strerror})", str(self.log)) from error

    def read_log(self) -> list[dict[str, Any]]:
        """All entries of the log up to the first line that is none, such as a last one that was cut off."""
        if not self.log.exists():
            return []
        entries = []
        for line in self.log.read_text("utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
                break
            entries.append(entry)
        return entries

    def tidy(self, step: int) -> None:
        """Forget what was logged after ``step``, for those steps will be made again, and what was left half written."""
        for unfinished in (*temporaries_of(self.checkpoint), *temporaries_of(self.log)):
            unfinished.unlink(missing_ok=True)
        if self.log.exists():
            kept = [entry for entry in self.read_log() if entry["step"] <= step]
            write_atomically(self.log, "".join(json.dumps(entry) + "\n" for entry in kept).encode())


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of all names and bytes: safetensors itself notices a file cut short, but no changed byte."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), zlib.crc32(name.encode(), value))
    return value


def _checksum_of_state(state: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(state, sort_keys=True).encode())


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= _flat(entry, f"{prefix}{key}.") if isinstance(entry, Mapping) else {f"{prefix}{key}": entry}
    return flat


class StopRequest:
    """Ctrl-C and SIGTERM, remembered until the step is complete; a second Ctrl-C stops at once.

    Attributes:
        received: Whether one came.
    """

    def __init__(self) -> None:
        self.received = False

    def _remember(self, signum: int, frame: object) -> None:
        if self.received and signum == signal.SIGINT:  # schedulers repeat SIGTERM: that is no impatience
            raise KeyboardInterrupt
        self.received = True

    @contextmanager
    def watching(self) -> Iterator[StopRequest]:
        """Catch both signals inside, where that is possible: in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        kinds = [signal.SIGINT] + ([signal.SIGTERM] if os.name == "posix" else [])
        # A shell ignores Ctrl-C for what it starts in the background, and it stays so.
        kinds = [kind for kind in kinds if signal.getsignal(kind) is not signal.SIG_IGN]
        before = {kind: signal.signal(kind, self._remember) for kind in kinds}
        try:
            yield self
        finally:
            for kind, handler in before.items():
                signal.signal(kind, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
