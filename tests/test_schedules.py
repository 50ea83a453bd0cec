"""Tests of helpers.schedules: closed forms, the three clocks and their inverses, and errors."""

from __future__ import annotations

import math

import pytest
import torch

from helpers.schedules import (
    CosineSchedule,
    LinearSchedule,
    NoiseSchedule,
    alpha_bar_from_sigma,
    append_zero,
    expand_like,
    karras_sigmas,
    log_snr_sigmas,
    sigma_from_alpha_bar,
)

SCHEDULES = {
    "linear": LinearSchedule(1000),
    "linear, 40 steps": LinearSchedule(40, 1e-4 * 25, 0.02 * 25),
    "cosine": CosineSchedule(1000),
    "cosine, 40 steps": CosineSchedule(40),
    "free": NoiseSchedule(torch.tensor([0.1, 0.01, 0.5, 0.3])),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
CLOSE = {"rtol": 1e-12, "atol": 1e-14}


def all_times(schedule: NoiseSchedule) -> torch.Tensor:
    return torch.arange(schedule.n_steps)


# ── ᾱ against closed forms ────────────────────────────────────────────────


def test_linear_alpha_bar_is_the_product_of_one_minus_beta() -> None:
    schedule, product = LinearSchedule(1000), 1.0
    for t in range(1000):
        beta = 1e-4 + (0.02 - 1e-4) * t / 999
        assert float(schedule.beta(t)) == pytest.approx(beta, rel=1e-12)
        product *= 1 - beta
        assert float(schedule.alpha_bar(t)) == pytest.approx(product, rel=1e-12)
    assert product == pytest.approx(4.0358e-05, rel=1e-4)  # the terminal ᾱ of DDPM's own setting


@pytest.mark.parametrize("n_steps", [10, 100, 1000])
def test_cosine_alpha_bar_is_the_ratio_of_squared_cosines_until_beta_is_clipped(n_steps: int) -> None:
    schedule, s = CosineSchedule(n_steps), 0.008

    def f(steps: int) -> float:
        return math.cos((steps / n_steps + s) / (1 + s) * math.pi / 2) ** 2

    clipped = (schedule.betas >= 0.999).nonzero().flatten()
    first_clipped = int(clipped[0]) if len(clipped) else n_steps
    assert first_clipped == n_steps - 1  # only the last step: its β would be exactly 1
    expected = torch.tensor([f(t + 1) / f(0) for t in range(first_clipped)], dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha_bar(torch.arange(first_clipped)), expected, rtol=1e-9, atol=0)
    last = schedule.alpha_bar(n_steps - 2) * (1 - 0.999)
    torch.testing.assert_close(schedule.alpha_bar(n_steps - 1), last, **CLOSE)


def test_cosine_offset_and_clip_are_used() -> None:
    schedule = CosineSchedule(10, s=0.1, max_beta=0.4)
    assert float(schedule.betas.max()) == 0.4
    f = [math.cos((k / 10 + 0.1) / 1.1 * math.pi / 2) ** 2 for k in range(2)]
    assert float(schedule.alpha_bar(0)) == pytest.approx(f[1] / f[0], rel=1e-12)


@every_schedule
def test_clean_data_is_t_minus_one(schedule: NoiseSchedule) -> None:
    assert float(schedule.alpha_bar(-1)) == 1.0
    assert float(schedule.sigma(-1)) == 0.0
    assert math.isinf(float(schedule.snr(-1)))


@every_schedule
def test_t_zero_is_the_first_noisy_step(schedule: NoiseSchedule) -> None:
    """An off-by-one would give ᾱ[0] = 1, or leave out the last β."""
    assert float(schedule.alpha_bar(0)) == pytest.approx(1 - float(schedule.betas[0]), rel=1e-14)
    assert float(schedule.alpha_bar(schedule.n_steps - 1)) == pytest.approx(
        float((1 - schedule.betas).prod()), rel=1e-12
    )


@every_schedule
def test_each_step_multiplies_alpha_bar_by_one_minus_beta(schedule: NoiseSchedule) -> None:
    t = all_times(schedule)
    torch.testing.assert_close(schedule.alpha_bar(t) / schedule.alpha_bar(t - 1), 1 - schedule.beta(t), **CLOSE)


@every_schedule
def test_values_are_float64_of_the_shape_of_t_and_fall(schedule: NoiseSchedule) -> None:
    t = torch.tensor([[0, 1, 2], [3, 2, -1]])
    for values in (schedule.alpha_bar(t), schedule.snr(t), schedule.sigma(t), schedule.beta(t.clamp_min(0))):
        assert values.dtype == torch.float64
        assert values.shape == t.shape
    assert bool((schedule.alpha_bar(torch.arange(-1, schedule.n_steps)).diff() < 0).all())
    assert float(schedule.alpha_bar(schedule.n_steps - 1)) > 0


def test_alpha_bar_agrees_with_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    for ours, name in ((LinearSchedule(1000), "linear"), (CosineSchedule(1000), "squaredcos_cap_v2")):
        theirs = diffusers.DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule=name)
        mine = ours.alpha_bar(torch.arange(1000))
        torch.testing.assert_close(mine, theirs.alphas_cumprod.double(), rtol=2e-4, atol=1e-7)  # theirs is float32


# ── the three clocks and their inverses ───────────────────────────────────


@every_schedule
def test_snr_and_sigma_follow_from_alpha_bar(schedule: NoiseSchedule) -> None:
    t = all_times(schedule)
    a = schedule.alpha_bar(t)
    torch.testing.assert_close(schedule.snr(t) * (1 - a), a, **CLOSE)
    torch.testing.assert_close(schedule.sigma(t) ** 2 * schedule.snr(t), torch.ones_like(a), rtol=1e-12, atol=0)
    torch.testing.assert_close(1 / (1 + schedule.sigma(t) ** 2), a, **CLOSE)


@every_schedule
def test_inverse_clocks_are_exact_on_the_steps(schedule: NoiseSchedule) -> None:
    t = all_times(schedule)
    torch.testing.assert_close(schedule.t_from_snr(schedule.snr(t)), t.double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(schedule.t_from_sigma(schedule.sigma(t)), t.double(), rtol=0, atol=1e-6)


@every_schedule
def test_inverse_clocks_are_monotone_and_linear_in_log_snr_between_steps(schedule: NoiseSchedule) -> None:
    ends = schedule.sigma(torch.tensor([0, schedule.n_steps - 1])).log()
    sigma = torch.linspace(float(ends[0]), float(ends[1]), 5000, dtype=torch.float64).exp()
    t = schedule.t_from_sigma(sigma)
    assert bool((t.diff() > 0).all())
    snr = schedule.snr(torch.tensor([1, 2]))
    between = (0.75 * snr[0].log() + 0.25 * snr[1].log()).exp()
    assert float(schedule.t_from_snr(between)) == pytest.approx(1.25, abs=1e-9)


@every_schedule
def test_inverse_clocks_clamp_outside_the_schedule(schedule: NoiseSchedule) -> None:
    assert float(schedule.t_from_snr(1e12)) == 0.0
    assert float(schedule.t_from_sigma(1e-6)) == 0.0
    assert float(schedule.t_from_snr(1e-40)) == schedule.n_steps - 1
    assert schedule.t_from_sigma(torch.full((2, 3), 1e20)).tolist() == [[schedule.n_steps - 1] * 3] * 2


def test_inverse_clock_of_a_single_step_is_that_step() -> None:
    assert NoiseSchedule(torch.tensor([0.5])).t_from_snr(torch.tensor([0.1, 1.0, 9.0])).tolist() == [0.0, 0.0, 0.0]


# ── the posterior's coefficients ──────────────────────────────────────────


@every_schedule
def test_posterior_coefficients_are_hos_equation_7(schedule: NoiseSchedule) -> None:
    t = all_times(schedule)
    beta, a, a_prev = schedule.beta(t), schedule.alpha_bar(t), schedule.alpha_bar(t - 1)
    c = schedule.posterior_coefficients(t)
    torch.testing.assert_close(c.x0, a_prev.sqrt() * beta / (1 - a), rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(c.xt, (1 - beta).sqrt() * (1 - a_prev) / (1 - a), rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(c.variance, (1 - a_prev) / (1 - a) * beta, rtol=1e-9, atol=1e-14)


@every_schedule
def test_posterior_mixes_back_to_the_marginal(schedule: NoiseSchedule) -> None:
    """∫ q(x_s | x_t, x_0) q(x_t | x_0) dx_t = q(x_s | x_0): means and variances must add up."""
    generator = torch.Generator().manual_seed(0)
    t = torch.randint(0, schedule.n_steps, (200,), generator=generator)
    s = (torch.rand(200, generator=generator) * (t + 1)).long() - 1
    a, a_s, c = schedule.alpha_bar(t), schedule.alpha_bar(s), schedule.posterior_coefficients(t, s)
    torch.testing.assert_close(c.x0 + c.xt * a.sqrt(), a_s.sqrt(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(c.xt**2 * (1 - a) + c.variance, 1 - a_s, rtol=1e-10, atol=1e-12)


@every_schedule
def test_the_last_step_back_gives_the_clean_image(schedule: NoiseSchedule) -> None:
    for t in (0, schedule.n_steps - 1):
        c = schedule.posterior_coefficients(t, -1)
        assert (float(c.x0), float(c.xt), float(c.variance)) == (pytest.approx(1.0, abs=1e-15), 0.0, 0.0)


# ── noise levels in continuous time ───────────────────────────────────────


def test_alpha_bar_and_sigma_are_two_names_for_one_level() -> None:
    sigma = torch.tensor([[0.0, 0.002], [1.0, 80.0]], dtype=torch.float64)
    alpha_bar = alpha_bar_from_sigma(sigma)
    assert alpha_bar.tolist() == [[1.0, 1 / (1 + 0.002**2)], [0.5, 1 / 6401]]
    torch.testing.assert_close(sigma_from_alpha_bar(alpha_bar), sigma, rtol=1e-9, atol=0)
    assert alpha_bar_from_sigma(torch.ones(2)).dtype == torch.float64
    assert float(sigma_from_alpha_bar(0.2)) == pytest.approx(2.0)


@every_schedule
def test_sigma_and_alpha_bar_agree_on_a_schedule(schedule: NoiseSchedule) -> None:
    t = torch.arange(-1, schedule.n_steps)
    torch.testing.assert_close(alpha_bar_from_sigma(schedule.sigma(t)), schedule.alpha_bar(t), rtol=1e-9, atol=0)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("n", [2, 5, 40])
def test_karras_sigmas_are_equation_5(n: int, rho: float) -> None:
    sigmas = karras_sigmas(n, 0.01, 50.0, rho)
    assert sigmas.dtype == torch.float64
    for i in range(n):
        root = 50 ** (1 / rho) + i / (n - 1) * (0.01 ** (1 / rho) - 50 ** (1 / rho))
        assert float(sigmas[i]) == pytest.approx(root**rho, rel=1e-9)


def test_default_karras_sigmas_are_those_of_the_paper_and_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(18)
    torch.testing.assert_close(append_zero(karras_sigmas(18)), scheduler.sigmas.double(), rtol=1e-5, atol=0)


def test_log_snr_sigmas_have_one_ratio() -> None:
    sigmas = log_snr_sigmas(9, 0.02, 30.0)
    assert sigmas.dtype == torch.float64
    torch.testing.assert_close(
        sigmas[1:] / sigmas[:-1], torch.full((8,), (0.02 / 30) ** (1 / 8), dtype=torch.float64), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(karras_sigmas(9, 0.02, 30.0, rho=1e6), sigmas, rtol=1e-4, atol=0)


@pytest.mark.parametrize("grid", [karras_sigmas, log_snr_sigmas])
def test_grids_fall_between_their_exact_ends(grid: object) -> None:
    for n in (2, 3, 18, 1000):
        sigmas = grid(n)
        assert sigmas.shape == (n,)
        assert (float(sigmas[0]), float(sigmas[-1])) == (80.0, 0.002)
        assert bool((sigmas.diff() < 0).all())
    assert grid(1).tolist() == [80.0]


@pytest.mark.parametrize("grid", [karras_sigmas, log_snr_sigmas])
def test_grids_name_what_they_want(grid: object) -> None:
    for n in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="n to be an integer of at least 1"):
            grid(n)
    for ends in ((0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
            grid(5, *ends)


@pytest.mark.parametrize("rho", [0.0, -7.0, math.inf, math.nan])
def test_rho_must_be_positive(rho: float) -> None:
    with pytest.raises(ValueError, match="rho > 0"):
        karras_sigmas(5, rho=rho)


def test_append_zero_ends_a_grid_once() -> None:
    assert append_zero(torch.tensor([2.0, 1.0])).tolist() == [2.0, 1.0, 0.0]
    assert append_zero(karras_sigmas(3)).dtype == torch.float64
    for wrong in (torch.tensor([1.0, 0.0]), torch.zeros(0), torch.ones(2, 2), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="vector of positive noise levels"):
            append_zero(wrong)


@pytest.mark.parametrize("wrong", [-0.1, math.nan, torch.tensor([1.0, -1.0])])
def test_levels_outside_their_range_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="noise levels of at least 0"):
        alpha_bar_from_sigma(wrong)
    with pytest.raises(ValueError, match=r"alpha_bar in \(0, 1\]"):
        sigma_from_alpha_bar(wrong)
    with pytest.raises(ValueError, match=r"alpha_bar in \(0, 1\]"):
        sigma_from_alpha_bar(torch.tensor([0.5, 0.0, 1.1]))


# ── errors ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("betas", [torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([0.1, -0.1]), [float("nan")]])
def test_betas_outside_the_open_interval_are_refused(betas: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"every beta in \(0, 1\)"):
        NoiseSchedule(betas)


@pytest.mark.parametrize("betas", [torch.zeros(0), torch.full((2, 2), 0.1), torch.tensor(0.1)])
def test_betas_must_be_a_vector(betas: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"shape \(T,\)"):
        NoiseSchedule(betas)


@pytest.mark.parametrize("kind", [LinearSchedule, CosineSchedule])
@pytest.mark.parametrize("n_steps", [0, -3, 10.0])
def test_the_number_of_steps_must_be_a_positive_integer(kind: type[NoiseSchedule], n_steps: object) -> None:
    with pytest.raises(ValueError, match="n_steps"):
        kind(n_steps)


@pytest.mark.parametrize("t", [-2, 10, torch.tensor([0, 10])])
def test_timesteps_outside_the_schedule_are_refused(t: object) -> None:
    schedule = LinearSchedule(10)
    for function in (schedule.alpha_bar, schedule.snr, schedule.sigma, schedule.beta):
        with pytest.raises(ValueError, match=r"timesteps from .* to 9"):
            function(t)


def test_there_is_no_step_into_clean_data() -> None:
    with pytest.raises(ValueError, match="timesteps from 0 to 9, got -1"):
        LinearSchedule(10).beta(-1)
    with pytest.raises(ValueError, match="timesteps from 0"):
        LinearSchedule(10).posterior_coefficients(-1)


@pytest.mark.parametrize("t", [0.5, torch.tensor([1.0]), torch.tensor([True])])
def test_timesteps_must_be_integers(t: object) -> None:
    with pytest.raises(TypeError, match="integer timesteps"):
        LinearSchedule(10).alpha_bar(t)


@pytest.mark.parametrize("t_prev", [5, 6])
def test_a_step_back_must_go_back(t_prev: int) -> None:
    with pytest.raises(ValueError, match="t_prev < t"):
        LinearSchedule(10).posterior_coefficients(5, t_prev)


@pytest.mark.parametrize("snr", [0.0, -1.0, torch.tensor([1.0, 0.0]), float("nan")])
def test_a_signal_to_noise_ratio_must_be_positive(snr: object) -> None:
    with pytest.raises(ValueError, match="positive signal-to-noise"):
        LinearSchedule(10).t_from_snr(snr)


@pytest.mark.parametrize("sigma", [-1.0, torch.tensor([1.0, -2.0]), float("nan")])
def test_a_noise_level_must_not_be_negative(sigma: object) -> None:
    with pytest.raises(ValueError, match="noise levels of at least 0"):
        LinearSchedule(10).t_from_sigma(sigma)
    assert float(LinearSchedule(10).t_from_sigma(0.0)) == 0.0


# ── expand_like ───────────────────────────────────────────────────────────


def test_expand_like_gives_each_sample_its_value() -> None:
    x = torch.ones(3, 2, 4, 4)
    values = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    spread = expand_like(values, x)
    assert spread.shape == (3, 1, 1, 1)
    assert spread.dtype == torch.float32
    assert (x * spread).sum((1, 2, 3)).tolist() == [32.0, 64.0, 96.0]
    assert expand_like(torch.tensor(2.0), x).shape == ()


@pytest.mark.parametrize("values", [torch.ones(2), torch.ones(3, 1), torch.ones(1)])
def test_expand_like_refuses_a_silent_broadcast(values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="one value per sample"):
        expand_like(values, torch.ones(3, 2))


def test_a_schedule_says_what_it_is() -> None:
    assert repr(CosineSchedule(40)) == "CosineSchedule(n_steps=40)"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_timesteps_may_be_of_any_integer_type(dtype: torch.dtype) -> None:
    """A byte tensor would index as a mask, and -1 before the first step would wrap around."""
    schedule, t = LinearSchedule(10), torch.tensor([3, 2, 0, 9])
    for function in (schedule.alpha_bar, schedule.beta, schedule.sigma):
        assert torch.equal(function(t.to(dtype)), function(t))


def test_an_infinite_noise_level_is_the_last_step() -> None:
    assert float(LinearSchedule(10).t_from_sigma(math.inf)) == 9.0


@pytest.mark.parametrize("rho", [1e17, 0.005])
def test_levels_that_cannot_be_told_apart_are_refused(rho: float) -> None:
    with pytest.raises(ValueError, match="expected a rho that keeps the levels apart"):
        karras_sigmas(5, rho=rho)


def test_true_is_no_number_of_steps() -> None:
    with pytest.raises(ValueError, match="integer of at least 1, got True"):
        LinearSchedule(True)
