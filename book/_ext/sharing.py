"""What other sites need in order to show a page of the book: its address, a description, a picture; and a site map.

The address follows from the repository's, which ``_config.yml`` holds; where the book is published elsewhere, the
environment variable ``BOOK_ADDRESS`` says so.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.osutil import relative_uri

__all__ = ["address_of", "description_of", "draw_card", "site_map"]

CARD = "_static/social-card.png"
CARD_WORDS = "Noise on the left turns into a spiral on the right, beside the title of the course"
NOT_LISTED = {"genindex", "search", "index"}


def address_of(repository: str) -> str:
    """Where the pages of a repository at GitHub are published.

    Example:
        >>> address_of("https://github.com/some-one/some-book")
        'https://some-one.github.io/some-book/'
    """
    owner, name = urlsplit(repository).path.strip("/").split("/")[:2]
    return f"https://{owner.lower()}.github.io/{name}/"


def description_of(doctree: nodes.document | None, most: int = 200) -> str:
    """The first paragraph of a page, cut at a word."""
    if doctree is None:
        return ""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if len(text) >= 40:
            return text if len(text) <= most else text[: text.rindex(" ", 0, most)].rstrip(",;:.") + " …"
    return ""


def site_map(addresses: list[str]) -> str:
    """The pages, as https://www.sitemaps.org has it.

    Example:
        >>> print(site_map(["https://a.b/c.html"]))
        <?xml version="1.0" encoding="UTF-8"?>
        <urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">
        <url><loc>https://a.b/c.html</loc></url>
        </urlset>
        <BLANKLINE>
    """
    urls = "\n".join(f"<url><loc>{html.escape(address)}</loc></url>" for address in addresses)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    return f"{head}\n{urls}\n</urlset>\n"


def draw_card(path: Path, title: str, subtitle: str) -> None:
    """Draw the picture that stands beside a shared link, 1200 by 630 pixels."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor="#10151f")
    canvas = FigureCanvasAgg(figure)
    random = np.random.default_rng(0)
    angle = 3.6 * np.pi * random.random(1800) ** 0.5 + 0.6
    spiral = np.stack([angle * np.cos(angle), angle * np.sin(angle)]) / angle.max()
    for number, noise in enumerate((1.0, 0.45, 0.16, 0.03)):
        axes = figure.add_axes((0.04 + 0.235 * number, 0.06, 0.215, 0.41))
        x, y = (1 - noise**2) ** 0.5 * spiral + noise * 0.55 * random.standard_normal(spiral.shape)
        axes.scatter(x, y, s=4, c=angle, cmap="viridis", linewidths=0)
        axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
        axes.set_axis_off()
    figure.text(0.05, 0.83, title, color="white", fontsize=39, fontweight="bold", va="center")
    figure.text(0.05, 0.645, subtitle, color="#b9c4d6", fontsize=21, va="center", linespacing=1.5)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(128).save(path, optimize=True)


def _settle_address(app: Sphinx, config: Config) -> None:
    address = os.environ.get("BOOK_ADDRESS") or address_of(config.html_theme_options["repository_url"])
    config.html_baseurl = address.rstrip("/") + "/"


def _describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Add a page's description and picture to its head."""
    title = html.unescape(re.sub(r"<[^>]+>", "", context.get("title") or app.config.html_title or ""))
    description = description_of(doctree) or app.config.html_title
    base = app.config.html_baseurl
    known = {
        "og:type": "article",
        "og:site_name": app.config.project,
        "og:title": title,
        "og:description": description,
        "og:url": f"{base}{page}.html",
        "og:image": f"{base}{CARD}",
        "og:image:alt": CARD_WORDS,
        "og:image:width": "1200",
        "og:image:height": "630",
    }
    named = {"description": description, "twitter:card": "summary_large_image"}
    tags = [f'<meta property="{key}" content="{html.escape(value)}" />' for key, value in known.items()]
    tags += [f'<meta name="{key}" content="{html.escape(value)}" />' for key, value in named.items()]
    context["metatags"] = context.get("metatags", "") + "\n" + "\n".join(tags) + "\n"


def _finish(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        out, base = Path(app.outdir), app.config.html_baseurl
        pages = sorted(page for page in app.env.found_docs if page not in NOT_LISTED)
        addresses = [base + relative_uri("", app.builder.get_target_uri(page)) for page in pages]
        (out / "sitemap.xml").write_text(site_map(addresses), "utf-8")
        draw_card(out / CARD, "Diffusion and\nenergy-based models", "An executable course, from the building blocks up")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("config-inited", _settle_address, priority=900)
    app.connect("html-page-context", _describe, priority=900)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
