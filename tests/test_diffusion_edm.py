"""helpers.diffusion.edm: preconditioning, the loss, the noise levels of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from helpers.diffusion import EDMPrecond, drop_labels, edm_loss, stratified_sigmas

SIGMAS = [0.002, 0.1, 0.5, 1.0, 7.0, 80.0]


def _randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Answer(nn.Module):
    """A network F that answers by a formula, and remembers what it was asked."""

    def __init__(self, formula: Callable[..., Tensor]) -> None:
        super().__init__()
        self.formula, self.asked = formula, ()

    def forward(self, *given: Tensor) -> Tensor:
        self.asked = given
        return self.formula(*given)


def _zero(x: Tensor, *_: Tensor) -> Tensor:
    return torch.zeros_like(x)


def _levels(sigma: float, x: Tensor) -> Tensor:
    return torch.full(x.shape[:1], sigma, dtype=x.dtype)


# ── the coefficients ──────────────────────────────────────────────────────


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_coefficients_are_those_of_table_1(sigma: float, sigma_data: float) -> None:
    c = EDMPrecond(nn.Identity(), sigma_data).coefficients(torch.tensor([sigma], dtype=torch.float64))
    total = sigma**2 + sigma_data**2
    assert c.skip.item() == pytest.approx(sigma_data**2 / total, rel=1e-14)
    assert c.out.item() == pytest.approx(sigma * sigma_data / math.sqrt(total), rel=1e-14)
    assert c.input.item() == pytest.approx(1 / math.sqrt(total), rel=1e-14)
    assert c.noise.item() == pytest.approx(math.log(sigma) / 4, rel=1e-14)


def test_c_skip_is_the_one_that_needs_the_least_of_the_network() -> None:
    """Appendix B.6: c_out² = (1 − c_skip)² σ_d² + c_skip² σ² gives the target variance 1; c_skip makes c_out least."""
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    c = EDMPrecond(nn.Identity()).coefficients(sigma)

    def needed(skip: Tensor) -> Tensor:
        return (1 - skip) ** 2 * 0.5**2 + skip**2 * sigma**2

    torch.testing.assert_close(needed(c.skip), c.out**2, rtol=1e-12, atol=0)
    for step in (-1e-3, 1e-3):
        assert (needed(c.skip + step) > c.out**2).all()


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_network_sees_unit_variance_and_aims_at_unit_variance(sigma: float) -> None:
    """By simulation: the variance of n unit normals has standard error √(2/n) = 0.3 %, and four of them are allowed."""
    n, net = 200_000, Answer(_zero)
    denoiser = EDMPrecond(net, 0.5)
    x_0 = 0.5 * _randn(n, 1)
    x = x_0 + sigma * _randn(n, 1, seed=1)
    denoiser(x, sigma)
    c = denoiser.coefficients(torch.tensor(sigma, dtype=torch.float64))
    bound = 4 * math.sqrt(2 / n)
    assert net.asked[0].var().item() == pytest.approx(1, abs=bound)
    assert ((x_0 - c.skip * x) / c.out).var().item() == pytest.approx(1, abs=bound)
    assert net.asked[1].tolist() == [math.log(sigma) / 4] * n


# ── the denoiser ──────────────────────────────────────────────────────────


def _optimal(s: float, sigma_data: float) -> Answer:
    """F of the exact denoiser of N(0, s²): D(x; σ) = s²x/(s² + σ²), solved for F; σ and x as the network sees them."""

    def formula(u: Tensor, time: Tensor) -> Tensor:
        sigma = (4 * time).exp()[:, None]
        root = (sigma**2 + sigma_data**2).sqrt()
        x = u * root
        return (s**2 / (s**2 + sigma**2) - sigma_data**2 / root**2) * x * root / (sigma * sigma_data)

    return Answer(formula)


@pytest.mark.parametrize("sigma_data", [0.5, 1.5])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_on_gaussian_data_the_best_network_gives_the_exact_denoiser_and_the_least_loss(
    sigma: float, sigma_data: float
) -> None:
    s, n = 0.8, 100_000
    denoiser = EDMPrecond(_optimal(s, sigma_data), sigma_data)
    x = _randn(64, 3)
    torch.testing.assert_close(denoiser(x, sigma), s**2 / (s**2 + sigma**2) * x, rtol=1e-9, atol=1e-9)

    x_0 = s * _randn(n, 1, seed=5)
    value = edm_loss(denoiser, x_0, torch.Generator().manual_seed(3), sigma=_levels(sigma, x_0)).item()
    variance, c_out2 = s**2 * sigma**2 / (s**2 + sigma**2), sigma**2 * sigma_data**2 / (sigma**2 + sigma_data**2)
    assert value == pytest.approx(variance / c_out2, rel=4 * math.sqrt(2 / n))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_loss_of_a_network_that_answers_zero_is_one_at_every_noise_level(sigma: float) -> None:
    x_0 = 0.5 * _randn(100_000, 1, seed=4)
    value = edm_loss(EDMPrecond(Answer(_zero)), x_0, torch.Generator().manual_seed(5), sigma=_levels(sigma, x_0))
    assert value.item() == pytest.approx(1, abs=4 * math.sqrt(2 / 100_000))


def test_without_noise_the_image_is_the_answer_and_with_much_the_networks_guess_is() -> None:
    x = _randn(4, 3, 2, 2)
    denoiser = EDMPrecond(Answer(lambda u, t: 1 + u.tanh()), 0.5)
    for sigma in (1e-3, 1e-6):  # |D − x| ≤ σ|F| + (σ/σ_d)²|x|
        torch.testing.assert_close(denoiser(x, sigma), x, rtol=4 * sigma**2, atol=2 * sigma)
    far = 1e6 * x
    torch.testing.assert_close(denoiser(far, 1e6), 0.5 * (1 + x.tanh()), rtol=1e-5, atol=1e-5)


def test_noise_levels_may_be_a_number_or_a_tensor() -> None:
    x = _randn(3, 2)
    denoiser = EDMPrecond(Answer(lambda u, t: u * t[:, None]))
    expected = denoiser(x, torch.full((3,), 0.3, dtype=torch.float64))
    for sigma in (0.3, torch.tensor(0.3, dtype=torch.float64)):
        assert torch.equal(denoiser(x, sigma), expected)  # a float keeps all its digits
    single = denoiser(x.float(), torch.full((3,), 0.3, dtype=torch.float64))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, expected.float(), rtol=1e-6, atol=1e-6)


def test_each_image_has_its_own_noise_level() -> None:
    x, sigma = _randn(6, 2, 3), torch.tensor(SIGMAS, dtype=torch.float64)
    denoiser = EDMPrecond(Answer(lambda u, t: u.sin() + t[:, None, None]))
    one_by_one = [denoiser(x[k : k + 1], SIGMAS[k])[0] for k in range(6)]
    torch.testing.assert_close(denoiser(x, sigma), torch.stack(one_by_one), rtol=1e-14, atol=0)


def test_labels_go_to_the_network_and_none_do_not() -> None:
    net = Answer(_zero)
    x, label = _randn(3, 2), torch.tensor([2, 0, 1])
    EDMPrecond(net)(x, 1.0, label)
    assert len(net.asked) == 3
    assert net.asked[2] is label
    EDMPrecond(net)(x, 1.0)
    assert len(net.asked) == 2


def test_in_bfloat16_only_the_network_is_rounded() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(4, 4)
    denoiser, x = EDMPrecond(Answer(lambda u, t: layer(u))), _randn(5, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        raw, guess = denoiser.raw(x, torch.ones(5)), denoiser(x, 0.002)
    assert raw.dtype == guess.dtype == torch.float32
    torch.testing.assert_close(guess, denoiser(x, 0.002), rtol=0, atol=0.002 * 0.02)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_noise_levels_that_are_no_positive_numbers_are_refused(sigma: float) -> None:
    for given in (sigma, torch.tensor([1.0, sigma])):
        with pytest.raises(ValueError, match="expected noise levels > 0 and finite"):
            EDMPrecond(Answer(_zero))(torch.zeros(2, 3), given)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1)])
def test_another_number_of_noise_levels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one noise level per image, shape \(2,\), got \(\d,"):
        EDMPrecond(Answer(_zero))(torch.zeros(2, 3), torch.ones(shape))


@pytest.mark.parametrize("sigma_data", [0.0, -0.5, math.nan])
def test_data_without_spread_is_refused(sigma_data: float) -> None:
    with pytest.raises(ValueError, match="expected sigma_data > 0"):
        EDMPrecond(nn.Identity(), sigma_data)


# ── the loss ──────────────────────────────────────────────────────────────


def test_the_loss_is_the_weighted_error_of_the_denoiser_and_the_plain_error_of_the_network() -> None:
    """λ(σ) = (σ² + σ_d²)/(σσ_d)², and F's target (x_0 − c_skip x)/c_out, both from the same random numbers."""
    net = Answer(lambda u, t: u.sin() + t[:, None, None])
    denoiser, x_0 = EDMPrecond(net, 0.7), _randn(32, 2, 3)
    value = edm_loss(denoiser, x_0, torch.Generator().manual_seed(1))

    generator = torch.Generator().manual_seed(1)
    sigma = stratified_sigmas(32, generator).double()
    x = x_0 + sigma[:, None, None] * torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
    weight = (sigma**2 + 0.7**2) / (sigma * 0.7) ** 2
    by_denoiser = (weight[:, None, None] * (denoiser(x, sigma) - x_0) ** 2).mean()
    torch.testing.assert_close(value, by_denoiser, rtol=1e-12, atol=0)

    c = [part[:, None, None] for part in denoiser.coefficients(sigma)]
    by_network = (net(c[2] * x, c[3].flatten()) - (x_0 - c[0] * x) / c[1]).square().mean()
    torch.testing.assert_close(value, by_network, rtol=1e-9, atol=0)


def test_the_gradient_of_the_loss_is_its_derivative() -> None:
    layer = nn.Linear(3, 3).double()
    layer.load_state_dict({name: _randn(*p.shape, seed=5) for name, p in layer.named_parameters()})
    denoiser, x_0 = EDMPrecond(Answer(lambda u, t: (layer(u) + t[:, None]).tanh())), _randn(8, 3)
    direction = {name: _randn(*p.shape, seed=6) for name, p in layer.named_parameters()}
    start = {name: p.detach().clone() for name, p in layer.named_parameters()}

    def at(h: float) -> Tensor:
        layer.load_state_dict({name: start[name] + h * direction[name] for name in start})
        return edm_loss(denoiser, x_0, torch.Generator().manual_seed(1))

    value, h = at(0.0), 1e-5
    slopes = torch.autograd.grad(value, list(layer.parameters()))
    slope = sum((g * direction[name]).sum() for g, name in zip(slopes, start, strict=True))
    rounding = 100 * torch.finfo(torch.float64).eps * float(value.detach()) / h
    torch.testing.assert_close(slope, (at(h) - at(-h)).detach() / (2 * h), rtol=1e-8, atol=rounding)


def test_float32_is_enough_for_the_smallest_noise() -> None:
    x_0 = 0.5 * _randn(4096, 3, dtype=torch.float32)
    sigma = torch.full((4096,), 0.002)
    noise = _randn(4096, 3, seed=7, dtype=torch.float32)
    values = []
    for dtype in (torch.float32, torch.float64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randn", lambda *_, dtype, **__: noise.to(dtype))
            values.append(edm_loss(EDMPrecond(Answer(_zero)), x_0.to(dtype), sigma=sigma).item())
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_a_wrapped_denoiser_will_do() -> None:
    """What DistributedDataParallel does to a model: its attributes move to ``module``."""

    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *given: Tensor) -> Tensor:
            return self.module(*given)

    denoiser, x_0 = EDMPrecond(Answer(lambda u, t: u.sin())), _randn(8, 3)
    plain, wrapped = (edm_loss(d, x_0, torch.Generator().manual_seed(1)) for d in (denoiser, Wrapped(denoiser)))
    assert torch.equal(plain, wrapped)


def test_the_loss_passes_labels_on() -> None:
    net, label = Answer(_zero), torch.tensor([1, 0])
    edm_loss(EDMPrecond(net), torch.zeros(2, 3), torch.Generator().manual_seed(0), label=label)
    assert net.asked[2] is label


# ── noise levels of a batch ───────────────────────────────────────────────


def _ranks(sigma: Tensor, p_mean: float = -1.2, p_std: float = 1.2) -> Tensor:
    """The share of the log-normal distribution below each level."""
    return torch.special.ndtr((sigma.double().log() - p_mean) / p_std)


@pytest.mark.parametrize(("p_mean", "p_std"), [(-1.2, 1.2), (0.5, 0.3)])
def test_each_level_alone_is_log_normal(p_mean: float, p_std: float) -> None:
    """Kolmogorov–Smirnov at the 1 % level, on the first level of each of 4,000 batches, which are independent."""
    generator = torch.Generator().manual_seed(0)
    first = torch.stack([stratified_sigmas(16, generator, p_mean, p_std)[0] for _ in range(4000)])
    ranks = _ranks(first, p_mean, p_std).sort().values
    steps = torch.arange(4001, dtype=torch.float64) / 4000
    distance = torch.maximum((ranks - steps[:-1]).abs().max(), (ranks - steps[1:]).abs().max())
    assert distance < 1.63 / math.sqrt(4000)


@pytest.mark.parametrize("n", [1, 7, 128])
def test_a_batch_has_one_level_in_each_part(n: int) -> None:
    sigma = stratified_sigmas(n, torch.Generator().manual_seed(n))
    assert (sigma.shape, sigma.dtype) == ((n,), torch.float32)
    assert (_ranks(sigma) * n).floor().sort().values.tolist() == list(range(n))
    if n > 2:
        assert sigma.tolist() != sorted(sigma.tolist())


def test_batches_scatter_less_than_independent_draws() -> None:
    """The variance of the mean of ln σ: p_std²/n for independent draws; a tenth of that at most, here."""
    generator = torch.Generator().manual_seed(0)
    means = torch.stack([stratified_sigmas(64, generator).log().mean() for _ in range(500)])
    assert means.var().item() < 0.1 * 1.2**2 / 64
    assert means.mean().item() == pytest.approx(-1.2, abs=4 * means.std().item() / math.sqrt(500))


def test_the_default_levels_of_a_loss_are_stratified() -> None:
    net = Answer(_zero)
    edm_loss(EDMPrecond(net), torch.zeros(32, 1), torch.Generator().manual_seed(0))
    sigma = (4 * net.asked[1].double()).exp()
    assert (_ranks(sigma) * 32).floor().sort().values.tolist() == list(range(32))


# ── labels ────────────────────────────────────────────────────────────────


def test_labels_are_dropped_with_the_given_share() -> None:
    label = torch.arange(20_000) % 10
    dropped = drop_labels(label, 10, 0.1, torch.Generator().manual_seed(0))
    gone = dropped == 10
    assert gone.double().mean().item() == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / 20_000))
    assert torch.equal(dropped[~gone], label[~gone])
    assert torch.equal(label, torch.arange(20_000) % 10)  # the given ones stay as they were
    assert dropped.dtype == torch.int64
    counts = torch.bincount(label[gone], minlength=10).double()  # from all classes alike
    assert ((counts - counts.mean()).abs() < 4 * math.sqrt(200)).all()


@pytest.mark.parametrize(("share", "left"), [(0.0, 100), (1.0, 0)])
def test_none_and_all_labels_can_be_dropped(share: float, left: int) -> None:
    dropped = drop_labels(torch.zeros(100, dtype=torch.long), 7, share, torch.Generator().manual_seed(0))
    assert (dropped == 0).sum() == left
    assert (dropped == 7).sum() == 100 - left


def test_the_same_generator_drops_the_same_labels() -> None:
    a, b, c = (
        drop_labels(torch.zeros(100, dtype=torch.long), 1, 0.5, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("share", [10.0, -0.1, math.nan])
def test_a_share_of_labels_is_between_0_and_1(share: float) -> None:
    with pytest.raises(ValueError, match=r"expected a share in \[0, 1\]"):
        drop_labels(torch.zeros(4, dtype=torch.int64), 10, share)
