"""Pictures of networks: where kernels land, what attends to what, how far a pixel sees, and the U of a U-Net."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle
from torch import Tensor

from ._style import COLORS, SEQUENTIAL, new_figure

__all__ = ["Stage", "attention_maps", "conv_placements", "receptive_fields", "unet_diagram"]

_PASTELS = ("#D9EAF5", "#FBE3D2", "#CDEBDF", "#F3DCE9", "#FCEFC9", "#E8E8E8")
_MARKS = ("vermilion", "purple", "orange", "sky")


@dataclass(frozen=True)
class Stage:
    """One module of a network, with what came out of it.

    Attributes:
        name: Its attribute name.
        kind: Its class.
        shape: (C, H, W) of its output.
    """

    name: str
    kind: str
    shape: tuple[int, int, int]


def conv_placements(sizes: Sequence[int], kernel: int, stride: int, padding: int) -> Figure:
    """Where a one-dimensional kernel lands on rows of pixels: one panel a size, one bar an output.

    Args:
        sizes: Numbers of pixels H, one a panel.
        kernel: k.
        stride: s.
        padding: p, zeros on each side.

    Raises:
        ValueError: If a padded row is shorter than the kernel.
    """
    if min(sizes) + 2 * padding < kernel:
        raise ValueError(f"expected rows of at least {kernel - 2 * padding} pixels, got {min(sizes)}")
    figure, axes = new_figure(len(sizes), 1, height=1.55 * len(sizes) + 0.2, squeeze=False, sharex=True)
    for axis, size in zip(axes[:, 0], sizes, strict=True):
        starts = range(-padding, size + padding - kernel + 1, stride)
        reach = starts[-1] + kernel
        for cell in range(-padding, size + padding):
            padded = cell < 0 or cell >= size
            axis.add_patch(
                Rectangle(
                    (cell, 0), 1, 1, facecolor="#F2F2F2" if padded else "#D9EAF5", edgecolor="white", linewidth=1.5
                )
            )
            if cell >= reach:
                hatched = {"fill": False, "hatch": "////", "edgecolor": "#AAAAAA", "linewidth": 0}
                axis.add_patch(Rectangle((cell + 0.03, 0.03), 0.94, 0.94, **hatched))
            text = "pad" if padded else str(cell)
            axis.text(cell + 0.5, 0.5, text, ha="center", va="center", fontsize=9)
        for output, start in enumerate(starts):
            height = 1.35 + 0.6 * (output % 2)
            axis.plot([start + 0.08, start + kernel - 0.08], [height] * 2, color=COLORS["vermilion"], linewidth=5)
            axis.text(start + kernel / 2, height + 0.14, str(output), ha="center", va="bottom", fontsize=9)
        axis.set(xlim=(-padding - 0.1, max(sizes) + padding + 0.1), ylim=(-0.1, 2.75), yticks=[0.5, 1.7])
        axis.set_yticklabels(["input", "output"])
        axis.tick_params(length=0)
        axis.set_xticks([])
        axis.spines[:].set_visible(False)
        axis.set_title(f"H = {size}: {len(starts)} outputs", loc="left")
    return figure


def attention_maps(
    image: Tensor, weights: Tensor, queries: Sequence[tuple[int, int]], labels: Sequence[str] = (), width: float = 7.0
) -> Figure:
    """What chosen positions look at: the image with the queries marked, then one map a query.

    Each scale ends at the largest weight on *another* position: most attend to themselves, which says little.

    Args:
        image: (H, W) in [−1, 1].
        weights: (H·W, H·W); row i is the attention of position i.
        queries: (row, column) of up to four positions.
        labels: One title a query, or none.
        width: Width in inches.

    Raises:
        ValueError: If shapes or numbers do not fit.
    """
    rows, columns = _two_dims(image)
    if tuple(weights.shape) != (rows * columns,) * 2:
        raise ValueError(f"expected weights of shape {(rows * columns,) * 2}, got {tuple(weights.shape)}")
    if not 1 <= len(queries) <= len(_MARKS):
        raise ValueError(f"expected 1 to {len(_MARKS)} queries, got {len(queries)}")
    if any(not (0 <= row < rows and 0 <= column < columns) for row, column in queries):
        raise ValueError(f"expected queries inside of {rows} × {columns}, got {list(queries)}")
    if labels and len(labels) != len(queries):
        raise ValueError(f"expected {len(queries)} labels, got {len(labels)}")
    panels = len(queries) + 1
    figure, axes = new_figure(1, panels, width=width, height=width / panels * rows / columns + 0.55)
    drawn = axes[0].imshow(image.numpy(), cmap="gray", vmin=-1, vmax=1)
    figure.colorbar(drawn, ax=axes[0], location="bottom", shrink=0.9, ticks=[-1, 1])
    axes[0].set_title("image", fontsize=10)
    for number, (row, column) in enumerate(queries):
        axis, color = axes[number + 1], COLORS[_MARKS[number]]
        own = row * columns + column
        top = torch.cat([weights[own, :own], weights[own, own + 1 :]]).max().item()
        drawn = axis.imshow(weights[own].reshape(rows, columns).numpy(), vmin=0, vmax=top, cmap=SEQUENTIAL)
        figure.colorbar(drawn, ax=axis, location="bottom", shrink=0.9, format="%.2f", ticks=[0, top])
        axis.set_title(labels[number] if labels else f"query {number + 1}", fontsize=10)
        for where in (axes[0], axis):
            where.plot(column, row, "s", markersize=7, markerfacecolor="none", markeredgecolor=color, markeredgewidth=2)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure


def receptive_fields(gradients: Mapping[str, Tensor], sides: Mapping[str, int], centre: tuple[int, int]) -> Figure:
    """How strongly one output depends on each input pixel, on one logarithmic scale; grey is exactly zero.

    Args:
        gradients: Title → (H, W) absolute gradients.
        sides: Title → side of the theoretical receptive field, drawn as a square; titles may be missing.
        centre: (row, column) of the output in the coordinates of the input.

    Raises:
        ValueError: If a gradient is not (H, W), or there is none.
    """
    if not gradients:
        raise ValueError("expected at least one gradient, got none")
    for gradient in gradients.values():
        _two_dims(gradient)
    colours = plt.get_cmap(SEQUENTIAL).with_extremes(bad="#D0D0D0")
    figure, axes = new_figure(1, len(gradients), height=7.0 / len(gradients) + 0.5, squeeze=False)
    for axis, (title, gradient) in zip(axes[0], gradients.items(), strict=True):
        relative = (gradient / gradient.max()).clamp(min=1e-5).masked_fill(gradient == 0, torch.nan).numpy()
        drawn = axis.imshow(relative, norm=LogNorm(1e-5, 1), cmap=colours, interpolation="nearest")
        if title in sides:
            corner = (centre[1] - sides[title] / 2, centre[0] - sides[title] / 2)
            square = {"fill": False, "edgecolor": COLORS["vermilion"], "linewidth": 1.6}
            axis.add_patch(Rectangle(corner, sides[title], sides[title], **square))
        axis.set_title(title, fontsize=9)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.5, aspect=40, label="gradient, relative to the largest")
    return figure


def unet_diagram(stages: Sequence[Stage], skips: Sequence[tuple[str, str]] = (), width: float = 7.0) -> Figure:
    """The stages of a network in order, one line a resolution: a U, where the network is one.

    Args:
        stages: In the order in which they run.
        skips: Pairs of names (from, to), drawn as dashed arrows.
        width: Width in inches.

    Raises:
        ValueError: If there is no stage, or a skip names none.
    """
    names = [stage.name for stage in stages]
    unknown = [name for pair in skips for name in pair if name not in names]
    if not stages or unknown:
        raise ValueError(f"expected stages, and skips between them, got {len(stages)} and unknown names {unknown}")
    sizes = sorted({stage.shape[1] for stage in stages}, reverse=True)
    places: dict[str, tuple[float, float]] = {}
    column = -1
    for i, stage in enumerate(stages):
        column += i == 0 or stage.shape[1] == stages[i - 1].shape[1]  # a change of resolution is a step down or up
        places[stage.name] = (float(column), -1.25 * sizes.index(stage.shape[1]))
    figure, axis = new_figure(width=width, height=0.95 * len(sizes) + 1.0)
    for first, second in itertools.pairwise(names):
        _draw_arrow(axis, places[first], places[second], bend=0)
    for first, second in skips:
        _draw_arrow(axis, places[first], places[second], bend=-0.28)
    kinds = list(dict.fromkeys(stage.kind for stage in stages))
    fills = {kind: _PASTELS[i % len(_PASTELS)] for i, kind in enumerate(kinds)}
    for stage in stages:
        _draw_stage(axis, places[stage.name], stage, fills[stage.kind])
    axis.set(xlim=(-0.5, column + 0.5), ylim=(-1.25 * (len(sizes) - 1) - 0.45, 0.45 + 0.75 * bool(skips)))
    axis.axis("off")
    patches = [Patch(facecolor=fills[kind], edgecolor=COLORS["grey"], label=kind) for kind in kinds]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(kinds), fontsize=8)
    return figure


def _two_dims(picture: Tensor) -> tuple[int, int]:
    if picture.ndim != 2:
        raise ValueError(f"expected a picture of shape (H, W), got {tuple(picture.shape)}")
    return picture.shape[0], picture.shape[1]


def _draw_stage(axis: Axes, place: tuple[float, float], stage: Stage, fill: str) -> None:
    x, y = place
    box = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": fill, "edgecolor": COLORS["grey"], "zorder": 2}
    axis.add_patch(FancyBboxPatch((x - 0.455, y - 0.3), 0.91, 0.6, **box))
    channels, height, breadth = stage.shape
    axis.text(x, y + 0.12, stage.name, ha="center", va="center", fontsize=6.1, weight="bold", zorder=3)
    axis.text(x, y - 0.13, f"{channels}×{height}×{breadth}", ha="center", va="center", fontsize=6.8, zorder=3)


def _draw_arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], bend: float) -> None:
    """From box to box; a bent arrow goes over the top of what lies between."""
    (x0, y0), (x1, y1) = start, end
    if bend:
        ends = ((x0 + 0.2, y0 + 0.3), (x1 - 0.2, y1 + 0.3))
    elif y0 == y1:
        ends = ((x0 + 0.455, y0), (x1 - 0.455, y1))
    else:
        side = 0.3 if y1 > y0 else -0.3
        ends = ((x0, y0 + side), (x1, y1 - side))
    axis.add_patch(
        FancyArrowPatch(
            *ends,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=8,
            shrinkA=0,
            shrinkB=0,
            color=COLORS["green"] if bend else COLORS["grey"],
            linewidth=1.3 if bend else 1.0,
            linestyle="--" if bend else "-",
            zorder=1,
        )
    )
