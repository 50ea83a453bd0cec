"""Grids and film strips of images in [−1, 1]."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from ._style import new_figure

__all__ = ["film_strip", "image_grid", "show_image"]


def _check_images(images: Tensor, dims: int, name: str = "images") -> None:
    if images.ndim != dims or images.shape[-3] not in (1, 3):
        shape = "(B, C, H, W)" if dims == 4 else "(R, B, C, H, W)"
        raise ValueError(f"expected {name} of shape {shape} with C = 1 or 3, got {tuple(images.shape)}")
    if images.numel() == 0:
        raise ValueError(f"expected at least one image, got {name} of shape {tuple(images.shape)}")


def _check_columns(columns: int) -> None:
    if columns < 1:
        raise ValueError(f"expected columns >= 1, got {columns}")


def _unit(images: Tensor) -> Tensor:
    """[−1, 1] → [0, 1], clipped, on the CPU."""
    return (images.detach().float().cpu().clamp(-1, 1) + 1) / 2


def _tiles(images: Tensor, columns: int) -> Tensor:
    """(B, C, H, W) in [−1, 1] → one picture (H', W', 3) in [0, 1], with white gaps."""
    return make_grid(_unit(images), nrow=columns, padding=1, pad_value=1.0).permute(1, 2, 0)


def show_image(axes: Axes, image: Tensor, title: str = "") -> None:
    """Draw one image (C, H, W) in [−1, 1] (values outside are clipped) into axes without ticks."""
    _check_images(image[None], 4)
    axes.imshow(_unit(image).permute(1, 2, 0).expand(-1, -1, 3).numpy(), interpolation="nearest", vmin=0, vmax=1)
    axes.set_title(title)
    axes.axis("off")


def image_grid(images: Tensor, columns: int = 8, title: str = "", width: float | None = None) -> Figure:
    """Images side by side, row by row.

    Args:
        images: (B, C, H, W) in [−1, 1]; values outside are clipped.
        columns: Images in a row.
        title: Title of the figure.
        width: Width in inches; 0.6 a column if not given.

    Raises:
        ValueError: For another shape, no images, or ``columns`` below 1.
    """
    _check_images(images, 4)
    _check_columns(columns)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width = width or 0.6 * columns
    height = width * rows / columns * images.shape[2] / images.shape[3] + (0.35 if title else 0)
    figure, axes = new_figure(width=width, height=height)
    axes.imshow(_tiles(images, columns).numpy(), interpolation="nearest")
    axes.set_title(title)
    axes.axis("off")
    return figure


def film_strip(
    frames: Tensor,
    column_labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    title: str = "",
    width: float = 7.0,
) -> Figure:
    """A table of images: one row a sample (or method), one column a moment.

    Args:
        frames: (R, S, C, H, W) in [−1, 1]: R rows, S columns.
        column_labels: S short labels above the columns, or none.
        row_labels: R short labels beside the rows, or none.
        title: Title of the figure.
        width: Width in inches.

    Raises:
        ValueError: For another shape, or labels that do not fit.
    """
    _check_images(frames, 5, "frames")
    rows, columns = frames.shape[:2]
    for labels, number, name in ((column_labels, columns, "column"), (row_labels, rows, "row")):
        if labels and len(labels) != number:
            raise ValueError(f"expected {number} {name} labels, got {len(labels)}")
    side = width / (columns + 0.12 * max((len(label) for label in row_labels), default=0))
    height = side * rows * frames.shape[3] / frames.shape[4] + 0.25 * bool(column_labels) + 0.35 * bool(title)
    figure, axes = new_figure(rows, columns, width=width, height=height, squeeze=False)
    for r in range(rows):
        for s in range(columns):
            show_image(axes[r, s], frames[r, s])
        if row_labels:
            axes[r, 0].text(-0.12, 0.5, row_labels[r], ha="right", va="center", transform=axes[r, 0].transAxes)
    for s, label in enumerate(column_labels):
        axes[0, s].set_title(label, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
