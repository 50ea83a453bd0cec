"""Right answers pass, in several styles; each typical mistake is called by its name."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from helpers import samplers, schedules
from helpers.checks import sampling

# 5.1 -----------------------------------------------------------------------------------------------------------------


def guess(x, eps, a):
    return (x - (1 - a).sqrt() * eps) / a.sqrt()


def ancestral_paper(x, eps, a, b, noise):
    beta = 1 - a / b
    mean = (x - beta / (1 - a).sqrt() * eps) / (1 - beta).sqrt()
    return mean if b == 1 else mean + beta.sqrt() * noise


def ancestral_posterior(x, eps, a, b, noise):
    c_0, c_t = b.sqrt() * (1 - a / b) / (1 - a), (a / b).sqrt() * (1 - b) / (1 - a)
    return c_0 * guess(x, eps, a) + c_t * x + (float(b) < 1) * (1 - a / b).sqrt() * noise


def ancestral_library(x, eps, a, b, noise):
    """A schedule of two steps that has just these levels; without a first step at the end."""
    if b == 1:
        return guess(x, eps, a).numpy()
    schedule = schedules.NoiseSchedule(torch.stack([1 - b, 1 - a / b]))
    return samplers.ddpm_step(guess(x, eps, a), x, 1, 0, schedule, noise, "beta").numpy()


def ancestral_wrong(x_0=guess, scale=lambda a, b: (1 - a / b).sqrt(), exchanged=False, last=False):
    def step(x, eps, a, b, noise):
        c_0, c_t = b.sqrt() * (1 - a / b) / (1 - a), (a / b).sqrt() * (1 - b) / (1 - a)
        if exchanged:
            c_0, c_t = c_t, c_0
        mean = c_0 * x_0(x, eps, a) + c_t * x
        return mean if b == 1 and not last else mean + scale(a, b) * noise

    return step


def paper_wrong(
    beta=lambda a, b: 1 - a / b, below=lambda a: (1 - a).sqrt(), shrink=lambda a, beta: 1 / (1 - beta).sqrt()
):
    """The paper's form of the mean with one thing changed."""

    def step(x, eps, a, b, noise):
        of_step = beta(a, b)
        mean = (x - of_step / below(a) * eps) * shrink(a, of_step)
        return mean if b == 1 else mean + of_step.sqrt() * noise

    return step


WRONG_1 = {
    "variance-for-standard-deviation": ancestral_wrong(scale=lambda a, b: 1 - a / b),
    "posterior-variance": ancestral_wrong(scale=lambda a, b: ((1 - a / b) * (1 - b) / (1 - a)).sqrt()),
    "no-noise": ancestral_wrong(scale=lambda a, b: 0),
    "noise-subtracted": ancestral_wrong(scale=lambda a, b: -((1 - a / b).sqrt())),
    "exchanged-coefficients": ancestral_wrong(exchanged=True),
    "eps-for-x0": ancestral_wrong(x_0=lambda x, eps, a: eps),
    "plus-eps": ancestral_wrong(x_0=lambda x, eps, a: guess(x, -eps, a)),
    "missing-roots": ancestral_wrong(x_0=lambda x, eps, a: (x - (1 - a) * eps) / a),
    "wrong-alpha-bar": lambda x, eps, a, b, noise: ancestral_wrong(x_0=lambda x, e, _: guess(x, e, b))(
        x, eps, a, b, noise
    ),
    "alpha-bar-for-alpha": lambda x, eps, a, b, noise: (
        (x - (1 - a) / (1 - a).sqrt() * eps) / a.sqrt() + (1 - a / b).sqrt() * noise
    ),
    "ddim-mean": lambda x, eps, a, b, noise: (
        b.sqrt() * guess(x, eps, a) + (1 - b).sqrt() * eps + (1 - a / b).sqrt() * noise
    ),
    "noise-in-the-last-step": ancestral_wrong(last=True),
    "own-noise": lambda x, eps, a, b, noise: ancestral_paper(x, eps, a, b, torch.randn_like(x)),
    "beta-of-the-whole-way": paper_wrong(beta=lambda a, b: 1 - a),
    "divided-by-the-signal": paper_wrong(shrink=lambda a, beta: 1 / a.sqrt()),
    "missing-root-of-the-noise": paper_wrong(below=lambda a: 1 - a),
    "multiplied-by-the-root": paper_wrong(shrink=lambda a, beta: (1 - beta).sqrt()),
}

# 5.2 -----------------------------------------------------------------------------------------------------------------


def ddim_formula(x, eps, a, b, noise, eta):
    sigma = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
    return b.sqrt() * guess(x, eps, a) + (1 - b - sigma**2).sqrt() * eps + sigma * noise


def ddim_euler(x, eps, a, b, noise, eta):
    """To a lower level by Euler's rule, then fresh noise up to the wanted one, in numpy."""
    x, eps, noise = x.numpy(), eps.numpy(), noise.numpy()
    a, b = float(a), float(b)
    variance = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
    y = x / np.sqrt(a) + (np.sqrt(max(1 - b - variance, 0) / b) - np.sqrt((1 - a) / a)) * eps
    return np.sqrt(b) * y + np.sqrt(variance) * noise


def ddim_wrong(variance=None, direction=None, scale=None, sign=1, x_0=None):
    def step(x, eps, a, b, noise, eta):
        posterior = (1 - b) / (1 - a) * (1 - a / b)
        v = eta**2 * posterior if variance is None else variance(a, b, eta, posterior)
        d = 1 - b - v if direction is None else direction(a, b, v)
        clean = guess(x, eps, a) if x_0 is None else x_0(x, eps, a, b)
        return b.sqrt() * clean + sign * d.clamp_min(0).sqrt() * eps + (v.sqrt() if scale is None else scale(v)) * noise

    return step


WRONG_2 = {
    "eta-in-the-variance": ddim_wrong(variance=lambda a, b, eta, p: eta * p),
    "eta-squared": ddim_wrong(variance=lambda a, b, eta, p: eta**4 * p),
    "direction-too-long": ddim_wrong(direction=lambda a, b, v: 1 - b),
    "variance-for-standard-deviation": ddim_wrong(scale=lambda v: v),
    "sigma-not-squared": ddim_wrong(direction=lambda a, b, v: 1 - b - v.sqrt()),
    "beta-for-posterior": ddim_wrong(variance=lambda a, b, eta, p: eta**2 * (1 - a / b)),
    "upside-down": ddim_wrong(variance=lambda a, b, eta, p: eta**2 * (1 - a) / (1 - b) * (1 - a / b)),
    "wrong-sign": ddim_wrong(sign=-1),
    "wrong-alpha-bar": ddim_wrong(x_0=lambda x, eps, a, b: guess(x, eps, b)),
    "no-noise": ddim_wrong(scale=lambda v: 0),
    "root-forgotten": ddim_wrong(variance=lambda a, b, eta, p: (eta * p) ** 2),
    "state-for-guess": ddim_wrong(x_0=lambda x, eps, a, b: x),
    "roots-subtracted": ddim_wrong(direction=lambda a, b, v: ((1 - b).sqrt() - v.sqrt()) ** 2),
    "eta-ignored": ddim_wrong(variance=lambda a, b, eta, p: 0 * p),
    "eta-always-one": ddim_wrong(variance=lambda a, b, eta, p: p),
    "own-noise": lambda x, eps, a, b, noise, eta: ddim_formula(x, eps, a, b, torch.randn_like(x), eta),
}

# 5.3 -----------------------------------------------------------------------------------------------------------------


def pairs_rounded(total, n):
    points = [round(total - 1 - k * total / n) for k in range(n + 1)]
    return list(pairwise(points))


def pairs_linspace(total, n):
    points = torch.linspace(total - 1, -1, n + 1, dtype=torch.float64).round().long()
    return torch.stack([points[:-1], points[1:]], dim=1)


def pairs_library(total, n):
    return pairwise((*samplers.spaced_timesteps(total, n), -1))


def pairs_integers(total, n):
    return np.array([(total - 1 - k * total // n, total - 1 - (k + 1) * total // n) for k in range(n)])


def chain(points):
    return list(pairwise(points))


WRONG_3 = {
    "starts-too-low": lambda T, n: chain([*[*range(0, T, T // n)][n - 1 :: -1], -1]),
    "starts-beyond": lambda T, n: chain([round(T - k * T / n) for k in range(n)] + [-1]),
    "never-clean": lambda T, n: chain([round((T - 1) * (1 - k / n)) for k in range(n + 1)]),
    "wrong-number": lambda T, n: chain([round(T - 1 - k * T / (n + 1)) for k in range(n + 2)]),
    "short-last-stride": lambda T, n: chain([*np.linspace(T - 1, 0, n).round().astype(int).tolist(), -1]),
    "upwards": lambda T, n: [(s, t) for t, s in pairs_rounded(T, n)][::-1],
    "broken-chain": lambda T, n: [(t, t - 1) for t, _ in pairs_rounded(T, n)],
    "not-integers": lambda T, n: [(T - 1 - k * T / n, T - 1 - (k + 1) * T / n) for k in range(n)],
    "not-decreasing": lambda T, n: [(t, t) for t, _ in pairs_rounded(T, n)][:1] + pairs_rounded(T, n)[1:],
    "uneven": lambda T, n: chain([round(T * (1 - k / n) ** 2) - 1 for k in range(n + 1)]),
    "wrong-order": lambda T, n: pairs_rounded(T, n)[::-1],
    "not-pairs": lambda T, n: samplers.spaced_timesteps(T, n),
    "empty": lambda T, n: [],
}

# 5.4 -----------------------------------------------------------------------------------------------------------------


def slerp_where(a, b, w):
    cosine = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1)
    theta = cosine.acos().reshape(-1, 1, 1, 1)
    flat = theta.sin() < 1e-4
    sine = torch.where(flat, 1.0, theta.sin())
    of_a = torch.where(flat, 1 - w, ((1 - w) * theta).sin() / sine)
    of_b = torch.where(flat, w, (w * theta).sin() / sine)
    return of_a * a + of_b * b


def slerp_loop(a, b, w):
    """One image after the other, in numpy, with a nudge against the division by zero."""
    out = []
    for p, q in zip(a.numpy(), b.numpy(), strict=True):
        cosine = np.clip((p * q).sum() / np.linalg.norm(p) / np.linalg.norm(q), -1, 1)
        theta = max(np.arccos(cosine), 1e-6)
        out.append((np.sin((1 - w) * theta) * p + np.sin(w * theta) * q) / np.sin(theta))
    return np.stack(out)


def slerp_projection(a, b, w):
    """With an orthogonal direction instead of the formula: cos and sin of the way gone."""
    rows, columns = a.flatten(1), b.flatten(1)
    na, nb = rows.norm(dim=1, keepdim=True), columns.norm(dim=1, keepdim=True)
    u, v = rows / na, columns / nb
    rest = v - (u * v).sum(1, keepdim=True) * u
    theta = torch.atan2(rest.norm(dim=1, keepdim=True), (u * v).sum(1, keepdim=True)).clamp_min(1e-7)
    weight_a, weight_b = ((1 - w) * theta).sin() / theta.sin(), (w * theta).sin() / theta.sin()
    return (weight_a * na * u + weight_b * nb * v).reshape(a.shape)


def slerp_plain(a, b, w, dims=(1, 2, 3), norms=True, divide=True):
    cosine = (a * b).sum(dims, keepdim=True)
    if norms:
        cosine = cosine / (a.square().sum(dims, keepdim=True) * b.square().sum(dims, keepdim=True)).sqrt()
    theta = cosine.acos()
    return (((1 - w) * theta).sin() * a + (w * theta).sin() * b) / (theta.sin() if divide else 1)


def lerp_stretched(a, b, w, length=lambda a, b, w: 1):
    straight = torch.lerp(a, b, w).flatten(1)
    return (straight / straight.norm(dim=1, keepdim=True) * length(a, b, w)).reshape(a.shape)


def slerp_of_directions(a, b, w, length=lambda a, b, w: 1):
    units = [x / x.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for x in (a, b)]
    return slerp_where(*units, w) * length(a, b, w)


WRONG_4 = {
    "linear": lambda a, b, w: torch.lerp(a, b, w),
    "square-root-weights": lambda a, b, w: math.sqrt(1 - w) * a + math.sqrt(w) * b,
    "swapped-ends": lambda a, b, w: slerp_where(b, a, w),
    "angle-not-normalised": lambda a, b, w: slerp_plain(a, b, w, norms=False),
    "not-divided": lambda a, b, w: slerp_plain(a, b, w, divide=False),
    "one-angle-for-the-batch": lambda a, b, w: slerp_plain(a, b, w, dims=(0, 1, 2, 3)),
    "angle-per-pixel": lambda a, b, w: slerp_plain(a, b, w, dims=1),
    "angle-per-row": lambda a, b, w: slerp_plain(a, b, w, dims=3),
    "half-the-arc": lambda a, b, w: slerp_where(a, b, w / 2),
    "straight-line-stretched": lerp_stretched,
    "lengths-changed": slerp_of_directions,
    "parallel": lambda a, b, w: slerp_plain(a, b, w) / (0 if torch.equal(a, b) else 1),
}

# 5.5 -----------------------------------------------------------------------------------------------------------------


def variance_recursion(s2, levels, eta):
    v = 1.0
    for a, b in pairwise(levels):
        sigma2 = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        g = math.sqrt(a) * s2 / (a * s2 + 1 - a)
        k = math.sqrt(b) * g + math.sqrt(1 - b - sigma2) * (1 - math.sqrt(a) * g) / math.sqrt(1 - a)
        v = k**2 * v + sigma2
    return v


def variance_unrolled(s2, levels, eta):
    """Each noise of the run travels to the end through all later gains; torch."""
    levels = torch.tensor(levels, dtype=torch.float64)
    a, b = levels[:-1], levels[1:]
    sigma2 = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
    total = a * s2 + 1 - a  # E[ε | x_t] = √(1 − ᾱ_t)/(ᾱ_t s² + 1 − ᾱ_t) · x_t
    k = b.sqrt() * a.sqrt() * s2 / total + (1 - b - sigma2).clamp_min(0).sqrt() * (1 - a).sqrt() / total
    later = torch.flip(torch.cumprod(torch.flip(torch.cat([k[1:], torch.ones(1)]) ** 2, [0]), 0), [0])
    return torch.prod(k**2) + (later * sigma2).sum()


def variance_wrong(start=None, square=True, noise=lambda v: v, shrink=True, apart=False, full=False, result=None):
    def variance(s2, levels, eta):
        v = 1.0 if start is None else start(s2, levels[0])
        for a, b in pairwise(levels):
            sigma2 = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
            g = math.sqrt(a) * s2 / (a * s2 + 1 - a) if shrink else 1 / math.sqrt(a)
            parts = (
                math.sqrt(b) * g,
                math.sqrt(1 - b - (0 if full else sigma2)) * (1 - math.sqrt(a) * g) / math.sqrt(1 - a),
            )
            k2 = sum(p**2 for p in parts) if apart else sum(parts) ** (2 if square else 1)
            v = k2 * v + noise(sigma2)
        return v if result is None else result(v, s2)

    return variance


WRONG_5 = {
    "gain-not-squared": variance_wrong(square=False),
    "sigma-not-squared": variance_wrong(noise=math.sqrt),
    "parts-added-apart": variance_wrong(apart=True),
    "no-shrinkage": variance_wrong(shrink=False),
    "direction-too-long": variance_wrong(full=True),
    "no-noise": variance_wrong(noise=lambda v: 0),
    "eta-in-the-variance": lambda s2, levels, eta: variance_recursion(s2, levels, math.sqrt(eta)),
    "eta-ignored": lambda s2, levels, eta: variance_recursion(s2, levels, 0),
    "last-step-left-out": lambda s2, levels, eta: variance_recursion(s2, levels[:-1], eta),
    "variance-squared": lambda s2, levels, eta: variance_recursion(s2**2, levels, eta),
    "perfect-start": variance_wrong(start=lambda s2, a: a * s2 + 1 - a),
    "starts-at-zero": variance_wrong(start=lambda s2, a: 0.0),
    "standard-deviation": variance_wrong(result=lambda v, s2: math.sqrt(v)),
    "exact-variance": variance_wrong(result=lambda v, s2: s2),
}

# ---------------------------------------------------------------------------------------------------------------------

CHECKS = {
    "5.1": sampling.ancestral_step,
    "5.2": sampling.ddim_dial,
    "5.3": sampling.timestep_pairs,
    "5.4": sampling.slerp,
    "5.5": sampling.variance_after_run,
}
RIGHT = {
    "5.1": [ancestral_paper, ancestral_posterior, ancestral_library],
    "5.2": [ddim_formula, ddim_euler],
    "5.3": [pairs_rounded, pairs_linspace, pairs_library, pairs_integers],
    "5.4": [slerp_where, slerp_loop, slerp_projection],
    "5.5": [variance_recursion, variance_unrolled],
}
WRONG = {"5.1": WRONG_1, "5.2": WRONG_2, "5.3": WRONG_3, "5.4": WRONG_4, "5.5": WRONG_5}


STRETCHED = "straight-line-stretched"


@pytest.mark.parametrize(
    ("number", "answer", "name"),
    [
        ("5.1", lambda x, eps, a, b, noise: (1 - a / b).sqrt() * noise[:2], "wrong-shape"),
        ("5.2", lambda x, eps, a, b, noise, eta: None, "returned-none"),
        ("5.3", lambda T, n: None, "returned-none"),
        ("5.3", lambda T, n: list(range(T - 1, -1, -(T // n))), "not-pairs"),
        ("5.3", lambda T, n: pairs_rounded(T, n)[:-1] or [(T - 1, 0)], "never-clean"),
        ("5.4", slerp_plain, "parallel"),
        ("5.4", lambda a, b, w: None, "returned-none"),
        ("5.4", lambda a, b, w: lerp_stretched(a, b, w, lambda a, b, w: math.sqrt(a[0].numel())), STRETCHED),
        ("5.4", lambda a, b, w: lerp_stretched(a, b, w, lambda a, b, w: a.flatten(1).norm(dim=1)[:, None]), STRETCHED),
        (
            "5.4",
            lambda a, b, w: slerp_of_directions(a, b, w, lambda a, b, w: math.sqrt(a[0].numel())),
            "lengths-changed",
        ),
        ("5.5", lambda s2, levels, eta: [1.0, 2.0], "wrong-shape"),
    ],
)
def test_mistakes_of_form(number, answer, name):
    assert CHECKS[number](answer).mistake == name


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        ("5.1", lambda x, eps, a, b, noise: x),
        ("5.2", lambda x, eps, a, b, noise, eta: x + noise),
        ("5.4", lambda a, b, w: a + b),
        ("5.5", lambda s2, levels, eta: 0.123),
    ],
)
def test_something_else_fails_without_a_name_of_its_own(number, answer):
    assert CHECKS[number](answer).mistake == "wrong-value"


@pytest.mark.parametrize("number", list(CHECKS))
def test_stubs_are_open(number):
    def stub(*arguments):
        raise NotImplementedError

    assert CHECKS[number](stub).status == "open"
