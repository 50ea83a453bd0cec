"""Charts that are drawn while the book is built, as SVG within the page.

Matplotlib draws them; the page's style sheet gives them their colours (``.course-chart`` in ``course.css``), so that
they are sharp at any size, and readable in light and dark.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

__all__ = ["Dot", "Panel", "curves", "dots", "figure_html"]

STAND_INS = {
    "#010101": "currentColor",
    "#0101f0": "var(--chart-1)",
    "#f00101": "var(--chart-2)",
    "#808081": "var(--chart-grid)",
}
"""Colours that Matplotlib is told, and what the page makes of them."""

INK, FIRST, SECOND, FAINT = STAND_INS
WIDTH = 7.0
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Panel:
    """One axis of :func:`curves`.

    Attributes:
        label: Of the vertical axis.
        lines: y values by name; a single line needs no name in the picture.
    """

    label: str
    lines: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Dot:
    """One row of :func:`dots`.

    Attributes:
        label: At the left.
        value: Where the dot lies.
        low, high: Ends of the line through it.
        real: Whether it is a yardstick, drawn open and in the second colour.
    """

    label: str
    value: float
    low: float
    high: float
    real: bool = False


def _number(value: float, _: object = None) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:g}"


def _new(rows: int, columns: int, height: float, **options: object) -> tuple[Figure, Sequence[object]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def curves(x: Sequence[float], panels: Sequence[Panel], xlabel: str) -> Figure:
    """Panels side by side over the same logarithmic x."""
    with mpl.rc_context(_STYLE):
        figure, axes = _new(1, len(panels), 2.6)
        for axis, panel in zip(axes[0], panels, strict=True):
            for (name, y), color, style in zip(panel.lines.items(), (FIRST, SECOND), ("-", "--"), strict=False):
                axis.plot(x, y, style, color=color, linewidth=1.6, label=name)
            axis.set(xlabel=xlabel, ylabel=panel.label, xscale="log")
            axis.xaxis.set_major_formatter(FuncFormatter(_number))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.grid(axis="y")
            if len(panel.lines) > 1:
                axis.legend()
    return figure


def dots(panels: Mapping[str, Sequence[Dot]], *, log: bool = False) -> Figure:
    """Rows of dots with their range, a panel for each scale; every panel has the same rows.

    Raises:
        ValueError: If the panels' rows differ.
    """
    names = [dot.label for dot in next(iter(panels.values()))]
    if any([dot.label for dot in rows] != names for rows in panels.values()):
        raise ValueError("expected the same rows in every panel")
    with mpl.rc_context(_STYLE):
        figure, axes = _new(1, len(panels), 0.85 + 0.24 * len(names), sharey=True)
        for axis, (title, rows) in zip(axes[0], panels.items(), strict=True):
            for y, dot in enumerate(rows):
                color, face = (SECOND, "none") if dot.real else (FIRST, FIRST)
                if dot.low < dot.high:
                    axis.plot([dot.low, dot.high], [y, y], color=color, linewidth=1.6)
                axis.plot([dot.value], [y], "o", color=color, markerfacecolor=face, markersize=5.5)
            axis.set(xlabel=title, xscale="log" if log else "linear")
            if not log:
                axis.set_xlim(0, 1.06 * max(max(dot.value, dot.high) for dot in rows))  # room for the last dot
            axis.xaxis.set_major_formatter(FuncFormatter(_number))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="both")
            axis.set_axisbelow(True)
        axes[0][0].set_yticks(range(len(names)), names)
        axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element whose ids are its own on the page."""
    content = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: [^;\"]*?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for told, wanted in STAND_INS.items():
        svg = svg.replace(told, wanted)
    return "\n".join(line for line in svg.splitlines() if line.strip())  # a blank line would end it for Markdown


def figure_html(figure: Figure, name: str, alt: str, caption: str) -> str:
    """A figure with its caption, for a Markdown page.

    Args:
        figure: Made by :func:`curves` or :func:`dots`.
        name: Unlike all others on the page; letters, digits and hyphens.
        alt: What the picture shows, for those who do not see it.
        caption: Below it.
    """
    svg = _svg(figure, name)
    box = re.search(r'viewBox="([^"]+)"', svg)[1]
    inner = svg[svg.index(">") + 1 :]
    return (
        f'<figure class="course-chart">\n<div class="course-chart-box" tabindex="0">\n'
        f'<svg viewBox="{box}" role="img" aria-label="{html.escape(alt, quote=True)}" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{inner}\n</div>\n'
        f"<figcaption>{html.escape(caption)}</figcaption>\n</figure>"
    )
