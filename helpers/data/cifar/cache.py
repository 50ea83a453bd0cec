"""A cache that loads fast: the raw bytes of all images in one safetensors file, with their SHA-256 and their source.

It lies in ``$DIFFUSION_EBM_COURSE_CACHE``, else ``$XDG_CACHE_HOME/diffusion-ebm-course``, else
``~/.cache/diffusion-ebm-course``. Each source has a file of its own, which knows the *fingerprint* of that source (for
a folder: names, sizes and times of its files), so that a folder that has changed is read anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import safetensors.torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .images import CIFAR10, SPLITS, checked

__all__ = ["cache_folder", "fingerprint", "folder_slots", "load", "locked", "save", "slot"]

FORMAT = "diffusion-ebm-course CIFAR-10 1"
HOUR = 3600.0

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where the cache is; it need not exist."""
    if own := os.environ.get("DIFFUSION_EBM_COURSE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "diffusion-ebm-course"


def slot(folder: Path | None = None) -> Path:
    """The cache's file for a folder of the user's, or for what was downloaded."""
    if folder is None:
        return cache_folder() / "cifar10-download.safetensors"
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return cache_folder() / f"cifar10-folder-{name}.safetensors"


def folder_slots() -> list[Path]:
    """The files of the cache that were made from folders, the newest first."""
    return sorted(cache_folder().glob("cifar10-folder-*.safetensors"), key=lambda file: -file.stat().st_mtime)


def fingerprint(files: Iterable[Path]) -> str:
    """Changes when a file is replaced, even by one of the same name, size and time of modification."""
    facts = []
    for file in files:
        status = file.stat()
        facts.append((str(file.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return hashlib.sha256(repr(facts).encode()).hexdigest()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One process at a time fills a file of the cache; the others wait for it and then find it filled."""
    with ExitStack() as stack:
        # Where nothing can be written or locked, each process reads for itself.
        with suppress(OSError, NotImplementedError):
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(file.with_suffix(".lock")))
        yield


def load(file: Path, per_class: Mapping[str, int], wanted: str | None = None) -> CIFAR10 | None:
    """The data set from the cache, or None if it is not there, is of another source or is broken (with a message).

    Args:
        file: The cache's file.
        per_class: As in :func:`.images.checked`.
        wanted: The fingerprint of the source; None takes any.
    """
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            facts = stored.metadata() or {}
            if wanted is not None and facts.get("fingerprint") != wanted:
                return None
            # Cloned, because these are views of the file, which may be gone when they are read.
            tensors = {name: stored.get_tensor(name).clone() for name in _names()}
        if facts.get("format") != FORMAT or facts.get("sha256") != _sha256(tensors):
            raise ValueError("its content does not match its checksum")
        splits = {split: (tensors[split], tensors[f"{split}_labels"]) for split in SPLITS}
        return checked(splits, facts["source"], per_class)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        log.warning("the cache %s is broken (%s), and is not used", file, error)
        return None


def save(file: Path, data: CIFAR10, source_fingerprint: str) -> bool:
    """Write the cache: whole or not at all. Where it cannot be written, say so and go on.

    Returns:
        Whether it was written.
    """
    tensors = {name: getattr(data, name).contiguous() for name in _names()}
    facts = {
        "format": FORMAT,
        "source": data.source,
        "fingerprint": source_fingerprint,
        "sha256": _sha256(tensors),
    }
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _sweep(file.parent)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".cifar10-", suffix=".tmp")
        temporary = Path(name)
        os.close(handle)
        safetensors.torch.save_file(tensors, temporary, facts)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)  # others may share the cache
        os.replace(temporary, file)
    except (OSError, SafetensorError) as error:
        log.warning("cannot write the cache %s (%s): CIFAR-10 will be read from its source again", file, error)
        return False
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return True


def _names() -> list[str]:
    return [name for split in SPLITS for name in (split, f"{split}_labels")]


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in _names():
        digest.update(tensors[name].numpy())
    return digest.hexdigest()


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left."""
    for file in folder.glob(".cifar10-*.tmp"):
        if time.time() - file.stat().st_mtime > HOUR:
            file.unlink(missing_ok=True)
