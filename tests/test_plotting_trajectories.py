"""Tests of paths in one dimension and of the player for animations."""

from __future__ import annotations

import base64
import io
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from PIL import Image

from helpers.oracle import eight_gaussians, exact_eps_model, two_gaussians
from helpers.plotting import COLORS, paths_1d, play_images, shade_noised
from helpers.samplers import DDIMSampler, Trajectory, sample
from helpers.schedules import LinearSchedule

SCHEDULE = LinearSchedule(100, 1e-3, 0.2)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def run(n_steps: int = 10) -> Trajectory:
    x_T = torch.tensor([[-1.0], [0.0], [2.0]], dtype=torch.float64)
    model = exact_eps_model(two_gaussians(), SCHEDULE)
    return sample(model, DDIMSampler(SCHEDULE, n_steps), x_T, return_trajectory=True)


def test_paths_are_the_states_over_time_in_the_colour_of_their_end() -> None:
    trajectory = run()
    figure = paths_1d({"one": trajectory, "two": run(20)}, two_gaussians(), SCHEDULE)
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    first = figure.axes[0]
    assert first.get_xlim() == (99, -1)  # noise on the left
    assert first.get_xlabel()
    assert first.get_ylabel()
    assert len(first.lines) == 3
    for line, path in zip(first.lines, trajectory.x[:, :, 0].T, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), trajectory.timesteps)
        np.testing.assert_array_equal(line.get_ydata(), path)
        assert to_rgba(line.get_color()) == to_rgba(COLORS["blue" if path[-1] > 0 else "vermilion"])


def test_paths_and_shades_refuse_other_dimensions() -> None:
    flat = Trajectory(torch.zeros(3, 4, 2), torch.zeros(2, 4, 2), (5, 2, -1))
    with pytest.raises(ValueError, match=r"\(S \+ 1, B, 1\)"):
        paths_1d({"plane": flat}, two_gaussians(), SCHEDULE)
    with pytest.raises(ValueError, match="1 dimension, got 2"):
        shade_noised(plt.figure().subplots(), eight_gaussians(), SCHEDULE)


def frames_of(html: str) -> list[np.ndarray]:
    addresses = json.loads(re.search(r"const frames = (\[.*?\])", html)[1])
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(a.split(",")[1])))) for a in addresses]


def test_the_player_carries_every_frame_and_needs_nothing_from_outside() -> None:
    images = torch.linspace(-1, 1, 3 * 4 * 1 * 5 * 5).reshape(3, 4, 1, 5, 5)
    player = play_images(images, ["a", "b", "</script>"], columns=2, alt='a "test"')
    html = player._repr_html_()
    assert player.n_frames == 3
    assert "http" not in html
    assert html.count("</script>") == 1  # the caption does not end the script
    assert 'alt="a &quot;test&quot;"' in html
    frames = frames_of(html)
    assert [frame.shape for frame in frames] == [(13, 13)] * 3  # two rows of two images, gaps of 1 pixel around
    expected = ((images[0, 0, 0] + 1) / 2 * 255).round().numpy()
    np.testing.assert_array_equal(frames[0][1:6, 1:6], expected)


@pytest.mark.parametrize(("start", "caption"), [(None, "c"), (0, "a"), (1, "b"), (-3, "a")])
def test_the_player_shows_the_frame_it_is_told_to_at_first(start: int | None, caption: str) -> None:
    images = torch.linspace(-1, 1, 3).reshape(3, 1, 1, 1, 1).expand(3, 1, 1, 4, 4)
    html = play_images(images, ["a", "b", "c"], **({} if start is None else {"start": start})).html
    pictures = json.loads(re.search(r"const frames = (\[.*?\])", html)[1])
    assert re.search(r'src="(data:[^"]+)"', html)[1] == pictures["abc".index(caption)]
    assert f'value="{"abc".index(caption)}"' in html
    assert f">{caption}</span>" in html


@pytest.mark.parametrize("start", [3, -4])
def test_a_start_that_is_no_frame_is_refused(start: int) -> None:
    with pytest.raises(ValueError, match=f"start from -3 to 2, got {start}"):
        play_images(torch.zeros(3, 1, 1, 4, 4), start=start)


def test_colour_frames_stay_in_colour() -> None:
    images = torch.zeros(2, 1, 3, 4, 4)
    images[:, :, 0] = 1
    assert frames_of(play_images(images).html)[0].shape == (4, 4, 3)


def test_the_player_is_the_same_in_every_run_and_its_name_its_own() -> None:
    images = torch.rand(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    first, again, other = play_images(images), play_images(images), play_images(-images)
    assert first == again
    keys = [re.search(r'id="frame-(\w+)"', player.html)[1] for player in (first, other)]
    assert keys[0] != keys[1]
    assert "html" not in repr(first)  # what a text-only front end shows is short


def test_the_player_names_what_it_wants() -> None:
    with pytest.raises(ValueError, match="frames"):
        play_images(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="expected 2 captions, got 1"):
        play_images(torch.zeros(2, 1, 1, 4, 4), ["one"])
