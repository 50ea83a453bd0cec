"""Right answers pass, in several styles; each typical mistake is called by its name."""

import math

import numpy as np
import pytest
import torch

from helpers.checks import forward_process
from helpers.schedules import NoiseSchedule

ONE = torch.ones(1, dtype=torch.float64)

# 3.1 -----------------------------------------------------------------------------------------------------------------


def alpha_bar_padded(betas, t):
    return torch.cat([ONE, torch.cumprod(1 - betas, dim=0)])[t + 1]


def alpha_bar_where(betas, t):
    product = (1 - betas).log().cumsum(0).exp()
    return torch.where(t < 0, 1.0, product[t])


def alpha_bar_numpy(betas, t):
    return np.array([np.prod(1 - betas.numpy()[: int(k) + 1]) for k in t])


def alpha_bar_loop(betas, t):
    out = []
    for k in t.tolist():
        product = 1.0
        for s in range(k + 1):
            product *= 1 - float(betas[s])
        out.append(product)
    return out


def alpha_bar_with(make):
    """A wrong product in place of the right one, the clean end as it should be."""
    return lambda betas, t: torch.cat([ONE, make(betas)])[t + 1]


# 3.2 -----------------------------------------------------------------------------------------------------------------


def q_sample_view(x_0, t, eps, alpha_bar):
    a = alpha_bar[t].view(-1, 1, 1, 1)
    return a.sqrt() * x_0 + (1 - a).sqrt() * eps


def q_sample_loop(x_0, t, eps, alpha_bar):
    out = torch.empty_like(x_0)
    for b in range(len(x_0)):
        a = float(alpha_bar[t[b]])
        out[b] = math.sqrt(a) * x_0[b] + math.sqrt(1 - a) * eps[b]
    return out


def q_sample_numpy(x_0, t, eps, alpha_bar):
    a = alpha_bar.numpy()[t.numpy()]
    signal = np.einsum("b,bchw->bchw", np.sqrt(a), x_0.numpy())
    return signal + np.einsum("b,bchw->bchw", np.sqrt(1 - a), eps.numpy())


def q_sample_with(signal, noise, index=lambda t: t, shape=(-1, 1, 1, 1)):
    def noised(x_0, t, eps, alpha_bar):
        a = alpha_bar[index(t)].reshape(shape)
        return signal(a) * x_0 + noise(a) * eps

    return noised


def root_of_rest(a):
    return (1 - a).sqrt()


def q_sample_one_step_back(x_0, t, eps, alpha_bar):
    a = torch.cat([ONE, alpha_bar])[t].reshape(-1, 1, 1, 1)
    return a.sqrt() * x_0 + (1 - a).sqrt() * eps


def q_sample_own_noise(x_0, t, eps, alpha_bar):
    return q_sample_view(x_0, t, torch.randn_like(x_0), alpha_bar)


def q_sample_fixed_noise(x_0, t, eps, alpha_bar):
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(42), dtype=x_0.dtype)
    return q_sample_view(x_0, t, noise, alpha_bar)


def q_sample_in_place(x_0, t, eps, alpha_bar):
    a = alpha_bar[t].view(-1, 1, 1, 1)
    x_0 *= a.sqrt()
    x_0 += (1 - a).sqrt() * eps
    return x_0


# 3.3 -----------------------------------------------------------------------------------------------------------------


def posterior_hos_equation(x_0, x_t, t, schedule):
    beta, a, a_prev = schedule.beta(t), schedule.alpha_bar(t), schedule.alpha_bar(t - 1)
    mean = (a_prev.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - a_prev) * x_t) / (1 - a)
    return mean, (1 - a_prev) / (1 - a) * beta


def posterior_by_precisions(x_0, x_t, t, schedule):
    """Sum of precisions, and the precision-weighted mean; a variance spread over the batch."""
    if t == 0:
        return x_0, torch.zeros(len(x_0), 1)
    beta, a_prev = float(schedule.beta(t)), float(schedule.alpha_bar(t - 1))
    prior, likelihood = 1 / (1 - a_prev), (1 - beta) / beta
    variance = 1 / (prior + likelihood)
    mean = variance * (prior * math.sqrt(a_prev) * x_0 + math.sqrt(1 - beta) / beta * x_t)
    return mean.numpy(), torch.full((len(x_0), 1), variance)


def posterior_with(mean=None, variance=None, clean=1.0):
    """Ho's equation with one part replaced, as a function of x_0, x_t, β, ᾱ_t, ᾱ_{t−1}."""

    def stepped(x_0, x_t, t, schedule):
        right_mean, right_variance = posterior_hos_equation(x_0, x_t, t, schedule)
        values = x_0, x_t, schedule.beta(t), schedule.alpha_bar(t), schedule.alpha_bar(t - 1)
        return mean(*values) if mean else right_mean, variance(*values) if variance else right_variance

    return stepped


def posterior_wrapped(x_0, x_t, t, schedule):
    every = torch.cumprod(1 - schedule.betas, 0)
    beta, a, a_prev = schedule.betas[t], every[t], every[t - 1]
    mean = (a_prev.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - a_prev) * x_t) / (1 - a)
    return mean, (1 - a_prev) / (1 - a) * beta


def posterior_divides_by_zero(x_0, x_t, t, schedule, number=float):
    beta, a_prev = number(schedule.beta(t)), number(schedule.alpha_bar(t - 1))
    variance = 1 / (1 / (1 - a_prev) + (1 - beta) / beta)
    return variance * (a_prev**0.5 / (1 - a_prev) * x_0 + (1 - beta) ** 0.5 / beta * x_t), variance


# 3.4 -----------------------------------------------------------------------------------------------------------------


def to_betas(alpha_bar):
    return 1 - alpha_bar / torch.cat([ONE, alpha_bar[:-1]])


def shift_snr(alpha_bar, factor):
    snr = factor * alpha_bar / (1 - alpha_bar)
    return to_betas(snr / (1 + snr))


def shift_logit(alpha_bar, factor):
    shifted = torch.sigmoid(torch.logit(alpha_bar) + math.log(factor)).numpy()
    return -np.diff(shifted, prepend=1.0) / np.concatenate([[1.0], shifted[:-1]])


def shift_sigma_loop(alpha_bar, factor):
    betas, previous = [], 1.0
    for a in alpha_bar.tolist():
        sigma = math.sqrt((1 - a) / a / factor)
        shifted = 1 / (1 + sigma**2)
        betas.append(1 - shifted / previous)
        previous = shifted
    return betas


def shifted(alpha_bar, factor):
    return factor * alpha_bar / (1 - alpha_bar + factor * alpha_bar)


# 3.5 -----------------------------------------------------------------------------------------------------------------


def from_v_rotation(x_t, v, alpha_bar):
    s, n = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    return s * x_t - n * v, n * x_t + s * v


def from_v_matrix(x_t, v, alpha_bar):
    angle = math.acos(math.sqrt(alpha_bar))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.tensordot(np.linalg.inv(turn), np.stack([x_t.numpy(), v.numpy()]), axes=1)


def from_v_two_stages(x_t, v, alpha_bar):
    x_0 = alpha_bar**0.5 * x_t - (1 - alpha_bar) ** 0.5 * v
    return [x_0, (x_t - alpha_bar**0.5 * x_0) / (1 - alpha_bar) ** 0.5]


def from_v_with(make):
    return lambda x_t, v, a: make(x_t, v, math.sqrt(a), math.sqrt(1 - a))


# ---------------------------------------------------------------------------------------------------------------------

CHECKS = {
    "3.1": forward_process.alpha_bar,
    "3.2": forward_process.q_sample,
    "3.3": forward_process.posterior,
    "3.4": forward_process.shifted_betas,
    "3.5": forward_process.from_v,
}

RIGHT = {
    "3.1": [alpha_bar_padded, alpha_bar_where, alpha_bar_numpy, alpha_bar_loop],
    "3.2": [q_sample_view, q_sample_loop, q_sample_numpy],
    "3.3": [posterior_hos_equation, posterior_by_precisions],
    "3.4": [shift_snr, shift_logit, shift_sigma_loop],
    "3.5": [from_v_rotation, from_v_matrix],
}

WRONG = {
    "3.1": {
        "one-step": lambda betas, t: 1 - betas[t],
        "off-by-one": lambda betas, t: torch.cat([ONE, torch.cumprod(1 - betas, 0)])[t],
        "product-of-betas": alpha_bar_with(lambda betas: torch.cumprod(betas, 0)),
        "one-minus-product-of-betas": alpha_bar_with(lambda betas: 1 - torch.cumprod(betas, 0)),
        "sum": alpha_bar_with(lambda betas: 1 - torch.cumsum(betas, 0)),
        "exponential-of-sum": alpha_bar_with(lambda betas: torch.exp(-torch.cumsum(betas, 0))),
        "root": alpha_bar_with(lambda betas: torch.cumprod(1 - betas, 0).sqrt()),
        "noise-share": alpha_bar_with(lambda betas: 1 - torch.cumprod(1 - betas, 0)),
        "wraps-round": lambda betas, t: torch.cumprod(1 - betas, 0)[t],
        "first-for-clean": lambda betas, t: torch.cumprod(1 - betas, 0)[t.clamp_min(0)],
        "zero-for-clean": lambda betas, t: torch.cumprod(1 - betas, 0)[t] * (t >= 0),
        "returned-none": lambda betas, t: None,
        "wrong-shape": lambda betas, t: torch.cat([ONE, torch.cumprod(1 - betas, 0)]),
    },
    "3.2": {
        "no-roots": q_sample_with(lambda a: a, lambda a: 1 - a),
        "signal-root": q_sample_with(lambda a: a, root_of_rest),
        "noise-root": q_sample_with(torch.sqrt, lambda a: 1 - a),
        "one-minus-root": q_sample_with(torch.sqrt, lambda a: 1 - a.sqrt()),
        "swapped-roles": q_sample_with(root_of_rest, torch.sqrt),
        "minus": q_sample_with(torch.sqrt, lambda a: -root_of_rest(a)),
        "variance-exploding": q_sample_with(torch.ones_like, lambda a: ((1 - a) / a).sqrt()),
        "off-by-one": q_sample_one_step_back,
        "off-by-one-and-wrapped": q_sample_with(torch.sqrt, root_of_rest, index=lambda t: t - 1),
        "factor-per-column": q_sample_with(torch.sqrt, root_of_rest, shape=(-1,)),
        "factor-per-row": q_sample_with(torch.sqrt, root_of_rest, shape=(-1, 1)),
        "one-t-for-all": q_sample_with(torch.sqrt, root_of_rest, index=lambda t: t[0].expand(len(t))),
        "own-noise": q_sample_own_noise,
        "ignores-noise": q_sample_fixed_noise,
        "changes-input": q_sample_in_place,
    },
    "3.3": {
        "variance-is-beta": posterior_with(variance=lambda x_0, x_t, beta, a, a_prev: beta),
        "log-variance": posterior_with(
            variance=lambda x_0, x_t, beta, a, a_prev: ((1 - a_prev) / (1 - a) * beta).log()
        ),
        "std-not-variance": posterior_with(
            variance=lambda x_0, x_t, beta, a, a_prev: ((1 - a_prev) / (1 - a) * beta) ** 0.5
        ),
        "precision-not-variance": posterior_with(
            variance=lambda x_0, x_t, beta, a, a_prev: 1 / (1 - a_prev) + (1 - beta) / beta
        ),
        "inverted-ratio": posterior_with(variance=lambda x_0, x_t, beta, a, a_prev: (1 - a) / (1 - a_prev) * beta),
        "variance-of-marginal": posterior_with(variance=lambda x_0, x_t, beta, a, a_prev: 1 - a_prev),
        "precision-of-the-step": posterior_with(
            variance=lambda x_0, x_t, beta, a, a_prev: beta * (1 - a_prev) / (beta + 1 - a_prev)
        ),
        "variances-added": posterior_with(variance=lambda x_0, x_t, beta, a, a_prev: 1 - a_prev + beta / (1 - beta)),
        "swapped-coefficients": lambda x_0, x_t, t, schedule: posterior_hos_equation(x_t, x_0, t, schedule),
        "missing-root": posterior_with(
            lambda x_0, x_t, beta, a, a_prev: (a_prev * beta * x_0 + (1 - beta) * (1 - a_prev) * x_t) / (1 - a)
        ),
        "missing-root-x0": posterior_with(
            lambda x_0, x_t, beta, a, a_prev: (a_prev * beta * x_0 + (1 - beta) ** 0.5 * (1 - a_prev) * x_t) / (1 - a)
        ),
        "missing-root-xt": posterior_with(
            lambda x_0, x_t, beta, a, a_prev: (a_prev**0.5 * beta * x_0 + (1 - beta) * (1 - a_prev) * x_t) / (1 - a)
        ),
        "alpha-bar-for-alpha": posterior_with(
            lambda x_0, x_t, beta, a, a_prev: (a_prev**0.5 * beta * x_0 + a**0.5 * (1 - a_prev) * x_t) / (1 - a)
        ),
        "alpha-bar-of-t": posterior_with(
            lambda x_0, x_t, beta, a, a_prev: (a**0.5 * beta * x_0 + (1 - beta) ** 0.5 * (1 - a_prev) * x_t) / (1 - a)
        ),
        "mean-of-marginal": posterior_with(lambda x_0, x_t, beta, a, a_prev: a_prev**0.5 * x_0),
        "not-normalised": posterior_with(
            lambda x_0, x_t, beta, a, a_prev: a_prev**0.5 / (1 - a_prev) * x_0 + (1 - beta) ** 0.5 / beta * x_t
        ),
        "clean-end": posterior_wrapped,
        "infinite-precision": posterior_divides_by_zero,
        "swapped-answers": lambda x_0, x_t, t, schedule: posterior_hos_equation(x_0, x_t, t, schedule)[::-1],
        "not-a-pair": lambda x_0, x_t, t, schedule: posterior_hos_equation(x_0, x_t, t, schedule)[0],
    },
    "3.4": {
        "scaled-alpha-bar": lambda a, factor: to_betas(factor * a),
        "inverse-factor": lambda a, factor: to_betas(shifted(a, 1 / factor)),
        "scaled-sigma": lambda a, factor: to_betas(1 / (1 + factor**2 * (1 - a) / a)),
        "root-of-factor": lambda a, factor: to_betas(shifted(a, math.sqrt(factor))),
        "squared-factor": lambda a, factor: to_betas(shifted(a, factor**2)),
        "no-shift": lambda a, factor: to_betas(a),
        "noise-share": lambda a, factor: 1 - shifted(a, factor),
        "alpha-bar": shifted,
        "alpha-not-beta": lambda a, factor: 1 - to_betas(shifted(a, factor)),
        "wraps-round": lambda a, factor: 1 - shifted(a, factor) / shifted(a, factor).roll(1),
        "first-step-zero": lambda a, factor: (
            1 - shifted(a, factor) / torch.cat([shifted(a, factor)[:1], shifted(a, factor)[:-1]])
        ),
        "before-not-shifted": lambda a, factor: 1 - shifted(a, factor) / torch.cat([ONE, a[:-1]]),
        "ratio-inverted": lambda a, factor: 1 - torch.cat([ONE, shifted(a, factor)[:-1]]) / shifted(a, factor),
        "scaled-betas": lambda a, factor: factor * to_betas(a),
        "divided-betas": lambda a, factor: to_betas(a) / factor,
        "first-step-lost": lambda a, factor: 1 - shifted(a, factor)[1:] / shifted(a, factor)[:-1],
    },
    "3.5": {
        "swapped-answers": from_v_with(lambda x, v, s, n: (n * x + s * v, s * x - n * v)),
        "opposite-v": from_v_with(lambda x, v, s, n: (s * x + n * v, n * x - s * v)),
        "sign-of-x0": from_v_with(lambda x, v, s, n: (s * x + n * v, n * x + s * v)),
        "sign-of-eps": from_v_with(lambda x, v, s, n: (s * x - n * v, n * x - s * v)),
        "missing-roots": from_v_with(lambda x, v, s, n: (s**2 * x - n**2 * v, n**2 * x + s**2 * v)),
        "swapped-coefficients": from_v_with(lambda x, v, s, n: (n * x - s * v, s * x + n * v)),
        "divided": from_v_with(lambda x, v, s, n: ((x - n * v) / s, (x + s * v) / n)),
        "divides-by-zero": from_v_two_stages,
        "v-is-eps": from_v_with(lambda x, v, s, n: ((x - n * v) / s, v)),
        "not-a-pair": from_v_with(lambda x, v, s, n: s * x - n * v),
    },
}


@pytest.mark.parametrize("number", CHECKS)
def test_stub_is_open(number):
    def stub(*arguments):
        raise NotImplementedError

    assert CHECKS[number](stub).status == "open"
    assert CHECKS[number](...).status == "open"
    assert CHECKS[number](lambda *arguments: ...).status == "open"


@pytest.mark.parametrize("number", [float, torch.as_tensor], ids=["an exception", "infinities"])
def test_a_posterior_that_divides_by_zero_at_the_clean_end_is_told_so(number):
    def by_precisions(x_0, x_t, t, schedule):
        return posterior_divides_by_zero(x_0, x_t, t, schedule, number)

    result = forward_process.posterior(by_precisions)
    assert result.mistake == "infinite-precision"
    assert "wrap" not in result.message


def test_nothing_is_divided_in_a_division_that_raises():
    def divided(x_t, v, alpha_bar):
        x_0 = alpha_bar**0.5 * x_t - (1 - alpha_bar) ** 0.5 * v
        return x_0, (1 / (1 - alpha_bar) ** 0.5) * (x_t - alpha_bar**0.5 * x_0)

    assert forward_process.from_v(divided).mistake == "divides-by-zero"


def test_the_shifted_schedule_has_the_snr_that_the_exercise_asks_for():
    a = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    schedule = NoiseSchedule(shift_snr(a, 0.25))
    torch.testing.assert_close(schedule.snr(torch.arange(3)), 0.25 * a / (1 - a))
