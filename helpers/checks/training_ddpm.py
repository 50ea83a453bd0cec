"""Checks of lesson 4: the loss, the average of the weights, a floor in closed form, the bound, a mended step.

A learner's code draws its own times and noise, in any order. So the network is a spy: it notes what it was shown, and
from that the check works out the noise, under the right formula and under each typical wrong one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ._core import Mistake, check, expect_close, expect_scalar

__all__ = ["ema", "gaussian_floor", "loss", "step", "x0_weights"]

ALPHA_BAR = torch.linspace(0.95, 0.1, 6, dtype=torch.float64)


class Spy(nn.Module):
    """A network that answers a fixed multiple of what it sees, plus a fixed pattern, and remembers the question."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))
        self.pattern = torch.randn(shape, generator=torch.Generator().manual_seed(7))
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        if tuple(x_t.shape) != tuple(self.pattern.shape):
            got, wanted = tuple(x_t.shape), tuple(self.pattern.shape)
            raise Mistake("wrong-shape", f"the network should see x_t of shape {wanted}, and was shown {got}.")
        if not isinstance(t, Tensor) or t.shape != x_t.shape[:1] or t.is_floating_point():
            got = f"{tuple(t.shape)}, {t.dtype}" if isinstance(t, Tensor) else type(t).__name__
            advice = f"the network wants one integer t per image, shape ({len(x_t)},); it got {got}."
            raise Mistake("wrong-times", advice)
        if t.min() < 0 or t.max() >= len(ALPHA_BAR):
            span = f"{int(t.min())} to {int(t.max())}"
            raise Mistake(
                "off-by-one", f"the network was told t from {span}; here t runs from 0 to {len(ALPHA_BAR) - 1}."
            )
        self.asked.append((x_t.detach().to(self.pattern.dtype), t.detach().clone()))
        return self.weight * x_t + self.pattern


@dataclass(frozen=True)
class Round:
    """What one call of the learner's code gave away: what the spy was shown and answered, and what came back."""

    x_0: Tensor
    x_t: Tensor
    t: Tensor
    answer: Tensor
    value: Any

    def along(self, values: Tensor, wrong_axis: bool = False) -> Tensor:
        """One value per image, laid along the batch, or along the last axis where that is the mistake."""
        values = values.to(self.x_0.dtype)
        return values if wrong_axis else values.reshape(-1, *[1] * (self.x_0.ndim - 1))

    def eps(self, signal: Tensor, noise: Tensor, wrong_axis: bool = False) -> Tensor:
        """The noise, if the learner mixed with these factors."""
        return (self.x_t - self.along(signal, wrong_axis) * self.x_0) / self.along(noise, wrong_axis)


def _mixtures(r: Round) -> list[tuple[str, Tensor, str]]:
    """Noise that r.x_t would hold, under the right mixture ("") and under wrong ones."""
    a, last = ALPHA_BAR[r.t], len(ALPHA_BAR) - 1
    root = "the factors are √ᾱ and √(1 − ᾱ), so that their squares add up to one. A root is missing."
    shifted = "x_t is noised to another time than the t that the network is told: the two differ by one."
    axis = (
        "ᾱ[t] of shape (B,) was laid along the *last axis* of the images: each column got an ᾱ of its own. "
        "It passed silently because B is the width here. Reshape it to (B, 1, 1, 1)."
    )
    found = [
        ("", r.eps(a.sqrt(), (1 - a).sqrt()), ""),
        ("missing-root", r.eps(a, 1 - a), root),
        ("missing-root", r.eps(a.sqrt(), 1 - a), root),
        ("missing-root", r.eps(a, (1 - a).sqrt()), root),
        ("swapped-factors", r.eps((1 - a).sqrt(), a.sqrt()), "the two factors have changed places: √ᾱ goes with x_0."),
    ]
    for neighbour in (ALPHA_BAR[r.t - 1], ALPHA_BAR[(r.t - 1).clamp_min(0)], ALPHA_BAR[(r.t + 1).clamp_max(last)]):
        found.append(("off-by-one", r.eps(neighbour.sqrt(), (1 - neighbour).sqrt()), shifted))
    if r.x_0.shape[-1] == len(r.x_0):
        found.append(("wrong-axis", r.eps(a.sqrt(), (1 - a).sqrt(), wrong_axis=True), axis))
    return found


def _is(value: float, wanted: Tensor) -> bool:
    return abs(value - float(wanted)) <= 2e-4 * max(1.0, abs(float(wanted)))


def _find_eps(r: Round, value: float) -> Tensor:
    """The noise of this round; raises the mistake that explains the value, if it is not the right loss."""
    mixtures = _mixtures(r)
    right = mixtures[0][1]
    for name, eps, advice in mixtures:
        if _is(value, (r.answer - eps).square().mean()):
            if name:
                raise Mistake(name, advice)
            return right
    if torch.equal(r.x_t, r.x_0):
        raise Mistake("clean-input", "the network was shown x_0. It should see the noisy x_t.")
    a = ALPHA_BAR[r.t]
    velocity = r.along(a.sqrt()) * right - r.along((1 - a).sqrt()) * r.x_0
    for target, what in ((r.x_0, "x_0"), (r.x_t, "x_t"), (-right, "−ε"), (velocity, "v"), (0 * right, "zero")):
        if _is(value, (r.answer - target).square().mean()):
            raise Mistake("wrong-target", f"your loss compares the network's answer with {what}. The target is ε.")
    error = r.answer - right
    for wrong, name, advice in (
        (error.square().sum(), "sum-not-mean", "this is the sum over all elements. Take the mean."),
        (error.square().sum() / len(error), "sum-not-mean", "you sum over each image's elements. Take their mean."),
        (
            error.square().mean() * len(error),
            "sum-over-batch",
            "this is the sum over the images of each one's mean. Take the mean over the batch too, "
            "or the loss grows with its size.",
        ),
        (error.abs().mean(), "not-squared", "this is the mean of |ε − ε̂|. The loss is the mean of its *square*."),
        (
            error.square().mean().sqrt(),
            "not-squared",
            "this is the root of the mean squared error. Leave the root out.",
        ),
        (error.square().mean() / 2, "half-too-much", "there is a factor ½ too much."),
    ):
        if _is(value, wrong):
            raise Mistake(name, advice)
    raise Mistake(
        "wrong-value",
        f"for what the network was shown and answered, the loss should be {error.square().mean():.4f}; "
        f"yours is {value:.4f}. Is the ε that you compare with the very one that is mixed into x_t?",
    )


def _images(shape: tuple[int, ...], seed: int) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


def _check_draws(ts: Tensor, eps: Tensor, same_noise: str) -> None:
    """Judge the draws of several rounds: times (R, B) and noise (R, B, …)."""
    if bool((ts == ts[:, :1]).all()):
        raise Mistake("same-time", "all images of a batch got the same t. Draw one per image: shape (B,).")
    if torch.allclose(eps, eps[:1].expand_as(eps), atol=1e-3) or torch.equal(ts, ts[:1].expand_as(ts)):
        raise Mistake("noise-reused", same_noise)
    if torch.allclose(eps, eps[:, :1].expand_as(eps), atol=1e-3):
        raise Mistake("shared-noise", "all images of a batch got the same noise. Draw ε of the shape of x_0.")
    flat = eps.flatten(2)
    if torch.allclose(flat, flat[..., :1].expand_as(flat), atol=1e-3):
        raise Mistake("shared-noise", "all pixels of an image got the same noise. Draw ε of the shape of x_0.")
    for absent, which in ((0, "t = 0, the first noisy step,"), (len(ALPHA_BAR) - 1, "t = T − 1, the last step,")):
        if not bool((ts == absent).any()):
            raise Mistake("missing-times", f"{which} never comes. `torch.randint` leaves out its upper end only.")
    if eps.min() > -1e-3:
        raise Mistake("uniform-noise", "your noise is never negative: `rand` is uniform, `randn` is normal.")
    if abs(float(eps.mean())) > 0.25 or abs(float(eps.std()) - 1) > 0.25:
        advice = f"the noise should have mean 0 and standard deviation 1, got {eps.mean():.2f} and {eps.std():.2f}."
        raise Mistake("wrong-noise", advice)


# 4.1 -----------------------------------------------------------------------------------------------------------------


def _play(my_loss: Callable[..., Any], x_0: Tensor, generator: torch.Generator) -> Round:
    spy = Spy(tuple(x_0.shape))
    value = my_loss(spy, x_0.clone(), ALPHA_BAR.clone(), generator)
    if not spy.asked:
        raise Mistake("network-not-asked", "your loss never calls the model.")
    x_t, t = spy.asked[-1]
    with torch.no_grad():
        answer = spy.weight * x_t + spy.pattern
    return Round(x_0, x_t, t, answer, value)


def _check_scalar(value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() > 1:
        raise Mistake("not-reduced", f"the loss should be one number, got shape {tuple(value.shape)}: take the mean.")
    number = expect_scalar(value.detach() if isinstance(value, Tensor) else value, "the loss")
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise Mistake(
            "not-differentiable", "the loss has no graph behind it. No `.item()`, no `no_grad`: return the tensor."
        )
    return number


@check("4.1", "Write the loss")
def loss(my_loss: Callable[[nn.Module, Tensor, Tensor, torch.Generator], Any]) -> str:
    """Check the simple loss: its mixture, target and mean, and where its randomness comes from."""
    for shape in ((8, 1, 8, 8), (16, 3, 4, 4), (32, 2)):
        x_0, generator, ts, noises = _images(shape, 41), torch.Generator().manual_seed(42), [], []
        with torch.random.fork_rng(devices=[]):  # some draw from the global generator, or seed it
            for _ in range(8):
                r = _play(my_loss, x_0, generator)
                noises.append(_find_eps(r, _check_scalar(r.value)))
                ts.append(r.t)
        reused = "every call draws the same t and ε. Do not seed inside the loss; let the generator run on."
        _check_draws(torch.stack(ts), torch.stack(noises), reused)
        _check_generator(my_loss, x_0)
    return "the mixture, the target, the mean and all the draws are right."


def _check_generator(my_loss: Callable[..., Any], x_0: Tensor) -> None:
    rounds = []
    for global_seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            rounds.append(_play(my_loss, x_0, torch.Generator().manual_seed(43)))
    if not (torch.equal(rounds[0].x_t, rounds[1].x_t) and torch.equal(rounds[0].t, rounds[1].t)):
        advice = "some of the randomness comes from torch's global generator. Pass `generator=generator` to every draw."
        raise Mistake("global-generator", advice)


# 4.2 -----------------------------------------------------------------------------------------------------------------


def _networks() -> tuple[nn.Module, nn.Module]:
    """An average and the model that it follows, with different weights and buffers."""
    pair = []
    for seed in (1, 2):
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
        generator = torch.Generator().manual_seed(seed)
        for value in (*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())):
            value.data.copy_(torch.rand(value.shape, generator=generator, dtype=torch.float64) + seed)
        pair.append(network)
    pair[1][1].num_batches_tracked.fill_(5)
    return pair[0], pair[1]


def _weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()


def _addresses(network: nn.Module) -> set[int]:
    return {tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())}


def _update(my_ema: Callable[..., Any], average: nn.Module, model: nn.Module, n: int, half_life: int) -> None:
    try:
        my_ema(average, model, n, half_life)
    except RuntimeError as error:
        if "leaf Variable" in str(error):
            advice = "autograd refuses to change a tracked weight in place. Do the update under `torch.no_grad()`."
            raise Mistake("tracked", advice) from error
        raise
    if not all(p.is_leaf for p in average.parameters()):
        raise Mistake("tracked", "the averaged weights carry a graph now. Do the update under `torch.no_grad()`.")
    if _addresses(average) & _addresses(model):
        advice = "average and model share a tensor now: the next step of training changes both. Copy its *values*."
        raise Mistake("shared-weights", advice)


@check("4.2", "The average of the weights")
def ema(my_ema: Callable[[nn.Module, nn.Module, int, int], Any]) -> str:
    """Check one EMA update, in place, for several batches and half-lives."""
    for n, half_life in ((64, 500), (8, 20), (300, 100)):
        average, model = _networks()
        old, new, a = _weights(average), _weights(model), 0.5 ** (n / half_life)
        buffers = copy.deepcopy(dict(model.named_buffers()))
        _update(my_ema, average, model, n, half_life)
        if not torch.equal(_weights(model), new):
            raise Mistake("moved-the-model", "you moved the model. It is the *average* that follows.")
        got = _weights(average)
        if torch.equal(got, old):
            advice = "the average did not move. `old = …` in a loop only renames; change the tensor: `old.copy_(…)`."
            raise Mistake("not-in-place", advice)

        def mixed(share: float, old: Tensor = old, new: Tensor = new) -> Tensor:
            return share * old + (1 - share) * new

        e, per_step = 2.718281828459045 ** (-n / half_life), 0.5 ** (1 / half_life)
        half_life_in_steps = "the half-life counts images, and this update saw n_images of them: the exponent is n/h."
        mistakes = {
            "swapped": (mixed(1 - a), "the shares have changed places: the *old* average keeps a = 2^(−n/h)."),
            "natural-exponent": (mixed(e), "e^(−n/h) makes h the time to 1/e. A half-life wants 2^(−n/h)."),
            "counts-steps": (mixed(per_step), half_life_in_steps),
            "linear": (
                mixed(1 - n / half_life),
                "with 1 − n/h, old weights count about 1/e after h images, and a batch of more than h images makes "
                "the share negative. A half-life wants 2^(−n/h).",
            ),
            "upside-down": (
                mixed(0.5 ** (half_life / n)),
                "the exponent is upside down: n/h, small for small batches.",
            ),
            "no-average": (new, "the average is a copy of the model now: the old weights count nothing."),
            "forgot-the-share": (a * old + new, "the new weights need their share too: (1 − a)."),
        }
        expect_close(got, mixed(a), mistakes=mistakes, name="the averaged weights", rtol=1e-6)
        for name, value in average.named_buffers():
            if not torch.equal(value, buffers[name]):
                advice = (
                    f"the buffer {name} is not the model's. Copy the buffers; the running means belong to the weights."
                )
                raise Mistake("buffers-forgotten", advice)
    return "weights averaged, buffers copied, nothing tracked, and the model left alone."


# 4.3 -----------------------------------------------------------------------------------------------------------------


@check("4.3", "The floor for Gaussian data")
def gaussian_floor(floor: Callable[[Tensor, float], Any]) -> str:
    """Check the smallest possible noise loss for N(0, s²)."""
    a = torch.tensor([0.999, 0.9, 0.5, 0.2, 0.01], dtype=torch.float64)
    for s in (0.6, 1.0, 2.5):
        variance = a * s**2 + 1 - a
        right = a * s**2 / variance
        mistakes = {
            "error-of-x0": (
                s**2 * (1 - a) / variance,
                "that is the smallest error of x_0. It has to be scaled by the SNR.",
            ),
            "explained-part": (1 - right, "that is the part of ε which x_t explains. The floor is what it leaves."),
            "root": (right.sqrt(), "that is the root of the floor: the loss is a *squared* error."),
            "uncorrelated": (
                torch.ones_like(a),
                "that is var(ε): the price of saying zero. x_t tells something about ε.",
            ),
            "inverse": (variance / (a * s**2), "a floor above 1 would be worse than saying zero. It is upside down."),
            "lazy-player": (
                a * s**2 + (1 - (1 - a).sqrt()) ** 2,
                "that is what the player who says x_t pays. The best one scales x_t first: find the best factor.",
            ),
            "zero": (
                torch.zeros_like(a),
                "nobody plays without a loss: many pairs of x_0 and ε give the same x_t. What is left open?",
            ),
            "covariance-not-squared": (
                1 - (1 - a).sqrt() / variance,
                "x_t explains cov²/var(x_t) of the variance of ε; in yours the covariance √(1 − ᾱ) is not squared.",
            ),
            "variance-of-the-noise": (
                1 - a,
                "1 − ᾱ is the variance of the noise inside x_t: how strong it is, not how well it can be guessed.",
            ),
        }
        if s != 1:
            wrong_s = a * s / (a * s + 1 - a)
            mistakes["not-squared"] = (wrong_s, "the variance of the data is s², not s.")
            mistakes["forgot-s"] = (a, "this holds for s = 1 only: var(x_t) = ᾱs² + 1 − ᾱ.")
        expect_close(floor(a.clone(), s), right, mistakes=mistakes, name=f"the floor for s = {s}", rtol=1e-4)
    return "the signal's share of the variance of x_t: 1 at no noise, 0 at no signal."


# 4.4 -----------------------------------------------------------------------------------------------------------------


@check("4.4", "The bound, in terms of the clean image")
def x0_weights(weights: Callable[[Tensor], Any]) -> str:
    """Check w_t = (SNR_{t−1} − SNR_t)/2 for two schedules."""
    for steps in (7, 4):
        a = torch.linspace(0.99, 0.05, steps, dtype=torch.float64) ** 1.5
        snr = a / (1 - a)
        right, ratio = (snr[:-1] - snr[1:]) / 2, (snr[:-1] / snr[1:] - 1) / 2
        upside = "divide or multiply? ‖ε − ε̂‖² = SNR_t ‖x_0 − x̂_0‖², so that the weight is multiplied by SNR_t."
        mistakes = {
            "weight-of-eps": (ratio, "that is λ_t, the weight of the *noise*'s error. Multiply it by SNR_t."),
            "divided-by-snr": (ratio / snr[1:], upside),
            "wrong-snr": (ratio * snr[:-1], "the SNR to multiply with is that of t, not of t − 1."),
            "missing-half": (2 * right, "the factor ½ is missing."),
            "wrong-sign": (-right, "the SNR falls with t: SNR_{t−1} − SNR_t is positive, as a weight has to be."),
            "difference-of-alpha-bar": ((a[:-1] - a[1:]) / 2, "SNR is ᾱ/(1 − ᾱ), not ᾱ."),
            "difference-of-variances": (
                (1 / snr[1:] - 1 / snr[:-1]) / 2,
                "that is the difference of 1/SNR: upside down.",
            ),
        }
        expect_close(weights(a.clone()), right, mistakes=mistakes, name=f"the weights for T = {steps}", rtol=1e-4)
    return "half the signal-to-noise ratio that is lost in the step."


# 4.5 -----------------------------------------------------------------------------------------------------------------


@check("4.5", "Mend the step")
def step(my_step: Callable[[nn.Module, torch.optim.Optimizer, Tensor, Tensor, torch.Generator], Any]) -> str:
    """Check a whole training step with SGD, whose updates give its gradients away."""
    rate = 0.05
    for shape in ((8, 1, 8, 8), (24, 2, 4, 4)):
        x_0, spy, generator = _images(shape, 44), Spy(shape), torch.Generator().manual_seed(45)
        optimizer, ts, noises, gradients = torch.optim.SGD(spy.parameters(), lr=rate), [], [], []
        with torch.random.fork_rng(devices=[]):
            for _ in range(8):
                weight = spy.weight.item()
                value = my_step(spy, optimizer, x_0.clone(), ALPHA_BAR.clone(), generator)
                if not spy.asked:
                    raise Mistake("network-not-asked", "your step never calls the model.")
                x_t, t = spy.asked[-1]
                answer = weight * x_t + spy.pattern
                number = expect_scalar(value.detach() if isinstance(value, Tensor) else value, "the returned loss")
                keeps_graph = isinstance(value, Tensor) and value.requires_grad
                eps = _find_eps(Round(x_0, x_t, t, answer, value), number)
                gradients.append(float((2 * (answer - eps) * x_t).mean()))
                _check_move(weight - spy.weight.item(), rate, gradients)
                ts.append(t)
                noises.append(eps)
        reused = "every step draws the same t and ε. Do not seed inside the step; let the generator run on."
        _check_draws(torch.stack(ts), torch.stack(noises), reused)
        if keeps_graph:
            advice = (
                "the returned loss drags its graph along, and a list of such losses fills the memory: `loss.item()`."
            )
            raise Mistake("keeps-graph", advice)
    return "four slips found; the step is the lesson's, and the draws are clean."


def _check_move(moved: float, rate: float, gradients: list[float]) -> None:
    tolerance = 1e-4 * rate * max(1.0, sum(map(abs, gradients)))
    if abs(moved - rate * gradients[-1]) <= tolerance:
        return
    if len(gradients) == 1 and abs(moved) <= tolerance:
        return  # nothing yet, or the step comes too early: the next one tells
    if abs(moved) <= tolerance:
        raise Mistake("no-step", "the weights do not move. Clear the gradients, `backward()`, then `optimizer.step()`.")
    if abs(moved - rate * sum(gradients)) <= tolerance:
        raise Mistake("gradients-accumulate", "gradients of earlier steps leak in: nobody clears them.")
    if len(gradients) > 1 and abs(moved - rate * gradients[-2]) <= tolerance:
        raise Mistake("stale-gradient", "the step uses the gradient of the batch before: `backward()` comes first.")
    raise Mistake("wrong-step", "the weights did not move along the gradient of the loss of this batch.")
