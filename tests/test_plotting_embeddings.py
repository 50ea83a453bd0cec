"""Heat maps and clock hands: what is drawn is what was given."""

import math

import matplotlib.pyplot as plt
import pytest
import torch

from helpers import plotting
from helpers.nn import sinusoidal_embedding


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_heatmap_shows_time_to_the_right_and_dimensions_downwards():
    embedding = sinusoidal_embedding(torch.arange(20), 8)
    figure = plotting.embedding_heatmap({"halves": embedding, "again": embedding})
    for axis, title in zip(figure.axes, ("halves", "again"), strict=False):
        (image,) = axis.images
        assert axis.get_title() == title
        torch.testing.assert_close(torch.tensor(image.get_array().data), embedding.T)
        assert image.get_clim() == (-1, 1)


@pytest.mark.parametrize("embeddings", [{}, {"x": torch.zeros(3)}, {"x": torch.zeros(2, 3, 4)}])
def test_heatmap_refuses_what_is_no_matrix(embeddings):
    with pytest.raises(ValueError, match="expected"):
        plotting.embedding_heatmap(embeddings)


def test_hands_point_where_the_embedding_says():
    frequencies, times = torch.tensor([1.0, 0.01]), [0, 3, 500]
    figure = plotting.clock_hands(times, frequencies)
    assert len(figure.axes) == 6
    for axis, (omega, time) in zip(figure.axes, [(w, t) for w in (1.0, 0.01) for t in times], strict=True):
        x, y = axis.lines[1].get_xydata()[1]
        assert (x, y) == pytest.approx((math.cos(omega * time), math.sin(omega * time)), abs=1e-5)


@pytest.mark.parametrize(
    ("times", "frequencies"),
    [([], torch.ones(2)), ([1], torch.ones(7)), ([1], torch.ones(0)), ([1], torch.ones(2, 2))],
)
def test_hands_refuse_too_many_and_none(times, frequencies):
    with pytest.raises(ValueError, match="expected"):
        plotting.clock_hands(times, frequencies)
