"""Tests of helpers.recipes: every recipe can be run, a tiny one is, and nothing is lost when it fails."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers import data, recipes, training, zoo
from helpers.training import TrainingConfig, TrainingDiverged, load_checkpoint

TINY = TrainingConfig(n_steps=2, batch_size=4, ema_half_life=10, seed=7)


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> data.Split:
    """Forty digits to train on and ten to test on, so that a recipe runs in a second."""
    all_digits = data.digits

    def few(size: int) -> data.Split:
        digits = all_digits(size)
        return data.Split(digits.train[:40], digits.test[:10], digits.train_labels[:40], digits.test_labels[:10])

    monkeypatch.setattr(data, "digits", few)
    return few(16)


def tiny(name: str) -> recipes.Recipe:
    recipe = recipes.RECIPES[name]
    if name == "digits-ddpm":
        arguments = {**recipe.architecture["arguments"], "base_channels": 8, "time_emb_dim": 8}
        recipe = replace(recipe, architecture={**recipe.architecture, "arguments": arguments})
    return replace(recipe, config=TINY)


# ── the list ──────────────────────────────────────────────────────────────


def test_another_network_of_the_same_kind(
    few_digits: data.Split, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "digits-ddpm", tiny("digits-ddpm"))
    card = json.loads(
        recipes.run("digits-ddpm", tmp_path, arguments={"base_channels": 16}).with_suffix(".json").read_text()
    )
    assert card["architecture"]["arguments"] == {**tiny("digits-ddpm").architecture["arguments"], "base_channels": 16}


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_are_complete(name: str) -> None:
    recipe = recipes.RECIPES[name]
    assert recipe.name == name
    assert recipe.summary.endswith(".")
    assert recipe.expect
    assert isinstance(zoo.build(recipe.architecture), nn.Module)
    if recipe.schedule is not None:
        assert zoo.schedule_of({"schedule": recipe.schedule}).n_steps > 1
    json.dumps([recipe.architecture, recipe.schedule])  # fits a card


def test_unknown_recipes_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a recipe out of digits-classifier, digits-ddpm, .*, got 'digits'"):
        recipes.run("digits", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# ── a run ─────────────────────────────────────────────────────────────────


DIGITS = ["digits-classifier", "digits-ddpm", "digits-energy"]


@pytest.mark.parametrize("name", DIGITS)
def test_a_tiny_run_writes_weights_and_a_card_that_belong_together(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_digits: data.Split
) -> None:
    recipe = tiny(name)
    monkeypatch.setitem(recipes.RECIPES, name, recipe)
    path = recipes.run(name, tmp_path / "deep" / "runs")
    assert path == tmp_path / "deep" / "runs" / f"{name}.safetensors"
    assert sorted(p.name for p in path.parent.iterdir()) == [f"{name}.json", f"{name}.safetensors"]

    model = zoo.build(recipe.architecture)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    card = load_checkpoint(path, {"ema": model})
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert card["images_seen"] == 8
    assert card["config"]["seed"] == 7
    assert card["command"] == f"python -m helpers train {name}"
    assert set(card) == set(zoo.card(name))  # the same fields as those that ship
    assert set(card["metrics"]) == set(zoo.card(name)["metrics"])
    assert all(math.isfinite(v) for v in card["metrics"].values() if isinstance(v, float))


def test_the_seed_of_the_recipe_decides_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_digits: data.Split
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "digits-classifier", tiny("digits-classifier"))
    state = torch.random.get_rng_state()
    first = recipes.run("digits-classifier", tmp_path / "a").read_bytes()
    assert torch.equal(torch.random.get_rng_state(), state)  # and the global seed is left alone
    torch.rand(3)
    assert recipes.run("digits-classifier", tmp_path / "b").read_bytes() == first
    other = replace(tiny("digits-classifier"), config=replace(TINY, seed=8))
    monkeypatch.setitem(recipes.RECIPES, "digits-classifier", other)
    assert recipes.run("digits-classifier", tmp_path / "c").read_bytes() != first


# ── failures ──────────────────────────────────────────────────────────────


def never(*args: object, **kwargs: object) -> Any:
    raise AssertionError("the training began")


def test_a_folder_that_cannot_be_written_is_found_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "digits-ddpm", replace(tiny("digits-ddpm"), run=never))
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match="file"):
        recipes.run("digits-ddpm", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_missing_judge_is_found_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)  # no classifier there
    monkeypatch.setattr(training, "train", never)
    with pytest.raises(ValueError, match="got 'digits-classifier'"):
        recipes.run("digits-ddpm", tmp_path / "runs")


def test_a_training_that_diverges_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_digits: data.Split
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "digits-classifier", tiny("digits-classifier"))
    path = recipes.run("digits-classifier", tmp_path)
    content = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def diverge(recipe: recipes.Recipe, model: nn.Module, job: recipes.Job) -> recipes.Outcome:
        bad = few_digits.train * float("nan")
        return recipes.Outcome(training.train(model, lambda m, x, g: m(x).mean(), bad, recipe.config), {}, "", (1,))

    monkeypatch.setitem(recipes.RECIPES, "digits-classifier", replace(tiny("digits-classifier"), run=diverge))
    with pytest.raises(TrainingDiverged):
        recipes.run("digits-classifier", tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == content
    assert path.exists()


# ── the distance ──────────────────────────────────────────────────────────


def test_digit_distance_is_zero_for_the_training_digits_and_grows_with_noise() -> None:
    digits, generator = data.digits(16), torch.Generator().manual_seed(0)
    assert recipes.digit_distance(digits.train) < 1e-6
    noise = torch.randn(digits.test.shape, generator=generator)
    distances = [recipes.digit_distance((digits.test + s * noise).clamp(-1, 1)) for s in (0.0, 0.2, 0.4, 0.8, 1.6)]
    assert distances == sorted(distances)
    assert distances[-1] > 10 * distances[0]


@pytest.mark.parametrize("shape", [(10, 1, 8, 8), (10, 3, 16, 16), (1, 16, 16), (0, 1, 8, 8)])
def test_digit_distance_refuses_other_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected digits of shape \(N, 1, 16, 16\), got"):
        recipes.digit_distance(torch.zeros(shape))


def test_digit_distance_refuses_too_few_or_broken_images() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        recipes.digit_distance(torch.zeros(0, 1, 16, 16))
    with pytest.raises(ValueError, match="N >= 2"):
        recipes.digit_distance(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match="finite"):
        recipes.digit_distance(torch.full((3, 1, 16, 16), float("nan")))
