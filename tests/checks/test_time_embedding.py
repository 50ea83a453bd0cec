"""Right answers pass, in several styles; each typical mistake is called by its name."""

import math

import numpy as np
import pytest
import torch

from helpers.checks import time_embedding

# 1.1 -----------------------------------------------------------------------------------------------------------------


def embed_vectorised(t, d, max_period):
    omega = torch.exp(-math.log(max_period) * torch.arange(d // 2) / (d // 2))
    angles = t[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def embed_numpy(t, d, max_period):
    out = np.zeros((len(t), d))
    for k in range(d // 2):
        angle = np.asarray(t) / max_period ** (2 * k / d)
        out[:, k], out[:, d // 2 + k] = np.sin(angle), np.cos(angle)
    return out


def embed_list(t, d, max_period):
    """One phase-shifted sine for every dimension, plain Python."""
    h = d // 2
    return [
        [math.sin(time * max_period ** (-(j % h) / h) + (j // h) * math.pi / 2) for j in range(d)]
        for time in t.tolist()
    ]


def embed_wrong(frequencies, *, cosines=None, order="halves"):
    """Frequencies as a function of k, h and P; the rest as it should be, unless said."""

    def embed(t, d, max_period):
        h = d // 2
        k = torch.arange(h)
        sin = torch.sin(t[:, None] * frequencies(k, h, max_period))
        cos = torch.cos(t[:, None] * (cosines or frequencies)(k, h, max_period))
        if order == "interleaved":
            return torch.stack([sin, cos], dim=2).flatten(1)
        return torch.cat([cos, sin] if order == "cosines-first" else [sin, cos], dim=1)

    return embed


def waves_of(angles):
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def right_frequencies(k, h, p):
    return p ** (-k / h)


def dimension_index_interleaved(t, d, max_period):
    j = torch.arange(d)
    angles = t[:, None] / max_period ** (j / d)
    return torch.where(j % 2 == 0, angles.sin(), angles.cos())


def dimension_index_powers(t, d, max_period):
    """What the assignment's list for d = 8 has: sin 1, cos 0.1, sin 0.01, …"""
    j = torch.arange(d)
    angles = t[:, None] / max_period ** (2 * j / d)
    return torch.where(j % 2 == 0, angles.sin(), angles.cos())


WRONG_1 = {
    "interleaved": embed_wrong(right_frequencies, order="interleaved"),
    "cosines-first": embed_wrong(right_frequencies, order="cosines-first"),
    "sines-only": lambda t, d, p: torch.cat([embed_vectorised(t, d, p)[:, : d // 2]] * 2, dim=1),
    "cosines-only": lambda t, d, p: torch.cat([embed_vectorised(t, d, p)[:, d // 2 :]] * 2, dim=1),
    "transposed": lambda t, d, p: embed_vectorised(t, d, p).T,
    "dimension-index": dimension_index_interleaved,
    "half-minus-one": embed_wrong(lambda k, h, p: p ** (-k / (h - 1))),
    "divided-by-d": embed_wrong(lambda k, h, p: p ** (-k / (2 * h))),
    "doubled-exponent": embed_wrong(lambda k, h, p: p ** (-2 * k / h)),
    "counts-from-one": embed_wrong(lambda k, h, p: p ** (-torch.arange(1, h + 1) / h)),
    "missing-exponential": embed_wrong(lambda k, h, p: -math.log(p) * k / h),
    "missing-division": embed_wrong(lambda k, h, p: torch.exp(-math.log(p) * k)),
    "growing-frequencies": embed_wrong(lambda k, h, p: torch.exp(math.log(p) * k / h)),
    "missing-logarithm": embed_wrong(lambda k, h, p: torch.exp(-k / h)),
    "wrong-logarithm": embed_wrong(lambda k, h, p: torch.exp(-math.log10(p) * k / h)),
    "fixed-max-period": embed_wrong(lambda k, h, p: 10_000 ** (-k / h)),
    "full-turns": embed_wrong(lambda k, h, p: 2 * math.pi * p ** (-k / h)),
    "degrees": lambda t, d, p: embed_vectorised(torch.deg2rad(t.float()), d, p),
    "scaled-time": lambda t, d, p: embed_vectorised(t / 1000, d, p),
    "integer-times": lambda t, d, p: waves_of(t[:, None] @ right_frequencies(torch.arange(d // 2), d // 2, p)[None]),
    "returned-none": lambda t, d, p: None,
    "wrong-shape": lambda t, d, p: embed_vectorised(t, d, p)[:, :-1],
}
ALSO_DIMENSION_INDEX = [
    dimension_index_powers,
    embed_wrong(lambda k, h, p: p ** (-k / h), cosines=lambda k, h, p: p ** (-(k + h) / h)),
    embed_wrong(lambda k, h, p: p ** (-2 * k / (2 * h)), cosines=lambda k, h, p: p ** (-(2 * k + 1) / (2 * h))),
]

# 1.2 -----------------------------------------------------------------------------------------------------------------


def convert_stack(e):
    sin, cos = e.chunk(2, dim=1)
    return torch.stack([sin, cos], dim=2).flatten(1)


def convert_slices(e):
    out = torch.empty_like(e)
    out[:, 0::2], out[:, 1::2] = e[:, : e.shape[1] // 2], e[:, e.shape[1] // 2 :]
    return out


def convert_index(e):
    h = e.shape[1] // 2
    return e.numpy()[:, [i for k in range(h) for i in (k, k + h)]]


def convert_in_place_with_care(e):
    """Writes into its argument, which is allowed as long as the result is right."""
    sin, cos = (half.clone() for half in e.chunk(2, dim=1))
    e[:, 0::2], e[:, 1::2] = sin, cos
    return e


def convert_overwriting(e):
    h = e.shape[1] // 2
    e[:, ::2] = e[:, :h]
    e[:, 1::2] = e[:, h:]
    return e


WRONG_2 = {
    "overwrote-input": convert_overwriting,
    "unchanged": lambda e: e.reshape(len(e), 2, -1).flatten(1),
    "wrong-way": lambda e: torch.cat([e[:, 0::2], e[:, 1::2]], dim=1),
    "cosines-first": lambda e: torch.stack(e.chunk(2, dim=1)[::-1], dim=2).flatten(1),
    "mixed-samples": lambda e: torch.stack(e.chunk(2, dim=1)).reshape(e.shape),
    "not-flattened": lambda e: torch.stack(e.chunk(2, dim=1), dim=2),
}

# 1.3 -----------------------------------------------------------------------------------------------------------------


def rotation_diagonals(shift, d, max_period):
    angle = shift * max_period ** (-torch.arange(d // 2) / (d // 2))
    c, s = torch.diag(angle.cos()), torch.diag(angle.sin())
    return torch.cat([torch.cat([c, s], dim=1), torch.cat([-s, c], dim=1)], dim=0)


def rotation_entries(shift, d, max_period):
    h = d // 2
    matrix = np.zeros((d, d))
    for k in range(h):
        angle = shift / max_period ** (k / h)
        matrix[k, k] = matrix[h + k, h + k] = math.cos(angle)
        matrix[k, h + k], matrix[h + k, k] = math.sin(angle), -math.sin(angle)
    return matrix


def rotation_fitted(shift, d, max_period):
    """Found instead of derived: least squares over many times."""
    t = torch.linspace(-5_000, 5_000, 400, dtype=torch.float64)
    before, after = (np.asarray(embed_numpy(times, d, max_period)) for times in (t, t + shift))
    return np.linalg.lstsq(before, after, rcond=None)[0].T


def rotation_interleaved(shift, d, max_period):
    angles = shift * max_period ** (-2 * torch.arange(d // 2) / d)
    return torch.block_diag(*[torch.tensor([[a.cos(), a.sin()], [-a.sin(), a.cos()]]) for a in angles])


def rotation_signs(shift, d, max_period, signs):
    h = d // 2
    matrix = rotation_diagonals(shift, d, max_period)
    matrix[:h, h:], matrix[h:, :h] = signs[0] * matrix[:h, h:].abs(), signs[1] * matrix[h:, :h].abs()
    return matrix


def rotation_of(angles, *, swapped=False, layout="halves"):
    """The matrix of the angles that ``angles(k, h, shift, max_period)`` gives."""

    def rotation(shift, d, max_period):
        h = d // 2
        angle = angles(torch.arange(h), h, shift, max_period)
        c, s = torch.diag(angle.cos()), torch.diag(angle.sin())
        if swapped:
            c, s = s, c
        matrix = torch.cat([torch.cat([c, s], dim=1), torch.cat([-s, c], dim=1)])
        order = torch.arange(d).reshape(2, h).T.flatten()
        return {"halves": matrix, "rows": matrix[order], "columns": matrix[:, order]}[layout]

    return rotation


def right_angles(k, h, s, p):
    return s * p ** (-k / h)


WRONG_3 = {
    "shift-forgotten": rotation_of(lambda k, h, s, p: p ** (-k / h)),
    "fixed-max-period": rotation_of(lambda k, h, s, p: s * 10_000 ** (-k / h)),
    "divided-by-d": rotation_of(lambda k, h, s, p: s * p ** (-k / (2 * h))),
    "doubled-exponent": rotation_of(lambda k, h, s, p: s * p ** (-2 * k / h)),
    "counts-from-one": rotation_of(lambda k, h, s, p: s * p ** (-(k + 1) / h)),
    "missing-exponential": rotation_of(lambda k, h, s, p: s * math.log(p) * k / h),
    "half-minus-one": rotation_of(lambda k, h, s, p: s * p ** (-k / (h - 1))),
    "growing-frequencies": rotation_of(lambda k, h, s, p: s * p ** (k / h)),
    "missing-division": rotation_of(lambda k, h, s, p: s * float(p) ** (-k)),
    "missing-logarithm": rotation_of(lambda k, h, s, p: s * torch.exp(-k / h)),
    "sine-cosine-swapped": rotation_of(right_angles, swapped=True),
    "half-permuted": rotation_of(right_angles, layout="rows"),
    "backwards": lambda s, d, p: rotation_diagonals(-s, d, p),
    "one-angle": lambda s, d, p: rotation_diagonals(s, d, 1.0),
    "interleaved": rotation_interleaved,
    "no-mixing": lambda s, d, p: rotation_diagonals(s, d, p) * torch.eye(d),
    "wrong-signs": lambda s, d, p: rotation_signs(s, d, p, (1, 1)),
}

# 1.4 -----------------------------------------------------------------------------------------------------------------

PERIOD = math.exp(math.log(1000 / (2 * math.pi)) / (1 - 1 / 64))
WRONG_4 = {
    "returned-none": None,
    "half-turn": (1000 / math.pi) ** (64 / 63),
    "degrees": (1000 / 360) ** (64 / 63),
    "last-frequency": 1000 / (2 * math.pi),
    "missing-two-pi": 1000 ** (64 / 63),
    "times-two-pi": (2000 * math.pi) ** (64 / 63),
    "upside-down": (1000 / (2 * math.pi)) ** (63 / 64),
    "dimensions-for-pairs": (1000 / (2 * math.pi)) ** (128 / 127),
}

# 1.5 -----------------------------------------------------------------------------------------------------------------

OMEGA = 10_000 ** (-torch.arange(64) / 64)


def read_table(e):
    table = embed_vectorised(torch.arange(1000), 128, 10_000)
    return (e @ table.T).argmax(dim=1)


def read_nearest(e):
    table = embed_numpy(np.arange(1000), 128, 10_000)
    return [int(np.argmin(((table - row) ** 2).sum(1))) for row in e.numpy()]


def read_coarse_to_fine(e):
    """Each faster hand corrects what the slower ones gave."""
    angles = torch.atan2(e[:, :64], e[:, 64:]).double()
    t = angles[:, -1] / OMEGA[-1]
    for k in range(62, -1, -1):
        error = torch.remainder(angles[:, k] - OMEGA[k] * t + math.pi, 2 * math.pi) - math.pi
        t = t + error / OMEGA[k]
    return t.round().long()


def times_of_table(first=0, order=None):
    """Reads with a table that begins with another time, or whose dimensions are in another order."""

    def read(e):
        table = embed_vectorised(torch.arange(first, first + 1000), 128, 10_000)
        return (e @ (table if order is None else table[:, order]).T).argmax(dim=1)

    return read


def read_equal(e):
    table = embed_vectorised(torch.arange(1000), 128, 10_000)
    return torch.isclose(e[:, None], table, atol=1e-4).all(dim=2).int().argmax(dim=1)


def read_equal_in_a_loop(e):
    table = embed_vectorised(torch.arange(1000), 128, 10_000)
    return [torch.isclose(row, table, atol=1e-4).all(dim=1).nonzero()[0].item() for row in e]


def read_least_squares(e):
    table = torch.tensor(embed_numpy(np.arange(1000), 128, 10_000))
    weights = torch.linalg.lstsq(table, torch.arange(1000.0).double()[:, None], driver="gelsd").solution
    return (e.double() @ weights)[:, 0].round()


def read_vernier(e):
    """The slowest hand counts the turns of the fastest."""
    slow = torch.atan2(e[:, 63], e[:, 127]).double() / OMEGA[63]
    fast = torch.atan2(e[:, 0], e[:, 64]).double()
    return (fast + 2 * math.pi * ((slow - fast) / (2 * math.pi)).round()).round().long()


def read_only_clean(e):
    """Right as long as the embedding has its proper length; nobody would write this, so it has no name of its own."""
    t = read_table(e)
    return torch.where((e.square().sum(dim=1) - 64).abs() > 0.05, (t * t) % 1000, t)


INTERLEAVED = torch.arange(128).reshape(2, 64).T.flatten()
WRONG_5 = {
    "not-rounded": lambda e: read_table(e) + 0.3,
    "off-by-one": times_of_table(1),
    "interleaved": times_of_table(order=INTERLEAVED),
    "cosines-first": times_of_table(order=torch.arange(128).roll(64)),
    "exact-match": read_equal,
    "linear-readout": read_least_squares,
    "lost-turns": read_vernier,
    "noise-sensitive": read_only_clean,
    "fastest-hand": lambda e: torch.atan2(e[:, 0], e[:, 64]) % (2 * math.pi),
    "angle-not-time": lambda e: torch.atan2(e[:, 63], e[:, 127]),
    "swapped-arguments": lambda e: (torch.atan2(e[:, 127], e[:, 63]) / OMEGA[63]).round(),
    "truncated": lambda e: (torch.atan2(e[:, 63], e[:, 127]) / OMEGA[63]).long(),
    "one-hand": lambda e: (torch.atan2(e[:, 63], e[:, 127]) / OMEGA[63]).round(),
    "wrong-shape": lambda e: (e @ embed_vectorised(torch.arange(1000), 128, 10_000).T).argmax(),
}

# ---------------------------------------------------------------------------------------------------------------------

CHECKS = {
    "1.1": time_embedding.halves,
    "1.2": time_embedding.to_interleaved,
    "1.3": time_embedding.rotation,
    "1.4": time_embedding.longest_period,
    "1.5": time_embedding.read_clock,
}
RIGHT = {
    "1.1": [embed_vectorised, embed_numpy, embed_list],
    "1.2": [convert_stack, convert_slices, convert_index, convert_in_place_with_care],
    "1.3": [rotation_diagonals, rotation_entries, rotation_fitted],
    "1.4": [PERIOD, 172, 172.5, 173, torch.tensor((1000 / 2 / math.pi) ** (64 / 63))],
    "1.5": [read_table, read_nearest, read_coarse_to_fine],
}
WRONG = {"1.1": WRONG_1, "1.2": WRONG_2, "1.3": WRONG_3, "1.4": WRONG_4, "1.5": WRONG_5}


@pytest.mark.parametrize("embed", ALSO_DIMENSION_INDEX)
def test_every_way_to_slip_with_the_index_has_one_name(embed):
    assert time_embedding.halves(embed).mistake == "dimension-index"


@pytest.mark.parametrize(
    ("number", "answer", "name"),
    [
        ("1.1", embed_wrong(lambda k, h, p: p ** (-k / (h - 1)), order="interleaved"), "half-minus-one"),
        ("1.2", lambda e: torch.stack(e.chunk(2, dim=1), dim=-1).transpose(0, 1).reshape(e.shape), "mixed-samples"),
        ("1.3", lambda s, d, p: rotation_interleaved(-s, d, p), "interleaved"),
        ("1.3", lambda s, d, p: rotation_signs(s, d, p, (-1, -1)), "wrong-signs"),
        ("1.4", 1000, "missing-two-pi"),
        ("1.4", 2000 * math.pi, "times-two-pi"),
        ("1.3", rotation_of(lambda k, h, s, p: -s * p ** (-k / (2 * h))), "divided-by-d"),
        ("1.3", rotation_of(right_angles, layout="columns"), "half-permuted"),
        ("1.4", 1000 / math.pi, "half-turn"),
        ("1.5", lambda e: torch.atan2(e[:, 0], e[:, 64]).long(), "fastest-hand"),
        ("1.5", lambda e: read_table(e) + 0.49, "not-rounded"),
        ("1.5", lambda e: torch.atan2(e[:, 63], e[:, 127]) / OMEGA[63], "not-rounded"),
        ("1.5", lambda e: read_table(e) + 1, "off-by-one"),
        ("1.5", read_equal_in_a_loop, "exact-match"),
        ("1.5", lambda e: read_least_squares(e).clamp(0, 999), "linear-readout"),
        ("1.5", lambda e: read_least_squares(e).clamp(0, 999).long(), "linear-readout"),
        ("1.5", lambda e: (torch.atan2(e[:, 50], e[:, 114]) / OMEGA[50]).round(), "one-hand"),
    ],
)
def test_the_same_mistake_in_other_clothes(number, answer, name):
    assert CHECKS[number](answer).mistake == name


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        ("1.1", lambda t, d, p: torch.ones(len(t), d)),
        ("1.2", lambda e: e + 1),
        ("1.3", lambda s, d, p: torch.zeros(d, d)),
        ("1.4", 42.0),
    ],
)
def test_something_else_fails_without_a_name_of_its_own(number, answer):
    assert CHECKS[number](answer).status == "failed"


@pytest.mark.parametrize("number", list(CHECKS))
def test_stubs_are_open(number):
    def stub(*arguments):
        raise NotImplementedError

    assert CHECKS[number](... if number == "1.4" else stub).status == "open"
