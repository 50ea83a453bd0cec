"""The book, built once for all tests of a run that look at it, whichever of them asks first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from _notebooks import ROOT, tracked_files
from filelock import FileLock

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]


def built_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built book: built strictly, from a copy of the files that belong to the project.

    Jobs of one run (pytest-xdist) share it. Where ``BOOK_HTML`` names a folder, that one is taken as it is.
    """
    if "BOOK_HTML" in os.environ:
        return Path(os.environ["BOOK_HTML"])
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    source, done = shared / "book-of-all-tests", shared / "book-of-all-tests.done"
    with FileLock(shared / "book-of-all-tests.lock"):
        if not done.exists():
            shutil.rmtree(source, ignore_errors=True)
            for path in tracked_files():
                (source / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, source / path)
            builder = shutil.which("jupyter-book", path=str(Path(sys.executable).parent))
            command = [builder, "build", ".", "-W", "-n", "--keep-going", "--all"]
            run = subprocess.run(
                command, cwd=source, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}
            )
            assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
            done.touch()
    return source / "_build" / "html"
