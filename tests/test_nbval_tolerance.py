"""The comparison of notebooks' outputs lets rounding pass, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from _printed import ABSOLUTE, RELATIVE, Printed, printed_alike

ROOT = Path(__file__).resolve().parents[1]

ALIKE = [
    ("loss 0.523", "loss 0.5231"),
    ("loss 50.00", f"loss {50 * (1 + 0.9 * RELATIVE):.2f}"),
    ("bias 0.000", f"bias {-0.9 * ABSOLUTE:.4f}"),
    ("tensor([ 0.001, -0.250])", "tensor([-0.000, -0.251])"),
    ("[1.e-05 2.0e-03]", "[1.e-05 2.1e-03]"),
    ("1.0 at t = 3,  x_0", "1.001 at t = 3, x_0"),
    ("<Figure size 700x320 with 2 Axes>", "<Figure size 640x480 with 1 Axes>"),
    ("<function f at 0x7f3a5c2d1e40>", "<function f at 0x7f11aa2d1e40>"),
    ('<img src="data:image/png;base64,iVBORw0KGgo="/>', '<img src="data:image/png;base64,iVBORw0KGgp="/>'),
    ("nan inf", "nan inf"),
]
DIFFERENT = [
    ("loss 0.523", "Loss 0.523"),
    ("7,719,747 parameters", "7,719,748 parameters"),
    ("step 100: 0.5", "step 101: 0.5"),
    ("the answer is 50.", "the answer is 51."),
    ("loss 0.523", "loss 0.540"),
    ("loss 50.00", f"loss {50 * (1 + 1.1 * RELATIVE):.2f}"),
    ("bias 0.000", f"bias {-1.1 * ABSOLUTE:.4f}"),
    ("0.5 0.5", "0.5"),
    ("x.grad = 7.0", "x.grad = 7"),
    ("x_0", "x_1"),
    ("loss 0.5", "loss nan"),
    ("float32", "float64"),
    ("True", "False"),
]


@pytest.mark.parametrize(("stored", "new"), ALIKE)
def test_rounding_passes(stored: str, new: str) -> None:
    assert printed_alike(stored, new)
    assert Printed(stored) == Printed(new)
    assert (Printed(stored) != Printed(new)) is False  # the operator that nbval uses


@pytest.mark.parametrize(("stored", "new"), DIFFERENT)
def test_differences_fail(stored: str, new: str) -> None:
    assert not printed_alike(stored, new)
    assert Printed(stored) != Printed(new)


def test_nbval_uses_the_comparison(tmp_path: Path) -> None:
    """A real run: of four cells whose stored output was tampered with, nbval fails the three that matter."""
    notebook = nbformat.v4.new_notebook()
    for source, stored in [
        ("print(0.5)", "0.5001"),
        ("print(0.5)", "0.6"),
        ("print(5)", "6"),
        ("print('loss')", "Loss"),
    ]:
        output = nbformat.v4.new_output("stream", name="stdout", text=stored + "\n")
        notebook.cells.append(nbformat.v4.new_code_cell(source, execution_count=1, outputs=[output]))
    nbformat.write(notebook, tmp_path / "tampered.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "-q", "-rA"]
    setup = ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), "-p", "conftest"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    run = subprocess.run(
        [*command, *setup, str(tmp_path / "tampered.ipynb")], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert "3 failed, 1 passed" in run.stdout, run.stdout + run.stderr
