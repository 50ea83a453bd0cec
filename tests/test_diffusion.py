"""Tests of helpers.diffusion: noising, the posterior, conversions, losses and their weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from helpers.diffusion import (
    convert,
    from_x0,
    per_timestep_loss,
    predict_x0,
    q_posterior,
    q_sample,
    q_step,
    simple_loss,
    vlb_weights,
)
from helpers.oracle import GaussianMixture, eight_gaussians, exact_eps_model, standard_gaussian
from helpers.schedules import CosineSchedule, LinearSchedule, NoiseSchedule

SCHEDULES = {
    "linear": LinearSchedule(1000),
    "cosine": CosineSchedule(1000),
    "short": LinearSchedule(20, 0.005, 0.6),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
PARAMETRIZATIONS = ("eps", "x0", "v", "score")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn_times(schedule: NoiseSchedule, n: int) -> Tensor:
    t = torch.randint(0, schedule.n_steps, (n,), generator=torch.Generator().manual_seed(7))
    t[:2] = torch.tensor([0, schedule.n_steps - 1])  # the ends are where formulas break
    return t


# ── noising ───────────────────────────────────────────────────────────────


@every_schedule
def test_q_sample_is_equation_4_and_its_weights_are_a_unit_vector(schedule: NoiseSchedule) -> None:
    x_0, eps, t = normal(6, 3, 4, 4), normal(6, 3, 4, 4, seed=1), drawn_times(schedule, 6)
    x_t = q_sample(x_0, t, eps, schedule)
    for b in range(6):
        a = float(schedule.alpha_bar(int(t[b])))
        torch.testing.assert_close(x_t[b], math.sqrt(a) * x_0[b] + math.sqrt(1 - a) * eps[b], rtol=1e-12, atol=1e-14)
    signal, noise = q_sample(x_0, t, 0 * eps, schedule), q_sample(0 * x_0, t, eps, schedule)
    torch.testing.assert_close((signal / x_0) ** 2 + (noise / eps) ** 2, torch.ones_like(x_0), rtol=1e-10, atol=0)


@every_schedule
def test_q_sample_at_minus_one_gives_the_clean_image(schedule: NoiseSchedule) -> None:
    x_0, eps = normal(4, 2), normal(4, 2, seed=1)
    assert torch.equal(q_sample(x_0, -1, eps, schedule), x_0)


@every_schedule
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_q_sample_moments(schedule: NoiseSchedule, share: float) -> None:
    """Mean √ᾱ x_0 and variance 1 − ᾱ, within 5 standard errors."""
    t, n, x_0 = int(share * (schedule.n_steps - 1)), 200_000, 0.7
    a = float(schedule.alpha_bar(t))
    forgotten_root = (1 - a) - (1 - a) ** 2
    assert 5 * (1 - a) * math.sqrt(2 / n) < forgotten_root / 4  # the bound can tell the classic mistake
    generator = torch.Generator().manual_seed(3)
    eps = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    x_t = q_sample(torch.full((n, 1), x_0, dtype=torch.float64), t, eps, schedule)
    assert abs(float(x_t.mean()) - math.sqrt(a) * x_0) < 5 * math.sqrt((1 - a) / n)
    assert abs(float(x_t.var()) - (1 - a)) < 5 * (1 - a) * math.sqrt(2 / n)


@every_schedule
def test_q_step_iterated_has_the_closed_forms_mean_and_variance(schedule: NoiseSchedule) -> None:
    """Exact, not sampled: x_t is linear in x_0 and in every noise, so feed unit vectors through the chain."""
    mean, variance = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    zero, one = torch.zeros_like(mean), torch.ones_like(mean)
    for t in range(schedule.n_steps):
        gain, noise = q_step(one, t, zero, schedule), q_step(zero, t, one, schedule)
        mean, variance = gain * mean, gain**2 * variance + noise**2
        torch.testing.assert_close(mean, q_sample(one, t, zero, schedule), rtol=1e-10, atol=0)
        torch.testing.assert_close(variance, q_sample(zero, t, one, schedule) ** 2, rtol=1e-10, atol=1e-14)


@every_schedule
def test_q_step_is_equation_2(schedule: NoiseSchedule) -> None:
    x_prev, eps, t = normal(6, 3, 2), normal(6, 3, 2, seed=1), drawn_times(schedule, 6)
    x_t = q_step(x_prev, t, eps, schedule)
    for b in range(6):
        beta = float(schedule.beta(int(t[b])))
        expected = math.sqrt(1 - beta) * x_prev[b] + math.sqrt(beta) * eps[b]
        torch.testing.assert_close(x_t[b], expected, rtol=1e-12, atol=1e-14)


@every_schedule
def test_the_first_step_is_the_same_walked_or_jumped(schedule: NoiseSchedule) -> None:
    x_0, eps = normal(4, 3), normal(4, 3, seed=1)
    torch.testing.assert_close(q_step(x_0, 0, eps, schedule), q_sample(x_0, 0, eps, schedule), rtol=1e-10, atol=1e-14)


@every_schedule
def test_q_step_keeps_unit_variance(schedule: NoiseSchedule) -> None:
    zero, one, t = torch.zeros(5, 1).double(), torch.ones(5, 1).double(), drawn_times(schedule, 5)
    gain, noise = q_step(one, t, zero, schedule), q_step(zero, t, one, schedule)
    torch.testing.assert_close(gain**2 + noise**2, one, rtol=1e-12, atol=0)


def test_noising_keeps_dtype_and_treats_each_sample_by_its_own_t() -> None:
    schedule, x_0, eps = LinearSchedule(100), normal(3, 1, 2, 2).float(), normal(3, 1, 2, 2, seed=1).float()
    t = torch.tensor([0, 50, 99])
    for noise in (q_sample, q_step):
        together = noise(x_0, t, eps, schedule)
        assert together.dtype == torch.float32
        for b in range(3):
            alone = noise(x_0[b : b + 1], int(t[b]), eps[b : b + 1], schedule)
            torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-6, atol=1e-7)


@every_schedule
def test_noising_agrees_with_diffusers(schedule: NoiseSchedule) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(schedule.n_steps, trained_betas=schedule.betas.numpy())
    x_0, eps, t = normal(8, 3, 4, 4).float(), normal(8, 3, 4, 4, seed=1).float(), drawn_times(schedule, 8)
    x_t = q_sample(x_0, t, eps, schedule)
    torch.testing.assert_close(x_t, theirs.add_noise(x_0, eps, t), rtol=1e-5, atol=1e-5)
    v = from_x0(x_0, x_t, t, schedule, "v")
    torch.testing.assert_close(v, theirs.get_velocity(x_0, eps, t), rtol=1e-3, atol=2e-4)  # float32: 1/√β_0 magnifies
    exact = from_x0(x_0.double(), q_sample(x_0.double(), t, eps.double(), schedule), t, schedule, "v")
    torch.testing.assert_close(exact.float(), theirs.get_velocity(x_0, eps, t), rtol=1e-5, atol=1e-5)


def test_step_back_agrees_with_diffusers() -> None:
    """Its step draws noise itself: drawn again here from the same seed."""
    diffusers = pytest.importorskip("diffusers")
    schedule = LinearSchedule(1000)
    theirs = diffusers.DDPMScheduler(1000, trained_betas=schedule.betas.numpy(), clip_sample=False)
    x_t, eps = normal(2, 1, 4, 4), normal(2, 1, 4, 4, seed=1)
    for t in (0, 1, 400, 999):
        step = theirs.step(eps, t, x_t, generator=torch.Generator().manual_seed(5)).prev_sample
        noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        mean, variance = q_posterior(predict_x0(eps, x_t, t, schedule), x_t, t, schedule)
        torch.testing.assert_close(mean + variance.sqrt() * noise, step, rtol=1e-4, atol=1e-4)  # its ᾱ is float32


# ── the posterior ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("schedule", [LinearSchedule(20, 0.005, 0.6), CosineSchedule(20)], ids=["linear", "cosine"])
@pytest.mark.parametrize(("t", "t_prev"), [(1, 0), (7, 6), (7, 3), (15, 0), (12, 11), (19, 8)])
def test_posterior_against_bayes_rule_on_a_grid(schedule: NoiseSchedule, t: int, t_prev: int) -> None:
    """q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0), multiplied and normalised point by point."""
    x_0, x_t = 0.8, -0.6
    a, a_s = float(schedule.alpha_bar(t)), float(schedule.alpha_bar(t_prev))
    grid = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    prior = -((grid - math.sqrt(a_s) * x_0) ** 2) / (2 * (1 - a_s))
    likelihood = -((x_t - math.sqrt(a / a_s) * grid) ** 2) / (2 * (1 - a / a_s))
    weight = (prior + likelihood).softmax(0)
    brute_mean = float((weight * grid).sum())
    brute_variance = float((weight * (grid - brute_mean) ** 2).sum())
    x_0, x_t = torch.tensor([[x_0]]).double(), torch.tensor([[x_t]]).double()
    mean, variance = q_posterior(x_0, x_t, t, schedule, t_prev)
    assert float(mean) == pytest.approx(brute_mean, abs=1e-7)
    assert float(variance) == pytest.approx(brute_variance, rel=1e-6)


@every_schedule
def test_posterior_of_the_first_step_is_the_clean_image(schedule: NoiseSchedule) -> None:
    x_0, x_t = normal(3, 2), normal(3, 2, seed=1)
    mean, variance = q_posterior(x_0, x_t, 0, schedule)
    torch.testing.assert_close(mean, x_0, rtol=1e-12, atol=1e-14)
    assert float(variance) == 0.0


@every_schedule
def test_posterior_has_a_variance_per_sample_between_zero_and_beta(schedule: NoiseSchedule) -> None:
    t = torch.arange(1, schedule.n_steps)
    x = torch.zeros(len(t), 1, 2, 2).double()
    mean, variance = q_posterior(x, x, t, schedule)
    assert mean.shape == x.shape
    assert variance.shape == (len(t), 1, 1, 1)
    assert bool(((variance.flatten() > 0) & (variance.flatten() < schedule.beta(t))).all())


# ── what a network may predict ────────────────────────────────────────────


@every_schedule
@pytest.mark.parametrize(("source", "target"), list(product(PARAMETRIZATIONS, repeat=2)))
def test_conversions_reach_the_true_value_and_come_back(schedule: NoiseSchedule, source: str, target: str) -> None:
    x_0, eps, t = normal(20, 2, 3), normal(20, 2, 3, seed=1), drawn_times(schedule, 20)
    x_t = q_sample(x_0, t, eps, schedule)
    a = schedule.alpha_bar(t)[:, None, None]
    truth = {
        "eps": eps,
        "x0": x_0,
        "v": a.sqrt() * eps - (1 - a).sqrt() * x_0,
        "score": -(x_t - a.sqrt() * x_0) / (1 - a),  # the gradient of log N(x_t; √ᾱ x_0, (1 − ᾱ) I)
    }
    there = convert(truth[source], x_t, t, schedule, source, target)
    back = convert(there, x_t, t, schedule, target, source)
    # The cosine schedule ends at ᾱ ≈ 2e-9, where ε → x_0 magnifies rounding by 1/√ᾱ.
    torch.testing.assert_close(there, truth[target], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(back, truth[source], rtol=1e-8, atol=1e-8)


@every_schedule
def test_v_is_a_rotation_of_noise_and_image(schedule: NoiseSchedule) -> None:
    """(x_t, v) is (x_0, ε) turned by an angle: lengths are kept, and v is the derivative of x_t by that angle."""
    x_0, eps, t = normal(5, 3), normal(5, 3, seed=1), drawn_times(schedule, 5)
    x_t = q_sample(x_0, t, eps, schedule)
    v = from_x0(x_0, x_t, t, schedule, "v")
    torch.testing.assert_close(x_t**2 + v**2, x_0**2 + eps**2, rtol=1e-9, atol=1e-9)
    angle = schedule.sigma(t).atan()[:, None]
    slope = ((angle + 1e-6).cos() - (angle - 1e-6).cos()) * x_0 + ((angle + 1e-6).sin() - (angle - 1e-6).sin()) * eps
    torch.testing.assert_close(v, slope / 2e-6, rtol=1e-7, atol=1e-7)


@every_schedule
@pytest.mark.parametrize("t", [0, 7, -1], ids=["first", "early", "last"])
def test_score_is_the_gradient_of_the_exact_log_density(schedule: NoiseSchedule, t: int) -> None:
    """Data N(μ, s²): ε̂ = E[ε | x_t] in closed form, converted, equals autograd of log p_t."""
    t, mean, std = t % schedule.n_steps, 0.4, 0.6
    a = float(schedule.alpha_bar(t))
    x_t = normal(50, 1).requires_grad_()
    moments = torch.tensor([math.sqrt(a) * mean, math.sqrt(a * std**2 + 1 - a)], dtype=torch.float64)
    marginal = torch.distributions.Normal(*moments)
    (score,) = torch.autograd.grad(marginal.log_prob(x_t).sum(), x_t)
    x_t = x_t.detach()
    best_x0 = mean + math.sqrt(a) * std**2 * (x_t - math.sqrt(a) * mean) / (a * std**2 + 1 - a)  # Gaussian regression
    torch.testing.assert_close(from_x0(best_x0, x_t, t, schedule, "score"), score, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(predict_x0(score, x_t, t, schedule, "score"), best_x0, rtol=1e-6, atol=1e-8)


# ── losses ────────────────────────────────────────────────────────────────


@every_schedule
def test_vlb_weights_are_the_kl_divergence_of_two_gaussians(schedule: NoiseSchedule) -> None:
    """KL(q(x_{t−1}|x_t, x_0) ‖ N(μ_θ, β̃)) for a wrong ε̂ is weight · ‖ε − ε̂‖²."""
    t = torch.arange(1, schedule.n_steps - 1)  # at cosine's last step 1/√ᾱ loses the digits that are compared
    x_0, eps, wrong = (normal(len(t), 3, seed=seed) for seed in range(3))
    x_t = q_sample(x_0, t, eps, schedule)
    mean, variance = q_posterior(x_0, x_t, t, schedule)
    guess, _ = q_posterior(predict_x0(wrong, x_t, t, schedule), x_t, t, schedule)
    std = variance.sqrt().expand_as(mean)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(guess, std)
    )
    expected = vlb_weights(schedule)[t] * (eps - wrong).square().sum(1)
    torch.testing.assert_close(kl.sum(1), expected, rtol=1e-6, atol=0)


@every_schedule
def test_vlb_weights_with_variance_beta_are_that_kl_up_to_a_constant(schedule: NoiseSchedule) -> None:
    t = torch.arange(1, schedule.n_steps - 1)
    x_0, eps, wrong = (normal(len(t), 3, seed=seed) for seed in range(3))
    x_t = q_sample(x_0, t, eps, schedule)
    mean, variance = q_posterior(x_0, x_t, t, schedule)
    guess, _ = q_posterior(predict_x0(wrong, x_t, t, schedule), x_t, t, schedule)
    true = torch.distributions.Normal(mean, variance.sqrt().expand_as(mean))
    std = schedule.beta(t).sqrt()[:, None].expand_as(mean)
    kl = [torch.distributions.kl_divergence(true, torch.distributions.Normal(m, std)).sum(1) for m in (guess, mean)]
    expected = vlb_weights(schedule, "beta")[t] * (eps - wrong).square().sum(1)
    torch.testing.assert_close(kl[0] - kl[1], expected, rtol=1e-5, atol=1e-10)


@every_schedule
def test_vlb_weights_are_half_the_relative_fall_of_the_snr(schedule: NoiseSchedule) -> None:
    t = torch.arange(1, schedule.n_steps)
    weights = vlb_weights(schedule)
    torch.testing.assert_close(weights[t], 0.5 * (schedule.snr(t - 1) / schedule.snr(t) - 1), rtol=1e-8, atol=0)
    # At t = 0 β̃ is 0, and that of t = 1 stands in for it.
    beta, a = schedule.beta(0), schedule.alpha_bar(0)
    stand_in = schedule.posterior_coefficients(1).variance
    torch.testing.assert_close(weights[0], beta**2 / (2 * stand_in * (1 - beta) * (1 - a)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_loss_of_the_exact_model_is_the_closed_form_minimum(parametrization: str) -> None:
    """Data N(0, s²): the best ε̂ has error Var(ε | x_t) = ᾱs²/(ᾱs² + 1 − ᾱ); the other targets scale it."""
    schedule, std, n = CosineSchedule(50), 0.5, 40_000
    data = GaussianMixture(torch.zeros(1, 2), std**2)
    exact = exact_eps_model(data, schedule)
    generator = torch.Generator().manual_seed(0)
    x_0 = data.sample(n, generator)
    for t in (3, 25, 45):
        a = float(schedule.alpha_bar(t))
        minimum = a * std**2 / (a * std**2 + 1 - a)
        minimum *= {"eps": 1, "x0": (1 - a) / a, "v": 1 / a, "score": 1 / (1 - a)}[parametrization]
        loss = simple_loss(
            lambda x, t: convert(exact(x, t), x, t, schedule, "eps", parametrization),
            x_0,
            schedule,
            generator,
            parametrization=parametrization,
            t=torch.full((n,), t),
        )
        # Mean of 2n squared Gaussians: relative standard error √(2 / 2n).
        assert float(loss) == pytest.approx(minimum, rel=5 / math.sqrt(n))


def test_no_model_beats_the_exact_one() -> None:
    schedule, generator = LinearSchedule(100, 1e-3, 0.2), torch.Generator().manual_seed(0)
    data = eight_gaussians()
    exact, x_0 = exact_eps_model(data, schedule), data.sample(4000, generator)

    def loss(model) -> float:
        return float(simple_loss(model, x_0, schedule, torch.Generator().manual_seed(1)))

    best = loss(exact)
    for scale in (0.9, 1.1):
        assert loss(lambda x, t, scale=scale: scale * exact(x, t)) > best + 1e-3


def test_simple_loss_draws_uniform_times_and_standard_noise() -> None:
    """With ε̂ = 0 the loss is the mean of ε²; with weights that single out each step, its share is 1/T."""
    schedule, x_0 = LinearSchedule(5, 0.1, 0.3), torch.zeros(50_000, 2)
    seen: list[Tensor] = []

    def zero(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return torch.zeros_like(x_t)

    loss = simple_loss(zero, x_0, schedule, torch.Generator().manual_seed(0))
    assert float(loss) == pytest.approx(1.0, abs=5 * math.sqrt(2 / x_0.numel()))
    counts = torch.bincount(seen[0], minlength=5)
    assert len(counts) == 5
    assert bool((counts / len(x_0) - 0.2).abs().max() < 5 * math.sqrt(0.16 / len(x_0)))


def test_simple_loss_weights_each_step() -> None:
    schedule, x_0, eps = LinearSchedule(4, 0.1, 0.3), normal(4, 3), normal(4, 3, seed=1)
    t, weights = torch.arange(4), torch.tensor([1.0, 2.0, 0.0, 5.0])
    got = simple_loss(lambda x, t: torch.zeros_like(x), x_0, schedule, t=t, eps=eps, weights=weights)
    expected = sum(float(weights[b]) * float((eps[b] ** 2).mean()) for b in range(4)) / 4
    assert float(got) == pytest.approx(expected, rel=1e-12)


def test_simple_loss_is_repeatable_and_differentiable() -> None:
    schedule, x_0, scale = LinearSchedule(10), normal(6, 2), torch.tensor(0.3, requires_grad=True)

    def loss() -> Tensor:
        return simple_loss(lambda x, t: scale.double() * x, x_0, schedule, torch.Generator().manual_seed(2))

    assert torch.equal(loss(), loss())
    (gradient,) = torch.autograd.grad(loss(), scale)
    assert float(gradient) != 0


@pytest.mark.parametrize("shape", [(4, 1), (1, 3), (4,), (4, 3, 1), ()])
def test_simple_loss_refuses_a_silent_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the model's output of shape"):
        simple_loss(lambda x, t: torch.zeros(shape), torch.zeros(4, 3), LinearSchedule(10))


@pytest.mark.parametrize("weights", [torch.ones(9), torch.ones(10, 1), torch.tensor(1.0)])
def test_simple_loss_refuses_weights_of_another_shape(weights: Tensor) -> None:
    with pytest.raises(ValueError, match="weights of shape"):
        simple_loss(lambda x, t: x, torch.zeros(4, 3), LinearSchedule(10), weights=weights)


def test_per_timestep_loss_averages_to_the_simple_loss() -> None:
    """Over all t with the same noise, the mean of the losses per step is the simple loss."""
    schedule, x_0 = LinearSchedule(6, 0.05, 0.4), normal(9, 2)
    model = exact_eps_model(standard_gaussian(), schedule)
    steps = per_timestep_loss(model, x_0, schedule, range(6), torch.Generator().manual_seed(4))
    assert steps.shape == (6,)
    assert steps.dtype == torch.float64
    generator = torch.Generator().manual_seed(4)
    eps = torch.cat([torch.randn(9, 2, generator=generator, dtype=torch.float64) for _ in range(6)])
    whole = simple_loss(model, x_0.repeat(6, 1), schedule, t=torch.arange(6).repeat_interleave(9), eps=eps)
    torch.testing.assert_close(steps.mean(), whole, rtol=1e-12, atol=0)


def test_per_timestep_loss_keeps_no_graph() -> None:
    scale = torch.ones((), requires_grad=True)
    losses = per_timestep_loss(lambda x, t: scale * x, normal(3, 2), LinearSchedule(10), [0, 9])
    assert not losses.requires_grad


# ── errors ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("eps", [torch.zeros(4, 1), torch.zeros(3), torch.zeros(1, 3)])
@pytest.mark.parametrize("noise", [q_sample, q_step])
def test_noise_must_have_the_images_shape(noise, eps: Tensor) -> None:
    with pytest.raises(ValueError, match="expected eps of shape"):
        noise(torch.zeros(4, 3), 0, eps, LinearSchedule(10))


@pytest.mark.parametrize("t", [torch.zeros(3, dtype=torch.long), torch.zeros(4, 1, dtype=torch.long)])
def test_there_must_be_one_t_per_image(t: Tensor) -> None:
    with pytest.raises(ValueError, match="one value per sample"):
        q_sample(torch.zeros(4, 3), t, torch.zeros(4, 3), LinearSchedule(10))


def test_unknown_parametrizations_are_refused() -> None:
    x, schedule = torch.zeros(2, 3), LinearSchedule(10)
    for function in (predict_x0, from_x0):
        with pytest.raises(ValueError, match=r"parametrization out of .*'epsilon'"):
            function(x, x, 3, schedule, "epsilon")


def test_predictions_must_have_the_images_shape() -> None:
    schedule, x_t = LinearSchedule(10), torch.zeros(4, 3)
    with pytest.raises(ValueError, match="expected prediction of shape"):
        predict_x0(torch.zeros(4, 1), x_t, 3, schedule)
    with pytest.raises(ValueError, match="expected x_0 of shape"):
        from_x0(torch.zeros(4, 1), x_t, 3, schedule, "eps")
    with pytest.raises(ValueError, match="expected x_0 of shape"):
        q_posterior(torch.zeros(4, 1), x_t, 3, schedule)


@pytest.mark.parametrize("target", PARAMETRIZATIONS)
def test_without_noise_nothing_but_the_image_is_determined(target: str) -> None:
    with pytest.raises(ValueError, match="expected t >= 0"):
        from_x0(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, -1]), LinearSchedule(10), target)


def test_vlb_weights_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="'posterior' or 'beta'"):
        vlb_weights(LinearSchedule(10), "learned")
    with pytest.raises(ValueError, match="at least 2 steps"):
        vlb_weights(LinearSchedule(1))


@pytest.mark.parametrize("noise", [q_sample, q_step])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_images_of_integers_are_refused(noise: Callable[..., Tensor], dtype: torch.dtype) -> None:
    """In their type, √ᾱ would round to 0."""
    with pytest.raises(TypeError, match="expected floating-point x"):
        noise(torch.full((2, 3), 200).to(dtype), 3, torch.randn(2, 3), LinearSchedule(10))
