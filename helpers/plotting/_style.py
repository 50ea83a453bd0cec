"""One look for every figure: Okabe–Ito colours, readable sizes."""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["COLORS", "DIVERGING", "SEQUENTIAL", "new_figure", "use_course_style"]

COLORS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
    "grey": "#767676",
}
"""Okabe and Ito's palette (2008), which colour-blind readers can tell apart, and one grey."""

SEQUENTIAL = "viridis"
"""Colour map for quantities from low to high."""

DIVERGING = "RdBu_r"
"""Colour map for signed quantities; centre it at zero."""

_RC = {
    "figure.dpi": 80,
    "savefig.dpi": 110,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.prop_cycle": cycler(color=[COLORS[n] for n in ("blue", "vermilion", "green", "orange", "purple", "sky")]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "legend.frameon": False,
    "font.size": 10,
    "lines.linewidth": 1.8,
    "image.cmap": SEQUENTIAL,
}


def use_course_style() -> None:
    """Set Matplotlib's defaults to the course's look; in a notebook, draw at twice the screen's resolution.

    Lessons call it once, in their import cell. Importing this package changes nothing.
    """
    plt.rcParams.update(_RC)
    ipython = sys.modules.get("IPython") if "ipykernel" in sys.modules else None
    shell = ipython.get_ipython() if ipython else None
    if shell is not None:
        from matplotlib_inline.config import InlineBackend

        backend = InlineBackend.instance(parent=shell)
        backend.print_figure_kwargs = {"bbox_inches": "tight", "pil_kwargs": {"optimize": True}}
        backend.figure_formats = {"retina"}


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 3.2, **subplot_options: object
) -> tuple[Figure, Axes]:
    """A figure and its axes in the course's style.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        width: Width in inches.
        height: Height in inches.
        **subplot_options: Passed on to :func:`matplotlib.pyplot.subplots`, which rejects unknown names.

    Returns:
        The figure and its axes: a single ``Axes``, or an array of them as ``plt.subplots`` gives.
    """
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **subplot_options)
