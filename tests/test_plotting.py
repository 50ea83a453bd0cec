"""Tests of helpers.plotting: what is drawn is what was given: pixels, points, densities, arrows, curves."""

from __future__ import annotations

import math
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import plotting
from helpers.oracle import eight_gaussians
from helpers.plotting import _style
from helpers.schedules import CosineSchedule, LinearSchedule


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def pixels(axes: plt.Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


# ── the style ─────────────────────────────────────────────────────────────


def test_importing_changes_nothing_and_the_style_only_what_it_lists() -> None:
    code = """
import matplotlib
matplotlib.use("Agg")
before = dict(matplotlib.rcParams)
from helpers import plotting
from helpers.plotting import _style
changed = {k for k, v in matplotlib.rcParams.items() if before[k] != v}
assert not changed, changed
plotting.use_course_style()
changed = {k for k, v in matplotlib.rcParams.items() if before[k] != v}
assert changed and changed <= set(_style._RC), changed
assert matplotlib.pyplot.get_fignums() == []
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kernel", [True, False])
def test_style_works_outside_notebooks(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool may have loaded the kernel's package, and not IPython, where there is no notebook."""
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    if kernel:
        monkeypatch.setitem(sys.modules, "ipykernel", object())
    else:
        monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with matplotlib.rc_context():
        plotting.use_course_style()
        assert matplotlib.rcParams["font.size"] == _style._RC["font.size"]


def test_style_sets_every_listed_value() -> None:
    with matplotlib.rc_context():
        plotting.use_course_style()
        assert {key: matplotlib.rcParams[key] for key in _style._RC} == _style._RC
        _, axes = plotting.new_figure()
        (line,) = axes.plot([0, 1])
        assert line.get_color() == plotting.COLORS["blue"]
        assert not axes.spines["top"].get_visible()


def contrast(a: str, b: str) -> float:
    """WCAG's contrast ratio."""

    def luminance(color: str) -> float:
        channels = np.array(matplotlib.colors.to_rgb(color))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted([luminance(a), luminance(b)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_are_distinct_and_grey_is_readable_on_white() -> None:
    assert len(set(plotting.COLORS.values())) == len(plotting.COLORS)
    assert contrast(plotting.COLORS["grey"], "white") > 4.5
    for name in (plotting.SEQUENTIAL, plotting.DIVERGING):
        assert name in matplotlib.colormaps


def test_new_figure_has_the_asked_size_and_axes() -> None:
    figure, axes = plotting.new_figure(2, 3, width=5, height=4, sharey=True)
    assert axes.shape == (2, 3)
    assert figure.get_size_inches().tolist() == [5, 4]
    assert axes[0, 0].get_shared_y_axes().joined(axes[0, 0], axes[1, 2])
    single = plotting.new_figure()[1]
    assert isinstance(single, plt.Axes)
    with pytest.raises((AttributeError, TypeError), match="no_such_option"):
        plotting.new_figure(no_such_option=1)


# ── images ────────────────────────────────────────────────────────────────


def ramp(*shape: int) -> Tensor:
    """Distinct values from −1 to 1."""
    return torch.linspace(-1, 1, math.prod(shape)).reshape(shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "columns", "rows_columns"), [(5, 2, (3, 2)), (3, 8, (1, 3)), (6, 3, (2, 3))])
def test_grid_shows_every_pixel_in_its_place(
    channels: int, n: int, columns: int, rows_columns: tuple[int, int]
) -> None:
    images = ramp(n, channels, 4, 6)
    figure = plotting.image_grid(images, columns, title="ramp")
    (axes,) = figure.axes
    picture = pixels(axes)
    rows, columns = rows_columns
    assert picture.shape == (rows * 5 + 1, columns * 7 + 1, 3)
    for i, image in enumerate(images):
        top, left = 1 + 5 * (i // columns), 1 + 7 * (i % columns)
        tile = picture[top : top + 4, left : left + 6]
        expected = ((image + 1) / 2).permute(1, 2, 0).expand(4, 6, 3)
        np.testing.assert_allclose(tile, expected, atol=1e-6)
    assert (picture[0] == 1).all()  # white gaps
    assert (picture[5] == 1).all()
    assert (picture[:, 7] == 1).all()
    assert axes.get_title() == "ramp"
    assert not axes.axison


def test_one_image_fills_the_grid() -> None:
    image = ramp(1, 1, 4, 4)
    assert pixels(plotting.image_grid(image).axes[0]).shape == (4, 4, 3)


def test_values_outside_the_range_are_clipped_and_gradients_do_not_disturb() -> None:
    images = torch.tensor([-5.0, -1.0, 0.0, 5.0], requires_grad=True).reshape(1, 1, 2, 2)
    picture = pixels(plotting.image_grid(images).axes[0])
    np.testing.assert_allclose(picture[..., 0], [[0, 0], [0.5, 1]])


def test_grid_is_as_wide_as_asked_and_keeps_its_shape() -> None:
    wide = plotting.image_grid(torch.zeros(8, 1, 4, 8), columns=4, width=6.0)
    assert wide.get_size_inches().tolist() == [6.0, 6.0 * 2 / 4 * 4 / 8]
    assert plotting.image_grid(torch.zeros(8, 1, 4, 4)).get_size_inches()[0] == pytest.approx(4.8)


@pytest.mark.parametrize("channels", [1, 3])
def test_single_image_is_shown_whole(channels: int) -> None:
    image = ramp(channels, 4, 5)
    _, axes = plotting.new_figure()
    plotting.show_image(axes, image, "one")
    np.testing.assert_allclose(pixels(axes), ((image + 1) / 2).permute(1, 2, 0).expand(4, 5, 3), atol=1e-6)
    assert (axes.get_title(), axes.axison) == ("one", False)
    assert axes.images[0].get_clim() == (0, 1)  # a dark image stays dark


def test_film_strip_has_one_cell_an_image_and_its_labels() -> None:
    frames = ramp(2, 3, 1, 4, 4)
    figure = plotting.film_strip(frames, ["t = 9", "t = 5", "t = 0"], ["DDPM", "DDIM"], title="two films")
    assert len(figure.axes) == 6
    for axes, image in zip(figure.axes, frames.flatten(0, 1), strict=True):
        np.testing.assert_allclose(pixels(axes)[..., 1], (image[0] + 1) / 2, atol=1e-6)
    assert [axes.get_title() for axes in figure.axes] == ["t = 9", "t = 5", "t = 0", "", "", ""]
    assert [axes.texts[0].get_text() for axes in figure.axes if axes.texts] == ["DDPM", "DDIM"]
    assert figure.get_suptitle() == "two films"
    assert len(plotting.film_strip(frames).axes) == 6  # labels are optional


@pytest.mark.parametrize("labels", [{"column_labels": ["a", "b"]}, {"row_labels": ["a", "b", "c"]}])
def test_labels_that_do_not_fit_are_refused(labels: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match=r"expected \d (row|column) labels, got \d"):
        plotting.film_strip(torch.zeros(2, 3, 1, 4, 4), **labels)


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4), (2, 2, 4, 4), (1, 1, 1, 4, 4)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected images of shape \(B, C, H, W\) with C = 1 or 3, got"):
        plotting.image_grid(torch.zeros(shape))
    for draw in (plotting.film_strip, plotting.play_images):
        with pytest.raises(ValueError, match=r"expected frames of shape \(R, B, C, H, W\)"):
            draw(torch.zeros(shape[-4:]))


def test_no_images_and_no_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        plotting.image_grid(torch.zeros(0, 1, 4, 4))
    with pytest.raises(ValueError, match="at least one image"):
        plotting.film_strip(torch.zeros(2, 0, 1, 4, 4))
    with pytest.raises(ValueError, match="columns >= 1, got 0"):
        plotting.image_grid(torch.zeros(2, 1, 4, 4), columns=0)
    with pytest.raises(ValueError, match="columns >= 1, got -1"):
        plotting.play_images(torch.zeros(1, 2, 1, 4, 4), columns=-1)


# ── the plane ─────────────────────────────────────────────────────────────


def test_grid_runs_along_x_first() -> None:
    grid = plotting.grid_2d(2.0, 3)
    assert grid.dtype == torch.float64
    x, y = [-2.0, 0.0, 2.0] * 3, [-2.0] * 3 + [0.0] * 3 + [2.0] * 3
    assert grid.T.tolist() == [x, y]
    for n, extent in ((1, 2.0), (3, 0.0)):
        with pytest.raises(ValueError, match="expected n >= 2 and extent > 0"):
            plotting.grid_2d(extent, n)


def test_points_are_drawn_where_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = {name: torch.randn(7, 2, generator=generator) for name in ("data", "model", "noise")}
    groups["model"].requires_grad_()
    figure = plotting.points_2d(groups, extent=2.5, size=9)
    assert [axes.get_title() for axes in figure.axes] == list(groups)
    for axes, points in zip(figure.axes, groups.values(), strict=True):
        (dots,) = axes.collections
        np.testing.assert_allclose(dots.get_offsets(), points.detach())
        assert (axes.get_xlim(), axes.get_ylim()) == ((-2.5, 2.5), (-2.5, 2.5))
        assert axes.get_xlabel() == "$x_1$"
        assert axes.get_aspect() == 1
    assert [axes.get_ylabel() for axes in figure.axes] == ["$x_2$", "", ""]


@pytest.mark.parametrize("points", [torch.zeros(5), torch.zeros(5, 3), torch.zeros(2, 5, 2)])
def test_other_points_are_refused(points: Tensor) -> None:
    with pytest.raises(ValueError, match=r"points of shape \(N, 2\) for 'bad', got"):
        plotting.points_2d({"good": torch.zeros(1, 2), "bad": points})
    with pytest.raises(ValueError, match="at least one group"):
        plotting.points_2d({})


def test_density_is_shaded_at_its_place() -> None:
    mean, n, extent = torch.tensor([1.0, -2.0], dtype=torch.float64), 61, 3.0

    def log_prob(x: Tensor) -> Tensor:
        return 7 - (x - mean).square().sum(1) / 2  # any constant

    _, axes = plotting.new_figure()
    plotting.density_2d(axes, log_prob, extent, n, title="a Gaussian")
    picture = pixels(axes)
    assert picture.max() == 1.0
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    left, right, bottom, top = axes.images[0].get_extent()
    cell = (right - left) / n
    assert left + (column + 0.5) * cell == pytest.approx(1.0)  # centres of cells, from the lower left
    assert bottom + (row + 0.5) * (top - bottom) / n == pytest.approx(-2.0)
    assert axes.images[0].origin == "lower"
    assert picture[row, column + 10] == pytest.approx(math.exp(-(1.0**2) / 2), rel=1e-6)
    assert (axes.get_title(), axes.get_xlim()) == ("a Gaussian", (-3, 3))


def test_arrows_point_along_the_field_and_grow_with_its_root() -> None:
    def score(x: Tensor) -> Tensor:
        return torch.stack([-4 * x[:, 0], x[:, 1]], dim=1)

    _, axes = plotting.new_figure()
    axes.set_title("kept")
    plotting.score_field_2d(axes, score, extent=2.0, n=5, color="black")
    (arrows,) = axes.collections
    points = torch.as_tensor(arrows.XY)
    drawn, given = torch.stack([torch.as_tensor(arrows.U), torch.as_tensor(arrows.V)], 1), score(points)
    assert points.abs().max() == pytest.approx(1.9)
    torch.testing.assert_close(drawn.norm(dim=1), given.norm(dim=1).sqrt())
    torch.testing.assert_close(drawn * given.norm(dim=1, keepdim=True).sqrt(), given)  # same direction
    assert axes.get_title() == "kept"
    plotting.score_field_2d(axes, score, title="new")
    assert axes.get_title() == "new"


def test_a_learned_score_needs_no_care_about_gradients() -> None:
    _, axes = plotting.new_figure()
    mixture, layer = eight_gaussians(), torch.nn.Linear(2, 2).double()
    plotting.density_2d(axes, mixture.log_prob)
    plotting.density_2d(axes, lambda x: layer(x)[:, 0])
    plotting.score_field_2d(axes, layer)
    axes.figure.canvas.draw()


# ── curves ────────────────────────────────────────────────────────────────


def test_schedule_curves_are_the_schedules() -> None:
    schedules = {"linear": LinearSchedule(50), "cosine": CosineSchedule(20)}
    quantities = ("alpha_bar", "beta", "snr", "sigma")
    figure = plotting.schedule_curves(schedules, quantities)
    assert len(figure.axes) == 4
    for axes, quantity in zip(figure.axes, quantities, strict=True):
        assert axes.get_yscale() == ("linear" if quantity == "alpha_bar" else "log")
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        for line, schedule in zip(axes.lines, schedules.values(), strict=True):
            x, y = line.get_data()
            assert (x[0], x[-1], len(x)) == (0, 1, schedule.n_steps)  # lengths differ: relative time
            np.testing.assert_allclose(y, getattr(schedule, quantity)(torch.arange(schedule.n_steps)))
        assert len({line.get_linestyle() for line in axes.lines}) == 2
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == list(schedules)


def test_schedules_of_one_length_are_drawn_against_the_step() -> None:
    figure = plotting.schedule_curves({"linear": LinearSchedule(50), "cosine": CosineSchedule(50)}, ["snr"])
    assert [line.get_xdata().tolist() for line in figure.axes[0].lines] == [list(range(50))] * 2
    assert figure.axes[0].get_xlabel() == "step $t$"


def test_no_schedule_is_dropped() -> None:
    figure = plotting.schedule_curves({str(n): LinearSchedule(n) for n in range(1, 11)}, ["snr"])
    assert len(figure.axes[0].lines) == 10


def test_unknown_quantities_and_nothing_to_draw_are_refused() -> None:
    with pytest.raises(ValueError, match=r"quantities out of alpha_bar, beta, snr, sigma, got logsnr"):
        plotting.schedule_curves({"linear": LinearSchedule(5)}, ["snr", "logsnr"])
    for schedules, quantities in (({}, ["snr"]), ({"linear": LinearSchedule(5)}, [])):
        with pytest.raises(ValueError, match="at least one schedule and one quantity"):
            plotting.schedule_curves(schedules, quantities)


def test_smoothing_is_the_weighted_mean_of_the_past() -> None:
    values, half_life = [3.0, -1.0, 4.0, 1.5], 2.0
    for n, smoothed in enumerate(plotting.smooth(values, half_life).tolist(), start=1):
        weights = [0.5 ** ((n - 1 - i) / half_life) for i in range(n)]
        expected = sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights)
        assert smoothed == pytest.approx(expected, rel=1e-6)
    assert plotting.smooth([2.0] * 5).tolist() == pytest.approx([2.0] * 5)
    assert plotting.smooth([]).tolist() == []
    with pytest.raises(ValueError, match="half_life > 0, got 0"):
        plotting.smooth(values, 0)


def test_loss_curves_show_smoothed_and_raw_values() -> None:
    histories = {"small": [1.0, 0.5, 0.25, 0.2], "large": [2.0, 1.0, 0.5, 0.4]}
    figure = plotting.loss_curves(histories, half_life=1.0, ylabel="loss per pixel")
    (axes,) = figure.axes
    assert (axes.get_yscale(), axes.get_ylabel(), axes.get_xlabel()) == ("log", "loss per pixel", "training step")
    for i, (name, values) in enumerate(histories.items()):
        smoothed, raw = axes.lines[2 * i : 2 * i + 2]
        np.testing.assert_allclose(smoothed.get_ydata(), plotting.smooth(values, 1.0))
        np.testing.assert_allclose(raw.get_ydata(), values)
        assert smoothed.get_label() == name
        assert smoothed.get_color() == raw.get_color()
        assert raw.get_alpha() < 0.5
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(histories)


def test_loss_curves_draw_into_given_axes_and_one_needs_no_legend() -> None:
    figure, (left, right) = plotting.new_figure(1, 2)
    assert plotting.loss_curves({"only": [1.0, 2.0]}, right, logy=False) is figure
    assert (len(left.lines), len(right.lines)) == (0, 2)
    assert right.get_yscale() == "linear"
    assert right.get_legend() is None


def test_every_exported_name_is_there() -> None:
    assert len(set(plotting.__all__)) == len(plotting.__all__)
    assert all(hasattr(plotting, name) for name in plotting.__all__)
