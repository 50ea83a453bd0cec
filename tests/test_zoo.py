"""Tests of helpers.zoo: what ships is complete, is what its card says, and is refused when tampered with."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import data, recipes, samplers, zoo
from helpers.schedules import CosineSchedule, LinearSchedule
from helpers.training import sha256

MAX_BYTES = 20_000_000
FIELDS = {
    "name",
    "summary",
    "architecture",
    "shape",
    "parameters",
    "schedule",
    "data",
    "config",
    "images_seen",
    "minutes",
    "metrics",
    "command",
    "limits",
    "versions",
    "sha256",
}
MORE_FIELDS = {"went_on_from", "sampling", "energy_quantiles", "energy_quantiles_train", "classes"}  # where they apply
each_model = pytest.mark.parametrize("name", zoo.available())


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped files in a folder where a test may spoil them."""
    for path in zoo.WEIGHTS.glob("digits-classifier.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    return tmp_path


def numbers(value: Any) -> Iterator[float]:
    """Every number in a nested card."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


# ── what ships ────────────────────────────────────────────────────────────


def test_the_course_s_models_ship_and_nothing_else_does() -> None:
    assert set(zoo.available()) <= set(recipes.RECIPES)
    assert {"digits-classifier", "digits-ddpm"} <= set(zoo.available())
    files = {path.name for path in zoo.WEIGHTS.iterdir() if path.is_file()} - {"__init__.py"}
    assert files == {f"{name}.{kind}" for name in zoo.available() for kind in ("safetensors", "json")}


@each_model
def test_card_is_complete(name: str) -> None:
    card = zoo.card(name)
    assert set(card) - MORE_FIELDS == FIELDS
    assert card["name"] == name
    assert card["command"].startswith(f"python -m helpers train {name}")
    assert re.fullmatch(r"[0-9a-f]{64}", card["sha256"])
    assert card["sha256"] == sha256(zoo.WEIGHTS / f"{name}.safetensors")
    for field in ("summary", "data", "limits"):
        assert len(card[field]) > 20
    assert card["metrics"]
    assert list(numbers(card["metrics"]))
    assert all(math.isfinite(number) for number in numbers(card))
    before = card["went_on_from"][-1]["images_seen"] if "went_on_from" in card else 0
    assert card["images_seen"] == before + card["config"]["n_steps"] * card["config"]["batch_size"] > 0
    assert set(card["versions"]) == {"helpers", "torch", "python"}


@each_model
def test_card_is_that_of_the_recipe(name: str) -> None:
    """What ships was made by the recipe as it stands: whoever changes a recipe trains anew.

    A long training may be at any point of its way, and go on from there with another rate: it may say so.
    """
    card, recipe = zoo.card(name), recipes.RECIPES[name]
    assert card["architecture"] == recipe.architecture
    assert card["schedule"] == recipe.schedule
    assert card["summary"] == recipe.summary
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in card["config"].items()}
    told = re.findall(r"--set (\w+)=", card["command"])
    open_ended = (
        {*told, "n_steps", "decay", "decay_steps", "warmup_steps", "learning_rate"} if recipe.own_images else set()
    )
    assert {k: v for k, v in config.items() if k not in open_ended} == {
        k: v for k, v in vars(recipe.config).items() if k not in open_ended
    }


@each_model
def test_weights_are_small_finite_float32_and_of_the_stated_size(name: str) -> None:
    assert (zoo.WEIGHTS / f"{name}.safetensors").stat().st_size <= MAX_BYTES
    model = zoo.load(name)
    parameters = list(model.parameters())
    assert sum(p.numel() for p in parameters) == zoo.card(name)["parameters"]
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in parameters)


@each_model
def test_loaded_models_are_for_use_not_for_training(name: str) -> None:
    model = zoo.load(name)
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    again = zoo.load(name)
    assert again is not model
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    fresh = zoo.build(zoo.card(name)["architecture"]).state_dict()
    assert any(not torch.equal(value, fresh[key]) for key, value in model.state_dict().items())  # trained, not random


# ── what the cards claim ──────────────────────────────────────────────────


def test_the_classifier_reproduces_its_accuracy() -> None:
    digits, metrics = data.digits(16), zoo.card("digits-classifier")["metrics"]
    correct = zoo.load("digits-classifier")(digits.test).argmax(1) == digits.test_labels
    assert len(correct) == metrics["n_test"]
    assert correct.double().mean().item() == pytest.approx(metrics["test_accuracy"], abs=1.5 / len(correct))
    assert metrics["test_accuracy"] > 0.97


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    """The samples that the digits model's card speaks of."""
    card = zoo.card("digits-ddpm")
    assert card["metrics"]["sampler"] == "DDIM, 50 steps, eta 0, seed 0, clip_x0 1.0"
    x_T = torch.randn(card["metrics"]["n_samples"], 1, 16, 16, generator=torch.Generator().manual_seed(0))
    sampler = samplers.DDIMSampler(zoo.schedule_of(card), 50)
    return samplers.sample(zoo.load("digits-ddpm"), sampler, x_T, clip_x0=1.0)


def test_the_digits_model_reproduces_its_distance(drawn: torch.Tensor) -> None:
    """Deterministic up to rounding, which 50 steps amplify: 5 %, or a hundredth of the way from a model to noise."""
    metrics = zoo.card("digits-ddpm")["metrics"]
    assert metrics["features"] == "digits-classifier"
    assert recipes.digit_distance(drawn) == pytest.approx(metrics["frechet_distance"], rel=0.05)
    held_out = recipes.digit_distance(data.digits(16).test)
    assert held_out == pytest.approx(metrics["frechet_distance_held_out"], rel=1e-3)


def test_digit_distance_orders_training_digits_model_and_noise(drawn: torch.Tensor) -> None:
    digits, generator = data.digits(16), torch.Generator().manual_seed(5)
    subset = digits.train[torch.randperm(len(digits.train), generator=generator)[: len(drawn)]]
    noise = torch.randn(drawn.shape, generator=generator).clamp(-1, 1)
    floor, model, ceiling = (recipes.digit_distance(images) for images in (subset, drawn, noise))
    assert floor < model < ceiling / 10
    assert model < 2 * recipes.digit_distance(digits.test)


def test_drawn_digits_look_like_all_ten_digits_to_the_classifier(drawn: torch.Tensor) -> None:
    """Nearly as sure of them as of real ones (label smoothing keeps both below 1), and far surer than of noise."""
    classifier = zoo.load("digits-classifier")
    noise = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(6)).clamp(-1, 1)
    real, made, none = (classifier(x).softmax(1).amax(1).mean() for x in (data.digits(16).test, drawn, noise))
    assert set(classifier(drawn).argmax(1).tolist()) == set(range(10))
    assert made > (real + none) / 2 > none + 0.2


# ── wrong names and damaged files ─────────────────────────────────────────


@pytest.mark.parametrize("ask", [zoo.card, zoo.load])
@pytest.mark.parametrize("name", ["no-such-model", "", "../weights/digits-ddpm", "digits-ddpm.json"])
def test_unknown_names_list_the_known_ones(ask: Any, name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"expected one of {', '.join(zoo.available())}, got {name!r}")):
        ask(name)


def test_an_empty_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    assert zoo.available() == []
    with pytest.raises(ValueError, match=r"\(none shipped\), got 'digits-ddpm'"):
        zoo.load("digits-ddpm")


@pytest.mark.parametrize("place", [0, 8, -1])
def test_tampered_weights_are_refused(copied: Path, place: int) -> None:
    path = copied / "digits-classifier.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"digits-classifier\.safetensors is not the file that .* \(SHA-256 differs\)"):
        zoo.load("digits-classifier")


def test_a_card_without_a_hash_or_with_another_is_refused(copied: Path) -> None:
    path = copied / "digits-classifier.json"
    card = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**card, "sha256": "0" * 64}))
    with pytest.raises(ValueError, match="SHA-256 differs"):
        zoo.load("digits-classifier")
    del card["sha256"]
    path.write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"digits-classifier\.json does not describe a checkpoint .*sha256"):
        zoo.load("digits-classifier")


def test_a_damaged_or_missing_card_is_named(copied: Path) -> None:
    path = copied / "digits-classifier.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"the card digits-classifier\.json is damaged"):
        zoo.load("digits-classifier")
    for text in ("[]", "{}", '{"architecture": {}}'):
        path.write_text(text)
        for read in (zoo.card, zoo.load):
            with pytest.raises(ValueError, match=r"the card digits-classifier\.json is damaged"):
                read("digits-classifier")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"digits-classifier\.json"):
        zoo.load("digits-classifier")


def test_the_card_is_not_taken_for_the_weights(copied: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a \.safetensors file, got .*digits-classifier\.json"):
        zoo.load_file(copied / "digits-classifier.json")


def test_weights_that_do_not_ship_or_do_not_fit_are_refused(copied: Path) -> None:
    with pytest.raises(ValueError, match=r"expected weights named 'model' in .*, found ema"):
        zoo.load("digits-classifier", weights="model")
    path = copied / "digits-classifier.json"
    card = json.loads(path.read_text("utf-8"))
    card["architecture"]["arguments"]["width"] = 32
    path.write_text(json.dumps(card))
    with pytest.raises(ValueError, match="does not fit this SmallClassifier"):
        zoo.load("digits-classifier")


@pytest.mark.parametrize("entries", [("shape",), ("images_seen", "minutes")])
def test_a_card_that_lacks_what_is_needed_says_what(copied: Path, entries: tuple[str, ...]) -> None:
    file = copied / "digits-classifier.safetensors"
    assert zoo.load_file(file, entries=entries)[1] == zoo.card("digits-classifier")
    card = {key: value for key, value in zoo.card("digits-classifier").items() if key not in entries}
    file.with_suffix(".json").write_text(json.dumps(card))
    wanted = f"expected {', '.join(entries)} in the card digits-classifier.json, got none: get both files anew"
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        zoo.load_file(file, entries=entries)
    if "shape" in entries:  # which every use needs
        with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
            zoo.load_file(file)


# ── architectures and schedules ───────────────────────────────────────────


def test_an_energy_is_built_around_the_same_network_as_a_denoiser() -> None:
    network = {"name": "FastUNet", "arguments": {"channels": [64, 64], "blocks": [1, 1, 1, 1], "emb_channels": 32}}
    around = {**network, "preconditioning": {"name": "EDM", "sigma_data": 0.5}}
    energy = zoo.build({**around, "energy": "inner-product"})
    x, sigma = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(2)
    assert energy(x, sigma).shape == (2,)
    assert energy.denoise(x, sigma).shape == x.shape
    names = {key.replace("denoiser.network.", "", 1) for key in energy.state_dict()}
    assert names == set(zoo.build(around).state_dict())
    for wrong in ({**network, "energy": "inner-product"}, {**around, "energy": "norm"}):
        with pytest.raises(ValueError, match="expected the energy inner-product beside a preconditioning, got"):
            zoo.build(wrong)


def test_build_makes_only_what_is_listed() -> None:
    model = zoo.build({"name": "TimeMLP", "arguments": {"dim": 3, "hidden": 8}})
    assert type(model).__name__ == "TimeMLP"
    assert model.dim == 3
    with pytest.raises(
        ValueError, match=r"expected one of CIFARNet, EnergyCNN, .*, SmallClassifier, TimeMLP, got 'system'"
    ):
        zoo.build({"name": "system", "arguments": {}})


@pytest.mark.parametrize("cls", [LinearSchedule, CosineSchedule])
def test_schedules_come_back_from_their_cards(cls: type) -> None:
    schedule = zoo.schedule_of({"schedule": {"name": cls.__name__, "arguments": {"n_steps": 40}}})
    assert type(schedule) is cls
    t = torch.arange(40)
    torch.testing.assert_close(schedule.alpha_bar(t), cls(40).alpha_bar(t))


def test_models_without_a_schedule_and_unknown_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a diffusion model, got digits-classifier, which has no noise"):
        zoo.schedule_of(zoo.card("digits-classifier"))
    with pytest.raises(ValueError, match=r"expected a schedule out of LinearSchedule, CosineSchedule, got 'Other'"):
        zoo.schedule_of({"schedule": {"name": "Other", "arguments": {}}})
