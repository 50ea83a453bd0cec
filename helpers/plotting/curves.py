"""Curves: schedules and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Literal

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..schedules import NoiseSchedule
from ._style import new_figure

__all__ = ["loss_curves", "schedule_curves", "smooth"]

_QUANTITIES = {
    "alpha_bar": (r"signal share $\bar\alpha_t$", "linear"),
    "beta": (r"$\beta_t$", "log"),
    "snr": (r"$\mathrm{SNR}_t$", "log"),
    "sigma": (r"noise level $\sigma_t$", "log"),
}


def schedule_curves(
    schedules: Mapping[str, NoiseSchedule],
    quantities: Sequence[Literal["alpha_bar", "beta", "snr", "sigma"]] = ("alpha_bar", "snr"),
    width: float = 7.0,
) -> Figure:
    """Schedules against the step, one panel a quantity, one line style and colour a schedule.

    Schedules of different length are drawn against the relative time t/(T − 1).

    Raises:
        ValueError: For an unknown quantity, or nothing to draw.
    """
    if not schedules or not quantities:
        raise ValueError("expected at least one schedule and one quantity")
    unknown = [name for name in quantities if name not in _QUANTITIES]
    if unknown:
        raise ValueError(f"expected quantities out of {', '.join(_QUANTITIES)}, got {', '.join(unknown)}")
    figure, axes = new_figure(1, len(quantities), width=width, height=2.9, squeeze=False)
    relative = len({schedule.n_steps for schedule in schedules.values()}) > 1
    for axis, quantity in zip(axes[0], quantities, strict=True):
        for style, (name, schedule) in zip(cycle(("-", "--", "-.", ":")), schedules.items(), strict=False):
            t = torch.arange(schedule.n_steps)
            x = t / max(schedule.n_steps - 1, 1) if relative else t
            axis.plot(x, getattr(schedule, quantity)(t), style, label=name)
        label, scale = _QUANTITIES[quantity]
        axis.set(xlabel="relative time $t/(T-1)$" if relative else "step $t$", ylabel=label, yscale=scale)
    axes[0, 0].legend()
    return figure


def smooth(values: Sequence[float], half_life: float = 20.0) -> torch.Tensor:
    """Exponential moving average with the given half-life in steps, corrected for its start.

    Raises:
        ValueError: If ``half_life`` is not positive.
    """
    if not half_life > 0:
        raise ValueError(f"expected half_life > 0, got {half_life}")
    decay = 0.5 ** (1 / half_life)
    average, weight, out = 0.0, 0.0, []
    for value in values:
        average, weight = decay * average + (1 - decay) * float(value), decay * weight + (1 - decay)
        out.append(average / weight)
    return torch.tensor(out)


def loss_curves(
    histories: Mapping[str, Sequence[float]],
    axes: Axes | None = None,
    half_life: float = 20.0,
    logy: bool = True,
    ylabel: str = "loss",
) -> Figure:
    """Smoothed training losses against the step, the raw values faint behind them.

    Args:
        histories: Name → one loss a step.
        axes: Where to draw; a new figure if not given.
        half_life: Of the smoothing, in steps.
        logy: Whether the loss axis is logarithmic.
        ylabel: What the loss is.
    """
    if axes is None:
        _, axes = new_figure(height=2.9)
    for name, values in histories.items():
        (line,) = axes.plot(smooth(values, half_life), label=name)
        axes.plot(list(values), color=line.get_color(), alpha=0.15, linewidth=0.8, zorder=0)
    axes.set(xlabel="training step", ylabel=ylabel, yscale="log" if logy else "linear")
    if len(histories) > 1:
        axes.legend()
    return axes.figure
