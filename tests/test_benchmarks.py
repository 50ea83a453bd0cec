"""Tests of the benchmark scripts: equal cost, fair turns, honest tables, and small runs of each script."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from _notebooks import ROOT
from torch import Tensor, nn

from helpers import data, evaluation, recipes
from helpers.diffusion import EDMPrecond

SCRIPTS = (
    "common",
    "training_throughput",
    "sampling",
    "quality_at_equal_time",
    "contrastive_settings",
    "few_evaluations",
    "table",
)


def scripts() -> Iterator[ModuleType]:
    """The scripts as modules; they find each other because Python puts a script's own folder on its path."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield from [importlib.import_module(name) for name in SCRIPTS]
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


common, throughput, sampling, quality, contrastive, few, table = scripts()


def needs(contender: Any) -> None:
    if common.installed(contender) is None:
        pytest.skip(f"{contender.package} is not installed: pip install {contender.package}")


each_model = pytest.mark.parametrize("contender", common.MODELS.values(), ids=lambda contender: contender.name)


# --- networks


@pytest.fixture(scope="module")
def ours() -> int:
    contender = common.MODELS[common.OURS]
    return common.forward_flops(contender, contender.make())


@each_model
def test_peers_cost_what_ours_costs(contender: Any, ours: int) -> None:
    needs(contender)
    flops = common.forward_flops(contender, contender.make())
    if contender.equal_flops:
        assert flops == pytest.approx(ours, rel=0.1)
    else:
        assert flops > 1.1 * ours  # or it should be called equal


@each_model
def test_networks_answer_and_learn(contender: Any) -> None:
    """One evaluation has the shape of the images, and the loss reaches almost every parameter."""
    needs(contender)
    model = contender.make()
    x, label = common.images(2)
    assert contender.evaluate(model, x, label).shape == x.shape
    contender.loss(model, x, label, torch.Generator().manual_seed(0)).backward()
    reached = sum(p.numel() for p in model.parameters() if p.grad is not None)
    assert reached > 0.95 * sum(p.numel() for p in model.parameters())


def test_flops_are_two_for_each_multiply_add() -> None:
    """A 3 × 3 convolution from 3 to 8 channels at 32 × 32 makes 32² · 8 · 27 multiply-adds."""
    contender = common.Contender("conv", "", None, lambda: None, denoiser=False)

    class Convolution(nn.Conv2d):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x)

    assert common.forward_flops(contender, Convolution(3, 8, 3, padding=1)) == 2 * 32**2 * 8 * 27


def test_flops_of_fused_attention_are_counted() -> None:
    """QKᵀ and the product with V: 2 · 2 · n² · d for n tokens of d numbers."""
    contender = common.Contender("attention", "", None, lambda: None, denoiser=False)

    class Attention(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            tokens = x.reshape(1, 1, 96, 32)
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).reshape(x.shape)

    assert common.forward_flops(contender, Attention()) == 4 * 96**2 * 32


def test_a_peer_of_another_cost_is_refused() -> None:
    small = common.Contender("small", "", None, lambda: common.SimpleUNet(base_channels=8))
    with pytest.raises(ValueError, match=r"expected small to cost .* GFLOP ± 10%"):
        common.describe([small])


def test_a_missing_peer_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = common.Contender("gone", "", "no-such-package", lambda: None)
    monkeypatch.setitem(common.MODELS, "gone", gone)
    chosen, skipped = common.usable(["gone", common.OURS])
    assert [contender.name for contender in chosen] == [common.OURS]
    assert skipped == {"gone": "no-such-package is not installed"}
    with pytest.raises(ValueError, match="no-such-package is not installed"):
        common.usable(["gone"])
    with pytest.raises(ValueError, match="expected models out of"):
        common.usable(["unknown"])


def test_making_a_network_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    first = common.MODELS["simple-unet"].make()
    second = common.MODELS["simple-unet"].make()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# --- timing


def test_tasks_take_turns_and_each_has_the_yardstick_before_and_after() -> None:
    calls, now = [], [0.0]

    def task(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls.append(name)
            now[0] += seconds

        return run

    def reference() -> float:
        calls.append("=")
        now[0] += 100.0  # must be in nobody's time
        return float(calls.count("="))

    seen = []
    timings = common.interleave(
        {"a": task("a", 1.0), "b": task("b", 2.0)},
        2,
        reference=reference,
        clock=lambda: now[0],
        after_round=lambda done, _: seen.append(done),
    )
    assert "".join(calls) == "ab" + "=a=b=" * 2  # one warm-up, and then the rounds
    assert timings.seconds == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    assert timings.reference == {"a": [1.5, 4.5], "b": [2.5, 5.5]}
    assert seen == [1, 2]


@pytest.mark.parametrize(("names", "rounds"), [("", 1), ("a", 0)])
def test_nothing_to_time_is_refused(names: str, rounds: int) -> None:
    with pytest.raises(ValueError, match="expected tasks, at least one round"):
        common.interleave({name: lambda: None for name in names}, rounds)


def test_medians_and_quartiles() -> None:
    assert common.summary([5.0, 1.0, 2.0, 3.0, 4.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    assert common.summary([7.0]) == {"median": 7.0, "q1": 7.0, "q3": 7.0}
    with pytest.raises(ValueError, match="at least one value"):
        common.summary([])


def test_the_matrix_product_counts_its_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock says 0, 1, 2, 3 …: three products, of 2 · 16³ operations each, until four seconds have gone by."""
    yardstick = common.MatrixProduct(16, seconds=0.0)
    yardstick.seconds = 4.0
    ticks = iter(range(100))
    monkeypatch.setattr(common.time, "perf_counter", lambda: next(ticks))
    assert yardstick() == 2 * 16**3 * 3 / 4


def test_rates_are_relative_to_the_yardstick() -> None:
    """10 images a second at 2 GFLOP make 60 GFLOP/s in training: 0.6 of a product at 100 GFLOP/s."""
    models = {common.OURS: {"gflop": 1.0}, "peer": {"gflop": 2.0}}
    timings = common.Timings({"peer|fp32": [0.8]}, {"peer|fp32": [1e11]})
    [row] = throughput.rows(timings, models, batch_size=4, n_steps=2)
    assert row["images_per_second"]["median"] == pytest.approx(10)
    assert row["flops_per_second"]["median"] == pytest.approx(60e9)
    assert row["share_of_matrix_product"]["median"] == pytest.approx(0.6)
    assert row["at_equal_flops"]["median"] == pytest.approx(20)


# --- loops


class Curved(nn.Module):
    """A small network whose answers depend on everything it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        shift = t.reshape(-1, 1, 1, 1) / (1 if t.is_floating_point() else 1000)
        return torch.tanh(self.conv(x)) + shift


@pytest.mark.parametrize(
    ("loop", "peer", "denoiser"), [("dpmpp2m", "diffusers-dpmpp2m", True), ("ddim", "diffusers-ddim", False)]
)
@pytest.mark.parametrize("n", [10, 20])
def test_both_loops_draw_the_same_images(loop: str, peer: str, denoiser: bool, n: int) -> None:
    """So what is compared is the same work."""
    pytest.importorskip("diffusers", reason="needs diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Curved()
    model = EDMPrecond(network) if denoiser else network
    noise, label = common.images(2)
    own, other = (sampling.LOOPS[name][2](model, noise, label, n) for name in (loop, peer))
    torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", list(sampling.LOOPS))
@pytest.mark.parametrize("n", [10, 18])
def test_each_loop_asks_the_network_as_often_as_it_says(name: str, n: int) -> None:
    if name.startswith("diffusers"):
        pytest.importorskip("diffusers", reason="needs diffusers")
    _, denoiser, loop = sampling.LOOPS[name]
    idle = sampling.IdleNetwork()
    noise, label = common.images(1)
    assert loop(EDMPrecond(idle) if denoiser else idle, noise, label, n).shape == noise.shape
    assert idle.calls == n


# --- quality at equal time


def test_variants_are_recipes_with_changes_that_fit() -> None:
    for variant in quality.VARIANTS.values():
        for n_steps in (5, 2000, 100_000):
            config = recipes.changed(recipes.RECIPES[variant.recipe], quality.settings_for(variant, n_steps)).config
            assert config.n_steps == n_steps
            assert config.warmup_steps <= n_steps / 10
    fast = quality.VARIANTS["fast-unet"]
    config = recipes.changed(recipes.RECIPES[fast.recipe], quality.settings_for(fast, 3000)).config
    assert config.learning_rate_at(2999) < 1e-5 * config.learning_rate_at(300)


def test_a_step_is_timed_by_the_difference_of_two_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds that both trainings need do not count."""
    monkeypatch.setattr(quality, "_timed_run", lambda variant, n: {"wall": 10 + 2.0 * n, "cpu": 10 + 1.5 * n})
    variant = quality.VARIANTS["fast-unet"]
    assert quality.calibrate(variant, 20) == {"wall": 2.0, "cpu": 1.5}
    monkeypatch.setattr(quality, "_timed_run", lambda variant, n: {"wall": 1.0, "cpu": 1.0})
    with pytest.raises(ValueError, match="raise --calibrate"):
        quality.calibrate(variant, 20)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings, pictures and distances that take no time; the names of what was called, in order."""
    calls: list[str] = []

    def run_recipe(name: str, folder: Path, *, changes: dict[str, Any], arguments: object, command: str) -> Path:
        calls.append(f"train {name} {changes['n_steps']}")
        path = Path(folder) / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        card = {"images_seen": 128, "minutes": 1.0, "sha256": "0" * 64, "parameters": 7, "config": {}}
        path.with_suffix(".json").write_text(json.dumps({**card, "metrics": {"final_loss": 0.5}}))
        return path

    def draw(variant: Any, folder: Path, n: int, seed: int, path: str) -> Tensor:
        calls.append(f"draw {variant.recipe} {seed}")
        return torch.zeros(n, 3, 32, 32, dtype=torch.uint8)

    def evaluate(
        images: Tensor, space: str, *, features: Any, labels: Tensor | None, classifier: Any
    ) -> dict[str, Any]:
        row = {"features": space, "label": f"FD-{space}", "n": len(images), "frechet_distance": 100.0}
        return row | ({} if labels is None else {"class_accuracy": 0.5})

    monkeypatch.setattr(quality.recipes, "run", run_recipe)
    monkeypatch.setattr(quality, "draw", draw)
    monkeypatch.setattr(quality, "calibrate", lambda variant, n: {"wall": 2.0, "cpu": 1.0})
    monkeypatch.setattr(evaluation, "load_features", lambda name: None)
    monkeypatch.setattr(evaluation, "load_reference", lambda name: None)
    monkeypatch.setattr(evaluation, "shipped_cifarnet", lambda: None)
    monkeypatch.setattr(evaluation, "evaluate_images", evaluate)
    return calls


def compare(folder: Path, *options: str) -> int:
    places = ["--runs", str(folder / "runs"), "--out", str(folder / "quality_at_equal_time.json")]
    return quality.main([*places, "--minutes", "1", "--n", "100", "--seeds", "0", "1", "--features", "x", *options])


def test_the_same_command_goes_on(tiny: list[str], tmp_path: Path) -> None:
    chosen = ["--variants", "simple-unet-fast", "fast-unet"]
    assert compare(tmp_path, *chosen) == 0
    trained = ["train cifar10-ddpm 30", "train cifar10-edm 30"]  # a minute has room for thirty steps of two seconds
    assert tiny == [*trained, "draw cifar10-ddpm 0", "draw cifar10-edm 0", "draw cifar10-ddpm 1", "draw cifar10-edm 1"]
    tiny.clear()
    assert compare(tmp_path, *chosen) == 0
    assert not tiny  # nothing was missing
    result = json.loads((tmp_path / "quality_at_equal_time.json").read_text())
    result["variants"]["fast-unet"]["evaluations"].pop()
    (tmp_path / "quality_at_equal_time.json").write_text(json.dumps(result))
    assert compare(tmp_path, *chosen) == 0
    assert tiny == ["draw cifar10-edm 1"]
    tiny.clear()
    (tmp_path / "runs" / "fast-unet" / "cifar10-edm.safetensors").unlink()
    result = json.loads((tmp_path / "quality_at_equal_time.json").read_text())
    result["variants"]["fast-unet"]["training"]["sha256"] = "1" * 64
    (tmp_path / "quality_at_equal_time.json").write_text(json.dumps(result))
    assert compare(tmp_path, *chosen) == 0
    # Distances of the weights that are gone are not those of the new ones.
    assert tiny == ["train cifar10-edm 30", "draw cifar10-edm 0", "draw cifar10-edm 1"]
    text = table.quality(json.loads((tmp_path / "quality_at_equal_time.json").read_text()))
    assert "| fast U-Net | 30 | 128 | 1.0 | 100.0 (100.0–100.0) | 0.500 (0.500–0.500) |" in text
    result = json.loads((tmp_path / "quality_at_equal_time.json").read_text())
    result["settings"]["clock"] = "cpu"
    result["variants"]["fast-unet"]["training"]["cpu_minutes"] = 2.5
    assert "| fast U-Net | 30 | 128 | 2.5 |" in table.quality(result)
    result["variants"]["fast-unet"]["training"]["session_steps"] = 29  # of a training that was interrupted
    assert "| fast U-Net | 30 | 128 | 1.0 |" in table.quality(result)


def test_a_variant_of_another_day_gets_its_steps_by_a_ratio(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    later = ["--variants", "simple-unet-fp32", "--pace-of", "fast-unet"]
    assert compare(tmp_path, *later) == 2
    assert "wants a variant whose pace is stored" in capsys.readouterr().err
    assert compare(tmp_path, "--variants", "fast-unet") == 0
    tiny.clear()
    own = iter((9.0, 10.0, 16.0))  # on a machine that is half as fast, beside 4 seconds for the other
    monkeypatch.setattr(
        quality,
        "calibrate",
        lambda variant, n: {"wall": 4.0 if variant.recipe == "cifar10-edm" else next(own), "cpu": 1.0},
    )
    assert compare(tmp_path, *later) == 0
    assert tiny[0] == "train cifar10-ddpm 12"  # at 2.5 times the 2 seconds that are stored
    text = table.quality(json.loads((tmp_path / "quality_at_equal_time.json").read_text()))
    assert "took 2.50 (2.25–4.00) times as long there as one of *fast U-Net*" in text


@pytest.fixture
def small_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks, and twenty random pictures in place of CIFAR-10."""
    images = torch.randint(256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    fake = data.CIFAR10(images, torch.arange(20) % 10, images, torch.arange(20) % 10)
    monkeypatch.setattr(data, "cifar10", lambda: fake)
    small = {
        "cifar10-edm": {"n_classes": 10, "channels": [64, 64], "blocks": [1, 1, 1, 1], "emb_channels": 32},
        "cifar10-ddpm": {"base_channels": 8, "time_emb_dim": 8},
    }
    for name, arguments in small.items():
        recipe = recipes.RECIPES[name]
        config = replace(recipe.config, batch_size=4)
        architecture = {**recipe.architecture, "arguments": arguments}
        monkeypatch.setitem(recipes.RECIPES, name, replace(recipe, architecture=architecture, config=config))


def test_candidates_differ_in_what_they_say(small_recipes: None, tmp_path: Path) -> None:
    base, narrow = (quality.VARIANTS[name] for name in ("fast-unet", "fast-unet-narrow"))
    sizes = [quality.train(v, 1, tmp_path / v.title)["parameters"] for v in (base, replace(narrow, recipe=base.recipe))]
    assert sizes[1] > sizes[0]  # the small recipe of this test has 64 channels at both resolutions, narrow has 256
    for name, variant in quality.VARIANTS.items():
        known = recipes.changed(recipes.RECIPES[variant.recipe], variant.changes).architecture["arguments"]
        assert set(variant.arguments) <= set(known) | {"channels"}, name


@pytest.mark.parametrize("name", ["fast-unet", "simple-unet-fp32"])
def test_a_training_goes_on_and_its_pictures_are_kept(
    small_recipes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    variant = replace(quality.VARIANTS[name], sample_steps=2)
    assert quality.train(variant, 2, tmp_path)["session_steps"] == 2
    trained = quality.train(variant, 5, tmp_path)
    assert (trained["session_steps"], trained["images_seen"]) == (3, 20)
    assert trained["config"]["precision"] == ("float32" if name == "simple-unet-fp32" else "bfloat16")
    first = quality.draw(variant, tmp_path, 3, 0, "fp32")
    assert first.dtype == torch.uint8
    assert first.shape == (3, 3, 32, 32)
    assert quality.draw(variant, tmp_path, 3, 0, "bf16").shape == first.shape  # not the same ones: a file of its own
    monkeypatch.setattr(quality.generation, "draw", lambda *_, **__: pytest.fail("drew again"))
    assert torch.equal(quality.draw(variant, tmp_path, 3, 0, "fp32"), first)


def test_a_short_training_is_timed_on_both_clocks(small_recipes: None) -> None:
    taken = quality._timed_run(quality.VARIANTS["fast-unet"], 2)
    assert set(taken) == {"wall", "cpu"}
    assert taken["wall"] >= 0
    assert taken["cpu"] > 0


def test_given_steps_need_no_calibration(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quality, "calibrate", lambda variant, n: pytest.fail("was asked to measure"))
    assert compare(tmp_path, "--variants", "fast-unet", "--steps", "fast-unet=7") == 0
    assert tiny[0] == "train cifar10-edm 7"
    assert compare(tmp_path, "--variants", "fast-unet", "--steps", "fast-unet=8") == 2
    assert "has fast-unet with 7 steps, not 8" in capsys.readouterr().err


def test_the_pace_of_a_stored_variant_carries_over(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine three times as slow, the ratio of two steps is what it was."""
    assert compare(tmp_path, "--variants", "simple-unet-fp32", "--pace-of", "fast-unet") == 2
    assert "wants a variant whose pace is stored" in capsys.readouterr().err
    assert compare(tmp_path, "--variants", "fast-unet") == 0
    slower = {"cifar10-edm": iter((6.0, 6.0, 6.0)), "cifar10-ddpm": iter((12.0, 15.0, 90.0))}  # one round was disturbed

    def calibrate(variant: Any, n: int) -> dict[str, float]:
        seconds = next(slower[variant.recipe])
        return {"wall": seconds, "cpu": seconds / 2}

    monkeypatch.setattr(quality, "calibrate", calibrate)
    assert compare(tmp_path, "--variants", "fast-unet", "simple-unet-fp32", "--pace-of", "fast-unet") == 0
    assert "train cifar10-ddpm 12" in tiny  # a minute over 2 s × the median ratio 2.5
    stored = json.loads((tmp_path / "quality_at_equal_time.json").read_text())["variants"]["simple-unet-fp32"]
    assert stored["seconds_a_step"] == {"wall": 5.0, "cpu": 2.5}
    assert stored["pace"]["of"] == "fast-unet"
    assert stored["pace"]["ratios"]["wall"] == [2.0, 2.5, 15.0]
    assert stored["pace"]["machine"]["cores"] >= 1


def test_other_settings_want_another_file(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(tmp_path, "--variants", "fast-unet") == 0
    assert compare(tmp_path, "--variants", "fast-unet", "--clock", "cpu") == 2
    assert "choose another --out" in capsys.readouterr().err


def test_what_is_missing_is_said_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(tmp_path, "--features", "unknown") == 2
    assert "expected features out of" in capsys.readouterr().err
    assert not (tmp_path / "quality_at_equal_time.json").exists()


# --- settings of contrastive divergence


@pytest.fixture
def energy_weights(small_recipes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of the energy after one update; distances in the features of the small classifier."""
    monkeypatch.setattr(contrastive, "SPACE", "cifarnet")
    monkeypatch.setitem(contrastive.energies.SAMPLING, "steps", 2)
    return recipes.run(
        "cifar10-ebm", tmp_path / "start", changes={"n_steps": 1, "batch_size": 4, "warmup_steps": 0}, progress=False
    )


def test_settings_reach_the_chains(energy_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand chains are a thousand; chains without noise all walk the same way from the same start."""
    monkeypatch.setattr(contrastive.energies, "SAMPLER", replace(contrastive.energies.SAMPLER, n_steps=1))
    images = data.cifar10().train
    variant = replace(contrastive.VARIANTS["small-buffer"], restart=0.0)
    _, cold, losses = contrastive.train(replace(variant, temperature=0.0), energy_weights, images, 1)
    _, warm, _ = contrastive.train(replace(variant, temperature=1e-2), energy_weights, images, 1)
    assert len(cold) == len(warm) == 1_000
    assert len(losses) == 1
    moved = (cold - warm).flatten(1).abs().amax(1) > 0
    assert int(moved.sum()) == recipes.RECIPES["cifar10-ebm"].config.batch_size


def test_settings_are_compared_once_each(
    energy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "settings.json"
    command = ["--start", str(energy_weights), "--steps", "1", "--n", "8", "--out", str(out), "--variants"]
    assert contrastive.main([*command, "recipe"]) == 0
    trained = contrastive.train
    monkeypatch.setattr(
        contrastive, "train", lambda variant, *rest: trained(variant, *rest) if variant.learning_rate < 1e-3 else 1 / 0
    )
    assert contrastive.main([*command, "recipe", "published"]) == 0  # trains the second only
    result = json.loads(out.read_text())
    assert list(result["rows"]) == ["recipe", "published"]
    assert all(row["fresh"] > 0 for row in result["rows"].values())
    text = table.contrastive(result)
    assert f"| {contrastive.VARIANTS['published'].title} |" in text
    assert contrastive.main(["--start", str(energy_weights), "--steps", "2", "--n", "8", "--out", str(out)]) == 2
    assert "holds results with" in capsys.readouterr().err
    assert contrastive.main(["--start", str(tmp_path / "none.safetensors")]) == 2
    assert "no model card" in capsys.readouterr().err


def test_what_stops_a_comparison_is_explained(
    energy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was measured before stays in the file."""
    out = tmp_path / "settings.json"
    command = ["--start", str(energy_weights), "--steps", "1", "--n", "8", "--out", str(out), "--variants"]

    def row(variant: Any, *_: Any) -> dict[str, float]:
        if variant is contrastive.VARIANTS["published"]:
            raise contrastive.training.TrainingDiverged("the loss is nan at step 1: lower the learning rate")
        return {"buffer": 1.0, "fresh": 2.0}

    monkeypatch.setattr(contrastive, "_row", row)
    assert contrastive.main([*command, "recipe", "published"]) == 1
    assert capsys.readouterr().err == "error: the loss is nan at step 1: lower the learning rate\n"
    assert list(json.loads(out.read_text("utf-8"))["rows"]) == ["recipe"]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(out))

    monkeypatch.setattr(contrastive, "write_json", full)
    assert contrastive.main([*command, "rate"]) == 2
    assert "No space left on device" in capsys.readouterr().err


# --- how many evaluations


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How pictures were drawn: noise in place of them, and its mean in place of distances."""
    calls: list[dict[str, Any]] = []

    def draw(model: nn.Module, card: dict[str, Any], n: int, *, seed: int, **settings: Any) -> Any:
        if settings["steps"] == 30:
            raise KeyboardInterrupt
        calls.append({"seed": seed, **settings})
        noise = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(settings["steps"]))
        return few.generation.Drawn(noise.clamp(-1, 1))

    monkeypatch.setattr(few.generation, "draw", draw)

    def judge(images: torch.Tensor, space: str, *, features: Any, labels: torch.Tensor) -> dict[str, Any]:
        assert features.name == space
        assert torch.equal(labels, torch.arange(len(images)) % 10)
        return {"features": space, "label": features.label, "n": len(images), "frechet_distance": float(images.mean())}

    monkeypatch.setattr(few, "SPACES", ("cifarnet",))
    monkeypatch.setattr(few.evaluation, "evaluate_images", judge)
    return calls


def count_evaluations(folder: Path, *options: str) -> int:
    return few.main([*options, "--n", "20", "--out", str(folder / "few.json")])


def test_each_number_of_evaluations_is_measured_once(
    drawn: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert count_evaluations(tmp_path, "--solvers", "heun", "ipndm", "--evaluations", "5", "10") == 0
    assert [(call["solver"], call["steps"]) for call in drawn] == [
        ("heun", 3),
        ("ipndm", 5),
        ("heun", 5),
        ("ipndm", 10),
    ]
    assert {(call["seed"], call["guidance"]) for call in drawn} == {(0, 1.0)}
    assert count_evaluations(tmp_path, "--solvers", "ipndm", "--evaluations", "10", "18", "30", "9") == 130
    assert "finished rows are kept" in capsys.readouterr().err
    assert [call["steps"] for call in drawn[4:]] == [18]
    result = json.loads((tmp_path / "few.json").read_text("utf-8"))
    assert [(row["solver"], row["evaluations"]) for row in result["rows"]] == [
        ("heun", 5),
        ("ipndm", 5),
        ("heun", 10),
        ("ipndm", 10),
        ("ipndm", 18),
    ]
    last = result["rows"][-1]
    noise = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(18)).clamp(-1, 1)
    assert last["frechet_distance"] == float(noise.mean())
    assert (last["label"], last["n"], last["seed"], last["steps"]) == ("FD-CIFARnet", 20, 0, 18)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guidance", "2"], "choose another --out"),
        (["--weights", "none.safetensors"], "no model card"),
        (["--n", "19"], "expected at least 20 images, got 19"),
    ],
)
def test_evaluations_of_something_else_are_refused(
    options: list[str], message: str, drawn: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert count_evaluations(tmp_path, "--solvers", "ipndm", "--evaluations", "5") == 0
    kept = (tmp_path / "few.json").read_bytes()
    assert few.main(["--n", "20", *options, "--out", str(tmp_path / "few.json")]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "few.json").read_bytes() == kept


def test_the_table_of_evaluations_compares_ten_with_the_best() -> None:
    rows = [
        {"label": "FD-X", "solver": solver, "evaluations": n, "frechet_distance": value}
        for solver, n, value in (("euler", 10, 30.0), ("unipc", 10, 22.0), ("unipc", 5, 40.0), ("unipc", 18, 20.0))
    ]
    settings = {"n": 2000, "seed": 3, "guidance": 1.0}
    result = {"model": {"name": "m", "images_seen": 12_345}, "settings": settings, "rows": rows}
    text = table.few_evaluations(result)
    assert "`m` after 12,345 images; 2,000 samples from the noise of seed 3." in text
    assert "| 5 | – | 40.0 |" in text
    assert "| 10 | 30.0 | 22.0 |" in text
    assert "FD-X at ten evaluations is 1.10 times the best at any number (unipc: 22.0; 18 evaluations: 20.0)." in text
    assert "guidance 2." in table.few_evaluations({**result, "settings": {**settings, "guidance": 2.0}})
    assert "at ten" not in table.few_evaluations({**result, "rows": rows[2:]})


# --- tables


def small_result() -> dict[str, Any]:
    def row(name: str, rate: float, equal: float, share: float, seconds: list[float]) -> dict[str, Any]:
        spread = {
            key: common.summary([value]) for key, value in (("images_per_second", rate), ("at_equal_flops", equal))
        }
        shared = {"share_of_matrix_product": common.summary([share]), "seconds": seconds}
        return {"model": name, "path": "bf16", **spread, **shared}

    def model(title: str, package: str | None, of_ours: float) -> dict[str, Any]:
        known = {"version": "1.0", "gflop": of_ours, "of_ours": of_ours, "parameters": 1234, "equal_flops": True}
        return {"title": title, "package": package, **known}

    return {
        "machine": common.machine(),
        "settings": {"batch": 128, "steps": 2, "matrix": 2048},
        "rounds_made": 7,
        "matrix_product": common.summary([1e12]),
        "paths": {"bf16": "bfloat16"},
        "models": {common.OURS: model("ours", None, 1.0), "peer": model("peer", "peer", 1.05)},
        "rows": [
            row(common.OURS, 150.0, 150.0, 0.6, [1.0, 1.0, 5.0]),
            row("peer", 95.24, 100.0, 0.4, [1.05, 2.1, 8.4]),
        ],
        "skipped": {"gone": "gone is not installed"},
    }


def test_training_table() -> None:
    text = table.training(small_result())
    assert "| peer 1.0 | 1.050 | 1.05 | 1,234 |" in text
    assert "| ours | 150 (150–150) | 150 | 0.60 (0.60–0.60) |" in text
    assert "| peer 1.0 | 95.2 (95.2–95.2) | 100 | 0.40 (0.40–0.40) |" in text
    # Ratios of rounds, each at the cost of 1.05: 1, 2 and 1.6.
    assert (
        "ours trains on 1.60 times the images of the fastest peer, peer "
        "(median of the rounds' ratios, from 1.00 to 2.00).\n"
        "That peer computes at 0.40 of the rate of the matrix product, so a network at all of it would train on "
        "2.50 times the peer's images." in text
    )
    assert "Left out: gone is not installed." in text
    assert "1,000 GFLOP/s" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.5, "1,230"),
        (130.4, "130"),
        (99.96, "100"),
        (13.04, "13.0"),
        (0.5, "0.500"),
        (0.00123, "0.00123"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert table._number(value) == text


def test_real_pictures_give_the_scale(tmp_path: Path) -> None:
    rows = [{"images": "blurred", "n": n, "frechet_distance": 170.0 + n} for n in (10, 20)]
    (tmp_path / "calibration-x.json").write_text(json.dumps({"rows": rows}))
    assert table._scale(10, ["x", "y"], tmp_path) == [["*blurred*", "–", "–", "–", "180.0", "–", "–"]]


def test_tables_go_between_the_markers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = f"before\n\n{table.BEGIN}\nold\n{table.END}\n\nafter\n"
    new = table.between(page, "new")
    assert new == f"before\n\n{table.BEGIN}\n\nnew\n\n{table.END}\n\nafter\n"
    assert table.between(new, "new") == new
    for wrong in ("", table.BEGIN, f"{table.END} {table.BEGIN}", page + table.BEGIN):
        with pytest.raises(ValueError, match="expected a page with the lines"):
            table.between(wrong, "new")
    (tmp_path / "page.md").write_text(page)
    options = ["--results", str(tmp_path), "--page", str(tmp_path / "page.md")]
    assert table.main([*options, "--check"]) == 1
    assert table.main(options) == 0
    assert table.main([*options, "--check"]) == 0
    (tmp_path / "sampling.json").write_text("{")
    assert table.main(options) == 2
    (tmp_path / "page.md").write_text(page)
    (tmp_path / "sampling.json").write_text("{}")
    assert table.main(options) == 2
    assert "expected results with the entry 'machine', got a file without it" in capsys.readouterr().err


def test_the_page_has_the_stored_results() -> None:
    page = (ROOT / "book" / "benchmarks.md").read_text("utf-8")
    assert table.between(page, table.render()) == page, "run: python benchmarks/table.py"


# --- the command lines


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (throughput, ["--rounds", "0"], "expected an integer of at least 1, got '0'"),
        (throughput, ["--models", "unknown"], "invalid choice: 'unknown'"),
        (throughput, ["--paths", "fp8"], "invalid choice: 'fp8'"),
        (sampling, ["--batches", "x"], "expected an integer of at least 1, got 'x'"),
        (quality, ["--minutes", "-1"], "expected a number above 0, got '-1'"),
        (quality, ["--steps", "unknown=3"], "expected VARIANT=STEPS"),
        (quality, ["--steps", "fast-unet=0"], "expected an integer of at least 1"),
        (few, ["--guidance", "x"], "expected a finite number, got 'x'"),
        (few, ["--solvers", "rk45"], "invalid choice: 'rk45'"),
        (quality, ["--seeds", "-1"], "expected an integer from 0 to 2**63 - 1, got '-1'"),
        (quality, ["--seeds", str(2**63)], f"expected an integer from 0 to 2**63 - 1, got '{2**63}'"),
    ],
)
def test_bad_options(script: ModuleType, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.main(options)
    assert message in capsys.readouterr().err


def test_one_evaluation_is_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    assert sampling.main(["--evaluations", "1"]) == 2
    assert "--evaluations of at least 2, got 1" in capsys.readouterr().err


def test_too_few_images_are_refused_before_the_training(tiny: list[str], tmp_path: Path, capsys: Any) -> None:
    assert compare(tmp_path, "--n", "19", "--variants", "fast-unet") == 2
    assert "expected at least 20 images, got 19" in capsys.readouterr().err
    assert not tiny


def test_more_pictures_than_chains_are_refused(energy_weights: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["--start", str(energy_weights), "--n", "1001", "--out", str(tmp_path / "x.json")]
    assert contrastive.main([*command, "--variants", "recipe", "small-buffer"]) == 2
    assert "expected --n of at most 1000, the chains of small-buffer, got 1001" in capsys.readouterr().err


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_is_no_traceback(
    energy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "x.json")]
    monkeypatch.setattr(throughput, "interleave", stop)
    monkeypatch.setattr(sampling, "interleave", stop)
    monkeypatch.setattr(contrastive, "_row", stop)
    # By its path: the book has an extension of the same name.
    spec = importlib.util.spec_from_file_location("benchmark_run_times", ROOT / "benchmarks" / "run_times.py")
    run_times = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run_times)
    monkeypatch.setattr(run_times, "measure", stop)
    ours = ["--models", common.OURS, "--paths", "fp32"]
    for script, options in (
        (throughput, [*ours, "--batch", "1", "--matrix", "8"]),
        (sampling, [*ours, "--batches", "1"]),
        (contrastive, ["--start", str(energy_weights)]),
        (run_times, []),
    ):
        assert script.main([*options, *out]) == 130
        assert capsys.readouterr().err.startswith("interrupted: ")


def test_a_loss_that_is_not_finite_stops_the_timing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverge(*_: Any, **__: Any) -> None:
        raise FloatingPointError("the loss of ours is nan: its time would mean nothing")

    monkeypatch.setattr(throughput, "interleave", diverge)
    options = ["--models", common.OURS, "--paths", "fp32", "--batch", "1", "--matrix", "8"]
    assert throughput.main([*options, "--out", str(tmp_path / "x.json")]) == 1
    assert capsys.readouterr().err == "error: the loss of ours is nan: its time would mean nothing\n"


def test_two_rounds_of_training_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "training_throughput.json"
    options = [
        "--rounds",
        "2",
        "--steps",
        "1",
        "--batch",
        "2",
        "--matrix",
        "64",
        "--models",
        common.OURS,
        "simple-unet",
    ]
    assert throughput.main([*options, "--paths", "bf16", "fp32", "--out", str(out)]) == 0
    assert "round 2 of 2" in capsys.readouterr().out
    result = json.loads(out.read_text("utf-8"))
    assert [(row["model"], row["path"]) for row in result["rows"]] == [
        (name, path) for path in ("bf16", "fp32") for name in (common.OURS, "simple-unet")
    ]
    for row in result["rows"]:
        assert len(row["seconds"]) == len(row["matrix_product"]) == result["rounds_made"] == 2
        assert 0 < row["share_of_matrix_product"]["median"] < math.inf
    assert "images/s" in table.training(result)


def test_a_section_without_tasks_is_left_out(tmp_path: Path) -> None:
    out = tmp_path / "sampling.json"
    options = ["--rounds", "1", "--batches", "1", "--evaluations", "2", "--models", common.OURS, "--out", str(out)]
    assert sampling.main([*options, "--sample-models", "simple-unet", "--sections", "sample", "loop"]) == 0
    assert {row["section"] for row in json.loads(out.read_text("utf-8"))["rows"]} == {"loop"}


def test_one_round_of_sampling(tmp_path: Path) -> None:
    out = tmp_path / "sampling.json"
    options = ["--rounds", "1", "--batches", "1", "--evaluations", "2", "--paths", "fp32", "--out", str(out)]
    assert sampling.main([*options, "--models", common.OURS, "simple-unet", "--sample-models", common.OURS]) == 0
    result = json.loads(out.read_text("utf-8"))
    assert {row["section"] for row in result["rows"]} == set(sampling.SECTIONS)
    assert {row["model"] for row in result["rows"] if row["section"] == "sample"} == {common.OURS}
    assert {row["model"] for row in result["rows"] if row["section"] == "network"} == {common.OURS, "simple-unet"}
    text = table.sampling(result)
    assert "| this course's FastUNet | this course, UniPC | 2 |" in text
    assert "ms an evaluation, idle network" in text
    result["rows"] = [row for row in result["rows"] if row["section"] != "loop"]
    assert f"**The loop alone**\n\n{table.MISSING}" in table.sampling(result)


def test_the_stored_candidate_saw_more_and_ends_farther_away() -> None:
    """As lesson 13 says of it."""
    stored = json.loads((common.RESULTS / "candidates.json").read_text("utf-8"))["variants"]
    ours, narrow = stored["fast-unet"], stored["fast-unet-narrow"]
    assert narrow["training"]["images_seen"] > ours["training"]["images_seen"]
    for mine, other in zip(ours["evaluations"], narrow["evaluations"], strict=True):
        assert (mine["features"], mine["seed"]) == (other["features"], other["seed"])
        assert mine["frechet_distance"] < other["frechet_distance"]
