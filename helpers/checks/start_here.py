"""Checks of lesson 0: the self-test of what the course takes for granted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ._core import Mistake, check, expect_close, expect_scalar

__all__ = [
    "best_guess",
    "chain_rule",
    "divergence",
    "noise_length",
    "one_number_per_image",
    "scale_and_shift",
    "score",
    "two_noises",
]

Wrong = Mapping[str, tuple[float | tuple[float, ...], str]]
"""Mistake name → (the number that it gives, or several; advice)."""


def _see(section: str) -> str:
    return f' Refresher: "{section}".'


def _numbers(
    values: Mapping[str, Any], expected: Mapping[str, float], wrong: Mapping[str, Wrong], section: str, atol: float
) -> None:
    """Compare numbers by their names; a recognised mistake in any of them goes before an unknown one."""
    got = {name: expect_scalar(value, f"`{name}`") for name, value in values.items()}
    bad = [name for name in got if abs(got[name] - expected[name]) > atol]
    for name in bad:
        for mistake, (numbers, advice) in wrong[name].items():
            numbers = numbers if isinstance(numbers, tuple) else (numbers,)
            if any(abs(got[name] - number) <= atol for number in numbers):
                raise Mistake(mistake, f"`{name}`: {advice}{_see(section)}")
    if bad:
        raise Mistake("wrong-value", f"`{bad[0]}` = {got[bad[0]]:g} is not right yet.{_see(section)}")


# 0.1 -----------------------------------------------------------------------------------------------------------------


@check("0.1", "Scale and shift")
def scale_and_shift(mean: Any, variance: Any) -> str:
    """Mean and variance of y = 5 − 3ε, ε ~ N(0, 1)."""
    swapped = "mean and variance have changed places."
    wrong = {
        "mean": {
            "shift-forgotten": (0.0, "ε has mean 0, but y is shifted by 5."),
            "added-factor": (2.0, "the −3 multiplies ε, whose mean is 0: it does not move the mean."),
            "swapped": (9.0, swapped),
        },
        "variance": {
            "std-for-variance": (3.0, "that is the standard deviation; the variance is its *square*."),
            "negative-variance": ((-3.0, -9.0), "a variance is never negative: the factor enters squared."),
            "not-scaled": (1.0, "that is the variance of ε itself, before it was scaled."),
            "shifted-variance": (14.0, "adding 5 moves every value alike; it does not spread them."),
        },
    }
    _numbers({"mean": mean, "variance": variance}, {"mean": 5.0, "variance": 9.0}, wrong, "Gaussians", atol=1e-3)
    return "the shift moves the mean only, the factor enters the variance squared, and its sign is lost."


# 0.2 -----------------------------------------------------------------------------------------------------------------


@check("0.2", "Two noises are one")
def two_noises(signal: Any, noise_std: Any) -> str:
    """x₁ = 0.8 x₀ + 0.6 ε₁ and x₂ = 0.6 x₁ + 0.8 ε₂: the factor of x₀, and the size of all noise, in x₂."""
    wrong = {
        "signal": {
            "added-factors": (1.4, "one factor acts on the result of the other: they multiply."),
            "squared-signal": (0.48**2, "that is the factor's square; x₀ itself is asked for."),
            "one-step-only": (0.8, "that is the factor in x₁; one more step follows."),
        },
        "noise_std": {
            "added-standard-deviations": (0.36 + 0.8, "variances add, standard deviations do not."),
            "added-factors": (1.4, "variances add, not factors; and ε₁ is scaled by 0.6 on its way to x₂."),
            "variance-for-std": (1 - 0.48**2, "that is the variance; the standard deviation is its root."),
            "first-noise-not-scaled": (1.0, "ε₁ is scaled once more, by 0.6, on its way into x₂."),
            "last-noise-only": (0.8, "that is ε₂ alone; some of ε₁ is still there."),
        },
    }
    expected = {"signal": 0.48, "noise_std": math.sqrt(1 - 0.48**2)}
    _numbers({"signal": signal, "noise_std": noise_std}, expected, wrong, "Gaussians", atol=4e-3)
    return (
        "two small steps are one larger one, and signal² + noise² is 1 again: the whole forward process in a nutshell."
    )


# 0.3 -----------------------------------------------------------------------------------------------------------------


@check("0.3", "How long is noise?")
def noise_length(mean_square: Any, length: Any) -> str:
    """E‖ε‖² and the typical ‖ε‖ for ε ~ N(0, I) of shape (3, 32, 32)."""
    zero = "each pixel averages to 0, but its *square* does not: squares never cancel."
    channels = "three channels of 32 × 32 pixels each: count all the numbers."
    one = "that is the mean over the pixels; ‖ε‖² is the sum."
    d = 3 * 32 * 32
    wrong = {
        "mean_square": {
            "expected-zero": (0.0, zero),
            "mean-for-sum": (1.0, one),
            "channels-forgotten": (1024.0, channels),
            "root-taken": (math.sqrt(d), "that is already the length; the mean *square* is asked for."),
        },
        "length": {
            "expected-zero": (0.0, zero),
            "mean-for-sum": (1.0, one),
            "channels-forgotten": (32.0, channels),
            "root-forgotten": (float(d), "that is the square of the length: take the root."),
        },
    }
    expected = {"mean_square": float(d), "length": math.sqrt(d)}
    _numbers({"mean_square": mean_square, "length": length}, expected, wrong, "Gaussians", atol=0.5)
    return "pure noise lives on a thin shell, far from 0; that is where samplers start."


# 0.4 -----------------------------------------------------------------------------------------------------------------


@check("0.4", "The best guess")
def best_guess(mean: Any, variance: Any) -> str:
    """Mean and variance of x ~ N(0, 4) after seeing y = x + ε = 5 with ε ~ N(0, 1)."""
    wrong = {
        "mean": {
            "weights-swapped": (1.0, "you shrink too much: the *prior* is wide here, so trust the observation."),
            "prior-ignored": (5.0, "that is the observation itself; the prior pulls it towards 0."),
            "plain-average": (2.5, "prior and observation do not count alike: weigh each by 1/variance."),
            "observation-ignored": (0.0, "that is the prior's mean; you have seen y = 5 since."),
            "std-for-variance": (10 / 3, "you weigh by standard deviations; the weights are 1/*variance*."),
        },
        "variance": {
            "precision-for-variance": (1.25, "1/4 + 1 is the *precision*; the variance is one over it."),
            "variances-added": (5.0, "that is the variance of y. Seeing y makes x *more* certain, not less."),
            "std-for-variance": (math.sqrt(0.8), "that is the standard deviation; the variance is its square."),
            "prior-ignored": (1.0, "that is the variance of the noise; the prior knows something too."),
            "observation-ignored": (4.0, "that is the prior's variance: seeing y must reduce it."),
        },
    }
    _numbers({"mean": mean, "variance": variance}, {"mean": 4.0, "variance": 0.8}, wrong, "Bayes' rule", atol=5e-3)
    return "that is a denoiser: shrink what you see towards what you expect, by how much you trust each."


# 0.5 -----------------------------------------------------------------------------------------------------------------


@check("0.5", "How different are they?")
def divergence(kl_coins: Any, kl_gaussians: Any) -> str:
    """KL(q‖p) for q = (1/2, 1/2), p = (1/4, 3/4), and for N(1, 0.5²), N(4, 0.5²)."""
    right = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    wrong = {
        "kl_coins": {
            "direction": (
                0.25 * math.log(0.5) + 0.75 * math.log(1.5),
                "that is KL(p‖q). In KL(q‖p) the expectation is over q.",
            ),
            "base-two": (right / math.log(2), "that is in bits; the course uses the natural logarithm."),
            "sign": (-right, "the sign is turned round: log q − log p, and the result is never negative."),
            "not-weighted": (2 * right, "you add the two logarithms; each must be weighted by its q, 1/2."),
        },
        "kl_gaussians": {
            "std-for-variance": (9.0, "you divide by 2σ; it is 2σ², with σ = 0.5."),
            "std-forgotten": (4.5, "you divide by 2; it is 2σ², and σ is 0.5 here, not 1."),
            "half-forgotten": (36.0, "the factor 1/2 of the exponent is missing."),
            "not-squared": (6.0, "the difference of the means enters squared."),
            "sign": (-18.0, "a KL divergence is never negative."),
        },
    }
    values = {"kl_coins": kl_coins, "kl_gaussians": kl_gaussians}
    _numbers(values, {"kl_coins": right, "kl_gaussians": 18.0}, wrong, "KL divergence", atol=5e-3)
    return "and the second one is a squared error: that is how a diffusion model comes by its loss."


# 0.6 -----------------------------------------------------------------------------------------------------------------


@check("0.6", "Two paths")
def chain_rule(dL_dw: Any, dL_dx: Any, ds_dx: Any) -> str:
    """L = (w·x − y)² and s = (w·x)·x at w = 4, x = 3, y = 2."""
    swapped = "that is the derivative with respect to the other one: d(w·x)/dw is x."
    inner = "the outer derivative is right; multiply by that of the inside, w·x − y."
    outer = "that is the derivative of the inside only; the outside is a square."
    two = "the derivative of u² is 2u: a factor 2 is missing."
    wrong = {
        "dL_dw": {
            "inner-forgotten": (20.0, inner),
            "outer-forgotten": (3.0, outer),
            "factor-two": (30.0, two),
            "swapped": (80.0, swapped),
        },
        "dL_dx": {
            "inner-forgotten": (20.0, inner),
            "outer-forgotten": (4.0, outer),
            "factor-two": (40.0, two),
            "swapped": (60.0, swapped),
        },
        "ds_dx": {
            "one-path": (12.0, "x is used twice, so that two paths lead from it to s: add both."),
            "values-multiplied": (36.0, "that is s itself."),
        },
    }
    values = {"dL_dw": dL_dw, "dL_dx": dL_dx, "ds_dx": ds_dx}
    _numbers(values, {"dL_dw": 60.0, "dL_dx": 80.0, "ds_dx": 24.0}, wrong, "The chain rule", atol=1e-3)
    return "training follows the first, a sampler with an energy the second, and autograd adds the paths for you."


# 0.7 -----------------------------------------------------------------------------------------------------------------


@check("0.7", "The score of a Gaussian")
def score(function: Callable[[Tensor, float, float], Any]) -> str:
    """Check that ``function(x, mean, std)`` is d/dx log N(x; mean, std²)."""
    generator = torch.Generator().manual_seed(7)
    see = _see("Gaussians")
    for mean, std in ((1.5, 1.7), (-0.7, 0.4)):
        x = mean + std * torch.randn(9, generator=generator, dtype=torch.float64)
        log_density = -((x - mean) ** 2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi))
        expected = -(x - mean) / std**2
        mistakes = {
            "sign": (-expected, "the sign: the score points *towards* the mean, where the density is high." + see),
            "std-for-variance": (-(x - mean) / std, "you divide by σ; the exponent holds the variance, σ²." + see),
            "half-left": (expected / 2, "differentiating the square gives a 2, which cancels the 1/2." + see),
            "half-forgotten": (2 * expected, "the exponent has a factor 1/2, which cancels the 2 of the square." + see),
            "mean-forgotten": (-x / std**2, "the mean is missing: the score is 0 at x = mean, not at x = 0." + see),
            "not-scaled": (-(x - mean), "the variance is missing: a narrow Gaussian pulls harder." + see),
            "density-slope": (expected * log_density.exp(), "that is the slope of the density: take its *log* first."),
            "log-density": (log_density, "that is log N itself: differentiate it with respect to x." + see),
            "exponent": (
                -((x - mean) ** 2) / (2 * std**2),
                "that is the exponent, log N but for a constant: differentiate it with respect to x." + see,
            ),
            "density": (log_density.exp(), "that is N itself: take its logarithm, then differentiate." + see),
        }
        expect_close(function(x.clone(), mean, std), expected, mistakes=mistakes, name="the score", atol=1e-5)
    return "it pulls towards the mean, and harder the narrower the Gaussian; the normaliser is gone."


# 0.8 -----------------------------------------------------------------------------------------------------------------


@check("0.8", "One number per image")
def one_number_per_image(scale: Callable[[Tensor, Tensor], Any]) -> str:
    """Check that ``scale(images, a)`` multiplies image number b by ``a[b]``."""
    generator = torch.Generator().manual_seed(8)
    see = _see("Tensors and broadcasting")
    for shape in ((4, 4, 4, 4), (5, 1, 3, 2), (2, 3, 4, 6)):  # in the first, every way to line up is silent
        images, a = torch.randn(shape, generator=generator), 1 + torch.rand(shape[0], generator=generator)
        given = images.clone()
        got = scale(given, a.clone())
        mistakes = {}
        if shape == (4, 4, 4, 4):
            silent = "no error, but a has been lined up with the {}. Give it its axes: (B, 1, 1, 1)." + see
            mistakes = {
                "lined-up-with-width": (images * a, silent.format("*columns*, from the right")),
                "lined-up-with-height": (images * a[:, None], silent.format("*rows* of each image")),
                "lined-up-with-channels": (images * a[:, None, None], silent.format("*channels*")),
                "added": (images + a.reshape(-1, 1, 1, 1), "you add the numbers; the images should be multiplied."),
            }
        expect_close(got, images * a.reshape(-1, 1, 1, 1), mistakes=mistakes, name="the scaled batch", atol=1e-5)
        if not torch.equal(given, images):
            advice = "the result is right, but the caller's images changed: `*=` and `mul_` write in place."
            raise Mistake("input-changed", advice + see)
    return "each image got its own number, whatever the shape: what every noising step needs."
