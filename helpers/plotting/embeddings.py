"""Time embeddings: heat maps, and clock hands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ._style import COLORS, DIVERGING, new_figure

__all__ = ["clock_hands", "embedding_heatmap"]

_HANDS = ("blue", "vermilion", "green", "orange", "purple", "sky")


def embedding_heatmap(embeddings: Mapping[str, Tensor], width: float = 7.0, height: float = 3.0) -> Figure:
    """Embeddings of the times 0, 1, …, N − 1 as pictures: time to the right, dimension 0 at the top.

    Args:
        embeddings: Title → shape (N, d), values in [−1, 1]; one panel each, side by side.
        width: Width in inches.
        height: Height in inches.

    Raises:
        ValueError: If there is no embedding, or one is not a matrix.
    """
    if not embeddings:
        raise ValueError("expected at least one embedding, got none")
    for title, values in embeddings.items():
        if values.ndim != 2:
            raise ValueError(f"expected embeddings of shape (N, d) for {title!r}, got {tuple(values.shape)}")
    figure, axes = new_figure(1, len(embeddings), width=width, height=height, squeeze=False)
    for axis, (title, values) in zip(axes[0], embeddings.items(), strict=True):
        picture = axis.imshow(
            values.detach().cpu().T.numpy(), aspect="auto", cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest"
        )
        axis.set(title=title, xlabel="time $t$")
    axes[0, 0].set_ylabel("dimension of the embedding")
    figure.colorbar(picture, ax=axes[0].tolist(), label="value", ticks=[-1, 0, 1], pad=0.02)
    return figure


def clock_hands(times: Sequence[float], frequencies: Tensor, width: float = 7.0) -> Figure:
    """One column of dials a time, one row a frequency; the hand stands at (cos ωt, sin ωt).

    Hands start on the right, at angle 0, and turn anticlockwise, as angles do in mathematics.

    Args:
        times: Moments to show, from left to right.
        frequencies: ω in radians per step, shape (h,), h at most 6; one row each.
        width: Width in inches.

    Raises:
        ValueError: If there is no time, or ``frequencies`` is not a vector of 1 to 6 numbers.
    """
    if frequencies.ndim != 1 or not 1 <= len(frequencies) <= len(_HANDS):
        raise ValueError(f"expected 1 to {len(_HANDS)} frequencies, got shape {tuple(frequencies.shape)}")
    if not len(times):
        raise ValueError("expected at least one time, got none")
    rows, columns = len(frequencies), len(times)
    height = 0.9 * width * rows / (columns + 1) + 0.3
    figure, axes = new_figure(rows, columns, width=width, height=height, squeeze=False)
    rim = torch.linspace(0, 2 * math.pi, 100)
    for row, frequency in enumerate(frequencies.tolist()):
        for axis, time in zip(axes[row], times, strict=True):
            x, y = math.cos(frequency * time), math.sin(frequency * time)
            axis.plot(rim.cos(), rim.sin(), color=COLORS["grey"], linewidth=1)
            axis.plot([0, x], [0, y], color=COLORS[_HANDS[row]], linewidth=2.5, solid_capstyle="round")
            axis.plot([x], [y], "o", color=COLORS[_HANDS[row]], markersize=6)
            axis.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), xticks=[], yticks=[], aspect="equal")
            axis.spines[:].set_visible(False)
            if row == 0:
                axis.set_title(f"$t$ = {time:g}")
        label = rf"$\omega_{row}$ = {frequency:.3g}"
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
    return figure
