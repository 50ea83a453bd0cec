"""Checks of lesson 8: the loss, the likelihood's gradient, a round of the buffer, the fixed point, five diagnoses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..oracle import persistent_fixed_point
from ._core import Mistake, check, expect_close, expect_scalar, expect_tensor

__all__ = ["buffer_round", "diagnoses", "fixed_point", "gradient", "loss"]

Mistakes = dict[str, tuple[Tensor, str]]


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# 8.1 -----------------------------------------------------------------------------------------------------------------


def _wrong_losses(data: Tensor, model: Tensor, l2: float) -> Mistakes:
    gap = data.mean() - model.mean()
    squares = data.square().mean() + model.square().mean()
    return {
        "absolute-value": (
            gap.abs() + l2 * squares,
            "you take the absolute value of the difference. It may have either sign: where data lie below samples "
            "already, |…| would push them up again. The loss is no distance.",
        ),
        "sign-flipped": (-gap + l2 * squares, "this lowers the energy of samples and raises that of data."),
        "maximised": (
            -(gap + l2 * squares),
            "this is minus the loss: minimised, it pushes data up and samples down, and lets the squares grow.",
        ),
        "no-l2": (gap, "the squares are missing: nothing holds the level of the energies."),
        "l2-subtracted": (gap - l2 * squares, "the squares are *added*: they are to be small when the loss is."),
        "summed": (
            data.sum() - model.sum() + l2 * (data.square().sum() + model.square().sum()),
            "you sum over the batch. Take means: the sets may differ in size, and the rate should not depend on it.",
        ),
        "l2-of-the-gap": (
            gap + l2 * gap.square(),
            "you square the gap, which a common drift of all energies leaves as it is. Square the energies.",
        ),
        "l2-of-the-means": (
            gap + l2 * (data.mean().square() + model.mean().square()),
            "you square the means. The mean of the squares is wanted, which holds the spread as well.",
        ),
        "l2-of-data-only": (gap + l2 * data.square().mean(), "the squares of the samples' energies are missing."),
        "l2-of-samples-only": (gap + l2 * model.square().mean(), "the squares of the data's energies are missing."),
        "l2-pooled": (
            gap + l2 * torch.cat([data, model]).square().mean(),
            "you average the squares over both sets together. Each set has its own mean, and the two are added.",
        ),
    }


@check("8.1", "The loss")
def loss(function: Callable[[Tensor, Tensor, float], Any]) -> str:
    """Check ``function(e_data, e_model, l2)``: contrastive divergence with squares."""
    generator = torch.Generator().manual_seed(801)
    # First data above samples, where an absolute value is right and a flipped sign is not; then below them.
    for n, m, l2, level in ((4, 3, 0.2, 2), (5, 3, 0.1, -2), (4, 4, 0.3, -2), (6, 2, 0.02, -2)):
        data, model = _normal(generator, n) + level, 1.5 * _normal(generator, m) - level / 2
        right = data.mean() - model.mean() + l2 * (data.square().mean() + model.square().mean())
        got = function(data.clone(), model.clone(), l2)
        expect_scalar(got, "the loss")
        expect_close(
            torch.as_tensor(got).detach().reshape(()), right, mistakes=_wrong_losses(data, model, l2), name="the loss"
        )
    data, model = _normal(generator, 4).requires_grad_(), _normal(generator, 4).requires_grad_()
    value = function(data, model, 0.1)
    if not (isinstance(value, Tensor) and value.requires_grad):
        raise Mistake("no-graph", "the number is right, but it carries no gradient: return a tensor, do not detach.")
    return "data down, samples up, and both held."


# 8.2 -----------------------------------------------------------------------------------------------------------------


def _wrong_gradients(features: Tensor, theta: Tensor, p: Tensor) -> Mistakes:
    values = features @ theta
    q, wrong = torch.softmax(-values, dim=0), torch.softmax(values, dim=0)
    weight = (-values).exp()
    return {
        "sign-flipped": ((q - p) @ features, "this is the gradient of the log-likelihood: the loss is minus that."),
        "high-is-likely": (
            (p - wrong) @ features,
            "your model finds *high* energies likely: the softmax is of −E.",
        ),
        "data-term-only": (
            p @ features,
            "the gradient of log Z is missing. With this alone, energies fall everywhere.",
        ),
        "model-term-only": (-(q @ features), "the data's mean is missing: this is the gradient of log Z alone."),
        "not-normalised": ((p - weight) @ features, "e^{−E} is not a probability yet: divide by its sum."),
        "uniform-model": (
            (p - 1 / len(p)) @ features,
            "your model gives every point the same probability. Weigh with the softmax of −E.",
        ),
        "data-twice": ((p - p * q) @ features, "the model's mean weighs with q alone, not with p q."),
        "averaged-again": (
            (p - q) @ features / len(p),
            "you divide by the number of points. p and q are shares already: their sums *are* means.",
        ),
        "added": ((p + q) @ features, "the two means are subtracted: log Z enters with a minus in its derivative."),
    }


@check("8.2", "The likelihood's gradient")
def gradient(function: Callable[[Tensor, Tensor, Tensor], Any]) -> str:
    """Check ``function(features, theta, p)``: the gradient on finitely many points."""
    generator = torch.Generator().manual_seed(802)
    for n, dim in ((6, 2), (15, 4), (4, 4)):
        features, theta = _normal(generator, n, dim), _normal(generator, dim)
        p = torch.softmax(_normal(generator, n), dim=0)
        right = (p - torch.softmax(-features @ theta, dim=0)) @ features
        expect_close(
            function(features.clone(), theta.clone(), p.clone()),
            right,
            mistakes=_wrong_gradients(features, theta, p),
            name="the gradient",
        )
    large = torch.tensor([[900.0], [-900.0], [0.0]], dtype=torch.float64)
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    got = torch.as_tensor(function(large, torch.ones(1, dtype=torch.float64), p)).detach().double()
    if not torch.isfinite(got).all():
        raise Mistake("overflow", "right, until energies are large: e^{900} overflows. torch.softmax does not.")
    expect_close(got, [810.0], name="the gradient for large energies")
    return "data minus model, and no Z anywhere."


# 8.3 -----------------------------------------------------------------------------------------------------------------


def _round(
    chains: Tensor, index: Tensor, restart: Tensor, fresh: Tensor, move: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    x = move(torch.where(restart[:, None], fresh, chains[index]))
    after = chains.clone()
    after[index] = x
    return after, x


def _wrong_rounds(
    chains: Tensor, index: Tensor, restart: Tensor, fresh: Tensor, move: Callable[[Tensor], Tensor]
) -> dict[str, tuple[Tensor, Tensor, str]]:
    _, x = _round(chains, index, restart, fresh, move)
    drawn = torch.where(restart[:, None], fresh, chains[index])
    inverted = _round(chains, index, ~restart, fresh, move)
    never = _round(chains, index, torch.zeros_like(restart), fresh, move)
    still = torch.where(restart[:, None], fresh, x)
    late, not_moved, first = chains.clone(), chains.clone(), chains.clone()
    late[index], not_moved[index], first[: len(index)] = still, drawn, x
    everywhere = move(chains)
    return {
        "not-put-back": (chains, x, "the negatives are right, but the buffer is as before: the chains never go on."),
        "restart-inverted": (*inverted, "chains start anew where `restart` is False: the two cases are swapped."),
        "never-restarted": (*never, "no chain starts anew: use `fresh` where `restart` is True."),
        "restarts-not-moved": (late, still, "restarted chains must be moved too: fresh noise is no sample."),
        "put-back-before-the-move": (
            not_moved,
            x,
            "you put back the chains as drawn. What goes back is where the sampler has moved them.",
        ),
        "not-moved": (not_moved, drawn, "the sampler was not run."),
        "wrong-places": (first, x, "you put the chains into the first rows. They belong where they were drawn: index."),
        "all-moved": (everywhere, everywhere[index], "you move the whole buffer. Only the drawn chains are moved."),
    }


def _matches(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return all(x.shape == y.shape and torch.allclose(x, y, rtol=1e-6, atol=1e-8) for x, y in zip(a, b, strict=True))


@check("8.3", "One round of the buffer")
def buffer_round(function: Callable[..., Any]) -> str:
    """Check ``function(chains, index, restart, fresh, move)``: the new buffer and the negatives."""
    generator = torch.Generator().manual_seed(803)
    slope = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def move(x: Tensor) -> Tensor:
        return slope * x + 0.25

    for n, drawn in ((9, 4), (12, 6)):
        chains, fresh = _normal(generator, n, 2), _normal(generator, drawn, 2) + 5
        index = torch.randperm(n - 2, generator=generator)[:drawn] + 2
        restart = torch.arange(drawn) % 3 == 1
        given = chains.clone()
        result = function(given, index.clone(), restart.clone(), fresh.clone(), move)
        if result is None or result is Ellipsis:
            expect_tensor(result, None, "your result")
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise Mistake("not-two", "return two things: the new buffer and the negatives.")
        got = tuple(expect_tensor(x, None, "your result") for x in result)
        for x, shape, name in zip(got, ((n, 2), (drawn, 2)), ("the buffer", "the negatives"), strict=True):
            expect_tensor(x, shape, name)
        plain = tuple(x.detach().double() for x in got)
        with torch.no_grad():
            right = _round(chains, index, restart, fresh, move)
            if not _matches(plain, right):
                for name, (*wrong, advice) in _wrong_rounds(chains, index, restart, fresh, move).items():
                    if _matches(plain, tuple(wrong)):
                        raise Mistake(name, advice)
            expect_close(plain[0], right[0], name="the buffer")
            expect_close(plain[1], right[1], name="the negatives")
        if any(x.requires_grad for x in got):
            raise Mistake("graph-kept", "the numbers are right, but they carry a graph: detach what `move` gives.")
    return "drawn, restarted, moved, put back, and no graph left."


# 8.4 -----------------------------------------------------------------------------------------------------------------


def _wrong_curvatures(s: float, epsilon: float) -> Mistakes:
    root = math.sqrt(1 - epsilon / s**2)
    values = {
        "no-bias": (1 / s**2, "this is the truth, not what is learned: the chains are wider than e^{−E}."),
        "other-root": (
            2 / epsilon * (1 + root),
            "this is the other solution of the quadratic: as ε → 0 it grows without limit. Take the small one.",
        ),
        "first-order": (
            (1 + epsilon / (4 * s**2)) / s**2,
            "right to first order in ε. The quadratic equation can be solved exactly.",
        ),
        "wrong-direction": (
            (1 - epsilon / (4 * s**2)) / s**2,
            "your energy is too flat. Chains are wider than e^{−E}, so the energy must be *steeper* to make up for it.",
        ),
        "variance-given": (s**2 * epsilon / (2 * s**2 * (1 - root)), "this is 1/a, the variance. The curvature is a."),
        "gradient-step": (
            (1 - math.sqrt(1 - min(2 * epsilon / s**2, 1))) / epsilon,
            "your step is x − ε∇E; the course's is x − (ε/2)∇E, with the noise √ε.",
        ),
    }
    if abs(s - 1) > 1e-9 and epsilon < s:
        values["std-for-variance"] = (
            2 / epsilon * (1 - math.sqrt(1 - epsilon / s)),
            "s is the standard deviation: the formula has s².",
        )
    return {name: (torch.tensor(value), advice) for name, (value, advice) in values.items()}


def _wrong_steps(s: float, r: float) -> Mistakes:
    values = {
        "std-for-variance": (4 * r * (1 - r) * s, "s is the standard deviation: the step goes with s²."),
        "bias-of-the-chains": (
            4 * (1 - r) * s**2,
            "this limits how wide chains get *on the true energy*. Here 1/a is r s²: the factor r is missing.",
        ),
        "formula-of-lesson-7": (
            4 * (1 - r) / (2 - r) * s**2,
            "this is lesson 7's step for chains that are too wide by 1 − r, on the *true* energy. Here the energy is "
            "steeper, with 1/a = r s², and the chains have s².",
        ),
        "inverse-share": (
            4 * (1 / r - 1) * s**2,
            "check the equation at the place of a: (1/a)/(1 − εa/4) = s² with 1/a = r s².",
        ),
        "the-limit": (s**2, "this is the largest step at which there is a solution at all, whatever r."),
        "stability-limit": (
            4 * s**2,
            "this is where Langevin dynamics becomes unstable. The bias is felt long before.",
        ),
        "four-forgotten": (r * (1 - r) * s**2, "where is the 4? The chains' variance is (1/a)/(1 − εa/4)."),
        "r-alone": (4 * (1 - r) * r, "the step has the unit of x²: where is s²?"),
    }
    return {name: (torch.tensor(value), advice) for name, (value, advice) in values.items()}


@check("8.4", "A rule for the step")
def fixed_point(curvature: Callable[[float, float], Any], largest_step: Callable[[float, float], Any]) -> str:
    """Check ``curvature(s, epsilon)`` and ``largest_step(s, r)``."""
    for s, epsilon in ((1.3, 0.6), (0.3, 0.03), (2.0, 1.5), (1.0, 0.9)):
        got = curvature(s, epsilon)
        expect_close(
            torch.tensor(expect_scalar(got, "the curvature")),
            torch.tensor(persistent_fixed_point(s, epsilon)),
            mistakes=_wrong_curvatures(s, epsilon),
            name=f"the curvature for s = {s:g}, ε = {epsilon:g}",
        )
    for s, r in ((1.3, 0.9), (0.3, 0.95), (2.0, 0.6)):
        expect_close(
            torch.tensor(expect_scalar(largest_step(s, r), "the step")),
            torch.tensor(4 * r * (1 - r) * s**2),
            mistakes=_wrong_steps(s, r),
            name=f"the largest step for s = {s:g}, r = {r:g}",
        )
    return "steeper than the truth, and you know by how much."


# 8.5 -----------------------------------------------------------------------------------------------------------------

_REASONS = {
    1: ("a", "level", "all is well but for the *level* of the energies: what holds it?"),
    2: ("c", "norm", "which mistake adds gradients to the parameters before the loss is even computed?"),
    3: ("d", "ages", "chains that are never old: what kind of training is that, whatever the buffer is called?"),
    4: ("b", "gap", "data above samples, more and more: who is being pushed where?"),
    5: (
        "e",
        "acceptance",
        "chains that never fit, and a thermometer that turns nearly all proposals away: what is too long?",
    ),
}


@check("8.5", "Five patients")
def diagnoses(answer: Mapping[int, str]) -> str:
    """Check a letter for each patient, 1 to 5."""
    if not isinstance(answer, Mapping):
        raise Mistake("wrong-type", f"expected a dictionary from patients to letters, got {type(answer).__name__}.")
    try:
        given = {int(patient): str(letter).strip().lower() for patient, letter in answer.items()}
    except (TypeError, ValueError):
        raise Mistake(
            "keys-not-patients", 'the keys are the patients, 1 to 5, and the values their letters: {1: "a", …}.'
        ) from None
    missing = sorted(set(_REASONS) - set(given))
    if missing:
        raise Mistake("patient-missing", f"patient {missing[0]} has no diagnosis yet.")
    if any(letter not in "abcde" or len(letter) != 1 for letter in given.values()):
        raise Mistake("unknown-letter", "the letters are a, b, c, d and e.")
    for patient, (letter, instrument, question) in _REASONS.items():
        if given[patient] != letter:
            raise Mistake(f"{instrument}-misread", f"patient {patient} has something else: {question}")
    return "all five, and none from the loss alone."
