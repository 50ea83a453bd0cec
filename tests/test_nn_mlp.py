"""Tests of helpers.nn.mlp: networks without convolutions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from helpers.nn import ImageMLP, TimeMLP
from helpers.nn.embeddings import sinusoidal_embedding


def shaken(network: ImageMLP) -> ImageMLP:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) / 5
            )
    return network.double()


def test_pictures_are_points_and_times_are_scaled() -> None:
    """By hand, layer by layer."""
    network = shaken(ImageMLP((2, 3, 4), hidden=16, depth=2, time_emb_dim=8, time_scale=4.0))
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(5, 2, 3, 4, generator=generator).double(), torch.rand(5, generator=generator).double()
    h = torch.cat([x.reshape(5, 24), sinusoidal_embedding(4 * t, 8)], dim=1)
    first, second, last = (network.net.net[k] for k in (0, 2, 4))
    expected = last(F.silu(second(F.silu(first(h))))).reshape(5, 2, 3, 4)
    torch.testing.assert_close(network(x, t), expected, rtol=1e-12, atol=1e-12)
    assert isinstance(network.net, TimeMLP)


def test_an_untrained_network_answers_0() -> None:
    assert ImageMLP()(torch.randn(3, 1, 8, 8), torch.zeros(3)).abs().max() == 0


@pytest.mark.parametrize("shape", [(8, 8), (1, 0, 8), ()])
def test_a_shape_is_three_numbers(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a shape \(channels, height, width\) of numbers >= 1"):
        ImageMLP(shape)


@pytest.mark.parametrize(
    ("x", "t"), [((2, 1, 8, 7), (2,)), ((2, 64), (2,)), ((2, 1, 8, 8), (3,)), ((2, 1, 8, 8), (2, 1))]
)
def test_wrong_input_is_named(x: tuple[int, ...], t: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected x \(B, 1, 8, 8\) and t \(B,\), got"):
        ImageMLP()(torch.zeros(x), torch.zeros(t))
