"""Paths of a sampler in one dimension, over the density that they should follow."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..oracle import GaussianMixture
from ..samplers import Trajectory
from ..schedules import NoiseSchedule
from ._style import COLORS, new_figure

__all__ = ["paths_1d", "shade_noised"]


def shade_noised(
    axes: Axes, density: GaussianMixture, schedule: NoiseSchedule, extent: float = 3.0, columns: int = 250
) -> None:
    """Shade p_t(x) of a 1-D density behind paths: noise on the left, data on the right, each time scaled to its peak.

    Args:
        axes: Where to draw; the horizontal axis becomes the timestep t, from T − 1 down to −1.
        density: A mixture in one dimension.
        schedule: Gives ᾱ_t.
        extent: Shows x in [−extent, extent].
        columns: How many times are computed.

    Raises:
        ValueError: If the density is not one-dimensional.
    """
    if density.dim != 1:
        raise ValueError(f"expected a density in 1 dimension, got {density.dim}")
    last = schedule.n_steps - 1
    times = torch.linspace(-1, last, columns).round().long()
    x = torch.linspace(-extent, extent, 240, dtype=torch.float64)[:, None]
    picture = torch.stack([density.log_prob(x, schedule.alpha_bar(t)) for t in times], dim=1).exp()
    shade = (picture / picture.amax(0)).sqrt()
    axes.contourf(times, x[:, 0], shade, levels=torch.linspace(0, 1, 9), cmap="Greys", vmax=2.2)
    axes.set(xlim=(last, -1), ylim=(-extent, extent), xlabel="timestep $t$  (noise → data)")


def paths_1d(
    runs: Mapping[str, Trajectory],
    density: GaussianMixture,
    schedule: NoiseSchedule,
    extent: float = 3.0,
    width: float = 7.0,
) -> Figure:
    """One panel a run: its paths over the shaded density, coloured by the sign of their end.

    Args:
        runs: Title → trajectory of 1-D samples, states (S + 1, B, 1).
        density: The data's density.
        schedule: The schedule of the runs.
        extent: Shows x in [−extent, extent].
        width: Width in inches.

    Raises:
        ValueError: If a run is not one-dimensional.
    """
    figure, axes = new_figure(1, len(runs), width=width, height=3.0, squeeze=False, sharey=True)
    for axis, (title, run) in zip(axes[0], runs.items(), strict=True):
        if run.x.ndim != 3 or run.x.shape[2] != 1:
            raise ValueError(f"expected states of shape (S + 1, B, 1) for {title!r}, got {tuple(run.x.shape)}")
        shade_noised(axis, density, schedule, extent)
        for path in run.x[:, :, 0].T:
            color = COLORS["blue"] if path[-1] > 0 else COLORS["vermilion"]
            axis.plot(run.timesteps, path, color=color, linewidth=0.9)
        axis.set_title(title)
    axes[0, 0].set_ylabel("$x_t$")
    return figure
