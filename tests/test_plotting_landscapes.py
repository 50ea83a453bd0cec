"""Tests of energy landscapes and of films of particles."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb

from helpers.plotting import COLORS, energy_2d, particle_frames, play_images


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def tilted(x: torch.Tensor) -> torch.Tensor:
    """Lowest at the right edge."""
    return x.square().sum(1) - 4 * x[:, 0] + 100


def test_shades_start_at_the_lowest_energy_and_go_up_in_units() -> None:
    axes = plt.figure().subplots()
    energy_2d(axes, tilted, extent=2.0, top=6, title="here")
    (shades,) = axes.collections
    assert list(shades.levels) == [0, 1, 2, 3, 4, 5, 6]
    assert axes.get_xlim() == axes.get_ylim() == (-2, 2)
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("here", "$x_1$", "$x_2$")
    red = shades.get_facecolor()[:, 0]  # the lower, the darker
    assert (red[1:] > red[:-1]).all()
    lowest, *_ = shades.get_paths()
    points = lowest.vertices
    assert ((points - [2, 0]) ** 2).sum(1).max() < 1.05  # E < 1 above the lowest: within 1 of (2, 0)


def test_walls_of_infinite_energy_are_left_white() -> None:
    axes = plt.figure().subplots()
    energy_2d(axes, lambda x: torch.where(x[:, 0] > 0, torch.inf, x.square().sum(1)), extent=2.0)
    (shades,) = axes.collections
    assert max(path.vertices[:, 0].max() for path in shades.get_paths() if len(path.vertices)) < 0.05


def test_an_energy_that_is_nowhere_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite somewhere"):
        energy_2d(plt.figure().subplots(), lambda x: torch.full((len(x),), torch.inf))


def test_no_room_for_a_shade_is_refused() -> None:
    with pytest.raises(ValueError, match="top >= 1"):
        energy_2d(plt.figure().subplots(), tilted, top=0.5)


def test_particles_are_where_they_should_be() -> None:
    trajectory = torch.tensor([[[0.0, 0.0], [9.0, 0.0]], [[-2.0, -2.0], [2.0, 2.0]], [[2.0, -2.0], [-1.0, 1.0]]])
    frames = particle_frames(tilted, trajectory, extent=2.0, size=41)
    assert frames.shape == (3, 1, 3, 41, 41)
    assert frames.min() >= -1
    assert frames.max() <= 1
    ink = torch.tensor(to_rgb(COLORS["vermilion"])) * 2 - 1
    drawn = [{tuple(p) for p in (f[0] - ink[:, None, None]).abs().amax(0).lt(1e-6).nonzero().tolist()} for f in frames]
    assert drawn[0] == {(20, 20), (20, 21), (19, 20), (19, 21)}  # rows count from the top; one particle is outside
    assert {(40, 0), (0, 40)} <= drawn[1]
    assert {(40, 40), (10, 10)} <= drawn[2]
    ground = particle_frames(tilted, torch.full((1, 1, 2), 9.0), extent=2.0, size=41)[0, 0]
    assert ground[0, 20, 40] < ground[0, 20, 0]  # dark where the energy is low
    assert play_images(frames).n_frames == 3


def test_other_trajectories_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(S, B, 2\)"):
        particle_frames(tilted, torch.zeros(3, 2))
