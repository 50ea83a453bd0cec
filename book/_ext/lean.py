"""Take out of the built book what no page uses: of the theme's 1.5 MB of icons, all but a handful."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from sphinx.application import Sphinx

__all__ = ["icons_used", "without_other_icons"]

ICON = re.compile(
    r'(?<=[{,])"?(?P<name>[A-Za-z0-9-]+)"?:\[\d+,\d+,\[(?P<aliases>[^\]]*)\],"[0-9a-f]*",(?:"[^"]*"|\[[^\]]*\])\](?:,|(?=\}))'
)
"""An entry of an icon set: its name, size, other names, code point and outline."""


def icons_used(texts: Iterable[str]) -> set[str]:
    """Names that follow ``fa-`` in pages and scripts.

    Example:
        >>> sorted(icons_used(['<i class="fa-solid fa-bars"></i>']))
        ['bars', 'solid']
    """
    return {name for text in texts for name in re.findall(r"\bfa-([a-z0-9-]+)", text)}


def without_other_icons(script: str, used: set[str]) -> str:
    """The icons' script with the entries of these icons only.

    Example:
        >>> without_other_icons('x={bars:[1,1,["navicon"],"f0","M0"],car:[1,1,[],"f1","M1"]}', {"navicon"})
        'x={bars:[1,1,["navicon"],"f0","M0"],}'
    """

    def keep(entry: re.Match[str]) -> str:
        names = {entry["name"], *re.findall(r'"([^"]+)"', entry["aliases"])}
        return entry[0] if names & used else ""

    return ICON.sub(keep, script)


def _slim(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for path in out.glob("_static/scripts/fontawesome.js"):
        others = [*out.rglob("*.html"), *out.glob("_static/*.js"), *path.parent.glob("*.js")]
        texts = (other.read_text("utf-8") for other in others if other != path)
        path.write_text(without_other_icons(path.read_text("utf-8"), icons_used(texts)), "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("build-finished", _slim)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
