"""Checks of lesson 1: the embedding, its layouts, a shift as a rotation, the slowest hand, reading the clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..nn import sinusoidal_embedding
from ._core import Mistake, check, expect_close, expect_scalar, expect_tensor

__all__ = ["halves", "longest_period", "read_clock", "rotation", "to_interleaved"]

Variant = tuple[str, Tensor, str]
"""A typical mistake: its name, the value that it gives, advice. One name may come with several values."""


def _recognise(got: Tensor, variants: Sequence[Variant], atol: float) -> None:
    """Raise the first mistake whose value this is."""
    for name, wrong, advice in variants:
        if got.shape == wrong.shape and torch.allclose(got, wrong, rtol=0, atol=atol):
            raise Mistake(name, advice)


def _compare(value: Any, expected: Tensor, variants: Sequence[Variant], name: str, atol: float) -> None:
    """As ``expect_close``, but with mistakes that may repeat a name."""
    got = expect_tensor(value, None, name).detach().cpu().double()
    if got.shape != expected.shape or not torch.allclose(got, expected, rtol=0, atol=atol):
        _recognise(got, variants, atol)
    expect_close(got, expected, name=name, rtol=0, atol=atol)


# 1.1 -----------------------------------------------------------------------------------------------------------------


def _waves(t: Tensor, sines: Tensor, cosines: Tensor | None = None) -> Tensor:
    """All sines, then all cosines, of t times the frequencies."""
    return torch.cat([(t[:, None] * sines).sin(), (t[:, None] * (sines if cosines is None else cosines)).cos()], dim=1)


def _interleave(e: Tensor) -> Tensor:
    return e.reshape(len(e), 2, -1).transpose(1, 2).flatten(1)


def _both(name: str, e: Tensor, advice: str) -> list[Variant]:
    """A mistake in either layout."""
    return [(name, e, advice), (name, _interleave(e), advice)]


def _wrong_order(t: Tensor, d: int, max_period: float) -> list[Variant]:
    """The right numbers in the wrong places."""
    h = d // 2
    e = sinusoidal_embedding(t, d, max_period)
    interleaved = "this is the interleaved layout (sin, cos, sin, cos, …). Here all sines come first, then all cosines."
    cosines = "the numbers are right, but the cosines come first. Here the sines do: [sines, cosines]."
    transposed = f"this has shape {tuple(e.T.shape)}: put times along the rows and dimensions along the columns."
    return [
        ("interleaved", _interleave(e), interleaved),
        *_both("cosines-first", e.roll(h, 1), cosines),
        ("sines-only", torch.cat([e[:, :h], e[:, :h]], 1), "both halves are sines. The second half needs cosines."),
        ("cosines-only", torch.cat([e[:, h:], e[:, h:]], 1), "both halves are cosines. The first half needs sines."),
        ("transposed", e.T, transposed),
    ]


def _frequency_mistakes(d: int, max_period: float) -> list[Variant]:
    """Wrong frequencies, one for each pair."""
    h = d // 2
    k = torch.arange(h, dtype=torch.float64)
    right = max_period ** (-k / h)
    both = "k/h and 2k/d are the same number. You seem to mix them to 2k/h, and so the exponent is doubled."
    ones = "your k counts from 1. It counts from 0: the fastest hand has the frequency 1, the slowest k = h − 1."
    linear = "these frequencies are −ln(P)·k/h itself. It is an exponent: P^(−k/h) = exp(−ln(P)·k/h)."
    return [
        ("half-minus-one", max_period ** (-k / (h - 1)), "you divide k by h − 1. Some code does; here it is h = d/2."),
        ("divided-by-d", max_period ** (-k / d), "you divide k by d. The exponent is k/h with h = d/2, or 2k/d."),
        ("doubled-exponent", max_period ** (-2 * k / h), both),
        ("counts-from-one", max_period ** (-(k + 1) / h), ones),
        ("missing-exponential", -math.log(max_period) * k / h, linear),
        ("missing-division", max_period ** (-k), "the exponent is k/h, not k: you miss the division by h = d/2."),
        ("growing-frequencies", 1 / right, "your frequencies grow with k. The exponent needs a minus sign."),
        ("missing-logarithm", (-k / h).exp(), "exp(−k/h) forgets max_period: P^(−k/h) = exp(−ln(P)·k/h)."),
        ("wrong-logarithm", (-math.log10(max_period) * k / h).exp(), "exp wants the natural logarithm, not log10."),
        ("fixed-max-period", 10_000.0 ** (-k / h), "you use 10000 whatever `max_period` is."),
        ("full-turns", 2 * math.pi * right, "there is a factor 2π too much: the angle is ω_k·t, in radians."),
        ("degrees", right * math.pi / 180, "sin and cos take radians, and ω_k·t is in radians: nothing to convert."),
        ("scaled-time", right / 1000, "you divide by 1000. The fastest hand turns by one radian *per step*."),
    ]


def _wrong_frequencies(t: Tensor, d: int, max_period: float) -> list[Variant]:
    h = d // 2
    j = torch.arange(d, dtype=torch.float64)
    slip = (
        "the sine and the cosine of a pair need the *same* angle. The exponent counts pairs, k = 0 … d/2 − 1; "
        "you seem to have put in the number of the dimension."
    )
    variants = []
    for every in (max_period ** (-j / d), max_period ** (-2 * j / d)):
        variants += _both("dimension-index", _waves(t, every[0::2], every[1::2]), slip)
        variants += _both("dimension-index", _waves(t, every[:h], every[h:]), slip)
    for name, frequencies, advice in _frequency_mistakes(d, max_period):
        variants += _both(name, _waves(t, frequencies), advice)
    return variants


def _called(function: Callable[..., Any], t: Tensor, *arguments: Any) -> Any:
    """``function(t, …)``; whole numbers in a matrix product are a mistake with a name."""
    try:
        return function(t, *arguments)
    except RuntimeError as error:
        if "dtype" not in str(error) and "Long" not in str(error):
            raise
        advice = (
            f"torch says: {error}. The times are whole numbers (int64), and a matrix product (`@`, `matmul`, `einsum`) "
            "does not convert them; `*` does. Use `t[:, None] * frequencies`, or `t.float()` first."
        )
        raise Mistake("integer-times", advice) from None


@check("1.1", "Write the embedding")
def halves(embed: Callable[[Tensor, int, float], Any]) -> str:
    """Compare ``embed(t, d, max_period)`` with the embedding in the halves layout."""
    generator = torch.Generator().manual_seed(101)
    short = torch.tensor([0, 1, 2, 3, 5])
    long = torch.cat([short, torch.randint(6, 1000, (20,), generator=generator)])
    for t, d, max_period in ((short, 8, 300.0), (long, 8, 10_000.0), (long, 64, 1_000.0)):
        expected = sinusoidal_embedding(t.double(), d, max_period)
        variants = [f for make in (_wrong_order, _wrong_frequencies) for f in make(t.double(), d, max_period)]
        name = f"the embedding with d = {d}, max_period = {max_period:g}"
        # Angles near 1000 radians are off by some 1e-4 in float32, and that is fine.
        _compare(_called(embed, t, d, max_period), expected, variants, name, atol=1e-3)
    return "every dimension is right, for several d and max_period."


# 1.2 -----------------------------------------------------------------------------------------------------------------


@check("1.2", "From halves to interleaved")
def to_interleaved(convert: Callable[[Tensor], Any]) -> str:
    """Check that ``convert`` maps columns [s₀ s₁ … c₀ c₁ …] to [s₀ c₀ s₁ c₁ …]."""
    generator = torch.Generator().manual_seed(102)
    unchanged = "nothing moved. A reshape keeps the order in memory; the two halves must change places as *axes*."
    inverse = "this is the way back, from interleaved to halves: it reads (h, 2) where it should read (2, h)."
    mixed = "a row no longer holds its own numbers, only reordered: pair them along a new *last* axis (`dim=2`)."
    overwrote = (
        "you overwrote `e` while still reading from it: a slice is a view, and by the time the second half is copied, "
        "part of it is gone. Write into a new tensor (`torch.empty_like(e)`), or copy the halves first with `.clone()`."
    )
    for n, d in ((3, 12), (5, 6), (1, 8)):
        e = torch.randn(n, d, generator=generator, dtype=torch.float64)
        pairs = e.reshape(n, 2, d // 2)
        variants = [
            ("unchanged", e, unchanged),
            ("wrong-way", e.reshape(n, d // 2, 2).transpose(1, 2).flatten(1), inverse),
            ("cosines-first", _interleave(e.roll(d // 2, 1)), "each pair is turned round: the sine comes first."),
            ("not-flattened", pairs.transpose(1, 2), "flatten the pairs: the result is (B, d), not (B, d/2, 2)."),
        ]
        given = e.clone()
        got = expect_tensor(convert(given), None, "the converted embedding").detach().cpu().double()
        right = got.shape == e.shape and torch.allclose(got, _interleave(e), rtol=0, atol=1e-6)
        if not right and not torch.equal(given, e):
            raise Mistake("overwrote-input", overwrote)
        if got.shape == e.shape and not torch.allclose(got.sort(dim=1).values, e.sort(dim=1).values, atol=1e-6):
            raise Mistake("mixed-samples", mixed)
        _compare(got, _interleave(e), variants, "the converted embedding", atol=1e-6)
    return "each sine now stands beside its cosine, and no number was computed anew."


# 1.3 -----------------------------------------------------------------------------------------------------------------


def _blocks(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Diagonals of four blocks → the matrix [[A, B], [C, D]]."""
    return torch.cat([torch.cat([a.diag(), b.diag()], 1), torch.cat([c.diag(), d.diag()], 1)])


def _rotation(angle: Tensor) -> Tensor:
    return _blocks(angle.cos(), angle.sin(), -angle.sin(), angle.cos())


def _wrong_rotations(shift: float, angle: Tensor) -> list[Variant]:
    """The right angles in the wrong places, or with the wrong sign."""
    c, s, same = angle.cos(), angle.sin(), torch.full_like(angle, shift)
    right = _rotation(angle)
    order = torch.arange(2 * len(angle)).reshape(2, -1).T.flatten()  # halves → interleaved
    back = (
        "this turns the hands backwards, to t − shift. Check the signs of the sines; "
        "a matrix meant to stand on the right of a row is the transpose of the one asked for."
    )
    one = "all pairs turn by the same angle here. Pair k turns by ω_k·shift."
    pairs = "this is the matrix for the interleaved layout, with 2×2 blocks. Here it is four diagonal blocks."
    signs = "sin(a + b) = sin a cos b + cos a sin b has a plus, cos(a + b) = cos a cos b − sin a sin b a minus."
    exchanged = (
        "sine and cosine have changed places. The cosines of the angles stand on the diagonal: "
        "for shift 0 the matrix must be the identity."
    )
    half = "only the {} are in another order. To change the layout, permute rows *and* columns; here neither."
    return [
        ("backwards", right.T, back),
        ("one-angle", _rotation(same), one),
        ("one-angle", _rotation(-same), one),
        ("interleaved", right[order][:, order], pairs),
        ("interleaved", right.T[order][:, order], pairs + " And " + back),
        ("half-permuted", right[order], half.format("rows")),
        ("half-permuted", right[:, order], half.format("columns")),
        ("no-mixing", _blocks(c, 0 * s, 0 * s, c), "the sines are missing: a rotation mixes sine and cosine."),
        ("wrong-signs", _blocks(c, s, s, c), signs),
        ("wrong-signs", _blocks(c, -s, -s, c), signs),
        ("sine-cosine-swapped", _blocks(s, c, -c, s), exchanged),
        ("sine-cosine-swapped", _blocks(s, -c, c, s), exchanged),
        ("sine-cosine-swapped", _blocks(s, c, c, s), exchanged),
    ]


def _wrong_angles(shift: float, d: int, max_period: float) -> list[Variant]:
    """The right matrix of the wrong angles, turning either way, in either layout."""
    order = torch.arange(d).reshape(2, -1).T.flatten()
    right = max_period ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    forgotten = "`shift` has no effect here: pair k turns by ω_k·shift, not by ω_k."
    frequencies = [(name, shift * wrong, advice) for name, wrong, advice in _frequency_mistakes(d, max_period)]
    variants = []
    for name, angle, advice in (("shift-forgotten", right, forgotten), *frequencies):
        for matrix in (_rotation(angle), _rotation(-angle)):
            variants += [(name, matrix, advice), (name, matrix[order][:, order], advice)]
    return variants


@check("1.3", "A shift is a rotation")
def rotation(matrix: Callable[[float, int, float], Any]) -> str:
    """Check that ``matrix(shift, d, max_period)`` takes the embedding of t (halves) to that of t + shift."""
    for shift, d, max_period in ((0.7, 6, 50.0), (3.0, 8, 100.0), (-20.0, 12, 10_000.0)):
        angle = shift * max_period ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
        variants = _wrong_rotations(shift, angle) + _wrong_angles(shift, d, max_period)
        name = f"the matrix for shift = {shift:g}, d = {d}"
        _compare(matrix(shift, d, max_period), _rotation(angle), variants, name, atol=1e-4)
    return "one matrix moves every time by the same shift, forwards and backwards."


# 1.4 -----------------------------------------------------------------------------------------------------------------


@check("1.4", "The slowest hand")
def longest_period(max_period: float) -> str:
    """Check the P for which the slowest of 64 hands needs 1000 steps for one full turn."""
    steps, h, turn = 1000.0, 64, 2 * math.pi
    expected = (steps / turn) ** (h / (h - 1))
    last = "the slowest frequency is not 1/P but P^(−(h−1)/h): k stops at h − 1."
    radians = "a full turn is 2π radians, so that ω·1000 = 2π, not 1."
    times = "you multiply by 2π. From ω·1000 = 2π follows 1/ω = 1000/(2π)."
    upside_down = "the exponent is upside down: solve P^((h−1)/h) = 1000/(2π) for P."
    dimensions = "count pairs, not dimensions: d = 128 gives h = 64 hands."
    half = "with this P the slowest hand makes half a turn in 1000 steps: a full one is 2π radians, not π."
    degrees = "torch and the formula count angles in radians: a full turn is 2π, not 360."
    table = [
        ("half-turn", (2 * steps / turn) ** (h / (h - 1)), half),
        ("half-turn", 2 * steps / turn, half + " And " + last),
        ("degrees", (steps / 360) ** (h / (h - 1)), degrees),
        ("degrees", steps / 360, degrees + " And " + last),
        ("last-frequency", steps / turn, last),
        ("missing-two-pi", steps ** (h / (h - 1)), radians),
        ("missing-two-pi", steps, radians + " And " + last),
        ("times-two-pi", (steps * turn) ** (h / (h - 1)), times),
        ("times-two-pi", steps * turn, times + " And " + last),
        ("upside-down", (steps / turn) ** ((h - 1) / h), upside_down),
        ("dimensions-for-pairs", (steps / turn) ** (2 * h / (2 * h - 1)), dimensions),
    ]
    if max_period is None:
        raise Mistake("returned-none", "`my_max_period` is None. Give it a number: the P that you found.")
    variants = [(name, torch.tensor(value).double(), advice) for name, value, advice in table]
    got = torch.tensor(expect_scalar(max_period, "max_period")).double()
    if abs(got - expected) > 1:  # 172.49: rounded either way is fine
        _recognise(got, variants, atol=0.5)
        raise Mistake("wrong-value", "not yet. Write down ω of the slowest hand (k = 63), and ask that ω·1000 = 2π.")
    return "about 172. (With the usual 10000 the slowest hand would need more than 50000 steps for a turn.)"


# 1.5 -----------------------------------------------------------------------------------------------------------------


def _misreadings(t: Tensor, clean: Tensor, slowest: float) -> list[Variant]:
    """Readings of exact embeddings that fail, each also rounded or cut off."""
    wrapped = torch.remainder(t + math.pi, 2 * math.pi) - math.pi
    fastest = "that is the fastest hand alone, which starts again after 2π, about 6 steps. Who counts the turns?"
    radians = "that is the angle of a hand in radians: divide it by the hand's frequency to get steps."
    swapped = "`atan2` takes the sine first, then the cosine."
    table = sinusoidal_embedding(torch.arange(1000), 128)
    layout = "your table has the interleaved layout, but `e` has halves: all sines first, then all cosines."
    cosines = "your table has the cosines first, but in `e` the sines come first."
    variants = [
        ("interleaved", (clean @ _interleave(table).T).argmax(dim=1).double(), layout),
        ("cosines-first", (clean @ table.roll(64, 1).T).argmax(dim=1).double(), cosines),
    ]
    for name, reading, advice in (
        ("fastest-hand", wrapped, fastest),
        ("fastest-hand", torch.remainder(wrapped, 2 * math.pi), fastest),
        ("angle-not-time", t * slowest, radians),
        ("swapped-arguments", math.pi / 2 / slowest - t, swapped),
    ):
        variants += [(name, r, advice) for r in (reading, reading.round(), reading.trunc(), reading.floor())]
    return variants


def _whole_times(read: Callable[[Tensor], Any], got: Tensor, t: Tensor, where: str) -> None:
    """Raise if the readings are right but for rounding, or for the place where counting starts."""
    error = got - t
    if torch.equal(got.round(), t):
        advice = f"the nearest whole numbers are right{where}, but times are whole numbers: round what you return."
        raise Mistake("not-rounded", advice)
    # Between two whole times, a little after t: who cuts off says t, and who counts from 1 still says t − 1.
    later = expect_tensor(read(sinusoidal_embedding(t + 0.3, 128).float()), (len(t),), "what you read").cpu().double()
    cuts = bool(((error == 0) | (error == -1)).all()) and (later == t).double().mean() > 0.9
    for sign, word, ending in ((1, "high", 999), (-1, "low", 0)):
        if (error == sign)[t != ending].all() and not cuts:  # a shifted table has no row for this end
            advice = f"your readings are one too {word}{where}. Times count from 0: does your table begin with t = 0?"
            raise Mistake("off-by-one", advice)
    if cuts:
        raise Mistake("truncated", f"almost: readings{where} are one too low. Round; do not cut off.")


def _one_hand(got: Tensor, e: Tensor, omega: Tensor) -> int | None:
    """The slow hand from which alone these times seem to be read, if there is one."""
    for k in range(len(omega)):
        angle = torch.atan2(e[:, k], e[:, k + len(omega)]).double()
        for turned in (angle, torch.remainder(angle, 2 * math.pi)):
            reading = (turned / omega[k]).clamp(0, 999)
            if 1000 * omega[k] < 2 * math.pi and (got.clamp(0, 999) - reading).abs().max() <= 1:
                return k
    return None


def _is_linear(read: Callable[[Tensor], Any], e: Tensor, noise: Tensor) -> bool:
    """Whether opposite errors of ``e`` move the readings by opposite amounts, however large they are.

    Readings outside 0 … 999 may have been cut off: with errors so large that many are, smaller ones tell.
    """
    for scale in (10, 1, 0.3):
        try:
            moved = [torch.as_tensor(read(e + by * scale * noise)).double() for by in (1, -1, 0)]
        except Exception:  # whatever it is, it is no weighted sum
            return False
        there, back, middle = moved
        inside = torch.ones(len(middle), dtype=torch.bool)
        if all(bool(((m >= 0) & (m <= 999)).all()) for m in moved):
            inside = torch.stack([(m > 0) & (m < 999) for m in moved]).all(dim=0)
        bent, far = (there + back - 2 * middle).abs()[inside], (there - middle).abs()[inside]
        if len(far) >= 10 and bool(far.max() > 50):
            return bool(bent.max() <= 2)
    return False


def _lost_turns(error: Tensor, omega: Tensor) -> int | None:
    """The hand by whose whole turns these readings are off, if there is one."""
    for k, turn in enumerate((2 * math.pi / omega).tolist()):
        rest = (error - (error / turn).round() * turn).abs()
        if error.abs().max() > 0.75 * turn and rest.max() <= 0.6 + 0.013 * turn:
            return k
    return None


def _noisy_mistake(read: Callable[[Tensor], Any], got: Tensor, t: Tensor, clean: Tensor, noisy: Tensor) -> Mistake:
    """What goes wrong with noise where exact embeddings are read well."""
    omega = 10_000 ** (-torch.arange(64, dtype=torch.float64) / 64)
    error = got - t
    start = (
        f"exact embeddings are read well, but noise of size 0.02 throws you off by up to {error.abs().max():.0f} steps"
    )
    vote = "Let all hands vote: compare with the embeddings of all 1000 times, and take the nearest."
    if (got == got[0]).all():
        equal = "do you look for an embedding that is *equal*? With noise none is; take the nearest."
        return Mistake("exact-match", f"{start}, all to the same time: {equal}")
    if (k := _one_hand(got, noisy, omega)) is not None:
        return Mistake("one-hand", f"{start}: a slow hand alone (k = {k}) is too coarse. {vote}")
    if _is_linear(read, clean, noisy - clean):
        weights = "a fixed weighted sum of all numbers must give slow hands huge weights, and their noise grows alike"
        return Mistake("linear-readout", f"{start}: {weights}. {vote}")
    if (k := _lost_turns(error, omega)) is not None:
        turns = (
            f"you are off by whole turns of hand k = {k}, since the slow hand that counts them is too coarse for that"
        )
        return Mistake("lost-turns", f"{start}: {turns}. Use the hands in between, too. {vote}")
    return Mistake("noise-sensitive", f"{start}. {vote}")


@check("1.5", "Read the clock")
def read_clock(read: Callable[[Tensor], Any]) -> str:
    """Check that ``read`` gives t, exactly, from its embedding (halves, d = 128, P = 10000), with noise too."""
    generator = torch.Generator().manual_seed(105)
    t = torch.cat([torch.tensor([0, 2, 7, 500, 999]), torch.randint(0, 1000, (95,), generator=generator)])
    clean = sinusoidal_embedding(t, 128)
    noisy = clean + 0.02 * torch.randn(clean.shape, generator=generator)
    t = t.double()

    got = expect_tensor(read(clean.clone()), (len(t),), "what you read").detach().cpu().double()
    if not torch.equal(got, t):
        _recognise(got, _misreadings(t, clean, 10_000 ** (-63 / 64)), atol=0.1)
        _whole_times(read, got, t, "")
        raise Mistake("wrong-value", f"on exact embeddings you are off by up to {(got - t).abs().max():.3g} steps.")

    try:
        got = expect_tensor(read(noisy.clone()), (len(t),), "what you read").detach().cpu().double()
    except Exception as error:
        advice = (
            f"exact embeddings are read well, but with noise of size 0.02 this happens: {error} "
            "Do you look for an embedding that is *equal*? With noise none is; take the nearest."
        )
        raise Mistake("exact-match", advice) from None
    if not torch.equal(got, t):
        _whole_times(read, got, t, " of noisy embeddings")
        raise _noisy_mistake(read, got, t, clean, noisy)
    return "every time is read, through the noise too: slow hands find the neighbourhood, fast ones the step."
