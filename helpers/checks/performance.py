"""Checks of lesson 13: attention's FLOPs, the roofline, a fair race, memory, the all-reduce, the noise scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._core import Mistake, check, expect_close, expect_scalar

__all__ = ["all_reduce_seconds", "attention_flops", "noise_scale", "peak_memory", "roof", "speed_up"]

Mistakes = dict[str, tuple[float, str]]


# 13.1 ----------------------------------------------------------------------------------------------------------------


def _wrong_attention(batch: int, height: int, width: int, channels: int, heads: int) -> Mistakes:
    n, c = height * width, channels
    projections, products = 8 * n * c**2, 4 * n**2 * c
    return {
        "multiply-adds": (
            batch * (projections + products) / 2,
            "these are multiply-adds: the multiplication and the addition count as one FLOP each, so double it.",
        ),
        "batch-forgotten": (projections + products, "this is one picture: there are `batch` of them."),
        "no-scores": (
            batch * projections,
            "only the four projections are counted. The scores QKᵀ and the weighted values are products too.",
        ),
        "projections-forgotten": (
            batch * products,
            "only the two products of positions with positions are counted; the four projections are missing.",
        ),
        "values-forgotten": (
            batch * (projections + products / 2),
            "the scores QKᵀ are there, but not the product of the weights with the values, which costs as much.",
        ),
        "last-projection-forgotten": (
            batch * (6 * n * c**2 + products),
            "queries, keys and values are three projections; the fourth comes after the values are mixed.",
        ),
        "one-projection": (
            batch * (2 * n * c**2 + products),
            "there are four projections from C to C channels: queries, keys, values, and one at the end.",
        ),
        "heads-multiplied": (
            batch * (projections + heads * products),
            "each head works on C/heads channels, so that the number of heads cancels.",
        ),
        "heads-divided": (
            batch * (projections + products / heads),
            "there are `heads` heads, each of width C/heads: the number of heads cancels.",
        ),
        "across-the-batch": (
            batch * projections + 4 * (batch * n) ** 2 * c,
            "pictures do not look at each other: the quadratic part holds for each picture alone, times `batch`.",
        ),
        "side-for-positions": (
            batch * (8 * height * c**2 + 4 * height**2 * c),
            "positions are height × width, all of them; you count one side only.",
        ),
        "not-quadratic": (
            batch * (projections + 4 * n * c),
            "the scores compare *all* positions with all others: N² of them, not N.",
        ),
    }


@check("13.1", "The price of attention")
def attention_flops(flops: Callable[[int, int, int, int, int], Any]) -> str:
    """Check ``flops(batch, height, width, channels, heads)``."""
    for batch, height, width, channels, heads in ((3, 8, 6, 64, 4), (5, 4, 16, 96, 2), (2, 32, 32, 32, 8)):
        n = height * width
        expect_close(
            flops(batch, height, width, channels, heads),
            batch * (8 * n * channels**2 + 4 * n**2 * channels),
            mistakes=_wrong_attention(batch, height, width, channels, heads),
            name=f"the FLOPs of {batch} maps of {height}×{width} with {channels} channels and {heads} heads",
            rtol=1e-6,
        )
    return "four projections, two products of all with all, and the heads cancel."


# 13.2 ----------------------------------------------------------------------------------------------------------------


def _limits(m: int, k: int, n: int, size: int, peak: float, bandwidth: float) -> tuple[float, float]:
    """The ceiling, and the slope at the product's intensity."""
    return peak, 2 * m * k * n / (size * (m * k + k * n + m * n)) * bandwidth


def _wrong_roofs(m: int, k: int, n: int, size: int, peak: float, bandwidth: float) -> Mistakes:
    flops, numbers = 2 * m * k * n, m * k + k * n + m * n
    _, slope = _limits(m, k, n, size, peak, bandwidth)
    return {
        "peak-only": (peak, "this product is limited by memory: compare with intensity × bandwidth."),
        "slope-only": (slope, "a rate above the peak: the ceiling is missing."),
        "multiply-adds": (min(peak, slope / 2), "FLOPs are 2 × multiply-adds: 2·m·k·n."),
        "numbers-for-bytes": (
            min(peak, slope * size),
            "you divide by the number of *numbers* moved; the bandwidth is in bytes, `size` of them for each.",
        ),
        "result-forgotten": (
            min(peak, flops / (size * (m * k + k * n)) * bandwidth),
            "the result is written to memory as well: three matrices are moved.",
        ),
        "result-only": (
            min(peak, flops / (size * m * n) * bandwidth),
            "only the result is counted as moved; the two inputs must be read.",
        ),
        "intensity-upside-down": (
            min(peak, size * numbers / flops * bandwidth),
            "intensity is FLOPs *per byte*; yours is upside down.",
        ),
        "intensity": (flops / (size * numbers), "this is the intensity, FLOPs a byte; multiply by bytes a second."),
        "times-added": (
            flops / (flops / peak + size * numbers / bandwidth),
            "you add the two times. The roofline lets them overlap: the longer one counts.",
        ),
        "seconds": (
            max(flops / peak, size * numbers / bandwidth),
            "this is the time. The rate is the FLOPs divided by it.",
        ),
    }


@check("13.2", "Under the roof")
def roof(attainable: Callable[[int, int, int, int, float, float], Any]) -> str:
    """Check ``attainable(m, k, n, size, peak, bandwidth)``."""
    cases = (
        (700, 27, 64, 4, 5e12, 3.3e10),  # left of the ridge
        (4096, 1152, 128, 2, 1e11, 3e10),  # under the ceiling
        (1, 512, 2048, 4, 2e11, 4e10),
        (16, 512, 256, 2, 7e11, 4e10),
    )
    got = [expect_scalar(attainable(*case), "the rate") for case in cases[:2]]
    if all(abs(rate / max(_limits(*case)) - 1) < 1e-6 for rate, case in zip(got, cases, strict=False)):
        raise Mistake("larger-of-the-two", "both limits hold at once, so the *smaller* rate is attainable.")
    for case in cases:
        m, k, n, size, _, _ = case
        right = min(_limits(*case))
        wrong = {name: given for name, given in _wrong_roofs(*case).items() if abs(given[0] / right - 1) > 1e-6}
        name = f"the rate of a {m}×{k} by {k}×{n} product with {size} bytes a number"
        expect_close(attainable(*case), right, mistakes=wrong, name=name, rtol=1e-6)
    return "the roof over every product, flat or sloping."


# 13.3 ----------------------------------------------------------------------------------------------------------------


class _Machine:
    """A make-believe machine on which tasks take known times: it warms up, drifts and stumbles.

    Args:
        cost: Seconds of each task when the machine is fresh.
        drift: By what factor it slows down from one call to the next.
        stumbles: Call numbers (from 0, both tasks together) that take ten times as long.
        first: By what factor the first call of each task is slower.
    """

    def __init__(self, cost: dict[str, float], drift: float, stumbles: set[int], first: dict[str, float]) -> None:
        self.cost, self.drift, self.stumbles, self.first = cost, drift, stumbles, first
        self.now, self.calls = 100.0, ""

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def task(self, name: str) -> Callable[[], None]:
        """A function that takes its time."""

        def run() -> None:
            number = len(self.calls)
            factor = self.drift**number * (10 if number in self.stumbles else 1)
            factor *= self.first[name] if name not in self.calls else 1
            self.calls += name
            self.now += self.cost[name] * factor

        return run


def _race(speed_up: Callable[..., Any], machine: _Machine, rounds: int) -> float:
    got = speed_up(machine.task("o"), machine.task("n"), machine.clock, rounds)
    return expect_scalar(got, "the speed-up")


@check("13.3", "A fair race")
def speed_up(race: Callable[[Callable[[], None], Callable[[], None], Callable[[], float], int], Any]) -> str:
    """Check ``race(old, new, clock, rounds)`` on machines with known times."""
    cost = {"o": 3.0, "n": 2.0}
    calm = _Machine(cost, 1.0, set(), {"o": 1.0, "n": 1.0})
    got, rounds = _race(race, calm, 5), 5
    if not calm.calls:
        raise Mistake("nothing-run", "neither `old` nor `new` was called.")
    if "o" not in calm.calls or "n" not in calm.calls:
        raise Mistake("one-missing", "only one of the two functions was called.")
    expect_close(
        got,
        1.5,
        name="the speed-up",
        mistakes={
            "upside-down": (2 / 3, "this is the share of time that is left: how many times faster is old / new."),
            "difference": (1.0, "this is a difference of times. Two versions are compared by their ratio."),
            "percent": (50.0, "this is a gain in per cent; wanted is the ratio old / new."),
            "gain": (0.5, "this is the gain, ratio − 1; wanted is the ratio old / new."),
        },
    )
    _check_order(calm.calls, rounds)
    slow_start = _Machine(cost, 1.0, set(), {"o": 5.0, "n": 50.0})
    if abs(_race(race, slow_start, 1) - 1.5) > 1e-6:
        raise Mistake("warm-up-counted", "the first call of each function is slow and must not count: run it untimed.")
    drifting = _Machine(cost, 1.05, {2, 4, 6, 11}, {"o": 5.0, "n": 5.0})
    _check_disturbed(_race(race, drifting, 11), cost, drifting)
    return "in turns, warmed up, and neither drift nor stumbles deceive you."


def _check_order(calls: str, rounds: int) -> None:
    if "oooo" in calls or "nnnn" in calls:
        raise Mistake(
            "one-after-the-other", "you time all of one and then all of the other: take turns: old, new, old …"
        )
    fewest = min(calls.count("o"), calls.count("n"))
    if fewest == rounds:
        raise Mistake("no-warm-up", "each function should run once before the clock counts: its first call is slow.")
    if fewest < rounds:
        raise Mistake("too-few-rounds", f"expected {rounds} timed rounds and a call before them, got {fewest} in all.")
    if calls.endswith("no"):
        raise Mistake("new-first", "within a round the old one runs first here, so that ratios are comparable.")


def _check_disturbed(got: float, cost: dict[str, float], machine: _Machine) -> None:
    """Eleven rounds of which four have a stumble; each call is 5 % slower than the one before."""
    times = {"o": [], "n": []}
    for number, name in enumerate(machine.calls):
        stumble = 10 if number in machine.stumbles else 1
        times[name].append(cost[name] * machine.drift**number * stumble)
    old, new = times["o"][1:], times["n"][1:]
    ratios = sorted(a / b for a, b in zip(old, new, strict=False))
    middle = ratios[len(ratios) // 2]
    best = min(old) / min(new)
    mistakes = {
        "mean-of-ratios": (
            sum(ratios) / len(ratios),
            "you take the mean of the ratios: four rounds with a stumble move it. Take the median.",
        ),
        "ratio-of-sums": (
            sum(old) / sum(new),
            "you divide total times (or means): one stumble weighs as much as ten rounds. Ratios, then the median.",
        ),
        "ratio-of-medians": (
            sorted(old)[len(old) // 2] / sorted(new)[len(new) // 2],
            "you take the median times first: drift and stumbles pick them from different rounds. Ratios first.",
        ),
        "best-of": (best, "the shortest times of all rounds: wanted is the median of the rounds' ratios."),
        "largest-ratio": (ratios[-1], "this is the largest of the ratios, which shows a stumble. Take the median."),
        "smallest-ratio": (ratios[0], "this is the smallest of the ratios, which shows a stumble. Take the median."),
    }
    wrong = {name: given for name, given in mistakes.items() if abs(given[0] / middle - 1) > 1e-6}
    expect_close(got, middle, mistakes=wrong, name="the speed-up on a machine that drifts and stumbles", rtol=1e-6)


# 13.4 ----------------------------------------------------------------------------------------------------------------


def _wrong_memory(parameters: int, saved: int, batch: int, parts: int) -> Mistakes:
    flying = saved * batch / parts
    return {
        "whole-batch": (
            20 * parameters + saved * batch,
            "the activations of a part are let go of before the next part begins: one part at a time is held.",
        ),
        "one-picture": (20 * parameters + saved, "activations are kept for each picture of a part, not for one."),
        "activations-only": (flying, "the weights, and what belongs to them, take memory too."),
        "activations-forgotten": (20 * parameters, "the activations of the pictures in flight are missing."),
        "weights-only": (
            4 * parameters + flying,
            "beside the weights there are their gradients, two moments and the average: five numbers a parameter.",
        ),
        "gradients-forgotten": (16 * parameters + flying, "four numbers a parameter: one of the five is missing."),
        "one-moment-and-no-average": (
            12 * parameters + flying,
            "three numbers a parameter: AdamW keeps *two* moments, and the average of the weights is one more.",
        ),
        "no-optimiser": (
            8 * parameters + flying,
            "weights and gradients: the two moments of AdamW and the average of the weights are missing.",
        ),
        "numbers-for-bytes": (5 * parameters + flying, "a float32 number takes 4 bytes."),
        "two-bytes": (
            10 * parameters + flying,
            "two bytes a number: under autocast, only products are in bfloat16; all of these stay float32.",
        ),
        "everything-divided": (
            (20 * parameters + saved * batch) / parts,
            "taking the batch in parts divides the activations only; weights and moments stay whole.",
        ),
        "times-parts": (
            20 * parameters + saved * batch * parts,
            "more parts means *less* memory: divide the batch by them.",
        ),
    }


@check("13.4", "Will it fit?")
def peak_memory(peak: Callable[[int, int, int, int], Any]) -> str:
    """Check ``peak(parameters, saved, batch, parts)``."""
    for case in ((8_438_412, 3_000_000, 128, 8), (1_000, 7_000, 6, 2), (484_753, 900_000, 64, 16)):
        parameters, saved, batch, parts = case
        expect_close(
            peak(*case),
            20 * parameters + saved * batch // parts,
            mistakes=_wrong_memory(*case),
            name=f"the memory for {parameters:,} parameters and {batch} pictures in {parts} parts",
            rtol=1e-6,
        )
    return "twenty bytes a parameter, and one part in flight."


# 13.5 ----------------------------------------------------------------------------------------------------------------


def _wrong_all_reduce(n: int, parameters: int, size: int, gigabits: float, latency: float) -> Mistakes:
    link, whole = gigabits * 1e9 / 8, parameters * size
    waits, ring = 2 * (n - 1) * latency, 2 * (n - 1) / n
    return {
        "bits-for-bytes": (
            ring * whole / (gigabits * 1e9) + waits,
            "a link of 1 Gbit/s carries an eighth of a gigabyte a second: a byte has eight bits.",
        ),
        "numbers-for-bytes": (
            ring * parameters / link + waits,
            "each number takes `size` bytes.",
        ),
        "master": (
            2 * (n - 1) * whole / link + waits,
            "this is everybody sending everything to a master. In the ring each message is a chunk, S/n.",
        ),
        "half-the-way": (
            ring / 2 * whole / link + waits / 2,
            "only one round: sums travel for n − 1 steps, and then the results for another n − 1.",
        ),
        "two-whole-gradients": (
            2 * whole / link + waits,
            "2S is the limit of many processes; with n it is 2(n − 1)/n · S.",
        ),
        "n-steps": (
            2 * whole / link + 2 * n * latency,
            "n − 1 steps in each round, not n: with one process, nothing is sent.",
        ),
        "one-latency": (ring * whole / link + latency, "every message waits: there are 2(n − 1) of them in a row."),
        "latency-of-n-messages": (
            ring * whole / link + (n - 1) * latency,
            "n − 1 messages in *each* of the two rounds.",
        ),
        "latency-forgotten": (ring * whole / link, "each of the 2(n − 1) messages has a latency, too."),
        "latency-divided": (
            ring * (whole / link + latency),
            "the latency does not shrink with the chunk: each message has all of it.",
        ),
    }


@check("13.5", "The bill of the network")
def all_reduce_seconds(seconds: Callable[[int, int, int, float, float], Any]) -> str:
    """Check ``seconds(n, parameters, size, gigabits, latency)``."""
    cases = ((8, 8_438_412, 4, 10.0, 5e-5), (3, 1_000_000, 2, 1.0, 1e-3), (64, 500_000, 4, 100.0, 2e-5))
    for case in cases:
        n, parameters, size, gigabits, latency = case
        right = 2 * (n - 1) * (parameters * size / n / (gigabits * 1e9 / 8) + latency)
        name = f"the time of {n} processes with {parameters:,} numbers at {gigabits:g} Gbit/s"
        expect_close(seconds(*case), right, mistakes=_wrong_all_reduce(*case), name=name, rtol=1e-6, atol=1e-12)
    alone = expect_scalar(seconds(1, 1000, 4, 10.0, 1e-3), "the time of one process")
    if abs(alone) > 1e-12:
        raise Mistake("one-process-talks", "one process has nobody to talk to: its all-reduce takes no time.")
    return "less than two gradients on each link, and a wait for every message."


# 13.6 ----------------------------------------------------------------------------------------------------------------


def _wrong_noise(norm_small: float, b_small: int, norm_large: float, b_large: int) -> Mistakes:
    def solve(small: float, large: float) -> tuple[float, float]:
        noise = (small - large) / (1 / b_small - 1 / b_large)
        return noise, (b_large * large - b_small * small) / (b_large - b_small)

    small, large = norm_small**2, norm_large**2
    noise, signal = solve(small, large)
    unsquared_noise, unsquared_signal = solve(norm_small, norm_large)
    return {
        "upside-down": (signal / noise, "this is signal over noise: the noise scale is tr Σ / |G|²."),
        "noise-only": (noise, "this is tr Σ: divide it by |G|²."),
        "signal-only": (signal, "this is |G|²: the noise scale is tr Σ divided by it."),
        "large-batch-as-truth": (
            noise / large,
            "you take the larger batch's |g|² for |G|². It holds noise as well: solve both equations.",
        ),
        "small-batch-as-truth": (
            noise / small,
            "you take the smaller batch's |g|² for |G|². It holds noise as well: solve both equations.",
        ),
        "not-squared": (
            unsquared_noise / unsquared_signal,
            "the equations are about *squared* lengths, |g|²; you put in the norms.",
        ),
        "root": (
            (noise / signal) ** 0.5,
            "this is the root of it: tr Σ / |G|² is a number of pictures already.",
        ),
        "wrong-sign": (-noise / signal, "the smaller batch is the noisier one: mind the order of the differences."),
        "sizes-swapped": (
            _swapped(small, b_small, large, b_large),
            "the sizes are swapped: the norm of the small batch belongs to 1/b_small.",
        ),
        "sizes-not-inverted": (
            (small - large) / (b_large - b_small) / signal,
            "the variance of a mean falls with *one over* the size: divide by 1/b_small − 1/b_large.",
        ),
    }


def _swapped(small: float, b_small: int, large: float, b_large: int) -> float:
    noise = (small - large) / (1 / b_large - 1 / b_small)
    signal = (b_small * large - b_large * small) / (b_small - b_large)
    return noise / signal


@check("13.6", "The noise scale")
def noise_scale(scale: Callable[[float, int, float, int], Any]) -> str:
    """Check ``scale(norm_small, b_small, norm_large, b_large)``."""
    for signal, noise, b_small, b_large in ((2.0, 300.0, 8, 64), (0.5, 4.0, 16, 128), (0.01, 90.0, 32, 4096)):
        small, large = (signal + noise / b_small) ** 0.5, (signal + noise / b_large) ** 0.5
        expect_close(
            scale(small, b_small, large, b_large),
            noise / signal,
            mistakes=_wrong_noise(small, b_small, large, b_large),
            name=f"the noise scale from batches of {b_small} and {b_large}",
            rtol=1e-5,
        )
    return "two noisy lengths, and out comes what neither of them shows."
