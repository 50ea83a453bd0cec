"""Right answers pass, in several styles; each typical mistake is called by its name."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.checks import training_ddpm

# 4.1 -----------------------------------------------------------------------------------------------------------------


def loss_lesson(model, x_0, alpha_bar, generator):
    t = torch.randint(len(alpha_bar), (len(x_0),), generator=generator)
    eps = torch.randn(x_0.shape, generator=generator)
    a = alpha_bar[t].to(x_0.dtype).reshape(-1, *[1] * (x_0.ndim - 1))
    return (model(a.sqrt() * x_0 + (1 - a).sqrt() * eps, t) - eps).square().mean()


def loss_noise_first_in_float64(model, x_0, alpha_bar, generator):
    eps = torch.empty_like(x_0, dtype=torch.float64).normal_(generator=generator)
    t = (torch.rand(len(x_0), generator=generator) * len(alpha_bar)).long()
    signal, noise = torch.sqrt(alpha_bar)[t], torch.sqrt(1 - alpha_bar)[t]
    x_t = torch.einsum("b,b...->b...", signal, x_0.double()) + torch.einsum("b,b...->b...", noise, eps)
    return F.mse_loss(model(x_t, t), eps)


def loss_image_by_image(model, x_0, alpha_bar, generator):
    """In loops, the mean taken in two stages, each draw on its own."""
    t, x_t, eps = [], [], []
    for x in x_0:
        t.append(int(torch.randint(0, len(alpha_bar), (1,), generator=generator)))
        eps.append(torch.randn(x.shape, generator=generator))
        a = float(alpha_bar[t[-1]])
        x_t.append(math.sqrt(a) * x + math.sqrt(1 - a) * eps[-1])
    answer = model(torch.stack(x_t), torch.tensor(t))
    return sum((y - e).pow(2).mean() for y, e in zip(answer, eps, strict=True)) / len(x_0)


def loss_wrong(
    *, mix=lambda a: (a.sqrt(), (1 - a).sqrt()), shape=None, t=None, eps=None, target=None, reduce=None, told=None
):
    """The lesson's loss with one thing changed."""

    def loss(model, x_0, alpha_bar, generator):
        n = len(alpha_bar)
        times = t(n, len(x_0), generator) if t else torch.randint(n, (len(x_0),), generator=generator)
        noise = eps(x_0, generator) if eps else torch.randn(x_0.shape, generator=generator)
        a = alpha_bar[times].float()
        a = shape(a) if shape else a.reshape(-1, *[1] * (x_0.ndim - 1))
        signal, scale = mix(a)
        x_t = signal * x_0 + scale * noise
        error = model(x_t, told(times) if told else times) - (target(x_0, x_t, noise) if target else noise)
        return reduce(error) if reduce else error.square().mean()

    return loss


def loss_seeded_inside(model, x_0, alpha_bar, generator):
    return loss_lesson(model, x_0, alpha_bar, torch.Generator().manual_seed(0))


def loss_globally_seeded(model, x_0, alpha_bar, generator):
    torch.manual_seed(0)
    return loss_wrong(eps=lambda x, g: torch.randn_like(x), t=lambda n, b, g: torch.randint(n, (b,)))(
        model, x_0, alpha_bar, generator
    )


def loss_without_return(model, x_0, alpha_bar, generator):
    loss_lesson(model, x_0, alpha_bar, generator)


def loss_from_clean_image(model, x_0, alpha_bar, generator):
    t = torch.randint(len(alpha_bar), (len(x_0),), generator=generator)
    return (model(x_0, t) - torch.randn(x_0.shape, generator=generator)).square().mean()


def loss_other_time(shift):
    """x_t is noised to another time than the network is told."""

    def loss(model, x_0, alpha_bar, generator):
        t = torch.randint(len(alpha_bar), (len(x_0),), generator=generator)
        eps = torch.randn(x_0.shape, generator=generator)
        a = alpha_bar[shift(t)].float().reshape(-1, *[1] * (x_0.ndim - 1))
        return (model(a.sqrt() * x_0 + (1 - a).sqrt() * eps, t) - eps).square().mean()

    return loss


def loss_velocity(model, x_0, alpha_bar, generator):
    """A right loss, for a network that predicts v."""
    t = torch.randint(len(alpha_bar), (len(x_0),), generator=generator)
    eps = torch.randn(x_0.shape, generator=generator)
    a = alpha_bar[t].float().reshape(-1, *[1] * (x_0.ndim - 1))
    v = a.sqrt() * eps - (1 - a).sqrt() * x_0
    return (model(a.sqrt() * x_0 + (1 - a).sqrt() * eps, t) - v).square().mean()


WRONG_1 = {
    "missing-root": loss_wrong(mix=lambda a: (a, 1 - a)),
    "swapped-factors": loss_wrong(mix=lambda a: ((1 - a).sqrt(), a.sqrt())),
    "off-by-one": loss_wrong(told=lambda t: t + 1),
    "wrong-axis": loss_wrong(shape=lambda a: a),
    "same-time": loss_wrong(t=lambda n, b, g: torch.randint(n, (1,), generator=g).expand(b)),
    "missing-times": loss_wrong(t=lambda n, b, g: torch.randint(1, n, (b,), generator=g)),
    "shared-noise": loss_wrong(eps=lambda x, g: torch.randn(x[:1].shape, generator=g).expand_as(x)),
    "uniform-noise": loss_wrong(eps=lambda x, g: torch.rand(x.shape, generator=g)),
    "wrong-noise": loss_wrong(eps=lambda x, g: 2 * torch.rand(x.shape, generator=g) - 1),
    "noise-reused": loss_seeded_inside,
    "global-generator": loss_wrong(eps=lambda x, g: torch.randn_like(x)),
    "wrong-target": loss_wrong(target=lambda x_0, x_t, eps: x_0),
    "clean-input": loss_from_clean_image,
    "sum-not-mean": loss_wrong(reduce=lambda e: e.square().sum()),
    "sum-over-batch": loss_wrong(reduce=lambda e: e.square().flatten(1).mean(1).sum()),
    "not-squared": loss_wrong(reduce=lambda e: e.abs().mean()),
    "not-reduced": loss_wrong(reduce=lambda e: e.square().flatten(1).mean(1)),
    "half-too-much": loss_wrong(reduce=lambda e: e.square().mean() / 2),
    "not-differentiable": loss_wrong(reduce=lambda e: e.square().mean().item()),
    "network-not-asked": lambda model, x_0, alpha_bar, generator: (0 * model.weight).sum(),
    "wrong-times": loss_wrong(told=lambda t: t / 6),
    "wrong-shape": loss_wrong(shape=lambda a: a[:, None, None, None, None]),
}
MORE_1 = [
    ("missing-root", loss_wrong(mix=lambda a: (a.sqrt(), 1 - a))),
    ("missing-root", loss_wrong(mix=lambda a: (a, (1 - a).sqrt()))),
    ("off-by-one", loss_wrong(told=lambda t: t - 1)),
    ("off-by-one", loss_other_time(lambda t: t - 1)),
    ("off-by-one", loss_other_time(lambda t: (t - 1).clamp(min=0))),
    ("off-by-one", loss_other_time(lambda t: (t + 1).clamp(max=5))),
    ("missing-times", loss_wrong(t=lambda n, b, g: torch.randint(n - 1, (b,), generator=g))),
    ("shared-noise", loss_wrong(eps=lambda x, g: torch.randn(len(x), *[1] * (x.ndim - 1), generator=g).expand_as(x))),
    ("noise-reused", loss_wrong(eps=lambda x, g: torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))),
    ("noise-reused", loss_globally_seeded),
    ("global-generator", loss_wrong(t=lambda n, b, g: torch.randint(n, (b,)))),
    ("wrong-target", loss_wrong(target=lambda x_0, x_t, eps: x_t)),
    ("wrong-target", loss_wrong(target=lambda x_0, x_t, eps: -eps)),
    ("wrong-target", loss_velocity),
    ("wrong-target", loss_wrong(target=lambda x_0, x_t, eps: 0)),
    ("sum-not-mean", loss_wrong(reduce=lambda e: e.square().flatten(1).sum(1).mean())),
    ("sum-over-batch", lambda m, x, a, g: len(x) * loss_lesson(m, x, a, g)),
    ("not-squared", loss_wrong(reduce=lambda e: e.square().mean().sqrt())),
    ("not-differentiable", torch.no_grad()(loss_lesson)),
    ("returned-none", loss_without_return),
    ("wrong-value", loss_wrong(reduce=lambda e: e.square().mean() + 0.1)),
    ("wrong-value", loss_wrong(target=lambda x_0, x_t, eps: torch.randn_like(eps))),
]

# 4.2 -----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def ema_lerp(average, model, n_images, half_life):
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.lerp_(new, 1 - 2 ** (-n_images / half_life))
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(new)


def ema_state_dict(average, model, n_images, half_life):
    a = math.exp(-math.log(2) * n_images / half_life)
    mixed, weights = {}, {name for name, _ in model.named_parameters()}
    for name, new in model.state_dict().items():
        mixed[name] = a * average.state_dict()[name] + (1 - a) * new if name in weights else new
    average.load_state_dict(mixed)


def ema_data(average, model, n_images, half_life):
    a = 0.5 ** (n_images / half_life)
    for name, old in average.named_parameters():
        old.data = old.data * a + model.get_parameter(name).data * (1 - a)
    for name, old in average.named_buffers():
        old.copy_(model.get_buffer(name))


def ema_wrong(mix, buffers=True):
    @torch.no_grad()
    def update(average, model, n_images, half_life):
        for old, new in zip(average.parameters(), model.parameters(), strict=True):
            old.copy_(mix(old, new, n_images / half_life, half_life))
        for old, new in zip(average.buffers(), model.buffers(), strict=True):
            if buffers:
                old.copy_(new)

    return update


def ema_tracked(average, model, n_images, half_life):
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.mul_(0.5 ** (n_images / half_life)).add_(new)


@torch.no_grad()
def ema_renamed(average, model, n_images, half_life):
    a = 0.5 ** (n_images / half_life)
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old = a * old + (1 - a) * new


def ema_shared(average, model, n_images, half_life):
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.data = new.data


def ema_shares_buffers(average, model, n_images, half_life):
    ema_lerp(average, model, n_images, half_life)
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.data = new.data


def ema_averages_buffers(average, model, n_images, half_life):
    a, state = 0.5 ** (n_images / half_life), model.state_dict()
    average.load_state_dict({name: a * old + (1 - a) * state[name] for name, old in average.state_dict().items()})


WRONG_2 = {
    "swapped": ema_wrong(lambda old, new, r, h: (1 - 0.5**r) * old + 0.5**r * new),
    "natural-exponent": ema_wrong(lambda old, new, r, h: math.exp(-r) * old + (1 - math.exp(-r)) * new),
    "counts-steps": ema_wrong(lambda old, new, r, h: 0.5 ** (1 / h) * old + (1 - 0.5 ** (1 / h)) * new),
    "linear": ema_wrong(lambda old, new, r, h: (1 - r) * old + r * new),
    "upside-down": ema_wrong(lambda old, new, r, h: 0.5 ** (1 / r) * old + (1 - 0.5 ** (1 / r)) * new),
    "no-average": ema_wrong(lambda old, new, r, h: new),
    "forgot-the-share": ema_wrong(lambda old, new, r, h: 0.5**r * old + new),
    "buffers-forgotten": ema_wrong(lambda old, new, r, h: 0.5**r * old + (1 - 0.5**r) * new, buffers=False),
    "moved-the-model": lambda average, model, n, h: ema_lerp(model, average, n, h),
    "tracked": ema_tracked,
    "not-in-place": ema_renamed,
    "shared-weights": ema_shared,
}

MORE_2 = [
    ("buffers-forgotten", ema_averages_buffers),
    ("shared-weights", ema_shares_buffers),
    ("wrong-value", ema_wrong(lambda old, new, r, h: 0.9 * old + 0.1 * new)),
]

# 4.3 -----------------------------------------------------------------------------------------------------------------


def floor_by_regression(alpha_bar, s):
    """1 − correlation², entry by entry, in numpy."""
    return np.array([1 - (1 - a) / (a * s * s + 1 - a) for a in alpha_bar.tolist()])


def floor_by_snr(alpha_bar, s):
    snr = alpha_bar / (1 - alpha_bar)
    return 1 / (1 + 1 / (snr * s**2))


def floor_from_x0(alpha_bar, s):
    """The error of x_0, 1/(1/s² + SNR), times the SNR."""
    snr = alpha_bar / (1 - alpha_bar)
    return snr / (1 / s**2 + snr)


WRONG_3 = {
    "error-of-x0": lambda a, s: 1 / (1 / s**2 + a / (1 - a)),
    "explained-part": lambda a, s: (1 - a) / (a * s**2 + 1 - a),
    "root": lambda a, s: floor_by_snr(a, s).sqrt(),
    "uncorrelated": lambda a, s: torch.ones_like(a),
    "inverse": lambda a, s: 1 / floor_by_snr(a, s),
    "not-squared": lambda a, s: a * s / (a * s + 1 - a),
    "forgot-s": lambda a, s: a,
    "lazy-player": lambda a, s: a * s**2 + (1 - (1 - a).sqrt()) ** 2,
    "zero": lambda a, s: 0 * a,
    "covariance-not-squared": lambda a, s: 1 - (1 - a).sqrt() / (a * s**2 + 1 - a),
    "variance-of-the-noise": lambda a, s: 1 - a,
    "wrong-shape": lambda a, s: floor_by_snr(a, s).mean(),
}

# 4.4 -----------------------------------------------------------------------------------------------------------------


def weights_difference(alpha_bar):
    snr = alpha_bar / (1 - alpha_bar)
    return -torch.diff(snr) / 2


def weights_from_lambda(alpha_bar):
    """Not simplified: λ_t from β̃, times SNR_t, in a loop."""
    out = []
    for t in range(1, len(alpha_bar)):
        a, b = float(alpha_bar[t]), float(alpha_bar[t - 1])
        beta = 1 - a / b
        variance = beta * (1 - b) / (1 - a)
        out.append(beta**2 / (2 * variance * (1 - beta) * (1 - a)) * a / (1 - a))
    return out


def ratio(alpha_bar):
    snr = alpha_bar / (1 - alpha_bar)
    return (snr[:-1] / snr[1:] - 1) / 2, snr


WRONG_4 = {
    "weight-of-eps": lambda a: ratio(a)[0],
    "divided-by-snr": lambda a: ratio(a)[0] / ratio(a)[1][1:],
    "wrong-snr": lambda a: ratio(a)[0] * ratio(a)[1][:-1],
    "missing-half": lambda a: 2 * weights_difference(a),
    "wrong-sign": lambda a: -weights_difference(a),
    "difference-of-alpha-bar": lambda a: (a[:-1] - a[1:]) / 2,
    "difference-of-variances": lambda a: torch.diff((1 - a) / a) / 2,
    "wrong-shape": lambda a: torch.cat([torch.zeros(1), weights_difference(a)]),
}

# 4.5 -----------------------------------------------------------------------------------------------------------------


def step_lesson(model, optimizer, x_0, alpha_bar, generator):
    t = torch.randint(len(alpha_bar), (len(x_0),), generator=generator)
    eps = torch.randn(x_0.shape, generator=generator)
    a = alpha_bar[t].to(x_0.dtype)[:, None, None, None]
    loss = (model(a.sqrt() * x_0 + (1 - a).sqrt() * eps, t) - eps).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def step_cleared_at_the_end(model, optimizer, x_0, alpha_bar, generator):
    loss = loss_noise_first_in_float64(model, x_0, alpha_bar, generator)
    loss.backward()
    optimizer.step()
    for parameter in model.parameters():
        parameter.grad = None
    return loss.detach()


def step_from(loss, order="zero backward step"):
    """A step around any loss, its parts in any order."""

    def step(model, optimizer, x_0, alpha_bar, generator):
        value = loss(model, x_0, alpha_bar, generator)
        parts = {"zero": optimizer.zero_grad, "backward": value.backward, "step": optimizer.step}
        for part in order.split():
            parts[part]()
        return value.item()

    return step


def step_returning_the_graph(model, optimizer, x_0, alpha_bar, generator):
    loss = loss_lesson(model, x_0, alpha_bar, generator)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def broken_step(model, optimizer, x_0, alpha_bar, generator):
    """The lesson's, as it is handed out."""
    t = torch.randint(1, len(alpha_bar), (len(x_0),), generator=generator)
    eps = torch.rand(x_0.shape, generator=generator)
    a = alpha_bar[t].to(x_0.dtype)
    loss = (model(a.sqrt() * x_0 + (1 - a).sqrt() * eps, t) - eps).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


WRONG_5 = {
    "wrong-axis": broken_step,
    "missing-times": step_from(WRONG_1["missing-times"]),
    "uniform-noise": step_from(WRONG_1["uniform-noise"]),
    "gradients-accumulate": step_from(loss_lesson, "backward step"),
    "no-step": step_from(loss_lesson, "backward zero step"),
    "stale-gradient": step_from(loss_lesson, "step zero backward"),
    "missing-root": step_from(WRONG_1["missing-root"]),
    "noise-reused": step_from(loss_seeded_inside),
    "network-not-asked": lambda *_: 0.0,
    "wrong-step": step_from(loss_lesson, "zero backward step step"),
    "keeps-graph": step_returning_the_graph,
}
MORE_5 = [
    ("gradients-accumulate", step_from(loss_noise_first_in_float64, "backward step")),
    ("wrong-value", lambda *a: 2 * step_lesson(*a)),
    ("no-step", step_from(loss_lesson, "zero backward")),
]

RIGHT = {
    "4.1": [loss_lesson, loss_noise_first_in_float64, loss_image_by_image],
    "4.2": [ema_lerp, ema_state_dict, ema_data],
    "4.3": [floor_by_regression, floor_by_snr, floor_from_x0],
    "4.4": [weights_difference, weights_from_lambda],
    "4.5": [step_lesson, step_cleared_at_the_end, step_from(loss_image_by_image)],
}
WRONG = {"4.1": WRONG_1, "4.2": WRONG_2, "4.3": WRONG_3, "4.4": WRONG_4, "4.5": WRONG_5}
CHECKS = {
    "4.1": training_ddpm.loss,
    "4.2": training_ddpm.ema,
    "4.3": training_ddpm.gaussian_floor,
    "4.4": training_ddpm.x0_weights,
    "4.5": training_ddpm.step,
}


@pytest.mark.parametrize(
    ("number", "name", "answer"),
    [("4.1", name, a) for name, a in MORE_1]
    + [("4.2", name, a) for name, a in MORE_2]
    + [("4.3", "wrong-value", lambda a, s: a * s**2), ("4.4", "wrong-value", lambda a: weights_difference(a) + 1)]
    + [("4.5", name, a) for name, a in MORE_5],
)
def test_other_ways_to_be_wrong(number, name, answer):
    outcome = CHECKS[number](answer)
    assert (outcome.status, outcome.mistake) == ("failed", name), outcome


@pytest.mark.parametrize("number", CHECKS)
def test_a_stub_is_open(number):
    def stub(*_):
        raise NotImplementedError

    assert CHECKS[number](stub).status == "open"


def test_checks_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    training_ddpm.loss(copy.copy(loss_globally_seeded))
    training_ddpm.loss(loss_lesson)
    training_ddpm.step(step_lesson)
    assert torch.equal(torch.get_rng_state(), before)
