"""helpers.ebm.score_matching: optima and minima in closed form, and EDM's loss as an independent implementation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from helpers.diffusion import EDMPrecond, edm_loss
from helpers.ebm import (
    conditional_score,
    denoising_score_matching_loss,
    edm_score_matching_loss,
    edm_weight,
    sliced_score_matching_loss,
)
from helpers.energy import InnerProductEnergy, score
from helpers.nn import EnergyMLP, TimeMLP
from helpers.oracle import finite_differences


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _gaussian(n: int, dim: int, std: float = 1.0, seed: int = 1) -> Tensor:
    return std * torch.randn(n, dim, generator=_generator(seed), dtype=torch.float64)


def _random(model: nn.Module, std: float = 0.5, seed: int = 0) -> nn.Module:
    generator = _generator(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return model


# ── oracle 6: denoising on a Gaussian ─────────────────────────────────────

CASES = [(1, 1.0, 0.5), (3, 2.0, 1.0), (2, 0.5, 2.0)]
each_case = pytest.mark.parametrize(("dim", "std", "sigma"), CASES)


def _linear_loss(slope: float, dim: int, std: float, sigma: float) -> tuple[float, float]:
    """Mean and standard deviation over examples of ½‖−c x̃ + ε/σ‖²: Gaussian of variance v in each dimension."""
    variance = slope**2 * std**2 + (1 / sigma - slope * sigma) ** 2
    return dim * variance / 2, math.sqrt(dim / 2) * variance


@each_case
@pytest.mark.parametrize("factor", [1.0, 0.5, 1.5])
def test_the_loss_of_a_linear_score(dim: int, std: float, sigma: float, factor: float) -> None:
    n, slope = 40_000, factor / (std**2 + sigma**2)
    loss = denoising_score_matching_loss(lambda x, s: -slope * x, _gaussian(n, dim, std), sigma, _generator())
    mean, deviation = _linear_loss(slope, dim, std, sigma)
    assert abs(loss.item() - mean) < 4 * deviation / math.sqrt(n)
    if factor == 1.0:
        assert mean == pytest.approx(dim * std**2 / (2 * sigma**2 * (std**2 + sigma**2)))  # the minimum


@each_case
def test_the_optimum_is_the_score_of_the_noised_density(dim: int, std: float, sigma: float) -> None:
    """The best slope on n examples, in closed form since the loss is quadratic, against 1/(s² + σ²)."""
    n = 40_000
    slope = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    x = _gaussian(n, dim, std)

    def derivative(value: float) -> float:
        with torch.no_grad():
            slope.fill_(value)
        loss = denoising_score_matching_loss(lambda y, s: -slope * y, x, sigma, _generator())
        return torch.autograd.grad(loss, slope)[0].item()

    best = derivative(0.0) / (derivative(0.0) - derivative(1.0))  # the zero of a straight line
    exact = 1 / (std**2 + sigma**2)
    # The residual c x̃ − ε/σ is independent of x̃ at the optimum: both are Gaussian, and uncorrelated.
    residual = exact**2 * std**2 + (1 / sigma - exact * sigma) ** 2
    standard_error = math.sqrt(residual * exact / (n * dim))
    assert abs(best - exact) < 4 * standard_error
    assert 4 * standard_error < abs(exact - 1 / std**2) / 4  # sharp enough to tell it from the score of the data


def test_a_flipped_sign_in_the_score_is_found() -> None:
    n, (dim, std, sigma) = 40_000, CASES[0]
    wrong = denoising_score_matching_loss(
        lambda x, s: x / (std**2 + sigma**2), _gaussian(n, dim, std), sigma, _generator()
    )
    mean, deviation = _linear_loss(1 / (std**2 + sigma**2), dim, std, sigma)
    assert wrong.item() - mean > 16 * deviation / math.sqrt(n)


def test_each_example_has_its_own_level_and_weight() -> None:
    """The weighted loss of a mixed batch is the mean of the losses of its parts, with the same noise."""
    x = _gaussian(6, 2)
    sigma = torch.tensor([0.1, 0.2, 0.5, 1.0, 3.0, 10.0], dtype=torch.float64)
    noise = torch.randn(6, 2, generator=_generator(), dtype=torch.float64)
    seen = []

    def network(y: Tensor, s: Tensor) -> Tensor:
        seen.append((y, s))
        return -y / (1 + s**2)[:, None]

    loss = denoising_score_matching_loss(network, x, sigma, _generator(), weight=lambda s: s**2)
    noisy = x + sigma[:, None] * noise
    by_hand = (
        sigma**2 * (-noisy / (1 + sigma**2)[:, None] + (noisy - x) / sigma[:, None] ** 2).square().sum(1) / 2
    ).mean()
    torch.testing.assert_close(loss, by_hand, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(seen[0][0], noisy)
    assert torch.equal(seen[0][1], sigma)


@pytest.mark.parametrize("sigma", [1e-3, 1.0, 1e3])
def test_no_digits_are_lost_in_float32(sigma: float) -> None:
    """All data at 0: the kernel's score is that of the density, and the loss is 0 at every level."""
    x = torch.zeros(64, 3)
    loss = denoising_score_matching_loss(lambda y, s: -y / (s**2)[:, None], x, sigma, _generator(), weight=torch.square)
    assert loss.item() < 1e-11


# ── EDM's weighting ───────────────────────────────────────────────────────


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_edm_weight_is_that_of_the_denoiser(sigma_data: float) -> None:
    sigma = torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=torch.float64)
    out = EDMPrecond(nn.Identity(), sigma_data).coefficients(sigma).out
    torch.testing.assert_close(edm_weight(sigma, sigma_data), sigma**4 / out**2, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_it_is_edms_loss_of_the_energys_denoiser(sigma_data: float) -> None:
    """Value and gradients equal those of edm_loss: other formulas, the same random numbers."""
    energy = InnerProductEnergy(_random(TimeMLP(2, 16, 2, 8)).double(), sigma_data)
    x, parameters = _gaussian(32, 2), list(energy.parameters())
    ours = edm_score_matching_loss(energy, x, _generator(), sigma_data=sigma_data)
    theirs = edm_loss(energy.denoiser, x, _generator())
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), rtol=1e-8, atol=1e-10
    )


def test_the_best_gaussian_guess_has_the_loss_one() -> None:
    """E = ½‖x‖²/(σ² + σ_d²) on any data of variance σ_d²: F = 0, and the target has variance 1 at every level."""
    energy = lambda x, sigma: (x.square().sum(1) / (sigma**2 + 0.25)) / 2  # noqa: E731
    n = 20_000
    loss = edm_score_matching_loss(energy, _gaussian(n, 2, 0.5), _generator())
    assert abs(loss.item() - 1) < 4 * math.sqrt(2 / (2 * n))


class OneCurvatureALevel(nn.Module):
    """E(x, σ) = ½ θ(σ) ‖x‖²/(1 + σ²), with a free number at each of a few levels."""

    def __init__(self, levels: Tensor) -> None:
        super().__init__()
        self.levels = levels
        self.theta = nn.Parameter(torch.ones(len(levels), dtype=torch.float64))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        which = (sigma[:, None] == self.levels).double()
        return (which @ self.theta) / (1 + sigma**2) * x.square().sum(1) / 2


def test_a_noise_conditional_energy_learns_the_noised_gaussian() -> None:
    """A few steps of Newton's kind reach the curvature 1/(s² + σ²) at all levels at once."""
    std, dim, n = 0.7, 2, 10_000
    levels = torch.tensor([0.2, 0.5, 1.0, 3.0], dtype=torch.float64)
    energy = OneCurvatureALevel(levels)
    x, sigma = _gaussian(n, dim, std), levels.repeat(n // 4)
    optimizer = torch.optim.LBFGS(energy.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = edm_score_matching_loss(energy, x, _generator(), sigma_data=std, sigma=sigma)
        loss.backward()
        return loss

    before = closure().item()
    optimizer.step(closure)
    assert energy.theta.grad.abs().max() < 1e-4
    assert closure().item() < before
    exact = 1 / (std**2 + levels**2)
    residual = exact**2 * std**2 + (1 / levels - exact * levels) ** 2
    standard_error = (residual * exact / (n / 4 * dim)).sqrt()
    assert bool(((energy.theta / (1 + levels**2) - exact).abs() < 4 * standard_error).all())


def test_conditional_score_can_be_trained_through() -> None:
    levels = torch.tensor([1.0], dtype=torch.float64)
    energy = OneCurvatureALevel(levels)
    x = _gaussian(4, 2)
    s = conditional_score(energy)(x, levels.expand(4))
    torch.testing.assert_close(s, -x / 2)
    s.sum().backward()
    assert energy.theta.grad.item() == pytest.approx(-x.sum().item() / 2)


# ── sliced ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("slope", [0.3, 1.0, 4.0])
def test_sliced_loss_of_a_linear_score_is_exact(slope: float) -> None:
    """Signs see the trace of a diagonal Jacobian without error, so that nothing is left to chance."""
    x = _gaussian(50, 3)
    loss = sliced_score_matching_loss(lambda y: -slope * y, x, _generator())
    exact = -slope * 3 + slope**2 * x.square().sum(1).mean() / 2
    torch.testing.assert_close(loss, exact, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("std", [0.5, 2.0])
def test_sliced_optimum_is_the_score_of_the_data(std: float) -> None:
    """At a = 1/mean(x²) the derivative vanishes; the minimum is −d/(2s²)."""
    x = _gaussian(200, 2)
    x = std * x / (x.square().mean()).sqrt()
    slope = torch.tensor(1 / std**2, dtype=torch.float64, requires_grad=True)
    loss = sliced_score_matching_loss(lambda y: -slope * y, x, _generator())
    assert loss.item() == pytest.approx(-2 / (2 * std**2), rel=1e-12)
    assert abs(torch.autograd.grad(loss, slope)[0].item()) < 1e-12


def test_sliced_estimates_the_trace_of_any_jacobian() -> None:
    """A network against its exact Jacobian; the variance of vᵀAv over signs is 2 Σ_{i≠j} A_ij² (A symmetric)."""
    energy = _random(EnergyMLP(3, 16, 2), std=0.8).double()
    x, repeats = _gaussian(40, 3), 200

    def field(y: Tensor) -> Tensor:
        return score(energy, y, create_graph=True)

    inside = x.clone().requires_grad_()
    s = field(inside)
    jacobian = torch.stack([torch.autograd.grad(s[:, i].sum(), inside, retain_graph=True)[0] for i in range(3)], dim=1)
    exact = (jacobian.diagonal(dim1=1, dim2=2).sum(1) + field(x).square().sum(1) / 2).mean()
    off = jacobian - torch.diag_embed(jacobian.diagonal(dim1=1, dim2=2))
    standard_error = (2 * off.square().sum() / repeats).sqrt().item() / len(x)
    loss = sliced_score_matching_loss(field, x, _generator(), n_projections=repeats)
    assert abs((loss - exact).item()) < 4 * standard_error
    assert 16 * standard_error < abs(jacobian.diagonal(dim1=1, dim2=2).sum(1).mean().item())  # a missing trace is seen


def test_sliced_gradients_by_finite_differences() -> None:
    energy = _random(EnergyMLP(2, 4, 1), std=0.8).double()
    x, parameters = _gaussian(8, 2), list(energy.parameters())

    def loss() -> Tensor:
        return sliced_score_matching_loss(lambda y: score(energy, y, create_graph=True), x, _generator())

    measured = finite_differences(loss, parameters[:-1])  # the last is a constant added to E, and has no effect
    torch.testing.assert_close(torch.autograd.grad(loss(), parameters[:-1]), measured, rtol=1e-6, atol=1e-8)


# ── mistakes ──────────────────────────────────────────────────────────────


def test_mistakes_are_named() -> None:
    x = _gaussian(4, 2)
    for sigma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="noise levels > 0"):
            denoising_score_matching_loss(lambda y, s: -y, x, sigma)
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(3,\)"):
        denoising_score_matching_loss(lambda y, s: -y, x, torch.ones(3))
    with pytest.raises(ValueError, match=r"shape of x, \(4, 2\), got \(4,\)"):
        denoising_score_matching_loss(lambda y, s: y.sum(1), x, 1.0)
    with pytest.raises(ValueError, match=r"shape of x, \(4, 2\), got \(4,\)"):
        sliced_score_matching_loss(lambda y: y.sum(1), x)
    with pytest.raises(ValueError, match="n_projections >= 1"):
        sliced_score_matching_loss(lambda y: -y, x, n_projections=0)
