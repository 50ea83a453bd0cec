"""Where CIFAR-10 is looked for: a folder, the cache, the mirror, the official host."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from . import cache
from .batches import find_batches, read_batches
from .download import REPOSITORY, from_mirror, from_official_host, mirror_address, official_address
from .images import CIFAR10, PER_CLASS
from .parquet import find_parquet, read_parquet

__all__ = ["cifar10", "find"]

log = logging.getLogger(__name__)


def cifar10(root: str | Path | None = None, *, download: bool = True) -> CIFAR10:
    """The 60,000 images of CIFAR-10, from the first of these places that has them.

    1. The folder ``root``, or else the one that the environment variable ``CIFAR10_DIR`` names. It holds either Parquet
       files in the layout of the public dataset ``uoft-cs/cifar10`` (``train-00000-of-00001.parquet`` and
       ``test-00000-of-00001.parquet``, in the folder itself, in ``plain_text`` or in ``data``), or the official Python
       batches (``data_batch_1`` to ``data_batch_5`` and ``test_batch``, in the folder itself or in
       ``cifar-10-batches-py``). Parquet takes seconds to decode; the result is cached until a file changes.
    2. The cache (see :mod:`helpers.data.cifar.cache`): what was downloaded before. If no folder is named, what was read
       from a folder before serves too.
    3. Downloads into the cache: the Parquet mirror through ``huggingface_hub``, then the official archive.

    Args:
        root: The folder to look in first. If it holds no CIFAR-10, the search goes on, with a message.
        download: Whether step 3 is allowed.

    Returns:
        The images as bytes, whole: the number of images of each class has been checked, and so has their shape.

    Raises:
        FileNotFoundError: If no place has it (the message lists the ways to provide it), or a folder has it in part.
        NotADirectoryError: If the folder named is a file.
        ImportError: If the folder holds Parquet, and ``pyarrow`` is not installed.
        ValueError: If a file in the folder is broken, or is not CIFAR-10.
    """
    return find(root, download=download, per_class=PER_CLASS)


def find(root: str | Path | None, *, download: bool, per_class: Mapping[str, int]) -> CIFAR10:
    """As :func:`cifar10`, for sets of any number of images a class."""
    named = root if root is not None else os.environ.get("CIFAR10_DIR") or None
    folder = None if named is None else Path(named).expanduser()
    if folder is not None:
        if data := _from_folder(folder, per_class):
            return data
        log.warning("no CIFAR-10 in %s: looking in the cache%s", folder, " and for downloads" if download else "")
    failures: dict[str, str] = {}
    with cache.locked(cache.slot()):
        if data := cache.load(cache.slot(), per_class):
            return data
        # A folder that was named and is empty must not be taken for another one.
        for slot in cache.folder_slots() if folder is None else ():
            if data := cache.load(slot, per_class):
                return data
        if download and (data := _from_downloads(per_class, failures)):
            return data
    raise FileNotFoundError(_ways_to_provide_it(folder, failures))


def _from_folder(folder: Path, per_class: Mapping[str, int]) -> CIFAR10 | None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"expected a folder with CIFAR-10, got a file: {folder}")
    if files := find_parquet(folder):
        slot = cache.slot(folder)
        with cache.locked(slot):
            fingerprint = cache.fingerprint(file for some in files.values() for file in some)
            if data := cache.load(slot, per_class, fingerprint):
                return data
            data = read_parquet(files, f"Parquet files in {folder}", per_class)
            cache.save(slot, data, fingerprint)
            return data
    if place := find_batches(folder):  # they are read as fast as a cache would be
        return read_batches(place, f"official batches in {place}", per_class)
    return None


def _from_downloads(per_class: Mapping[str, int], failures: dict[str, str]) -> CIFAR10 | None:
    """The first download that succeeds; why others failed goes to ``failures``."""
    folder = cache.cache_folder() / "cifar10-download"
    for name, fetch in (("mirror", from_mirror), ("official", from_official_host)):
        try:
            data = fetch(folder / name, per_class)
        except Exception as error:  # each client has errors of its own; all mean: not from there
            failures[name] = _in_one_line(error)
            if name == "mirror":
                log.warning("no CIFAR-10 from %s (%s): asking the official host", mirror_address(), failures[name])
            continue
        if cache.save(cache.slot(), data, data.source):
            shutil.rmtree(folder, ignore_errors=True)
        return data
    return None


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _ways_to_provide_it(folder: Path | None, failures: Mapping[str, str]) -> str:
    mirror, official = (failures.get(name, "not tried: download=False") for name in ("mirror", "official"))
    given = "none was given" if folder is None else f"{folder} {'holds neither' if folder.exists() else 'is missing'}"
    return f"""CIFAR-10 is not on this machine and could not be downloaded. Ways to provide it:
  1. A folder, as data.cifar10("folder") or in the environment variable CIFAR10_DIR. It holds Parquet files
     (train-00000-of-00001.parquet and test-00000-of-00001.parquet of the dataset {REPOSITORY}, also in plain_text
     or data) or the official Python batches (cifar-10-batches-py, unpacked). Now: {given}.
  2. The cache in {cache.cache_folder()}, filled by any earlier success. Now: nothing that can be used.
  3. The Parquet mirror, {mirror_address()}/datasets/{REPOSITORY} (another host: HF_ENDPOINT). Now: {mirror}.
  4. The official archive, {official_address()}. Now: {official}."""
