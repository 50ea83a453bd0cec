"""Right answers pass, in several styles; each typical mistake is called by its name."""

import math

import numpy as np
import pytest
import torch

from helpers import energy, langevin
from helpers.checks import energy_langevin

# 7.1 -----------------------------------------------------------------------------------------------------------------


def gradient_of(f, x, reduce=torch.sum):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(reduce(f(x)), x)[0]


def step_autograd(f, x, e, T, xi):
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x).sum(), x)
    return x.detach() - e / 2 * gradient + math.sqrt(e * T) * xi


def step_score(f, x, e, T, xi):
    """With the library's score, in numpy."""
    return (x + e / 2 * energy.score(f, x) + (e * T) ** 0.5 * xi).numpy()


def step_backward(f, x, e, T, xi):
    """With backward() for the leaf alone, under no_grad, on a clone."""
    leaf = x.clone().requires_grad_(True)
    f(leaf).backward(torch.ones(len(x), dtype=x.dtype), inputs=[leaf])
    with torch.no_grad():
        return leaf - 0.5 * e * leaf.grad + xi * (e * T) ** 0.5


def step_leaking(f, x, e, T, xi):
    """backward() fills the parameters' gradients, too."""
    leaf = x.clone().requires_grad_(True)
    f(leaf).sum().backward()
    return leaf.detach() - e / 2 * leaf.grad + math.sqrt(e * T) * xi


def step_tracking(f, x, e, T, xi):
    """Tracks the caller's x, and leaves it so."""
    (gradient,) = torch.autograd.grad(f(x.requires_grad_()).sum(), x)
    return x.detach() - e / 2 * gradient + math.sqrt(e * T) * xi


def step_wrong(drift=lambda e, T, B: e / 2, noise=lambda e, T: math.sqrt(e * T)):
    def step(f, x, e, T, xi):
        return x - drift(e, T, len(x)) * gradient_of(f, x) + noise(e, T) * xi

    return step


def step_attached(f, x, e, T, xi):
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x).sum(), x)
    return x - e / 2 * gradient + math.sqrt(e * T) * xi


def step_in_place(f, x, e, T, xi):
    x -= e / 2 * gradient_of(f, x)
    x += math.sqrt(e * T) * xi
    return x


def step_mean(f, x, e, T, xi):
    return x - e / 2 * gradient_of(f, x, torch.mean) + math.sqrt(e * T) * xi


WRONG_1 = {
    "uphill": step_wrong(lambda e, T, B: -e / 2),
    "half-forgotten": step_wrong(lambda e, T, B: e),
    "no-noise": step_wrong(noise=lambda e, T: 0),
    "root-forgotten": step_wrong(noise=lambda e, T: e * T),
    "temperature-outside-the-root": step_wrong(noise=lambda e, T: T * math.sqrt(e)),
    "temperature-forgotten": step_wrong(noise=lambda e, T: math.sqrt(e)),
    "noise-of-the-other-convention": step_wrong(noise=lambda e, T: math.sqrt(2 * e * T)),
    "both-of-the-other-convention": step_wrong(lambda e, T, B: e, lambda e, T: math.sqrt(2 * e * T)),
    "mean-of-the-batch": step_mean,
    "drift-divided-by-temperature": step_wrong(lambda e, T, B: e / (2 * T)),
    "another-clock": step_wrong(lambda e, T, B: e / (2 * T), lambda e, T: math.sqrt(e)),
    "still-attached": step_attached,
    "changed-in-place": step_in_place,
    "tracking-left-on": step_tracking,
    "gradient-left-in-the-parameters": step_leaking,
}

# 7.2 -----------------------------------------------------------------------------------------------------------------


def size_closed(std, bias):
    return 4 * std**2 * bias / (1 + bias)


def size_limit(std, bias):
    """From the stability limit; a tensor."""
    return torch.tensor(langevin_limit(std) * (1 - 1 / (1 + bias)))


def langevin_limit(std):
    return 4 * std * std


def size_bisected(std, bias):
    low, high = 0.0, langevin_limit(std)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 / (1 - middle / langevin_limit(std)) < 1 + bias else (low, middle)
    return np.float64(low)


WRONG_2 = {
    "small-step-formula": lambda std, bias: 4 * std**2 * bias,
    "std-for-variance": lambda std, bias: 4 * std * bias / (1 + bias),
    "wrong-sign": lambda std, bias: 4 * std**2 * bias / (1 - bias),
    "standard-deviation-biased": lambda std, bias: 4 * std**2 * (1 - 1 / (1 + bias) ** 2),
    "four-forgotten": lambda std, bias: std**2 * bias / (1 + bias),
    "two-for-four": lambda std, bias: 2 * std**2 * bias / (1 + bias),
    "absolute-bias": lambda std, bias: 4 * std**2 * (1 - std**2 / (std**2 + bias)),
    "stability-limit": lambda std, bias: 4 * std**2,
}

# 7.3 -----------------------------------------------------------------------------------------------------------------


def ratio_score(f, x, x_new, e, T):
    def log_q(there, here):
        return -(there - here - e / 2 * energy.score(f, here)).square().sum(1) / (2 * e * T)

    return (f(x) - f(x_new)) / T + log_q(x, x_new) - log_q(x_new, x)


def ratio_library(f, x, x_new, e, T):
    there = langevin.log_proposal(x_new, x, gradient_of(f, x), e, T)
    back = langevin.log_proposal(x, x_new, gradient_of(f, x_new), e, T)
    return ((f(x) - f(x_new)) / T + back - there).numpy()


def ratio_multiplied_out(f, x, x_new, e, T):
    """The squares multiplied out: their common part, ‖x' − x‖², cancels."""
    g, h, move = gradient_of(f, x), gradient_of(f, x_new), x_new - x
    linear = (move * (g + h)).sum(1) / (2 * T)
    square = e / (8 * T) * (g.square() - h.square()).sum(1)
    return f(x) / T - f(x_new) / T + linear + square


def ratio_wrong(energies=1, proposals=1, divide=lambda e, T: 2 * e * T, drift=0.5, at_start=False, last=lambda r: r):
    def log_ratio(f, x, x_new, e, T):
        scale = energies(T) if callable(energies) else energies
        there = (x_new - x + drift * e * gradient_of(f, x)).square().sum(1)
        back = (x - x_new + drift * e * gradient_of(f, x if at_start else x_new)).square().sum(1)
        return last(scale * (f(x) - f(x_new)) / T + proposals * (there - back) / divide(e, T))

    return log_ratio


WRONG_3 = {
    "batch-summed": ratio_wrong(last=torch.sum),
    "batch-averaged": ratio_wrong(last=torch.mean),
    "ratio-for-its-logarithm": ratio_wrong(last=torch.exp),
    "clipped-to-one": ratio_wrong(last=lambda r: r.clamp(max=0)),
    "proposals-forgotten": ratio_wrong(proposals=0),
    "proposals-swapped": ratio_wrong(proposals=-1),
    "energies-swapped": ratio_wrong(energies=-1),
    "upside-down": ratio_wrong(energies=-1, proposals=-1),
    "energies-forgotten": ratio_wrong(energies=0),
    "variance-not-doubled": ratio_wrong(divide=lambda e, T: e * T),
    "variance-of-the-other-convention": ratio_wrong(divide=lambda e, T: 4 * e * T),
    "variance-squared": ratio_wrong(divide=lambda e, T: 2 * (e * T) ** 2),
    "variance-squared-step": ratio_wrong(divide=lambda e, T: 2 * e**2 * T),
    "root-of-the-variance": ratio_wrong(divide=lambda e, T: 2 * math.sqrt(e * T)),
    "temperature-forgotten-in-the-proposal": ratio_wrong(divide=lambda e, T: 2 * e),
    "temperature-forgotten-in-the-energies": ratio_wrong(energies=lambda T: T),
    "temperature-forgotten": ratio_wrong(energies=lambda T: T, divide=lambda e, T: 2 * e),
    "gradient-of-the-start-for-the-way-back": ratio_wrong(at_start=True),
    "half-forgotten": ratio_wrong(drift=1.0),
    "uphill": ratio_wrong(drift=-0.5),
}

# 7.4 -----------------------------------------------------------------------------------------------------------------


def accept_where(x, x_new, log_ratio, u):
    return torch.where((u.log() < log_ratio)[:, None, None, None], x_new, x)


def accept_indexed(x, x_new, log_ratio, u):
    chosen = u < log_ratio.exp()
    x[chosen] = x_new[chosen]
    return x


def accept_loop(x, x_new, log_ratio, u):
    """One chain after the other, in numpy."""
    return np.stack(
        [
            (b if math.log(v) < r else a).numpy()
            for a, b, r, v in zip(x, x_new, log_ratio.tolist(), u.tolist(), strict=True)
        ]
    )


def accept_wrong(decision):
    def accept(x, x_new, log_ratio, u):
        return torch.where(decision(log_ratio, u).reshape(-1, 1, 1, 1), x_new, x)

    return accept


def accept_mixture(x, x_new, log_ratio, u):
    share = (u.log() < log_ratio).double().mean()
    return share * x_new + (1 - share) * x


def accept_together(x, x_new, log_ratio, u):
    return x_new if u[0].log() < log_ratio.sum() else x


WRONG_4 = {
    "inverted": accept_wrong(lambda log_ratio, u: u.log() >= log_ratio),
    "logarithm-forgotten": accept_wrong(lambda log_ratio, u: u < log_ratio),
    "greedy": accept_wrong(lambda log_ratio, u: log_ratio >= 0),
    "half": accept_wrong(lambda log_ratio, u: log_ratio.exp() > 0.5),
    "mixture": accept_mixture,
    "blended": lambda x, x_new, log_ratio, u: x + log_ratio.exp().clamp(max=1)[:, None, None, None] * (x_new - x),
    "always-accepted": accept_wrong(lambda log_ratio, u: u.log() < log_ratio.exp()),
    "never-accepted": lambda x, x_new, log_ratio, u: x,
    "one-decision-for-all": accept_together,
    "not-broadcast": lambda x, x_new, log_ratio, u: torch.where(u.log() < log_ratio, x_new, x),
}

# 7.5 -----------------------------------------------------------------------------------------------------------------


def translation_closed(alpha, tau, wanted):
    return tau**2 / (2 * alpha), math.sqrt(2 * alpha * wanted), tau**2 / (1 - (1 - alpha) ** 2)


def translation_tensor(alpha, tau, wanted):
    variance = 0.0
    for _ in range(20_000):  # until it stands still
        variance = (1 - alpha) ** 2 * variance + tau**2
    T = langevin.implied_temperature(2 * alpha, tau)
    return torch.tensor([T, tau * math.sqrt(wanted / T), variance], dtype=torch.float64)


def translation_wrong(part, wrong):
    def translate(alpha, tau, wanted):
        answer = list(translation_closed(alpha, tau, wanted))
        answer["abc".index(part)] = wrong(alpha, tau, wanted)
        return answer

    return translate


WRONG_5 = {
    f"{part}-{name}": translation_wrong(part, wrong)
    for part, name, wrong in (
        ("a", "half-forgotten", lambda a, t, w: t**2 / a),
        ("a", "half-on-the-wrong-side", lambda a, t, w: t**2 / (a / 2)),
        ("a", "not-squared", lambda a, t, w: t / (2 * a)),
        ("a", "root", lambda a, t, w: t / math.sqrt(2 * a)),
        ("a", "inverse", lambda a, t, w: 2 * a / t**2),
        ("b", "half-forgotten", lambda a, t, w: math.sqrt(a * w)),
        ("b", "root-forgotten", lambda a, t, w: 2 * a * w),
        ("b", "temperature-outside-the-root", lambda a, t, w: w * math.sqrt(2 * a)),
        ("b", "scaled-linearly", lambda a, t, w: t * w / (t**2 / (2 * a))),
        ("c", "small-step-limit", lambda a, t, w: t**2 / (2 * a)),
        ("c", "root", lambda a, t, w: t / math.sqrt(1 - (1 - a) ** 2)),
        ("c", "half-a-drift", lambda a, t, w: t**2 / (1 - (1 - a / 2) ** 2)),
        ("c", "b-not-squared", lambda a, t, w: t**2 / (1 - (1 - a))),
        ("c", "at-temperature-one", lambda a, t, w: 1 / (1 - a / 2)),
    )
}

# 7.6 -----------------------------------------------------------------------------------------------------------------


def worth_loop(rho, n):
    total = 1.0
    for value in rho[1:].tolist():
        if value <= 0:
            break
        total += 2 * value
    return n / total


def worth_cumulative(rho, n):
    return n / (2 * (rho * (rho > 0).cumprod(0)).sum() - 1)


def worth_numpy(rho, n):
    rho = rho.numpy()
    end = np.flatnonzero(np.append(rho, -1.0) <= 0)[0]
    return n / (1 + 2 * rho[1:end].sum())


def end_of(rho):
    found = (rho <= 0).nonzero()
    return int(found[0]) if len(found) else len(rho)


WRONG_6 = {
    "zero-counted": lambda rho, n: n / (1 + 2 * rho[: end_of(rho)].sum()),
    "zero-counted-doubly": lambda rho, n: n / (2 * rho[: end_of(rho)].sum()),
    "two-forgotten": lambda rho, n: n / rho[: end_of(rho)].sum(),
    "not-cut": lambda rho, n: n / (1 + 2 * rho[1:].sum()),
    "negative-skipped": lambda rho, n: n / (1 + 2 * rho[1:][rho[1:] > 0].sum()),
    "absolute-values": lambda rho, n: n / (1 + 2 * rho[1:].abs().sum()),
    "first-negative-included": lambda rho, n: n / (1 + 2 * rho[1 : end_of(rho) + 1].sum()),
    "last-left-out": lambda rho, n: n / (1 + 2 * rho[1 : end_of(rho) - 1].sum()),
    "multiplied": lambda rho, n: n * (1 + 2 * rho[1 : end_of(rho)].sum()),
    "time-only": lambda rho, n: 1 + 2 * rho[1 : end_of(rho)].sum(),
    "first-lag-only": lambda rho, n: n * (1 - rho[1]) / (1 + rho[1]),
    "no-negative-lag": lambda rho, n: n / (1 + 2 * rho[1 : int((rho <= 0).int().argmax())].sum()),
}

RIGHT = {
    "7.1": [step_autograd, step_score, step_backward],
    "7.2": [size_closed, size_limit, size_bisected],
    "7.3": [ratio_score, ratio_library, ratio_multiplied_out],
    "7.4": [accept_where, accept_indexed, accept_loop],
    "7.5": [translation_closed, translation_tensor],
    "7.6": [worth_loop, worth_cumulative, worth_numpy],
}
WRONG = {"7.1": WRONG_1, "7.2": WRONG_2, "7.3": WRONG_3, "7.4": WRONG_4, "7.5": WRONG_5, "7.6": WRONG_6}
CHECKS = {
    "7.1": energy_langevin.langevin_step,
    "7.2": energy_langevin.step_for_bias,
    "7.3": energy_langevin.mala_log_ratio,
    "7.4": energy_langevin.accept,
    "7.5": energy_langevin.translation,
    "7.6": energy_langevin.effective_size,
}


@pytest.mark.parametrize("number", CHECKS)
def test_unknown_mistakes_and_nothing_at_all(number):
    assert CHECKS[number](lambda *args: None).mistake == "returned-none"
    assert CHECKS[number](lambda *args: 1 / 0).mistake == "raised"
    outcome = CHECKS[number](lambda *args: 3.7 * np.asarray(RIGHT[number][0](*args), dtype=float) + 0.1)
    assert (outcome.status, outcome.mistake) == ("failed", "wrong-value"), outcome


@pytest.mark.parametrize("number", CHECKS)
def test_stubs_are_open(number):
    def stub(*args):
        raise NotImplementedError

    assert CHECKS[number](stub).status == "open"


def test_a_decision_without_the_axes_of_the_pictures_in_numpy():
    outcome = energy_langevin.accept(lambda x, x_new, log_ratio, u: np.where(u.log() < log_ratio, x_new, x))
    assert outcome.mistake == "not-broadcast"


def test_an_end_that_fails_without_a_negative_lag():
    def sums_to_the_first(rho, n):
        return n / (1 + 2 * rho[1 : int((rho <= 0).nonzero()[0])].sum())

    assert energy_langevin.effective_size(sums_to_the_first).mistake == "no-negative-lag"
