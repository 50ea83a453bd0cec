"""Checks of lesson 12: distances between Gaussians, the excess of few images, neighbours, ranks, and differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..evaluation import FeatureStatistics, frechet_distance
from ._core import Mistake, check, expect_close, expect_scalar, expect_tensor

__all__ = ["at_infinity", "auroc", "difference", "frechet", "precision_and_recall"]


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _pair(value: Any, names: tuple[str, str]) -> Tensor:
    """Two numbers, given as a pair, a tensor or a dictionary with these names: (2,), float64."""
    if isinstance(value, Mapping):
        if set(names) - set(value):
            raise Mistake("wrong-type", f"the dictionary should have {names[0]!r} and {names[1]!r}.")
        value = [value[name] for name in names]
    if isinstance(value, Sequence) and len(value) == 2:
        value = [expect_scalar(one, name) for one, name in zip(value, names, strict=True)]
    return expect_tensor(value, (2,), f"the pair {names[0]}, {names[1]}").double()


# 12.1 ----------------------------------------------------------------------------------------------------------------


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _wrong_frechet(m: Tensor, a: Tensor, n: Tensor, b: Tensor, right: float) -> dict[str, tuple[Any, str]]:
    means, traces = float((m - n).square().sum()), float(a.trace() + b.trace())
    cross = (means + traces - right) / 2
    diagonal = float((a.diagonal().sqrt() - b.diagonal().sqrt()).square().sum())
    return {
        "root-taken": (math.sqrt(right), "the distance of the tables is the square, d²: take no root at the end."),
        "mean-not-squared": (
            right - means + math.sqrt(means),
            "the means enter with the *squared* length of their difference.",
        ),
        "means-forgotten": (right - means, "the covariances are right, but where is ‖μ₁ − μ₂‖²?"),
        "two-forgotten": (right + cross, "the cross term counts twice: −2 tr(…)."),
        "product-not-rooted": (
            means + traces - 2 * float((a @ b).trace()),
            "the cross term holds the *root* of the product; you have the product itself.",
        ),
        "root-of-each-element": (
            means + traces - 2 * float((a @ b).diagonal().clamp_min(0).sqrt().sum()),
            "`.sqrt()` takes the root of each element. The root of a matrix has the roots of its *eigenvalues*.",
        ),
        "root-of-each-element-inside": (
            means + traces - 2 * float((_root(a) @ b @ _root(a)).diagonal().clamp_min(0).sqrt().sum()),
            "the sandwich is right, but its root is taken element by element. The root of a matrix has the roots of "
            "its *eigenvalues*, and `torch.linalg.eigvalsh` gives them.",
        ),
        "one-triangle-only": (
            means + traces - 2 * float(torch.linalg.eigvalsh(a @ b).clamp_min(0).sqrt().sum()),
            "`eigvalsh` reads one triangle and takes the other for its mirror image, but Σ₁Σ₂ is not symmetric. "
            "Put a root of Σ₁ on each side of Σ₂, or use `eigvals`.",
        ),
        "roots-multiplied": (
            means + traces - 2 * float((_root(a) @ _root(b)).trace()),
            "tr(Σ₁^½ Σ₂^½) is right only where the two matrices commute. Put one root on each side of the other "
            "matrix, and take the root of the whole.",
        ),
        "root-outside-the-trace": (
            means + traces - 2 * math.sqrt(float((a @ b).trace())),
            "first the root of the matrix, then the trace; you took the root of the trace.",
        ),
        "diagonal-only": (
            means + diagonal,
            "this compares the variances alone. What features do *together*, off the diagonal, is missing.",
        ),
        "matrices-subtracted": (
            means + float((a - b).square().sum()),
            "‖Σ₁ − Σ₂‖² is another distance, in other units (variances squared).",
        ),
    }


@check("12.1", "The distance of two Gaussians")
def frechet(distance: Callable[[Tensor, Tensor, Tensor, Tensor], Any]) -> str:
    """Check ``distance(mean_1, covariance_1, mean_2, covariance_2)``: d² of two Gaussians."""
    generator = torch.Generator().manual_seed(1201)
    for size in (1, 3, 8):
        m, n = _normal(generator, size), _normal(generator, size) / 2
        a, b = (x @ x.T / size + 0.2 * torch.eye(size) for x in _normal(generator, 2, size, size + 1))
        right = frechet_distance(FeatureStatistics(m, a, 2), FeatureStatistics(n, b, 2))
        wrong = _wrong_frechet(m, a, n, b, right)
        if size == 1:  # numbers commute, and have no off-diagonal
            wrong = {k: v for k, v in wrong.items() if abs(v[0] - right) > 1e-6 and not k.startswith("root")}
            wrong["root-taken"] = _wrong_frechet(m, a, n, b, right)["root-taken"]
        got = expect_scalar(distance(m.clone(), a.clone(), n.clone(), b.clone()), "the distance")
        expect_close(got, right, mistakes=wrong, name=f"the distance of {size}-dimensional Gaussians")
    same = expect_scalar(distance(m.clone(), a.clone(), m.clone(), a.clone()), "the distance of a Gaussian to itself")
    expect_close(same, 0.0, name="the distance of a Gaussian to itself", atol=1e-5)
    return "in one dimension, in three and in eight, and 0 from a Gaussian to itself."


# 12.2 ----------------------------------------------------------------------------------------------------------------


def _intercept(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Least squares: value at 0 and slope."""
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return float(y.mean() - slope * x.mean()), float(slope)


@check("12.2", "Without the excess")
def at_infinity(extrapolate: Callable[[list[int], list[float]], Any]) -> str:
    """Check ``extrapolate(sizes, distances)``: what infinitely many images would give."""
    cases = [([500, 1000, 2500, 5000], 12.0, 9000.0), ([2000, 10_000], 0.5, 700.0), ([4000, 3000, 1000], 30.0, 2e4)]
    for sizes, limit, slope in cases:
        n = torch.tensor(sizes, dtype=torch.float64)
        y = limit + slope / n
        largest = float(y[n.argmax()])
        wrong = {
            "line-in-n": (
                _intercept(n, y)[0],
                "your line has N on its axis, and you read it at N = 0: the wrong end. Put 1/N there.",
            ),
            "slope-for-intercept": (slope, "this is the slope: what each unit of 1/N costs. Wanted is the value at 0."),
            "line-in-the-root": (
                _intercept(n.rsqrt(), y)[0],
                "the excess falls as 1/N; 1/√N is the law of a standard error, which this is not.",
            ),
            "largest-set": (largest, "that is the distance of the largest set, which has an excess of its own."),
            "mean-of-distances": (float(y.mean()), "a mean of distances keeps the mean of their excesses."),
            "line-in-the-logarithm": (_intercept(n.log(), y)[0], "the excess is no logarithm of N: it falls as 1/N."),
        }
        got = expect_scalar(extrapolate(list(sizes), y.tolist()), "the limit")
        expect_close(got, limit, mistakes=wrong, name=f"the limit of N = {sizes}")
    return "two sizes or four, in any order."


# 12.3 ----------------------------------------------------------------------------------------------------------------


def _radius(x: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th neighbour; the 0-th is itself."""
    return torch.cdist(x, x).sort(dim=1).values[:, k]


def _inside(points: Tensor, centres: Tensor, radius: Tensor) -> float:
    """Share of the points that lie in at least one ball."""
    return float((torch.cdist(points, centres) < radius).any(1).double().mean())


def _shares(of_samples: Tensor, of_real: Tensor) -> list[float]:
    """Samples in a ball of a real point, and real points in a ball of a sample, from two tables (samples, real)."""
    return [float(of_samples.any(1).double().mean()), float(of_real.any(0).double().mean())]


def _wrong_neighbours(real: Tensor, samples: Tensor, k: int) -> dict[str, tuple[Any, str]]:
    of_real, of_samples = _radius(real, k), _radius(samples, k)
    precision, recall = _inside(samples, real, of_real), _inside(real, samples, of_samples)
    between = torch.cdist(samples, real)
    own = float((between < of_samples[:, None]).any(1).double().mean())
    coverage = float((between < of_real).any(0).double().mean())
    fewer = [_inside(samples, real, _radius(real, k - 1)), _inside(real, samples, _radius(samples, k - 1))]
    mean = [_inside(samples, real, of_real.mean()), _inside(real, samples, of_samples.mean())]
    nearest = float((between.argmin(1)[:, None] == torch.arange(len(real))).any(0).double().mean())
    reach_real, reach_samples = between.sort(dim=0).values[k - 1], between.sort(dim=1).values[:, k - 1, None]
    foreign = (
        "the radius of a real point reaches to its k-th *real* neighbour: you took it among the samples (and the other "
        "way round). Such balls hold k points of the other set by construction."
    )
    return {
        "exchanged": ([recall, precision], "the two are exchanged: precision is a share of the *samples*."),
        "counts-itself": (
            fewer,
            "the nearest neighbour of a point within its own set is the point itself, at distance 0: the k-th other "
            "one stands at place k when counting from 0.",
        ),
        "balls-of-the-counted": (
            [own, coverage],
            "the balls belong to the *other* set: a sample is good if it lies in the ball of some real point, whose "
            "radius knows how dense real points are there.",
        ),
        "coverage-for-recall": (
            [precision, coverage],
            "your second number is the coverage: real points with a sample in their own ball. Recall asks for the "
            "balls of the samples.",
        ),
        "one-radius-for-all": (
            mean,
            "each ball has its own radius, small where points are dense; you took the mean of the radii.",
        ),
        "radius-of-the-other-set": (_shares(between < reach_real, between < reach_samples), foreign),
        "closed-radius-of-the-other-set": (_shares(between <= reach_real, between <= reach_samples), foreign),
        "nearest-only": ([precision, nearest], "recall is no count of nearest neighbours: ask for any ball."),
    }


@check("12.3", "Precision and recall")
def precision_and_recall(measure: Callable[[Tensor, Tensor, int], Any]) -> str:
    """Check ``measure(real, samples, k)``: the pair of precision and recall."""
    generator = torch.Generator().manual_seed(1203)
    for n, m, k in ((60, 60, 3), (80, 50, 1), (40, 70, 5)):
        real = _normal(generator, n, 2)
        real[: n // 4] *= 0.1  # dense in the middle
        samples = 0.8 * _normal(generator, m, 2) + torch.tensor([1.0, 0.0])
        right = [_inside(samples, real, _radius(real, k)), _inside(real, samples, _radius(samples, k))]
        got = _pair(measure(real.clone(), samples.clone(), k), ("precision", "recall"))
        expect_close(got, right, mistakes=_wrong_neighbours(real, samples, k), name=f"the pair for k = {k}")
    return "for three sets of unequal sizes, and k of 1, 3 and 5."


# 12.4 ----------------------------------------------------------------------------------------------------------------


@check("12.4", "The area under the curve")
def auroc(area: Callable[[Tensor, Tensor], Any]) -> str:
    """Check ``area(inside, outside)``: the chance that the energy outside is the higher one; a tie counts half."""
    generator = torch.Generator().manual_seed(1204)
    separate = _normal(generator, 40), _normal(generator, 30) + 0.7
    tied = (3 * _normal(generator, 20)).round(), (3 * _normal(generator, 35) + 1).round()
    for (inside, outside), name in ((separate, "energies without ties"), (tied, "energies with ties")):
        higher = float((outside[:, None] > inside).double().mean())
        ties = float((outside[:, None] == inside).double().mean())
        count, least = higher * len(inside) * len(outside), min(len(inside), len(outside))
        thresholds = torch.cat([inside, outside])
        best = max(
            float(((outside > t).double().mean() + (inside <= t).double().mean()) / 2) for t in thresholds.unique()
        )
        wrong = {
            "upside-down": (1 - higher - ties / 2, "upside down: a good detector has *high* energies outside."),
            "not-a-share": (count + ties / 2 * len(inside) * len(outside), "divide by the number of pairs."),
            "divided-by-one-set": (count / len(outside), "there are n·m pairs; divide by both numbers."),
            "ties-lost": (higher, "a tie decides nothing: it counts a half, not 0."),
            "ties-won": (higher + ties, "a tie decides nothing: it counts a half, not 1."),
            "from-minus-one": (
                2 * (higher + ties / 2) - 1,
                "yours runs from −1 to 1, like a mean of signs: halve it and add ½.",
            ),
            "best-threshold": (best, "this is the accuracy of the best threshold. The area needs no threshold."),
            "compared-in-order": (
                float((outside[:least] > inside[:least]).double().mean()),
                "compare every one outside with every one inside, not the first with the first.",
            ),
            "means-compared": (
                float(outside.mean() > inside.mean()),
                "one comparison of two means says little; compare all pairs.",
            ),
        }
        got = expect_scalar(area(inside.clone(), outside.clone()), "the area")
        right = higher + ties / 2
        known = any(abs(got - value) < 1e-6 for value in (right, *(value for value, _ in wrong.values())))
        if higher < got < higher + ties and not known:
            raise Mistake(
                "ties-in-order",
                "without ties you are right, but sorting puts equal energies in an arbitrary order. Equal ones share "
                "the mean of their ranks; or compare all pairs.",
            )
        expect_close(got, right, mistakes=wrong, name=f"the area for {name}")
    return "with ties and without."


# 12.5 ----------------------------------------------------------------------------------------------------------------


@check("12.5", "Is it a difference?")
def difference(compare: Callable[[list[float], list[float]], Any]) -> str:
    """Check ``compare(first, second)``: the difference of the means, and its standard error."""
    for first, second in (
        ([31.2, 30.1, 30.9], [29.4, 30.3, 28.8]),
        ([0.41, 0.52, 0.44, 0.47], [0.61, 0.58]),
        ([120.0, 131.0, 127.0, 122.0, 126.0], [119.0, 124.0, 128.0]),
    ):
        a, b = (torch.tensor(x, dtype=torch.float64) for x in (first, second))
        gap = float(a.mean() - b.mean())
        errors = [float(x.std()) / math.sqrt(len(x)) for x in (a, b)]
        small = [float(x.std(correction=0)) / math.sqrt(len(x)) for x in (a, b)]
        error = math.hypot(*errors)
        wrong = {
            "wrong-way-round": ([-gap, error], "the first minus the second, please."),
            "scatter-for-error": (
                [gap, math.hypot(float(a.std()), float(b.std()))],
                "this is the scatter of one run against one other. A mean of n runs scatters less, by √n.",
            ),
            "divided-by-n": (
                [gap, math.hypot(float(a.std()) / len(a), float(b.std()) / len(b))],
                "the standard error falls with √n, not with n.",
            ),
            "biased-scatter": (
                [gap, math.hypot(*small)],
                "with so few runs, divide the squares by n − 1: the mean was taken from the same runs.",
            ),
            "errors-added": ([gap, sum(errors)], "independent errors add as squares: √(e₁² + e₂²)."),
            "errors-subtracted": (
                [gap, math.sqrt(abs(errors[0] ** 2 - errors[1] ** 2))],
                "the means are subtracted, their uncertainties are not: both make the difference less certain.",
            ),
            "variance-for-error": ([gap, error**2], "this is the variance of the difference: take its root."),
            "one-error-only": ([gap, errors[0]], "both means are uncertain; yours counts the first alone."),
        }
        if len(a) == len(b):
            wrong["paired"] = (
                [gap, float((a - b).std()) / math.sqrt(len(a))],
                "this pairs the runs, as if both had the same seeds. These are independent: √(s₁²/n₁ + s₂²/n₂).",
            )
        got = _pair(compare(list(first), list(second)), ("difference", "standard error"))
        expect_close(got, [gap, error], mistakes=wrong, name="difference and standard error")
    return "for equal and unequal numbers of runs."
