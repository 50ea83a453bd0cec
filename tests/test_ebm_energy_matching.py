"""helpers.ebm.energy_matching: the pairing, the two losses in closed form, and the walk's exact behaviour."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from helpers.ebm import (
    EnergyMatching,
    contrastive_divergence_loss,
    pair_by_transport,
    transport_loss,
    transport_then_langevin,
    walk_temperature,
)
from helpers.nn import EnergyMLP
from helpers.oracle import decoupled_variance


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=_generator(seed), dtype=torch.float64)


def _network() -> EnergyMLP:
    model, generator = EnergyMLP(2, 16, 2).double(), _generator()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def _parabola(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1) / 2


# ── the pairing ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(4))
def test_the_pairing_is_the_best_of_all(seed: int) -> None:
    """Against all 720 of six points."""
    noise, data = _randn(6, 2, seed=seed), 2 * _randn(6, 2, seed=seed + 10)

    def cost(index: tuple[int, ...] | Tensor) -> float:
        return (noise[torch.as_tensor(index)] - data).square().sum().item()

    index = pair_by_transport(noise, data)
    assert sorted(index.tolist()) == list(range(6))
    assert cost(index) == pytest.approx(min(cost(p) for p in permutations(range(6))))


def test_images_are_paired_as_points() -> None:
    noise = _randn(5, 1, 4, 4)
    shuffled = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(pair_by_transport(noise, noise[shuffled]), shuffled)
    with pytest.raises(ValueError, match="one shape"):
        pair_by_transport(noise, noise[:3])


# ── the temperature ───────────────────────────────────────────────────────


def test_the_temperature_rises_from_the_onset_to_one() -> None:
    time = torch.tensor([0.0, 0.59, 0.6, 0.7, 1.0, 5.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.0, 0.0, 0.05, 0.2, 0.2], dtype=torch.float64)
    torch.testing.assert_close(walk_temperature(time, 0.6, 0.2), expected)
    torch.testing.assert_close(walk_temperature(time, 1.0, 0.2), 0.2 * (time >= 1).double())


# ── transport ─────────────────────────────────────────────────────────────


def test_a_shift_is_transported_by_a_plane() -> None:
    """Data = noise + c: optimal paths are parallel, and V = −⟨c, x⟩ is exact; with the other sign the error is 2c."""
    noise, c = _randn(64, 2), torch.tensor([3.0, -1.0], dtype=torch.float64)
    data = (noise + c)[torch.randperm(64, generator=_generator())]
    assert transport_loss(lambda x: -x @ c, data, _generator(), noise=noise).item() < 1e-20
    assert transport_loss(lambda x: x @ c, data, _generator(), noise=noise).item() == pytest.approx(40.0)


@pytest.mark.parametrize("onset", [1.0, 0.5, 0.0])
def test_the_transports_weight_falls_after_the_onset(onset: float) -> None:
    """Of a flat potential each error is ‖c‖²; the mean weight is τ* + (1 − τ*)/2, its variance that of the ramp."""
    n, c = 2_000, 2.0
    noise = torch.zeros(n, 1, dtype=torch.float64)
    # All points are the same, and so is every pairing.
    loss = transport_loss(lambda x: 0 * x.sum(1), noise + c, _generator(), noise=noise, onset=onset)
    mean = onset + (1 - onset) / 2
    variance = onset + (1 - onset) / 3 - mean**2
    assert abs(loss.item() - c**2 * mean) <= 4 * c**2 * math.sqrt(variance / n) + 1e-12


def test_transport_is_learned_and_gradients_flow() -> None:
    model = _network()
    transport_loss(model, _randn(16, 2), _generator()).backward()
    assert all(p.grad.abs().max() > 0 for p in list(model.parameters())[:-1])
    with pytest.raises(ValueError, match=r"onset in \[0, 1\]"):
        transport_loss(model, _randn(16, 2), onset=1.5)


# ── the walk ──────────────────────────────────────────────────────────────


def test_before_the_onset_the_walk_is_a_descent() -> None:
    x = _randn(5, 2)
    walked = transport_then_langevin(_parabola, x, duration=0.5, time_step=0.05, onset=0.6, generator=_generator())
    torch.testing.assert_close(walked, x * 0.95**10)


@pytest.mark.parametrize(("temperature", "time_step"), [(1.0, 0.5), (0.1, 0.2)])
def test_after_it_the_walk_rests_in_the_boltzmann_density(temperature: float, time_step: float) -> None:
    """Langevin with α = Δt and τ = √(2Δtε): the exact variance of oracle 2, which tends to ε as Δt → 0."""
    n = 20_000
    x = transport_then_langevin(
        _parabola,
        math.sqrt(temperature) * _randn(n, 1),
        duration=20.0,
        time_step=time_step,
        temperature=temperature,
        start=1.0,
        generator=_generator(),
    )
    exact = decoupled_variance(time_step, math.sqrt(2 * time_step * temperature))
    standard_error = exact * math.sqrt(2 / n)
    assert abs(x.square().mean().item() - exact) < 4 * standard_error
    assert 4 * standard_error < abs(exact - temperature) / 2


def test_each_walker_has_its_own_time() -> None:
    """At time 0 a step is without noise, at time 1 with all of it."""
    start = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat_interleave(5000)
    x = transport_then_langevin(
        _parabola,
        torch.zeros(10_000, 1, dtype=torch.float64),
        duration=0.1,
        time_step=0.1,
        temperature=0.5,
        start=start,
        generator=_generator(),
    )
    assert x[:5000].abs().max() == 0
    assert abs(x[5000:].square().mean().item() - 0.1) < 4 * 0.1 * math.sqrt(2 / 5000)


def test_walk_mistakes_are_named() -> None:
    for arguments in ({"duration": 0.0}, {"duration": 1.0, "time_step": 0.0}, {"duration": 1.0, "temperature": 0.0}):
        with pytest.raises(ValueError, match="duration, time_step and temperature > 0"):
            transport_then_langevin(_parabola, _randn(2, 2), **arguments)


# ── both ──────────────────────────────────────────────────────────────────


def test_the_loss_is_the_sum_of_its_parts() -> None:
    model, x = _network(), _randn(32, 2)
    loss = EnergyMatching(temperature=0.2, onset=0.7, contrastive_weight=0.3, duration=0.4, time_step=0.1)
    total, generator = loss(model, x, _generator()), _generator()
    transport = transport_loss(model, x, generator, onset=0.7)
    negatives = loss.negatives(model, x, generator)
    torch.testing.assert_close(total, transport + 0.3 / 0.2 * contrastive_divergence_loss(model, x, negatives))
    warm_up = EnergyMatching()
    torch.testing.assert_close(warm_up(model, x, _generator()), transport_loss(model, x, _generator()))


def test_negatives_start_half_from_data_and_half_from_noise() -> None:
    """A walk of one step at the onset of a hot walk: the data's half has noise added, the noise's half has none."""
    loss = EnergyMatching(temperature=0.5, onset=0.8, duration=0.1, time_step=0.1)
    x = torch.full((4001, 1), 50.0, dtype=torch.float64)
    negatives = loss.negatives(lambda y: 0 * y.sum(1), x, _generator())
    assert negatives.shape == x.shape
    from_data, from_noise = negatives[:2000] - 50.0, negatives[2000:]
    assert abs(from_data.square().mean().item() - 0.1) < 4 * 0.1 * math.sqrt(2 / 2000)
    assert abs(from_noise.square().mean().item() - 1.0) < 4 * math.sqrt(2 / 2001)


def test_parameters_get_no_gradients_from_the_walks() -> None:
    model = _network()
    loss = EnergyMatching(contrastive_weight=1.0, duration=0.2)
    negatives = loss.negatives(model, _randn(8, 2), _generator())
    assert not negatives.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_settings_that_make_no_sense() -> None:
    for arguments in ({"temperature": 0.0}, {"duration": -1.0}, {"time_step": 0.0}, {"onset": 2.0}):
        with pytest.raises(ValueError, match="expected"):
            EnergyMatching(**arguments)
    with pytest.raises(ValueError, match="contrastive_weight >= 0"):
        EnergyMatching(contrastive_weight=-1.0)


def test_noise_sets_in_exactly_at_the_end() -> None:
    """Fifty steps of 0.02 are 1, also in float32."""
    still = lambda x: 0 * x.sum(1)  # noqa: E731
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(50, 1, dtype=dtype)
        walked = transport_then_langevin(still, x, duration=1.02, time_step=0.02, onset=1.0)
        assert walked.abs().max() > 0
        assert not transport_then_langevin(still, x, duration=1.0, time_step=0.02, onset=1.0).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"duration": 0.005, "time_step": 0.02}, "a duration of at least one time_step, got 0.005 and 0.02"),
        ({"duration": 1.0, "onset": 2.0}, r"expected onset in \[0, 1\], got 2.0"),
    ],
)
def test_walks_that_make_no_sense_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transport_then_langevin(lambda x: x.square().sum(1), torch.zeros(2, 1), **wrong)


def test_a_walk_of_no_time_is_refused_and_not_another() -> None:
    with pytest.raises(ValueError, match=r"duration, time_step and temperature > 0, got 0\.0"):
        EnergyMatching().walk(lambda x: x.square().sum(1), torch.ones(2, 1), duration=0.0)
