"""Tests of inpainting and image to image: what must be kept exactly, and conditional moments known exactly."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from helpers.oracle import GaussianMixture, exact_denoiser
from helpers.samplers import DPMSolverPP2M, Euler, Heun, UniPC, evaluations, image_to_image, inpaint, sample_ode
from helpers.schedules import append_zero, karras_sigmas, log_snr_sigmas

MEAN = torch.tensor([0.5, -0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)
KNOWN = 1.5  # the first coordinate
CONDITIONAL_MEAN, CONDITIONAL_VARIANCE = -0.3 + 0.8 * (KNOWN - 0.5), 1 - 0.8**2
FIRST = torch.tensor([True, False])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shrinkage(sigma: float) -> Tensor:
    """Σ(Σ + σ²I)⁻¹."""
    return COVARIANCE @ torch.linalg.inv(COVARIANCE + sigma**2 * EYE)


def correlated(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x] for N(MEAN, COVARIANCE)."""
    return MEAN + (x - MEAN) @ shrinkage(float(sigma[0])).T


def filled(solver: Euler | Heun, grid: Tensor, rounds: int, n: int) -> Tensor:
    """The second coordinate of n inpainted points."""
    known = torch.tensor([KNOWN, math.nan], dtype=torch.float64).expand(n, 2)
    x_T, generator = grid[0] * normal(n, 2, seed=1), torch.Generator().manual_seed(2)
    return inpaint(correlated, solver, x_T, grid, known, FIRST, rounds=rounds, generator=generator)[:, 1]


def exact_moments(grid: Tensor, rounds: int) -> tuple[float, float]:
    """What :func:`inpaint` with Euler's steps tends to for many points, by carrying mean and covariance along."""
    first = float(grid[0])
    mean = torch.tensor([KNOWN, 0.0], dtype=torch.float64)
    covariance = first**2 * EYE
    for sigma, sigma_next in itertools.pairwise(grid.tolist()):
        keep = sigma_next / sigma
        matrix = shrinkage(sigma) + keep * (EYE - shrinkage(sigma))
        for again in reversed(range(rounds)):
            mean = MEAN + matrix @ (mean - MEAN)
            covariance = matrix @ covariance @ matrix.T
            mean[0] = KNOWN
            covariance[0, :] = covariance[:, 0] = 0.0
            covariance[0, 0] = sigma_next**2
            if again:
                covariance = covariance + (sigma**2 - sigma_next**2) * EYE
    return float(mean[1]), float(covariance[1, 1])


# ── inpainting ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_inpainted_moments_are_those_of_the_algorithm(rounds: int) -> None:
    """A linear denoiser, and Euler: the algorithm's own mean and variance follow from linear algebra."""
    grid, n = append_zero(karras_sigmas(8, 0.05, 10.0)), 40_000
    mean, variance = exact_moments(grid, rounds)
    x = filled(Euler(), grid, rounds, n)
    assert abs(float(x.mean()) - mean) < 4.5 * math.sqrt(variance / n)
    assert abs(float(x.var()) - variance) < 4.5 * variance * math.sqrt(2 / n)


def test_many_rounds_and_short_steps_tend_to_the_conditional_distribution() -> None:
    """Of the algorithm without sampling noise: alone, replaced pixels miss the conditional; rounds bring it."""
    errors = []
    for n, rounds in ((50, 1), (50, 10), (100, 40), (200, 160)):
        mean, variance = exact_moments(append_zero(karras_sigmas(n, 0.01, 20.0)), rounds)
        errors.append(max(abs(mean - CONDITIONAL_MEAN), abs(variance - CONDITIONAL_VARIANCE)))
    assert errors[0] > 0.2
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.5 * errors[1]
    assert errors[3] < 0.03


def test_inpainting_a_correlated_gaussian_gives_its_conditional_moments() -> None:
    grid, n = append_zero(karras_sigmas(40, 0.02, 20.0)), 2_000
    of_mean, of_variance = math.sqrt(CONDITIONAL_VARIANCE / n), CONDITIONAL_VARIANCE * math.sqrt(2 / n)
    x = filled(Heun(), grid, 60, n)
    assert abs(float(x.mean()) - CONDITIONAL_MEAN) < 4 * of_mean
    assert abs(float(x.var()) - CONDITIONAL_VARIANCE) < 4 * of_variance
    once = filled(Heun(), grid, 1, n)
    assert abs(float(once.mean()) - CONDITIONAL_MEAN) > 16 * of_mean
    assert abs(float(once.var()) - CONDITIONAL_VARIANCE) > 16 * of_variance


def toy_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.tanh(x / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", [Euler(), Heun()], ids=["euler", "heun"])
@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4), (2, 1, 1, 4), (2, 3, 4, 4)])
def test_known_pixels_are_kept_to_the_last_bit(shape: tuple[int, ...], solver: object, dtype: torch.dtype) -> None:
    mask = normal(*shape, seed=4) > 0
    known, x_T = normal(2, 3, 4, 4).to(dtype), (10 * normal(2, 3, 4, 4, seed=1)).to(dtype)
    given = x_T.clone()
    x = inpaint(
        toy_denoiser, solver, x_T, [10.0, 1.0, 0.0], known, mask, rounds=2, generator=torch.Generator().manual_seed(0)
    )
    everywhere = mask.expand(2, 3, 4, 4)
    assert x.dtype == dtype
    assert torch.equal(x[everywhere], known[everywhere])
    assert not bool((x[~everywhere] == known[~everywhere]).any())
    assert torch.equal(x_T, given)


def test_the_denoiser_sees_known_pixels_at_the_right_noise() -> None:
    """At each σ, in each round: known + σε, with fresh ε."""
    seen: dict[float, list[Tensor]] = {}

    def spy(x: Tensor, sigma: Tensor) -> Tensor:
        seen.setdefault(float(sigma[0]), []).append((x[:, 0] - KNOWN) / sigma)
        return toy_denoiser(x, sigma)

    n, generator = 10_000, torch.Generator().manual_seed(0)
    known = torch.full((n, 2), KNOWN, dtype=torch.float64)
    grid = [8.0, 3.0, 0.5, 0.0]
    inpaint(spy, Euler(), 8 * normal(n, 2), grid, known, FIRST, rounds=3, generator=generator)
    assert list(seen) == grid[:-1]
    for noises in seen.values():
        assert len(noises) == 3
        for eps in noises:
            assert abs(float(eps.mean())) < 4.5 / math.sqrt(n)
            assert abs(float(eps.var()) - 1) < 4.5 * math.sqrt(2 / n)
        assert not torch.equal(noises[0], noises[1])


def test_with_nothing_known_and_one_round_inpainting_is_sampling() -> None:
    grid, x_T = append_zero(karras_sigmas(6)), 80 * normal(3, 2)
    nothing = torch.zeros(2, dtype=torch.bool)
    for solver in (Euler(), Heun()):
        x = inpaint(toy_denoiser, solver, x_T, grid, 0 * x_T, nothing, generator=torch.Generator().manual_seed(0))
        assert torch.equal(x, sample_ode(toy_denoiser, solver, x_T, grid))


def test_rounds_cost_their_multiple_and_labels_are_passed_on() -> None:
    calls = []

    def denoiser(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        assert label.tolist() == [1, 0]
        calls.append(float(sigma[0]))
        return toy_denoiser(x, sigma)

    options = {"label": torch.tensor([1, 0]), "generator": torch.Generator().manual_seed(0)}
    grid, x = append_zero(karras_sigmas(5)), normal(2, 2)
    inpaint(denoiser, Heun(), x, grid, x, FIRST, rounds=3, **options)
    assert len(calls) == 3 * evaluations(Heun(), 5)


def test_inpainting_is_reproducible_by_its_generator() -> None:
    grid, x = append_zero(karras_sigmas(5)), normal(2, 2)
    runs = [
        inpaint(toy_denoiser, Heun(), 80 * x, grid, x, FIRST, rounds=2, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_inpainting_names_what_it_wants() -> None:
    x, grid = normal(2, 3, 4, 4), [1.0, 0.0]
    mask = torch.ones(4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="a solver of one step, Euler or Heun"):
        inpaint(toy_denoiser, DPMSolverPP2M(), x, grid, x, mask)
    with pytest.raises(ValueError, match="at least one round, got 0"):
        inpaint(toy_denoiser, Euler(), x, grid, x, mask, rounds=0)
    with pytest.raises(ValueError, match=r"known images of shape \(2, 3, 4, 4\), got \(1, 3, 4, 4\)"):
        inpaint(toy_denoiser, Euler(), x, grid, x[:1], mask)
    with pytest.raises(ValueError, match="a bool mask"):
        inpaint(toy_denoiser, Euler(), x, grid, x, mask.float())
    with pytest.raises(ValueError, match=r"broadcasts to \(2, 3, 4, 4\), got \(5, 4\)"):
        inpaint(toy_denoiser, Euler(), x, grid, x, torch.ones(5, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="end in 0"):
        inpaint(toy_denoiser, Euler(), x, [1.0, 0.5], x, mask)


# ── image to image ────────────────────────────────────────────────────────


@pytest.mark.parametrize("sigma_start", [0.2, 3.0, 80.0])
def test_image_to_image_is_noise_and_then_the_exact_flow(sigma_start: float) -> None:
    """On a Gaussian: y = Σ^{1/2}(Σ + σ²I)^{−1/2}(x_0 + σε), along each axis of Σ."""
    x_0 = normal(6, 2)
    eps = torch.randn(6, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    variances, axes = torch.linalg.eigh(COVARIANCE)
    along = (x_0 + sigma_start * eps - MEAN) @ axes
    expected = MEAN + along * (variances / (variances + sigma_start**2)).sqrt() @ axes.T
    x = image_to_image(
        correlated,
        UniPC(),
        x_0,
        append_zero(log_snr_sigmas(200)),
        sigma_start,
        generator=torch.Generator().manual_seed(3),
    )
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-4)


def test_the_run_starts_at_sigma_start_and_takes_the_levels_below() -> None:
    grid, x_0 = [10.0, 4.0, 1.0, 0.0], normal(2, 2)

    def levels(sigma_start: float) -> list[float]:
        run = image_to_image(
            toy_denoiser,
            Euler(),
            x_0,
            grid,
            sigma_start,
            generator=torch.Generator().manual_seed(0),
            return_trajectory=True,
        )
        return run.sigmas.tolist()

    assert levels(10.0) == grid
    assert levels(4.0) == [4.0, 1.0, 0.0]
    assert levels(2.5) == [2.5, 1.0, 0.0]
    assert levels(0.5) == [0.5, 0.0]


def test_more_noise_keeps_less_of_the_image() -> None:
    grid, x_0 = append_zero(log_snr_sigmas(30)), MEAN + normal(500, 2) @ torch.linalg.cholesky(COVARIANCE).T
    kept = []
    for sigma_start in (0.05, 0.5, 2.0, 80.0):
        x = image_to_image(correlated, UniPC(), x_0, grid, sigma_start, generator=torch.Generator().manual_seed(1))
        kept.append(float(torch.corrcoef(torch.stack([x[:, 0], x_0[:, 0]]))[0, 1]))
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 0.98
    assert abs(kept[-1]) < 0.2


def test_image_to_image_passes_labels_on_and_names_what_it_wants() -> None:
    def denoiser(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        return label.to(x)[:, None].expand_as(x)

    x, grid = normal(2, 2).float(), [2.0, 1.0, 0.0]
    y = image_to_image(denoiser, Euler(), x, grid, 1.5, label=torch.tensor([3, 4]), generator=torch.Generator())
    assert y.dtype == torch.float32
    assert y.tolist() == [[3.0, 3.0], [4.0, 4.0]]
    for sigma_start in (0.0, -1.0, 2.1, math.nan):
        with pytest.raises(ValueError, match="0 < sigma_start <= 2"):
            image_to_image(toy_denoiser, Euler(), x, grid, sigma_start)


@pytest.mark.parametrize("solver", [DPMSolverPP2M(), UniPC()], ids=["2m", "unipc"])
def test_a_start_beside_a_level_is_a_start_on_it(solver: DPMSolverPP2M | UniPC) -> None:
    """A first step of rounding size would be divided by in the second."""
    mixture = GaussianMixture(torch.tensor([[-1.5, 0.5], [1.0, -1.0]]), 0.2, torch.tensor([0.3, 0.7]))
    x_0 = mixture.sample(50, torch.Generator().manual_seed(0)).float()
    grid = append_zero(karras_sigmas(12, 0.02, 20.0))
    for k in range(1, 10):
        on, beside = (
            image_to_image(
                exact_denoiser(mixture), solver, x_0, g, float(grid[k]), generator=torch.Generator().manual_seed(1)
            )
            for g in (grid, grid.float())
        )
        torch.testing.assert_close(on, beside, rtol=0, atol=1e-4)
