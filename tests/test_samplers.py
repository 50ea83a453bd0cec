"""Tests of helpers.samplers: steps against closed forms and `diffusers`, runs against densities known exactly."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from helpers.diffusion import Parametrization, convert, predict_x0, q_sample
from helpers.oracle import FiniteData, GaussianMixture, exact_eps_model, standard_gaussian
from helpers.samplers import (
    DDIMSampler,
    DDPMSampler,
    Trajectory,
    ddim_encode,
    ddim_step,
    ddpm_step,
    evaluating,
    sample,
    spaced_timesteps,
)
from helpers.schedules import CosineSchedule, LinearSchedule, NoiseSchedule

SCHEDULES = {
    "linear": LinearSchedule(1000),
    "cosine": CosineSchedule(1000),
    "short": LinearSchedule(20, 0.005, 0.6),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
COARSE = LinearSchedule(200, 5e-4, 0.1)  # the linear schedule at a fifth of the steps: same noise at the end
EVERY_SAMPLER = {
    "ddpm": DDPMSampler(COARSE),
    "ddpm-beta": DDPMSampler(COARSE, variance="beta"),
    "ddim": DDIMSampler(COARSE, 200),
    "ddim-half": DDIMSampler(COARSE, 200, eta=0.5),
}
every_sampler = pytest.mark.parametrize("sampler", EVERY_SAMPLER.values(), ids=EVERY_SAMPLER)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs_of(schedule: NoiseSchedule) -> list[tuple[int, int]]:
    """Steps (t, t_prev) to try: neighbours, long strides, the ends."""
    last = schedule.n_steps - 1
    return [
        (last, last - 1),
        (last, last // 3),
        (last // 2, last // 2 - 1),
        (last // 2, 0),
        (1, 0),
        (last, -1),
        (0, -1),
    ]


# ── which timesteps ───────────────────────────────────────────────────────


@pytest.mark.parametrize("total", [1, 7, 50, 1000])
def test_spaced_timesteps_walk_from_the_end_to_minus_one_in_equal_strides(total: int) -> None:
    for n in sorted({1, 2, 3, total // 3, total - 1, total} & set(range(1, total + 1))):
        walk = (*spaced_timesteps(total, n), -1)
        strides = [a - b for a, b in itertools.pairwise(walk)]
        assert walk[0] == total - 1
        assert len(strides) == n
        assert min(strides) >= 1
        assert max(abs(stride - total / n) for stride in strides) < 1
    assert spaced_timesteps(total, total) == tuple(range(total - 1, -1, -1))


@pytest.mark.parametrize("n", [0, -1, 11])
def test_spaced_timesteps_names_what_it_wants(n: int) -> None:
    with pytest.raises(ValueError, match="n_steps from 1 to 10, got"):
        spaced_timesteps(10, n)


@pytest.mark.parametrize("make", [DDPMSampler, DDIMSampler])
def test_samplers_take_a_number_or_a_sequence(make: type) -> None:
    schedule = SCHEDULES["linear"]
    assert make(schedule, 4).timesteps == spaced_timesteps(1000, 4)
    assert make(schedule, [900, 17, 3]).timesteps == (900, 17, 3)
    assert make(schedule, torch.tensor([5, 2])).timesteps == (5, 2)
    assert make(schedule, None).timesteps == tuple(range(999, -1, -1))
    for wrong in ([], [3, 3], [3, 5], [1000, 2], [4, -1]):
        with pytest.raises(ValueError, match="strictly decreasing timesteps"):
            make(schedule, wrong)
    with pytest.raises(ValueError, match="n_steps from 1"):
        make(schedule, 1001)


# ── one step ──────────────────────────────────────────────────────────────


@every_schedule
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ddpm_step_is_algorithm_2_of_the_paper(schedule: NoiseSchedule, variance: str) -> None:
    """x_{t−1} = (x_t − β_t/√(1 − ᾱ_t) ε̂)/√α_t + σξ, with the formulas written out once more."""
    x_t, eps, noise = normal(3, 2), normal(3, 2, seed=1), normal(3, 2, seed=2)
    for t in (1, 7, schedule.n_steps // 2, schedule.n_steps - 1):
        beta, a, a_prev = (float(v) for v in (schedule.beta(t), schedule.alpha_bar(t), schedule.alpha_bar(t - 1)))
        sigma2 = beta if variance == "beta" else beta * (1 - a_prev) / (1 - a)
        expected = (x_t - beta / math.sqrt(1 - a) * eps) / math.sqrt(1 - beta) + math.sqrt(sigma2) * noise
        x_0 = predict_x0(eps, x_t, t, schedule)
        torch.testing.assert_close(
            ddpm_step(x_0, x_t, t, t - 1, schedule, noise, variance), expected, rtol=1e-9, atol=1e-9
        )


@every_schedule
def test_ddim_keeps_the_marginal_whatever_eta_is(schedule: NoiseSchedule) -> None:
    """With the true x_0, the step's coefficients of x_0, ε and ξ must make N(√ᾱ_s x_0, 1 − ᾱ_s)."""
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    for (t, s), eta in itertools.product(pairs_of(schedule), (0.0, 0.3, 1.0)):
        a_s = float(schedule.alpha_bar(s))
        mean = ddim_step(one, q_sample(one, t, zero, schedule), t, s, schedule, zero, eta)
        of_eps = ddim_step(zero, q_sample(zero, t, one, schedule), t, s, schedule, zero, eta)
        of_xi = ddim_step(zero, zero, t, s, schedule, one, eta)
        torch.testing.assert_close(mean, one * math.sqrt(a_s), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(of_eps**2 + of_xi**2, one * (1 - a_s), rtol=1e-7, atol=1e-12)
        assert (float(of_xi) > 0) == (eta > 0 and s >= 0)


@every_schedule
def test_ddim_with_eta_one_is_ddpm_with_the_posterior_variance(schedule: NoiseSchedule) -> None:
    x_0, x_t, noise = normal(4, 3), normal(4, 3, seed=1), normal(4, 3, seed=2)
    for t, s in pairs_of(schedule):
        ancestral = ddpm_step(x_0, x_t, t, s, schedule, noise)
        torch.testing.assert_close(ddim_step(x_0, x_t, t, s, schedule, noise, 1.0), ancestral, rtol=1e-7, atol=1e-9)


@every_schedule
def test_ddim_is_an_euler_step_of_the_probability_flow_ode(schedule: NoiseSchedule) -> None:
    """In y = x/√ᾱ and σ the ODE is dy/dσ = ε̂, and the step y_s = y_t + (σ_s − σ_t) ε̂, down or up."""
    x_t, eps = normal(4, 3), normal(4, 3, seed=1)
    steps = pairs_of(schedule) + [(s, t) for t, s in pairs_of(schedule) if s >= 0]
    for t, s in steps:
        y_t = x_t / schedule.alpha_bar(t).sqrt()
        y_s = y_t + (schedule.sigma(s) - schedule.sigma(t)) * eps
        x_s = ddim_step(predict_x0(eps, x_t, t, schedule), x_t, t, s, schedule)
        torch.testing.assert_close(x_s, schedule.alpha_bar(s).sqrt() * y_s, rtol=1e-9, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_which_variance_is_exact_for_which_data(schedule: NoiseSchedule, variance: str) -> None:
    """Law of total variance: Var[x_s | x_t] = β̃ + c_0² Var[x_0 | x_t]; β̃ for a point, β for N(0, 1)."""
    var_x0 = {"posterior": lambda a: 0.0, "beta": lambda a: 1 - a}[variance]
    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    for t, s in pairs_of(schedule)[:5]:
        c_0 = ddpm_step(one, zero, t, s, schedule, zero)
        smallest = ddpm_step(zero, zero, t, s, schedule, one)  # √β̃
        wanted = smallest**2 + c_0**2 * var_x0(float(schedule.alpha_bar(t)))
        sigma = ddpm_step(zero, zero, t, s, schedule, one, variance)
        torch.testing.assert_close(sigma**2, wanted, rtol=1e-8, atol=1e-12)


@every_schedule
def test_the_last_step_returns_the_guess_of_the_clean_image(schedule: NoiseSchedule) -> None:
    x_0, x_t, noise = normal(4, 3), normal(4, 3, seed=1), normal(4, 3, seed=2)
    for t in (0, 5, schedule.n_steps - 1):
        for variance in ("posterior", "beta"):
            assert torch.equal(ddpm_step(x_0, x_t, t, -1, schedule, None, variance), x_0)
        for eta in (0.0, 0.5, 1.0):
            torch.testing.assert_close(ddim_step(x_0, x_t, t, -1, schedule, noise, eta), x_0, rtol=0, atol=1e-12)


def test_steps_name_what_they_want() -> None:
    schedule, x = SCHEDULES["linear"], normal(2, 2)
    with pytest.raises(ValueError, match="variance 'posterior' or 'beta', got 'learned'"):
        ddpm_step(x, x, 5, 4, schedule, x, "learned")
    with pytest.raises(ValueError, match="t_prev < t"):
        ddpm_step(x, x, 5, 5, schedule, x)
    with pytest.raises(ValueError, match="expected noise"):
        ddpm_step(x, x, 5, 4, schedule, None)
    with pytest.raises(ValueError, match=r"eta in \[0, 1\], got 1.5"):
        ddim_step(x, x, 5, 4, schedule, x, 1.5)
    with pytest.raises(ValueError, match=r"eta in \[0, 1\], got -0.1"):
        DDIMSampler(schedule, eta=-0.1)
    with pytest.raises(ValueError, match="expected noise for eta > 0"):
        ddim_step(x, x, 5, 4, schedule, None, 0.5)
    with pytest.raises(ValueError, match="t_prev < t"):
        ddim_step(x, x, 5, 6, schedule, x, 0.5)
    with pytest.raises(ValueError, match="t >= 0, got t = -1"):
        ddim_step(x, x, -1, 5, schedule)
    with pytest.raises(ValueError, match="shape"):
        ddpm_step(x[:1], x, 5, 4, schedule, x)


# ── against an independent implementation ─────────────────────────────────


def toy_network(x: Tensor, t: Tensor) -> Tensor:
    """Some smooth function of x and t: schedulers must agree on anything."""
    return torch.tanh(0.7 * x + 0.002 * t.double().reshape(-1, *[1] * (x.ndim - 1)))


def our_run(sampler: DDPMSampler | DDIMSampler, x: Tensor, noises: Tensor) -> list[Tensor]:
    states = []
    for k, (t, t_prev) in enumerate(itertools.pairwise((*sampler.timesteps, -1))):
        x_0 = predict_x0(toy_network(x, torch.full((len(x),), t)), x, t, sampler.schedule)
        x = sampler.step(x_0, x, t, t_prev, noises[k])
        states.append(x)
    return states


@pytest.mark.parametrize(("variance", "theirs"), [("posterior", "fixed_small"), ("beta", "fixed_large")])
@pytest.mark.parametrize("steps", [None, 50, [199, 150, 60, 59, 20, 3]], ids=["full", "spaced", "chosen"])
@pytest.mark.parametrize("schedule", [COARSE, CosineSchedule(200)], ids=["linear", "cosine"])
def test_ddpm_runs_as_diffusers(
    schedule: NoiseSchedule, steps: int | list[int] | None, variance: str, theirs: str
) -> None:
    """The same network and noise, step by step. Its scheduler draws the noise itself: from our seed, in our order."""
    diffusers = pytest.importorskip("diffusers")
    sampler = DDPMSampler(schedule, steps, variance)
    scheduler = diffusers.DDPMScheduler(
        schedule.n_steps, trained_betas=schedule.betas.numpy(), variance_type=theirs, clip_sample=False
    )
    scheduler.set_timesteps(timesteps=list(sampler.timesteps))
    x = normal(3, 2, 4)
    generator, same = torch.Generator().manual_seed(9), torch.Generator().manual_seed(9)
    noises = torch.stack([torch.randn(x.shape, generator=same, dtype=x.dtype) for _ in sampler.timesteps])
    ours = our_run(sampler, x, noises)
    last = sampler.timesteps[-1]
    if variance == "beta" and last > 0:
        # It leaves out the noise at t = 0 only; here the step to the clean image has none, wherever it starts.
        ours[-1] = ours[-1] + (1 - schedule.alpha_bar(last)).sqrt() * noises[-1]
    for t, expected in zip(sampler.timesteps, ours, strict=True):
        x = scheduler.step(toy_network(x, torch.full((len(x),), t)), t, x, generator=generator).prev_sample
        torch.testing.assert_close(x, expected, rtol=2e-4, atol=2e-4)  # its ᾱ is float32


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("n", [200, 50, 8])
@pytest.mark.parametrize("schedule", [COARSE, CosineSchedule(200)], ids=["linear", "cosine"])
def test_ddim_runs_as_diffusers(schedule: NoiseSchedule, n: int, eta: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    sampler = DDIMSampler(schedule, n, eta)
    scheduler = diffusers.DDIMScheduler(
        schedule.n_steps,
        trained_betas=schedule.betas.numpy(),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(n)
    assert tuple(scheduler.timesteps.tolist()) == sampler.timesteps
    x, noises = normal(3, 2, 4), normal(n, 3, 2, 4, seed=1)
    ours = our_run(sampler, x, noises)
    for k, t in enumerate(sampler.timesteps):
        eps = toy_network(x, torch.full((len(x),), t))
        x = scheduler.step(eps, t, x, eta=eta, variance_noise=noises[k] if eta > 0 else None).prev_sample
        torch.testing.assert_close(x, ours[k], rtol=2e-4, atol=2e-4)


# ── whole runs with an exact denoiser ─────────────────────────────────────

MIXTURE = GaussianMixture(
    torch.tensor([[-1.5, 0.5], [1.0, -1.0]]),
    torch.tensor([[[0.30, 0.15], [0.15, 0.20]], [[0.10, -0.05], [-0.05, 0.25]]]),
    torch.tensor([0.3, 0.7]),
)


def worst_z_score(samples: Tensor, mixture: GaussianMixture) -> float:
    """Largest deviation of weight, means and covariances of the (well separated) modes, in standard errors."""
    of_mode = mixture.responsibilities(samples).argmax(1)
    scores = []
    for k in range(len(mixture.means)):
        points, w = samples[of_mode == k], float(mixture.weights[k])
        n, covariance = len(points), mixture.covariances[k]
        scores.append(abs(n / len(samples) - w) / math.sqrt(w * (1 - w) / len(samples)))
        scores += ((points.mean(0) - mixture.means[k]).abs() / (covariance.diagonal() / n).sqrt()).tolist()
        # Wishart: Var[S_ij] = (Σ_ij² + Σ_ii Σ_jj)/(n − 1)
        spread = (covariance**2 + torch.outer(covariance.diagonal(), covariance.diagonal())) / (n - 1)
        scores += ((torch.cov(points.T) - covariance).abs() / spread.sqrt()).flatten().tolist()
    return max(scores)


def test_the_yardstick_passes_true_samples() -> None:
    assert worst_z_score(MIXTURE.sample(4_000, torch.Generator().manual_seed(0)), MIXTURE) < 4


@every_sampler
def test_an_exact_denoiser_gives_the_mixture_back(sampler: DDPMSampler | DDIMSampler) -> None:
    model = exact_eps_model(MIXTURE, COARSE)
    samples = sample(model, sampler, normal(4_000, 2), torch.Generator().manual_seed(1))
    assert worst_z_score(samples, MIXTURE) < 5


@pytest.mark.parametrize("sampler", [DDPMSampler(COARSE, 10), DDIMSampler(COARSE, 5)], ids=["ddpm", "ddim"])
def test_the_yardstick_sees_the_bias_of_few_steps(sampler: DDPMSampler | DDIMSampler) -> None:
    samples = sample(exact_eps_model(MIXTURE, COARSE), sampler, normal(4_000, 2), torch.Generator().manual_seed(1))
    assert worst_z_score(samples, MIXTURE) > 12


def gain_and_noise(sampler: DDPMSampler | DDIMSampler, t: int, s: int, s2: float) -> tuple[float, float]:
    """On N(0, s²) data a step is x_s = k x_t + σξ: k and σ², written out (Tweedie, then the posterior or DDIM)."""
    a, a_s = float(sampler.schedule.alpha_bar(t)), float(sampler.schedule.alpha_bar(s))
    step, shrink = 1 - a / a_s, math.sqrt(a) * s2 / (a * s2 + 1 - a)  # E[x_0 | x_t] = shrink · x_t
    if isinstance(sampler, DDIMSampler):
        return math.sqrt(a_s) * shrink + math.sqrt(1 - a_s) * (1 - math.sqrt(a) * shrink) / math.sqrt(1 - a), 0.0
    k = (math.sqrt(a_s) * step * shrink + math.sqrt(a / a_s) * (1 - a_s)) / (1 - a)
    return k, 0.0 if s == -1 else step if sampler.variance == "beta" else step * (1 - a_s) / (1 - a)


@pytest.mark.parametrize("s2", [0.01, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("steps", [3, 20, None])
def test_variance_along_a_run_on_gaussian_data(s2: float, steps: int | None) -> None:
    """The recursion v ← k²v + σ², against the samplers' steps fed with unit vectors: no noise, no tolerance for it."""
    model = exact_eps_model(GaussianMixture(torch.zeros(1, 1), s2), COARSE)
    one = torch.ones(1, 1, dtype=torch.float64)
    for sampler in (DDPMSampler(COARSE, steps), DDPMSampler(COARSE, steps, "beta"), DDIMSampler(COARSE, steps)):
        v = ours = 1.0
        for t, s in itertools.pairwise((*sampler.timesteps, -1)):
            x_0 = predict_x0(model(one, torch.tensor([t])), one, t, COARSE)
            k, noise = sampler.step(x_0, one, t, s, 0 * one), sampler.step(0 * one, 0 * one, t, s, one)
            ours = float(k**2 * ours + noise**2)
            gain, sigma2 = gain_and_noise(sampler, t, s, s2)
            v = gain**2 * v + sigma2
            assert math.isclose(ours, v, rel_tol=1e-8)
        if steps is None:
            assert abs(v / s2 - 1) < (0.15 if s2 > 0.1 else 0.3)  # many steps come near the truth


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_measured_variance_of_a_run_on_gaussian_data(variance: str) -> None:
    sampler, n, s2, v = DDPMSampler(COARSE, 5, variance), 50_000, 0.2, 1.0
    for t, s in itertools.pairwise((*sampler.timesteps, -1)):
        gain, sigma2 = gain_and_noise(sampler, t, s, s2)
        v = gain**2 * v + sigma2
    model = exact_eps_model(GaussianMixture(torch.zeros(1, 1), s2), COARSE)
    x = sample(model, sampler, normal(n, 1), torch.Generator().manual_seed(2))
    assert abs(float(x.square().mean()) / v - 1) < 5 * math.sqrt(2 / n)
    assert abs(v / s2 - 1) > 20 * math.sqrt(2 / n)  # the bias of 5 steps is far outside that bound


@pytest.mark.parametrize("s2", [0.1, 1.0])
def test_ddim_on_gaussian_data_is_a_product_in_closed_form(s2: float) -> None:
    """Each Euler step multiplies y = x/√ᾱ by (s² + σ_s σ_t)/(s² + σ_t²)."""
    schedule = SCHEDULES["linear"]
    sampler = DDIMSampler(schedule, 13)
    sigmas = schedule.sigma(torch.tensor((*sampler.timesteps, -1)))
    factor = torch.prod((s2 + sigmas[1:] * sigmas[:-1]) / (s2 + sigmas[:-1] ** 2))
    x_T = normal(5, 2)
    x = sample(exact_eps_model(GaussianMixture(torch.zeros(1, 2), s2), schedule), sampler, x_T)
    torch.testing.assert_close(x, factor * x_T / schedule.alpha_bar(999).sqrt(), rtol=1e-8, atol=1e-10)


def quantile(mixture: GaussianMixture, p: Tensor) -> Tensor:
    """Inverse distribution function in one dimension, by bisection."""
    low, high = torch.full_like(p, -20), torch.full_like(p, 20)
    for _ in range(100):
        middle = (low + high) / 2
        below = distribution(mixture, middle) < p
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def distribution(mixture: GaussianMixture, x: Tensor) -> Tensor:
    z = (x[:, None] - mixture.means[:, 0]) / mixture.covariances[:, 0, 0].sqrt()
    return (mixture.weights * torch.special.ndtr(z)).sum(1)


def slope(counts: list[int], errors: list[float]) -> float:
    x, y = torch.tensor(counts).double().log(), torch.tensor(errors).double().log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


TWO = GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.09, torch.tensor([0.6, 0.4]))


def test_ddim_converges_with_order_one_to_the_exact_flow() -> None:
    """In 1-D the flow keeps the order of points and the marginals: x_T at p_T's quantile p ends at the data's p."""
    schedule, counts = SCHEDULES["linear"], [50, 100, 200, 500]
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    x_T, exact = quantile(TWO.noised(float(schedule.alpha_bar(999))), p), quantile(TWO, p)
    errors = []
    for n in counts:
        x = sample(exact_eps_model(TWO, schedule), DDIMSampler(schedule, n), x_T[:, None])[:, 0]
        errors.append(float((x - exact).abs().mean()))
    assert errors[-1] < 5e-3
    assert -1.15 < slope(counts, errors) < -0.85


def test_encoding_is_the_inverse_of_ddim_with_order_one() -> None:
    schedule, counts = SCHEDULES["linear"], [50, 100, 200, 500]
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    x_0, exact = quantile(TWO, p), quantile(TWO.noised(float(schedule.alpha_bar(999))), p)
    model, to_noise, round_trip = exact_eps_model(TWO, schedule), [], []
    for n in counts:
        sampler = DDIMSampler(schedule, n)
        x_T = ddim_encode(model, sampler, x_0[:, None])
        to_noise.append(float((x_T[:, 0] - exact).abs().mean()))
        round_trip.append(float((sample(model, sampler, x_T)[:, 0] - x_0).abs().mean()))
    assert to_noise[-1] < 0.02
    assert round_trip[-1] < 0.02
    assert -1.25 < slope(counts, to_noise) < -0.75
    assert -1.25 < slope(counts, round_trip) < -0.75


def test_encoding_gaussian_data_is_a_product_in_closed_form() -> None:
    """On N(0, s²), ε̂ = σy/(s² + σ²): one factor a step, and the first takes its slope at the level it goes to."""
    schedule, s2 = SCHEDULES["linear"], 0.3
    sampler = DDIMSampler(schedule, [999, 600, 250, 40])
    factor, levels = 1.0, schedule.sigma(torch.tensor([40, 250, 600, 999])).tolist()
    for now, then, slope_at in zip([0.0, *levels], levels, [levels[0], *levels], strict=False):
        factor *= 1 + (then - now) * slope_at / (s2 + slope_at**2)
    x_0 = normal(5, 2)
    x_T = ddim_encode(exact_eps_model(GaussianMixture(torch.zeros(1, 2), s2), schedule), sampler, x_0)
    torch.testing.assert_close(x_T, factor * schedule.alpha_bar(999).sqrt() * x_0, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("parametrization", ["eps", "x0", "v", "score"])
def test_encoding_takes_every_parametrization_and_does_not_touch_its_input(parametrization: Parametrization) -> None:
    model, sampler, x_0 = exact_eps_model(TWO, COARSE), DDIMSampler(COARSE, 20), normal(6, 1)
    before = x_0.clone()

    def other(x: Tensor, t: Tensor) -> Tensor:
        return convert(model(x, t), x, t, COARSE, "eps", parametrization)

    expected = ddim_encode(model, sampler, x_0)
    torch.testing.assert_close(
        ddim_encode(other, sampler, x_0, parametrization=parametrization), expected, rtol=1e-7, atol=1e-8
    )
    assert torch.equal(x_0, before)


def test_encoding_refuses_a_sampler_with_noise() -> None:
    for sampler in (DDIMSampler(COARSE, 10, eta=0.5), DDPMSampler(COARSE, 10)):
        with pytest.raises(ValueError, match="eta = 0"):
            ddim_encode(toy_network, sampler, normal(2, 1))


def test_a_perfect_denoiser_of_one_point_gives_that_point() -> None:
    point = FiniteData(torch.tensor([[0.3, -0.8]]))
    for sampler in (DDPMSampler(COARSE, 5), DDIMSampler(COARSE, 5)):
        x = sample(exact_eps_model(point, COARSE), sampler, normal(7, 2), torch.Generator().manual_seed(0))
        torch.testing.assert_close(x, point.points.expand(7, 2), rtol=1e-9, atol=1e-9)


# ── the loop ──────────────────────────────────────────────────────────────


@every_sampler
def test_trajectory_holds_every_state_and_guess(sampler: DDPMSampler | DDIMSampler) -> None:
    x_T = normal(3, 1, 2, 2)
    run = sample(toy_network, sampler, x_T, torch.Generator().manual_seed(3), return_trajectory=True)
    assert isinstance(run, Trajectory)
    n = len(sampler.timesteps)
    assert run.x.shape == (n + 1, 3, 1, 2, 2)
    assert run.x0.shape == (n, 3, 1, 2, 2)
    assert run.timesteps == (*sampler.timesteps, -1)
    assert torch.equal(run.x[0], x_T)
    assert torch.equal(run.samples, run.x[-1])
    assert torch.equal(run.samples, sample(toy_network, sampler, x_T, torch.Generator().manual_seed(3)))
    generator = torch.Generator().manual_seed(3)
    for k, (t, t_prev) in enumerate(itertools.pairwise(run.timesteps)):
        x_0 = predict_x0(toy_network(run.x[k], torch.full((3,), t)), run.x[k], t, COARSE)
        noise = torch.randn(x_T.shape, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(run.x0[k], x_0, rtol=0, atol=0)
        torch.testing.assert_close(run.x[k + 1], sampler.step(x_0, run.x[k], t, t_prev, noise), rtol=0, atol=0)


@pytest.mark.parametrize("parametrization", ["eps", "x0", "v", "score"])
@every_sampler
def test_all_parametrizations_give_the_same_samples(
    sampler: DDPMSampler | DDIMSampler, parametrization: Parametrization
) -> None:
    model = exact_eps_model(standard_gaussian(2), COARSE)

    def other(x: Tensor, t: Tensor) -> Tensor:
        return convert(model(x, t), x, t, COARSE, "eps", parametrization)

    runs = [
        sample(network, sampler, normal(5, 2), torch.Generator().manual_seed(4), parametrization=kind)
        for network, kind in ((model, "eps"), (other, parametrization))
    ]
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-8, atol=1e-8)


def test_clipping_bounds_the_guess_and_hence_the_sample() -> None:
    sampler, x_T = DDIMSampler(COARSE, 10), normal(50, 2)
    free = sample(toy_network, sampler, x_T, return_trajectory=True)
    clipped = sample(toy_network, sampler, x_T, clip_x0=0.5, return_trajectory=True)
    assert free.x0.abs().max() > 5  # otherwise nothing is tested
    assert clipped.x0.abs().max() <= 0.5
    assert clipped.samples.abs().max() <= 0.5
    torch.testing.assert_close(clipped.x0[0], free.x0[0].clamp(-0.5, 0.5), rtol=0, atol=0)
    t, s = sampler.timesteps[:2]
    torch.testing.assert_close(clipped.x[1], ddim_step(clipped.x0[0], x_T, t, s, COARSE), rtol=0, atol=0)
    assert torch.equal(sample(toy_network, sampler, x_T, clip_x0=1e6), free.samples)


def test_generator_decides_everything_random() -> None:
    x_T = normal(4, 2)
    for sampler in (DDPMSampler(COARSE, 5), DDIMSampler(COARSE, 5, eta=0.7)):
        first, again, other = (
            sample(toy_network, sampler, x_T, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.allclose(first, other)
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    sample(toy_network, DDIMSampler(COARSE, 5), x_T, generator)
    assert torch.equal(generator.get_state(), before)  # η = 0 draws nothing


def test_deterministic_samples_do_not_depend_on_their_neighbours_and_keep_dtype() -> None:
    sampler, x_T = DDIMSampler(COARSE, 7), normal(4, 2).float()
    together = sample(lambda x, t: toy_network(x, t).float(), sampler, x_T)
    assert together.dtype == torch.float32
    alone = torch.cat([sample(lambda x, t: toy_network(x, t).float(), sampler, x[None]) for x in x_T])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_sampling_checks_what_the_model_gives_and_what_it_is_told() -> None:
    x_T = normal(4, 2)
    with pytest.raises(ValueError, match="shape"):
        sample(lambda x, t: x[:, :1], DDIMSampler(COARSE, 3), x_T)
    with pytest.raises(ValueError, match="parametrization"):
        sample(toy_network, DDIMSampler(COARSE, 3), x_T, parametrization="noise")
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="clip_x0 > 0"):
            sample(toy_network, DDIMSampler(COARSE, 3), x_T, clip_x0=wrong)


class Probe(nn.Module):
    """Remembers in which mode it was called; fails on demand."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.broken, self.modes = broken, []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.modes.append(self.training)
        if self.broken:
            raise RuntimeError("broken on purpose")
        return self.weight * x


def test_sampling_runs_in_evaluation_mode_without_a_graph_and_puts_the_mode_back() -> None:
    model = Probe()
    x = sample(model, DDIMSampler(COARSE, 3), normal(2, 2).float())
    assert model.modes == [False] * 3
    assert model.training
    assert not x.requires_grad
    ddim_encode(model.eval(), DDIMSampler(COARSE, 3), x)
    assert not model.training


def test_evaluating_restores_the_mode_after_an_error_and_leaves_functions_alone() -> None:
    model = Probe(broken=True)
    with pytest.raises(RuntimeError, match="on purpose"):
        sample(model, DDIMSampler(COARSE, 3), normal(2, 2).float())
    assert model.training
    model.eval()
    with evaluating(model):
        assert not model.training
    assert not model.training
    with evaluating(toy_network):
        pass


def test_evaluating_gives_each_part_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    model[1].eval()  # a frozen part
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == [True, True, False, False]


def test_progress_bar_only_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    always = functools.partial(tqdm, disable=False)  # tqdm's own default is TQDM_DISABLE, read when it was imported
    monkeypatch.setattr(sys.modules[sample.__module__], "tqdm", always)
    sample(toy_network, DDIMSampler(COARSE, 3), normal(2, 2))
    assert capsys.readouterr().err == ""
    sample(toy_network, DDIMSampler(COARSE, 3), normal(2, 2), progress=True)
    assert "sampling" in capsys.readouterr().err


def test_steps_refuse_a_silent_broadcast() -> None:
    schedule, x = SCHEDULES["linear"], normal(4, 3)
    for step in (
        lambda: ddim_step(x[:1], x, 5, 4, schedule),
        lambda: ddim_step(x, x, 5, 4, schedule, x[:1], 0.5),
        lambda: ddpm_step(x, x, 5, 4, schedule, x[:1]),
        lambda: ddpm_step(x, x, 5, 4, schedule, normal(7, 1, 3)),
    ):
        with pytest.raises(ValueError, match="of shape"):
            step()


@pytest.mark.parametrize("steps", [np.int64(5), torch.tensor(5), np.array([9, 7, 5, 3, 1])])
def test_steps_may_be_integers_of_any_kind(steps: Any) -> None:
    assert DDIMSampler(LinearSchedule(10), steps).timesteps == spaced_timesteps(10, 5)


@pytest.mark.parametrize("steps", [5.0, [9.7, 3.2], "5"])
def test_steps_that_are_no_integers_are_refused(steps: Any) -> None:
    with pytest.raises(TypeError, match="expected a number of steps, or a sequence of integer timesteps"):
        DDIMSampler(LinearSchedule(10), steps)


def test_an_unknown_variance_is_refused_before_the_first_evaluation() -> None:
    with pytest.raises(ValueError, match="expected variance 'posterior' or 'beta', got 'learned'"):
        DDPMSampler(LinearSchedule(10), 5, variance="learned")  # type: ignore[arg-type]
