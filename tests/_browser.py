"""A Chromium for tests that look at pages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


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
