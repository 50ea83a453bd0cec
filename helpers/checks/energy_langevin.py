"""Checks of lesson 7: the Langevin step, a step size, MALA's ratio and its decision, hidden temperature, ESS."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._core import Mistake, check, expect_close, expect_scalar, expect_tensor

__all__ = ["accept", "effective_size", "langevin_step", "mala_log_ratio", "step_for_bias", "translation"]

Energy = Callable[[Tensor], Tensor]
Mistakes = dict[str, tuple[Any, str]]


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _bumpy(x: Tensor) -> Tensor:
    """Something smooth that is no parabola: (B, …) → (B,)."""
    flat = x.flatten(1)
    return (0.3 * flat**2 + torch.sin(1.3 * flat)).sum(1) + 0.1 * flat[:, 0] ** 3


def _slope(x: Tensor) -> Tensor:
    """∇ of :func:`_bumpy`, by hand."""
    flat = x.flatten(1)
    slope = 0.6 * flat + 1.3 * torch.cos(1.3 * flat)
    slope[:, 0] += 0.3 * flat[:, 0] ** 2
    return slope.reshape(x.shape)


def _expect_untouched(given: Tensor, weight: Tensor) -> None:
    """The caller's x is not tracked, and the energy's parameter has received no gradient."""
    if given.requires_grad:
        raise Mistake(
            "tracking-left-on",
            "the numbers are right, but the x that was given to you is tracked now: requires_grad_() works in place. "
            "Make a leaf of your own, x.detach().requires_grad_().",
        )
    if weight.grad is not None:
        raise Mistake(
            "gradient-left-in-the-parameters",
            "the numbers are right, but backward() has filled the .grad of the energy's parameters, too, where an "
            "optimiser would find it. torch.autograd.grad(…, x) asks for x alone.",
        )


# 7.1 -----------------------------------------------------------------------------------------------------------------


def _wrong_steps(x: Tensor, e: float, temperature: float, xi: Tensor) -> Mistakes:
    slope, kick = _slope(x), math.sqrt(e * temperature)
    down = x - e / 2 * slope
    return {
        "uphill": (x + e / 2 * slope + kick * xi, "you walk *up* the energy. Low is likely: subtract the gradient."),
        "half-forgotten": (
            x - e * slope + kick * xi,
            "the drift is (ε/2)∇E; yours is ε∇E. With noise √(εT) that samples at half the temperature.",
        ),
        "no-noise": (down, "where is the noise? Without it this is gradient descent."),
        "root-forgotten": (
            down + e * temperature * xi,
            "the noise is √(εT) ξ: its *variance* is εT. Without the root, small steps have hardly any noise.",
        ),
        "temperature-outside-the-root": (
            down + temperature * math.sqrt(e) * xi,
            "the temperature belongs under the root, too: √(εT), not T√ε.",
        ),
        "temperature-forgotten": (down + math.sqrt(e) * xi, "this is the step at T = 1; the temperature is not used."),
        "noise-of-the-other-convention": (
            down + math.sqrt(2 * e * temperature) * xi,
            "√(2ε) goes with a drift of ε∇E. Here the drift is ε/2, and the noise √(εT).",
        ),
        "both-of-the-other-convention": (
            x - e * slope + math.sqrt(2 * e * temperature) * xi,
            "this is x − γ∇E + √(2γT) ξ, the convention in which γ = ε/2: your step is twice as long.",
        ),
        "mean-of-the-batch": (
            x - e / 2 / len(x) * slope + kick * xi,
            "your gradient is too small by a factor B: you differentiate the *mean* of the energies. Take the sum.",
        ),
        "drift-divided-by-temperature": (
            x - e / 2 / temperature * slope + kick * xi,
            "here T scales the noise only; divide the drift by T as well, and you sample at T².",
        ),
        "another-clock": (
            x - e / 2 / temperature * slope + math.sqrt(e) * xi,
            "right density, another clock: E/T in the drift and the noise √ε make the course's step of size ε/T. "
            "Here T scales the noise, √(εT), and the drift is (ε/2)∇E at every temperature.",
        ),
    }


@check("7.1", "The Langevin step")
def langevin_step(step: Callable[[Energy, Tensor, float, float, Tensor], Any]) -> str:
    """Check ``step(f, x, step_size, temperature, xi)``."""
    generator = torch.Generator().manual_seed(701)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)  # stands for the parameters of a network

    def energy(x: Tensor) -> Tensor:
        return weight * _bumpy(x)

    for shape, e, temperature in (((5, 2), 0.3, 0.4), ((4, 1, 3, 3), 0.05, 2.5), ((3, 6), 1.1, 0.2)):
        x, xi = _normal(generator, *shape), _normal(generator, *shape)
        given = x.clone()
        got = step(energy, given, e, temperature, xi.clone())
        expect_close(
            got,
            x - e / 2 * _slope(x) + math.sqrt(e * temperature) * xi,
            mistakes=_wrong_steps(x, e, temperature, xi),
            name=f"the step of ε = {e:g} at T = {temperature:g}",
        )
        if isinstance(got, Tensor) and got.requires_grad:
            raise Mistake(
                "still-attached",
                "the numbers are right, but your result carries a graph: after a thousand steps it would hold a "
                "thousand. Use x.detach() where you put the step together.",
            )
        if not torch.equal(given.detach(), x):
            raise Mistake("changed-in-place", "the numbers are right, but the x that was given to you has changed.")
        _expect_untouched(given, weight)
    return "downhill by ε/2, and noise of variance εT."


# 7.2 -----------------------------------------------------------------------------------------------------------------


def _wrong_step_sizes(std: float, bias: float) -> Mistakes:
    return {
        "small-step-formula": (
            4 * std**2 * bias,
            "this is right for small biases only: v∞ = σ²/(1 − ε/(4σ²)), not σ²(1 + ε/(4σ²)). At a bias of 1 it would "
            "be the stability limit.",
        ),
        "std-for-variance": (
            4 * std * bias / (1 + bias),
            "a step size has the unit of x², so that σ² must stand in it, not σ.",
        ),
        "wrong-sign": (
            4 * std**2 * bias / (1 - bias) if bias != 1 else math.inf,
            "your variance is too *small* by the bias: 1/(1 − ε/(4σ²)) must be 1 + bias.",
        ),
        "standard-deviation-biased": (
            4 * std**2 * (1 - (1 + bias) ** -2),
            "with this step the *standard deviation* is too large by the bias; the variance is asked for.",
        ),
        "four-forgotten": (std**2 * bias / (1 + bias), "where is the 4? v∞ = σ²/(1 − ε/(4σ²))."),
        "two-for-four": (
            2 * std**2 * bias / (1 + bias),
            "2σ² is where states become independent; the variance has ε/(4σ²).",
        ),
        "absolute-bias": (
            4 * std**2 * bias / (std**2 + bias),
            "you read the bias as an absolute number; it is a share of σ².",
        ),
        "stability-limit": (4 * std**2, "this is the stability limit, where the variance is infinite."),
    }


@check("7.2", "A step size for a promise")
def step_for_bias(step_size: Callable[[float, float], Any]) -> str:
    """Check ``step_size(std, bias)``: ε with v∞ = (1 + bias)σ²."""
    for std, bias in ((1.7, 0.4), (0.3, 0.2), (0.5, 0.01), (3.0, 2.0)):
        expect_close(
            expect_scalar(step_size(std, bias), "the step size"),
            4 * std**2 * bias / (1 + bias),
            mistakes=_wrong_step_sizes(std, bias),
            name=f"the step size for σ = {std:g} and a bias of {bias:g}",
            rtol=1e-5,
        )
    return "and at this step ESS/n is just the bias, too."


# 7.3 -----------------------------------------------------------------------------------------------------------------


def _log_ratio(
    x: Tensor,
    x_new: Tensor,
    e: float,
    temperature: float,
    *,
    energies: float = 1.0,
    proposals: float = 1.0,
    twice_variance: float | None = None,
    drift: float = 0.5,
    back_at: Tensor | None = None,
) -> Tensor:
    """log r, right by default; each option is a mistake."""
    twice_variance = 2 * e * temperature if twice_variance is None else twice_variance
    back_at = x_new if back_at is None else back_at
    there = (x_new - x + drift * e * _slope(x)).square().sum(1)
    back = (x - x_new + drift * e * _slope(back_at)).square().sum(1)
    difference = (_bumpy(x) - _bumpy(x_new)) / temperature
    return energies * difference + proposals * (there - back) / twice_variance


def _wrong_ratios(x: Tensor, x_new: Tensor, e: float, temperature: float) -> Mistakes:
    given, right = (x, x_new, e, temperature), _log_ratio(x, x_new, e, temperature)
    return {
        "batch-summed": (
            right.sum(),
            "you return one number for the batch: one decision for all chains. Sum over the coordinates only.",
        ),
        "batch-averaged": (right.mean(), "you return one number for the batch. Each chain has a ratio of its own."),
        "ratio-for-its-logarithm": (right.exp(), "this is r; its logarithm is asked for."),
        "clipped-to-one": (
            right.clamp(max=0),
            "this is log min(1, r); log r itself is asked for (the comparison with log u needs no minimum).",
        ),
        "proposals-forgotten": (
            _log_ratio(*given, proposals=0),
            "the proposals' densities are missing, or have no drift and cancel. A Langevin step is not symmetric: "
            "q(x|x') ≠ q(x'|x).",
        ),
        "proposals-swapped": (
            _log_ratio(*given, proposals=-1),
            "the proposals stand the wrong way round: the way *back*, q(x|x'), is in the numerator.",
        ),
        "energies-swapped": (
            _log_ratio(*given, energies=-1),
            "the energies have the wrong sign: log p(x') − log p(x) = (E(x) − E(x'))/T.",
        ),
        "upside-down": (-right, "this is −log r: numerator and denominator are exchanged."),
        "energies-forgotten": (_log_ratio(*given, energies=0), "where are the energies?"),
        "variance-not-doubled": (
            _log_ratio(*given, twice_variance=e * temperature),
            "a normal density has exp(−‖·‖²/(2·variance)): you divide by εT and not by 2εT.",
        ),
        "variance-of-the-other-convention": (
            _log_ratio(*given, twice_variance=4 * e * temperature),
            "you divide by 4εT: that is the proposal whose noise has variance 2εT. Here it has variance εT.",
        ),
        "variance-squared": (
            _log_ratio(*given, twice_variance=2 * (e * temperature) ** 2),
            "εT is the *variance* of the proposal already; you square it.",
        ),
        "variance-squared-step": (
            _log_ratio(*given, twice_variance=2 * e**2 * temperature),
            "you take ε for the noise's standard deviation. Its variance is εT, so divide by 2εT.",
        ),
        "root-of-the-variance": (
            _log_ratio(*given, twice_variance=2 * math.sqrt(e * temperature)),
            "you divide by 2√(εT), the standard deviation; the density wants the variance, 2εT.",
        ),
        "temperature-forgotten-in-the-proposal": (
            _log_ratio(*given, twice_variance=2 * e),
            "the proposal's variance is εT; yours has no T.",
        ),
        "temperature-forgotten-in-the-energies": (
            _log_ratio(*given, energies=temperature),
            "the energies are divided by T: p ∝ exp(−E/T).",
        ),
        "temperature-forgotten": (
            _log_ratio(*given, energies=temperature, twice_variance=2 * e),
            "this is the ratio at T = 1; the temperature is not used.",
        ),
        "gradient-of-the-start-for-the-way-back": (
            _log_ratio(*given, back_at=x),
            "the way back starts at x', so its mean needs the gradient *at* x'.",
        ),
        "half-forgotten": (
            _log_ratio(*given, drift=1.0),
            "the proposal's mean is x − (ε/2)∇E(x); you have forgotten the ½.",
        ),
        "uphill": (
            _log_ratio(*given, drift=-0.5),
            "your proposal's mean lies uphill: x − (ε/2)∇E = x + (ε/2)·score.",
        ),
    }


@check("7.3", "The acceptance of MALA")
def mala_log_ratio(log_ratio: Callable[[Energy, Tensor, Tensor, float, float], Any]) -> str:
    """Check ``log_ratio(f, x, x_new, step_size, temperature)``, shape (B,)."""
    generator = torch.Generator().manual_seed(703)
    for e, temperature in ((0.3, 0.6), (1.4, 2.3), (0.05, 0.5)):
        x = _normal(generator, 6, 3)
        x_new = x - e / 2 * _slope(x) + math.sqrt(e * temperature) * _normal(generator, 6, 3)
        expect_close(
            log_ratio(_bumpy, x.clone(), x_new.clone(), e, temperature),
            _log_ratio(x, x_new, e, temperature),
            mistakes=_wrong_ratios(x, x_new, e, temperature),
            name=f"log r with ε = {e:g} at T = {temperature:g}",
        )
    return "energies, the way back, the way there, and one number for each chain."


# 7.4 -----------------------------------------------------------------------------------------------------------------


def _wrong_decisions(x: Tensor, x_new: Tensor, log_ratio: Tensor, u: Tensor) -> Mistakes:
    def where(decision: Tensor) -> Tensor:
        return torch.where(decision.reshape(-1, 1, 1, 1), x_new, x)

    right = u.log() < log_ratio
    share = right.double().mean()
    return {
        "inverted": (where(~right), "you keep x where the chain accepts, and move where it refuses."),
        "logarithm-forgotten": (
            where(u < log_ratio),
            "you compare u with *log* r: compare u with r, or log u with log r.",
        ),
        "greedy": (
            where(log_ratio > 0),
            "you accept only what is better (r > 1). Then nothing is random, and the chain only climbs down.",
        ),
        "half": (where(log_ratio > math.log(0.5)), "you compare r with ½. The comparison is with the random u."),
        "mixture": (
            share * x_new + (1 - share) * x,
            "you mix x and x' by the share of accepted steps. A chain goes there or stays; nothing in between.",
        ),
        "blended": (
            x + log_ratio.exp().clamp(max=1).reshape(-1, 1, 1, 1) * (x_new - x),
            "you go a part of the way, by the probability. A chain goes all the way, or stays.",
        ),
    }


def _name_one_decision(decide: Callable[..., Any], x: Tensor, x_new: Tensor, u: Tensor, got: Tensor) -> None:
    """All chains went, or all stayed: is that so whatever the ratios are?"""
    if got.shape != x.shape or not (torch.equal(got, x) or torch.equal(got, x_new)):
        return
    refused, accepted = (
        torch.as_tensor(decide(x.clone(), x_new.clone(), torch.full_like(u, level), u.clone())).double()
        for level in (-60.0, 60.0)
    )
    if torch.equal(refused, x_new):
        raise Mistake("always-accepted", "you accept everything: this is ULA again. (log u is negative, and below r.)")
    if torch.equal(accepted, x):
        raise Mistake("never-accepted", "you accept nothing, not even what is far better.")
    raise Mistake(
        "one-decision-for-all",
        "you decide once for the whole batch. Chains are independent: each has its own ratio and its own u.",
    )


@check("7.4", "Everybody decides for himself")
def accept(decide: Callable[[Tensor, Tensor, Tensor, Tensor], Any]) -> str:
    """Check ``decide(x, x_new, log_ratio, u)`` on pictures (B, C, H, W)."""
    generator = torch.Generator().manual_seed(704)
    for n, shape in ((8, (3, 4, 4)), (6, (1, 5, 2))):
        x, x_new = _normal(generator, n, *shape), _normal(generator, n, *shape)
        log_ratio, u = _normal(generator, n) - 0.2, torch.rand(n, generator=generator, dtype=torch.float64)
        log_ratio[:5] = torch.tensor([1.5, -3.0, -0.3, -0.5, 800.0])  # e^800 overflows
        u[:5] = torch.tensor([0.9, 0.3, 0.9, 0.2, 0.99])
        given = (x, x_new, log_ratio, u)
        try:
            got = decide(*(tensor.clone() for tensor in given))
        except (RuntimeError, ValueError) as error:
            if "size of tensor" not in str(error) and "broadcast" not in str(error):
                raise
            raise Mistake(
                "not-broadcast",
                "the decision has shape (B,), the pictures (B, C, H, W): give it the shape (B, 1, 1, 1) first.",
            ) from error
        got = expect_tensor(got, tuple(x.shape), "the next states").double()
        _name_one_decision(decide, x, x_new, u, got)
        right = torch.where((u.log() < log_ratio).reshape(-1, 1, 1, 1), x_new, x)
        expect_close(got, right, mistakes=_wrong_decisions(*given), name="the next states")
    return "one decision a chain, whatever its shape."


# 7.5 -----------------------------------------------------------------------------------------------------------------


def _translation_mistakes(alpha: float, tau: float, wanted: float) -> tuple[Mistakes, Mistakes, Mistakes]:
    temperature = {
        "half-forgotten": (tau**2 / alpha, "ε = 2α, since the drift is (ε/2)∇E: T = τ²/ε = τ²/(2α)."),
        "half-on-the-wrong-side": (2 * tau**2 / alpha, "ε = 2α, not α/2: the course's drift is (ε/2)∇E = α∇E."),
        "not-squared": (tau / (2 * alpha), "τ is the factor of ξ; the *variance* τ² is εT."),
        "root": (tau / math.sqrt(2 * alpha), "this is √T: square it."),
        "inverse": (2 * alpha / tau**2, "this is 1/T: more noise must mean a higher temperature."),
    }
    noise = {
        "half-forgotten": (math.sqrt(alpha * wanted), "√(αT) goes with a drift of (α/2)∇E; here it is α∇E: √(2αT)."),
        "root-forgotten": (2 * alpha * wanted, "2αT is the variance; τ is its root."),
        "temperature-outside-the-root": (wanted * math.sqrt(2 * alpha), "T stands under the root, too."),
        "scaled-linearly": (
            2 * alpha * wanted / tau,
            "you scale τ by the quotient of the temperatures. T goes with τ², so τ goes with its root.",
        ),
    }
    variance = {
        "small-step-limit": (
            tau**2 / (2 * alpha),
            "this is the limit α → 0, the temperature itself. The step is finite: v = (1−α)²v + τ².",
        ),
        "root": (tau / math.sqrt(1 - (1 - alpha) ** 2), "this is the standard deviation; the variance is asked for."),
        "half-a-drift": (
            tau**2 / (1 - (1 - alpha / 2) ** 2),
            "on N(0, 1) the gradient is x, so b = 1 − α. The ½ is in α already.",
        ),
        "b-not-squared": (tau**2 / alpha, "variances are multiplied by b², not by b: v = b²v + τ²."),
        "at-temperature-one": (
            1 / (1 - alpha / 2),
            "this is the variance at T = 1 (τ = √(2α)); the given τ is another.",
        ),
    }
    return temperature, noise, variance


@check("7.5", "The temperature of a published sampler")
def translation(translate: Callable[[float, float, float], Any]) -> str:
    """Check ``translate(alpha, tau, wanted)``: temperature, τ for the wanted one, variance on N(0, 1)."""
    for alpha, tau, wanted in ((0.4, 0.3, 2.5), (1.3, 0.05, 0.3), (0.02, 0.7, 1.7)):
        answer = translate(alpha, tau, wanted)
        if answer is ... or answer is None or not hasattr(answer, "__len__") or len(answer) != 3:
            expect_tensor(answer, (3,), "the three numbers")
        names = ("the temperature", "the τ for the wanted temperature", "the variance on N(0, 1)")
        right = (tau**2 / (2 * alpha), math.sqrt(2 * alpha * wanted), tau**2 / (1 - (1 - alpha) ** 2))
        tables = _translation_mistakes(alpha, tau, wanted)
        for part, got, number, name, table in zip("abc", answer, right, names, tables, strict=True):
            mistakes = {f"{part}-{key}": value for key, value in table.items()}
            expect_close(expect_scalar(got, name), number, mistakes=mistakes, name=name, rtol=1e-5)
    return "two constants, one time step and one temperature."


# 7.6 -----------------------------------------------------------------------------------------------------------------


def _time(rho: Tensor, *, first: int = 1, factor: float = 2.0, one: float = 1.0, cut: bool = True) -> float:
    """1 + 2Σρ, cut before the first ρ ≤ 0; each option is a mistake."""
    below = (rho <= 0).nonzero()
    end = int(below[0]) if cut and len(below) else len(rho)
    return one + factor * rho[first:end].sum().item()


def _wrong_sizes(rho: Tensor, n: int) -> Mistakes:
    below = (rho <= 0).nonzero()
    end = int(below[0]) if len(below) else len(rho)
    return {
        "zero-counted": (
            n / _time(rho, first=0),
            "ρ₀ = 1 is in the sum, and in the 1 before it: the sum begins at k = 1.",
        ),
        "zero-counted-doubly": (
            n / _time(rho, first=0, one=0.0),
            "2Σρ from k = 0 counts ρ₀ = 1 twice; it stands once.",
        ),
        "two-forgotten": (
            n / _time(rho, factor=1.0),
            "each lag counts twice, forwards and backwards: 1 + 2Σρ.",
        ),
        "not-cut": (n / _time(rho, cut=False), "you sum over all lags; behind the first ρ ≤ 0 there is only noise."),
        "negative-skipped": (
            n / (1 + 2 * rho[1:].clamp(min=0).sum().item()),
            "you leave out the negative ones and go on. *Stop* at the first: the positive noise behind it counts, too.",
        ),
        "absolute-values": (
            n / (1 + 2 * rho[1:].abs().sum().item()),
            "with absolute values all noise counts as correlation. Stop at the first ρ ≤ 0.",
        ),
        "first-negative-included": (
            n / (1 + 2 * rho[1 : end + 1].sum().item()) if end < len(rho) else -1.0,
            "the first ρ ≤ 0 does not count any more.",
        ),
        "last-left-out": (
            n / (1 + 2 * rho[1 : end - 1].sum().item()),
            "you stop one lag too early: the last positive ρ counts.",
        ),
        "multiplied": (n * _time(rho), "correlated states are worth *less*: divide by 1 + 2Σρ."),
        "time-only": (_time(rho), "this is 1 + 2Σρ, the states per independent draw; n divided by it is asked for."),
        "first-lag-only": (
            n * (1 - rho[1].item()) / (1 + rho[1].item()),
            "this is right if ρ_k = ρ₁^k, as for ULA on a Gaussian. Sum the given ones.",
        ),
    }


@check("7.6", "Effective sample size")
def effective_size(size: Callable[[Tensor, int], Any]) -> str:
    """Check ``size(rho, n)``: n/(1 + 2Σρ_k), cut before the first ρ_k ≤ 0."""
    generator = torch.Generator().manual_seed(706)
    noise = 0.05 * _normal(generator, 40)
    lags = torch.arange(40, dtype=torch.float64)
    slow = 0.8**lags + noise * (lags > 3)
    cases = [(slow, 1000), (torch.tensor([1.0, 0.5, 0.3, -0.1, 0.2, -0.3]).double(), 60)]
    cases += [(torch.tensor([1.0, -0.4, 0.2, 0.1]).double(), 50), (0.5 ** lags[:12], 300)]
    for rho, n in cases:
        stops = (rho <= 0).nonzero().flatten().tolist()
        text = f"with the first ρ ≤ 0 at lag {stops[0]}" if stops else "with no ρ ≤ 0"
        unstopped = "if no ρ is ≤ 0, the sum runs to the end; yours does not."
        mistakes = _wrong_sizes(rho, n)
        if not stops:
            mistakes = {"no-negative-lag": (float(n), unstopped), **mistakes}
        try:
            got = size(rho.clone(), n)
        except (IndexError, StopIteration, ValueError) as error:
            if stops:
                raise
            raise Mistake("no-negative-lag", unstopped) from error
        got = expect_scalar(got, "the effective sample size")
        name = f"the effective sample size of {n} states, {text}"
        expect_close(got, n / _time(rho), mistakes=mistakes, name=name, rtol=1e-5)
    return "and the noise behind the first zero stays out."
