"""Energy landscapes in the plane: shades in steps, and films of the particles that walk over them."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ._style import COLORS
from .fields import _plane, grid_2d

__all__ = ["energy_2d", "particle_frames"]


def _above_lowest(energy: Callable[[Tensor], Tensor], extent: float, n: int) -> Tensor:
    """E minus its lowest value on the grid, shape (n, n), the second coordinate first."""
    with torch.no_grad():
        values = energy(grid_2d(extent, n)).reshape(n, n).double().cpu()
    if not values.isfinite().any():
        raise ValueError("expected an energy that is finite somewhere in the picture")
    return values - values[values.isfinite()].min()


def energy_2d(
    axes: Axes,
    energy: Callable[[Tensor], Tensor],
    extent: float = 3.0,
    top: float = 8.0,
    n: int = 150,
    title: str = "",
) -> None:
    """Shade an energy of the plane: the lower, the darker, in steps of one unit (a factor e of the density at T = 1).

    Args:
        axes: Where to draw.
        energy: Points (n², 2), float64 → energies (n²,); counted from the lowest that is seen.
        extent: The axes show [−extent, extent]².
        top: All energies above the lowest plus this number are white.
        n: Grid points in each direction.
        title: Title of the axes.

    Raises:
        ValueError: If ``top`` is not at least 1.
    """
    if not top >= 1:
        raise ValueError(f"expected top >= 1, got {top}")
    values = _above_lowest(energy, extent, n).clamp(max=top + 1)
    axis = torch.linspace(-extent, extent, n)
    levels = torch.arange(0, int(top) + 1).tolist()
    # Without smoothed edges, which few colours and small files need, and nobody sees at twice the screen's resolution.
    axes.contourf(axis, axis, values, levels=levels, cmap="Blues_r", vmin=-0.3 * top, vmax=top, antialiased=False)
    _plane(axes, extent, title)


def particle_frames(
    energy: Callable[[Tensor], Tensor],
    trajectory: Tensor,
    extent: float = 3.0,
    top: float = 8.0,
    size: int = 150,
    color: str = "vermilion",
) -> Tensor:
    """Pictures of particles on a landscape, for :func:`helpers.plotting.play_images`.

    Args:
        energy: As in :func:`energy_2d`; its shades are cut into steps of one unit.
        trajectory: Points (S, B, 2) at S moments. Those outside of the picture are not drawn.
        extent: The picture shows [−extent, extent]².
        top: As in :func:`energy_2d`.
        size: Height and width in pixels.
        color: Name of the particles' colour, out of :data:`COLORS`.

    Returns:
        Shape (S, 1, 3, size, size), in [−1, 1]; the second coordinate points up.

    Raises:
        ValueError: If the trajectory is not of shape (S, B, 2).
    """
    if trajectory.ndim != 3 or trajectory.shape[2] != 2:
        raise ValueError(f"expected a trajectory of shape (S, B, 2), got {tuple(trajectory.shape)}")
    steps = _above_lowest(energy, extent, size).clamp(max=top).floor()
    colours = matplotlib.colormaps["Blues_r"]((steps / top * 0.75 + 0.25).numpy())
    ground = torch.from_numpy(colours[..., :3]).float()
    ink = torch.tensor(matplotlib.colors.to_rgb(COLORS[color]))
    frames = []
    for points in trajectory.detach().cpu().double():
        frame = ground.clone()
        cells = ((points / extent + 1) / 2 * (size - 1)).round()
        inside = ((cells >= 0) & (cells < size)).all(1)
        for right, up in ((0, 0), (1, 0), (0, 1), (1, 1)):  # 2 × 2 pixels each
            column, row = (cells[inside] + torch.tensor([right, up])).long().clamp(max=size - 1).T
            frame[row, column] = ink
        frames.append(frame.flip(0).permute(2, 0, 1)[None])
    return torch.stack(frames) * 2 - 1
