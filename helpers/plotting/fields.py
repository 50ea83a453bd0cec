"""Points, densities and vector fields in the plane."""

from __future__ import annotations

from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ._style import COLORS, SEQUENTIAL, new_figure

__all__ = ["density_2d", "grid_2d", "points_2d", "score_field_2d"]


def grid_2d(extent: float = 3.0, n: int = 100) -> Tensor:
    """An n × n grid of points over [−extent, extent]², shape (n², 2), float64, x fastest.

    Raises:
        ValueError: For n below 2, or an extent that is not positive.
    """
    if n < 2 or not extent > 0:
        raise ValueError(f"expected n >= 2 and extent > 0, got {n} and {extent}")
    axis = torch.linspace(-extent, extent, n, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def _plane(axes: Axes, extent: float, title: str) -> None:
    axes.set(xlim=(-extent, extent), ylim=(-extent, extent), xlabel="$x_1$", ylabel="$x_2$", title=title)
    axes.set_aspect("equal")


def points_2d(groups: dict[str, Tensor], extent: float = 3.0, size: float = 3.0, width: float | None = None) -> Figure:
    """One scatter plot a group, side by side on the same axes' range.

    Args:
        groups: Title → points (N, 2).
        extent: The axes show [−extent, extent]².
        size: Area of a marker, in points².
        width: Width in inches; 2.6 a panel if not given, at most 7.8.

    Raises:
        ValueError: If there is no group, or one does not hold points of the plane.
    """
    if not groups:
        raise ValueError("expected at least one group of points, got none")
    for title, points in groups.items():
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"expected points of shape (N, 2) for {title!r}, got {tuple(points.shape)}")
    width = width or min(2.6 * len(groups), 7.8)
    figure, axes = new_figure(1, len(groups), width=width, height=width / len(groups) + 0.5, squeeze=False, sharey=True)
    for axis, (title, points) in zip(axes[0], groups.items(), strict=True):
        x, y = points.detach().cpu().T.numpy()
        axis.scatter(x, y, s=size, alpha=0.5, linewidths=0, color=COLORS["blue"])
        _plane(axis, extent, title)
        if axis is not axes[0, 0]:
            axis.set_ylabel("")
    return figure


def density_2d(
    axes: Axes, log_prob: Callable[[Tensor], Tensor], extent: float = 3.0, n: int = 120, title: str = ""
) -> None:
    """Shade a density of the plane: light where it is high.

    Args:
        axes: Where to draw.
        log_prob: Points (n², 2) → log density, up to a constant, (n²,).
        extent: The axes show [−extent, extent]².
        n: Grid points in each direction.
        title: Title of the axes.
    """
    with torch.no_grad():
        values = log_prob(grid_2d(extent, n)).reshape(n, n)
    density = (values - values.max()).exp().cpu().numpy()
    edge = extent * n / (n - 1)  # half a cell further out: the grid's points are the *centres* of the cells
    axes.imshow(density, extent=(-edge, edge) * 2, origin="lower", cmap=SEQUENTIAL, interpolation="bilinear")
    _plane(axes, extent, title)


def score_field_2d(
    axes: Axes,
    score: Callable[[Tensor], Tensor],
    extent: float = 3.0,
    n: int = 17,
    color: str = "white",
    title: str | None = None,
) -> None:
    """Arrows along a vector field; their length grows as the square root of the field's, so that weak regions show.

    Args:
        axes: Where to draw.
        score: Points (n², 2) → vectors (n², 2).
        extent: The axes show [−extent, extent]².
        n: Arrows in each direction.
        color: Colour of the arrows.
        title: New title of the axes, if given.
    """
    points = grid_2d(0.95 * extent, n)
    vectors = score(points).detach().cpu()
    vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-12).sqrt()
    axes.quiver(*points.T.numpy(), *vectors.T.numpy(), color=color, angles="xy", pivot="mid", width=0.004)
    _plane(axes, extent, axes.get_title() if title is None else title)
