"""Checks of lesson 11: Heun's step, a grid, an exponential step, guidance, its spread, a round of inpainting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._core import Mistake, check, expect_close, expect_scalar, expect_tensor

__all__ = ["guidance", "guided_std", "heun_step", "inpainting_round", "linear_step", "noise_grid"]

Mistakes = dict[str, tuple[Tensor, str]]
Denoise = Callable[[Tensor, float], Tensor]


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
    """Something smooth that is no multiple of x and depends on σ."""
    return torch.tanh(x / (1 + sigma)) + 0.2 * torch.sin(2 * x) / (1 + sigma)


# 11.1 ----------------------------------------------------------------------------------------------------------------


def _heun(
    x: Tensor,
    sigma: float,
    sigma_next: float,
    *,
    at: str = "trial",
    level: float | None = None,
    below: float | None = None,
    weights: tuple[float, float] = (0.5, 0.5),
    origin: str = "x",
) -> Tensor:
    """Heun's step, right by default; each option is a mistake."""
    k = sigma_next - sigma
    slope = (x - _denoise(x, sigma)) / sigma
    trial = x + k * slope
    place = trial if at == "trial" else x
    level, below = sigma_next if level is None else level, sigma_next if below is None else below
    there = (place - _denoise(place, level)) / below
    return (x if origin == "x" else trial) + k * (weights[0] * slope + weights[1] * there)


def _wrong_heun(x: Tensor, sigma: float, sigma_next: float) -> Mistakes:
    k, middle = sigma_next - sigma, (sigma + sigma_next) / 2
    slope = (x - _denoise(x, sigma)) / sigma
    half = x + k / 2 * slope
    trial = x + k * slope
    mixed = (x - _denoise(trial, sigma_next)) / sigma_next
    return {
        "euler": (x + k * slope, "this is Euler's step: the slope at the other end is not used."),
        "not-averaged": (
            _heun(x, sigma, sigma_next, weights=(1, 1)),
            "you add the two slopes. The step goes with their *mean*: divide by 2.",
        ),
        "end-slope-only": (
            _heun(x, sigma, sigma_next, weights=(0, 1)),
            "you go with the slope at the end alone. Its error is as large as Euler's, with the other sign.",
        ),
        "from-the-trial-point": (
            _heun(x, sigma, sigma_next, origin="trial"),
            "you step on from the trial point. The trial was only for asking: start from x again.",
        ),
        "slope-at-the-start": (
            _heun(x, sigma, sigma_next, at="x"),
            "the second slope is taken at x. It belongs to the trial point, where Euler's step ends.",
        ),
        "state-of-the-start": (
            x + k * (slope + mixed) / 2,
            "the second slope is (x_E − D)/σ' with x_E in *both* places; your difference still starts from x.",
        ),
        "old-level": (
            _heun(x, sigma, sigma_next, level=sigma),
            "at the trial point the noise level is sigma_next; you ask the denoiser with sigma.",
        ),
        "old-divisor": (
            _heun(x, sigma, sigma_next, below=sigma),
            "the second slope is divided by the noise level there, sigma_next; you divide by sigma.",
        ),
        "old-level-and-divisor": (
            _heun(x, sigma, sigma_next, level=sigma, below=sigma),
            "the second slope uses sigma throughout; at the trial point the noise level is sigma_next.",
        ),
        "midpoint": (
            x + k * (half - _denoise(half, middle)) / middle,
            "this is the midpoint method: also of second order, but Heun's takes the mean of the slopes at both ends.",
        ),
        "wrong-direction": (
            x - k * (slope + (x - k * slope - _denoise(x - k * slope, sigma_next)) / sigma_next) / 2,
            "you walk up, towards more noise: the step is sigma_next − sigma, which is negative.",
        ),
    }


@check("11.1", "Heun's step")
def heun_step(step: Callable[[Denoise, Tensor, float, float], Any]) -> str:
    """Check ``step(denoise, x, sigma, sigma_next)``; at ``sigma_next`` 0 it is Euler's."""
    generator = torch.Generator().manual_seed(1101)
    for sigma, sigma_next in ((2.0, 1.2), (10.0, 3.0), (0.5, 0.1)):
        x = sigma * _normal(generator, 4, 1, 3, 3)
        expect_close(
            step(_denoise, x.clone(), sigma, sigma_next),
            _heun(x, sigma, sigma_next),
            mistakes=_wrong_heun(x, sigma, sigma_next),
            name=f"the step from σ = {sigma:g} to {sigma_next:g}",
        )
    x = 0.2 * _normal(generator, 4, 1, 3, 3)
    try:
        last = step(_denoise, x.clone(), 0.2, 0.0)
    except ZeroDivisionError:
        last = torch.full_like(x, math.nan)
    got = expect_tensor(torch.as_tensor(last).nan_to_num(1e9, 1e9, -1e9), tuple(x.shape), "the last step")
    if not got.abs().max() < 1e6:
        raise Mistake(
            "division-by-zero",
            "at sigma_next = 0 the slope at the end is 0/0. End with Euler's step there.",
        )
    expect_close(got, _denoise(x, 0.2), name="the step to σ = 0", otherwise="the step to σ = 0 should be Euler's: D.")
    return "two slopes, one step, and an end without a division by zero."


# 11.2 ----------------------------------------------------------------------------------------------------------------


def _levels(n: int, first: float, last: float, rho: float, parts: int | None = None) -> Tensor:
    share = torch.arange(n, dtype=torch.float64) / (parts or n - 1)
    return (first ** (1 / rho) + share * (last ** (1 / rho) - first ** (1 / rho))) ** rho


def _wrong_grids(n: int, low: float, high: float, rho: float) -> Mistakes:
    right, zero = _levels(n, high, low, rho), torch.zeros(1, dtype=torch.float64)
    even = torch.linspace(high, low, n, dtype=torch.float64)
    geometric = torch.linspace(math.log(high), math.log(low), n, dtype=torch.float64).exp()
    roots = torch.linspace(high ** (1 / rho), low ** (1 / rho), n, dtype=torch.float64)
    return {
        "no-zero": (right, "the last stop is missing: after the level `low` comes 0, the clean picture."),
        "upwards": (
            torch.cat([zero, right.flip(0)]),
            "your levels go up. Sampling starts at the highest level and ends with 0.",
        ),
        "zero-first": (torch.cat([zero, right]), "the 0 is the end of the run, so it comes last."),
        "low-first": (
            torch.cat([right.flip(0), zero]),
            "you start at `low`. Sampling goes down: the first level is `high`, the last before 0 is `low`.",
        ),
        "never-low": (
            torch.cat([_levels(n, high, low, rho, n), zero]),
            "your last level before 0 is above `low`: n levels have n − 1 gaps between them, not n.",
        ),
        "low-is-zero": (
            _levels(n + 1, high, 0.0, rho),
            "you space all n + 1 levels evenly down to 0. The grid is even down to `low`, and then comes 0.",
        ),
        "one-too-few": (
            torch.cat([_levels(n - 1, high, low, rho), zero]) if n > 2 else torch.full((n + 2,), math.inf),
            "there are n levels *and* the 0: n + 1 numbers.",
        ),
        "even-in-sigma": (torch.cat([even, zero]), "these levels are even in σ itself; take the roots first."),
        "geometric": (torch.cat([geometric, zero]), "these levels are even in ln σ, which is the limit ρ → ∞."),
        "roots-not-undone": (torch.cat([roots, zero]), "these are the roots of the levels: raise them to ρ again."),
        "power-for-root": (
            torch.cat([_levels(n, high, low, 1 / rho), zero]),
            "you space the ρ-th *powers* evenly. It is the other way: roots first, then the power.",
        ),
    }


@check("11.2", "A grid of noise levels")
def noise_grid(grid: Callable[[int, float, float, float], Any]) -> str:
    """Check ``grid(n, low, high, rho)``: Karras' levels and a 0."""
    for n, low, high, rho in ((5, 0.1, 10.0, 7.0), (12, 0.002, 80.0, 7.0), (4, 0.5, 3.0, 2.0), (6, 1.0, 6.0, 1.0)):
        expect_close(
            grid(n, low, high, rho),
            torch.cat([_levels(n, high, low, rho), torch.zeros(1, dtype=torch.float64)]),
            mistakes=_wrong_grids(n, low, high, rho),
            name=f"the grid of {n} levels from {high:g} to {low:g}",
            rtol=1e-4,
        )
    return "both ends, even roots, and the clean picture last."


# 11.3 ----------------------------------------------------------------------------------------------------------------


def _linear(x: Tensor, guess: Tensor, before: Tensor, h: float, h_before: float, weight: float | None = None) -> Tensor:
    weight = h - 1 + math.exp(-h) if weight is None else weight
    return math.exp(-h) * x + (1 - math.exp(-h)) * guess + weight / h_before * (guess - before)


def _wrong_linear(x: Tensor, guess: Tensor, before: Tensor, levels: tuple[float, float, float]) -> Mistakes:
    last, now, then = levels
    h_before, h = math.log(last / now), math.log(now / then)
    keep = math.exp(-h)
    return {
        "euler": (_linear(x, guess, before, h, h_before, 0.0), "this is D constant, Euler's step: use the slope of D."),
        "middle-of-the-step": (
            _linear(x, guess, before, h, h_before, (1 - keep) * h / 2),
            "this is DPM-Solver++(2M): D in the middle of the step, for all of it. Here integrate the line exactly.",
        ),
        "end-of-the-step": (
            _linear(x, guess, before, h, h_before, (1 - keep) * h),
            "you take the extrapolated D at the *end* for the whole step. Integrate the line over the step.",
        ),
        "not-weighted": (
            _linear(x, guess, before, h, h_before, h**2 / 2),
            "you integrate s alone, h²/2. The integral has the weight e^{−(h−s)}, by which what comes early fades.",
        ),
        "weight-upside-down": (
            _linear(x, guess, before, h, h_before, 1 - keep - h * keep),
            "your weight is e^{−s}: it makes the *late* D fade. In the formula it is e^{−(h−s)}.",
        ),
        "wrong-sign": (
            _linear(x, guess, before, h, -h_before),
            "D_k − D_{k−1}, newest first: with the other sign you extrapolate backwards.",
        ),
        "differences-of-sigma": (
            _linear(x, guess, before, h, last - now),
            "h_{k−1} is a difference of λ, the logarithm of the ratio of the levels, not of the levels.",
        ),
        "all-in-sigma": (
            _linear(x, guess, before, now - then, last - now),
            "λ = −ln σ: the steps h are logarithms of ratios of the levels, not their differences.",
        ),
        "not-divided": (
            _linear(x, guess, before, h, 1.0),
            "the slope of D is its difference *divided by* h_{k−1}, the length of the previous step.",
        ),
        "wrong-step": (
            _linear(x, guess, before, h, h),
            "you divide by h, the length of this step; D changed by D_k − D_{k−1} during the previous one.",
        ),
        "noise-grows": (
            math.exp(h) * x + (1 - math.exp(h)) * guess + (h - 1 + math.exp(h)) / h_before * (guess - before),
            "e^{+h}: your noise grows. With h = ln(σ/σ') > 0 the state is multiplied by e^{−h} = σ'/σ.",
        ),
    }


@check("11.3", "A free order")
def linear_step(step: Callable[[Tensor, Tensor, Tensor, float, float, float], Any]) -> str:
    """Check ``step(x, guess, guess_before, sigma_before, sigma, sigma_next)``: D a line in λ, integrated exactly."""
    generator = torch.Generator().manual_seed(1103)
    for levels in ((10.0, 4.0, 1.0), (1.0, 0.3, 0.2), (3.0, 2.0, 0.2), (80.0, 1.0, 0.9)):
        x, guess, before = (_normal(generator, 5, 2) for _ in range(3))
        x = levels[1] * x
        h_before, h = math.log(levels[0] / levels[1]), math.log(levels[1] / levels[2])
        expect_close(
            step(x.clone(), guess.clone(), before.clone(), *levels),
            _linear(x, guess, before, h, h_before),
            mistakes=_wrong_linear(x, guess, before, levels),
            name=f"the step with levels {', '.join(f'{level:g}' for level in levels)}",
        )
    return "exact for every D that is a line in λ, and for one evaluation."


# 11.4 ----------------------------------------------------------------------------------------------------------------


def _wrong_guided(with_label: Tensor, without: Tensor, w: float, inside: bool) -> Mistakes:
    towards = with_label - without
    if not inside:
        return {
            "interval-ignored": (without + w * towards, "outside of the interval nothing is guided, and yours is."),
            "unconditional-outside": (
                without,
                "outside of the interval the *conditional* guess is wanted: without guidance, but not without class.",
            ),
        }
    return {
        "one-plus-w": (
            with_label + w * towards,
            "this is the other convention, in which w = 0 is the conditional guess. Here w = 1 is.",
        ),
        "swapped": (with_label - w * towards, "you go from the conditional guess to the unconditional one: exchange."),
        "wrong-sign": (without - w * towards, "you go away from the class: the difference has the wrong sign."),
        "weighted-sum": (
            w * with_label + without,
            "the two weights must add up to 1: w for the conditional guess and 1 − w for the other.",
        ),
        "no-guidance": (with_label, "inside of the interval the guess must depend on w."),
        "unconditional": (without, "this is the guess that knows no class."),
    }


@check("11.4", "Guidance in an interval")
def guidance(guide: Callable[[Tensor, Tensor, float, float, float, float], Any]) -> str:
    """Check ``guide(conditional, unconditional, sigma, w, low, high)``."""
    generator = torch.Generator().manual_seed(1104)
    low, high = 0.3, 2.0
    for sigma, w in ((1.0, 3.0), (0.5, 1.5), (0.31, 0.5), (0.1, 2.0), (5.0, 2.0), (80.0, 4.0), (2.0, 2.5), (0.3, 3.0)):
        with_label, without = (_normal(generator, 3, 1, 2, 2) for _ in range(2))
        inside = low < sigma <= high
        name = f"the guess at σ = {sigma:g} with w = {w:g} in ({low:g}, {high:g}]"
        guided = without + w * (with_label - without)
        got = guide(with_label.clone(), without.clone(), sigma, w, low, high)
        mistakes = _wrong_guided(with_label, without, w, inside)
        if sigma in (low, high):  # all other levels were right, so that an end is wrong
            ends = (
                (guided if sigma == low else with_label),
                "the interval is low < σ ≤ high: one end is out, one is in.",
            )
            mistakes = {"wrong-end": ends, **mistakes}
        expect_close(got, guided if inside else with_label, mistakes=mistakes, name=name)
    return "guided in the interval, the class alone outside of it."


# 11.5 ----------------------------------------------------------------------------------------------------------------


def _spread(s: float, wide: float, w: float, high: float, *, power: float | None = None) -> float:
    power = (w - 1) / 2 if power is None else power
    ratio = (s / wide) ** 2
    if high != math.inf:
        ratio *= (wide**2 + high**2) / (s**2 + high**2)
    return s * ratio**power


def _wrong_spread(s: float, wide: float, w: float, high: float) -> Mistakes:
    start = 1.0 if high == math.inf else (s**2 + high**2) ** (w / 2) * (wide**2 + high**2) ** (-(w - 1) / 2)
    raw = s**w * wide ** (-(w - 1)) / start
    precision = w / s**2 - (w - 1) / wide**2
    right = _spread(s, wide, w, high)
    table = {
        "interval-ignored": (_spread(s, wide, w, math.inf), "this is the answer for guidance at all levels."),
        "tilt": (
            abs(precision) ** -0.5,
            "this is the spread of the tilted density p^w/q^(w−1). The samples of guidance do not follow it.",
        ),
        "variance": (right**2, "this is the variance; the standard deviation is wanted."),
        "no-guidance": (s, "this is the spread without guidance."),
        "w-for-w-minus-one": (
            _spread(s, wide, w, high, power=w / 2),
            "at w = 1 nothing is guided and the answer must be s: the power is w − 1, not w.",
        ),
        "root-forgotten": (
            _spread(s, wide, w, high, power=w - 1),
            "your powers are twice too large: the solution has (s² + σ²)^{w/2}, with the half.",
        ),
        "widening": (
            _spread(s, wide, w, high, power=-(w - 1) / 2),
            "your spread grows with w when s < S. The narrower density must win: turn the ratio over.",
        ),
        "start-forgotten": (
            raw,
            "this is only the ratio of the solution at 0 and at σ_hi. The spread at σ_hi is √(s² + σ_hi²): multiply.",
        ),
        "data-at-the-start": (
            s * raw,
            "at σ_hi the samples have the spread √(s² + σ_hi²), noise included; you multiply by s.",
        ),
        "noise-at-the-start": (
            high * raw if high != math.inf else math.inf,
            "at σ_hi the samples have the spread √(s² + σ_hi²); you start with the noise alone.",
        ),
        "other-at-the-start": (
            (wide**2 + high**2) ** 0.5 * raw if high != math.inf else math.inf,
            "above σ_hi the *informed* score is used, so the spread there is √(s² + σ_hi²), not √(S² + σ_hi²).",
        ),
    }
    return {name: (torch.tensor(value), advice) for name, (value, advice) in table.items()}


def _is_nan(value: Any) -> bool:
    try:
        return math.isnan(value)
    except (TypeError, ValueError, RuntimeError):  # no number at all: not for this question
        return False


@check("11.5", "The spread of guided samples")
def guided_std(spread: Callable[[float, float, float, float], Any]) -> str:
    """Check ``spread(s, S, w, sigma_hi)``: N(0, s²) guided by N(0, S²) below ``sigma_hi``."""
    cases = ((0.5, 1.2, 3.0, 0.7), (0.4, 1.0, 2.5, 2.0), (0.5, 1.0, 1.5, math.inf), (0.8, 0.6, 1.3, 1.0))
    for s, wide, w, high in (*cases, (0.5, 1.0, 1.0, 3.0)):
        value = spread(s, wide, w, high)
        if high == math.inf and _is_nan(value):
            raise Mistake(
                "infinity-over-infinity",
                "for σ_hi = ∞ your ratio is ∞/∞, which is NaN. Its limit is 1: treat that case on its own.",
            )
        expect_close(
            expect_scalar(value, "the standard deviation"),
            _spread(s, wide, w, high),
            mistakes=_wrong_spread(s, wide, w, high),
            name=f"the standard deviation for s = {s:g}, S = {wide:g}, w = {w:g}, σ_hi = {high:g}",
        )
    return "and no sampler had to run."


# 11.6 ----------------------------------------------------------------------------------------------------------------


def _round(
    x: Tensor,
    known: Tensor,
    mask: Tensor,
    sigma: float,
    sigma_next: float,
    eps: Tensor,
    xi: Tensor,
    *,
    level: float | None = None,
    up: float | None = None,
    only: Tensor | None = None,
) -> Tensor:
    """A round, right by default; each option is a mistake."""
    x = x + (sigma_next - sigma) * (x - _denoise(x, sigma)) / sigma
    x = torch.where(mask, known + (sigma_next if level is None else level) * eps, x)
    up = math.sqrt(sigma**2 - sigma_next**2) if up is None else up
    return x + up * xi * (1 if only is None else only)


def _wrong_rounds(
    x: Tensor, known: Tensor, mask: Tensor, sigma: float, sigma_next: float, eps: Tensor, xi: Tensor
) -> Mistakes:
    given = (x, known, mask, sigma, sigma_next, eps, xi)
    up = math.sqrt(sigma**2 - sigma_next**2)
    first = torch.where(mask, known + sigma * eps, x)
    replaced_first = first + (sigma_next - sigma) * (first - _denoise(first, sigma)) / sigma + up * xi
    stepped = x + (sigma_next - sigma) * (x - _denoise(x, sigma)) / sigma + up * xi
    known_last = (
        "right in distribution, but the task puts the known pixels in at sigma_next, with eps, and then sends *all* "
        "pixels up with xi."
    )
    return {
        "mask-inverted": (
            _round(x, known, ~mask, sigma, sigma_next, eps, xi),
            "the mask is True where a pixel is *known*; you overwrite the unknown ones.",
        ),
        "known-clean": (
            _round(*given, level=0.0),
            "you put the known pixels in without noise. The denoiser expects all pixels to be as noisy as the level.",
        ),
        "old-level": (
            _round(*given, level=sigma),
            "after the step the level is sigma_next, and so is the noise of the known pixels; yours is sigma.",
        ),
        "variance-for-standard-deviation": (
            _round(*given, level=sigma_next**2),
            "noise is scaled by σ', the standard deviation, not by σ'².",
        ),
        "no-way-back": (_round(*given, up=0.0), "you stay at sigma_next: the way back up to sigma is missing."),
        "levels-subtracted": (
            _round(*given, up=sigma - sigma_next),
            "σ − σ' is not enough: variances add, standard deviations do not. You need √(σ² − σ'²).",
        ),
        "root-forgotten": (_round(*given, up=sigma**2 - sigma_next**2), "σ² − σ'² is a variance: take the root."),
        "sigma-again": (
            _round(*given, up=sigma),
            "you add all of sigma on top of what noise is there; only the missing part, √(σ² − σ'²), is needed.",
        ),
        "known-not-renoised": (
            _round(*given, only=(~mask).double()),
            "at the end the known pixels have the noise sigma_next, and the next round expects sigma: put them in "
            "before going back up, and send them up with the others.",
        ),
        "unknown-not-renoised": (
            _round(*given, only=mask.double()),
            "the unknown pixels must go back up too: *everything* is renoised.",
        ),
        "replaced-first": (
            replaced_first,
            "you put the known pixels in before the step. They come after it, at the noise of sigma_next.",
        ),
        "known-last": (torch.where(mask, known + sigma * eps, stepped), known_last),
        "known-last-with-xi": (torch.where(mask, known + sigma * xi, stepped), known_last),
        "known-forgotten": (stepped, "the known pixels are nowhere in your result."),
        "step-forgotten": (
            torch.where(mask, known + sigma_next * eps, x) + up * xi,
            "where is the step from sigma to sigma_next?",
        ),
    }


@check("11.6", "A round of inpainting")
def inpainting_round(one_round: Callable[..., Any]) -> str:
    """Check ``one_round(denoise, x, known, mask, sigma, sigma_next, eps, xi)``."""
    generator = torch.Generator().manual_seed(1106)
    for sigma, sigma_next in ((3.0, 1.6), (0.5, 0.2), (20.0, 15.0)):
        x, known, eps, xi = (_normal(generator, 3, 1, 4, 4) for _ in range(4))
        mask = _normal(generator, 3, 1, 4, 4) > 0
        given = (sigma * x, known, mask, sigma, sigma_next, eps, xi)
        expect_close(
            one_round(_denoise, *(v.clone() if isinstance(v, Tensor) else v for v in given)),
            _round(*given),
            mistakes=_wrong_rounds(*given),
            name=f"the round between σ = {sigma:g} and {sigma_next:g}",
        )
    return "down, known pixels in at their noise, and everything back up."
