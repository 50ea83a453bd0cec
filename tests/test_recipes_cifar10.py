"""Tests of the long recipes on small data: one command trains, goes on, starts warm, takes anybody's pictures."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images
from torch import nn

from helpers import data, diffusion, generation, recipes, training, zoo
from helpers.recipes import _pictures, energies
from helpers.training import TrainingDiverged

SMALL = {
    "cifar10-edm": {"n_classes": 10, "channels": [64, 64], "blocks": [1, 1, 1, 1], "emb_channels": 32},
    "cifar10-ddpm": {"base_channels": 8, "time_emb_dim": 8},
    "cifar10-energy": {"n_classes": 10, "channels": [64, 64], "blocks": [1, 1, 1, 1], "emb_channels": 32},
    "cifar10-ebm": {"width": 8},
}
each_recipe = pytest.mark.parametrize("name", SMALL)
CHANGES = {"n_steps": 4, "batch_size": 8, "warmup_steps": 1, "decay_steps": 2, "ema_every": 2, "ema_half_life": 20}
SHORT = {"n_steps": 2, "warmup_steps": 0}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks, and forty random pictures in place of CIFAR-10."""
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.randint(256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
        return images, torch.arange(n) % 10

    fake = data.CIFAR10(*split(40), *split(10))
    monkeypatch.setattr(data, "cifar10", lambda: fake)
    for name, arguments in SMALL.items():
        recipe = recipes.RECIPES[name]
        architecture = {**recipe.architecture, "arguments": arguments}
        monkeypatch.setitem(recipes.RECIPES, name, replace(recipe, architecture=architecture))


def run(name: str, folder: Path, changes: dict[str, Any] | None = None, **job: Any) -> Path:
    chosen = {**CHANGES, **(changes or {})}
    if recipes.RECIPES[name].config.decay == "constant":
        del chosen["decay_steps"]
    return recipes.run(name, folder, changes=chosen, progress=False, **job)


def card_of(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text("utf-8"))


@each_recipe
def test_weights_are_stored_in_half_precision_with_a_card_and_the_raw_ones_beside(name: str, tmp_path: Path) -> None:
    path = run(name, tmp_path)
    average, raw = load_file(path), load_file(tmp_path / "raw" / path.name)
    assert {key.split(".")[0] for key in average} == {"ema"}
    assert {key.split(".")[0] for key in raw} == {"model"}
    assert all(value.dtype == torch.float16 for value in average.values() if value.is_floating_point())
    card = card_of(path)
    assert card["images_seen"] == 32
    assert card["shape"] == [3, 32, 32]
    assert "SHA-256 of the pixels" in card["data"]
    assert np.isfinite(card["metrics"]["final_loss"])
    assert "went_on_from" not in card
    model, loaded = zoo.load_file(path)
    assert loaded == card
    assert generation.draw(model, card, 2, steps=2).images.shape == (2, 3, 32, 32)


@each_recipe
def test_the_same_command_goes_on_and_ends_where_an_uninterrupted_one_does(name: str, tmp_path: Path) -> None:
    whole = run(name, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        interrupt_at(2, name, tmp_path / "parts")
    assert not (tmp_path / "parts" / f"{name}.safetensors").exists()
    parts = run(name, tmp_path / "parts")
    assert parts.read_bytes() == whole.read_bytes()


def interrupt_at(step: int, name: str, folder: Path, **job: Any) -> None:
    """Run a recipe and press Ctrl-C when ``step`` steps are done."""
    import _thread

    original = training.train

    def train(*args: Any, callback: Any, **options: Any) -> Any:
        def press(done: int, result: Any) -> None:
            callback(done, result)
            if done == step:
                _thread.interrupt_main()

        return original(*args, callback=press, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", train)
        run(name, folder, **job)


@each_recipe
def test_a_warm_start_takes_raw_weights_average_and_count(name: str, tmp_path: Path) -> None:
    first = run(name, tmp_path / "first")
    second = run(name, tmp_path / "second", {**SHORT, "learning_rate": 1e-12}, start=first)
    before, after = load_file(first.parent / "raw" / first.name), load_file(second.parent / "raw" / second.name)
    for key, value in before.items():  # hardly moved, for the rate is tiny
        torch.testing.assert_close(after[key], value)
    card = card_of(second)
    assert card["images_seen"] == 32 + 16
    assert [stage["sha256"] for stage in card["went_on_from"]] == [card_of(first)["sha256"]]
    third = card_of(run(name, tmp_path / "third", SHORT, start=second))
    assert [stage["images_seen"] for stage in third["went_on_from"]] == [32, 48]
    assert third["images_seen"] == 64


@each_recipe
def test_a_warm_start_goes_on_from_the_average(name: str, tmp_path: Path) -> None:
    """Fewer steps than the average waits for leave it as it was, bit for bit."""
    first = run(name, tmp_path / "first")
    second = run(name, tmp_path / "second", {**SHORT, "ema_every": 8}, start=first)
    before, after = load_file(first), load_file(second)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(after[key], value), key


def test_weights_without_the_raw_ones_will_do_for_a_start(tmp_path: Path) -> None:
    first = run("cifar10-edm", tmp_path / "first")
    for file in (first.parent / "raw").iterdir():
        file.unlink()
    second = run("cifar10-edm", tmp_path / "second", {**SHORT, "learning_rate": 1e-12}, start=first)
    average, raw = load_file(first), load_file(second.parent / "raw" / second.name)
    for key, value in average.items():
        torch.testing.assert_close(raw[key.replace("ema.", "model.")], value)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Crops of the two photographs that ship with scikit-learn, as PNG files of another size."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, photograph in enumerate(load_sample_images().images):
        for row in range(3):
            crop = photograph[100 * row : 100 * row + 96, 150 : 150 + 96]
            Image.fromarray(np.ascontiguousarray(crop)).save(folder / f"{k}-{row}.png")
    return folder


@pytest.mark.parametrize("name", ["cifar10-edm", "cifar10-ddpm", "cifar10-energy"])
def test_the_same_command_trains_on_a_folder_of_pictures(name: str, tmp_path: Path, pictures: Path) -> None:
    path = run(name, tmp_path / "runs", {"batch_size": 6}, images=pictures, size=24)
    card = card_of(path)
    assert card["shape"] == [3, 24, 24]
    assert card["data"].startswith("6 pictures of a folder, at 24×24; SHA-256 ")
    assert generation.n_classes(card) == 0
    model, _ = zoo.load_file(path)
    assert generation.draw(model, card, 2, steps=2).images.shape == (2, 3, 24, 24)


def test_a_checkpoint_of_other_data_or_settings_is_refused_and_kept(tmp_path: Path, pictures: Path) -> None:
    run("cifar10-edm", tmp_path)
    checkpoint = tmp_path / "cifar10-edm" / "checkpoint.safetensors"
    content = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=r"is of another training .*batch_size"):
        run("cifar10-edm", tmp_path, {"batch_size": 4})
    with pytest.raises(ValueError, match=r"is of another training .*data"):
        run("cifar10-edm", tmp_path, images=pictures)
    assert checkpoint.read_bytes() == content


def test_more_steps_and_another_decay_go_on_from_the_same_checkpoint(tmp_path: Path) -> None:
    run("cifar10-edm", tmp_path, {"decay": "constant", "decay_steps": None})
    path = run("cifar10-edm", tmp_path, {"n_steps": 6, "decay_steps": 2})
    assert card_of(path)["images_seen"] == 48
    log = (tmp_path / "cifar10-edm" / "log.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["step"] for line in log] == [4, 6]


@each_recipe
def test_a_preview_is_drawn_on_the_way(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pictures, "PREVIEW_EVERY", 2)
    run(name, tmp_path)
    previews = sorted(path.name for path in (tmp_path / name).glob("*.png"))
    assert previews == ["samples-0000002.png", "samples-0000004.png"]


def test_a_training_that_diverges_keeps_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("cifar10-edm", tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(diffusion, "edm_loss", lambda model, *_, **__: next(model.parameters()).sum() * np.nan)
    with pytest.raises(TrainingDiverged):
        run("cifar10-edm", tmp_path, {"n_steps": 8})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept
    assert first in kept


@each_recipe
def test_settings_that_ship_make_sense(name: str) -> None:
    config = recipes.RECIPES[name].config
    assert config.precision == "bfloat16"
    assert config.channels_last
    assert config.ema_half_life == 500_000  # images, as Karras et al. (2022) have it
    assert recipes.changed(recipes.RECIPES[name], {"precision": "float32"}).config.precision == "float32"


@each_recipe
def test_fewer_steps_than_the_average_waits_for_ship_no_random_weights(name: str, tmp_path: Path) -> None:
    path = run(name, tmp_path, {"n_steps": 2, "ema_every": 8, "decay_steps": 1})
    average, raw = load_file(path), load_file(tmp_path / "raw" / path.name)
    for key, value in raw.items():
        torch.testing.assert_close(average[key.replace("model.", "ema.", 1)], value, rtol=2e-3, atol=1e-4)
    recipe = recipes.RECIPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.config.seed)
        random = zoo.build(recipe.architecture).state_dict()
    model, _ = zoo.load_file(path)
    assert any((value - random[key]).abs().max() > 1e-4 for key, value in model.state_dict().items())


@each_recipe
def test_without_an_average_the_model_itself_ships(name: str, tmp_path: Path) -> None:
    path = run(name, tmp_path, {"ema_half_life": None})
    average, raw = load_file(path), load_file(tmp_path / "raw" / path.name)
    assert {key.replace("ema.", "model.", 1) for key in average} == set(raw)
    for key, value in average.items():
        assert torch.equal(raw[key.replace("ema.", "model.", 1)], value)
    assert card_of(path)["config"]["ema_half_life"] is None
    assert card_of(run(name, tmp_path / "on", {**SHORT, "ema_half_life": None}, start=path))["images_seen"] == 48


def test_a_size_without_pictures_is_refused(tmp_path: Path) -> None:
    """It would do nothing, and stand on the card."""
    with pytest.raises(ValueError, match="expected --images with --size 64"):
        run("cifar10-edm", tmp_path / "runs", size=64)
    assert not (tmp_path / "runs").exists()


def test_pictures_of_a_folder_are_never_floats_all_at_once(tmp_path: Path, pictures: Path) -> None:
    config = recipes.RECIPES["cifar10-edm"].config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "from_uint8", None)
        patch.setattr(data.folder, "from_uint8", None)
        examples = _pictures.examples_of(recipes.Job(tmp_path, images=pictures, size=24), 3, config)
    assert torch.equal(examples.images, data.to_uint8(data.image_folder(pictures, 24)))
    digest = hashlib.sha256(examples.images.numpy().tobytes()).hexdigest()
    assert examples.words == f"6 pictures of a folder, at 24×24; SHA-256 {digest}"


# ── warm starts and their files ───────────────────────────────────────────


def test_raw_weights_of_another_training_are_refused(tmp_path: Path) -> None:
    first = run("cifar10-edm", tmp_path / "first")
    longer = run("cifar10-edm", tmp_path / "longer", {"n_steps": 6})
    for file in (longer.parent / "raw").iterdir():
        shutil.copy(file, first.parent / "raw")
    with pytest.raises(ValueError, match=r"expected .*raw.* same training as .*, got another images_seen and config: "):
        run("cifar10-edm", tmp_path / "second", SHORT, start=first)


def test_raw_weights_of_other_pictures_are_refused(tmp_path: Path, pictures: Path) -> None:
    first = run("cifar10-edm", tmp_path / "first", {"batch_size": 6}, images=pictures)
    shutil.copytree(pictures, tmp_path / "less")
    next((tmp_path / "less").rglob("*.png")).unlink()
    other = run("cifar10-edm", tmp_path / "other", {"batch_size": 6}, images=tmp_path / "less")
    for file in (other.parent / "raw").iterdir():
        shutil.copy(file, first.parent / "raw")
    with pytest.raises(ValueError, match=r"same training as .*, got another data"):
        run("cifar10-edm", tmp_path / "second", {**SHORT, "batch_size": 6}, start=first, images=pictures)


@pytest.mark.parametrize("last", [True, False])
def test_batches_lie_in_memory_as_the_network_wants_them(last: bool) -> None:
    config = replace(recipes.RECIPES["cifar10-ddpm"].config, channels_last=last)
    examples = _pictures.examples_of(recipes.Job(Path()), 3, config)
    images, _ = examples.batch(torch.arange(8), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert images.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def test_pictures_that_go_while_an_energy_is_trained_are_not_read_again(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = training.train

    def remove_pictures(*given: Any, **options: Any) -> Any:
        result = train(*given, **options)
        shutil.rmtree(pictures)
        return result

    monkeypatch.setattr(training, "train", remove_pictures)
    assert run("cifar10-energy", tmp_path / "out", {"batch_size": 6}, images=pictures).exists()


def test_the_card_names_the_changed_settings(tmp_path: Path) -> None:
    words = card_of(run("cifar10-edm", tmp_path))["command"].split()
    assert words[:5] == ["python", "-m", "helpers", "train", "cifar10-edm"]
    assert words[5:] == [word for key, value in CHANGES.items() for word in ("--set", f"{key}={value}")]


def test_weights_beyond_half_precision_are_stored_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = training.train

    def enlarge(*given: Any, **options: Any) -> Any:
        result = train(*given, **options)
        with torch.no_grad():
            next(result.model.parameters())[0] = 1e5
        return result

    monkeypatch.setattr(training, "train", enlarge)
    values = load_file(run("cifar10-edm", tmp_path)).values()
    assert {value.dtype for value in values} == {torch.float32}


@pytest.mark.parametrize("missing", ["images_seen", "minutes", "config", "command"])
def test_a_start_whose_card_lacks_an_entry_is_refused(tmp_path: Path, missing: str) -> None:
    first = run("cifar10-edm", tmp_path / "first")
    card = {key: value for key, value in card_of(first).items() if key != missing}
    first.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=rf"expected {missing} in the card cifar10-edm\.json, got none"):
        run("cifar10-edm", tmp_path / "second", SHORT, start=first)


def begin_from(start: Path, folder: Path) -> None:
    """Go on from weights, and be interrupted half way."""
    with pytest.raises(KeyboardInterrupt):
        interrupt_at(2, "cifar10-edm", folder, start=start)


def test_a_checkpoint_goes_on_although_the_weights_it_started_from_are_replaced_or_gone(tmp_path: Path) -> None:
    """The card still tells of those that it did start from, and every weight is as if nothing had been replaced."""
    first = run("cifar10-edm", tmp_path / "first")
    whole = run("cifar10-edm", tmp_path / "whole", start=first)
    wanted, begun_with = card_of(whole)["went_on_from"], card_of(first)["sha256"]
    begin_from(first, tmp_path / "replaced")
    begin_from(first, tmp_path / "gone")
    run("cifar10-edm", tmp_path / "other", {"n_steps": 5})
    for file in ("cifar10-edm.safetensors", "cifar10-edm.json", "raw/cifar10-edm.safetensors", "raw/cifar10-edm.json"):
        shutil.copy(tmp_path / "other" / file, tmp_path / "first" / file)
    with pytest.warns(UserWarning, match="is not what the checkpoint in .*replaced.* went on from: not used"):
        replaced = run("cifar10-edm", tmp_path / "replaced", start=first)
    for file in (first, first.with_suffix(".json")):
        file.unlink()
    gone = run("cifar10-edm", tmp_path / "gone", start=first)
    for path in (replaced, gone):
        assert path.read_bytes() == whole.read_bytes()
        assert card_of(path)["images_seen"] == card_of(whole)["images_seen"]
        assert card_of(path)["went_on_from"] == wanted
    assert [stage["sha256"] for stage in wanted] == [begun_with]


def test_a_checkpoint_that_knows_the_hash_of_its_start_alone_finds_it_among_the_stages_of_the_card(
    tmp_path: Path,
) -> None:
    """Checkpoints that tell no origin: from the file as it was, from its successor, and from no other."""
    first = run("cifar10-edm", tmp_path / "first")
    whole = run("cifar10-edm", tmp_path / "whole", start=first)
    for name, start in {"same": first, "successor": whole, "stranger": None}.items():
        begin_from(first, tmp_path / name)
        checkpoint = tmp_path / name / "cifar10-edm" / "checkpoint.safetensors"
        _forget_origin(checkpoint)
        if start is None:
            start = run("cifar10-edm", tmp_path / "other", {"n_steps": 5})
            with pytest.raises(ValueError, match=r"is of another training \(start: expected '\w+', got '\w+'\)"):
                run("cifar10-edm", tmp_path / name, start=start)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if name == "successor" else "error")
            path = run("cifar10-edm", tmp_path / name, start=start)
        assert path.read_bytes() == whole.read_bytes()
        assert card_of(path)["went_on_from"] == card_of(whole)["went_on_from"]
    with pytest.raises(ValueError, match=r"is of another training \(start: expected None, got '\w+'\)"):
        run("cifar10-edm", tmp_path / "whole", {"n_steps": 6})  # without its start it is another command


def _forget_origin(checkpoint: Path) -> None:
    with safe_open(checkpoint, "pt") as file:
        state = json.loads(file.metadata()["state"])
    del state["origin"], state["state_checksum"]
    save_file(load_file(checkpoint), checkpoint, {"state": json.dumps(state)})


# ── other devices ─────────────────────────────────────────────────────────


def test_pictures_whose_energies_go_on_the_card_go_where_the_network_is() -> None:
    class Elsewhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, device="meta"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.device == self.weight.device
            return torch.arange(float(len(x)))

    assert energies.energy_quantiles(Elsewhere(), data.cifar10().test, n=3) == [0.0, 3.0, 6.0, 9.0]


# ── energies ──────────────────────────────────────────────────────────────


def test_an_energy_starts_from_the_weights_of_a_denoiser(tmp_path: Path) -> None:
    first = run("cifar10-edm", tmp_path / "first")
    second = run("cifar10-energy", tmp_path / "second", {**SHORT, "learning_rate": 1e-12}, start=first)
    before = load_file(first.parent / "raw" / first.name)
    after = load_file(second.parent / "raw" / second.name)
    assert {key.replace("model.", "model.denoiser.network.") for key in before} == set(after)
    for key, value in before.items():
        torch.testing.assert_close(after[key.replace("model.", "model.denoiser.network.")], value)
    third = run("cifar10-energy", tmp_path / "third", SHORT, start=second)
    assert [stage["images_seen"] for stage in card_of(third)["went_on_from"]] == [32, 48]


def test_chains_go_on_where_they_were_and_their_energies_are_logged(tmp_path: Path) -> None:
    whole = run("cifar10-ebm", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        interrupt_at(2, "cifar10-ebm", tmp_path / "parts")
    parts = run("cifar10-ebm", tmp_path / "parts")
    assert load_file(whole).keys() == load_file(parts).keys()
    for key, value in load_file(whole).items():
        assert torch.equal(load_file(parts)[key], value), key
    log = [json.loads(line) for line in (tmp_path / "parts" / "cifar10-ebm" / "log.jsonl").read_text().splitlines()]
    assert {"energy_data", "energy_model", "loss", "grad_norm"} <= set(log[-1])
    card = card_of(parts)
    assert {"energy_data", "energy_model"} <= set(card["metrics"])
    quantiles = torch.tensor(card["energy_quantiles"], dtype=torch.float64)
    assert bool((quantiles.diff() >= 0).all())
    model, _ = zoo.load_file(parts)
    energies = model(data.from_uint8(data.cifar10().test)).double()
    torch.testing.assert_close(quantiles[[0, -1]], torch.stack([energies.min(), energies.max()]), rtol=1e-2, atol=1e-5)
    first = model(data.from_uint8(data.cifar10().train[: len(energies)])).double()
    seen = torch.tensor(card["energy_quantiles_train"], dtype=torch.float64)
    torch.testing.assert_close(seen[[0, -1]], torch.stack([first.min(), first.max()]), rtol=1e-2, atol=1e-5)


def test_a_finished_energy_writes_the_same_card_again(tmp_path: Path) -> None:
    first = card_of(run("cifar10-ebm", tmp_path))["metrics"]
    assert card_of(run("cifar10-ebm", tmp_path))["metrics"] == first


def test_chains_that_diverge_are_a_training_that_diverges(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        run("cifar10-ebm", tmp_path, {"learning_rate": 1e30, "grad_clip": None, "warmup_steps": 0})


def test_a_small_energy_takes_pictures_of_its_own_size_only(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(ValueError, match=r"expected pictures of shape \(3, 32, 32\), got \(3, 24, 24\)"):
        run("cifar10-ebm", tmp_path, {"batch_size": 6}, images=pictures, size=24)
    assert run("cifar10-ebm", tmp_path / "32", {"batch_size": 6}, images=pictures).exists()
