"""Checks of lesson 9: a noised score, Tweedie from an energy, curl, inner products, products and smoothing, AIS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._core import Mistake, check, expect_close, expect_tensor

__all__ = ["antisymmetric_share", "denoise", "inner_product_field", "log_weights", "noised_score", "product_variances"]

Mistakes = dict[str, tuple[Tensor, str]]
Field = Callable[[Tensor], Tensor]


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# 9.1 -----------------------------------------------------------------------------------------------------------------


def _wrong_scores(x: Tensor, mean: Tensor, s: float, sigma: float) -> Mistakes:
    away, variance = mean - x, s**2 + sigma**2
    return {
        "wrong-sign": (-away / variance, "the sign is turned: a score points uphill in density, towards the mean."),
        "clean-score": (
            away / s**2,
            "this is the score of the *clean* data. The optimum belongs to the noised density: variances add.",
        ),
        "noise-only": (
            away / sigma**2,
            "this is the score of the noise around the mean, as if all data sat there: the data have a spread of s.",
        ),
        "deviations-added": (
            away / (s + sigma) ** 2,
            "you add the standard deviations. Of independent things the *variances* add: s² + σ².",
        ),
        "not-squared": (away / (s + sigma), "s and sigma are standard deviations: square them."),
        "deviation-in-place-of-variance": (
            away / variance**0.5,
            "you divide by the standard deviation of the noised data; a score has the variance there.",
        ),
        "mean-forgotten": (-x / variance, "where is the mean of the data? The score vanishes *there*."),
        "noise-guess": (
            -sigma * away / variance,
            "this is the noise guess ε̂ = −σ·score, not the score.",
        ),
        "denoised": (
            x + sigma**2 * away / variance,
            "this is the best guess D of the clean point. The score is (D − x)/σ².",
        ),
    }


@check("9.1", "The optimum on a Gaussian")
def noised_score(score: Callable[[Tensor, Tensor, float, float], Any]) -> str:
    """Check ``score(x, mean, s, sigma)``: of N(mean, s²I) noised by σ; x (B, D), mean (D,)."""
    generator = torch.Generator().manual_seed(901)
    for s, sigma in ((1.3, 0.4), (0.2, 2.5), (0.7, 0.7)):
        x, mean = 2 * _normal(generator, 6, 3), _normal(generator, 3)
        expect_close(
            score(x.clone(), mean.clone(), s, sigma),
            (mean - x) / (s**2 + sigma**2),
            mistakes=_wrong_scores(x, mean, s, sigma),
            name=f"the score for s = {s:g}, σ = {sigma:g}",
        )
    return "the score of the noised density: that is what denoising score matching learns."


# 9.2 -----------------------------------------------------------------------------------------------------------------


def _quartic(x: Tensor) -> Tensor:
    """An energy that is no parabola, and mixes the coordinates of one sample only."""
    flat = x.flatten(1)
    return (flat**4).sum(1) / 8 + flat.sum(1).sin() + flat[:, 0] * flat[:, -1]


def _slope(energy: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    inside = x.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(energy(inside).sum(), inside)[0]


@check("9.2", "Tweedie from an energy")
def denoise(function: Callable[[Callable[[Tensor], Tensor], Tensor, float], Any]) -> str:
    """Check ``function(energy, x, sigma)``: x − σ²∇E for any shape of x, and x unchanged."""
    generator = torch.Generator().manual_seed(902)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)  # stands for the parameters of a network

    def energy(x: Tensor) -> Tensor:
        return weight * _quartic(x)

    for shape, sigma in (((5, 2), 0.7), ((3, 1, 2, 2), 0.3)):
        x = _normal(generator, *shape)
        given = x.clone()
        slope = _slope(_quartic, x)
        got = function(energy, given, sigma)
        mistakes = {
            "uphill": (x + sigma**2 * slope, "you walk uphill: the score is −∇E, so that D = x − σ²∇E."),
            "sigma-not-squared": (
                x - sigma * slope,
                "the step has the length σ, not σ²: Tweedie's formula has the *variance* of the noise.",
            ),
            "half-a-step": (
                x - sigma**2 / 2 * slope,
                "there is a ½ too many: D goes the whole way, ε/2 = σ² in a Langevin step's terms.",
            ),
            "noise-guess": (sigma * slope, "this is the noise guess ε̂ = σ∇E; the clean picture is x − σε̂."),
            "score": (-slope, "this is the score. Tweedie: D = x + σ²·score."),
            "no-sigma": (x - slope, "where is σ? The step downhill has the length σ²."),
            "batch-mean": (
                x - sigma**2 * slope / len(x),
                "you differentiate the *mean* of the energies, so each slope is divided by the batch: take the sum.",
            ),
        }
        expect_close(got, x - sigma**2 * slope, mistakes=mistakes, name="the denoised points")
        if not torch.equal(given.detach(), x):
            raise Mistake("changed-in-place", "your function changed the x that it was given; work on a copy.")
        if given.requires_grad:
            raise Mistake(
                "tracking-left-on",
                "the numbers are right, but the x that was given to you is tracked now: requires_grad_() works in "
                "place. Make a leaf of your own, x.detach().clone().requires_grad_().",
            )
        if weight.grad is not None:
            raise Mistake(
                "gradient-left-in-the-parameters",
                "the numbers are right, but backward() has filled the .grad of the energy's parameters, too, where an "
                "optimiser would find it. torch.autograd.grad(…, x) asks for x alone.",
            )
    return "one step downhill, of length σ²."


# 9.3 -----------------------------------------------------------------------------------------------------------------


def _swirl(matrix: Tensor) -> Field:
    """A field of points (D,) whose Jacobian at x is ``matrix`` plus a symmetric part that depends on x."""

    def field(x: Tensor) -> Tensor:
        return matrix @ x + 0.3 * torch.sin(x)

    return field


def _wrong_shares(J: Tensor) -> Mistakes:
    whole, difference = J.square().sum(), (J - J.T).square().sum()
    return {
        "factor-four": (
            difference / whole,
            "A is *half* of J − Jᵀ, and its square a quarter: a pure rotation should give 1, not 4.",
        ),
        "factor-two": (
            difference / (2 * whole),
            "the factor is off by 2: A = (J − Jᵀ)/2, so ‖A‖² = ‖J − Jᵀ‖²/4. A pure rotation should give 1.",
        ),
        "symmetric-part": (
            (J + J.T).square().sum() / (4 * whole),
            "this is the share of the *symmetric* part: for a gradient it is 1. Subtract Jᵀ instead of adding it.",
        ),
        "not-squared": (
            (difference / (4 * whole)).sqrt(),
            "this is the ratio of the norms; the share is that of their squares.",
        ),
        "against-symmetric": (
            difference / (J + J.T).square().sum(),
            "you divide by the symmetric part. The share is of the whole, ‖J‖².",
        ),
    }


@check("9.3", "Is it a gradient?")
def antisymmetric_share(share: Callable[[Field, Tensor], Any]) -> str:
    """Check ``share(field, x)``: ‖J − Jᵀ‖²/4‖J‖² at one point x (D,), exactly."""
    generator = torch.Generator().manual_seed(903)
    for dim in (2, 5):
        matrix, x = _normal(generator, dim, dim), _normal(generator, dim)
        matrix = matrix + 0.2 * dim * torch.eye(dim, dtype=torch.float64)
        J = matrix + 0.3 * torch.cos(x).diag()
        right = (J - J.T).square().sum() / (4 * J.square().sum())
        got = expect_tensor(share(_swirl(matrix), x.clone()), None, "the share")
        if got.numel() != 1:
            raise Mistake("wrong-shape", f"the share is one number, got shape {tuple(got.shape)}.")
        expect_close(got.reshape(()), right, mistakes=_wrong_shares(J), name="the share")
    turned = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    rotation = share(lambda x: turned @ x, torch.ones(2, dtype=torch.float64))
    expect_close(torch.as_tensor(rotation).reshape(()), 1.0, name="the share of a rotation")
    return "0 for a gradient, 1 for a rotation, and everything else between."


# 9.4 -----------------------------------------------------------------------------------------------------------------


def _network(matrix: Tensor) -> Field:
    """Points (B, D) → (B, D): no gradient, and not linear."""

    def network(u: Tensor) -> Tensor:
        return torch.tanh(u @ matrix.T) + 0.1 * u**2

    return network


@check("9.4", "The field of an inner product")
def inner_product_field(field: Callable[[Field, Tensor], Any]) -> str:
    """Check ``field(network, u)``: ½(N + Jᵀu) of each sample; u (B, D)."""
    generator = torch.Generator().manual_seed(904)
    for dim in (2, 4):
        matrix, u = _normal(generator, dim, dim), _normal(generator, 6, dim)
        network = _network(matrix)
        answer = network(u)
        J = (1 - torch.tanh(u @ matrix.T) ** 2)[:, :, None] * matrix + 0.2 * torch.diag_embed(u)
        pulled, pushed = torch.einsum("bij,bi->bj", J, u), torch.einsum("bij,bj->bi", J, u)
        right = (answer + pulled) / 2
        mistakes = {
            "network-itself": (answer, "this is N itself, and in general no gradient: differentiate ½⟨u, N(u)⟩."),
            "no-half": (answer + pulled, "the ½ is missing: the potential is ½⟨u, N⟩."),
            "jacobian-forgotten": (
                answer / 2,
                "this is ½N: you differentiated the first u only. N depends on u too (did you detach it?).",
            ),
            "second-factor-only": (
                pulled / 2,
                "this is ½Jᵀu: the derivative of the first factor, N itself, is missing.",
            ),
            "jacobian-not-transposed": (
                (answer + pushed) / 2,
                "you have J·u where Jᵀu belongs: a gradient pulls back (vjp), it does not push forward (jvp).",
            ),
            "wrong-sign": (
                -right,
                "the sign is turned: F is plus the gradient of the potential; E has it with a minus.",
            ),
            "batch-mean": (
                right / len(u),
                "you differentiate the *mean* over the batch, so each field is divided by its size: take the sum.",
            ),
        }
        expect_close(field(network, u.clone()), right, mistakes=mistakes, name="the field")
    return "a gradient, whatever the network says."


# 9.5 -----------------------------------------------------------------------------------------------------------------


def _exact_pair(s_a: float, s_b: float, sigma: float) -> tuple[float, float]:
    a, b, n = s_a**2, s_b**2, sigma**2
    return a * b / (a + b) + n, (a + n) * (b + n) / (a + b + 2 * n)


def _wrong_pairs(s_a: float, s_b: float, sigma: float) -> Mistakes:
    a, b, n = s_a**2, s_b**2, sigma**2
    first, second = _exact_pair(s_a, s_b, sigma)
    table = {
        "swapped": ((second, first), "right numbers, wrong order: multiply-then-smooth comes first."),
        "variances-added": (
            (a + b + n, a + b + 2 * n),
            "you add variances for the product. So it is for a *sum of random variables*; a product of densities adds "
            "the precisions, 1/a + 1/b.",
        ),
        "precisions": ((1 / first, 1 / second), "these are precisions; a variance is 1 over that."),
        "precision-not-inverted": (
            (1 / a + 1 / b + n, 1 / (a + n) + 1 / (b + n)),
            "1/a + 1/b is the *precision* of the product: invert it before you go on.",
        ),
        "not-squared": (
            (s_a * s_b / (s_a + s_b) + sigma, (s_a + sigma) * (s_b + sigma) / (s_a + s_b + 2 * sigma)),
            "the arguments are standard deviations: square them first.",
        ),
        "noise-not-squared": (
            (a * b / (a + b) + sigma, (a + sigma) * (b + sigma) / (a + b + 2 * sigma)),
            "sigma is a standard deviation: smoothing adds σ² to a variance.",
        ),
        "standard-deviations": ((first**0.5, second**0.5), "these are standard deviations; asked are variances."),
        "they-commute": (
            (first, first),
            "you say that the order does not matter. In the second case *both* factors are smoothed before.",
        ),
        "one-noise-only": (
            (first, (a + n) * b / (a + n + b)),
            "smooth, then multiply: *both* densities get the noise.",
        ),
        "mean-of-variances": (
            ((a + b) / 2 + n, (a + b) / 2 + n),
            "this is a mean of the variances; a product is narrower than either factor.",
        ),
    }
    return {name: (torch.tensor(pair, dtype=torch.float64), advice) for name, (pair, advice) in table.items()}


def _pair(answer: Any) -> Any:
    """Two numbers or tensors as one tensor; anything else as it is."""
    if isinstance(answer, tuple | list) and len(answer) == 2 and None not in answer and ... not in answer:
        return torch.stack([torch.as_tensor(part, dtype=torch.float64).reshape(()) for part in answer])
    return answer


@check("9.5", "Multiply and smooth")
def product_variances(variances: Callable[[float, float, float], Any]) -> str:
    """Check ``variances(s_a, s_b, sigma)``: multiply then smooth, and smooth then multiply."""
    for case in ((0.5, 2.0, 0.3), (1.5, 0.4, 3.0), (1.0, 1.0, 1.0)):  # ones last: they cannot tell squares from roots
        expect_close(
            _pair(variances(*case)),
            torch.tensor(_exact_pair(*case), dtype=torch.float64),
            mistakes=_wrong_pairs(*case),
            name="the two variances",
        )
    return "1.5 against 1.0 for ones: products and smoothing do not commute."


# 9.6 -----------------------------------------------------------------------------------------------------------------


def _bowl(x: Tensor) -> Tensor:
    return x.square().sum(1) / 2 + 1.3


def _gathered(states: Tensor, betas: list[float]) -> Tensor:
    """(Δβ_k), (K,), and the gaps E_0 − E at the states, (K, B), multiplied and summed."""
    steps = torch.tensor(betas, dtype=torch.float64).diff()
    gaps = torch.stack([_bowl(x) - _quartic(x) for x in states])
    return (steps[:, None] * gaps).sum(0)


def _wrong_weights(states: Tensor, betas: list[float]) -> Mistakes:
    right = _gathered(states, betas)
    steps = torch.tensor(betas, dtype=torch.float64).diff()[:, None]
    later = torch.cat([states[1:], states[-1:]])  # where the chains are after the move of each step, if they are known
    start, end = (torch.stack([energy(x) for x in states]) for energy in (_bowl, _quartic))
    gap = start - end
    return {
        "wrong-sign": (-right, "the sign is turned: p is exp(−E), so the weight grows where E is *below* E_0."),
        "steps-forgotten": (gap.sum(0), "each gap counts with its step in β; your gaps count fully."),
        "even-steps": (
            gap.mean(0),
            "you take all steps in β to be equal. They need not be: use the betas that are given.",
        ),
        "mean-of-steps": (
            right / len(steps),
            "the logarithms of the factors are *added* along the path, not averaged.",
        ),
        "base-forgotten": (
            -(steps * end).sum(0),
            "the energy of the base is missing: a step in β also takes away some of E_0.",
        ),
        "bridge-energies": (
            -(torch.tensor(betas[1:], dtype=torch.float64)[:, None] * -gap + start).sum(0),
            "you add up the energies E_β themselves; the factor is the *ratio* of two neighbours at the same state.",
        ),
        "product-of-logs": ((steps * gap).prod(0), "you multiply logarithms: the weights multiply, their logs add."),
        "weights": (right.exp(), "these are the weights; asked are their logarithms (which do not overflow)."),
        "states-backwards": (
            _gathered(states.flip(0), betas),
            "the states are taken in the wrong order: states[k] belongs to the step from betas[k] to betas[k + 1].",
        ),
        "states-shifted": (
            _gathered(states.roll(-1, 0), betas),
            "each step uses the next state, and the last one the first: states[k] belongs to step k.",
        ),
        "after-the-move": (
            (steps * gap.roll(-1, 0))[:-1].sum(0),
            "each weight is taken *after* the move, at states[k + 1], and the last step has none. It belongs before "
            "the move: states[k], where the chains are when β rises from betas[k].",
        ),
        "after-the-move-last-twice": (
            _gathered(later, betas),
            "each weight is taken *after* the move, at states[k + 1], with the last state used twice. It belongs "
            "before the move: states[k], where the chains are when β rises from betas[k].",
        ),
        "last-step-forgotten": (
            (steps * gap)[:-1].sum(0),
            "the last step, up to β = 1, is missing: K states go with K steps in β.",
        ),
        "first-step-forgotten": (
            (steps * gap)[1:].sum(0),
            "the first step, away from β = 0, is missing: K states go with K steps in β.",
        ),
    }


@check("9.6", "The weight of a climb")
def log_weights(weigh: Callable[..., Any]) -> str:
    """Check ``weigh(base, energy, states, betas)``: states (K, B, D), betas K + 1 numbers; log w (B,)."""
    generator = torch.Generator().manual_seed(906)
    for betas in ([0.0, 0.1, 0.35, 1.0], [0.0, 0.02, 0.1, 0.3, 0.55, 1.0]):
        states = _normal(generator, len(betas) - 1, 5, 3)
        expect_close(
            weigh(_bowl, _quartic, states.clone(), list(betas)),
            _gathered(states, betas),
            mistakes=_wrong_weights(states, betas),
            name="log w",
        )
    return "the mean of w is Z, and the mean of log w a lower bound of log Z."
