"""Right answers pass, in several styles; each typical mistake is called by its name."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from helpers.checks import start_here

RIGHT = {}
WRONG = {}

# 0.1: y = 5 − 3ε -----------------------------------------------------------------------------------------------------

RIGHT["0.1"] = [(5, 9), (torch.tensor(5.0), np.float64((-3) ** 2)), (5 + 0 * -3, 3.0**2)]
WRONG["0.1"] = {
    "shift-forgotten": (0, 9),
    "added-factor": (5 - 3, 9),
    "swapped": (9, 5),
    "std-for-variance": (5, 3),
    "negative-variance": (5, -9),
    "not-scaled": (5, 1),
    "shifted-variance": (5, 5 + 9),
    "wrong-value": (5, 7),
    "returned-none": (5, None),
    "wrong-shape": ([5, 9], 9),
}

# 0.2: two steps of noise ---------------------------------------------------------------------------------------------

RIGHT["0.2"] = [
    (0.6 * 0.8, math.sqrt((0.6 * 0.6) ** 2 + 0.8**2)),
    (torch.tensor(0.48), torch.tensor(1 - 0.48**2).sqrt()),
    (0.48, 0.88),  # rounded by hand
]
WRONG["0.2"] = {
    "added-factors": (0.6 + 0.8, 0.877),
    "squared-signal": (0.48**2, 0.877),
    "one-step-only": (0.8, 0.877),
    "added-standard-deviations": (0.48, 0.6 * 0.6 + 0.8),
    "variance-for-std": (0.48, 0.36**2 + 0.8**2),
    "first-noise-not-scaled": (0.48, math.hypot(0.6, 0.8)),
    "last-noise-only": (0.48, 0.8),
    "wrong-value": (0.48, 0.3),
}

# 0.3: the length of noise --------------------------------------------------------------------------------------------

RIGHT["0.3"] = [(3072, 3072**0.5), (3 * 32 * 32, 55.4), (torch.ones(3, 32, 32).sum(), math.sqrt(3) * 32)]
WRONG["0.3"] = {
    "expected-zero": (0, 0),
    "mean-for-sum": (1, 1),
    "channels-forgotten": (32 * 32, 32),
    "root-taken": (3072**0.5, 3072**0.5),
    "root-forgotten": (3072, 3072),
    "wrong-value": (3072, 96),
}

# 0.4: the posterior of a Gaussian ------------------------------------------------------------------------------------


def posterior_on_a_grid():
    x = torch.linspace(-10, 20, 30_001, dtype=torch.float64)
    p = (Normal(0.0, 2.0).log_prob(x) + Normal(x, 1.0).log_prob(torch.tensor(5.0, dtype=torch.float64))).softmax(0)
    mean = (p * x).sum()
    return mean, (p * (x - mean) ** 2).sum()


RIGHT["0.4"] = [(4, 0.8), (Fraction(4, 5) * 5 + 0.0, 1 / (1 / 4 + 1)), posterior_on_a_grid()]
WRONG["0.4"] = {
    "weights-swapped": (1, 0.8),
    "prior-ignored": (5, 0.8),
    "plain-average": (2.5, 0.8),
    "observation-ignored": (0, 4),
    "std-for-variance": (5 * 2 / (2 + 1), 0.8),
    "precision-for-variance": (4, 1 / 4 + 1),
    "variances-added": (4, 5),
    "wrong-value": (4, 0.1),
}

# 0.5: two divergences ------------------------------------------------------------------------------------------------


def kl_by_torch():
    q, p = Categorical(torch.tensor([0.5, 0.5])), Categorical(torch.tensor([0.25, 0.75]))
    return kl_divergence(q, p), kl_divergence(Normal(1.0, 0.5), Normal(4.0, 0.5))


_COINS = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
RIGHT["0.5"] = [(_COINS, 9 / (2 * 0.25)), kl_by_torch(), (0.144, 18), (0.14, 18)]
WRONG["0.5"] = {
    "direction": (0.25 * math.log(0.5) + 0.75 * math.log(1.5), 18),
    "base-two": (_COINS / math.log(2), 18),
    "sign": (-_COINS, 18),
    "not-weighted": (math.log(2) + math.log(2 / 3), 18),
    "std-for-variance": (_COINS, 9 / (2 * 0.5)),
    "std-forgotten": (_COINS, 9 / 2),
    "half-forgotten": (_COINS, 9 / 0.25),
    "not-squared": (_COINS, 3 / (2 * 0.25)),
    "wrong-value": (_COINS, 1),
}

# 0.6: the chain rule -------------------------------------------------------------------------------------------------


def gradients_by_torch():
    w, x, y = (torch.tensor(v, requires_grad=True) for v in (4.0, 3.0, 2.0))
    return *torch.autograd.grad((w * x - y) ** 2, (w, x)), torch.autograd.grad(w * x * x, x)[0]


def gradients_by_differences(h=1e-5):
    def loss(w, x):
        return (w * x - 2) ** 2

    dw = (loss(4 + h, 3) - loss(4 - h, 3)) / (2 * h)
    return dw, (loss(4, 3 + h) - loss(4, 3 - h)) / (2 * h), (4 * (3 + h) ** 2 - 4 * (3 - h) ** 2) / (2 * h)


RIGHT["0.6"] = [(60, 80, 24), gradients_by_torch(), gradients_by_differences()]
WRONG["0.6"] = {
    "inner-forgotten": (20, 20, 24),
    "outer-forgotten": (3, 4, 24),
    "factor-two": (30, 40, 24),
    "swapped": (80, 60, 24),
    "one-path": (60, 80, 12),
    "values-multiplied": (60, 80, 36),
    "wrong-value": (60, 80, 0),
}

# 0.7: the score ------------------------------------------------------------------------------------------------------


def score_by_autograd(x, mean, std):
    x = x.requires_grad_()
    return torch.autograd.grad(Normal(mean, std).log_prob(x).sum(), x)[0]


def score_by_numpy(x, mean, std):
    return np.array([(mean - value) / std**2 for value in x.tolist()])


RIGHT["0.7"] = [lambda x, mean, std: (mean - x) / std**2, score_by_autograd, score_by_numpy]
WRONG["0.7"] = {
    "sign": lambda x, mean, std: (x - mean) / std**2,
    "std-for-variance": lambda x, mean, std: (mean - x) / std,
    "half-left": lambda x, mean, std: (mean - x) / (2 * std**2),
    "half-forgotten": lambda x, mean, std: 2 * (mean - x) / std**2,
    "mean-forgotten": lambda x, mean, std: -x / std**2,
    "not-scaled": lambda x, mean, std: mean - x,
    "density-slope": lambda x, mean, std: Normal(mean, std).log_prob(x).exp() * (mean - x) / std**2,
    "log-density": lambda x, mean, std: Normal(mean, std).log_prob(x),
    "exponent": lambda x, mean, std: -0.5 * ((x - mean) / std) ** 2,
    "density": lambda x, mean, std: Normal(mean, std).log_prob(x).exp(),
    "returned-none": lambda x, mean, std: None,
    "wrong-shape": lambda x, mean, std: ((mean - x) / std**2).sum(),
    "wrong-value": lambda x, mean, std: (mean - x) / std**3,
}

# 0.8: broadcasting ---------------------------------------------------------------------------------------------------


def scale_in_a_loop(images, a):
    return torch.stack([image * float(number) for image, number in zip(images, a, strict=True)])


def scale_in_place(images, a):
    return images.mul_(a.reshape(-1, 1, 1, 1))


RIGHT["0.8"] = [
    lambda images, a: images * a[:, None, None, None],
    lambda images, a: torch.einsum("bchw,b->bchw", images, a),
    lambda images, a: (images.permute(1, 2, 3, 0) * a).permute(3, 0, 1, 2).numpy(),
    scale_in_a_loop,
]
WRONG["0.8"] = {
    "lined-up-with-width": lambda images, a: images * a,
    "lined-up-with-height": lambda images, a: images * a.reshape(-1, 1),
    "lined-up-with-channels": lambda images, a: images * a.reshape(-1, 1, 1),
    "added": lambda images, a: images + a.reshape(-1, 1, 1, 1),
    "input-changed": scale_in_place,
    "raised": lambda images, a: images @ a.reshape(3, 7),
    "wrong-value": lambda images, a: images * a.mean(),
}

CHECKS = {
    "0.1": start_here.scale_and_shift,
    "0.2": start_here.two_noises,
    "0.3": start_here.noise_length,
    "0.4": start_here.best_guess,
    "0.5": start_here.divergence,
    "0.6": start_here.chain_rule,
    "0.7": start_here.score,
    "0.8": start_here.one_number_per_image,
}


def ask(number, answer):
    return CHECKS[number](*answer) if isinstance(answer, tuple) else CHECKS[number](answer)


@pytest.mark.parametrize("number", CHECKS)
def test_every_advice_names_a_section_of_the_refresher(number):
    sections = {"Gaussians", "Bayes' rule", "KL divergence", "The chain rule", "Tensors and broadcasting"}
    for name in set(WRONG[number]) - {"returned-none", "wrong-shape", "raised", "density-slope", "added"}:
        message = ask(number, WRONG[number][name]).message
        if name != "wrong-value" or number not in ("0.7", "0.8"):
            assert any(message.endswith(f'Refresher: "{section}".') for section in sections), message


@pytest.mark.parametrize(
    ("number", "answer", "name"),
    [
        ("0.1", (5, -3), "negative-variance"),
        ("0.2", (0.48, 1.4), "added-factors"),
        ("0.3", (3072, 32), "channels-forgotten"),
        ("0.3", (3072, 1), "mean-for-sum"),
        ("0.4", (4, 0.8**0.5), "std-for-variance"),
        ("0.4", (4, 1), "prior-ignored"),
        ("0.4", (4, 4), "observation-ignored"),
        ("0.5", (_COINS, -18), "sign"),
        ("0.6", (60, 60, 24), "swapped"),
    ],
)
def test_the_same_mistake_in_the_other_value(number, answer, name):
    assert ask(number, answer).mistake == name


def test_a_known_mistake_goes_before_an_unknown_one():
    assert ask("0.1", (7, 3)).mistake == "std-for-variance"


@pytest.mark.parametrize("number", CHECKS)
def test_open(number):
    def stub(*_):
        raise NotImplementedError

    n_values = {"0.6": 3, "0.7": 1, "0.8": 1}.get(number, 2)
    assert CHECKS[number](*[...] * n_values).status == "open"
    if n_values > 1:  # half done is not done
        assert CHECKS[number](1.0, *[...] * (n_values - 1)).status == "open"
    else:
        assert CHECKS[number](stub).status == "open"
