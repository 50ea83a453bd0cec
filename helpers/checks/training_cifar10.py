"""Checks of lesson 10: a shell, the rule of the average, stratified levels, hours, dropped labels, unequal parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from ._core import Mistake, check, expect_close, expect_scalar, expect_tensor

__all__ = ["combine", "ema_decay", "hours", "label_drop", "shell", "stratified"]

Mistakes = dict[str, tuple[Any, str]]


# 10.1 ----------------------------------------------------------------------------------------------------------------


def _shell(a: Tensor, s: float) -> tuple[Tensor, Tensor, Tensor]:
    moment = a * s**2 + 1 - a
    return a.sqrt() * s**2 / moment, s * ((1 - a) / moment).sqrt(), moment.rsqrt()


def _edm(variance: Tensor, s: float) -> tuple[Tensor, Tensor, Tensor]:
    """The factors of x = x₀ + σε."""
    return s**2 / (s**2 + variance), s * (variance / (s**2 + variance)).sqrt(), (s**2 + variance).rsqrt()


_NOT_SHRUNK = "these are EDM's factors with σ² = 1 − ᾱ, but here the picture is shrunk by √ᾱ: use its own two moments."
_OTHER_UNITS = "these are EDM's factors with σ² = (1 − ᾱ)/ᾱ. They belong to x/√ᾱ, the state in EDM's units, not to x."
_UNIT_DATA = "this is right for s = 1 only: the data's standard deviation is s."


def _wrong_shells(a: Tensor, s: float) -> tuple[Mistakes, Mistakes, Mistakes]:
    """Mistakes about c_skip, c_out and c_in."""
    moment = a * s**2 + 1 - a
    inner: Mistakes = {
        "not-rooted": (1 / moment, "c_in divides by the standard deviation of x; you divide by its variance."),
        "upside-down": (moment.sqrt(), "c_in makes the variance 1, so it *divides* by the standard deviation of x."),
        "s-not-squared": ((a * s + 1 - a).rsqrt(), "the variance of √ᾱ x₀ is ᾱs², with s squared."),
        "standard-deviations-added": (
            1 / (a.sqrt() * s + (1 - a).sqrt()),
            "variances of independent parts add, standard deviations do not.",
        ),
    }
    skip: Mistakes = {
        "ddpm": (a.rsqrt(), "1/√ᾱ only undoes the shrinking. The best multiple also distrusts x, the more the noise."),
        "cross-moment-without-root": (s**2 / moment, "E x₀x contains the factor √ᾱ, with which x₀ enters x."),
        "alpha-not-rooted": (a * s**2 / moment, "x₀ enters x with the factor √ᾱ, so E x₀x = √ᾱ s², not ᾱs²."),
        "s-not-squared": (a.sqrt() * s / moment, "E x₀x = √ᾱ E x₀² = √ᾱ s², with s squared."),
        "correlation": (
            a.sqrt() * s / moment.sqrt(),
            "this is the correlation of x₀ and x. The best multiple is E x₀x / E x².",
        ),
    }
    right = _shell(a, s)[1]
    out: Mistakes = {
        "variance": (right**2, "this is the variance of what is left; c_out is its root."),
        "negative": (-right, "c_out is asked for as a positive number (DDPM's minus sign is its own convention)."),
        "noise-alone": ((1 - a).sqrt(), "this is the noise in x. What c_skip·x leaves of x₀ is less than s, always."),
        "s-forgotten": (((1 - a) / moment).sqrt(), "the rest has the standard deviation s·√((1 − ᾱ)/E x²): with an s."),
        "ddpm": (((1 - a) / a).sqrt(), "this is DDPM's factor, for c_skip = 1/√ᾱ. With the best c_skip less is left."),
    }
    for name, factors, advice in (
        ("not-shrunk", _edm(1 - a, s), _NOT_SHRUNK),
        ("other-units", _edm((1 - a) / a, s), _OTHER_UNITS),
        ("unit-data", _shell(a, 1.0), _UNIT_DATA),
    ):
        for table, factor in zip((skip, out, inner), factors, strict=True):
            table.setdefault(name, (factor, advice))
    return skip, out, inner


@check("10.1", "A shell for another process")
def shell(factors: Callable[[Tensor, float], Any]) -> str:
    """Check ``factors(alpha_bar, s)``: c_skip, c_out, c_in of x = √ᾱ x₀ + √(1−ᾱ) ε."""
    alpha_bar = torch.tensor([0.999, 0.8, 0.5, 0.2, 0.01], dtype=torch.float64)
    for s in (0.5, 1.7):
        given = factors(alpha_bar.clone(), s)
        if given is None:
            expect_tensor(given)
        if not isinstance(given, (tuple, list, Tensor)) or len(given) != 3:
            raise Mistake("not-three", "return three things: c_skip, c_out, c_in.")
        got = [expect_tensor(value, tuple(alpha_bar.shape), "each factor").double() for value in given]
        expected = _shell(alpha_bar, s)
        for order in list(permutations(range(3)))[1:]:
            if all(torch.allclose(got[i], expected[j]) for i, j in enumerate(order)):
                raise Mistake("wrong-order", "the factors are right, their order is not: c_skip, c_out, c_in.")
        mistakes = dict(zip(("c_skip", "c_out", "c_in"), _wrong_shells(alpha_bar, s), strict=True))
        for name in ("c_in", "c_skip", "c_out"):
            k = ("c_skip", "c_out", "c_in").index(name)
            expect_close(got[k], expected[k], mistakes=mistakes[name], name=f"{name} for s = {s:g}")
    return "unit variance in and out, and as little as possible left to the network."


# 10.2 ----------------------------------------------------------------------------------------------------------------


def _wrong_decays(n: int, half_life: float, rampup: float, seen: int) -> Mistakes:
    limited = min(half_life, rampup * seen)
    right = 0.5 ** (n / limited)
    return {
        "ramp-up-ignored": (0.5 ** (n / half_life), "early on the half-life is limited to a share of the images seen."),
        "ramp-up-only": (0.5 ** (n / (rampup * seen)), "the half-life is *at most* the share of the images seen."),
        "larger-of-both": (
            0.5 ** (n / max(half_life, rampup * seen)),
            "the ramp-up is an upper limit: take the smaller of the two half-lives.",
        ),
        "e-folding": (
            math.exp(-n / limited),
            "after one half-life yours is at 1/e. A *half*-life halves: powers of ½, not of 1/e.",
        ),
        "share-of-the-new": (
            1 - right,
            "this is the share of the new weights; the factor of the old average is asked.",
        ),
        "counted-in-steps": (0.5 ** (1 / limited), "the half-life counts images, and this update stands for n_images."),
        "upside-down": (0.5 ** (limited / n), "turned over: more new images must mean a *smaller* factor."),
        "first-order": (1 - n / limited * math.log(2), "1 − ln 2·n/h is the rule for tiny n/h only; use 2^(−n/h)."),
        "linear": (1 - n / limited, "1 − n/h is not a half-life: after h images it is 0."),
        "new-images-missing": (
            0.5 ** (n / min(half_life, rampup * (seen - n))),
            "`seen` includes the new images already.",
        ),
        "new-images-twice": (
            0.5 ** (n / min(half_life, rampup * (seen + n))),
            "`seen` includes the new images already.",
        ),
    }


@check("10.2", "From half-life to decay")
def ema_decay(decay: Callable[[int, float, float, int], Any]) -> str:
    """Check ``decay(n_images, half_life, rampup, seen)``: the factor of the old average."""
    cases = ((1000, 5000, 0.05, 40_000), (900, 5000, 0.1, 200_000), (300, 900, 0.5, 1300), (640, 2000, 0.5, 1280))
    tables = [_wrong_decays(*case) for case in cases]
    mistakes = {
        name: (torch.tensor([table[name][0] for table in tables], dtype=torch.float64), advice)
        for name, (_, advice) in tables[0].items()
    }
    expect_close(
        torch.tensor([expect_scalar(decay(*case), "the factor") for case in cases], dtype=torch.float64),
        torch.tensor([0.5 ** (n / min(h, r * seen)) for n, h, r, seen in cases], dtype=torch.float64),
        mistakes=mistakes,
        name="the factors",
    )
    return "the same memory, whatever the batch size."


# 10.3 ----------------------------------------------------------------------------------------------------------------

_MEAN, _STD = -1.2, 1.2
_KNOWN_SPREADS = {
    "variance-for-standard-deviation": (_MEAN, _STD**2, "1.2 is the standard deviation of ln σ; yours is 1.2² = 1.44."),
    "root-for-standard-deviation": (_MEAN, _STD**0.5, "1.2 is the standard deviation of ln σ already: no root."),
    "wrong-sign": (-_MEAN, _STD, "your median is e^{1.2} = 3.3. The mean of ln σ is −1.2."),
    "mean-forgotten": (0.0, _STD, "your median is 1; ln σ has the mean −1.2."),
    "standard-deviation-forgotten": (_MEAN, 1.0, "your ln σ has the standard deviation 1; it should be 1.2."),
    "base-ten": (_MEAN * math.log(10), _STD * math.log(10), "ln is the natural logarithm: e to the power, not 10."),
    "uniform": (
        _MEAN + _STD / 2,
        _STD / 12**0.5,
        "your ln σ is uniform: ndtri makes normal numbers of uniform ones.",
    ),
}


def _place_in_parts(levels: Tensor) -> Tensor:
    """n·Φ of each level: whole numbers separate the parts."""
    return len(levels) * torch.special.ndtr((levels.log() - _MEAN) / _STD)


def _check_spread(levels: Tensor, n: int) -> None:
    """Raise for levels (calls, n) of which not each call has one in each part."""
    mean, std = float(levels.log().mean()), float(levels.log().std())
    for name, (wrong_mean, wrong_std, advice) in _KNOWN_SPREADS.items():
        if abs(mean - wrong_mean) < 0.08 and abs(std - wrong_std) < 0.05:
            raise Mistake(name, advice)
    if abs(mean - _MEAN) < 0.08 and abs(std - _STD) < 0.05:
        raise Mistake(
            "independent",
            f"the distribution is right, but not every {n}-th part has its one level: these draws are independent.",
        )
    raise Mistake(
        "wrong-distribution",
        f"ln σ should have mean −1.2 and standard deviation 1.2; yours has {mean:.2f} and {std:.2f}.",
    )


@check("10.3", "Stratified levels")
def stratified(draw: Callable[[int, torch.Generator], Any]) -> str:
    """Check ``draw(n, generator)``: one level from each n-th part of the log-normal distribution, in random order."""
    n, generator = 64, torch.Generator().manual_seed(1003)
    first = [expect_tensor(draw(n, torch.Generator().manual_seed(1)), (n,), "the levels").double() for _ in range(2)]
    if not torch.equal(*first):
        raise Mistake("generator-ignored", "the same generator gave other levels: pass it to every random function.")
    levels = torch.stack([expect_tensor(draw(n, generator), (n,), "the levels").double() for _ in range(60)])
    if (levels <= 0).any():
        raise Mistake(
            "no-exponential", "some levels are negative: these are logarithms, and e to their power is asked for."
        )
    if torch.equal(levels[0], levels[1]):
        raise Mistake("always-the-same", "two calls in a row gave the same levels: do not seed inside.")
    parts = torch.stack([_place_in_parts(row) for row in levels])
    centres = torch.arange(n, dtype=torch.float64) + 0.5
    if ((parts.sort(1).values - centres).abs() > 0.502).any():
        _check_spread(levels, n)
    places = parts - parts.floor()
    if places.std() < 0.02:
        raise Mistake(
            "fixed-places",
            "each part has its level, but always at the same place in it: a grid, from which most σ never come.",
        )
    if (places.cos() - places.cos().mean(1, keepdim=True)).abs().max() < 0.02:
        raise Mistake("one-place-for-all", "one random number shifts all levels together; each needs one of its own.")
    steps = levels.diff(dim=1)
    if ((steps > 0).all(1) | (steps < 0).all(1)).all():
        raise Mistake("sorted", "the levels come in order of size: shuffle them.")
    return "each part once, at a random place, in random order."


# 10.4 ----------------------------------------------------------------------------------------------------------------


def _wrong_hours(n: float, gflop: float, tflops: float, share: float) -> Mistakes:
    right = n * 3 * gflop * 1e9 / (share * tflops * 1e12) / 3600
    return {
        "forward-only": (right / 3, "this pays for the forward pass alone; backward costs twice as much again."),
        "backward-like-forward": (right * 2 / 3, "backward is *two* products for each one of forward: three in all."),
        "backward-only": (right * 2 / 3 * 1.0000001, "forward has to be paid, too."),
        "share-ignored": (right * share, "nobody reaches the whole rate: where is the share?"),
        "share-upside-down": (right * share**2, "a smaller share must mean *more* hours: divide by it."),
        "seconds": (right * 3600, "these are seconds."),
        "minutes": (right * 60, "these are minutes."),
        "days": (right / 24, "these are days."),
        "giga-is-tera": (right * 1000, "a TFLOP is 1,000 GFLOP: you are off by that."),
        "tera-is-giga": (right / 1000, "a TFLOP is 1,000 GFLOP: you are off by that."),
        "tera-over-giga-inverted": (right / 1e6, "the thousand between giga and tera stands on the wrong side."),
        "images-per-second": (n / right / 3600, "this is the number of pictures a second; hours are asked."),
    }


@check("10.4", "Hours for a budget")
def hours(estimate: Callable[[float, float, float, float], Any]) -> str:
    """Check ``estimate(n_images, forward_gflop, machine_tflops, share)``."""
    for case in ((10_000_000, 1.25, 2.0, 0.6), (200_000_000, 20.0, 50.0, 0.4), (64_000, 0.1, 0.05, 0.9)):
        n, gflop, tflops, share = case
        expect_close(
            expect_scalar(estimate(*case), "the hours"),
            n * 3 * gflop * 1e9 / (share * tflops * 1e12) / 3600,
            mistakes=_wrong_hours(*case),
            name=f"the hours for {n:,} pictures of {gflop:g} GFLOP at {tflops:g} TFLOP/s and a share of {share:g}",
            rtol=1e-3,
        )
    return "multiply before you train."


# 10.5 ----------------------------------------------------------------------------------------------------------------


def _check_dropped(values: Tensor, n_classes: int) -> None:
    """Raise if what labels were replaced by is not ``n_classes``."""
    kinds = set(values.tolist())
    if kinds <= {n_classes}:
        return
    if kinds == {0}:
        raise Mistake("class-zero", 'you replace by 0, which is a class like the others. "No class" is n_classes.')
    if kinds == {n_classes - 1}:
        raise Mistake("last-class", 'n_classes − 1 is the last class. "No class" is one past it: n_classes.')
    if kinds == {-1}:
        raise Mistake("minus-one", '−1 is no row of an embedding. "No class" is n_classes.')
    raise Mistake("other-labels", "some labels became other classes. Dropped labels become n_classes, the rest stay.")


@check("10.5", "Label drop")
def label_drop(drop: Callable[[Tensor, int, float, torch.Generator], Any]) -> str:
    """Check ``drop(label, n_classes, share, generator)``."""
    n, n_classes, share = 2000, 7, 0.2
    label = torch.arange(n) % n_classes
    generator, results = torch.Generator().manual_seed(1005), []
    for _ in range(12):
        given = label.clone()
        got = expect_tensor(drop(given, n_classes, share, generator), (n,), "the labels")
        if not torch.equal(given, label):
            raise Mistake("in-place", "your function writes into its argument, and the training set loses its labels.")
        if got.is_floating_point():
            raise Mistake("not-integers", "labels are whole numbers: an embedding takes no floats.")
        results.append(got.long())
    changed = torch.stack([got != label for got in results])
    for got, where in zip(results, changed, strict=True):
        _check_dropped(got[where], n_classes)
    _check_coins(changed, share)
    pair = [drop(label.clone(), n_classes, share, torch.Generator().manual_seed(2)) for _ in range(2)]
    if not torch.equal(*(torch.as_tensor(got) for got in pair)):
        raise Mistake("generator-ignored", "the same generator gave other coins: pass it to torch.rand.")
    return "one network, two questions."


def _check_coins(changed: Tensor, share: float) -> None:
    """Raise unless each of ``changed`` (calls, pictures) is a coin of its own with probability ``share``."""
    counts, n = changed.sum(1), changed.shape[1]
    fraction = float(changed.double().mean())
    error = 5 * math.sqrt(share * (1 - share) / changed.numel())
    if fraction == 0:
        raise Mistake("nothing-dropped", "no label was dropped in many batches.")
    if ((counts == 0) | (counts == n)).all():
        raise Mistake("one-coin-for-all", "your coin decides for the whole batch; each picture needs one of its own.")
    if abs(fraction - (1 - share)) < error:
        raise Mistake("share-kept", "you keep the share that should be dropped: turn the comparison round.")
    if (changed == changed[0]).all():
        raise Mistake("always-the-same", "the same positions are dropped in every batch.")
    if abs(fraction - share) > error:
        raise Mistake("wrong-share", f"the share of dropped labels is {fraction:.2f}; {share:g} was asked for.")
    if (counts == counts[0]).all():
        raise Mistake("fixed-number", "you drop the same number in every batch: these are no independent coins.")


# 10.6 ----------------------------------------------------------------------------------------------------------------


def _wrong_means(gradients: Tensor, counts: Tensor) -> Mistakes:
    weights = counts.double()[:, None]
    some = weights > 0
    inverse = torch.where(some, 1 / weights, 0)
    return {
        "plain-mean": (gradients.mean(0), "the plain mean counts a part of one picture like a part of a hundred."),
        "mean-of-the-filled": (
            gradients.sum(0) / some.sum(),
            "leaving empty parts out is not enough: parts with more pictures weigh more.",
        ),
        "plain-sum": (gradients.sum(0), "the rows are means already; their sum is not the mean over all pictures."),
        "not-divided": ((weights * gradients).sum(0), "this is the gradient of the *sum* over pictures: divide."),
        "divided-by-the-processes": (
            (weights * gradients).mean(0),
            "divide by the number of pictures, not by the number of processes.",
        ),
        "divided-by-the-counts": ((inverse * gradients).sum(0), "the rows are divided by their counts already."),
        "inverse-weights": (
            (inverse * gradients).sum(0) / inverse.sum(),
            "you give small parts more weight. A picture is a picture: weights are proportional to counts.",
        ),
        "sums-taken-for-means": (
            gradients.sum(0) / weights.sum(),
            "this would be right if the rows were gradients of *sums*; they are gradients of means.",
        ),
    }


@check("10.6", "Unequal parts")
def combine(mean: Callable[[Tensor, Tensor], Any]) -> str:
    """Check ``mean(gradients, counts)``: the gradient of the mean over all pictures."""
    generator = torch.Generator().manual_seed(1006)
    for counts in ([3, 5, 8], [1, 100], [4, 0, 1, 7]):
        number = torch.tensor(counts)
        gradients = torch.randn(len(counts), 6, generator=generator)  # float32, so that it multiplies counts / sum
        gradients = torch.where(number[:, None] > 0, gradients, 0.0)
        value = mean(gradients.clone(), number.clone())
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            raise Mistake("empty-part", "a part without pictures makes yours infinite or NaN: do not divide by counts.")
        got = expect_tensor(value, (6,), "the gradient")
        expect_close(
            got,
            (number.double() / number.sum()) @ gradients.double(),
            mistakes=_wrong_means(gradients.double(), number),
            name=f"the gradient for {', '.join(map(str, counts))} pictures",
            rtol=1e-5,
        )
    return "every picture counts the same, wherever it was computed."
