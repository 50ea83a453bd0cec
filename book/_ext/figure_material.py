"""Makes what the live figures show besides what they compute: their data, and their static pictures.

    python book/_ext/figure_material.py data      # the digits, from helpers.data, as book/_static/figures/digits.js
    python book/_ext/figure_material.py pictures  # each figure of the built book, photographed in Chromium

Both are committed; a test compares the data with the library. Pictures are taken from ``_build/html``, as each figure
stands when its page opens, at twice the screen's resolution; ``-card`` are the parts that the overview shows.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
from pathlib import Path
from typing import Any

BOOK = Path(__file__).parents[1]
FIGURES = BOOK / "_static" / "figures"
WIDTH = 760
COLOURS = 200
CARD = 0.5  # height of a card's picture, in widths


def write_digits(path: Path = FIGURES / "digits.js") -> None:
    """One test digit of each class, 16 × 16, as whole numbers v with x = v/128 − 1: what bilinear resizing gives."""
    from helpers.data import digits

    split = digits(16)
    lines = []
    for label in range(10):
        image = split.test[split.test_labels == label][0, 0]
        values = ((image.double() + 1) * 128).flatten()
        assert bool((values == values.round()).all())
        lines.append(f"  {label}: {json.dumps([int(v) for v in values.tolist()], separators=(',', ':'))},")
    text = "\n".join(
        [
            '"use strict";',
            "// Handwritten digits of scikit-learn (16 × 16, x = v/128 − 1); made by book/_ext/figure_material.py.",
            "globalThis.Course ??= {};",
            "Course.data ??= {};",
            "Course.data.digits = {",
            *lines,
            "};",
            "",
        ]
    )
    path.write_text(text, "utf-8")


def take_pictures(html: Path) -> None:
    """Photograph the figure of each page in ``book/play`` of the built book: all of it in light, a part in both."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for scheme in ("light", "dark"):
            size = {"width": 1280, "height": 1800}
            page = browser.new_page(viewport=size, device_scale_factor=2, color_scheme=scheme)
            for path in sorted((html / "book" / "play").glob("*.html")):
                page.goto(path.as_uri())
                figure = page.locator(".course-figure[data-figure]").first
                figure.evaluate(f"figure => {{ figure.style.width = '{WIDTH}px' }}")
                page.wait_for_timeout(600)
                name, stage = figure.get_attribute("data-figure"), figure.locator(".figure-stage")
                if scheme == "light":
                    _store(stage.screenshot(), FIGURES / f"{name}.png")
                _store(_part(page, stage), FIGURES / f"{name}-card{'' if scheme == 'light' else '-dark'}.png")
            page.close()
        browser.close()


def _part(page: Any, stage: Any) -> bytes:
    """The first drawing and what stands around it, for the card of the overview."""
    whole = stage.bounding_box()
    drawing = stage.locator(".figure-canvas, .figure-svg").first.bounding_box()
    top = drawing["y"] - 12
    clip = {"x": whole["x"] + 1, "y": top, "width": whole["width"] - 2, "height": whole["width"] * CARD}
    return page.screenshot(clip=clip)


def _store(screenshot: bytes, path: Path) -> None:
    """Few colours make small files."""
    from PIL import Image

    image = Image.open(io.BytesIO(screenshot)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["data", "pictures"])
    parser.add_argument("--html", type=Path, default=BOOK.parent / "_build" / "html", help="the built book")
    arguments = parser.parse_args()
    if arguments.what == "data":
        write_digits()
    else:
        take_pictures(arguments.html)


if __name__ == "__main__":
    main()
