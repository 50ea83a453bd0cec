"""Checks of lesson 5: the ancestral step, the dial η, timesteps, spherical interpolation, variance after a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ._core import Mistake, NotAttempted, check, expect_close, expect_scalar, expect_tensor

__all__ = ["ancestral_step", "ddim_dial", "slerp", "timestep_pairs", "variance_after_run"]

Mistakes = dict[str, tuple[Tensor, str]]


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _levels(*alpha_bars: float) -> list[Tensor]:
    return [torch.tensor(a, dtype=torch.float64) for a in alpha_bars]


def _guess(x: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    """The clean image that ε̂ implies."""
    return (x - (1 - a).sqrt() * eps) / a.sqrt()


def _stepped(step: Callable[..., Any], given: Sequence[Tensor], noise: Tensor, *more: Any, name: str) -> Any:
    """What ``step(*given, noise, *more)`` returns; refuses a step that draws noise of its own."""
    got, again = (step(*(value.clone() for value in (*given, noise)), *more) for _ in range(2))
    one, two = (expect_tensor(value, tuple(noise.shape), name).double() for value in (got, again))
    if not torch.allclose(one, two):
        raise Mistake("own-noise", "your step draws noise of its own. Use `noise`, which is passed in.")
    return got


def _posterior_mean(x_0: Tensor, x: Tensor, a: Tensor, b: Tensor, *, exchanged: bool = False) -> Tensor:
    """Mean of q(x_s | x_t, x_0) with ᾱ_t = a and ᾱ_s = b."""
    c_0, c_t = b.sqrt() * (1 - a / b) / (1 - a), (a / b).sqrt() * (1 - b) / (1 - a)
    return c_t * x_0 + c_0 * x if exchanged else c_0 * x_0 + c_t * x


# 5.1 -----------------------------------------------------------------------------------------------------------------


def _wrong_ancestral(x: Tensor, eps: Tensor, a: Tensor, b: Tensor, noise: Tensor) -> Mistakes:
    x_0, std, beta = _guess(x, eps, a), (1 - a / b).sqrt(), 1 - a / b
    mean = _posterior_mean(x_0, x, a, b)
    small = (beta * (1 - b) / (1 - a)).sqrt()
    squared_root = (x - (1 - a) * eps) / a
    return {
        "variance-for-standard-deviation": (mean + beta * noise, "noise is scaled by √variance, not by the variance."),
        "posterior-variance": (mean + small * noise, "this is β̃, the posterior's variance. Here you want 1 − ᾱ_t/ᾱ_s."),
        "no-noise": (mean, "the mean is right, but where is the noise? Only the last step, to ᾱ_s = 1, goes without."),
        "noise-subtracted": (
            mean - std * noise,
            "you subtract the noise. It is symmetric, but the check is not: add it.",
        ),
        "exchanged-coefficients": (
            _posterior_mean(x_0, x, a, b, exchanged=True) + std * noise,
            "c_0 belongs to x̂_0 and c_t to x_t; yours are exchanged.",
        ),
        "eps-for-x0": (
            _posterior_mean(eps, x, a, b) + std * noise,
            "you put ε̂ where x̂_0 belongs: first turn the noise into the guess of the clean image.",
        ),
        "plus-eps": (
            _posterior_mean((x + (1 - a).sqrt() * eps) / a.sqrt(), x, a, b) + std * noise,
            "x̂_0 = (x_t − √(1 − ᾱ_t) ε̂)/√ᾱ_t: the noise is taken away, with a minus.",
        ),
        "missing-roots": (
            _posterior_mean(squared_root, x, a, b) + std * noise,
            "square roots are missing in x̂_0: signal and noise have weights √ᾱ_t and √(1 − ᾱ_t).",
        ),
        "wrong-alpha-bar": (
            _posterior_mean(_guess(x, eps, b), x, a, b) + std * noise,
            "x̂_0 is read off x_t, so it takes ᾱ_t; you used ᾱ_s, the level you go to.",
        ),
        "alpha-bar-for-alpha": (
            x_0 + std * noise,
            "this jumps all the way to x̂_0. In the paper's formula the factors are α_t = ᾱ_t/ᾱ_s and 1 − α_t, "
            "those of one step; ᾱ_t stands only below ε̂.",
        ),
        "beta-of-the-whole-way": (
            x_0 + (1 - a).sqrt() * noise,
            "your β is 1 − ᾱ_t, the noise of the whole way from the clean image. That of this step is 1 − ᾱ_t/ᾱ_s.",
        ),
        "divided-by-the-signal": (
            (x - beta / (1 - a).sqrt() * eps) / a.sqrt() + std * noise,
            "you divide by √ᾱ_t, which undoes the whole way. One step is undone by √(1 − β) = √(ᾱ_t/ᾱ_s).",
        ),
        "missing-root-of-the-noise": (
            (x - beta / (1 - a) * eps) / (1 - beta).sqrt() + std * noise,
            "the factor of ε̂ is β/√(1 − ᾱ_t), with a root below: that is the standard deviation of the noise in x_t.",
        ),
        "multiplied-by-the-root": (
            (x - beta / (1 - a).sqrt() * eps) * (1 - beta).sqrt() + std * noise,
            "you multiply by √(1 − β). Going forward the signal was multiplied by it, so going back *divides*.",
        ),
        "ddim-mean": (
            b.sqrt() * x_0 + (1 - b).sqrt() * eps + std * noise,
            "this is DDIM's mean with the noise on top: too much noise in total. The posterior's mean is "
            "c_0 x̂_0 + c_t x_t.",
        ),
    }


@check("5.1", "An ancestral step")
def ancestral_step(step: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Any]) -> str:
    """Check ``step(x_t, eps, alpha_bar_t, alpha_bar_s, noise)``: DDPM with variance 1 − ᾱ_t/ᾱ_s, none at the end."""
    generator = torch.Generator().manual_seed(501)
    for a, b in (_levels(0.5, 0.6), _levels(0.1, 0.4), _levels(0.9, 0.99)):
        x, eps, noise = (_normal(generator, 4, 1, 3, 3) for _ in range(3))
        expected = _posterior_mean(_guess(x, eps, a), x, a, b) + (1 - a / b).sqrt() * noise
        name = f"the step from ᾱ = {float(a):g} to {float(b):g}"
        got = _stepped(step, (x, eps, a, b), noise, name=name)
        expect_close(got, expected, mistakes=_wrong_ancestral(x, eps, a, b, noise), name=name, rtol=1e-4, atol=1e-5)
    x, eps, noise = (_normal(generator, 4, 1, 3, 3) for _ in range(3))
    a, b = _levels(0.98, 1.0)
    noisy = _guess(x, eps, a) + (1 - a).sqrt() * noise
    advice = "the last step, to ᾱ_s = 1, must not add noise: it would stay on the picture. Return the mean there."
    expect_close(
        step(x.clone(), eps.clone(), a, b, noise.clone()),
        _guess(x, eps, a),
        mistakes={"noise-in-the-last-step": (noisy, advice)},
        name="the last step",
        rtol=1e-4,
        atol=1e-5,
    )
    return "near the noise, near the data, and in the last step."


# 5.2 -----------------------------------------------------------------------------------------------------------------


def _ddim(x_0: Tensor, eps: Tensor, b: Tensor, variance: Tensor, noise: Tensor, scale: Tensor | None = None) -> Tensor:
    direction = (1 - b - variance).clamp_min(0).sqrt()
    return b.sqrt() * x_0 + direction * eps + (variance.sqrt() if scale is None else scale) * noise


def _wrong_ddim(x: Tensor, eps: Tensor, a: Tensor, b: Tensor, noise: Tensor, eta: float) -> Mistakes:
    x_0, step = _guess(x, eps, a), 1 - a / b
    posterior = step * (1 - b) / (1 - a)
    v = eta**2 * posterior
    upside_down = eta**2 * step * (1 - a) / (1 - b) if b < 1 else v
    half = "η scales the standard deviation, so the variance has η²: σ = η√β̃."
    std = v.sqrt()
    return {
        "eta-in-the-variance": (_ddim(x_0, eps, b, eta * posterior, noise), half + " You have σ² = η β̃."),
        "eta-squared": (_ddim(x_0, eps, b, eta**4 * posterior, noise), half + " You have σ = η²√β̃."),
        "direction-too-long": (
            b.sqrt() * x_0 + (1 - b).sqrt() * eps + v.sqrt() * noise,
            "with fresh noise on top, less of the old noise may stay: its factor is √(1 − ᾱ_s − σ²). "
            "As it is, the variance is too large by σ².",
        ),
        "variance-for-standard-deviation": (
            _ddim(x_0, eps, b, v, noise, scale=v),
            "fresh noise is scaled by σ, and you scaled it by σ².",
        ),
        "sigma-not-squared": (
            b.sqrt() * x_0 + (1 - b - v.sqrt()).clamp_min(0).sqrt() * eps + v.sqrt() * noise,
            "under the root stands 1 − ᾱ_s − σ², with σ squared: variances add, standard deviations do not.",
        ),
        "beta-for-posterior": (
            _ddim(x_0, eps, b, eta**2 * step, noise),
            "η = 1 should give DDPM with the posterior's variance β̃ = (1 − ᾱ_s)/(1 − ᾱ_t) · (1 − ᾱ_t/ᾱ_s); "
            "yours lacks the first factor.",
        ),
        "upside-down": (
            _ddim(x_0, eps, b, upside_down, noise),
            "β̃ has (1 − ᾱ_s)/(1 − ᾱ_t), a number below 1; yours is upside down.",
        ),
        "wrong-sign": (
            b.sqrt() * x_0 - (1 - b - v).clamp_min(0).sqrt() * eps + v.sqrt() * noise,
            "the old noise stays with a plus: x_s lies between x̂_0 and x_t, not beyond x̂_0.",
        ),
        "wrong-alpha-bar": (
            _ddim(_guess(x, eps, b), eps, b, v, noise),
            "x̂_0 is read off x_t, so it takes ᾱ_t; you used ᾱ_s, the level you go to.",
        ),
        "no-noise": (
            b.sqrt() * x_0 + (1 - b - v).clamp_min(0).sqrt() * eps,
            "the fresh noise σξ is missing.",
        ),
        "root-forgotten": (
            _ddim(x_0, eps, b, (eta * posterior) ** 2, noise),
            "your σ is ηβ̃. β̃ is a variance, and σ a standard deviation: σ = η√β̃.",
        ),
        "state-for-guess": (
            b.sqrt() * x + (1 - b - v).clamp_min(0).sqrt() * eps + std * noise,
            "√ᾱ_s multiplies the guess x̂_0, and you have x_t there: take its noise away first.",
        ),
        "roots-subtracted": (
            b.sqrt() * x_0 + ((1 - b).sqrt() - std) * eps + std * noise,
            "√(1 − ᾱ_s) − σ is not √(1 − ᾱ_s − σ²): variances subtract, standard deviations do not.",
        ),
        "eta-ignored": (_ddim(x_0, eps, b, 0 * v, noise), "this is η = 0 whatever η is."),
        "eta-always-one": (_ddim(x_0, eps, b, posterior, noise), "this is η = 1 whatever η is."),
    }


@check("5.2", "The dial η")
def ddim_dial(step: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Any]) -> str:
    """Check ``step(x_t, eps, alpha_bar_t, alpha_bar_s, noise, eta)``: a DDIM step."""
    generator = torch.Generator().manual_seed(502)
    for eta in (0.5, 0.2, 0.0, 1.0):
        for a, b in (_levels(0.5, 0.6), _levels(0.1, 0.4), _levels(0.9, 0.95), _levels(0.98, 1.0)):
            x, eps, noise = (_normal(generator, 4, 1, 3, 3) for _ in range(3))
            variance = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
            name = f"the step from ᾱ = {float(a):g} to {float(b):g} with η = {eta:g}"
            got = _stepped(step, (x, eps, a, b), noise, eta, name=name)
            expect_close(
                got,
                _ddim(_guess(x, eps, a), eps, b, variance, noise),
                mistakes=_wrong_ddim(x, eps, a, b, noise, eta),
                name=name,
                rtol=1e-4,
                atol=1e-5,
            )
    return "from deterministic to ancestral, and in the last step too."


# 5.3 -----------------------------------------------------------------------------------------------------------------


def _as_pairs(value: Any) -> list[tuple[int, int]]:
    if value is Ellipsis:
        raise NotAttempted
    if value is None:
        raise Mistake("returned-none", "your function returned None. Does it end with a `return`?")
    try:
        pairs = [(t, s) for t, s in (value.tolist() if hasattr(value, "tolist") else value)]
    except (TypeError, ValueError):
        raise Mistake("not-pairs", "the result should be a list of pairs [(t, t_prev), …].") from None
    for number in (n for pair in pairs for n in pair):
        if float(number) != int(number):
            raise Mistake("not-integers", f"timesteps count steps, so they are integers; you gave {float(number):g}.")
    return [(int(t), int(s)) for t, s in pairs]


def _check_pairs(pairs: list[tuple[int, int]], total: int, n: int) -> None:
    where = f"for {total} timesteps in {n} steps"
    if not pairs:
        raise Mistake("empty", f"{where} you gave no pair at all.")
    if all(t < s for t, s in pairs):
        raise Mistake("upwards", f"{where} your steps go up, from data to noise. Sampling goes down: t_prev < t.")
    for t, s in pairs:
        if t <= s:
            raise Mistake("not-decreasing", f"{where} you step from {t} to {s}, which is not down.")
    if len(pairs) > 1 and all(s == t for (_, s), (t, _) in pairwise(pairs[::-1])):
        raise Mistake("wrong-order", f"{where} the pairs are right one by one but in the wrong order: noisiest first.")
    for (_, s), (t, _) in pairwise(pairs):
        if s != t:
            raise Mistake("broken-chain", f"{where} one step arrives at {s}, and the next starts from {t}.")
    start, end = pairs[0][0], pairs[-1][1]
    if start >= total:
        raise Mistake("starts-beyond", f"{where} you start at t = {start}, but the last timestep is {total - 1}.")
    if start < total - 1:
        raise Mistake(
            "starts-too-low",
            f"{where} you start at t = {start}. The first input is pure noise, which belongs to t = {total - 1}: "
            "told a smaller t, the network takes some of the noise for signal.",
        )
    if end != -1:
        raise Mistake(
            "never-clean",
            f"{where} your last step ends at {end}. Here t = 0 is the first noisy step: clean is t_prev = −1.",
        )
    if len(pairs) != n:
        raise Mistake("wrong-number", f"{where} you make {len(pairs)} steps: count the pairs, not the points between.")
    strides = [t - s for t, s in pairs]
    if strides[-1] == 1 and max(strides) > 2:
        raise Mistake(
            "short-last-stride",
            f"{where} your last step goes from t = 0 to −1 and costs as much as the others, but hardly moves: "
            "spread the points evenly over [−1, T − 1].",
        )
    if max(abs(stride - total / n) for stride in strides) >= 1:
        raise Mistake("uneven", f"{where} your strides reach from {min(strides)} to {max(strides)}; equal ones: T/n.")


@check("5.3", "Which timesteps?")
def timestep_pairs(pairs: Callable[[int, int], Any]) -> str:
    """Check ``pairs(total, n)``: n steps (t, t_prev) of equal stride from T − 1 to −1."""
    for total, n in ((1000, 4), (1000, 50), (1000, 1), (7, 3), (10, 10), (1000, 300), (1000, 1000)):
        _check_pairs(_as_pairs(pairs(total, n)), total, n)
    return "from pure noise to the clean image, without a gap, in equal strides."


# 5.4 -----------------------------------------------------------------------------------------------------------------


def _angle(a: Tensor, b: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    norms = a.square().sum(dims, keepdim=True).sqrt() * b.square().sum(dims, keepdim=True).sqrt()
    return ((a * b).sum(dims, keepdim=True) / norms).clamp(-1, 1).acos()


def _arc(a: Tensor, b: Tensor, w: float, angle: Tensor) -> Tensor:
    return (((1 - w) * angle).sin() * a + (w * angle).sin() * b) / angle.sin()


def _as_long_as(direction: Tensor, other: Tensor) -> Tensor:
    """Each image of the batch ``direction``, with the length that it has in ``other``."""
    every = tuple(range(1, direction.ndim))
    return direction * (other.square().sum(every, keepdim=True) / direction.square().sum(every, keepdim=True)).sqrt()


def _wrong_arcs(a: Tensor, b: Tensor, w: float, got: Tensor) -> Mistakes:
    every = tuple(range(1, a.ndim))
    angle = _angle(a, b, every)
    raw = (a * b).sum(every, keepdim=True).clamp(-1, 1).acos()
    return {
        "linear": ((1 - w) * a + w * b, "this is the straight line, which cuts the corner: its middle is too short."),
        "square-root-weights": (
            (1 - w) ** 0.5 * a + w**0.5 * b,
            "weights √(1 − w) and √w keep the length of orthogonal noises only. Use the angle θ between the two.",
        ),
        "swapped-ends": (_arc(b, a, w, angle), "w = 0 should give a and w = 1 should give b; yours is the other way."),
        "angle-not-normalised": (
            _arc(a, b, w, raw),
            "cos θ = ⟨a, b⟩/(‖a‖‖b‖): divide by the norms before you take the arccosine.",
        ),
        "not-divided": (
            _arc(a, b, w, angle) * angle.sin(),
            "both weights are divided by sin θ; without that, w = 0 does not give a.",
        ),
        "one-angle-for-the-batch": (
            _arc(a, b, w, _angle(a, b, tuple(range(a.ndim)))),
            "each image of the batch has its own angle: sum over all dimensions but the first.",
        ),
        "angle-per-pixel": (
            _arc(a, b, w, _angle(a, b, 1)),
            "you measure an angle at every pixel (dim = 1 of images is their channels). An image is one vector: "
            "flatten it, or sum over all dimensions but the first.",
        ),
        "angle-per-row": (
            _arc(a, b, w, _angle(a, b, a.ndim - 1)),
            "you measure an angle in every row of pixels. An image is one vector: sum over all dimensions but the "
            "first.",
        ),
        "half-the-arc": (_arc(a, b, w / 2, angle), "you stop half way: at w = 1 you should be at b."),
        "straight-line-stretched": (
            _as_long_as((1 - w) * a + w * b, got),
            "this is the straight line, stretched to another length. It is fast in the middle and slow at the ends; "
            "the formula goes along the arc at one speed.",
        ),
        "lengths-changed": (
            _as_long_as(_arc(_as_long_as(a, torch.ones_like(a)), _as_long_as(b, torch.ones_like(b)), w, angle), got),
            "you divided a and b by their norms, and mixed the directions. Only the angle needs the norms: use the "
            "formula on a and b as they are.",
        ),
    }


@check("5.4", "Spherical interpolation")
def slerp(interpolate: Callable[[Tensor, Tensor, float], Any]) -> str:
    """Check ``interpolate(a, b, w)`` of images (B, C, H, W): along the great circle, image by image."""
    generator = torch.Generator().manual_seed(504)
    for scale, shape in ((0.15, (3, 2, 4, 4)), (1.0, (3, 2, 4, 4)), (1.0, (5, 1, 8, 8))):
        a, b = (scale * _normal(generator, *shape) for _ in range(2))
        b = b + torch.linspace(-0.6, 0.6, len(a), dtype=torch.float64).reshape(-1, 1, 1, 1) * a  # angles that differ
        for w in (0.3, 0.5, 0.9, 0.0, 1.0):
            expected = _arc(a, b, w, _angle(a, b, (1, 2, 3)))
            name = f"the point at w = {w:g}"
            got = expect_tensor(interpolate(a.clone(), b.clone(), w), tuple(a.shape), name).detach().cpu().double()
            expect_close(got, expected, mistakes=_wrong_arcs(a, b, w, got), name=name, atol=1e-5)
    a[0] = 0
    a[0, 0, 0, 0] = 2.0  # without rounding, so that its cosine with itself is 1 on every machine
    for factor in (1.0, 2.0):
        got = torch.as_tensor(interpolate(a.clone(), factor * a, 0.5)).double()
        if not torch.allclose(got, (1 + factor) / 2 * a, rtol=1e-2, atol=1e-3):  # nor is NaN close to anything
            raise Mistake(
                "parallel",
                "between an image and itself (or a multiple of it) the angle is 0 and you divide 0 by 0. "
                "In that limit the arc is the straight line: treat it apart.",
            )
    return "along the arc, image by image, and between parallel ones too."


# 5.5 -----------------------------------------------------------------------------------------------------------------


def _recursion(
    s2: float,
    levels: Sequence[float],
    eta: float,
    *,
    start: float = 1.0,
    gain_power: int = 2,
    noise_power: int = 2,
    shrink: bool = True,
    apart: bool = False,
    full_direction: bool = False,
    eta_power: int = 2,
) -> float:
    """Variance after a run, right by default; each option is a mistake."""
    v = start
    for a, b in pairwise(levels):
        sigma = (eta**eta_power * (1 - b) / (1 - a) * (1 - a / b)) ** 0.5
        g = a**0.5 * s2 / (a * s2 + 1 - a) if shrink else a**-0.5
        of_x0 = b**0.5 * g
        of_eps = max(1 - b - (0 if full_direction else sigma**2), 0) ** 0.5 * (1 - a**0.5 * g) / (1 - a) ** 0.5
        k2 = of_x0**2 + of_eps**2 if apart else abs(of_x0 + of_eps) ** gain_power
        v = k2 * v + sigma**noise_power
    return v


def _wrong_variances(s2: float, levels: Sequence[float], eta: float) -> Mistakes:
    right = _recursion(s2, levels, eta)
    first = levels[0]
    table = {
        "gain-not-squared": (_recursion(s2, levels, eta, gain_power=1), "x_s = k x_t has the variance k²v, not kv."),
        "sigma-not-squared": (_recursion(s2, levels, eta, noise_power=1), "σξ adds the variance σ², not σ."),
        "parts-added-apart": (
            _recursion(s2, levels, eta, apart=True),
            "x̂_0 and ε̂ are both multiples of the same x_t. Add their factors first, and square the sum.",
        ),
        "no-shrinkage": (
            _recursion(s2, levels, eta, shrink=False),
            "x_t/√ᾱ_t is not the best guess of x_0: part of x_t is noise. For Gaussian data Tweedie's formula gives "
            "x̂_0 = √ᾱ_t s²/(ᾱ_t s² + 1 − ᾱ_t) · x_t.",
        ),
        "direction-too-long": (
            _recursion(s2, levels, eta, full_direction=True),
            "the factor of ε̂ is √(1 − ᾱ_s − σ²): some of the old noise makes room for the fresh one.",
        ),
        "no-noise": (
            _recursion(s2, levels, eta, noise_power=10_000),
            "the fresh noise adds σ² to the variance in every step; yours only shrinks.",
        ),
        "eta-in-the-variance": (
            _recursion(s2, levels, eta, eta_power=1),
            "you have σ² = η β̃. η scales the standard deviation, so the variance has η²: σ² = η² β̃.",
        ),
        "eta-ignored": (_recursion(s2, levels, 0.0), "this is the answer for η = 0."),
        "last-step-left-out": (
            _recursion(s2, levels[:-1], eta),
            "the last step, to ᾱ_s = 1, is missing: n + 1 levels make n steps.",
        ),
        "variance-squared": (_recursion(s2**2, levels, eta), "the argument s2 is the variance already: do not square."),
        "perfect-start": (
            _recursion(s2, levels, eta, start=first * s2 + 1 - first),
            "you start from the variance that x_T should have. The sampler starts from N(0, 1): v = 1.",
        ),
        "starts-at-zero": (_recursion(s2, levels, eta, start=0.0), "the run starts from N(0, 1), so from v = 1."),
        "standard-deviation": (right**0.5, "this is the standard deviation: the variance is wanted."),
        "exact-variance": (s2, "this is the variance that the run *should* end with. What does it end with?"),
    }
    return {name: (torch.tensor(value), advice) for name, (value, advice) in table.items()}


@check("5.5", "The variance after a run")
def variance_after_run(variance: Callable[[float, Sequence[float], float], Any]) -> str:
    """Check ``variance(s2, alpha_bars, eta)``: N(0, s²) data, exact denoiser, DDIM along ᾱ's that end with 1."""
    runs = ([0.002, 0.08, 0.4, 0.8, 1.0], [0.3, 0.6, 1.0], [0.5, 1.0], [0.0001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.999, 1.0])
    for eta in (0.7, 0.0, 1.0):
        for levels in runs:
            for s2 in (0.25, 3.0, 1.0):
                expect_close(
                    expect_scalar(variance(s2, list(levels), eta), "the variance"),
                    _recursion(s2, levels, eta),
                    mistakes=_wrong_variances(s2, levels, eta),
                    name=f"the variance for s² = {s2:g}, η = {eta:g}, {len(levels) - 1} steps",
                    rtol=1e-4,
                )
    return "no sample was drawn, and you know what thousands of them would say."
