"""Set-up of every test run: no more threads than cores, no display, and notebooks compared with tolerances."""

from __future__ import annotations

import os
from unittest import mock

import matplotlib
from _printed import Printed
from nbval.plugin import IPyNbCell, IPyNbFile

# Workers with all cores each fight over them: ten times slower, as measured. Their kernels inherit this; it must
# precede `import torch`. The controller sets nothing, or its workers would inherit its own share.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    _SHARE = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _SHARE)))
# A debugger's note on stderr, which says nothing about a lesson.
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")


def pytest_configure() -> None:
    """Draw without a display, and let nbval, which knows exact text only, compare numbers as ``_printed`` says."""
    matplotlib.use("Agg")  # the variable MPLBACKEND would reach the notebooks' kernels too, and take away their figures
    exact = IPyNbCell.sanitize

    def sanitize(cell: IPyNbCell, text: object) -> object:
        text = exact(cell, text)
        return Printed(text) if isinstance(text, str) else text

    IPyNbCell.sanitize = sanitize

    start_kernel = IPyNbFile.setup

    def setup(notebook: IPyNbFile) -> None:
        # Progress bars draw on stderr, differently each time; learners see them, stored outputs do not.
        with mock.patch.dict(os.environ, TQDM_DISABLE="1"):
            start_kernel(notebook)

    IPyNbFile.setup = setup
