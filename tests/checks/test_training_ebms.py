"""Right answers pass, in several styles; each typical mistake is called by its name."""

import math

import numpy as np
import pytest
import torch

from helpers import ebm, oracle
from helpers.checks import training_ebms

# 8.1 -----------------------------------------------------------------------------------------------------------------


def loss_lesson(e_data, e_model, l2):
    return e_data.mean() - e_model.mean() + l2 * (e_data.square().mean() + e_model.square().mean())


def loss_library(e_data, e_model, l2):
    """The helper, with energies for points."""
    return ebm.contrastive_divergence_loss(Lookup(e_data, e_model), torch.zeros(len(e_data), 1), ones(e_model), l2)


def ones(like):
    return torch.ones(len(like), 1)


class Lookup:
    def __init__(self, e_data, e_model):
        self.values = torch.cat([e_data, e_model])

    def __call__(self, x):
        return self.values


def loss_in_sums(e_data, e_model, l2):
    n, m = len(e_data), len(e_model)
    return sum(e + l2 * e**2 for e in e_data) / n - sum(e - l2 * e**2 for e in e_model) / m


def gap(data, model):
    return data.mean() - model.mean()


WRONG_1 = {
    "absolute-value": lambda d, m, l2: gap(d, m).abs() + l2 * (d.square().mean() + m.square().mean()),
    "sign-flipped": lambda d, m, l2: -gap(d, m) + l2 * (d.square().mean() + m.square().mean()),
    "maximised": lambda d, m, l2: -loss_lesson(d, m, l2),
    "no-l2": lambda d, m, l2: gap(d, m),
    "l2-subtracted": lambda d, m, l2: gap(d, m) - l2 * (d.square().mean() + m.square().mean()),
    "summed": lambda d, m, l2: d.sum() - m.sum() + l2 * (d.square().sum() + m.square().sum()),
    "l2-of-the-gap": lambda d, m, l2: gap(d, m) + l2 * gap(d, m) ** 2,
    "l2-of-the-means": lambda d, m, l2: gap(d, m) + l2 * (d.mean() ** 2 + m.mean() ** 2),
    "l2-of-data-only": lambda d, m, l2: gap(d, m) + l2 * d.square().mean(),
    "l2-of-samples-only": lambda d, m, l2: gap(d, m) + l2 * m.square().mean(),
    "l2-pooled": lambda d, m, l2: gap(d, m) + l2 * torch.cat([d, m]).square().mean(),
    "no-graph": lambda d, m, l2: loss_lesson(d, m, l2).item(),
}

# 8.2 -----------------------------------------------------------------------------------------------------------------


def gradient_lesson(features, theta, p):
    return (p - torch.softmax(-features @ theta, dim=0)) @ features


def gradient_autograd(features, theta, p):
    """The likelihood itself, differentiated."""
    theta = theta.clone().requires_grad_()
    values = features @ theta
    (p @ values + torch.logsumexp(-values, dim=0)).backward()
    return theta.grad


def gradient_library(features, theta, p):
    theta = theta.clone().requires_grad_()
    return oracle.grid_nll_gradient(lambda points: points @ theta, [theta], features, p)[0]


def gradient_numpy(features, theta, p):
    f, weights = features.numpy(), -(features.numpy() @ theta.numpy())
    q = np.exp(weights - weights.max())
    q /= q.sum()
    return sum((p.numpy()[i] - q[i]) * f[i] for i in range(len(f)))


def naive_softmax(features, theta, p):
    weight = torch.exp(-features @ theta)
    return (p - weight / weight.sum()) @ features


WRONG_2 = {
    "sign-flipped": lambda f, theta, p: -gradient_lesson(f, theta, p),
    "high-is-likely": lambda f, theta, p: (p - torch.softmax(f @ theta, 0)) @ f,
    "data-term-only": lambda f, theta, p: p @ f,
    "model-term-only": lambda f, theta, p: -(torch.softmax(-f @ theta, 0) @ f),
    "not-normalised": lambda f, theta, p: (p - torch.exp(-f @ theta)) @ f,
    "uniform-model": lambda f, theta, p: p @ f - f.mean(0),
    "data-twice": lambda f, theta, p: (p - p * torch.softmax(-f @ theta, 0)) @ f,
    "averaged-again": lambda f, theta, p: ((p - torch.softmax(-f @ theta, 0))[:, None] * f).mean(0),
    "added": lambda f, theta, p: (p + torch.softmax(-f @ theta, 0)) @ f,
    "overflow": naive_softmax,
}

# 8.3 -----------------------------------------------------------------------------------------------------------------


def round_lesson(chains, index, restart, fresh, move):
    x = move(torch.where(restart[:, None], fresh, chains[index])).detach()
    chains = chains.clone()
    chains[index] = x
    return chains, x


def round_in_place(chains, index, restart, fresh, move):
    """In the given buffer, without a graph from the start."""
    with torch.no_grad():
        x = chains[index]
        x[restart] = fresh[restart]
        x = move(x)
        chains.index_copy_(0, index, x)
    return [chains, x]


def round_in_a_loop(chains, index, restart, fresh, move):
    start = torch.stack([fresh[i] if restart[i] else chains[k] for i, k in enumerate(index.tolist())])
    x = move(start).detach()
    rows = list(chains)
    for i, k in enumerate(index.tolist()):
        rows[k] = x[i]
    return torch.stack(rows), x


def round_wrong(*, put=None, restart_as=lambda restart: restart, moved=None, places=None, negatives=None):
    def play(chains, index, restart, fresh, move):
        drawn = torch.where(restart_as(restart)[:, None], fresh, chains[index])
        x = moved(drawn, restart, move) if moved else move(drawn).detach()
        after = chains.clone()
        after[places(index) if places else index] = put(drawn, x) if put else x
        return after, negatives(drawn, x) if negatives else x

    return play


def restarts_stay(drawn, restart, move):
    return torch.where(restart[:, None], drawn, move(drawn).detach())


def whole_buffer(chains, index, restart, fresh, move):
    after = move(chains).detach()
    return after, after[index]


def with_graph(chains, index, restart, fresh, move):
    x = move(torch.where(restart[:, None], fresh, chains[index]))
    after = chains.clone()
    after[index] = x
    return after, x


WRONG_3 = {
    "not-put-back": lambda chains, index, restart, fresh, move: (
        chains,
        round_lesson(chains, index, restart, fresh, move)[1],
    ),
    "restart-inverted": round_wrong(restart_as=lambda restart: ~restart),
    "never-restarted": round_wrong(restart_as=torch.zeros_like),
    "restarts-not-moved": round_wrong(moved=restarts_stay),
    "put-back-before-the-move": round_wrong(put=lambda drawn, x: drawn),
    "not-moved": round_wrong(moved=lambda drawn, restart, move: drawn),
    "wrong-places": round_wrong(places=lambda index: torch.arange(len(index))),
    "all-moved": whole_buffer,
    "graph-kept": with_graph,
    "not-two": lambda *given: round_lesson(*given)[0],
}

# 8.4 -----------------------------------------------------------------------------------------------------------------


def curvature_lesson(s, epsilon):
    return 2 / epsilon * (1 - math.sqrt(1 - epsilon / s**2))


def step_lesson(s, r):
    return 4 * r * (1 - r) * s**2


def curvature_by_iteration(s, epsilon):
    """a = (1/s²)/(1 − εa/4), again and again."""
    a = torch.tensor(1 / s**2, dtype=torch.float64)
    for _ in range(20_000):
        a = 1 / (s**2 * (1 - epsilon * a / 4))
    return a


def step_by_bisection(s, r):
    low, high = 0.0, s**2
    for _ in range(60):
        middle = (low + high) / 2
        fits = 1 / oracle.persistent_fixed_point(s, middle) >= r * s**2
        low, high = (middle, high) if fits else (low, middle)
    return np.float64(low)


def a_wrong(function):
    return function, step_lesson


def b_wrong(function):
    return curvature_lesson, function


def root(s, epsilon):
    return math.sqrt(1 - epsilon / s**2)


WRONG_4 = {
    "no-bias": a_wrong(lambda s, e: 1 / s**2),
    "other-root": a_wrong(lambda s, e: 2 / e * (1 + root(s, e))),
    "first-order": a_wrong(lambda s, e: (1 + e / (4 * s**2)) / s**2),
    "wrong-direction": a_wrong(lambda s, e: (1 - e / (4 * s**2)) / s**2),
    "variance-given": a_wrong(lambda s, e: 1 / curvature_lesson(s, e)),
    "gradient-step": a_wrong(lambda s, e: (1 - math.sqrt(1 - 2 * e / s**2)) / e),
    "std-for-variance": a_wrong(lambda s, e: 2 / e * (1 - math.sqrt(1 - e / s))),
    "bias-of-the-chains": b_wrong(lambda s, r: 4 * (1 - r) * s**2),
    "formula-of-lesson-7": b_wrong(lambda s, r: 4 * s**2 * (1 - r) / (1 + (1 - r))),
    "inverse-share": b_wrong(lambda s, r: 4 * (1 / r - 1) * s**2),
    "the-limit": b_wrong(lambda s, r: s**2),
    "stability-limit": b_wrong(lambda s, r: 4 * s**2),
    "four-forgotten": b_wrong(lambda s, r: r * (1 - r) * s**2),
    "r-alone": b_wrong(lambda s, r: 4 * r * (1 - r)),
}

# 8.5 -----------------------------------------------------------------------------------------------------------------

TRUE = {1: "a", 2: "c", 3: "d", 4: "b", 5: "e"}
WRONG_5 = {
    "level-misread": TRUE | {1: "d"},
    "norm-misread": TRUE | {2: "b"},
    "ages-misread": TRUE | {3: "a"},
    "gap-misread": TRUE | {4: "e"},
    "acceptance-misread": TRUE | {5: "b"},
    "patient-missing": {k: v for k, v in TRUE.items() if k != 3},
    "unknown-letter": TRUE | {4: "f"},
    "wrong-type": list(TRUE.values()),
    "keys-not-patients": {letter: patient for patient, letter in TRUE.items()},
}

RIGHT = {
    "8.1": [loss_lesson, loss_library, loss_in_sums],
    "8.2": [gradient_lesson, gradient_autograd, gradient_library, gradient_numpy],
    "8.3": [round_lesson, round_in_place, round_in_a_loop],
    "8.4": [(curvature_lesson, step_lesson), (curvature_by_iteration, step_by_bisection)],
    "8.5": [TRUE, {str(k): f" {v.upper()}" for k, v in TRUE.items()}],
}
WRONG = {"8.1": WRONG_1, "8.2": WRONG_2, "8.3": WRONG_3, "8.4": WRONG_4, "8.5": WRONG_5}
CHECKS = {
    "8.1": training_ebms.loss,
    "8.2": training_ebms.gradient,
    "8.3": training_ebms.buffer_round,
    "8.4": training_ebms.fixed_point,
    "8.5": training_ebms.diagnoses,
}


def ask(number, answer):
    return CHECKS[number](*answer) if isinstance(answer, tuple) else CHECKS[number](answer)


@pytest.mark.parametrize("number", ["8.1", "8.2", "8.3"])
def test_nothing_at_all(number):
    assert CHECKS[number](lambda *args: None).mistake == "returned-none"
    assert CHECKS[number](lambda *args: ...).status == "open"


def test_unknown_mistakes_are_still_mistakes():
    assert training_ebms.loss(lambda *args: torch.zeros(())).mistake == "wrong-value"
    assert training_ebms.gradient(lambda *args: torch.zeros(7, 5)).mistake == "wrong-shape"
    assert training_ebms.fixed_point(lambda s, e: 0.1, step_lesson).mistake == "wrong-value"
    assert training_ebms.fixed_point(curvature_lesson, lambda s, r: 0.1).mistake == "wrong-value"
    assert training_ebms.diagnoses(...).status == "open"
