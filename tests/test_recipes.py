"""Tests of helpers.recipes: every recipe can be run, a tiny one is, and nothing is lost when it fails."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers import data, diffusion, recipes, samplers, training, zoo
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


@pytest.mark.parametrize("name", DIGITS)
def test_without_an_average_the_model_itself_is_measured_and_saved(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_digits: data.Split
) -> None:
    results, train = [], training.train
    monkeypatch.setattr(training, "train", lambda *a, **k: results.append(train(*a, **k)) or results[-1])
    monkeypatch.setitem(recipes.RECIPES, name, tiny(name))
    path = recipes.run(name, tmp_path, changes={"ema_half_life": None}, progress=False)
    model, card = zoo.load_file(path)
    assert card["config"]["ema_half_life"] is None
    assert set(card["metrics"]) == set(zoo.card(name)["metrics"])
    for key, value in results[0].model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


# ── other devices, other processes ────────────────────────────────────────


class Elsewhere(nn.Module):
    """Stands for a trained network on a device without numbers: it checks where pictures come, and answers here."""

    def __init__(self, answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.weight, self.answer = nn.Parameter(torch.zeros(1, device="meta")), answer

    def forward(self, x: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        assert x.device == self.weight.device
        return self.answer(x)


@pytest.mark.parametrize("name", DIGITS)
def test_batches_and_pictures_go_where_the_network_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_digits: data.Split
) -> None:
    """As with an accelerator, which moves the network alone. PyTorch refuses to mix the device "meta" with others."""
    answers = {
        "digits-classifier": lambda x: torch.zeros(len(x), 10),
        "digits-ddpm": lambda x: torch.zeros(x.shape),
        "digits-energy": lambda x: torch.zeros(len(x)),
    }

    def train(
        model: nn.Module, loss: training.LossFunction, examples: torch.Tensor, config: TrainingConfig, **options: Any
    ) -> training.TrainingResult:
        given = options.get("through", lambda whole: whole)(model.to("meta"))
        assert loss(given, examples[:4], torch.Generator()).device.type == "meta"
        return training.TrainingResult(zoo.build(tiny(name).architecture), Elsewhere(answers[name]), [1.0], [1.0])

    def sample(model: nn.Module, sampler: object, x_T: torch.Tensor, **_: object) -> torch.Tensor:
        return model(x_T)

    for name_ in ("simple_loss", "edm_loss"):  # which look at numbers
        monkeypatch.setattr(diffusion, name_, lambda model, x, *_: x.mean())
    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(samplers, "sample", sample)
    monkeypatch.setitem(recipes.RECIPES, name, tiny(name))
    monkeypatch.setattr(training, "save_checkpoint", lambda path, *_: path)
    assert recipes.run(name, tmp_path) == tmp_path / f"{name}.safetensors"


PAIR = """
import sys
from pathlib import Path

from helpers import recipes, training

folder, pictures = map(Path, sys.argv[1:])
common = {"n_steps": 4, "batch_size": 8, "warmup_steps": 0, "n_parts": 2}
network = {"channels": [64, 64], "blocks": [1, 1, 1, 1], "emb_channels": 16}
engine = training.accelerator(cpu=True) if training.is_launched() else None
assert (engine.num_processes if engine else 1) == {"one": 1, "two": 2}[folder.name]
recipes.run("digits-energy", folder, changes=common, accelerator=engine, progress=False)
changes = common | {"decay": "constant", "decay_steps": None, "ema_every": 2, "precision": "float32"}
job = {"images": pictures, "size": 8, "accelerator": engine, "progress": False}
recipes.run("cifar10-energy", folder, changes=changes, arguments=network, **job)
if engine:
    engine.end_training()
"""


def test_two_processes_train_an_energy_as_one_does(tmp_path: Path) -> None:
    """Its loss calls the denoiser inside it, and the gradients of both processes meet all the same.

    Sums in another order are all that differs: less than a hundredth of the way that the weights have gone.
    """
    pytest.importorskip("accelerate", reason="many processes need accelerate")
    (tmp_path / "pictures").mkdir()
    for k in range(6):
        pixels = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{k}.png")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    (tmp_path / "script.py").write_text(PAIR)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    for folder, start in {"one": [], "two": launcher}.items():
        done = subprocess.run(
            [sys.executable, *start, tmp_path / "script.py", tmp_path / folder, tmp_path / "pictures"],
            env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
    for name in ("digits-energy", "cifar10-energy"):
        (one, card), (two, other) = (zoo.load_file(tmp_path / n / f"{name}.safetensors") for n in ("one", "two"))
        assert other["metrics"]["final_loss"] == pytest.approx(card["metrics"]["final_loss"], rel=1e-4)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(card["config"]["seed"])
            fresh = zoo.build(card["architecture"])
        first, second, start = (nn.utils.parameters_to_vector(m.parameters()) for m in (one, two, fresh))
        assert (second - first).norm() < 0.01 * (first - start).norm()


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
