"""Right answers pass, in several styles; each typical mistake is called by its name."""

import math

import numpy as np
import pytest
import torch

from helpers import ebm, oracle
from helpers.checks import energy_diffusion
from helpers.energy import GradientField, score

# 9.1 -----------------------------------------------------------------------------------------------------------------


def score_plain(x, mean, s, sigma):
    return -(x - mean) / (s**2 + sigma**2)


def score_oracle(x, mean, s, sigma):
    """By the oracle's mixture of one, in DDPM's units."""
    a = 1 / (1 + sigma**2)
    return math.sqrt(a) * oracle.GaussianMixture(mean[None], s**2).score(math.sqrt(a) * x, a)


def score_tweedie(x, mean, s, sigma):
    """(D − x)/σ², with the denoiser of a Gaussian; in numpy."""
    denoised = mean + s**2 / (s**2 + sigma**2) * (x - mean)
    return ((denoised - x) / sigma**2).numpy()


# 9.2 -----------------------------------------------------------------------------------------------------------------


def slope_of(energy, x, reduce=torch.sum):
    inside = x.detach().requires_grad_()
    return torch.autograd.grad(reduce(energy(inside)), inside)[0]


def denoise_plain(energy, x, sigma):
    return x - sigma**2 * slope_of(energy, x)


def denoise_library(energy, x, sigma):
    return x + sigma**2 * score(energy, x)


def denoise_one_by_one(energy, x, sigma):
    return torch.stack([x[k] - sigma**2 * slope_of(energy, x[k : k + 1])[0] for k in range(len(x))]).numpy()


def denoise_in_place(energy, x, sigma):
    slope = slope_of(energy, x)
    x -= sigma**2 * slope
    return x


def denoise_tracking(energy, x, sigma):
    (slope,) = torch.autograd.grad(energy(x.requires_grad_()).sum(), x)
    return (x - sigma**2 * slope).detach()


def denoise_leaking(energy, x, sigma):
    inside = x.clone().requires_grad_()
    energy(inside).sum().backward()
    return x - sigma**2 * inside.grad


# 9.3 -----------------------------------------------------------------------------------------------------------------


def jacobian(field, x):
    return torch.autograd.functional.jacobian(field, x)


def share_plain(field, x):
    J = jacobian(field, x)
    return (J - J.T).square().sum() / (4 * J.square().sum())


def share_by_parts(field, x):
    """|A|²/(|A|² + |S|²), the Jacobian by torch.func."""
    J = torch.func.jacrev(field)(x)
    antisymmetric, symmetric = (J - J.T) / 2, (J + J.T) / 2
    return (antisymmetric.norm() ** 2 / (antisymmetric.norm() ** 2 + symmetric.norm() ** 2)).item()


def share_by_columns(field, x):
    """By one product Jv for each direction; a tensor of one element."""
    columns = [torch.autograd.functional.jvp(field, x, e)[1] for e in torch.eye(len(x), dtype=x.dtype)]
    J = torch.stack(columns, dim=1).numpy()
    return np.array([((J - J.T) ** 2).sum() / (4 * (J**2).sum())])


def share_wrong(combine):
    return lambda field, x: combine(jacobian(field, x))


# 9.4 -----------------------------------------------------------------------------------------------------------------


def field_plain(network, u):
    u = u.detach().requires_grad_()
    potential = (u * network(u)).sum() / 2
    return torch.autograd.grad(potential, u)[0]


def field_library(network, u):
    class Network(torch.nn.Module):
        def forward(self, u, c_noise):
            return network(u)

    return GradientField(Network())(u, torch.zeros(len(u)))


def field_by_vjp(network, u):
    answer, pull = torch.func.vjp(network, u)
    return ((answer + pull(u)[0]) / 2).numpy()


def field_pushed(network, u):
    answer, pushed = torch.autograd.functional.jvp(network, u, u)
    return (answer + pushed) / 2


# 9.5 -----------------------------------------------------------------------------------------------------------------


def variances_plain(s_a, s_b, sigma):
    a, b, n = s_a**2, s_b**2, sigma**2
    return 1 / (1 / a + 1 / b) + n, 1 / (1 / (a + n) + 1 / (b + n))


def variances_tensor(s_a, s_b, sigma):
    v = torch.tensor([s_a, s_b], dtype=torch.float64) ** 2
    return torch.stack([1 / (1 / v).sum() + sigma**2, 1 / (1 / (v + sigma**2)).sum()])


def variances_by_grid(s_a, s_b, sigma):
    """On a grid, from the definitions."""
    x = np.linspace(-40, 40, 4001)

    def normal(variance):
        return np.exp(-(x**2) / (2 * variance))

    def spread(p):
        return (p * x**2).sum() / p.sum()

    return [
        spread(normal(s_a**2) * normal(s_b**2)) + sigma**2,
        spread(normal(s_a**2 + sigma**2) * normal(s_b**2 + sigma**2)),
    ]


def variances_wrong(rule):
    return lambda s_a, s_b, sigma: rule(s_a**2, s_b**2, sigma**2)


# 9.6 -----------------------------------------------------------------------------------------------------------------


def weigh_plain(base, energy, states, betas):
    log_w = 0
    for k, x in enumerate(states):
        log_w = log_w + (betas[k + 1] - betas[k]) * (base(x) - energy(x))
    return log_w


def weigh_vectorised(base, energy, states, betas):
    steps = torch.tensor(betas, dtype=torch.float64).diff()
    flat = states.flatten(0, 1)
    return (steps @ (base(flat) - energy(flat)).reshape(states.shape[:2])).numpy()


def weigh_by_bridges(base, energy, states, betas):
    """log of the ratio of neighbouring densities, E_β − E_β' at the same state."""

    def bridge(x, beta):
        return (1 - beta) * base(x) + beta * energy(x)

    steps = zip(states, betas[:-1], betas[1:], strict=True)
    return torch.stack([bridge(x, beta) - bridge(x, later) for x, beta, later in steps]).sum(0)


def weigh_wrong(term, reduce=lambda values: values.sum(0), order=lambda states: states):
    def weigh(base, energy, states, betas):
        values = [term(base(x), energy(x), betas[k], betas[k + 1]) for k, x in enumerate(order(states))]
        return reduce(torch.stack(values))

    return weigh


def step_term(e_0, e, beta, later):
    return (later - beta) * (e_0 - e)


def weigh_after_the_move(base, energy, states, betas):
    """At β_k the chains have moved already, and the weight of the step to it is gathered."""
    log_w = 0
    for k in range(1, len(states)):
        log_w = log_w + (betas[k] - betas[k - 1]) * (base(states[k]) - energy(states[k]))
    return log_w


RIGHT = {
    "9.1": [score_plain, score_oracle, score_tweedie],
    "9.2": [denoise_plain, denoise_library, denoise_one_by_one],
    "9.3": [share_plain, share_by_parts, share_by_columns],
    "9.4": [field_plain, field_library, field_by_vjp],
    "9.5": [variances_plain, variances_tensor, variances_by_grid],
    "9.6": [weigh_plain, weigh_vectorised, weigh_by_bridges],
}
WRONG = {
    "9.1": {
        "wrong-sign": lambda x, mean, s, sigma: (x - mean) / (s**2 + sigma**2),
        "clean-score": lambda x, mean, s, sigma: (mean - x) / s**2,
        "noise-only": lambda x, mean, s, sigma: (mean - x) / sigma**2,
        "deviations-added": lambda x, mean, s, sigma: (mean - x) / (s + sigma) ** 2,
        "not-squared": lambda x, mean, s, sigma: (mean - x) / (s + sigma),
        "deviation-in-place-of-variance": lambda x, mean, s, sigma: (mean - x) / math.hypot(s, sigma),
        "mean-forgotten": lambda x, mean, s, sigma: -x / (s**2 + sigma**2),
        "noise-guess": lambda x, mean, s, sigma: sigma * (x - mean) / (s**2 + sigma**2),
        "denoised": lambda x, mean, s, sigma: (sigma**2 * mean + s**2 * x) / (s**2 + sigma**2),
    },
    "9.2": {
        "uphill": lambda energy, x, sigma: x + sigma**2 * slope_of(energy, x),
        "sigma-not-squared": lambda energy, x, sigma: x - sigma * slope_of(energy, x),
        "half-a-step": lambda energy, x, sigma: x - sigma**2 / 2 * slope_of(energy, x),
        "noise-guess": lambda energy, x, sigma: sigma * slope_of(energy, x),
        "score": lambda energy, x, sigma: -slope_of(energy, x),
        "no-sigma": lambda energy, x, sigma: x - slope_of(energy, x),
        "batch-mean": lambda energy, x, sigma: x - sigma**2 * slope_of(energy, x, torch.mean),
        "changed-in-place": denoise_in_place,
        "tracking-left-on": denoise_tracking,
        "gradient-left-in-the-parameters": denoise_leaking,
    },
    "9.3": {
        "factor-four": share_wrong(lambda J: (J - J.T).square().sum() / J.square().sum()),
        "factor-two": share_wrong(lambda J: (J - J.T).square().sum() / (2 * J.square().sum())),
        "symmetric-part": share_wrong(lambda J: (J + J.T).square().sum() / (4 * J.square().sum())),
        "not-squared": share_wrong(lambda J: (J - J.T).norm() / (2 * J.norm())),
        "against-symmetric": share_wrong(lambda J: ((J - J.T).norm() / (J + J.T).norm()) ** 2),
    },
    "9.4": {
        "network-itself": lambda network, u: network(u),
        "no-half": lambda network, u: 2 * field_plain(network, u),
        "jacobian-forgotten": lambda network, u: network(u) / 2,
        "second-factor-only": lambda network, u: field_plain(network, u) - network(u) / 2,
        "jacobian-not-transposed": field_pushed,
        "wrong-sign": lambda network, u: -field_plain(network, u),
        "batch-mean": lambda network, u: field_plain(network, u) / len(u),
    },
    "9.5": {
        "swapped": lambda *case: variances_plain(*case)[::-1],
        "variances-added": variances_wrong(lambda a, b, n: (a + b + n, a + b + 2 * n)),
        "precisions": lambda *case: tuple(1 / v for v in variances_plain(*case)),
        "precision-not-inverted": variances_wrong(lambda a, b, n: (1 / a + 1 / b + n, 1 / (a + n) + 1 / (b + n))),
        "not-squared": lambda s_a, s_b, sigma: variances_plain(s_a**0.5, s_b**0.5, sigma**0.5),
        "noise-not-squared": lambda s_a, s_b, sigma: variances_plain(s_a, s_b, sigma**0.5),
        "standard-deviations": lambda *case: tuple(math.sqrt(v) for v in variances_plain(*case)),
        "they-commute": lambda *case: (variances_plain(*case)[0],) * 2,
        "one-noise-only": variances_wrong(lambda a, b, n: (a * b / (a + b) + n, (a + n) * b / (a + b + n))),
        "mean-of-variances": variances_wrong(lambda a, b, n: ((a + b) / 2 + n,) * 2),
    },
    "9.6": {
        "wrong-sign": weigh_wrong(lambda e_0, e, beta, later: (later - beta) * (e - e_0)),
        "steps-forgotten": weigh_wrong(lambda e_0, e, beta, later: e_0 - e),
        "even-steps": weigh_wrong(lambda e_0, e, beta, later: e_0 - e, lambda values: values.mean(0)),
        "mean-of-steps": weigh_wrong(step_term, lambda values: values.mean(0)),
        "base-forgotten": weigh_wrong(lambda e_0, e, beta, later: -(later - beta) * e),
        "bridge-energies": weigh_wrong(lambda e_0, e, beta, later: -((1 - later) * e_0 + later * e)),
        "product-of-logs": weigh_wrong(step_term, lambda values: values.prod(0)),
        "weights": weigh_wrong(step_term, lambda values: values.sum(0).exp()),
        "states-backwards": weigh_wrong(step_term, order=lambda states: states.flip(0)),
        "states-shifted": weigh_wrong(step_term, order=lambda states: states.roll(-1, 0)),
        "after-the-move": weigh_after_the_move,
        "after-the-move-last-twice": weigh_wrong(step_term, order=lambda states: [*states[1:], states[-1]]),
        "last-step-forgotten": weigh_wrong(step_term, order=lambda states: states[:-1]),
        "first-step-forgotten": weigh_wrong(lambda e_0, e, beta, later: (later - beta) * (e_0 - e) * (beta > 0)),
    },
}
CHECKS = {
    "9.1": energy_diffusion.noised_score,
    "9.2": energy_diffusion.denoise,
    "9.3": energy_diffusion.antisymmetric_share,
    "9.4": energy_diffusion.inner_product_field,
    "9.5": energy_diffusion.product_variances,
    "9.6": energy_diffusion.log_weights,
}


@pytest.mark.parametrize("number", CHECKS)
def test_unknown_mistakes_and_nothing_at_all(number):
    assert CHECKS[number](lambda *args: None).mistake == "returned-none"
    assert CHECKS[number](lambda *args: torch.zeros(7, 5)).mistake == "wrong-shape"
    assert CHECKS[number](lambda *args: ...).status == "open"


def test_weights_are_those_of_the_library():
    """Exercise 9.6 asks for what ``ais_log_z`` gathers where nothing moves: one level."""
    estimate = ebm.ais_log_z(
        lambda x: x.square().sum(1), (2,), 10, ebm.AISSettings(1), generator=torch.Generator().manual_seed(0)
    )
    x = torch.randn(10, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def base(x):
        return x.square().sum(1) / 2 + math.log(2 * math.pi)

    expected = weigh_plain(base, lambda x: x.square().sum(1), x[None], [0.0, 1.0])
    torch.testing.assert_close(estimate.log_weights, expected)
