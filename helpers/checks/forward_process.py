"""Checks of lesson 3: ᾱ from the betas, noising in one go, the posterior, a shifted schedule, reading v."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..schedules import LinearSchedule, NoiseSchedule
from ._core import Mistake, NotAttempted, check, expect_close, expect_tensor

__all__ = ["alpha_bar", "from_v", "posterior", "q_sample", "shifted_betas"]

Mistakes = dict[str, tuple[Any, str]]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(2024)


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def _pair(value: Any, shape: Sequence[int], first: str, second: str) -> tuple[Tensor, Tensor]:
    """A result that should hold two things, as float64 tensors; the first has a known shape."""
    if value is Ellipsis:
        raise NotAttempted
    if value is None or isinstance(value, Tensor) or not hasattr(value, "__len__") or len(value) != 2:
        raise Mistake("not-a-pair", f"return two things: `return {first}, {second}`.")
    one, two = (expect_tensor(part, None, f"your {name}") for part, name in zip(value, (first, second), strict=True))
    return expect_tensor(one, tuple(shape), f"your {first}").double(), two.double()


# 3.1 -----------------------------------------------------------------------------------------------------------------


def _noisy_steps(betas: Tensor, t: Tensor) -> Mistakes:
    """What goes wrong at t ≥ 0."""
    product = torch.cumprod(1 - betas, 0)
    exclusive = torch.cat([torch.ones(1, dtype=torch.float64), product[:-1]])
    late = (
        "this is the product *before* step t: at t = 0 you say 1, but t = 0 is the first noisy step. "
        "In the course's convention step t itself is included (s ≤ t), and clean data is t = −1."
    )
    return {
        "one-step": (1 - betas[t], "this is α_t = 1 − β_t, the effect of one step. ᾱ_t is the product of all up to t."),
        "off-by-one": (exclusive[t], late),
        "product-of-betas": (torch.cumprod(betas, 0)[t], "you multiplied the β. The signal is multiplied by 1 − β."),
        "one-minus-product-of-betas": (1 - torch.cumprod(betas, 0)[t], "take 1 − β first, then the product."),
        "sum": (1 - torch.cumsum(betas, 0)[t], "shares multiply: each step keeps 1 − β of what the last one left."),
        "exponential-of-sum": (
            torch.exp(-torch.cumsum(betas, 0))[t],
            "e to the minus sum of the β is a good approximation while all β are small. ᾱ itself is the product.",
        ),
        "root": (product.sqrt()[t], "this is √ᾱ, the factor of the image. Asked is ᾱ, the share of the variance."),
        "noise-share": (1 - product[t], "this is 1 − ᾱ, the share of the noise. Asked is the share of the signal."),
    }


@check("3.1", "From β to ᾱ")
def alpha_bar(my_alpha_bar: Callable[[Tensor, Tensor], Any]) -> str:
    """``my_alpha_bar(betas, t)``: betas (T,), t integers in [−1, T − 1] → ᾱ_t in the shape of t."""
    generator = _generator()
    betas = 0.05 + 0.4 * torch.rand(7, generator=generator, dtype=torch.float64)
    schedule = NoiseSchedule(betas)
    noisy, clean = torch.tensor([0, 3, 6, 1, 3]), torch.tensor([-1, 4, -1])
    got = my_alpha_bar(betas.clone(), noisy.clone())
    expect_close(got, schedule.alpha_bar(noisy), mistakes=_noisy_steps(betas, noisy), name="your ᾱ")
    wrapped = (
        "all noisy steps are right, but at t = −1 you give ᾱ of the *last* step: in Python the index −1 wraps round. "
        "Put a 1 in front of the products and shift the index by one."
    )
    end = schedule.alpha_bar(torch.where(clean < 0, len(betas) - 1, clean))
    mistakes: Mistakes = {
        "wraps-round": (end, wrapped),
        "first-for-clean": (schedule.alpha_bar(clean.clamp_min(0)), "t = −1 is clean data: no step yet, so ᾱ = 1."),
        "zero-for-clean": (schedule.alpha_bar(clean) * (clean >= 0), "at t = −1 all is signal: ᾱ = 1, not 0."),
    }
    expect_close(
        my_alpha_bar(betas.clone(), clean.clone()), schedule.alpha_bar(clean), mistakes=mistakes, name="your ᾱ"
    )
    return "right, at the noisy steps and at the clean end, where ᾱ = 1."


# 3.2 -----------------------------------------------------------------------------------------------------------------


def _noised_wrongly(x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Mistakes:
    def mix(a: Tensor, signal: Callable[[Tensor], Tensor], noise: Callable[[Tensor], Tensor]) -> Tensor:
        a = a[:, None, None, None]
        return signal(a) * x_0 + noise(a) * eps

    a = alpha_bar[t]
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar])[t]
    factor, scale = a.sqrt(), (1 - a).sqrt()
    columns = factor * x_0 + scale * eps  # B equals H and W in the check, on purpose
    rows = factor[:, None] * x_0 + scale[:, None] * eps
    spread = (
        "there is no error, and yet it is wrong: with shape {} your factors broadcast along the {} of each image, so "
        "that every {} gets the noise of another image. Reshape them to (B, 1, 1, 1)."
    )
    missing = "{} lacks its square root. Variances add, so the *squares* of the two factors must add to 1."
    wrapped = (
        "you read ᾱ of step t − 1. Here `alpha_bar[t]` is already the right entry: `alpha_bar[0]` is the first step."
    )
    return {
        "no-roots": (mix(a, lambda a: a, lambda a: 1 - a), missing.format("each factor")),
        "signal-root": (mix(a, lambda a: a, lambda a: (1 - a).sqrt()), missing.format("the factor of x_0")),
        "noise-root": (mix(a, torch.sqrt, lambda a: 1 - a), missing.format("the factor of ε")),
        "one-minus-root": (
            mix(a, torch.sqrt, lambda a: 1 - a.sqrt()),
            "1 − √ᾱ is not √(1 − ᾱ). The squares of the two factors must add to 1.",
        ),
        "swapped-roles": (
            mix(a, lambda a: (1 - a).sqrt(), torch.sqrt),
            "image and noise have changed places: at small t, ᾱ is near 1 and the image must be nearly intact.",
        ),
        "minus": (mix(a, torch.sqrt, lambda a: -((1 - a).sqrt())), "the noise is added, not subtracted."),
        "variance-exploding": (
            mix(a, torch.ones_like, lambda a: ((1 - a) / a).sqrt()),
            "this is x_0 + σ_t ε, the other scaling of the same thing. Multiply by √ᾱ_t to keep the variance.",
        ),
        "off-by-one": (mix(before, torch.sqrt, lambda a: (1 - a).sqrt()), wrapped),
        "off-by-one-and-wrapped": (mix(alpha_bar[t - 1], torch.sqrt, lambda a: (1 - a).sqrt()), wrapped),
        "factor-per-column": (columns, spread.format("(B,)", "columns", "column")),
        "factor-per-row": (rows, spread.format("(B, 1)", "rows", "row")),
        "one-t-for-all": (
            mix(a[:1].expand(len(t)), torch.sqrt, lambda a: (1 - a).sqrt()),
            "all images were noised to the first one's t. Each has its own.",
        ),
    }


@check("3.2", "Noise a batch in one go")
def q_sample(my_q_sample: Callable[[Tensor, Tensor, Tensor, Tensor], Any]) -> str:
    """``my_q_sample(x_0, t, eps, alpha_bar)``: images (B, C, H, W), t (B,), eps as x_0, ᾱ of shape (T,) → x_t."""
    generator, levels = _generator(), LinearSchedule(20, 0.01, 0.4)
    every = levels.alpha_bar(torch.arange(20))
    for shape, t in (((4, 1, 4, 4), [9, 0, 19, 4]), ((3, 3, 2, 5), [12, 3, 7])):
        t = torch.tensor(t)
        x_0, eps = _normal(shape, generator), _normal(shape, generator)
        given = x_0.clone()
        my_q_sample(given, t.clone(), eps.clone(), every.clone())
        if not torch.equal(given, x_0):
            raise Mistake("changes-input", "your function changes `x_0` itself (`*=`, `.mul_`): make a new tensor.")
        got = _uses_noise(lambda e, x=x_0, t=t: my_q_sample(x.clone(), t.clone(), e, every.clone()), eps)
        factor, scale = levels.alpha_bar(t).sqrt(), (1 - levels.alpha_bar(t)).sqrt()
        expected = factor[:, None, None, None] * x_0 + scale[:, None, None, None] * eps
        mistakes = _noised_wrongly(x_0, t, eps, every) if shape[0] == shape[-1] else None
        expect_close(got, expected, mistakes=mistakes, name="x_t")
    return "right: each image to its own t, and the squares of the two factors add to 1."


def _uses_noise(noised: Callable[[Tensor], Any], eps: Tensor) -> Tensor:
    """The result for this noise; refuses one that changes by itself, or that noise does not change."""
    got, again, mirrored = (
        expect_tensor(noised(e.clone()), tuple(eps.shape), "x_t").double() for e in (eps, eps, -eps)
    )
    if torch.allclose(got, mirrored):
        raise Mistake("ignores-noise", "the result does not depend on `eps`. Use the noise that is passed in.")
    if not torch.allclose(got, again):
        raise Mistake("own-noise", "your function draws noise of its own. Use `eps`: the loss must know which it was.")
    return got


# 3.3 -----------------------------------------------------------------------------------------------------------------


def _wrong_variances(beta: Tensor, a: Tensor, a_prev: Tensor) -> Mistakes:
    right = (1 - a_prev) / (1 - a) * beta
    return {
        "variance-is-beta": (beta, "this is β_t, the variance of the step *forward*. Knowing x_0 leaves less doubt."),
        "log-variance": (right.log(), "this is the logarithm of the variance. Asked is the variance itself."),
        "std-not-variance": (right.sqrt(), "this is the standard deviation. Asked is the variance."),
        "precision-not-variance": (1 / right, "this is the precision (the sum of the two); its inverse is asked."),
        "inverted-ratio": ((1 - a) / (1 - a_prev) * beta, "the ratio is upside down: β̃_t must be smaller than β_t."),
        "variance-of-marginal": (1 - a_prev, "this is the variance of q(x_{t−1} | x_0): x_t has not been used."),
        "precision-of-the-step": (
            1 / (1 / beta + 1 / (1 - a_prev)),
            "the second precision is not 1/β_t. The likelihood is about √α_t x_{t−1}, so it is α_t/β_t.",
        ),
        "variances-added": (
            1 - a_prev + beta / (1 - beta),
            "you added the two variances. Two sources leave less doubt than one: add the *precisions*, and invert.",
        ),
    }


def _wrong_means(x_0: Tensor, x_t: Tensor, beta: Tensor, a: Tensor, a_prev: Tensor) -> Mistakes:
    c0, ct = a_prev.sqrt() * beta / (1 - a), (1 - beta).sqrt() * (1 - a_prev) / (1 - a)
    bare = a_prev * beta / (1 - a) * x_0, (1 - beta) * (1 - a_prev) / (1 - a) * x_t
    root = "a square root is missing: x_{t−1} has mean √ᾱ_{t−1} x_0, and x_t has mean √α_t x_{t−1}."
    return {
        "swapped-coefficients": (ct * x_0 + c0 * x_t, "the two coefficients have changed places."),
        "missing-root": (bare[0] + bare[1], root),
        "missing-root-x0": (bare[0] + ct * x_t, root),
        "missing-root-xt": (c0 * x_0 + bare[1], root),
        "alpha-bar-for-alpha": (
            c0 * x_0 + a.sqrt() * (1 - a_prev) / (1 - a) * x_t,
            "the coefficient of x_t has √ᾱ_t where √α_t = √(1 − β_t) belongs: one step, not all of them.",
        ),
        "alpha-bar-of-t": (
            a.sqrt() * beta / (1 - a) * x_0 + ct * x_t,
            "the coefficient of x_0 has √ᾱ_t where √ᾱ_{t−1} belongs: the prior is about x_{t−1}.",
        ),
        "mean-of-marginal": (a_prev.sqrt() * x_0, "this is the mean of q(x_{t−1} | x_0): x_t has not been used."),
        "not-normalised": (
            (c0 * x_0 + ct * x_t) * (1 - a) / ((1 - a_prev) * beta),
            "this is the sum weighted by the precisions. Divide it by the sum of the precisions (multiply by β̃_t).",
        ),
    }


def _refuse_swapped(given: Any, shape: tuple[int, ...]) -> None:
    """Names the mistake of an answer that holds the variance first and the mean second."""
    if isinstance(given, (tuple, list)) and len(given) == 2 and not any(part is None for part in given):
        first, second = (tuple(getattr(part, "shape", ())) for part in given)
        if first != shape == second:
            raise Mistake("swapped-answers", "the two answers have changed places: the mean first, then the variance.")


@check("3.3", "The step back")
def posterior(my_posterior: Callable[[Tensor, Tensor, int, NoiseSchedule], Any]) -> str:
    """``my_posterior(x_0, x_t, t, schedule)``: t a number in [0, T − 1] → mean (as x_t) and variance."""
    generator = _generator()
    schedule = NoiseSchedule(0.05 + 0.5 * torch.rand(9, generator=generator, dtype=torch.float64))
    for t in (4, 8, 1):
        x_0, x_t = _normal((3, 2), generator), _normal((3, 2), generator)
        given = my_posterior(x_0.clone(), x_t.clone(), t, schedule)
        _refuse_swapped(given, (3, 2))
        mean, variance = _pair(given, (3, 2), "mean", "variance")
        beta, a, a_prev = schedule.beta(t), schedule.alpha_bar(t), schedule.alpha_bar(t - 1)
        expected = schedule.posterior_coefficients(t)
        spread = variance.flatten()
        if len(spread) and bool((spread == spread[0]).all()):  # one number, or the same for every image
            variance = spread[0]
        mistakes = _wrong_variances(beta, a, a_prev)
        expect_close(variance, expected.variance, mistakes=mistakes, name="your variance")
        right = expected.x0 * x_0 + expected.xt * x_t
        expect_close(mean, right, mistakes=_wrong_means(x_0, x_t, beta, a, a_prev), name="your mean")
    _clean_end(my_posterior, schedule, x_0, x_t)
    return "right, down to the clean end, where the posterior is a point at x_0."


def _clean_end(my_posterior: Callable[..., Any], schedule: NoiseSchedule, x_0: Tensor, x_t: Tensor) -> None:
    advice = (
        "all is right for t ≥ 1, but at t = 0 the mean must be x_0 and the variance 0. "
        "ᾱ_{−1} is 1: ask `schedule.alpha_bar(t - 1)`, and an index −1 will not wrap round."
    )
    infinite = (
        "all is right for t ≥ 1, but at t = 0 you divide by zero: ᾱ_{−1} is 1, and so the prior's precision is "
        "infinite. Put both terms over the common denominator 1 − ᾱ_t, and 1 − ᾱ_{t−1} stands above the line."
    )
    try:
        mean, variance = _pair(my_posterior(x_0.clone(), x_t.clone(), 0, schedule), x_0.shape, "mean", "variance")
        right = torch.allclose(mean, x_0, atol=1e-5) and bool((variance.abs() < 1e-6).all())
    except ZeroDivisionError:
        raise Mistake("infinite-precision", infinite) from None
    except Mistake as mistake:
        if mistake.name == "not-finite":
            raise Mistake("infinite-precision", infinite) from None
        right = False
    except (ValueError, IndexError):
        right = False
    if not right:
        raise Mistake("clean-end", advice)


# 3.4 -----------------------------------------------------------------------------------------------------------------


def _wrong_shifts(a: Tensor, factor: float) -> Mistakes:
    def betas(alpha_bar: Tensor) -> Tensor:
        return 1 - alpha_bar / torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])

    def shift(by: float) -> Tensor:
        return by * a / (1 - a + by * a)

    right = shift(factor)
    rolled = 1 - right / right.roll(1)
    scaled = (
        "you {} the betas. The *SNR* is to be multiplied, at each step: go from ᾱ to the SNR, and back to the betas."
    )
    first = "{} β_0 compares ᾱ_0 with the clean image, whose ᾱ is 1."
    return {
        "scaled-alpha-bar": (betas(factor * a), "you multiplied ᾱ. Multiply the SNR, ᾱ/(1 − ᾱ), and solve back for ᾱ."),
        "inverse-factor": (
            betas(shift(1 / factor)),
            "the SNR was divided by the factor; below 1 it must mean *more* noise.",
        ),
        "scaled-sigma": (betas(shift(factor**-2)), "you multiplied σ. SNR = 1/σ², so σ is divided by √factor."),
        "root-of-factor": (betas(shift(math.sqrt(factor))), "the SNR moved by √factor only: it is ᾱ/(1 − ᾱ), no root."),
        "squared-factor": (betas(shift(factor**2)), "the SNR moved by factor²: multiply it once."),
        "no-shift": (betas(a), "these are the betas of the given schedule: nothing has been shifted."),
        "noise-share": (1 - right, "this is 1 − ᾱ. One step multiplies ᾱ by 1 − β_t, so β_t = 1 − ᾱ_t/ᾱ_{t−1}."),
        "alpha-bar": (right, "this is the shifted ᾱ, and it is right; its betas are asked: β_t = 1 − ᾱ_t/ᾱ_{t−1}."),
        "alpha-not-beta": (1 - betas(right), "this is α_t = ᾱ_t/ᾱ_{t−1}. β_t is what is missing from 1."),
        "wraps-round": (rolled, first.format("all but the first are right: there the index −1 wrapped round.")),
        "first-step-zero": (
            torch.cat([torch.zeros(1, dtype=torch.float64), betas(right)[1:]]),
            first.format("all but the first are right: there you compare ᾱ_0 with itself."),
        ),
        "before-not-shifted": (
            1 - right / torch.cat([torch.ones(1, dtype=torch.float64), a[:-1]]),
            "you divide the new ᾱ_t by the *old* ᾱ_{t−1}. Both belong to the new schedule.",
        ),
        "ratio-inverted": (
            1 - 1 / (1 - betas(right)),
            "your ratio is upside down: ᾱ falls, so ᾱ_t/ᾱ_{t−1} is below 1 and β_t = 1 − ᾱ_t/ᾱ_{t−1} above 0.",
        ),
        "scaled-betas": (factor * betas(a), scaled.format("multiplied")),
        "divided-betas": (betas(a) / factor, scaled.format("divided")),
        "first-step-lost": (betas(right)[1:], first.format("the first step is missing: T betas are asked.")),
    }


@check("3.4", "A schedule for bigger pictures")
def shifted_betas(my_shifted_betas: Callable[[Tensor, float], Any]) -> str:
    """``my_shifted_betas(alpha_bar, factor)``: ᾱ (T,) → the betas (T,) whose SNR is ``factor`` times as high."""
    for factor, base in ((1 / 4, LinearSchedule(30, 0.005, 0.3)), (1 / 16, LinearSchedule(12, 0.02, 0.5))):
        a = base.alpha_bar(torch.arange(base.n_steps))
        shifted = factor * a / (1 - a + factor * a)
        expected = 1 - shifted / torch.cat([torch.ones(1, dtype=torch.float64), shifted[:-1]])
        got = my_shifted_betas(a.clone(), factor)
        expect_close(got, expected, mistakes=_wrong_shifts(a, factor), name="your betas")
    return "right: the SNR of every step is multiplied by the factor, and every β stays inside (0, 1)."


# 3.5 -----------------------------------------------------------------------------------------------------------------


@check("3.5", "What v says")
def from_v(my_from_v: Callable[[Tensor, Tensor, float], Any]) -> str:
    """``my_from_v(x_t, v, alpha_bar)``: tensors of one shape, ᾱ a number → (x_0, eps)."""
    generator = _generator()
    for a in (0.8, 0.3):
        x_0, eps = _normal((2, 3), generator), _normal((2, 3), generator)
        s, n = math.sqrt(a), math.sqrt(1 - a)
        x_t, v = s * x_0 + n * eps, s * eps - n * x_0
        got = torch.stack(_pair(my_from_v(x_t.clone(), v.clone(), a), (2, 3), "x_0", "eps"))
        sign = "the sign in front of v is wrong in {}. Put v = √ᾱ ε − √(1 − ᾱ) x_0 in, and see what cancels."
        opposite = (
            "both signs are those of the opposite convention, v = √(1 − ᾱ) x_0 − √ᾱ ε. "
            "The course follows Salimans and Ho: v = √ᾱ ε − √(1 − ᾱ) x_0."
        )
        mistakes: Mistakes = {
            "swapped-answers": (torch.stack([eps, x_0]), "the two answers have changed places: x_0 first, then ε."),
            "opposite-v": (torch.stack([s * x_t + n * v, n * x_t - s * v]), opposite),
            "sign-of-x0": (torch.stack([s * x_t + n * v, eps]), sign.format("x_0")),
            "sign-of-eps": (torch.stack([x_0, n * x_t - s * v]), sign.format("ε")),
            "missing-roots": (
                torch.stack([a * x_t - (1 - a) * v, (1 - a) * x_t + a * v]),
                "the roots are missing: a rotation's coefficients are √ᾱ and √(1 − ᾱ), a cosine and a sine.",
            ),
            "swapped-coefficients": (
                torch.stack([n * x_t - s * v, s * x_t + n * v]),
                "√ᾱ and √(1 − ᾱ) have changed places. Without noise (ᾱ = 1) x_0 must be x_t.",
            ),
            "divided": (
                torch.stack([(x_t - n * v) / s, (x_t + s * v) / n]),
                "you solved as if v were ε. Eliminate the other unknown from *both* equations; no division is needed.",
            ),
            "v-is-eps": (torch.stack([(x_t - n * v) / s, v]), "v is not ε: it holds some of x_0 as well."),
        }
        expect_close(got, torch.stack([x_0, eps]), mistakes=mistakes, name="your pair (x_0, ε)")
    _nothing_divided(my_from_v)
    return "right: a rotation back by the same angle, and nothing is divided."


def _nothing_divided(my_from_v: Callable[..., Any]) -> None:
    """The two ends, where a factor is zero: clean data (ᾱ = 1: x_t = x_0, v = ε) and pure noise (ᾱ = 0: ε, −x_0)."""
    one, other = torch.tensor([0.5, -2.0], dtype=torch.float64), torch.tensor([1.5, 0.25], dtype=torch.float64)
    for a, right in ((1.0, (one, other)), (0.0, (-other, one))):
        advice = (
            f"all is right in between, but at ᾱ = {a:.0f} you divide by zero. Both answers can be had without a "
            "division: multiply the two equations by √ᾱ and √(1 − ᾱ) and add or subtract them."
        )
        try:
            got = _pair(my_from_v(one.clone(), other.clone(), a), (2,), "x_0", "eps")
        except ZeroDivisionError:
            raise Mistake("divides-by-zero", advice) from None
        except Mistake as mistake:
            raise Mistake("divides-by-zero", advice) if mistake.name == "not-finite" else mistake from None
        expect_close(torch.stack(got), torch.stack(right), name=f"your pair at ᾱ = {a:.0f}")
