"""helpers.langevin against closed forms, exact densities and torchebm; typical mistakes are put in, and must be found.

Statistical bounds are four standard errors, and `near` wants them to be at most a quarter of the bias to be detected.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy import stats
from torch import Tensor, nn

from helpers.energy import InnerProductEnergy, NonFiniteEnergyError
from helpers.langevin import (
    Chains,
    ChainsDivergedError,
    ReplayBuffer,
    TemperatureWarning,
    acceptance,
    annealed_langevin_dynamics,
    autocorrelation,
    dynamics,
    effective_sample_size,
    hmc,
    implied_temperature,
    langevin_dynamics,
    largest_stable_step,
    log_proposal,
    mala,
    metropolis,
    r_hat,
)
from helpers.nn import EnergyMLP, TimeMLP
from helpers.oracle import (
    GaussianMixture,
    decoupled_variance,
    mala_log_acceptance,
    persistent_fixed_point,
    short_run_fixed_point,
    short_run_variance,
    ula_autocorrelation,
    ula_variance,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=_generator(seed), dtype=torch.float64)


def _gaussian(std: float = 1.0) -> Callable[[Tensor], Tensor]:
    """The energy of N(0, σ²)."""
    return lambda x: x.square().flatten(1).sum(1) / (2 * std**2)


def near(measured: float, exact: float, standard_error: float, bias: float) -> None:
    """Within four standard errors, which are at most a quarter of the bias that the test is there to detect."""
    assert 4 * standard_error <= abs(bias) / 4, "too few chains to see the bias"
    assert abs(measured - exact) <= 4 * standard_error, f"{measured} is not {exact} ± {standard_error}"


def chains_to_see(relative_bias: float) -> int:
    """So many that four standard errors √(2/n) of a variance are a quarter of its relative bias."""
    return math.ceil(2 * (16.01 / relative_bias) ** 2)


def settled(std: float, step_size: float) -> int:
    """Steps after which the variance is within 1e-5 of its limit, wherever it began at 0."""
    b = abs(1 - step_size / (2 * std**2))
    return max(2, math.ceil(math.log(1e-5) / (2 * math.log(b)))) if b else 2


# ── oracle 1: unadjusted Langevin on N(0, σ²) ─────────────────────────────

RELATIVE_STEPS = [0.3, 1.0, 2.0, 3.0]  # ε/σ²
every_step = pytest.mark.parametrize("relative", RELATIVE_STEPS)


def check_ula_variance(relative: float, temperature: float = 1.0, std: float = 0.7) -> None:
    """The variance is Tσ²/(1 − ε/4σ²), as far from Tσ² as the bound can tell."""
    step_size = relative * std**2
    exact, unbiased = ula_variance(std, step_size, temperature), temperature * std**2
    n = chains_to_see((exact - unbiased) / exact)
    start = torch.zeros(n, 1)
    x = langevin_dynamics(
        _gaussian(std), start, settled(std, step_size), step_size, temperature, generator=_generator()
    )
    near(x.square().mean().item(), exact, exact * math.sqrt(2 / n), exact - unbiased)


@every_step
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_oracle_1_variance(relative: float, temperature: float) -> None:
    check_ula_variance(relative, temperature)


def _gradient_times(factor: float) -> Callable:
    def wrong(*arguments: object, **options: object) -> tuple[Tensor, Tensor]:
        value, gradient = _energy_and_gradient(*arguments, **options)
        return value, factor * gradient

    return wrong


_energy_and_gradient = dynamics.energy_and_gradient
MUTANTS_OF_ULA = {
    "sign flip": ("energy_and_gradient", _gradient_times(-1.0)),
    "step without its half": ("energy_and_gradient", _gradient_times(2.0)),
    "noise of variance 2εT": ("_factor_of_noise", lambda step, t, scale: math.sqrt(2 * step * t)),
    "noise without its root": ("_factor_of_noise", lambda step, t, scale: step * t),
    "temperature forgotten": ("_factor_of_noise", lambda step, t, scale: math.sqrt(step)),
    "temperature without its root": ("_factor_of_noise", lambda step, t, scale: math.sqrt(step) * t),
}


@pytest.mark.parametrize("mutant", MUTANTS_OF_ULA)
def test_wrong_langevin_steps_are_found(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamics, *MUTANTS_OF_ULA[mutant])
    with pytest.raises((AssertionError, ChainsDivergedError)):
        check_ula_variance(1.0, temperature=0.25)


@every_step
def test_oracle_1_autocorrelation(relative: float) -> None:
    """Of n pairs with correlation ρ, the estimate's standard error is (1 − ρ²)/√n; ε for ε/2 would give 1 − ε/σ²."""
    std, step_size, n = 0.7, relative * 0.49, 40_000
    start = math.sqrt(ula_variance(std, step_size)) * _randn(n, 1)
    trajectory = langevin_dynamics(_gaussian(std), start, 3, step_size, generator=_generator(1), return_trajectory=True)
    for lag in (1, 3):
        rho = ula_autocorrelation(std, step_size, lag)
        wrong = (1 - relative) ** lag
        measured = torch.corrcoef(trajectory[[0, lag], :, 0])[0, 1].item()
        if relative == 2.0:
            assert rho == pytest.approx(0, abs=1e-9)  # each state has forgotten the one before
        if abs(rho - wrong) > 0.2:
            near(measured, rho, (1 - rho**2) / math.sqrt(n), rho - wrong)
        else:
            assert abs(measured - rho) <= 4 * (1 - rho**2) / math.sqrt(n)


@pytest.mark.parametrize("std", [0.7, 3.0])
def test_oracle_1_stability(std: float) -> None:
    """Without noise a state is multiplied by 1 − ε/2σ² in each step; its size grows from ε = 4σ² on."""
    start = _randn(5, 2)
    for relative in (0.5, 2.0, 3.9, 4.1):
        x = langevin_dynamics(_gaussian(std), start, 200, relative * std**2, temperature=0.0)
        torch.testing.assert_close(x, (1 - relative / 2) ** 200 * start, rtol=1e-9, atol=1e-30)
        assert (x.abs() < start.abs()).all() == (relative < 4)


def test_chains_start_where_they_are_told_and_take_so_many_steps() -> None:
    """The variance on the way, from a wide start: b^{2n} v₀ + ε(1 − b^{2n})/(1 − b²)."""
    n, step_size = 60_000, 0.3
    start = 3 * _randn(n, 1, seed=5)
    steps = 4
    x = langevin_dynamics(_gaussian(), start, steps, step_size, generator=_generator())
    exact = short_run_variance(1.0, step_size, steps, 9.0)
    one_more = short_run_variance(1.0, step_size, steps + 1, 9.0)
    near(x.square().mean().item(), exact, exact * math.sqrt(2 / n), one_more - exact)


def test_a_trajectory_holds_the_start_and_the_end() -> None:
    start, energy = _randn(6, 2), _gaussian()
    trajectory = langevin_dynamics(energy, start, 9, 0.3, generator=_generator(), return_trajectory=True)
    assert trajectory.shape == (10, 6, 2)
    torch.testing.assert_close(trajectory[0], start, rtol=0, atol=0)
    end = langevin_dynamics(energy, start, 9, 0.3, generator=_generator())
    torch.testing.assert_close(trajectory[-1], end, rtol=0, atol=0)
    torch.testing.assert_close(start, _randn(6, 2), rtol=0, atol=0)  # what was given is unchanged
    split = langevin_dynamics(energy, start, 4, 0.3, generator=(generator := _generator()))
    torch.testing.assert_close(langevin_dynamics(energy, split, 5, 0.3, generator=generator), end, rtol=0, atol=0)


def test_each_step_costs_one_gradient() -> None:
    calls = []

    def energy(x: Tensor) -> Tensor:
        calls.append(len(x))
        return _gaussian()(x)

    x = torch.zeros(3, 2)
    langevin_dynamics(energy, x, 7, 0.1, generator=_generator())
    assert len(calls) == 7
    mala(energy, x, 7, 0.1, generator=_generator())
    assert len(calls) == 7 + 8  # one at the start
    hmc(energy, x, 7, 0.1, n_leapfrog=3, generator=_generator())
    assert len(calls) == 7 + 8 + 22


# ── oracle 2: decoupled noise is a temperature ────────────────────────────


@pytest.mark.parametrize(("alpha", "tau"), [(0.5, 0.3), (0.9, 1.0), (0.2, 0.05)])
def test_oracle_2_decoupled_noise(alpha: float, tau: float) -> None:
    """Told apart from the variance 1 of exp(−E), and from the temperature alone, τ²/2α."""
    exact, implied = decoupled_variance(alpha, tau), tau**2 / (2 * alpha)
    n = chains_to_see((exact - implied) / exact)
    start = torch.zeros(n, 1)
    with pytest.warns(TemperatureWarning, match=rf"T = {implied:.3g}, not at T = 1"):
        x = langevin_dynamics(
            _gaussian(), start, settled(1.0, 2 * alpha), 2 * alpha, noise_scale=tau, generator=_generator()
        )
    near(x.square().mean().item(), exact, exact * math.sqrt(2 / n), exact - implied)


def test_a_hidden_temperature_is_named() -> None:
    x = torch.zeros(3, 2)
    with pytest.warns(TemperatureWarning, match=r"T = 1\.25e-06"):  # IGEBM's numbers
        langevin_dynamics(_gaussian(10.0), x, 1, 20.0, noise_scale=0.005, generator=_generator())
    with pytest.warns(TemperatureWarning, match="T = 0, not at T = 1"):
        langevin_dynamics(_gaussian(), x, 1, 0.1, noise_scale=0.0)
    assert implied_temperature(20.0, 0.005) == pytest.approx(1.25e-6)


def test_a_temperature_that_is_not_hidden_is_not() -> None:
    x = torch.zeros(3, 2)  # warnings are errors here
    same = [
        langevin_dynamics(_gaussian(), x, 5, 0.2, generator=_generator()),
        langevin_dynamics(_gaussian(), x, 5, 0.2, noise_scale=math.sqrt(0.2), generator=_generator()),
    ]
    torch.testing.assert_close(same[0], same[1])
    cold = [
        langevin_dynamics(_gaussian(), x, 5, 0.2, 0.01, generator=_generator()),
        langevin_dynamics(_gaussian(), x, 5, 0.2, 0.01, noise_scale=math.sqrt(0.002), generator=_generator()),
    ]
    torch.testing.assert_close(cold[0], cold[1])


# ── oracle 5: what biased chains teach ────────────────────────────────────


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_oracle_5_persistent_chains_fit_the_data_at_the_biased_fixed_point(share: float) -> None:
    """With a, chains have the data's variance s²; with the true 1/s² they are too wide."""
    s, step_size = 0.8, share * 0.64
    a = persistent_fixed_point(s, step_size)
    bias = ula_variance(s, step_size) - s**2
    n = chains_to_see(bias / s**2)
    std = a**-0.5
    x = langevin_dynamics(_gaussian(std), torch.zeros(n, 1), settled(std, step_size), step_size, generator=_generator())
    near(x.square().mean().item(), s**2, s**2 * math.sqrt(2 / n), bias)


@pytest.mark.parametrize(("n_steps", "initial_std"), [(5, 2.0), (20, 0.3)])
def test_oracle_5_short_runs_fit_the_data_with_a_wrong_energy(n_steps: int, initial_std: float) -> None:
    s, step_size = 1.0, 0.06
    a = short_run_fixed_point(s, step_size, n_steps, initial_std**2)
    with_truth = short_run_variance(1 / s**2, step_size, n_steps, initial_std**2)
    n = chains_to_see(with_truth - 1)
    start = initial_std * torch.randn(n, 1, generator=_generator(3))
    x = langevin_dynamics(lambda x: a / 2 * x.square().sum(1), start, n_steps, step_size, generator=_generator())
    near(x.square().mean().item(), s**2, math.sqrt(2 / n), with_truth - 1)


# ── clipping and clamping ─────────────────────────────────────────────────


def test_gradients_are_clipped_for_each_chain_by_its_norm() -> None:
    start = torch.tensor([[3.0, 4.0], [0.3, 0.4]])  # norms 5 and 0.5
    x = langevin_dynamics(_gaussian(), start, 1, 2.0, temperature=0.0, grad_clip=1.0)
    torch.testing.assert_close(x, start - torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    still = langevin_dynamics(_gaussian(), torch.zeros(2, 2), 1, 2.0, temperature=0.0, grad_clip=1.0)
    torch.testing.assert_close(still, torch.zeros(2, 2))


def test_values_are_clamped_after_every_step() -> None:
    trajectory = langevin_dynamics(
        _gaussian(), torch.zeros(50, 2), 20, 1.0, clamp=(-0.5, 0.8), generator=_generator(), return_trajectory=True
    )
    assert (trajectory.amin(), trajectory.amax()) == (-0.5, pytest.approx(0.8))
    assert trajectory[1:].amax(dim=(1, 2)).min() == pytest.approx(0.8)


# ── oracle 3: MALA ────────────────────────────────────────────────────────


def _log_ratios(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Chains]) -> tuple[Chains, list[Tensor]]:
    """A run, and what was given to the accept step."""
    seen, decide = [], metropolis.accepted

    def spy(log_ratio: Tensor, generator: torch.Generator | None) -> Tensor:
        seen.append(log_ratio)
        return decide(log_ratio, generator)

    with monkeypatch.context() as patch:
        patch.setattr(metropolis, "accepted", spy)
        return run(), seen


def check_mala_log_ratio(step_size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first step from known states; proposals are remade with the same noise."""
    x = 1.5 * _randn(40, 3)
    _, (log_ratio,) = _log_ratios(monkeypatch, lambda: mala(_gaussian(), x, 1, step_size, generator=_generator(8)))
    noise = torch.randn(40, 3, generator=_generator(8), dtype=torch.float64)
    proposal = x - step_size / 2 * x + math.sqrt(step_size) * noise
    torch.testing.assert_close(log_ratio, mala_log_acceptance(x, proposal, step_size), rtol=1e-9, atol=1e-9)


def _log_proposal_times(factor: float) -> Callable:
    """The variance that the log density is written with is 1/factor of the one that is drawn with."""
    return lambda *arguments: factor * log_proposal(*arguments)


def _batch_decides(log_ratio: Tensor, generator: torch.Generator) -> Tensor:
    """One decision for all chains, by their mean."""
    return (torch.rand((), generator=generator).log() < log_ratio.mean()).expand(log_ratio.shape)


def _one_number_for_all(log_ratio: Tensor, generator: torch.Generator) -> Tensor:
    """Each chain's own ratio, but the same uniform number."""
    return torch.rand((), generator=generator).log() < log_ratio


WRONG_PROPOSALS = {
    "variance 2ε (drawn with ε)": _log_proposal_times(0.5),
    "variance ε/2": _log_proposal_times(2.0),
    "no proposal densities": _log_proposal_times(0.0),
    "there and back exchanged": _log_proposal_times(-1.0),
}
WRONG_ACCEPTS = {
    "always accepted": lambda log_ratio, generator: torch.ones_like(log_ratio, dtype=torch.bool),
    "wrong way round": lambda r, g: torch.rand(r.shape, generator=g).log() < -r,
}


@pytest.mark.parametrize("step_size", [0.05, 0.5, 2.0, 3.5])
def test_oracle_3_log_acceptance(step_size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    check_mala_log_ratio(step_size, monkeypatch)


@pytest.mark.parametrize("mutant", WRONG_PROPOSALS)
def test_wrong_proposal_densities_are_found(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metropolis, "log_proposal", WRONG_PROPOSALS[mutant])
    with pytest.raises(AssertionError):
        check_mala_log_ratio(0.5, monkeypatch)


def test_log_proposal_is_a_normal_density() -> None:
    x, x_new, gradient = _randn(3, 20, 2)
    for step_size, temperature in ((0.1, 1.0), (2.0, 0.3)):
        normal = torch.distributions.Normal(x - step_size / 2 * gradient, math.sqrt(step_size * temperature))
        difference = normal.log_prob(x_new).sum(1) - log_proposal(x_new, x, gradient, step_size, temperature)
        torch.testing.assert_close(difference, difference[:1].expand(20))


@cache
def _target() -> GaussianMixture:
    """Unequal weights and shapes: nothing cancels by symmetry."""
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.5, -0.3], [-0.3, 0.4]]])
    return GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), covariances, torch.tensor([1.0, 2.0]))


LEVEL = 1e-3  # of the two-sample test: how often a right sampler would fail it, over seeds
STATISTICS = 4


def smallest_p_value(x: Tensor, exact: Tensor) -> float:
    """Kolmogorov–Smirnov tests of both coordinates, the radius and the energy; times their number (Bonferroni)."""
    pairs = [(s[:, 0], s[:, 1], s.norm(dim=1), _target().energy(s)) for s in (x, exact)]
    p_values = [stats.ks_2samp(a.numpy(), b.numpy()).pvalue for a, b in zip(*pairs, strict=True)]
    assert len(p_values) == STATISTICS
    return min(1.0, STATISTICS * min(p_values))


def _after(sampler: Callable[..., Chains], *arguments: float, n: int = 6000, **options: float) -> float:
    """Start from exact draws, run, and compare with other exact draws."""
    x = sampler(_target().energy, _target().sample(n, _generator(1)), *arguments, generator=_generator(2), **options).x
    return smallest_p_value(x, _target().sample(n, _generator(3)))


SAMPLERS = {
    "mala, small steps": lambda: _after(mala, 15, 0.1),
    "mala, large steps": lambda: _after(mala, 15, 0.8),
    "hmc, short": lambda: _after(hmc, 8, 0.45, n_leapfrog=2),
    "hmc, long": lambda: _after(hmc, 4, 0.3, n_leapfrog=5),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_exact_densities_are_left_as_they_are(name: str) -> None:
    assert SAMPLERS[name]() > LEVEL


@pytest.mark.parametrize("mutant", WRONG_PROPOSALS)
def test_wrong_proposal_densities_change_the_density(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metropolis, "log_proposal", WRONG_PROPOSALS[mutant])
    assert SAMPLERS["mala, large steps"]() < LEVEL


@pytest.mark.parametrize("mutant", WRONG_ACCEPTS)
@pytest.mark.parametrize("name", ["mala, large steps", "hmc, short"])
def test_wrong_accept_steps_change_the_density(mutant: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metropolis, "accepted", WRONG_ACCEPTS[mutant])
    assert SAMPLERS[name]() < LEVEL


@pytest.mark.parametrize(("sampler", "step_size"), [(mala, 1.2), (hmc, 0.6)])
def test_what_is_reused_belongs_to_where_chains_are(sampler: Callable[..., Chains], step_size: float) -> None:
    """One run of ten steps is ten runs of one step, each of which computes energies and gradients anew."""
    start, generator = _randn(40, 2), _generator(5)
    run = sampler(_target().energy, start, 10, step_size, generator=_generator(5), return_trajectory=True)
    assert 0.1 < run.acceptance.mean() < 0.9
    x = start
    for expected in run.x[1:]:
        x = sampler(_target().energy, x, 1, step_size, generator=generator).x
        torch.testing.assert_close(x, expected, rtol=1e-12, atol=1e-12)


def check_each_chain_decides(decide: Callable[[Tensor, torch.Generator], Tensor]) -> None:
    """Of n decisions with probability p the share has standard error √(p(1 − p)/n); one for all gives 0 or 1."""
    n, p = 20_000, 0.3
    share = decide(torch.full((n,), math.log(p)), _generator()).double().mean().item()
    near(share, p, math.sqrt(p * (1 - p) / n), bias=0.3)
    mixed = torch.tensor([0.0, 3.0, -math.inf, math.nan, math.inf])
    assert decide(mixed, _generator()).tolist() == [True, True, False, False, False]


def test_each_chain_decides_for_itself() -> None:
    check_each_chain_decides(metropolis.accepted)


@pytest.mark.parametrize("decide", [_batch_decides, _one_number_for_all, *WRONG_ACCEPTS.values()])
def test_wrong_decisions_are_found(decide: Callable) -> None:
    with pytest.raises(AssertionError):
        check_each_chain_decides(decide)


def check_adjusted_variance(sampler: Callable[..., Chains], step_size: float, temperature: float) -> None:
    """From far away, chains come to the variance T itself: not what a step size makes of it."""
    bias = ula_variance(1.0, step_size if sampler is mala else step_size**2) - 1
    n = chains_to_see(bias)
    start = torch.full((n, 1), 2.0)
    x, share = sampler(_gaussian(), start, 60, step_size, temperature=temperature, generator=_generator())
    near(x.square().mean().item(), temperature, temperature * math.sqrt(2 / n), bias * temperature)
    assert share.shape == (n,)


@pytest.mark.parametrize("step_size", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_mala_has_no_bias(step_size: float, temperature: float) -> None:
    check_adjusted_variance(mala, step_size, temperature)


@pytest.mark.parametrize("decide", [_batch_decides, *WRONG_ACCEPTS.values()])
def test_wrong_decisions_bias_the_variance(decide: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """One decision for the batch, by its mean: nearly always accepted, so that the step's bias is back."""
    monkeypatch.setattr(metropolis, "accepted", decide)
    with pytest.raises(AssertionError):
        check_adjusted_variance(mala, 2.0, 1.0)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("n_leapfrog", [2, 4])
def test_hmc_has_no_bias(n_leapfrog: int, temperature: float) -> None:
    check_adjusted_variance(lambda *a, **k: hmc(*a, **k, n_leapfrog=n_leapfrog), 1.0, temperature)


def test_hmc_may_go_round_in_circles() -> None:
    """On N(0, 1) a leapfrog step of 1 turns (x, p) by 60°, on an ellipse: three of them end at −x, accepted always."""
    start = _randn(20, 2)
    x, share = hmc(_gaussian(), start, 5, 1.0, n_leapfrog=3, generator=_generator())
    torch.testing.assert_close(x, -start)
    assert (share == 1).all()


def test_mala_and_hmc_at_a_temperature_are_those_of_the_divided_energy() -> None:
    """exp(−E/T) with steps εT on E is exp(−(E/T)) with steps ε… : one chain in two languages."""
    energy, x, temperature = _target().energy, _randn(50, 2), 0.4
    divided: Callable[[Tensor], Tensor] = lambda x: energy(x) / temperature  # noqa: E731
    hot = mala(energy, x, 10, 0.3, temperature, generator=_generator())
    plain = mala(divided, x, 10, 0.3 * temperature, generator=_generator())
    torch.testing.assert_close(hot.x, plain.x)
    hot = hmc(energy, x, 10, 0.3, 3, temperature, generator=_generator())
    plain = hmc(divided, x, 10, 0.3 * math.sqrt(temperature), 3, generator=_generator())
    torch.testing.assert_close(hot.x, plain.x)
    hot = langevin_dynamics(energy, x, 10, 0.3, temperature, generator=_generator())
    torch.testing.assert_close(hot, langevin_dynamics(divided, x, 10, 0.3 * temperature, generator=_generator()))


# ── HMC ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_hmc_with_one_leapfrog_step_is_mala(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    energy, x = _target().energy, _randn(40, 2)
    one, ratios = _log_ratios(
        monkeypatch, lambda: hmc(energy, x, 8, 0.7, 1, temperature, _generator(), return_trajectory=True)
    )
    other, same = _log_ratios(
        monkeypatch, lambda: mala(energy, x, 8, 0.49, temperature, _generator(), return_trajectory=True)
    )
    torch.testing.assert_close(one.x, other.x)
    torch.testing.assert_close(torch.stack(ratios), torch.stack(same), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(one.acceptance, other.acceptance)


def test_leapfrog_keeps_the_energy_to_second_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a fixed time, the error of H falls by 4 when the step is halved."""
    energy, x = _target().energy, _randn(200, 2)
    errors = []
    for halvings in (4, 5):
        n = 4 * 2**halvings
        _, (log_ratio,) = _log_ratios(monkeypatch, lambda n=n: hmc(energy, x, 1, 1.0 / n, n, generator=_generator()))
        errors.append(log_ratio.abs().mean().item())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


# ── walls, NaN, and other ends ────────────────────────────────────────────


@pytest.mark.parametrize("sampler", [mala, hmc])
def test_walls_hold(sampler: Callable[..., Chains]) -> None:
    """E = +∞ outside of [0, 1]: without a warning, and uniform inside."""

    def box(x: Tensor) -> Tensor:
        inside = ((x > 0) & (x < 1)).all(1)
        return torch.where(inside, 0.0 * x.sum(1), math.inf)

    x, share = sampler(box, torch.full((4000, 1), 0.1), 60, 0.3, generator=_generator())
    assert ((x > 0) & (x < 1)).all()
    assert 0.05 < share.mean() < 0.99
    assert stats.kstest(x[:, 0].numpy(), "uniform").pvalue > LEVEL


@pytest.mark.parametrize("sampler", [mala, hmc])
def test_undefined_energies_are_not_accepted_and_not_hidden(sampler: Callable[..., Chains]) -> None:
    with pytest.warns(RuntimeWarning, match=r"of 400 proposals have an energy of NaN"):
        x, _ = sampler(lambda x: (x - x.log()).sum(1), torch.ones(20, 1), 20, 1.5, generator=_generator())
    assert (x > 0).all()


def _quartic(x: Tensor) -> Tensor:
    return x.pow(4).sum(1)


def test_diverged_chains_are_kept() -> None:
    """A quartic well is too steep for this step from |x| > 1 on; x grows like x³ until it overflows."""
    start = torch.tensor([[0.01], [5.0]])
    with pytest.raises(
        ChainsDivergedError, match=r"1 of 2 chains .* at step \d+ of size 1; .*largest_stable_step"
    ) as e:
        langevin_dynamics(_quartic, start, 50, 1.0, temperature=0.0)
    assert e.value.bad.tolist() == [False, True]
    assert e.value.x.isfinite().all()
    assert _quartic(e.value.x).isfinite().all()
    assert 1 <= e.value.step <= 10
    same = langevin_dynamics(_quartic, start, e.value.step - 1, 1.0, temperature=0.0)
    torch.testing.assert_close(e.value.x, same)  # nothing is lost, and nothing is made up
    assert isinstance(e.value, NonFiniteEnergyError)
    assert isinstance(e.value, ValueError)


def test_an_overflow_in_the_last_step_is_seen_too() -> None:
    with pytest.raises(ChainsDivergedError, match="1 of 1 chains") as e:
        langevin_dynamics(_gaussian(), torch.full((1, 1), 1e30), 1, 1e30, temperature=0.0)
    assert e.value.x.item() == pytest.approx(1e30)


@pytest.mark.parametrize("sampler", [langevin_dynamics, mala, hmc])
def test_a_start_without_an_energy_is_named(sampler: Callable) -> None:
    start = torch.tensor([[1.0], [-1.0]])
    with pytest.raises(ChainsDivergedError, match=r"1 of 2 chains .* before the first step") as e:
        sampler(lambda x: x.log().sum(1), start, 5, 0.1)
    torch.testing.assert_close(e.value.x, start)
    assert e.value.step == 0


class Watched(nn.Module):
    """An energy that remembers whether it was held still, and may fail."""

    def __init__(self, fails_at: int = -1) -> None:
        super().__init__()
        self.inner = EnergyMLP(2, 8, 1)
        self.inner.net[0].bias.requires_grad_(False)  # was frozen before
        self.dropout = nn.Dropout(0.5)
        self.fails_at, self.still = fails_at, []

    def forward(self, x: Tensor) -> Tensor:
        self.still.append(not any(p.requires_grad for p in self.parameters()) and not self.training)
        if len(self.still) == self.fails_at:
            raise KeyError("on purpose")
        return self.inner(self.dropout(x))


def check_held_still(sampler: Callable, fails_at: int) -> None:
    energy = Watched(fails_at).train()
    x = torch.zeros(3, 2)
    before = [p.requires_grad for p in energy.parameters()], [m.training for m in energy.modules()]
    try:
        sampler(energy, x, 3, 0.1, generator=_generator())
    except KeyError:
        assert fails_at > 0
    after = [p.requires_grad for p in energy.parameters()], [m.training for m in energy.modules()]
    assert after == before
    assert len(energy.still) >= 2
    assert all(energy.still)
    assert all(p.grad is None for p in energy.parameters())


@pytest.mark.parametrize("sampler", [langevin_dynamics, mala, hmc])
@pytest.mark.parametrize("fails_at", [-1, 2])
def test_parameters_are_frozen_while_sampling_and_put_back(sampler: Callable, fails_at: int) -> None:
    check_held_still(sampler, fails_at)


@pytest.mark.parametrize("sampler", [langevin_dynamics, mala, hmc])
def test_a_missing_freeze_is_found(sampler: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamics, "frozen", nullcontext)
    monkeypatch.setattr(metropolis, "frozen", nullcontext)
    with pytest.raises(AssertionError):
        check_held_still(sampler, -1)


@pytest.mark.parametrize("sampler", [langevin_dynamics, mala, hmc])
def test_samples_are_cut_from_every_graph(sampler: Callable) -> None:
    start = torch.zeros(3, 2, requires_grad=True)
    found = sampler(EnergyMLP(2, 8, 1), start, 3, 0.1, generator=_generator())
    x = found.x if isinstance(found, Chains) else found
    assert not x.requires_grad
    assert start.grad is None


@pytest.mark.parametrize("sampler", [langevin_dynamics, mala, hmc])
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": torch.zeros(3)}, ValueError, r"chains of shape \(B, ...\)"),
        ({"x": torch.zeros(0, 2)}, ValueError, "B >= 1"),
        ({"x": torch.zeros(3, 2, dtype=torch.int64)}, TypeError, "got torch.int64"),
        ({"x": [0.0]}, TypeError, "got list"),
        ({"n_steps": 0}, ValueError, "n_steps >= 1"),
        ({"step_size": 0.0}, ValueError, "step size > 0"),
        ({"step_size": math.nan}, ValueError, "step size > 0"),
        ({"temperature": -1.0}, ValueError, "temperature"),
        ({"energy": lambda x: x.sum()}, ValueError, "one energy per sample"),
        ({"energy": lambda x: x.detach().sum(1)}, ValueError, "depends on x"),
    ],
)
def test_mistakes_are_named(sampler: Callable, change: dict, error: type[Exception], words: str) -> None:
    right = {"energy": _gaussian(), "x": torch.zeros(3, 2), "n_steps": 2, "step_size": 0.1}
    with pytest.raises(error, match=words):
        sampler(**{**right, **change})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e, x: langevin_dynamics(e, x, 2, 0.1, grad_clip=0.0), "grad_clip > 0"),
        (lambda e, x: langevin_dynamics(e, x, 2, 0.1, clamp=(1.0, -1.0)), "lowest, highest"),
        (lambda e, x: langevin_dynamics(e, x, 2, 0.1, noise_scale=-1.0), "noise_scale >= 0"),
        (lambda e, x: mala(e, x, 2, 0.1, temperature=0.0), "temperature > 0"),
        (lambda e, x: hmc(e, x, 2, 0.1, n_leapfrog=0), "n_leapfrog >= 1"),
    ],
)
def test_options_out_of_range_are_named(call: Callable, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(_gaussian(), torch.zeros(3, 2))


# ── annealed Langevin dynamics ────────────────────────────────────────────

DATA_STD = 0.6


def _smoothed(x: Tensor, sigma: Tensor) -> Tensor:
    """Energy of N(0, s²) at noise level σ: exact."""
    return x.square().sum(1) / (2 * (DATA_STD**2 + sigma**2))


def _smoothed_score(x: Tensor, sigma: Tensor) -> Tensor:
    return -x / (DATA_STD**2 + sigma[:, None] ** 2)


SIGMAS = [3.0, 1.0, 0.3]


def _annealed_variance(n_steps: int, relative: float, temperature: float, start: float) -> float:
    """Step by step, level by level."""
    variance = start
    for sigma in SIGMAS:
        b = 1 - relative * sigma**2 / (2 * (DATA_STD**2 + sigma**2))
        for _ in range(n_steps):
            variance = b**2 * variance + relative * sigma**2 * temperature
    return variance


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("relative", [0.2, 1.5])
def test_annealed_variance_on_a_gaussian(relative: float, temperature: float) -> None:
    """Told apart from steps that are not scaled by σ² (a step of ε at every level) and from one step less."""
    n_steps = 6
    exact = _annealed_variance(n_steps, relative, temperature, 9.0)
    fewer = _annealed_variance(n_steps - 1, relative, temperature, 9.0)
    n = chains_to_see((fewer - exact) / exact)
    start = 3.0 * torch.randn(n, 1, generator=_generator(4))
    x = annealed_langevin_dynamics(_smoothed, start, SIGMAS, n_steps, relative, temperature, generator=_generator())
    near(x.square().mean().item(), exact, exact * math.sqrt(2 / n), fewer - exact)


def test_an_energy_and_its_score_give_the_same_chains() -> None:
    start = 3 * _randn(8, 2)
    runs = [
        annealed_langevin_dynamics(f, start, torch.tensor(SIGMAS), 4, generator=_generator(), return_trajectory=True)
        for f in (_smoothed, _smoothed_score)
    ]
    torch.testing.assert_close(runs[0], runs[1])
    assert runs[0].shape == (4, 8, 2)
    torch.testing.assert_close(runs[0][0], start)
    one_level = langevin_dynamics(
        lambda x: _smoothed(x, torch.full((8,), 3.0)), start, 4, 0.2 * 9.0, generator=_generator()
    )
    torch.testing.assert_close(runs[0][1], one_level)


def test_denoising_at_the_end_is_tweedies_formula() -> None:
    start = 3 * _randn(8, 2)
    noisy = annealed_langevin_dynamics(_smoothed, start, SIGMAS, 4, generator=_generator())
    clean, path = (
        annealed_langevin_dynamics(
            _smoothed, start, SIGMAS, 4, denoise_last=True, generator=_generator(), return_trajectory=more
        )
        for more in (False, True)
    )
    torch.testing.assert_close(clean, noisy * DATA_STD**2 / (DATA_STD**2 + 0.3**2))
    torch.testing.assert_close(path[-1], clean)


def test_annealed_dynamics_take_modules_methods_and_labels() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.tensor([0.0, 5.0]))
            self.still: list[bool] = []

        def forward(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
            self.still.append(not self.shift.requires_grad)
            return (x - self.shift[label][:, None]).square().sum(1) / (2 * (0.01 + sigma**2))

    energy, label = Shifted(), torch.tensor([0, 1, 1])
    x = annealed_langevin_dynamics(
        energy, torch.zeros(3, 1), [2.0, 0.1], 60, 0.5, 0.01, label=label, generator=_generator()
    )
    torch.testing.assert_close(x, torch.tensor([[0.0], [5.0], [5.0]]), atol=0.2, rtol=0)
    assert all(energy.still)
    assert energy.shift.requires_grad
    network = InnerProductEnergy(TimeMLP(2, 8, 1))
    start = torch.zeros(5, 2)
    runs = [
        annealed_langevin_dynamics(f, start, [1.0, 0.5], 3, generator=_generator()) for f in (network, network.score)
    ]
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sigmas": []}, "decreasing noise levels"),
        ({"sigmas": [1.0, 2.0]}, "decreasing noise levels"),
        ({"sigmas": [1.0, 0.0]}, "decreasing noise levels > 0"),
        ({"relative_step": 4.0}, "below 4, where Langevin dynamics is unstable"),
        ({"relative_step": 0.0}, "step size > 0"),
        ({"n_steps": 0}, "n_steps >= 1"),
        ({"temperature": -0.1}, "temperature >= 0"),
        ({"energy_or_score": lambda x, sigma: x[:, :1].expand(-1, 3)}, r"got \(3, 3\)"),
    ],
)
def test_mistakes_in_annealing_are_named(change: dict, words: str) -> None:
    right = {"energy_or_score": _smoothed, "x": torch.zeros(3, 2), "sigmas": SIGMAS, "n_steps": 2}
    with pytest.raises(ValueError, match=words):
        annealed_langevin_dynamics(**{**right, **change})


def test_scores_that_are_not_finite_are_seen() -> None:
    start = torch.tensor([[1.0], [-1.0]])
    with pytest.raises(ChainsDivergedError) as e:
        annealed_langevin_dynamics(lambda x, sigma: x.log(), start, [1.0], 3)
    assert e.value.bad.tolist() == [False, True]


def test_chains_are_kept_when_only_the_last_denoising_fails() -> None:
    calls = []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(x)
        return x / 0 if len(calls) == 5 else -x  # the first call asks for the shape only

    with pytest.raises(ChainsDivergedError) as e:
        annealed_langevin_dynamics(score, torch.ones(2, 1), [1.0], 3, denoise_last=True, generator=_generator())
    torch.testing.assert_close(e.value.x, calls[-1])


# ── the replay buffer ─────────────────────────────────────────────────────


def _zeros(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.zeros(n, 2)


def _lived_in(**options: object) -> ReplayBuffer:
    """Chains that have moved to 1 … capacity; those that start anew would be at 0."""
    buffer = ReplayBuffer(500, (2,), initial=_zeros, **options)
    buffer.put(torch.arange(500), torch.arange(1.0, 501.0)[:, None].expand(-1, 2))
    return buffer


@pytest.mark.parametrize("restart", [0.0, 0.05, 0.3, 1.0])
def test_restarts_have_their_rate(restart: float) -> None:
    """Of n draws the share has standard error √(p(1 − p)/n); to be told from no restarts at all."""
    buffer, generator, n = _lived_in(restart=restart), _generator(), 0
    fresh = 0
    for _ in range(60 if restart < 0.2 else 20):
        x, _ = buffer.draw(400, generator)
        fresh += int((x == 0).all(1).sum())
        n += 400
    if restart in (0.0, 1.0):
        assert fresh == restart * n
    else:
        near(fresh / n, restart, math.sqrt(restart * (1 - restart) / n), bias=restart)


def test_drawn_chains_are_different_and_evenly_chosen() -> None:
    """Each chain is drawn with probability n/capacity; a χ² test of how often, at the level of the other tests."""
    buffer, generator = _lived_in(restart=0.0), _generator()
    counts = torch.zeros(500)
    for _ in range(200):
        x, index = buffer.draw(50, generator)
        assert len(index.unique()) == 50
        torch.testing.assert_close(x[:, 0], index + 1.0)
        counts[index] += 1
    # Draws without replacement scatter less than independent ones, by the factor 1 − n/capacity.
    statistic = ((counts - 20).square() / 20).sum().item() / (1 - 50 / 500)
    assert LEVEL < stats.chi2.sf(statistic, df=499) < 1 - LEVEL


def test_chains_go_back_where_they_came_from() -> None:
    buffer = _lived_in(restart=0.2)
    kept = buffer.chains.clone()
    x, index = buffer.draw(100, _generator())
    x += 1000  # a copy: what is kept does not change
    torch.testing.assert_close(buffer.chains, kept, rtol=0, atol=0)
    buffer.put(index, x)
    torch.testing.assert_close(buffer.chains[index], x)
    others = torch.ones(500, dtype=torch.bool)
    others[index] = False
    torch.testing.assert_close(buffer.chains[others], kept[others])


def test_ages_count_from_the_last_start() -> None:
    buffer, generator = ReplayBuffer(10, (2,), restart=1.0, initial=_zeros), _generator()
    assert buffer.ages.tolist() == [0] * 10
    for _ in range(3):
        x, index = buffer.draw(10, generator)
        buffer.put(index, x)
    assert buffer.ages.tolist() == [1] * 10
    buffer.restart = 0.0
    x, index = buffer.draw(4, generator)
    buffer.put(index, x)
    assert sorted(buffer.ages.tolist()) == [1] * 6 + [2] * 4


def test_no_gradients_leak_through_the_buffer() -> None:
    weight = nn.Parameter(torch.ones(2))
    buffer = ReplayBuffer(
        20, (2,), restart=0.5, initial=lambda n, g: weight * torch.ones(n, 2), augment=lambda x, g: weight * x
    )
    assert not buffer.chains.requires_grad
    x, index = buffer.draw(10, _generator())
    assert not x.requires_grad
    buffer.put(index, weight * x)
    assert not buffer.chains.requires_grad
    assert buffer.chains.grad_fn is None
    state = buffer.state_dict()
    assert not state["chains"].requires_grad


def test_only_chains_that_go_on_are_augmented() -> None:
    buffer = _lived_in(restart=0.3, augment=lambda x, generator: -x)
    x, index = buffer.draw(400, _generator())
    fresh = (x == 0).all(1)
    assert 0 < fresh.sum() < 400
    torch.testing.assert_close(x[~fresh, 0], -(index[~fresh] + 1.0))


def test_the_first_chains_are_noise_of_the_range_of_images() -> None:
    buffer = ReplayBuffer(3000, (1, 2, 2), generator=_generator())
    assert len(buffer) == 3000
    assert buffer.chains.dtype == torch.float32
    assert stats.kstest(buffer.chains.flatten().numpy(), stats.uniform(-1, 2).cdf).pvalue > LEVEL
    again = ReplayBuffer(3000, (1, 2, 2), generator=_generator())
    torch.testing.assert_close(buffer.chains, again.chains, rtol=0, atol=0)


def test_a_buffer_survives_being_saved() -> None:
    """Through a file format of tensors; then both go on in the same way."""
    buffer = _lived_in(restart=0.2)
    saved = safetensors.torch.load(safetensors.torch.save(buffer.state_dict()))
    other = ReplayBuffer(500, (2,), restart=0.2, initial=_zeros)
    other.load_state_dict(saved)
    for first, second in zip(buffer.draw(50, _generator(6)), other.draw(50, _generator(6)), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(buffer.ages, other.ages)
    other.put(torch.tensor([0]), torch.full((1, 2), 77.0))
    assert saved["chains"][0, 0] == 1.0  # a copy


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda b: ReplayBuffer(0, (2,)), "capacity >= 1"),
        (lambda b: ReplayBuffer(5, (2,), restart=1.5), r"probability in \[0, 1\]"),
        (lambda b: ReplayBuffer(5, (3,), initial=_zeros), r"initial states of shape \(5, 3\)"),
        (lambda b: b.draw(0), "between 1 and 500"),
        (lambda b: b.draw(501), "between 1 and 500"),
        (lambda b: b.put(torch.tensor([0, 1]), torch.zeros(2, 3)), r"states of shape \(2, 2\)"),
        (lambda b: b.put(torch.tensor([0, 0]), torch.zeros(2, 2)), "different numbers"),
        (lambda b: b.put(torch.tensor([-1]), torch.zeros(1, 2)), "from 0 to 499"),
        (lambda b: b.put(torch.tensor([500]), torch.zeros(1, 2)), "from 0 to 499"),
        (lambda b: b.put(torch.tensor([0.0]), torch.zeros(1, 2)), "index that draw gave"),
        (lambda b: b.put(torch.tensor([0]), torch.full((1, 2), math.nan)), "1 of 1 that are not"),
        (lambda b: b.load_state_dict({"chains": torch.zeros(500, 2)}), "expected .*ages"),
        (lambda b: b.load_state_dict({"chains": torch.zeros(4, 2), "ages": torch.zeros(4)}), r"shape \(500, 2\)"),
        (lambda b: _lived_in(augment=lambda x, g: x[:1]).draw(9), "augmented states"),
    ],
)
def test_mistakes_with_buffers_are_named_and_change_nothing(call: Callable, words: str) -> None:
    buffer = _lived_in()
    before = buffer.state_dict()
    with pytest.raises(ValueError, match=words):
        call(buffer)
    assert all(torch.equal(value, before[name]) for name, value in buffer.state_dict().items())


# ── diagnostics ───────────────────────────────────────────────────────────


def _autoregression(n: int, chains: int, rho: float, seed: int = 0) -> Tensor:
    """Stationary chains of variance 1 with correlation ρ^k: (n, chains)."""
    noise = _randn(n, chains, seed=seed)
    states = [noise[0]]
    for fresh in noise[1:]:
        states.append(rho * states[-1] + math.sqrt(1 - rho**2) * fresh)
    return torch.stack(states)


def test_autocorrelation_by_its_definition() -> None:
    x = _randn(13, 2, 3)
    centred = x - x.mean(0)
    for lag, found in enumerate(autocorrelation(x, 5)):
        by_hand = (centred[lag:] * centred[: 13 - lag]).sum(0) / centred.square().sum(0)
        torch.testing.assert_close(found, by_hand)
    assert autocorrelation(x).shape == (13, 2, 3)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.9])
def test_autocorrelation_of_an_autoregression(rho: float) -> None:
    """Bartlett: the estimate of ρ from n states has standard error √((1 − ρ²)/n)."""
    n, chains = 4000, 20
    found = autocorrelation(_autoregression(n, chains, rho), 1)[1].mean().item()
    assert abs(found - rho) < 4 * math.sqrt((1 - rho**2) / (n * chains)) + (1 + 4 * abs(rho)) / n


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.6, 0.95])
def test_effective_sample_size_of_an_autoregression(rho: float) -> None:
    """nB(1 − ρ)/(1 + ρ); told from nB itself, and from half of it (pairs counted once)."""
    n, chains = 4000, 10
    found = effective_sample_size(_autoregression(n, chains, rho)).item()
    assert found == pytest.approx(n * chains * (1 - rho) / (1 + rho), rel=0.15)


def test_effective_sample_size_is_that_of_the_mean_over_many_runs() -> None:
    """What it is for: the variance of the mean of n states is 1/ESS. 400 means give it to √(2/400) = 7 %."""
    rho, n = 0.7, 300
    series = _autoregression(n, 400, rho, seed=3)
    predicted = effective_sample_size(_autoregression(n * 40, 4, rho)).item() / 160
    assert 1 / series.mean(0).var().item() == pytest.approx(predicted, rel=4 * math.sqrt(2 / 400))


def test_effective_sample_size_sees_chains_that_do_not_mix() -> None:
    apart = _randn(500, 4) + torch.tensor([0.0, 0.0, 5.0, 5.0])
    assert effective_sample_size(apart) < 20
    together = _randn(500, 4, 2)
    assert effective_sample_size(together).shape == (2,)
    assert (effective_sample_size(together) > 1500).all()
    assert effective_sample_size(torch.ones(10, 2)).isnan()
    assert effective_sample_size(torch.full((1000, 2), 0.1)).isnan()  # whose mean is rounded


def test_what_does_not_move_has_no_autocorrelation() -> None:
    series = torch.full((1000, 2), 0.1, dtype=torch.float64)
    assert autocorrelation(series, 3).isnan().all()
    series[500, 1] = 0.2
    assert autocorrelation(series, 3).isnan().all(0).tolist() == [True, False]


def test_chains_stuck_at_different_places_have_an_infinite_r_hat() -> None:
    stuck = torch.tensor([0.25, 0.5]).expand(100, 2)
    assert r_hat(stuck).item() == math.inf


def test_the_largest_step_of_what_has_no_curvature_and_of_what_is_no_batch() -> None:
    layer = nn.Linear(2, 1)
    points = torch.zeros(2, 2)
    assert largest_stable_step(lambda x: layer(x).squeeze(1), points).tolist() == [math.inf, math.inf]
    with pytest.raises(TypeError, match="floating-point"):
        largest_stable_step(lambda x: x.square().sum(1), points.long())
    with pytest.raises(ValueError, match=r"shape \(B, ...\)"):
        largest_stable_step(lambda x: x.square(), torch.zeros(3))


def test_r_hat_by_its_definition() -> None:
    x = _randn(10, 3)
    halves = np.concatenate([x[:5].numpy(), x[5:].numpy()], axis=1)
    within = halves.var(0, ddof=1).mean()
    between = 5 * halves.mean(0).var(ddof=1)
    assert r_hat(x).item() == pytest.approx(math.sqrt((4 / 5 * within + between / 5) / within))


def test_r_hat_sees_chains_apart_and_chains_on_the_way() -> None:
    assert r_hat(_randn(2000, 4)).item() == pytest.approx(1, abs=0.01)
    shift = torch.tensor([-1.0, 1.0, -1.0, 1.0])  # between variance 8/7 of 8 half chains: R̂² = 1 + 8/7
    assert r_hat(_randn(5000, 4) + shift).item() == pytest.approx(math.sqrt(1 + 8 / 7), rel=0.02)
    drift = torch.linspace(-3, 3, 2000)[:, None]
    assert r_hat(_randn(2000, 1) + drift) > 1.5  # one chain, that has not arrived
    assert r_hat(_randn(20, 4, 3, 2)).shape == (3, 2)


def test_acceptance_counts_what_was_accepted() -> None:
    run = mala(_target().energy, _randn(30, 2), 40, 0.8, generator=_generator(), return_trajectory=True)
    torch.testing.assert_close(acceptance(run.x), run.acceptance)
    assert 0.3 < run.acceptance.mean() < 0.99
    assert len(run.acceptance.unique()) > 3  # each chain has its own
    torch.testing.assert_close(acceptance(run.x[..., 0]), run.acceptance)
    one_pixel = torch.zeros(3, 2, 1, 4)
    one_pixel[1:, 0, 0, 2] = 1.0  # one number of one chain moves, once in two steps
    assert acceptance(one_pixel).tolist() == [0.5, 0.0]


@pytest.mark.parametrize("function", [autocorrelation, effective_sample_size, r_hat, acceptance])
def test_diagnostics_want_trajectories(function: Callable) -> None:
    with pytest.raises(ValueError, match=r"expected a trajectory \(n, B, ...\)"):
        function(torch.zeros(100))
    with pytest.raises(ValueError, match=r"got \(1, 3\)"):
        function(torch.zeros(1, 3))


def test_lags_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="max_lag from 0 to 4"):
        autocorrelation(torch.zeros(5, 2), 5)


def test_the_stability_limit_is_found_from_the_curvature() -> None:
    """4/λ_max at each point; a step below it contracts there, and one above does not."""
    covariance = torch.tensor([[[0.5, -0.3], [-0.3, 0.4]]])
    gaussian = GaussianMixture(torch.zeros(1, 2), covariance)
    exact = 4 * torch.linalg.eigvalsh(covariance[0])[0].item()
    found = largest_stable_step(gaussian.energy, _randn(5, 2), generator=_generator())
    torch.testing.assert_close(found, torch.full((5,), exact, dtype=torch.float64), rtol=1e-6, atol=0)
    start = _randn(5, 2, seed=4)
    for factor, settles in ((0.9, True), (1.1, False)):
        x = langevin_dynamics(gaussian.energy, start, 100, factor * exact, temperature=0.0)
        assert (x.norm(dim=1) < start.norm(dim=1)).all() == settles
    torch.testing.assert_close(
        largest_stable_step(_quartic, torch.tensor([[1.0], [2.0]]), generator=_generator()),
        torch.tensor([1 / 3, 1 / 12]),
    )
    assert largest_stable_step(lambda x: x.sum(1), torch.ones(2, 3)).tolist() == [math.inf] * 2
    with pytest.raises(ValueError, match="n_iterations >= 1"):
        largest_stable_step(_quartic, torch.ones(1, 1), n_iterations=0)


# ── an independent implementation ─────────────────────────────────────────


@pytest.fixture
def torchebm_model() -> Callable:
    """The target as torchebm's kind of model; whatever its modules warn of on import is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core = pytest.importorskip("torchebm.core")

    class Model(core.BaseModel):
        def forward(self, x: Tensor) -> Tensor:
            return _target().energy(x).to(x.dtype)

    return Model


@pytest.mark.parametrize(("step_size", "temperature"), [(0.02, 1.0), (0.5, 1.0), (0.3, 0.25)])
def test_langevin_dynamics_agree_with_torchebm(torchebm_model: Callable, step_size: float, temperature: float) -> None:
    """Its step is α = ε/2, its noise √(2α)·noise_scale: T = noise_scale². Same noise, same chains."""
    samplers = pytest.importorskip("torchebm.samplers")
    start = _randn(30, 2)
    peer = samplers.LangevinDynamics(
        torchebm_model(dtype=torch.float64),
        step_size=step_size / 2,
        noise_scale=math.sqrt(temperature),
        dtype=torch.float64,
        device="cpu",
    )
    theirs = peer.sample(x=start, n_steps=25, generator=_generator(9))
    ours = langevin_dynamics(_target().energy, start, 25, step_size, temperature, generator=_generator(9))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_hmc_agrees_with_torchebm(torchebm_model: Callable) -> None:
    """In float32, whose uniform numbers both draw."""
    samplers = pytest.importorskip("torchebm.samplers")
    start = _randn(30, 2).float()
    peer = samplers.HamiltonianMonteCarlo(torchebm_model(), step_size=0.45, n_leapfrog_steps=3, device="cpu")
    theirs = peer.sample(x=start, n_steps=10, generator=_generator(9))
    ours = hmc(lambda x: _target().energy(x).float(), start, 10, 0.45, 3, generator=_generator(9))
    assert 0.3 < ours.acceptance.mean() < 0.99
    torch.testing.assert_close(ours.x, theirs, rtol=1e-3, atol=1e-3)
