"""Tests of guidance: its ends, its closed form on Gaussians, its interval, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from helpers.oracle import GaussianMixture, exact_denoiser
from helpers.samplers import Autoguided, Euler, Guided, Heun, UniPC, evaluating, sample_ode
from helpers.schedules import append_zero, karras_sigmas, log_snr_sigmas

CLASSES = (-1.2, 0.9)  # means of the two classes
STD = 0.6
WEIGHTS = (0.3, 0.7)
BOTH = GaussianMixture(torch.tensor([[m] for m in CLASSES]), STD**2, torch.tensor(WEIGHTS))
NONE = len(CLASSES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_a_gaussian(x: Tensor, sigma: Tensor, mean: Tensor | float, std: float) -> Tensor:
    return mean + std**2 / (std**2 + sigma[:, None] ** 2) * (x - mean)


class Conditional:
    """The exact denoiser of two labelled Gaussians, and of their mixture for label 2; writes down its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, float]] = []
        self.labels: list[list[int]] = []

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        assert x.shape[:1] == sigma.shape == label.shape
        self.calls.append((len(x), float(sigma[0])))
        self.labels.append(label.tolist())
        of_class = of_a_gaussian(x, sigma, torch.tensor([*CLASSES, 0.0]).to(x)[label][:, None], STD)
        return torch.where((label == NONE)[:, None], exact_denoiser(BOTH)(x, sigma), of_class)


X = 2 * normal(6, 1)
SIGMA = torch.tensor([0.05, 0.3, 1.0, 1.5, 4.0, 60.0], dtype=torch.float64)
LABEL = torch.tensor([0, 1, 0, 1, 0, 1])


# ── classifier-free guidance ──────────────────────────────────────────────


def test_scale_one_is_conditional_and_scale_zero_is_not() -> None:
    conditional = Conditional()
    assert torch.equal(Guided(conditional, 1.0, n_classes=2)(X, SIGMA, LABEL), conditional(X, SIGMA, LABEL))
    nothing = torch.full_like(LABEL, NONE)
    assert torch.equal(Guided(conditional, 0.0, n_classes=2)(X, SIGMA, LABEL), conditional(X, SIGMA, nothing))


@pytest.mark.parametrize("scale", [-0.5, 0.5, 1.5, 4.0])
def test_guidance_adds_the_score_of_the_class_posterior(scale: float) -> None:
    """Score of p_σ(x) p_σ(c|x)^w by autograd, then Tweedie: D = x + σ² score."""
    x = X.clone().requires_grad_()
    variance = STD**2 + SIGMA[:, None] ** 2
    log_joint = -((x - torch.tensor(CLASSES)) ** 2) / (2 * variance) + torch.tensor(WEIGHTS).double().log()
    log_posterior = log_joint.log_softmax(1)[torch.arange(6), LABEL]
    [score] = torch.autograd.grad((log_joint.logsumexp(1) + scale * log_posterior).sum(), x)
    guided = Guided(Conditional(), scale, n_classes=2)(X, SIGMA, LABEL)
    torch.testing.assert_close(guided, X + SIGMA[:, None] ** 2 * score, rtol=1e-7, atol=1e-7)


def test_both_guesses_come_from_one_call_of_twice_the_batch() -> None:
    conditional = Conditional()
    Guided(conditional, 2.0, n_classes=2)(X, SIGMA, LABEL)
    assert conditional.calls == [(12, 0.05)]
    assert conditional.labels == [[*LABEL.tolist(), *[NONE] * 6]]
    Guided(conditional, 1.0, n_classes=2)(X, SIGMA, LABEL)
    assert conditional.calls[1:] == [(6, 0.05)]  # nothing to guide


@pytest.mark.parametrize("solver", [Euler(), Heun(), UniPC()], ids=["euler", "heun", "unipc"])
def test_outside_of_the_interval_a_run_pays_for_one_guess(solver: object) -> None:
    conditional, grid = Conditional(), append_zero(karras_sigmas(12))
    guided = Guided(conditional, 2.0, interval=(0.3, 5.0), n_classes=2)
    sample_ode(guided, solver, 80 * normal(3, 1), grid, label=torch.tensor([0, 1, 1]))
    assert {s for _, s in conditional.calls} == set(grid[:-1].tolist())
    for size, sigma in conditional.calls:
        assert size == (6 if 0.3 < sigma <= 5.0 else 3)
    assert {size for size, _ in conditional.calls} == {3, 6}


def test_an_interval_may_cut_through_a_batch() -> None:
    """(lo, hi]: each image by its own σ; those outside are conditional to the last bit."""
    conditional = Conditional()
    everywhere = Guided(conditional, 3.0, n_classes=2)(X, SIGMA, LABEL)
    within = Guided(conditional, 3.0, interval=(0.3, 4.0), n_classes=2)(X, SIGMA, LABEL)
    inside = torch.tensor([False, False, True, True, True, False])
    torch.testing.assert_close(within[inside], everywhere[inside])
    assert torch.equal(within[~inside], conditional(X, SIGMA, LABEL)[~inside])
    assert (9, 0.05) in conditional.calls  # six and the three inside


def test_guided_samples_lean_away_from_the_other_class() -> None:
    """What guidance is for, and its price: further from the other class, and less spread."""
    grid, x_T = append_zero(log_snr_sigmas(30)), 80 * normal(4_000, 1)
    label = torch.ones(4_000, dtype=torch.int64)
    plain, guided = (
        sample_ode(Guided(Conditional(), w, n_classes=2), UniPC(), x_T, grid, label=label) for w in (1.0, 3.0)
    )
    standard_error = STD / math.sqrt(4_000)
    assert abs(float(plain.mean()) - CLASSES[1]) < 4 * standard_error
    assert abs(float(plain.std()) - STD) < 4 * standard_error
    assert float(guided.mean()) > CLASSES[1] + 16 * standard_error
    assert float(guided.std()) < STD


# ── autoguidance ──────────────────────────────────────────────────────────


def good(x: Tensor, sigma: Tensor) -> Tensor:
    return of_a_gaussian(x, sigma, 0.5, STD)


def weak(x: Tensor, sigma: Tensor) -> Tensor:
    return of_a_gaussian(x, sigma, -0.25, STD)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_between_equal_variances_shifts_the_mean(scale: float) -> None:
    """The tilt N(m₁)^w N(m₀)^{1−w} is N(m₀ + w(m₁ − m₀)) at every σ, so that even the samples have a closed form."""
    mean = -0.25 + scale * 0.75
    guided = Autoguided(good, weak, scale)
    torch.testing.assert_close(guided(X, SIGMA), of_a_gaussian(X, SIGMA, mean, STD), rtol=1e-12, atol=1e-12)
    x_T = 80 * normal(20, 1)
    samples = sample_ode(guided, UniPC(), x_T, append_zero(log_snr_sigmas(80)))
    expected = mean + (x_T - mean) * STD / math.sqrt(STD**2 + 80**2)
    torch.testing.assert_close(samples, expected, rtol=0, atol=1e-4)


def test_autoguidance_sharpens_where_the_weak_model_is_too_broad() -> None:
    """Scores −x/v: the guided one has the precision w/v₁ + (1 − w)/v₀."""
    scale, narrow, broad = 2.0, 0.6, 0.9
    guided = Autoguided(
        lambda x, s: of_a_gaussian(x, s, 0.0, narrow), lambda x, s: of_a_gaussian(x, s, 0.0, broad), scale
    )
    variances = [std**2 + SIGMA[:, None] ** 2 for std in (narrow, broad)]
    score = -X * (scale / variances[0] + (1 - scale) / variances[1])
    torch.testing.assert_close(guided(X, SIGMA), X + SIGMA[:, None] ** 2 * score, rtol=1e-9, atol=1e-9)


def test_the_weak_denoiser_is_asked_inside_the_interval_only() -> None:
    asked = []

    def counted(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        assert label.tolist() == [1, 0, 1]
        asked.append(float(sigma[0]))
        return weak(x, sigma)

    guided = Autoguided(lambda x, sigma, label: good(x, sigma), counted, 2.0, interval=(0.3, 5.0))
    grid = append_zero(karras_sigmas(12))
    sample_ode(guided, Euler(), 80 * normal(3, 1), grid, label=torch.tensor([1, 0, 1]))
    assert asked == [s for s in grid.tolist() if 0.3 < s <= 5.0]
    within = Autoguided(good, weak, 3.0, interval=(0.3, 4.0))(X, SIGMA)
    inside = torch.tensor([False, False, True, True, True, False])
    assert torch.equal(within[~inside], good(X, SIGMA)[~inside])
    torch.testing.assert_close(within[inside], Autoguided(good, weak, 3.0)(X, SIGMA)[inside])


# ── both ──────────────────────────────────────────────────────────────────


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        assert not self.training
        return self.linear(x)


@pytest.mark.parametrize(
    "make", [lambda net: Guided(net, 2.0, n_classes=2), lambda net: Autoguided(net, Net(), 2.0)], ids=["cfg", "auto"]
)
def test_guided_networks_are_put_into_evaluation_mode_and_back(make: Callable[[nn.Module], nn.Module]) -> None:
    net = Net()
    guided = make(net)
    net.eval()
    with evaluating(guided):
        assert not net.training
    assert guided.training
    assert not net.training
    net.train()
    sample_ode(guided, Euler(), torch.ones(2, 1), [1.0, 0.0], label=torch.tensor([0, 1]))
    assert net.training


def test_images_keep_their_shape_and_dtype() -> None:
    x, sigma, label = torch.ones(2, 3, 4, 4), torch.tensor([0.5, 2.0]), torch.tensor([0, 1])
    of_images = Guided(lambda x, sigma, label: 0.5 * x, 2.0, interval=(0.0, 1.0), n_classes=2)
    assert torch.equal(of_images(x, sigma, label), 0.5 * x)
    two = Autoguided(lambda x, sigma: 0.5 * x, lambda x, sigma: 0.25 * x, 2.0, interval=(0.0, 1.0))(x, sigma)
    assert two.dtype == torch.float32
    assert (float(two[0].mean()), float(two[1].mean())) == (0.75, 0.5)


def test_guidance_names_what_it_wants() -> None:
    with pytest.raises(ValueError, match="expected labels"):
        Guided(Conditional(), 2.0, n_classes=2)(X, SIGMA)
    with pytest.raises(ValueError, match="at least one class"):
        Guided(Conditional(), 2.0, n_classes=0)
    for make in (lambda w, i: Guided(Conditional(), w, i, n_classes=2), lambda w, i: Autoguided(good, weak, w, i)):
        for interval in ((1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0)):
            with pytest.raises(ValueError, match="0 <= sigma_lo < sigma_hi"):
                make(2.0, interval)
        with pytest.raises(ValueError, match="finite guidance scale"):
            make(math.inf, (0.0, 1.0))
