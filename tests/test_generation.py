"""Tests of helpers.generation: one function draws from models of both kinds, the same pictures alone and in a batch."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import generation, langevin, oracle, samplers, schedules, zoo
from helpers.diffusion import EDMPrecond
from helpers.nn import EnergyCNN, FastUNet

EDM_CARD: dict[str, Any] = {
    "name": "small",
    "architecture": {
        "name": "FastUNet",
        "arguments": {"n_classes": 3, "channels": [64, 64], "blocks": [1, 1, 1, 1], "emb_channels": 16},
        "preconditioning": {"name": "EDM", "sigma_data": 0.5},
    },
    "shape": [3, 8, 8],
    "schedule": None,
}


@pytest.fixture(scope="module")
def edm() -> EDMPrecond:
    """A small denoiser of three classes, its zero layers filled so that class and time matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = zoo.build(EDM_CARD["architecture"])
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    return model.eval().requires_grad_(False)


def test_a_discrete_model_is_sampled_by_ddim() -> None:
    card = zoo.card("digits-ddpm")
    model = zoo.load("digits-ddpm")
    x_T = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(4))
    wanted = samplers.sample(model, samplers.DDIMSampler(zoo.schedule_of(card), 5), x_T, clip_x0=1.0)
    drawn = generation.draw(model, card, 3, seed=4, steps=5)
    torch.testing.assert_close(drawn.images, wanted.clamp(-1, 1))
    assert drawn.states is None
    assert drawn.levels is None


def test_a_continuous_model_is_sampled_by_the_solver(edm: EDMPrecond) -> None:
    sigmas = schedules.append_zero(schedules.karras_sigmas(4))
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    label = torch.tensor([2, 2, 2])
    guided = samplers.Guided(edm, 2.0, generation.GUIDANCE_INTERVAL, n_classes=3)
    wanted = samplers.sample_ode(guided, samplers.Heun(), noise * sigmas[0].item(), sigmas, label=label)
    drawn = generation.draw(edm, EDM_CARD, 3, seed=4, steps=4, label=2, guidance=2.0, solver="heun")
    torch.testing.assert_close(drawn.images, wanted.clamp(-1, 1))


def test_classes_come_in_turn_unless_one_is_asked_for(edm: EDMPrecond) -> None:
    options: dict[str, Any] = {"seed": 1, "steps": 2}
    turn = generation.draw(edm, EDM_CARD, 4, **options).images
    given = generation.draw(edm, EDM_CARD, 4, label=torch.tensor([0, 1, 2, 0]), **options).images
    torch.testing.assert_close(turn, given)
    one = generation.draw(edm, EDM_CARD, 4, label=1, **options).images
    torch.testing.assert_close(one[1], turn[1])
    assert (one[2] - turn[2]).abs().max() > 1e-3


@pytest.mark.parametrize("solver", generation.SOLVERS)
def test_the_size_of_the_batch_does_not_matter(solver: str, edm: EDMPrecond) -> None:
    options: dict[str, Any] = {"seed": 3, "steps": 3, "guidance": 1.5, "solver": solver}
    together = generation.draw(edm, EDM_CARD, 5, **options).images
    apart = generation.draw(edm, EDM_CARD, 5, batch_size=2, **options).images
    torch.testing.assert_close(apart, together, atol=1e-4, rtol=0)
    fewer = generation.draw(edm, EDM_CARD, 2, **options).images
    torch.testing.assert_close(fewer, together[:2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_states_lead_from_unit_noise_to_the_images(kind: str, edm: EDMPrecond) -> None:
    model, card = (edm, EDM_CARD) if kind == "continuous" else (zoo.load("digits-ddpm"), zoo.card("digits-ddpm"))
    drawn = generation.draw(model, card, 40, steps=3, batch_size=30, return_states=True)
    assert drawn.states.shape == (4, 40, *card["shape"])
    assert drawn.levels.shape == (4,)
    assert drawn.levels[-1] == 0
    assert (drawn.levels.diff() < 0).all()
    n = drawn.states[0].numel()
    assert abs(float(drawn.states[0].var()) - 1) < 5 * math.sqrt(2 / n)
    torch.testing.assert_close(drawn.states[-1].clamp(-1, 1), drawn.images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "expected n and batch_size >= 1, got 0 and 100"),
        ({"steps": 0}, "expected steps >= 1, got 0"),
        ({"steps": -1}, "expected steps >= 1, got -1"),
        ({"label": 4}, "expected 2 classes from 0 to 3"),
        ({"label": -1}, "expected 2 classes from 0 to 3"),
        ({"label": torch.tensor([1, 2, 0])}, "expected 2 classes from 0 to 3"),
        ({"solver": "rk4"}, "out of euler, heun, dpmpp2m, ipndm, unipc, annealed-langevin, got 'rk4'"),
    ],
)
def test_wrong_requests_are_explained(options: dict[str, Any], message: str, edm: EDMPrecond) -> None:
    with pytest.raises(ValueError, match=message):
        generation.draw(edm, EDM_CARD, **{"n": 2, "steps": 2, **options})


def test_models_without_classes_take_no_class_and_no_guidance() -> None:
    model, card = zoo.load("digits-ddpm"), zoo.card("digits-ddpm")
    with pytest.raises(ValueError, match="digits-ddpm knows none"):
        generation.draw(model, card, 1, steps=1, label=3)
    with pytest.raises(ValueError, match="expected guidance 1: digits-ddpm knows no classes"):
        generation.draw(model, card, 1, steps=1, guidance=2.0)
    with pytest.raises(ValueError, match="expected a diffusion model, got digits-classifier"):
        generation.draw(zoo.load("digits-classifier"), zoo.card("digits-classifier"), 1)


@pytest.mark.parametrize(("name", "only"), [("digits-ddpm", "ddim"), ("cifar10-ebm", "langevin")])
def test_models_without_a_choice_take_no_solver_and_no_zero_steps(name: str, only: str) -> None:
    model, card = zoo.load(name), zoo.card(name)
    assert generation.sampler_of(card) == only
    with pytest.raises(ValueError, match=f"expected no solver: {name} is sampled by {only}, got 'heun'"):
        generation.draw(model, card, 1, steps=1, solver="heun")
    with pytest.raises(ValueError, match="expected steps >= 1, got 0"):
        generation.draw(model, card, 1, steps=0)


def test_ipndm_is_taken_where_no_solver_is_named(edm: EDMPrecond) -> None:
    assert generation.sampler_of(EDM_CARD) == "ipndm"
    first, second = (generation.draw(edm, EDM_CARD, 2, steps=5, solver=solver).images for solver in (None, "ipndm"))
    assert torch.equal(first, second)


def test_label_none_is_the_extra_class() -> None:
    net = FastUNet(n_classes=3, channels=(64, 64), blocks=(1, 1, 1, 1), emb_channels=16).eval()
    x: Tensor = torch.ones(2, 3, 8, 8)
    torch.testing.assert_close(net(x, torch.zeros(2)), net(x, torch.zeros(2), torch.tensor([3, 3])))


# --- annealed Langevin dynamics


def test_annealed_langevin_is_that_of_the_library(edm: EDMPrecond) -> None:
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(3, 3, 8, 8, generator=generator)
    sigmas = schedules.karras_sigmas(4, sigma_min=0.01)
    label = torch.tensor([2, 0, 1])

    def score(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        return (edm(x, sigma, label) - x) / sigma.reshape(-1, 1, 1, 1) ** 2

    x = noise * sigmas[0].item()
    wanted = langevin.annealed_langevin_dynamics(
        score, x, sigmas, 2, 0.7, label=label, denoise_last=True, generator=generator
    )
    drawn = generation.draw(
        edm, EDM_CARD, 3, seed=4, steps=9, label=label, solver=generation.ANNEALED, return_states=True
    )
    torch.testing.assert_close(drawn.images, wanted.clamp(-1, 1))
    torch.testing.assert_close(drawn.states[0], x / math.sqrt(1 + sigmas[0].item() ** 2))
    assert drawn.levels.tolist() == [sigmas[0], *sigmas[:-1], 0.0]
    assert len(drawn.states) == 5


def test_annealed_langevin_of_a_gaussian_has_the_variance_that_algebra_gives() -> None:
    """Each step is linear, v' = (1 − rσ²/2(s² + σ²))² v + rσ², and so is the denoising at the end: 16 % too large."""
    variance, n, steps = 0.25, 20_000, 301
    exact = oracle.exact_denoiser(oracle.GaussianMixture(torch.zeros(1, 1), variance))

    def denoiser(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return exact(x.reshape(-1, 1), sigma).reshape(x.shape)

    card = {**EDM_CARD, "shape": [1, 1, 1], "architecture": {"preconditioning": {}, "arguments": {}, "name": "exact"}}
    drawn = generation.draw(
        denoiser, card, n, steps=steps, solver=generation.ANNEALED, batch_size=n, return_states=True
    )

    square = schedules.karras_sigmas(150, sigma_min=0.01).square()
    wanted = square[0]
    for level in square:
        for _ in range(2):
            wanted = (1 - 0.35 * level / (variance + level)) ** 2 * wanted + 0.7 * level
    wanted = float(wanted * (variance / (variance + square[-1])) ** 2)
    assert drawn.states[-1].square().mean().item() == pytest.approx(wanted, abs=4 * wanted * math.sqrt(2 / n))
    assert wanted / variance == pytest.approx(1.16, abs=0.005)


def test_too_few_steps_of_annealed_langevin_are_refused(edm: EDMPrecond) -> None:
    with pytest.raises(ValueError, match="at least 5 steps of annealed Langevin dynamics, got 4"):
        generation.draw(edm, EDM_CARD, 1, steps=4, solver=generation.ANNEALED)


@pytest.mark.parametrize("solver", [*generation.SOLVERS, generation.ANNEALED, "digits-ddpm", "cifar10-ebm"])
def test_keeping_states_changes_no_picture(solver: str, edm: EDMPrecond, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one bit, nor the order in memory; and a sampler keeps its states only where it is asked to."""
    asked: list[bool] = []

    def spied(function: Any) -> Any:
        def run(*arguments: Any, return_trajectory: bool = False, **options: Any) -> Any:
            asked.append(return_trajectory)
            return function(*arguments, return_trajectory=return_trajectory, **options)

        return run

    for module, name in (
        (samplers, "sample"),
        (samplers, "sample_ode"),
        (langevin, "langevin_dynamics"),
        (langevin, "annealed_langevin_dynamics"),
    ):
        monkeypatch.setattr(module, name, spied(getattr(module, name)))
    shipped = solver in zoo.available()
    model, card = (zoo.load(solver), zoo.card(solver)) if shipped else (edm, EDM_CARD)
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    options: dict[str, Any] = {"steps": 7, "batch_size": 2, "solver": None if shipped else solver}
    kept = generation.draw(model, card, 3, return_states=True, **options)
    alone = generation.draw(model, card, 3, **options)
    assert torch.equal(alone.images, kept.images)
    assert alone.images.stride() == kept.images.stride()
    assert alone.states is None
    assert asked == [True, True, False, False]
    assert len(kept.states) == generation.n_states(card, 7, options["solver"])


@pytest.mark.parametrize("solver", ["euler", "annealed-langevin", "langevin"])
def test_states_that_nobody_wants_are_not_kept(solver: str, edm: EDMPrecond, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view of the last state would keep all of a batch's states in memory until the last batch is done."""
    held: list[int] = []
    cat = torch.cat

    def spy(parts: Any, dim: int = 0) -> Tensor:
        if parts[0].ndim == 5:  # states, one after the other
            held.extend(part.untyped_storage().nbytes() // part.element_size() for part in parts)
        return cat(parts, dim)

    monkeypatch.setattr(torch, "cat", spy)
    if solver == "langevin":
        model, card = zoo.load("cifar10-ebm"), zoo.card("cifar10-ebm")
        generation.draw(model, card, 6, steps=3, batch_size=2)
    else:
        card = EDM_CARD
        generation.draw(edm, card, 6, steps=5, solver=solver, batch_size=2)
    assert held == [2 * math.prod(card["shape"])] * 3


@pytest.mark.parametrize("wrong", [{"label": 1}, {"guidance": 2.0}])
def test_samplers_that_ask_for_no_class_take_none(wrong: dict[str, Any]) -> None:
    energy = {"name": "mine", "architecture": {"name": "EnergyCNN"}, "shape": [1, 4, 4], "schedule": None}
    network = {key: value for key, value in EDM_CARD["architecture"].items() if key != "preconditioning"}
    schedule = {"name": "LinearSchedule", "arguments": {"n_steps": 10}}
    discrete = {**EDM_CARD, "architecture": network, "schedule": schedule}
    for model, card in ((EnergyCNN(1, 4, 4), energy), (zoo.build(network), discrete)):
        with pytest.raises(ValueError, match=r"expected no class|expected guidance 1"):
            generation.draw(model.eval(), card, 1, steps=2, **wrong)


def test_chains_start_as_the_card_says() -> None:
    for start, spread in (("uniform", 3**-0.5), ("normal", 1.0)):
        settings = generation.LangevinSettings.of({"sampling": {"start": start}})
        first = settings.first((10_000,), torch.Generator().manual_seed(0))
        assert float(first.std()) == pytest.approx(spread, rel=0.03)
        assert (float(first.abs().max()) <= 1) == (start == "uniform")
    with pytest.raises(ValueError, match="expected start 'uniform' or 'normal'"):
        generation.LangevinSettings.of({"sampling": {"start": "Uniform"}})


def test_an_unknown_solver_is_named_before_states_are_counted() -> None:
    with pytest.raises(ValueError, match="annealed-langevin, got 'rk4'"):
        generation.n_states(EDM_CARD, 5, "rk4")
