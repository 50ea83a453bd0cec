"""Right answers pass, in several styles; each typical mistake is called by its name."""

import math

import numpy as np
import pytest
import torch

from helpers import samplers, schedules
from helpers.checks import few_step_samplers

# 11.1 ----------------------------------------------------------------------------------------------------------------


def heun_plain(denoise, x, sigma, sigma_next):
    k = sigma_next - sigma
    slope = (x - denoise(x, sigma)) / sigma
    trial = x + k * slope
    if sigma_next == 0:
        return trial
    return x + k * (slope + (trial - denoise(trial, sigma_next)) / sigma_next) / 2


def heun_library(denoise, x, sigma, sigma_next):
    def denoiser(x, levels):
        return denoise(x, float(levels[0]))

    return samplers.sample_ode(denoiser, samplers.Heun(), x, [sigma, sigma_next], partial=True)


def heun_correction(denoise, x, sigma, sigma_next):
    """Euler's step, and half of the change of the slope on top; in numpy."""
    guess = denoise(x, sigma)
    trial = guess + sigma_next / sigma * (x - guess)
    if not sigma_next:
        return trial.numpy()
    change = (trial - denoise(trial, sigma_next)) / sigma_next - (x - guess) / sigma
    return (trial + (sigma_next - sigma) / 2 * change).numpy()


def heun_wrong(combine, level=None, below=None, place=None, end=True):
    def step(denoise, x, sigma, sigma_next):
        k = sigma_next - sigma
        slope = (x - denoise(x, sigma)) / sigma
        trial = x + k * slope
        if end and sigma_next == 0:
            return trial
        at = trial if place is None else place(x, trial)
        there = (at - denoise(at, level(sigma, sigma_next) if level else sigma_next)) / (
            below(sigma, sigma_next) if below else sigma_next
        )
        return combine(x, trial, k, slope, there)

    return step


def mean_slope(x, trial, k, slope, there):
    return x + k * (slope + there) / 2


def heun_half_replaced(denoise, x, sigma, sigma_next):
    k = sigma_next - sigma
    slope = (x - denoise(x, sigma)) / sigma
    trial = x + k * slope
    return trial if sigma_next == 0 else x + k * (slope + (x - denoise(trial, sigma_next)) / sigma_next) / 2


def midpoint(denoise, x, sigma, sigma_next):
    middle = (sigma + sigma_next) / 2
    half = x + (middle - sigma) * (x - denoise(x, sigma)) / sigma
    return x + (sigma_next - sigma) * (half - denoise(half, middle)) / middle


def heun_upwards(denoise, x, sigma, sigma_next):
    k = sigma - sigma_next
    slope = (x - denoise(x, sigma)) / sigma
    trial = x + k * slope
    return x + k * (slope + (trial - denoise(trial, sigma_next)) / sigma_next) / 2


def first(sigma, sigma_next):
    return sigma


WRONG_1 = {
    "euler": heun_wrong(lambda x, trial, k, slope, there: trial),
    "not-averaged": heun_wrong(lambda x, trial, k, slope, there: x + k * (slope + there)),
    "end-slope-only": heun_wrong(lambda x, trial, k, slope, there: x + k * there),
    "from-the-trial-point": heun_wrong(lambda x, trial, k, slope, there: trial + k * (slope + there) / 2),
    "slope-at-the-start": heun_wrong(mean_slope, place=lambda x, trial: x),
    "state-of-the-start": heun_half_replaced,
    "old-level": heun_wrong(mean_slope, level=first),
    "old-divisor": heun_wrong(mean_slope, below=first),
    "old-level-and-divisor": heun_wrong(mean_slope, level=first, below=first),
    "midpoint": midpoint,
    "wrong-direction": heun_upwards,
    "division-by-zero": heun_wrong(mean_slope, end=False),
}

# 11.2 ----------------------------------------------------------------------------------------------------------------


def grid_torch(n, low, high, rho):
    roots = torch.linspace(high ** (1 / rho), low ** (1 / rho), n, dtype=torch.float64)
    return torch.cat([roots**rho, torch.zeros(1, dtype=torch.float64)])


def grid_library(n, low, high, rho):
    return schedules.append_zero(schedules.karras_sigmas(n, low, high, rho)).numpy()


def grid_list(n, low, high, rho):
    a, b = high ** (1 / rho), low ** (1 / rho)
    return [(a + k * (b - a) / (n - 1)) ** rho for k in range(n)] + [0.0]


def spaced(n, first, last, rho, parts=None):
    a, b = first ** (1 / rho), last ** (1 / rho)
    return [(a + k * (b - a) / (parts or n - 1)) ** rho for k in range(n)]


WRONG_2 = {
    "no-zero": lambda n, low, high, rho: spaced(n, high, low, rho),
    "upwards": lambda n, low, high, rho: grid_list(n, low, high, rho)[::-1],
    "zero-first": lambda n, low, high, rho: [0.0, *spaced(n, high, low, rho)],
    "low-first": lambda n, low, high, rho: [*spaced(n, low, high, rho), 0.0],
    "never-low": lambda n, low, high, rho: [*spaced(n, high, low, rho, n), 0.0],
    "low-is-zero": lambda n, low, high, rho: spaced(n + 1, high, 0.0, rho),
    "one-too-few": lambda n, low, high, rho: [*spaced(n - 1, high, low, rho), 0.0],
    "even-in-sigma": lambda n, low, high, rho: [*np.linspace(high, low, n), 0.0],
    "geometric": lambda n, low, high, rho: [*np.geomspace(high, low, n), 0.0],
    "roots-not-undone": lambda n, low, high, rho: [*np.linspace(high ** (1 / rho), low ** (1 / rho), n), 0.0],
    "power-for-root": lambda n, low, high, rho: [*spaced(n, high, low, 1 / rho), 0.0],
}

# 11.3 ----------------------------------------------------------------------------------------------------------------


def linear_closed(x, guess, before, last, now, then):
    h_before, h = math.log(last / now), math.log(now / then)
    rate = (guess - before) / h_before
    return math.exp(-h) * x + (1 - math.exp(-h)) * guess + (h - 1 + math.exp(-h)) * rate


def linear_quadrature(x, guess, before, last, now, then):
    """The integral by Gauss's rule, in numpy."""
    x, guess, before = x.numpy(), guess.numpy(), before.numpy()
    h_before, h = np.log(last / now), np.log(now / then)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    total = then / now * x
    for node, weight in zip(h * (nodes + 1) / 2, h * weights / 2, strict=True):
        total = total + weight * np.exp(node - h) * (guess + node / h_before * (guess - before))
    return total


def linear_wrong(weight, scale=lambda h_before, h, last, now, then: 1 / h_before, sign=1, all_sigma=False, grow=1):
    def step(x, guess, before, last, now, then):
        h_before, h = math.log(last / now), math.log(now / then)
        if all_sigma:
            h_before, h = last - now, now - then
        keep = math.exp(-grow * h)
        rate = sign * (guess - before) * scale(h_before, h, last, now, then)
        return keep * x + (1 - keep) * guess + weight(h, keep) * rate

    return step


def exact_weight(h, keep):
    return h - 1 + keep


WRONG_3 = {
    "euler": linear_wrong(lambda h, keep: 0),
    "middle-of-the-step": linear_wrong(lambda h, keep: (1 - keep) * h / 2),
    "end-of-the-step": linear_wrong(lambda h, keep: (1 - keep) * h),
    "not-weighted": linear_wrong(lambda h, keep: h**2 / 2),
    "weight-upside-down": linear_wrong(lambda h, keep: 1 - keep - h * keep),
    "wrong-sign": linear_wrong(exact_weight, sign=-1),
    "differences-of-sigma": linear_wrong(exact_weight, lambda hb, h, last, now, then: 1 / (last - now)),
    "all-in-sigma": linear_wrong(exact_weight, all_sigma=True),
    "not-divided": linear_wrong(exact_weight, lambda hb, h, last, now, then: 1),
    "wrong-step": linear_wrong(exact_weight, lambda hb, h, last, now, then: 1 / h),
    "noise-grows": linear_wrong(exact_weight, grow=-1),
}

# 11.4 ----------------------------------------------------------------------------------------------------------------


def guidance_branch(with_label, without, sigma, w, low, high):
    return without + w * (with_label - without) if low < sigma <= high else with_label


def guidance_scale(with_label, without, sigma, w, low, high):
    w = w if low < sigma <= high else 1.0
    return (w * with_label + (1 - w) * without).numpy()


def guided_always(mix, outside=lambda with_label, without, w: with_label, ends=None):
    def guide(with_label, without, sigma, w, low, high):
        inside = low < sigma <= high if ends is None else ends(low, sigma, high)
        return (mix if inside else outside)(with_label, without, w)

    return guide


def proper(with_label, without, w):
    return without + w * (with_label - without)


WRONG_4 = {
    "interval-ignored": guided_always(proper, outside=proper),
    "unconditional-outside": guided_always(proper, outside=lambda c, u, w: u),
    "wrong-end": guided_always(proper, ends=lambda low, sigma, high: low <= sigma < high),
    "one-plus-w": guided_always(lambda c, u, w: c + w * (c - u)),
    "swapped": guided_always(lambda c, u, w: c + w * (u - c)),
    "wrong-sign": guided_always(lambda c, u, w: u + w * (u - c)),
    "weighted-sum": guided_always(lambda c, u, w: w * c + u),
    "no-guidance": guided_always(lambda c, u, w: c),
    "unconditional": guided_always(lambda c, u, w: u),
}

# 11.5 ----------------------------------------------------------------------------------------------------------------


def spread_closed(s, wide, w, high):
    if high == math.inf:
        return s * (s / wide) ** (w - 1)
    ratio = (s / wide) ** 2 * (wide**2 + high**2) / (s**2 + high**2)
    return s * ratio ** ((w - 1) / 2)


def spread_integral(s, wide, w, high):
    """d ln(std)/dσ, integrated over σ = e^u up to where nothing happens any more; a tensor."""
    u = torch.linspace(math.log(1e-7), math.log(min(high, 1e7)), 40_001, dtype=torch.float64)
    square = (2 * u).exp()
    squeeze = torch.trapezoid(square / (s**2 + square) - square / (wide**2 + square), u)
    return torch.tensor(s) * (-(w - 1) * squeeze).exp()


def solution(sigma, s, wide, w):
    return (s**2 + sigma**2) ** (w / 2) * (wide**2 + sigma**2) ** (-(w - 1) / 2)


def spread_wrong(at_start):
    """The ratio of the solution at 0 and at σ_hi, with another spread to begin with."""

    def spread(s, wide, w, high):
        if high == math.inf:
            return spread_closed(s, wide, w, high)
        return at_start(s, wide, high) * solution(0, s, wide, w) / solution(high, s, wide, w)

    return spread


def spread_power(power):
    def spread(s, wide, w, high):
        cut = 1 if high == math.inf else (wide**2 + high**2) / (s**2 + high**2)
        return s * ((s / wide) ** 2 * cut) ** power(w)

    return spread


def spread_without_a_branch(s, wide, w, high):
    return s * ((s / wide) ** 2 * (wide**2 + high**2) / (s**2 + high**2)) ** ((w - 1) / 2)


WRONG_5 = {
    "interval-ignored": lambda s, wide, w, high: s * (s / wide) ** (w - 1),
    "tilt": lambda s, wide, w, high: (w / s**2 - (w - 1) / wide**2) ** -0.5,
    "variance": lambda s, wide, w, high: spread_closed(s, wide, w, high) ** 2,
    "no-guidance": lambda s, wide, w, high: s,
    "w-for-w-minus-one": spread_power(lambda w: w / 2),
    "root-forgotten": spread_power(lambda w: w - 1),
    "widening": spread_power(lambda w: -(w - 1) / 2),
    "start-forgotten": spread_wrong(lambda s, wide, high: 1),
    "data-at-the-start": spread_wrong(lambda s, wide, high: s),
    "noise-at-the-start": spread_wrong(lambda s, wide, high: high),
    "other-at-the-start": spread_wrong(lambda s, wide, high: math.hypot(wide, high)),
    "infinity-over-infinity": spread_without_a_branch,
}

# 11.6 ----------------------------------------------------------------------------------------------------------------


def round_where(denoise, x, known, mask, sigma, sigma_next, eps, xi):
    x = x + (sigma_next - sigma) * (x - denoise(x, sigma)) / sigma
    x = torch.where(mask, known + sigma_next * eps, x)
    return x + math.sqrt(sigma**2 - sigma_next**2) * xi


def round_blend(denoise, x, known, mask, sigma, sigma_next, eps, xi):
    """By multiplying with the mask, in numpy, with the step as a mean of state and guess."""
    guess, keep = denoise(x, sigma).numpy(), sigma_next / sigma
    x, known, eps, xi, part = x.numpy(), known.numpy(), eps.numpy(), xi.numpy(), mask.double().numpy()
    x = part * (known + sigma_next * eps) + (1 - part) * (keep * x + (1 - keep) * guess)
    return x + np.sqrt((sigma - sigma_next) * (sigma + sigma_next)) * xi


def round_assigned(denoise, x, known, mask, sigma, sigma_next, eps, xi):
    x = x + (sigma_next / sigma - 1) * (x - denoise(x, sigma))
    x[mask] = (known + sigma_next * eps)[mask]
    return x + (sigma**2 - sigma_next**2) ** 0.5 * xi


def round_wrong(
    level=lambda s, t: t, up=lambda s, t: math.sqrt(s**2 - t**2), invert=False, which=None, step=True, put="middle"
):
    def one_round(denoise, x, known, mask, sigma, sigma_next, eps, xi):
        chosen = ~mask if invert else mask

        def with_known(x, level):
            return torch.where(chosen, known + level * eps, x)

        if put == "first":
            x = with_known(x, sigma)
        if step:
            x = x + (sigma_next - sigma) * (x - denoise(x, sigma)) / sigma
        if put == "middle":
            x = with_known(x, level(sigma, sigma_next))
        x = x + up(sigma, sigma_next) * xi * (1 if which is None else which(mask).double())
        if put == "last":
            x = with_known(x, sigma)
        return x

    return one_round


def round_known_last_with_xi(denoise, x, known, mask, sigma, sigma_next, eps, xi):
    return round_wrong(put="last")(denoise, x, known, mask, sigma, sigma_next, xi, xi)


WRONG_6 = {
    "mask-inverted": round_wrong(invert=True),
    "known-clean": round_wrong(level=lambda s, t: 0),
    "old-level": round_wrong(level=lambda s, t: s),
    "variance-for-standard-deviation": round_wrong(level=lambda s, t: t**2),
    "no-way-back": round_wrong(up=lambda s, t: 0),
    "levels-subtracted": round_wrong(up=lambda s, t: s - t),
    "root-forgotten": round_wrong(up=lambda s, t: s**2 - t**2),
    "sigma-again": round_wrong(up=lambda s, t: s),
    "known-not-renoised": round_wrong(which=lambda mask: ~mask),
    "unknown-not-renoised": round_wrong(which=lambda mask: mask),
    "replaced-first": round_wrong(put="first"),
    "known-last": round_wrong(put="last"),
    "known-last-with-xi": round_known_last_with_xi,
    "known-forgotten": round_wrong(put="never"),
    "step-forgotten": round_wrong(step=False),
}

RIGHT = {
    "11.1": [heun_plain, heun_library, heun_correction],
    "11.2": [grid_torch, grid_library, grid_list],
    "11.3": [linear_closed, linear_quadrature],
    "11.4": [guidance_branch, guidance_scale],
    "11.5": [spread_closed, spread_integral],
    "11.6": [round_where, round_blend, round_assigned],
}
WRONG = {"11.1": WRONG_1, "11.2": WRONG_2, "11.3": WRONG_3, "11.4": WRONG_4, "11.5": WRONG_5, "11.6": WRONG_6}
CHECKS = {
    "11.1": few_step_samplers.heun_step,
    "11.2": few_step_samplers.noise_grid,
    "11.3": few_step_samplers.linear_step,
    "11.4": few_step_samplers.guidance,
    "11.5": few_step_samplers.guided_std,
    "11.6": few_step_samplers.inpainting_round,
}


@pytest.mark.parametrize("number", CHECKS)
def test_unknown_mistakes_and_nothing_at_all(number):
    assert CHECKS[number](lambda *args: None).mistake == "returned-none"
    assert CHECKS[number](lambda *args: torch.zeros(7, 5)).mistake == "wrong-shape"
    assert CHECKS[number](lambda *args: ...).status == "open"
