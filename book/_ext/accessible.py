"""Mend what Sphinx and its theme write in ways that assistive technology stumbles over.

:func:`mend` is applied to every page when the book is finished; applied twice, it changes nothing more.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

__all__ = ["mend"]

MENDINGS: tuple[tuple[str, str], ...] = (
    # A bibliography: its entries have a role that was withdrawn, and their list has other children than entries.
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    (r' role="doc-biblioentry"', ""),
    # The corner of a table heads nothing.
    (r'<th class="([^"]*)">(?:\s*<p>\s*</p>)?\s*</th>', r'<td class="\1"></td>'),
    # What scrolls must be reachable by the keyboard.
    (r'<div class="pst-scrollable-table-container">', '<div class="pst-scrollable-table-container" tabindex="0">'),
    # The name and the picture of the book stand beside the contents, outside of any landmark.
    (r'<dialog id="pst-primary-sidebar-modal">', '<dialog id="pst-primary-sidebar-modal" aria-label="Contents">'),
    (
        r'<div class="sidebar-primary-item">\s*(?=<a class="navbar-brand)',
        '<div class="sidebar-primary-item" role="region" aria-label="The course">',
    ),
)
"""Patterns of HTML, and what stands there in the end."""


def mend(html: str) -> str:
    """A page of HTML with its stumbling blocks taken away.

    Example:
        >>> mend('<th class="head"><p></p></th><th class="head"><p>step</p></th>')
        '<td class="head"></td><th class="head"><p>step</p></th>'
    """
    for pattern, replacement in MENDINGS:
        html = re.sub(pattern, replacement, html)
    return html


def _mend_pages(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            text = path.read_text("utf-8")
            mended = mend(text)
            if mended != text:
                path.write_text(mended, "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx, after whatever else changes finished pages."""
    app.connect("build-finished", _mend_pages, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
