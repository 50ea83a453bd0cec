"""Right answers pass, in several styles; each typical mistake is called by its name."""

import math
import statistics

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.checks import performance

# 13.1 ----------------------------------------------------------------------------------------------------------------


def attention_closed(batch, height, width, channels, heads):
    n = height * width
    return batch * (8 * n * channels**2 + 4 * n * n * channels)


def attention_counted(batch, height, width, channels, heads):
    """By PyTorch's counter, on tensors that hold nothing."""
    n = height * width
    x = torch.empty(batch, n, channels, device="meta")
    w = torch.empty(channels, channels, device="meta")
    with FlopCounterMode(display=False) as counter:
        q, k, v = (
            (x @ w).view(batch, n, heads, channels // heads).permute(0, 2, 1, 3).reshape(-1, n, channels // heads)
            for _ in range(3)
        )
        mixed = torch.bmm(torch.bmm(q, k.transpose(1, 2)), v)
        _ = mixed.reshape(batch, n, channels) @ w
    return torch.tensor(float(counter.get_total_flops()), dtype=torch.float64)


def attention_wrong(projections=4.0, products=2.0, per_picture=True, positions=lambda h, w: h * w, power=2, heads=0):
    def flops(batch, height, width, channels, n_heads):
        n = positions(height, width)
        many = batch if per_picture else 1
        return many * (2 * projections * n * channels**2 + 2 * products * n**power * channels * n_heads**heads)

    return flops


WRONG_1 = {
    "multiply-adds": attention_wrong(2.0, 1.0),
    "batch-forgotten": attention_wrong(per_picture=False),
    "no-scores": attention_wrong(products=0),
    "projections-forgotten": attention_wrong(projections=0),
    "values-forgotten": attention_wrong(products=1),
    "last-projection-forgotten": attention_wrong(projections=3),
    "one-projection": attention_wrong(projections=1),
    "heads-multiplied": attention_wrong(heads=1),
    "heads-divided": attention_wrong(heads=-1),
    "across-the-batch": lambda b, h, w, c, heads: attention_closed(1, b * h, w, c, heads),
    "side-for-positions": attention_wrong(positions=lambda h, w: h),
    "not-quadratic": attention_wrong(power=1),
}

# 13.2 ----------------------------------------------------------------------------------------------------------------


def roof_rate(m, k, n, size, peak, bandwidth):
    return min(peak, 2 * m * k * n / (size * (m * k + k * n + m * n)) * bandwidth)


def roof_time(m, k, n, size, peak, bandwidth):
    """From the longer of the two times, in numpy; the intensity by harmonic means of the sides."""
    intensity = 2 / (size * np.sum(1 / np.array([m, k, n], dtype=float)))
    return np.float64(1) / np.maximum(1 / peak, 1 / (intensity * bandwidth))


def roof_wrong(combine=min, two=2, moved=lambda m, k, n: m * k + k * n + m * n, bytes_each=lambda size: size):
    def rate(m, k, n, size, peak, bandwidth):
        return combine(peak, two * m * k * n / (bytes_each(size) * moved(m, k, n)) * bandwidth)

    return rate


WRONG_2 = {
    "larger-of-the-two": roof_wrong(max),
    "peak-only": roof_wrong(lambda peak, slope: peak),
    "slope-only": roof_wrong(lambda peak, slope: slope),
    "multiply-adds": roof_wrong(two=1),
    "numbers-for-bytes": roof_wrong(bytes_each=lambda size: 1),
    "result-forgotten": roof_wrong(moved=lambda m, k, n: m * k + k * n),
    "result-only": roof_wrong(moved=lambda m, k, n: m * n),
    "intensity-upside-down": lambda m, k, n, size, peak, b: min(peak, b / (roof_rate(m, k, n, size, math.inf, 1))),
    "intensity": lambda m, k, n, size, peak, bandwidth: roof_rate(m, k, n, size, math.inf, 1),
    "times-added": roof_wrong(lambda peak, slope: 1 / (1 / peak + 1 / slope)),
    "seconds": lambda m, k, n, size, peak, bandwidth: 2 * m * k * n / roof_rate(m, k, n, size, peak, bandwidth),
}

# 13.3 ----------------------------------------------------------------------------------------------------------------


def race_in_turns(old, new, clock, rounds):
    old()
    new()
    ratios = []
    for _ in range(rounds):
        begin = clock()
        old()
        middle = clock()
        new()
        ratios.append((middle - begin) / (clock() - middle))
    return statistics.median(ratios)


def race_numpy(old, new, clock, rounds):
    """Times in a table, two rounds to warm up, the median by torch."""

    def seconds(task):
        begin = clock()
        task()
        return clock() - begin

    table = np.array([[seconds(old), seconds(new)] for _ in range(rounds + 2)])[2:]
    return torch.from_numpy(table[:, 0] / table[:, 1]).median()


def race_wrong(summary, warm_up=1, timed=None, turns=True, order="on"):
    """A race whose summary of the times of old and new is wrong, or its order."""

    def race(old, new, clock, rounds):
        def seconds(task):
            begin = clock()
            task()
            return clock() - begin

        tasks = {"o": old, "n": new}
        for _ in range(warm_up):
            for name in order:
                tasks[name]()
        taken = {"o": [], "n": []}
        count = rounds if timed is None else timed
        names = order * count if turns else order[0] * count + order[1] * count
        for name in names:
            taken[name].append(seconds(tasks[name]))
        return summary(taken["o"], taken["n"])

    return race


def ratios(old, new):
    return [a / b for a, b in zip(old, new, strict=True)]


def proper(old, new):
    return statistics.median(ratios(old, new))


def one_missing(old, new, clock, rounds):
    return race_in_turns(old, old, clock, rounds)


WRONG_3 = {
    "nothing-run": lambda old, new, clock, rounds: 1.5,
    "one-missing": one_missing,
    "upside-down": race_wrong(lambda old, new: proper(new, old)),
    "difference": race_wrong(lambda old, new: statistics.median(a - b for a, b in zip(old, new, strict=True))),
    "percent": race_wrong(lambda old, new: 100 * (proper(old, new) - 1)),
    "gain": race_wrong(lambda old, new: proper(old, new) - 1),
    "no-warm-up": race_wrong(proper, warm_up=0),
    "one-after-the-other": race_wrong(proper, turns=False),
    "too-few-rounds": race_wrong(proper, timed=1),
    "new-first": race_wrong(proper, order="no"),
    "warm-up-counted": lambda old, new, clock, n: race_wrong(proper, warm_up=0, timed=n + 1)(old, new, clock, n),
    "mean-of-ratios": race_wrong(lambda old, new: statistics.fmean(ratios(old, new))),
    "ratio-of-sums": race_wrong(lambda old, new: sum(old) / sum(new)),
    "ratio-of-medians": race_wrong(lambda old, new: statistics.median(old) / statistics.median(new)),
    "best-of": race_wrong(lambda old, new: min(old) / min(new)),
    "largest-ratio": race_wrong(lambda old, new: max(ratios(old, new))),
    "smallest-ratio": race_wrong(lambda old, new: min(ratios(old, new))),
}

# 13.4 ----------------------------------------------------------------------------------------------------------------


def memory_closed(parameters, saved, batch, parts):
    return 20 * parameters + saved * batch // parts


def memory_listed(parameters, saved, batch, parts):
    """Item by item, in float64."""
    bytes_each = torch.finfo(torch.float32).bits // 8
    items = dict.fromkeys(("weight", "gradient", "first moment", "second moment", "average"), bytes_each * parameters)
    return torch.tensor([*items.values(), saved * (batch / parts)], dtype=torch.float64).sum()


def memory_wrong(each=20.0, activations=lambda saved, batch, parts: saved * batch / parts):
    return lambda parameters, saved, batch, parts: each * parameters + activations(saved, batch, parts)


WRONG_4 = {
    "whole-batch": memory_wrong(activations=lambda s, b, p: s * b),
    "one-picture": memory_wrong(activations=lambda s, b, p: s),
    "activations-only": memory_wrong(0),
    "activations-forgotten": memory_wrong(activations=lambda s, b, p: 0),
    "weights-only": memory_wrong(4),
    "gradients-forgotten": memory_wrong(16),
    "one-moment-and-no-average": memory_wrong(12),
    "no-optimiser": memory_wrong(8),
    "numbers-for-bytes": memory_wrong(5),
    "two-bytes": memory_wrong(10),
    "everything-divided": lambda n, s, b, p: (20 * n + s * b) / p,
    "times-parts": memory_wrong(activations=lambda s, b, p: s * b * p),
}

# 13.5 ----------------------------------------------------------------------------------------------------------------


def bill_closed(n, parameters, size, gigabits, latency):
    return 2 * (n - 1) * (parameters * size / n / (gigabits * 1e9 / 8) + latency)


def bill_walked(n, parameters, size, gigabits, latency):
    """Message by message, in bits."""
    total = 0.0
    for _ in ("scatter", "gather"):
        for _ in range(1, n):
            total += latency + 8 * size * parameters / n / (gigabits * 1e9)
    return np.float64(total)


def bill_wrong(steps=lambda n: 2 * (n - 1), chunk=lambda n: 1 / n, bits=8, waits=None, sized=True):
    def seconds(n, parameters, size, gigabits, latency):
        moved = steps(n) * chunk(n) * parameters * (size if sized else 1) * bits / (gigabits * 1e9)
        return moved + (steps(n) if waits is None else waits(n)) * latency

    return seconds


WRONG_5 = {
    "bits-for-bytes": bill_wrong(bits=1),
    "numbers-for-bytes": bill_wrong(sized=False),
    "master": bill_wrong(chunk=lambda n: 1),
    "half-the-way": bill_wrong(steps=lambda n: n - 1),
    "two-whole-gradients": bill_wrong(chunk=lambda n: 1 / (n - 1) if n > 1 else 0),
    "n-steps": bill_wrong(steps=lambda n: 2 * n),
    "one-latency": bill_wrong(waits=lambda n: 1),
    "latency-of-n-messages": bill_wrong(waits=lambda n: n - 1),
    "latency-forgotten": bill_wrong(waits=lambda n: 0),
    "latency-divided": bill_wrong(waits=lambda n: 2 * (n - 1) / n),
    "one-process-talks": lambda n, *rest: bill_closed(n, *rest) if n > 1 else 1e-3,
}

# 13.6 ----------------------------------------------------------------------------------------------------------------


def noise_solved(norm_small, b_small, norm_large, b_large):
    small, large = norm_small**2, norm_large**2
    noise = (small - large) / (1 / b_small - 1 / b_large)
    return noise / ((b_large * large - b_small * small) / (b_large - b_small))


def noise_linear(norm_small, b_small, norm_large, b_large):
    """The two equations as a linear system."""
    matrix = np.array([[1.0, 1.0 / b_small], [1.0, 1.0 / b_large]])
    signal, noise = np.linalg.solve(matrix, np.array([norm_small**2, norm_large**2]))
    return noise / signal


def noise_wrong(answer, power=2):
    def scale(norm_small, b_small, norm_large, b_large):
        small, large = norm_small**power, norm_large**power
        noise = (small - large) / (1 / b_small - 1 / b_large)
        signal = (b_large * large - b_small * small) / (b_large - b_small)
        return answer(noise, signal, small, large, b_small, b_large)

    return scale


WRONG_6 = {
    "upside-down": noise_wrong(lambda noise, signal, *rest: signal / noise),
    "noise-only": noise_wrong(lambda noise, signal, *rest: noise),
    "signal-only": noise_wrong(lambda noise, signal, *rest: signal),
    "large-batch-as-truth": noise_wrong(lambda noise, signal, small, large, *sizes: noise / large),
    "small-batch-as-truth": noise_wrong(lambda noise, signal, small, large, *sizes: noise / small),
    "not-squared": noise_wrong(lambda noise, signal, *rest: noise / signal, power=1),
    "root": noise_wrong(lambda noise, signal, *rest: math.sqrt(noise / signal)),
    "wrong-sign": noise_wrong(lambda noise, signal, *rest: -noise / signal),
    "sizes-swapped": lambda small, b_small, large, b_large: noise_solved(small, b_large, large, b_small),
    "sizes-not-inverted": noise_wrong(lambda n, signal, small, large, b, c: (small - large) / (c - b) / signal),
}

RIGHT = {
    "13.1": [attention_closed, attention_counted],
    "13.2": [roof_rate, roof_time],
    "13.3": [race_in_turns, race_numpy],
    "13.4": [memory_closed, memory_listed],
    "13.5": [bill_closed, bill_walked],
    "13.6": [noise_solved, noise_linear],
}
WRONG = {"13.1": WRONG_1, "13.2": WRONG_2, "13.3": WRONG_3, "13.4": WRONG_4, "13.5": WRONG_5, "13.6": WRONG_6}
CHECKS = {
    "13.1": performance.attention_flops,
    "13.2": performance.roof,
    "13.3": performance.speed_up,
    "13.4": performance.peak_memory,
    "13.5": performance.all_reduce_seconds,
    "13.6": performance.noise_scale,
}


@pytest.mark.parametrize("number", CHECKS)
def test_unknown_mistakes_and_nothing_at_all(number):
    assert CHECKS[number](lambda *args: None).mistake == "returned-none"
    assert CHECKS[number](lambda *args: torch.zeros(7, 5)).mistake == "wrong-shape"
    assert CHECKS[number](lambda *args: ...).status == "open"
