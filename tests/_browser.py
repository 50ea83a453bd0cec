"""A Chromium for tests that look at pages."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def find_browser() -> str | None:
    """A Chromium that runs: the system's, or the one that playwright installed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    candidates = [*map(shutil.which, ("chromium", "chromium-browser", "google-chrome")), own]
    for path in candidates:
        if path and Path(path).exists() and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


def launched() -> Iterator[Any]:
    """That Chromium, running, for a fixture to ``yield from``; the test is skipped where there is none."""
    from playwright.sync_api import sync_playwright

    path = find_browser()
    if path is None:
        pytest.skip("no Chromium here: install Debian's chromium, or run `playwright install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
