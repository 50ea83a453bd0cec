"""Tests of the command line: it does what it says, and wrong options cost nothing and leave nothing behind."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers import __main__ as command_line
from helpers import data, evaluation, generation, recipes, samplers, schedules, training, zoo
from helpers.__main__ import main
from helpers.training import TrainingDiverged

FAST = ["--steps", "2"]


def sample(out: Path, *options: str) -> int:
    return main(["sample", "digits-ddpm", *FAST, "--out", str(out), *options])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


# ── describe ──────────────────────────────────────────────────────────────


def test_describe_lists_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe"]) == 0
    lines = capsys.readouterr().out
    for recipe in recipes.RECIPES.values():
        shipped = "ships" if recipe.name in zoo.available() else "not shipped"
        assert f"{recipe.name}  ({shipped}; training: {recipe.expect})\n    {recipe.summary}\n" in lines


def test_describe_says_what_does_not_ship(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.RECIPES, "new", replace(recipes.RECIPES["digits-ddpm"], name="new"))
    assert main(["describe"]) == 0
    assert "new  (not shipped; training:" in capsys.readouterr().out


def test_describe_shows_one_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "digits-ddpm"]) == 0
    assert json.loads(capsys.readouterr().out) == zoo.card("digits-ddpm")


def test_describe_of_an_unknown_model_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "digit"]) == 2
    assert capsys.readouterr().err == f"error: expected one of {', '.join(zoo.available())}, got 'digit'\n"


# ── sample ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("n", "columns", "rows", "scale"), [(6, 2, 3, 1), (5, 2, 3, 3), (9, 3, 3, 4)])
def test_sample_writes_a_grid_of_the_right_size(
    n: int, columns: int, rows: int, scale: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "digits.png"
    assert sample(out, "--n", str(n), "--scale", str(scale)) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    picture = pixels(out)
    assert picture.shape == (scale * (17 * rows + 1), scale * (17 * columns + 1), 3)
    assert (picture[:scale] == 255).all()  # the frame
    assert picture[scale:-scale, scale:-scale].std() > 20  # digits inside
    assert [path.name for path in out.parent.iterdir()] == ["digits.png"]


def test_one_image_is_a_picture_of_its_own(tmp_path: Path) -> None:
    assert sample(tmp_path / "one.PNG", "--n", "1", "--scale", "2") == 0
    assert pixels(tmp_path / "one.PNG").shape == (32, 32, 3)


def test_the_same_seed_gives_the_same_file_and_another_another(tmp_path: Path) -> None:
    files = [tmp_path / f"{k}.png" for k in range(3)]
    for file, seed in zip(files, (3, 3, 4), strict=True):
        assert sample(file, "--n", "2", "--seed", str(seed)) == 0
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other


def test_a_picture_holds_what_the_library_draws(tmp_path: Path) -> None:
    assert sample(tmp_path / "a.png", "--n", "4", "--seed", "5", "--scale", "1") == 0
    x_T = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(5))
    schedule = zoo.schedule_of(zoo.card("digits-ddpm"))
    images = samplers.sample(zoo.load("digits-ddpm"), samplers.DDIMSampler(schedule, 2), x_T, clip_x0=1.0)
    np.testing.assert_array_equal(pixels(tmp_path / "a.png")[18:34, 18:34, 0], data.to_uint8(images)[3, 0])


def test_enlarging_repeats_pixels(tmp_path: Path) -> None:
    for scale in (1, 3):
        assert sample(tmp_path / f"{scale}.png", "--n", "5", "--scale", str(scale)) == 0
    small, large = pixels(tmp_path / "1.png"), pixels(tmp_path / "3.png")
    np.testing.assert_array_equal(large, small.repeat(3, axis=0).repeat(3, axis=1))


def test_a_film_shows_each_image_in_a_row_and_ends_with_it(tmp_path: Path) -> None:
    assert sample(tmp_path / "film.png", "--n", "2", "--film", "3", "--scale", "1") == 0
    assert sample(tmp_path / "grid.png", "--n", "2", "--scale", "1") == 0
    film, grid = pixels(tmp_path / "film.png"), pixels(tmp_path / "grid.png")
    assert film.shape == (2 * 17 + 1, 3 * 17 + 1, 3)
    for row in range(2):
        shown = film[1 + 17 * row : 17 + 17 * row, 35:51]
        column, line = row % round(2**0.5), row // round(2**0.5)
        np.testing.assert_array_equal(shown, grid[1 + 17 * line : 17 + 17 * line, 1 + 17 * column : 17 + 17 * column])


SCHEDULE = zoo.schedule_of(zoo.card("digits-ddpm"))
LEVELS = {
    "ddim-20": schedules.sigma_from_alpha_bar(
        SCHEDULE.alpha_bar(torch.tensor([*samplers.DDIMSampler(SCHEDULE, 20).timesteps, -1]))
    ),
    "karras-18": schedules.append_zero(schedules.karras_sigmas(18)),
    "annealed": torch.tensor([80.0, 80.0, 5.0, 0.1, 0.0]),
    "langevin": None,
}


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_a_film_shows_as_many_different_moments_as_it_was_asked_for(levels: torch.Tensor | None) -> None:
    """In order, from the first state to the last; a film of all states is all states."""
    length = 20 if levels is None else len(levels)
    drawn = generation.Drawn(torch.zeros(1), torch.zeros(length, 1), levels)
    for n in range(2, length + 1):
        moments = command_line._moments(drawn, n)
        assert len(moments) == n
        assert (moments.diff() > 0).all()
        assert (int(moments[0]), int(moments[-1])) == (0, length - 1)
    assert moments.tolist() == list(range(length))


def test_a_films_moments_are_evenly_spaced_in_noise_where_there_is_a_choice() -> None:
    share = torch.linspace(1, 0, 101, dtype=torch.float64).clamp(max=1 - 1e-9)
    drawn = generation.Drawn(torch.zeros(1), torch.zeros(101, 1), share / (1 - share**2).sqrt())
    assert command_line._moments(drawn, 5).tolist() == [0, 25, 50, 75, 100]


WRONG = {
    "n": (["--n", "0"], "expected --n from 1 to 1000, got 0"),
    "n-negative": (["--n", "-3"], "expected --n from 1 to 1000, got -3"),
    "n-large": (["--n", "100000000"], "expected --n from 1 to 1000, got 100000000"),
    "steps": (["--steps", "0"], "expected --steps from 1 to 1000, got 0"),
    "steps-large": (["--steps", "1001"], "expected --steps from 1 to 1000, got 1001"),
    "scale": (["--scale", "0"], "expected --scale from 1 to 32, got 0"),
    "seed": (["--seed", "-1"], "expected --seed from 0 to 2**63 - 1, got -1"),
    "seed-large": (["--seed", str(2**64)], "expected --seed from 0 to"),
    "film": (["--film", "1"], "expected --film from 2 to 3 (states of 2 steps), got 1"),
    "film-large": (["--film", "4"], "expected --film from 2 to 3 (states of 2 steps), got 4"),
    "pixels": (["--n", "1000", "--scale", "32"], "expected at most 80,000,000 pixels, got 304,153,600: lower --scale"),
    "pixels-film": (["--n", "1000", "--film", "3", "--scale", "16"], "pixels, got 226,317,312"),
    "solver": (["--solver", "heun"], "expected no solver: digits-ddpm is sampled by ddim, got 'heun'"),
    "class": (["--class", "²"], "expected no --class: digits-ddpm knows none, got '²'"),
}


WRONG_OF_CONTINUOUS = {
    "class": (["--class", "²"], "expected --class out of airplane, automobile"),
    "class-large": (["--class", "11"], "got '11'"),
    "film": (
        ["--solver", "annealed-langevin", "--steps", "9", "--film", "6"],
        "expected --film from 2 to 5 (states of 9 steps), got 6",
    ),
    "steps": (["--solver", "annealed-langevin", "--steps", "4"], "expected at least 5 steps of annealed Langevin"),
    "steps-large": (["--steps", "1001"], "expected --steps from 1 to 1000, got 1001"),
}


WRONG_OF_EACH = {
    f"{model}-{name}": (model, [*first, *options], message)
    for model, first, cases in (("digits-ddpm", FAST, WRONG), ("cifar10-edm", (), WRONG_OF_CONTINUOUS))
    for name, (options, message) in cases.items()
}


@pytest.mark.parametrize(("model", "options", "message"), WRONG_OF_EACH.values(), ids=WRONG_OF_EACH)
def test_wrong_options_are_explained_and_cost_nothing(
    model: str,
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zoo, "load", None)  # would fail: nothing may be computed
    assert main(["sample", model, "--out", str(tmp_path / "new" / "a.png"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: expected ")
    assert message in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.jpg", "a", "png"])
def test_other_endings_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(tmp_path / name) == 2
    assert "expected --out to end in .png" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_found_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "load", None)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("kept")
    assert sample(tmp_path / "folder.png") == 2
    assert "expected --out to be a file, got the folder" in capsys.readouterr().err
    assert sample(tmp_path / "file" / "a.png") == 2
    wanted = f"error: expected --out to be a file that can be written, got {tmp_path / 'file' / 'a.png'} ("
    assert capsys.readouterr().err.startswith(wanted)
    assert (tmp_path / "file").read_text() == "kept"

    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied", "/temporary")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    assert sample(tmp_path / "a.png") == 2
    wanted = f"error: expected --out to be a file that can be written, got {tmp_path / 'a.png'} (Permission denied)\n"
    assert capsys.readouterr().err == wanted


def test_a_failure_on_the_way_keeps_the_old_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.png"
    out.write_bytes(b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert sample(out, "--n", "1") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_an_interruption_is_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(samplers, "sample", interrupt)
    assert sample(tmp_path / "a.png") == 130
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_energy_is_sampled_by_langevin_dynamics(tmp_path: Path) -> None:
    card = {
        "name": "small-energy",
        "architecture": {"name": "EnergyCNN", "arguments": {"in_channels": 1, "size": 8, "width": 4}},
        "shape": [1, 8, 8],
        "sampling": {"steps": 5, "step_size": 0.01},
    }
    model = zoo.build(card["architecture"])
    path = training.save_checkpoint(tmp_path / "small-energy.safetensors", {"ema": model}, card)
    assert main(["sample", str(path), "--n", "2", "--film", "3", "--scale", "1", "--out", str(tmp_path / "a.png")]) == 0
    assert pixels(tmp_path / "a.png").shape == (2 * 9 + 1, 3 * 9 + 1, 3)
    drawn = generation.draw(model, zoo.load_file(path)[1], 2, return_states=True)
    assert len(drawn.states) == 6  # the card's five steps, and where they start
    assert torch.equal(drawn.states[0].abs() <= 1, torch.ones(2, 1, 8, 8, dtype=torch.bool))


def test_a_model_that_draws_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "digits-classifier", "--out", str(tmp_path / "a.png")]) == 2
    assert "expected a diffusion model, got digits-classifier" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ── evaluate ──────────────────────────────────────────────────────────────


def evaluate(*options: str, name: str = "cifar10-edm") -> int:
    return main(["evaluate", name, "--features", "means", "--n", "100", *options])


class Means(evaluation.Features):
    """Means over quarters of the pictures: features that cost nothing."""

    name = "means"
    label = "FD-means"
    n_features = 12
    protocol = "means over 16x16 patches"

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(images.float(), 16).flatten(1)


def noise_of(seed: int, n: int = 100) -> torch.Tensor:
    return 2 * torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> evaluation.Reference:
    """Noise, in place of the references that ship."""
    images = data.to_uint8(noise_of(0, 200))
    built = evaluation.build_reference(Means(), images, n_reduced=100, dimensions=8)[0]
    monkeypatch.setattr(evaluation, "load_reference", {"means": built}.__getitem__)
    monkeypatch.setattr(evaluation, "load_features", {"means": Means()}.__getitem__)
    return built


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures are noise, and the seeds they were drawn from are listed; seed 9 is an interruption."""
    seeds: list[int] = []

    def draw(model: nn.Module, card: dict[str, Any], n: int, *, seed: int, **_: Any) -> generation.Drawn:
        if seed == 9:
            raise KeyboardInterrupt
        seeds.append(seed)
        return generation.Drawn(noise_of(seed, n))

    monkeypatch.setattr(generation, "draw", draw)
    return seeds


def test_evaluate_writes_what_it_measures(
    reference: evaluation.Reference, noise: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "evaluation.json"
    assert evaluate("--seeds", "3", "1", "--steps", "7", "--out", str(out)) == 0
    result, card = json.loads(out.read_text("utf-8")), zoo.card("cifar10-edm")
    rows = []
    for seed in (3, 1):
        row = evaluation.evaluate_images(noise_of(seed), reference, features=Means(), labels=torch.arange(100) % 10)
        rows.append({"seed": seed, **row})
    assert result == {
        "benchmark": "evaluation",
        "model": {key: card[key] for key in ("name", "sha256", "images_seen", "minutes", "parameters")},
        "settings": {"n": 100, "steps": 7, "guidance": 1.0, "solver": "ipndm", "precision": "float32"},
        "rows": rows,
    }
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"seed 3  FD-means {rows[0]['frechet_distance']:.2f}  (N = 100)"
    assert printed[2] == f"wrote {out}"


def test_evaluate_pools_the_pictures_of_its_seeds(
    reference: evaluation.Reference, noise: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.json"
    assert evaluate("--seeds", "3", "1", "2", "--pooled", "150", "--out", str(out)) == 0
    result = json.loads(out.read_text("utf-8"))
    images, labels = torch.cat([noise_of(3), noise_of(1)[:50]]), torch.cat([torch.arange(100), torch.arange(50)]) % 10
    row = evaluation.evaluate_images(images, reference, features=Means(), labels=labels)
    assert result["pooled"] == [{"seeds": [3, 1], **row}]
    assert [row["seed"] for row in result["rows"]] == [3, 1, 2]
    assert noise == [3, 1, 2]  # nothing is drawn twice
    assert f"seeds 3, 1  FD-means {row['frechet_distance']:.2f}  (N = 150)" in capsys.readouterr().out


def test_evaluate_says_by_what_it_has_drawn(reference: evaluation.Reference, noise: list[int], tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    assert evaluate("--out", str(out), name="cifar10-ddpm") == 0
    assert json.loads(out.read_text("utf-8"))["settings"]["solver"] == "ddim"


def test_an_interrupted_evaluation_keeps_whole_seeds(
    reference: evaluation.Reference, noise: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.json"
    assert evaluate("--seeds", "9", "--out", str(out)) == 130
    assert capsys.readouterr().err == "interrupted: nothing was written\n"
    assert list(tmp_path.iterdir()) == []
    assert evaluate("--seeds", "0", "9", "2", "--out", str(out)) == 130
    assert capsys.readouterr().err == f"interrupted: {out} holds 1 of 3 seeds\n"
    kept = out.read_bytes()
    assert evaluate("--seeds", "0", "--out", str(out)) == 0
    assert out.read_bytes() == kept


WRONG_EVALUATIONS = {
    "shape": (["digits-ddpm"], "expected a model of pictures of shape [3, 32, 32], got digits-ddpm of [1, 16, 16]"),
    "classifier": (["cifarnet"], "expected a diffusion model, got cifarnet"),
    "features": (["cifar10-edm", "--features", "cifarnet", "vgg"], "expected a reference out of"),
    "reference": (["cifar10-edm", "--features", "inception"], "got 'inception'"),
    "n": (["cifar10-edm", "--n", "99"], "expected --n of at least 100, got 99"),
    "seed": (["cifar10-edm", "--seeds", "0", "-1"], "expected --seeds from 0 to 2**63 - 1, got -1"),
    "pooled-few": (["cifar10-edm", "--n", "500", "--pooled", "500"], "expected --pooled above --n and at most 500"),
    "pooled-many": (["cifar10-edm", "--seeds", "0", "1", "--pooled", "10001"], "at most 10000, all that is drawn"),
    "pooled-twice": (
        ["cifar10-edm", "--seeds", "4", "4", "--pooled", "9000"],
        "expected different --seeds for --pooled",
    ),
    "seed-large": (["cifar10-edm", "--seeds", str(2**63)], "expected --seeds from 0 to"),
    "steps": (["cifar10-edm", "--steps", "0"], "expected --steps from 1 to 1000, got 0"),
    "solver": (["cifar10-ebm", "--solver", "heun"], "expected no solver: cifar10-ebm is sampled by langevin"),
    "guidance": (["cifar10-ddpm", "--guidance", "2"], "expected no --guidance: cifar10-ddpm knows no classes"),
}


@pytest.mark.parametrize(("options", "message"), WRONG_EVALUATIONS.values(), ids=WRONG_EVALUATIONS)
def test_evaluate_refuses_before_it_draws(
    options: list[str], message: str, noise: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *options, "--out", str(tmp_path / "new" / "a.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: expected ")
    assert message in error
    assert noise == []
    assert list(tmp_path.iterdir()) == []


def test_evaluate_finds_what_is_missing_before_it_draws(
    reference: evaluation.Reference,
    noise: list[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert evaluate("--out", str(tmp_path)) == 2
    assert f"expected --out to be a file, got the folder {tmp_path}" in capsys.readouterr().err
    (tmp_path / "file").write_text("kept")
    assert evaluate("--out", str(tmp_path / "file" / "a.json")) == 2
    assert "expected --out to be a file that can be written" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "prdc", None)
    assert evaluate() == 2
    assert "pip install prdc" in capsys.readouterr().err
    assert noise == []


# ── train ─────────────────────────────────────────────────────────────────


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What ``recipes.run`` was asked for; nothing is trained."""
    calls: list[dict[str, Any]] = []

    def run(name: str, folder: Path, **options: Any) -> Path:
        calls.append({"name": name, "folder": folder, **options})
        return folder / "weights.safetensors"

    monkeypatch.setattr(recipes, "run", run)
    return calls


def test_train_runs_the_recipe_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[dict[str, Any]]
) -> None:
    assert main(["train", "digits-classifier", "--out", str(tmp_path)]) == 0
    command = "python -m helpers train digits-classifier"
    plain = {"changes": {}, "command": command, "accelerator": None}
    assert asked == [{"name": "digits-classifier", "folder": tmp_path, **plain}]
    assert capsys.readouterr().out == f"wrote {tmp_path / 'weights.safetensors'} and its card\n"


def test_train_hands_on_settings_pictures_and_weights(tmp_path: Path, asked: list[dict[str, Any]]) -> None:
    settings = ["n_steps=20", "learning_rate=1e-4", "precision=float32", "channels_last=false", "ema_half_life=none"]
    options = ["--set", *settings, "--images", "my/pictures", "--size", "48", "--start", "my/old.safetensors"]
    assert main(["train", "cifar10-edm", "--out", str(tmp_path), *options]) == 0
    assert asked[0]["changes"] == {
        "n_steps": 20,
        "learning_rate": 1e-4,
        "precision": "float32",
        "channels_last": False,
        "ema_half_life": None,
    }
    assert (asked[0]["images"], asked[0]["size"]) == (Path("my/pictures"), 48)
    assert asked[0]["start"] == Path("my/old.safetensors")
    assert asked[0]["command"] == (
        "python -m helpers train cifar10-edm --images pictures --start old.safetensors --size 48 "
        "--set n_steps=20 --set learning_rate=1e-4 --set precision=float32 "
        "--set channels_last=false --set ema_half_life=none"
    )


def parsed(command: str) -> argparse.Namespace:
    """What a command that people type means."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "helpers"]
    return command_line._parser().parse_args(words[3:])


def test_settings_may_be_given_one_by_one(asked: list[dict[str, Any]]) -> None:
    apart = ["--set", "n_steps=2", "--set", "warmup_steps=0", "precision=float32", "--set", "n_steps=3"]
    assert main(["train", "digits-classifier", *apart]) == 0
    assert asked[0]["changes"] == {"n_steps": 3, "warmup_steps": 0, "precision": "float32"}
    assert main(["train", "digits-classifier"]) == 0
    assert asked[1]["changes"] == {}  # nothing stays behind


def test_the_command_on_the_card_trains_the_same(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    """Typed again, with the shell's own reading of quotes, it asks for what it asked for."""
    settings = ["n_steps=20", "betas=(0.9, 0.99)", "precision=it's", "seed=$HOME", "warmup_steps=0"]
    options = ["--set", *settings, "--images", "my pictures", "--size", "48", "--start", "a;b.safetensors"]
    assert main(["train", "cifar10-edm", *options]) == 0
    again = parsed(asked[0]["command"])
    assert again.set == settings
    assert (again.images, again.size, again.start) == (Path("my pictures"), 48, Path("a;b.safetensors"))
    assert command_line._typed(again) == asked[0]["command"]


@pytest.mark.parametrize("name", zoo.available())
def test_the_commands_of_shipped_cards_name_the_settings_of_their_trainings(name: str) -> None:
    card = zoo.card(name)
    for stage in (card, *card.get("went_on_from", [])):
        options = parsed(stage["command"])
        settings = command_line._settings(options.set)
        assert len(settings) == stage["command"].count("--set")
        assert settings == {key: stage["config"][key] for key in settings}
        recipes.changed(recipes.RECIPES[options.name], settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "n_steps"], "expected --set SETTING=VALUE, got 'n_steps'"),
        (["--set", "steps=3"], "expected a setting out of n_steps, batch_size"),
        (["--set", "n_steps=0"], "expected n_steps to be an integer >= 1, got 0"),
        (["--set", "betas={[]:1}"], "betas"),
        (["--set", "precision=half"], "expected precision 'float32' or 'bfloat16', got 'half'"),
        (["--size", "30"], "expected --size divisible by 4, got 30"),
        (["--images", "x"], "digits-classifier has data of its own"),
    ],
)
def test_wrong_options_of_train_are_explained(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "digits-classifier", "--out", str(tmp_path / "new"), *options]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_train_reports_divergence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(recipe: recipes.Recipe, model: nn.Module, job: recipes.Job) -> None:
        raise TrainingDiverged("the loss is nan at step 3: lower the learning rate")

    recipe = replace(recipes.RECIPES["digits-classifier"], run=diverge)
    monkeypatch.setitem(recipes.RECIPES, "digits-classifier", recipe)
    assert main(["train", "digits-classifier", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: the loss is nan at step 3: lower the learning rate\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["digits-classifier", "cifarnet", "cifar10-edm"])
def test_an_interrupted_training_says_what_there_is(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "run", interrupt)
    assert main(["train", name, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted: nothing was written\n"
    state = training.Run(tmp_path / name).checkpoint
    state.touch()
    assert main(["train", name, "--out", str(tmp_path)]) == 130
    kept = f"interrupted: the state is kept in {tmp_path / name}, and the same command goes on\n"
    assert capsys.readouterr().err == kept


def test_train_into_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("kept")
    assert main(["train", "digits-classifier", "--out", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert (tmp_path / "runs").read_text() == "kept"


# ── the parser ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: command"),
        (["draw"], "invalid choice: 'draw'"),
        (["sample"], "required: name"),
        (["train", "no-such-recipe"], "invalid choice: 'no-such-recipe'"),
        (["sample", "digits-ddpm", "--n", "many"], "argument --n: invalid int value: 'many'"),
        (["sample", "digits-ddpm", "--count", "3"], "unrecognized arguments: --count"),
    ],
)
def test_arguments_that_cannot_be_read_exit_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_every_option_has_an_explanation() -> None:
    [commands] = [action for action in command_line._parser()._actions if isinstance(action.choices, dict)]
    for name, parser in commands.choices.items():
        for action in parser._actions:
            assert action.help or not action.option_strings, f"{name}: {action.dest}"


@pytest.mark.parametrize("command", [[], ["train"], ["sample"], ["describe"]])
def test_help_explains_every_option(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m helpers")
    if command == ["sample"]:
        assert all(f"--{option}" in text for option in ("n", "steps", "seed", "film", "scale", "out"))


def test_the_examples_in_the_help_are_right() -> None:
    """Every example parses, and what it sets a recipe accepts; a stale option would not."""
    lines = [line.strip() for line in command_line._parser().epilog.splitlines()]
    examples = [shlex.split(line.partition("-m helpers ")[2]) for line in lines if "-m helpers " in line]
    assert len(examples) == len(lines) - 1  # but for their heading
    for example in examples:
        options = command_line._parser().parse_args(example)
        if options.command == "train":
            recipes.changed(recipes.RECIPES[options.name], command_line._settings(options.set))


def test_it_runs_as_a_module() -> None:
    run = subprocess.run([sys.executable, "-m", "helpers", "describe", "x"], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("error: expected one of")
    assert run.stdout == ""
