"""Pictures of networks: what is drawn is what was given, and wrong shapes are refused."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from helpers import plotting


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


STAGES = [
    plotting.Stage("stem", "Conv2d", (8, 16, 16)),
    plotting.Stage("smaller", "Conv2d", (8, 8, 8)),
    plotting.Stage("middle", "ResidualBlock", (16, 8, 8)),
    plotting.Stage("larger", "ConvTranspose2d", (16, 16, 16)),
    plotting.Stage("out", "Conv2d", (1, 16, 16)),
]


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (4, 2, 1), (5, 3, 0)])
def test_placements_are_as_many_as_the_convolution_has_outputs(kernel, stride, padding):
    sizes = [7, 8, 11]
    figure = plotting.conv_placements(sizes, kernel, stride, padding)
    for axis, size in zip(figure.axes, sizes, strict=True):
        layer = torch.nn.Conv1d(1, 1, kernel, stride, padding)
        starts = [line.get_xdata()[0] for line in axis.lines]
        assert len(starts) == layer(torch.zeros(1, 1, size)).shape[-1]
        assert starts == pytest.approx([stride * i - padding + 0.08 for i in range(len(starts))])


@pytest.mark.parametrize(("size", "unused"), [(8, [8]), (7, []), (9, [])])
def test_cells_that_no_output_uses_are_hatched(size, unused):
    [axis] = plotting.conv_placements([size], kernel=3, stride=2, padding=1).axes
    assert [int(patch.get_x()) for patch in axis.patches if patch.get_hatch()] == unused
    assert [text.get_text() for text in axis.texts].count("pad") == 2


def test_placements_refuse_rows_shorter_than_the_kernel():
    with pytest.raises(ValueError, match="at least 3 pixels, got 2"):
        plotting.conv_placements([8, 2], kernel=5, stride=1, padding=1)


def test_attention_map_shows_the_row_of_its_query():
    weights = torch.softmax(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)), dim=1)
    figure = plotting.attention_maps(torch.zeros(3, 4), weights, [(1, 2), (0, 0)], ["one", "two"])
    maps = [axis for axis in figure.axes if axis.get_title() in ("one", "two")]
    for axis, row in zip(maps, (6, 0), strict=True):
        shown = torch.from_numpy(axis.images[0].get_array().data)
        torch.testing.assert_close(shown, weights[row].reshape(3, 4))


@pytest.mark.parametrize(
    ("image", "weights", "queries", "labels", "message"),
    [
        (torch.zeros(1, 3, 4), torch.zeros(12, 12), [(0, 0)], (), r"shape \(H, W\)"),
        (torch.zeros(3, 4), torch.zeros(12, 11), [(0, 0)], (), r"\(12, 12\), got \(12, 11\)"),
        (torch.zeros(3, 4), torch.zeros(12, 12), [], (), "1 to 4 queries, got 0"),
        (torch.zeros(3, 4), torch.zeros(12, 12), [(0, 0)], ("a", "b"), "1 labels, got 2"),
    ],
)
def test_attention_maps_refuse_what_does_not_fit(image, weights, queries, labels, message):
    with pytest.raises(ValueError, match=message):
        plotting.attention_maps(image, weights, queries, labels)


def test_receptive_field_hides_exact_zeros_and_draws_the_square():
    gradient = torch.zeros(9, 9)
    gradient[3:6, 3:6] = 2.0
    figure = plotting.receptive_fields({"three": gradient, "free": torch.ones(9, 9)}, {"three": 3}, centre=(4, 4))
    shown = figure.axes[0].images[0].get_array()
    assert shown.mask.sum() == 81 - 9
    assert shown.max() == pytest.approx(1.0)
    squares = [[p for p in axis.patches if isinstance(p, Rectangle)] for axis in figure.axes[:2]]
    assert [len(s) for s in squares] == [1, 0]
    assert squares[0][0].get_bbox().bounds == (2.5, 2.5, 3, 3)
    with pytest.raises(ValueError, match=r"shape \(H, W\)"):
        plotting.receptive_fields({"three": gradient[None]}, {}, centre=(4, 4))


def test_diagram_draws_each_stage_and_each_way():
    figure = plotting.unet_diagram(STAGES, skips=[("stem", "out")])
    axis = figure.axes[0]
    assert sum(isinstance(patch, FancyBboxPatch) for patch in axis.patches) == 5
    assert sum(isinstance(patch, FancyArrowPatch) for patch in axis.patches) == 4 + 1
    texts = {text.get_text(): text.get_position() for text in axis.texts}
    assert {"stem", "middle", "8×16×16", "16×8×8"} <= set(texts)
    assert texts["stem"][0] == texts["smaller"][0]  # a change of resolution is a step down in the same column
    assert texts["stem"][1] == texts["out"][1] > texts["middle"][1]


def test_diagram_refuses_unknown_names():
    with pytest.raises(ValueError, match="nowhere"):
        plotting.unet_diagram(STAGES, skips=[("stem", "nowhere")])
    with pytest.raises(ValueError, match="got 0"):
        plotting.unet_diagram([])


@pytest.mark.parametrize("query", [(0, 7), (-1, 0), (9, 9)])
def test_a_query_outside_of_the_image_is_refused(query):
    weights = torch.full((12, 12), 1 / 12)
    with pytest.raises(ValueError, match="expected queries inside of 3 × 4"):
        plotting.attention_maps(torch.zeros(3, 4), weights, [query])


def test_no_gradient_makes_no_figure():
    with pytest.raises(ValueError, match="at least one gradient"):
        plotting.receptive_fields({}, {}, (0, 0))
