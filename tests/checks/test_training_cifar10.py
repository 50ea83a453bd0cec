"""Right answers pass, in several styles; each typical mistake is called by its name."""

import math

import numpy as np
import pytest
import torch

from helpers import diffusion, training
from helpers.checks import training_cifar10

# 10.1 ----------------------------------------------------------------------------------------------------------------


def shell_moments(alpha_bar, s):
    moment = alpha_bar * s**2 + 1 - alpha_bar
    return alpha_bar.sqrt() * s**2 / moment, s * ((1 - alpha_bar) / moment).sqrt(), 1 / moment.sqrt()


def shell_from_edm(alpha_bar, s):
    """EDM's factors for x/√ᾱ, brought back; in numpy."""
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    c = diffusion.EDMPrecond(torch.nn.Identity(), s).coefficients(sigma)
    scale = alpha_bar.rsqrt().numpy()
    return [c.skip.numpy() * scale, c.out.numpy(), c.input.numpy() * scale]


def shell_by_precisions(alpha_bar, s):
    """Precisions add; a tensor."""
    rest = 1 / (1 / s**2 + alpha_bar / (1 - alpha_bar))
    return torch.stack(
        [
            rest * alpha_bar.sqrt() / (1 - alpha_bar),
            rest.sqrt(),
            torch.hypot(alpha_bar.sqrt() * s, (1 - alpha_bar).sqrt()) ** -1,
        ]
    )


def shell_with(skip=None, out=None, inner=None):
    """The right shell with some factors replaced."""

    def factors(a, s):
        moment = a * s**2 + 1 - a
        right = shell_moments(a, s)
        changes = (skip, out, inner)
        return tuple(
            factor if change is None else change(a, s, moment) for factor, change in zip(right, changes, strict=True)
        )

    return factors


def shell_of_edm(sigma2):
    def factors(a, s):
        v = sigma2(a)
        return s**2 / (s**2 + v), s * (v / (s**2 + v)).sqrt(), (s**2 + v).rsqrt()

    return factors


WRONG_1 = {
    "not-shrunk": shell_of_edm(lambda a: 1 - a),
    "other-units": shell_of_edm(lambda a: (1 - a) / a),
    "unit-data": lambda a, s: shell_moments(a, 1.0),
    "wrong-order": lambda a, s: shell_moments(a, s)[::-1],
    "not-three": lambda a, s: shell_moments(a, s)[:2],
    "not-rooted": shell_with(inner=lambda a, s, m: 1 / m),
    "upside-down": shell_with(inner=lambda a, s, m: m.sqrt()),
    "s-not-squared": shell_with(skip=lambda a, s, m: a.sqrt() * s / m),
    "standard-deviations-added": shell_with(inner=lambda a, s, m: 1 / (a.sqrt() * s + (1 - a).sqrt())),
    "ddpm": shell_with(skip=lambda a, s, m: 1 / a.sqrt()),
    "cross-moment-without-root": shell_with(skip=lambda a, s, m: s**2 / m),
    "alpha-not-rooted": shell_with(skip=lambda a, s, m: a * s**2 / m),
    "correlation": shell_with(skip=lambda a, s, m: a.sqrt() * s / m.sqrt()),
    "variance": shell_with(out=lambda a, s, m: s**2 * (1 - a) / m),
    "negative": shell_with(out=lambda a, s, m: -s * ((1 - a) / m).sqrt()),
    "noise-alone": shell_with(out=lambda a, s, m: (1 - a).sqrt()),
    "s-forgotten": shell_with(out=lambda a, s, m: ((1 - a) / m).sqrt()),
}
MORE_1 = [
    ("not-shrunk", shell_with(inner=lambda a, s, m: (s**2 + 1 - a).rsqrt())),
    ("s-not-squared", shell_with(inner=lambda a, s, m: (a * s + 1 - a).rsqrt())),
    ("ddpm", shell_with(out=lambda a, s, m: ((1 - a) / a).sqrt())),
    ("returned-none", lambda a, s: None),
    ("wrong-value", shell_with(out=lambda a, s, m: 0.3 * a)),
]

# 10.2 ----------------------------------------------------------------------------------------------------------------


def decay_power(n_images, half_life, rampup, seen):
    return 0.5 ** (n_images / min(half_life, rampup * seen))


def decay_exponential(n_images, half_life, rampup, seen):
    limit = torch.tensor([half_life, rampup * seen], dtype=torch.float64).amin()
    return torch.exp(-math.log(2) * n_images / limit)


def decay_library(n_images, half_life, rampup, seen):
    average = training.EMA(torch.nn.Linear(1, 1), half_life, rampup)
    average.images_seen = seen - n_images
    return np.float64(average.decay(n_images))


WRONG_2 = {
    "ramp-up-ignored": lambda n, h, r, seen: 0.5 ** (n / h),
    "ramp-up-only": lambda n, h, r, seen: 0.5 ** (n / (r * seen)),
    "larger-of-both": lambda n, h, r, seen: 0.5 ** (n / max(h, r * seen)),
    "e-folding": lambda n, h, r, seen: math.exp(-n / min(h, r * seen)),
    "share-of-the-new": lambda n, h, r, seen: 1 - decay_power(n, h, r, seen),
    "counted-in-steps": lambda n, h, r, seen: 0.5 ** (1 / min(h, r * seen)),
    "upside-down": lambda n, h, r, seen: 0.5 ** (min(h, r * seen) / n),
    "first-order": lambda n, h, r, seen: 1 - math.log(2) * n / min(h, r * seen),
    "linear": lambda n, h, r, seen: 1 - n / min(h, r * seen),
    "new-images-missing": lambda n, h, r, seen: 0.5 ** (n / min(h, r * (seen - n))),
    "new-images-twice": lambda n, h, r, seen: 0.5 ** (n / min(h, r * (seen + n))),
}

# 10.3 ----------------------------------------------------------------------------------------------------------------


def levels_lesson(n, generator):
    place = torch.rand(n, generator=generator, dtype=torch.float64)
    uniform = (torch.randperm(n, generator=generator) + place) / n
    return torch.exp(-1.2 + 1.2 * torch.special.ndtri(uniform))


def levels_shuffled_afterwards(n, generator):
    """In float32 and numpy, by the error function."""
    edges = torch.linspace(0, 1, n + 1)[:-1]
    uniform = (edges + torch.rand(n, generator=generator) / n).clamp(1e-6, 1 - 1e-6)
    sigma = (-1.2 + 1.2 * math.sqrt(2) * torch.erfinv(2 * uniform - 1)).exp()
    return sigma[torch.randperm(n, generator=generator)].numpy()


def levels_with(
    mean=-1.2,
    std=1.2,
    places=lambda n, g: torch.rand(n, generator=g, dtype=torch.float64),
    parts=lambda n, g: torch.randperm(n, generator=g),
    end=torch.exp,
    to_normal=torch.special.ndtri,
):
    def draw(n, generator):
        return end(mean + std * to_normal((parts(n, generator) + places(n, generator)) / n))

    return draw


WRONG_3 = {
    "independent": lambda n, g: (-1.2 + 1.2 * torch.randn(n, generator=g)).exp(),
    "no-exponential": levels_with(end=lambda x: x),
    "variance-for-standard-deviation": levels_with(std=1.44),
    "root-for-standard-deviation": levels_with(std=1.2**0.5),
    "wrong-sign": levels_with(mean=1.2),
    "mean-forgotten": levels_with(mean=0.0),
    "standard-deviation-forgotten": levels_with(std=1.0),
    "base-ten": levels_with(end=lambda x: 10**x),
    "uniform": levels_with(to_normal=lambda u: u),
    "fixed-places": levels_with(places=lambda n, g: 0.5),
    "one-place-for-all": levels_with(places=lambda n, g: torch.rand(1, generator=g, dtype=torch.float64)),
    "sorted": levels_with(parts=lambda n, g: torch.arange(n)),
    "generator-ignored": lambda n, g: levels_lesson(n, torch.Generator().manual_seed(torch.seed() % 2**31)),
    "always-the-same": lambda n, g: levels_lesson(n, torch.Generator().manual_seed(0)),
    "wrong-distribution": levels_with(std=3.0),
}
MORE_3 = [
    ("sorted", levels_with(parts=lambda n, g: torch.arange(n).flip(0))),
    ("independent", lambda n, g: levels_lesson(2 * n, g)[:n]),
    ("fixed-places", levels_with(places=lambda n, g: 0.25)),
    ("wrong-shape", lambda n, g: levels_lesson(n, g)[:, None]),
]

# 10.4 ----------------------------------------------------------------------------------------------------------------


def hours_rate(n_images, forward_gflop, machine_tflops, share):
    per_second = share * machine_tflops * 1e12 / (3 * forward_gflop * 1e9)
    return n_images / per_second / 3600


def hours_work(n_images, forward_gflop, machine_tflops, share):
    work = torch.tensor(n_images * (forward_gflop + 2 * forward_gflop) / 1000, dtype=torch.float64)  # TFLOP
    return work / (machine_tflops * share * 60 * 60)


WRONG_4 = {
    "forward-only": lambda n, f, m, s: n * f / 1000 / (m * s) / 3600,
    "backward-like-forward": lambda n, f, m, s: 2 * n * f / 1000 / (m * s) / 3600,
    "share-ignored": lambda n, f, m, s: 3 * n * f / 1000 / m / 3600,
    "share-upside-down": lambda n, f, m, s: 3 * n * f / 1000 / m * s / 3600,
    "seconds": lambda n, f, m, s: 3 * n * f / 1000 / (m * s),
    "minutes": lambda n, f, m, s: 3 * n * f / 1000 / (m * s) / 60,
    "days": lambda n, f, m, s: 3 * n * f / 1000 / (m * s) / 3600 / 24,
    "giga-is-tera": lambda n, f, m, s: 3 * n * f / (m * s) / 3600,
    "tera-is-giga": lambda n, f, m, s: 3 * n * f / 1e6 / (m * s) / 3600,
    "images-per-second": lambda n, f, m, s: s * m * 1000 / (3 * f),
}

# 10.5 ----------------------------------------------------------------------------------------------------------------


def drop_where(label, n_classes, share, generator):
    dropped = torch.rand(label.shape, generator=generator) < share
    return torch.where(dropped, n_classes, label)


def drop_copy(label, n_classes, share, generator):
    out = label.clone()
    out[torch.bernoulli(torch.full(label.shape, share), generator=generator).bool()] = n_classes
    return out


def drop_arithmetic(label, n_classes, share, generator):
    keep = (torch.rand(len(label), generator=generator) >= share).long()
    return (keep * label + (1 - keep) * n_classes).numpy()


def drop_in_place(label, n_classes, share, generator):
    label[torch.rand(label.shape, generator=generator) < share] = n_classes
    return label


def drop_to(value):
    return lambda y, k, p, g: torch.where(torch.rand(y.shape, generator=g) < p, value(k), y)


def drop_permuted(label, n_classes, share, generator):
    out = label.clone()
    out[torch.randperm(len(label), generator=generator)[: round(share * len(label))]] = n_classes
    return out


def drop_first(label, n_classes, share, generator):
    out = label.clone()
    out[: round(share * len(label))] = n_classes
    return out


WRONG_5 = {
    "class-zero": drop_to(lambda k: 0),
    "last-class": drop_to(lambda k: k - 1),
    "minus-one": drop_to(lambda k: -1),
    "other-labels": lambda y, k, p, g: torch.where(
        torch.rand(y.shape, generator=g) < p, torch.randint(k, y.shape, generator=g), y
    ),
    "in-place": drop_in_place,
    "not-integers": lambda y, k, p, g: drop_where(y, k, p, g).float(),
    "nothing-dropped": lambda y, k, p, g: y.clone(),
    "one-coin-for-all": lambda y, k, p, g: torch.full_like(y, k) if torch.rand(1, generator=g) < p else y.clone(),
    "share-kept": lambda y, k, p, g: torch.where(torch.rand(y.shape, generator=g) > p, k, y),
    "wrong-share": lambda y, k, p, g: torch.where(torch.randn(y.shape, generator=g) < p, k, y),
    "fixed-number": drop_permuted,
    "always-the-same": drop_first,
    "generator-ignored": lambda y, k, p, g: torch.where(torch.rand(y.shape) < p, k, y),
}
MORE_5 = [("always-the-same", lambda y, k, p, g: drop_where(y, k, p, torch.Generator().manual_seed(0)))]

# 10.6 ----------------------------------------------------------------------------------------------------------------


def combine_weights(gradients, counts):
    return ((counts / counts.sum())[:, None] * gradients).sum(0)


def combine_sums(gradients, counts):
    total = sum(int(n) * row for n, row in zip(counts, gradients, strict=True))
    return (total / int(counts.sum())).numpy()


def combine_average(gradients, counts):
    return np.average(gradients.numpy(), axis=0, weights=counts.numpy()).tolist()


def combine_matmul(gradients, counts):
    return (counts / counts.sum()) @ gradients


def combine_einsum(gradients, counts):
    return torch.einsum("p,pd->d", counts / counts.sum(), gradients)


def combine_tensordot(gradients, counts):
    return torch.tensordot(counts.to(gradients.dtype), gradients, dims=1) / counts.sum()


WRONG_6 = {
    "plain-mean": lambda g, n: g.mean(0),
    "mean-of-the-filled": lambda g, n: g[n > 0].mean(0) if (n == 0).any() else combine_weights(g, n),
    "plain-sum": lambda g, n: g.sum(0),
    "not-divided": lambda g, n: (n[:, None] * g).sum(0),
    "divided-by-the-processes": lambda g, n: (n[:, None] * g).mean(0),
    "divided-by-the-counts": lambda g, n: (g / n[:, None]).sum(0),
    "inverse-weights": lambda g, n: (g / n[:, None]).sum(0) / (1 / n).sum(),
    "sums-taken-for-means": lambda g, n: g.sum(0) / n.sum(),
    "empty-part": lambda g, n: combine_weights(g, n) * (n / n).sum() / len(n),
}

RIGHT = {
    "10.1": [shell_moments, shell_from_edm, shell_by_precisions],
    "10.2": [decay_power, decay_exponential, decay_library],
    "10.3": [levels_lesson, levels_shuffled_afterwards, diffusion.stratified_sigmas],
    "10.4": [hours_rate, hours_work],
    "10.5": [drop_where, drop_copy, drop_arithmetic, diffusion.drop_labels],
    "10.6": [
        combine_weights,
        combine_sums,
        combine_average,
        combine_matmul,
        combine_einsum,
        combine_tensordot,
    ],
}
WRONG = {"10.1": WRONG_1, "10.2": WRONG_2, "10.3": WRONG_3, "10.4": WRONG_4, "10.5": WRONG_5, "10.6": WRONG_6}
CHECKS = {
    "10.1": training_cifar10.shell,
    "10.2": training_cifar10.ema_decay,
    "10.3": training_cifar10.stratified,
    "10.4": training_cifar10.hours,
    "10.5": training_cifar10.label_drop,
    "10.6": training_cifar10.combine,
}


@pytest.mark.parametrize("number", CHECKS)
def test_a_stub_is_open_and_nothing_is_named(number):
    def stub(*_):
        raise NotImplementedError

    assert CHECKS[number](stub).status == "open"
    assert CHECKS[number](lambda *_: None).mistake == "returned-none"


def test_checks_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    for number, answers in RIGHT.items():
        CHECKS[number](answers[0])
    assert torch.equal(torch.get_rng_state(), before)
