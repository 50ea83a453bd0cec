"""The library's modules import in one direction, and keep the rules that make them safe to import anywhere."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from _notebooks import ROOT

HELPERS = ROOT / "helpers"

# From the ground up: a module may import those before it. New modules take their place here.
ORDER = [
    "weights",
    "results",
    "schedules",
    "oracle",
    "data",
    "nn",
    "diffusion",
    "energy",
    "langevin",
    "samplers",
    "ebm",
    "training",
    "evaluation",
    "zoo",
    "generation",
    "recipes",
    "export",
    "serving",
    "teaching",
    "__main__",
]
# Lessons use these; no other module does.
LEAVES = {"plotting", "checks", "quizzes"}
# Networks know nothing of schedules or data.
INDEPENDENT = {"nn"}
# Formulas: they read no files, draw nothing, print nothing and choose no device.
MATHEMATICS = {"schedules", "oracle", "nn", "diffusion", "energy", "langevin", "samplers", "ebm"}
INPUT_OUTPUT = {"json", "logging", "matplotlib", "os", "pathlib", "PIL", "safetensors", "shutil", "sys", "torchvision"}
DRAWS = {"bernoulli", "multinomial", "normal", "rand", "rand_like", "randint", "randn", "randn_like", "randperm"}

FILES = sorted(HELPERS.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())


def module_of(path: Path) -> str:
    """The top-level module or folder of helpers that a file belongs to; empty for the package itself."""
    first = path.relative_to(HELPERS).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported_helpers(path: Path) -> Iterator[str]:
    """Top-level modules of helpers that a file imports (all imports inside helpers are relative)."""
    inside = path.relative_to(HELPERS).parts[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = inside[: len(inside) - (node.level - 1)]
            target = [*base, *(node.module or "").split(".")] if node.module else list(base)
            names = [target[0]] if target else [alias.name for alias in node.names]
            yield from (name for name in names if not name.startswith("__"))


def dotted(node: ast.AST) -> str:
    """``a.b.c`` for such an expression, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def calls(node: ast.AST) -> list[ast.Call]:
    return [part for part in ast.walk(node) if isinstance(part, ast.Call)]


def forked(module: ast.Module) -> set[ast.Call]:
    """Calls inside ``with torch.random.fork_rng(…)``, which puts the global generator back afterwards."""
    blocks = [node for node in ast.walk(module) if isinstance(node, ast.With)]
    safe = [b for b in blocks if any(dotted(c.func) == "torch.random.fork_rng" for i in b.items for c in calls(i))]
    return {call for block in safe for call in calls(block)}


@each_file
def test_imports_point_one_way(path: Path) -> None:
    module = module_of(path)
    if not module:
        assert not list(imported_helpers(path)), "importing one module must be cheap"
        return
    assert module in ORDER or module in LEAVES, f"give {module} its place in ORDER"
    for other in set(imported_helpers(path)) - {module}:
        assert other not in LEAVES, f"{module} imports the leaf {other}"
        assert module not in INDEPENDENT, f"{module} imports {other}"
        if module in ORDER:
            assert ORDER.index(other) < ORDER.index(module), f"{module} imports {other}, which comes after it"


@each_file
def test_imports_are_relative(path: Path) -> None:
    for node in ast.walk(tree(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not any(name.split(".")[0] == "helpers" for name in names)


@each_file
def test_modules_say_what_they_are_and_what_they_export(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module), "a module's docstring states what it implements"
    if len(module.body) == 1 or path.name == "__main__.py":
        return
    dotted_name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    loaded = importlib.import_module(dotted_name)
    assert isinstance(loaded.__all__, list)
    assert not [name for name in loaded.__all__ if not hasattr(loaded, name)]


@pytest.mark.parametrize(
    "path", [p for p in FILES if module_of(p) in MATHEMATICS], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_mathematics_has_no_side_effects(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & INPUT_OUTPUT
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] not in INPUT_OUTPUT
    for call in calls(tree(path)):
        name = dotted(call.func)
        assert name not in {"open", "print", "torch.save", "torch.load", "torch.set_default_device"}
        assert not name.endswith((".cuda", ".mps")), f"{name} at line {call.lineno}"


@each_file
def test_randomness_is_an_argument(path: Path) -> None:
    module = tree(path)
    for call in set(calls(module)) - forked(module):
        name = dotted(call.func)
        package, function = name.split(".")[0], name.split(".")[-1]
        if package in {"torch", "np", "numpy", "random"}:
            assert function not in {"seed", "manual_seed", "manual_seed_all"}, f"a global seed at line {call.lineno}"
        if package == "torch" and function in DRAWS:
            assert any(keyword.arg == "generator" for keyword in call.keywords), f"{name} at line {call.lineno}"
