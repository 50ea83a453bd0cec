"""Tests of helpers.oracle: densities, scores and denoisers against autograd, quadrature and Monte Carlo."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from helpers.oracle import (
    FiniteData,
    GaussianMixture,
    eight_gaussians,
    exact_denoiser,
    exact_eps_model,
    standard_gaussian,
    two_gaussians,
)
from helpers.schedules import LinearSchedule


def skewed() -> GaussianMixture:
    """Unequal weights, correlated and unequal covariances: nothing cancels by symmetry."""
    means = torch.tensor([[-1.0, 0.5], [1.5, 0.0], [0.2, -1.2]])
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.5, -0.3], [-0.3, 0.4]], [[0.05, 0.0], [0.0, 0.6]]])
    return GaussianMixture(means, covariances, torch.tensor([1.0, 2.0, 0.5]))


def solid() -> GaussianMixture:
    """Correlated in three dimensions: in the plane, a matrix of principal axes may equal its own transpose."""
    factors = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    covariances = factors @ factors.mT / 4 + 0.05 * torch.eye(3, dtype=torch.float64)
    return GaussianMixture(torch.tensor([[-0.5, 0.3, 0.8], [0.7, -0.2, -0.4]]), covariances, torch.tensor([2.0, 1.0]))


def points(dim: int = 2) -> FiniteData:
    return FiniteData(torch.randn(6, dim, generator=torch.Generator().manual_seed(11), dtype=torch.float64))


MIXTURES = {
    "one": standard_gaussian(),
    "two": two_gaussians(weights=(0.3, 0.7)),
    "eight": eight_gaussians(),
    "skewed": skewed(),
    "solid": solid(),
}
every_mixture = pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
every_density = pytest.mark.parametrize("density", [*MIXTURES.values(), points()], ids=[*MIXTURES, "finite data"])
every_level = pytest.mark.parametrize("alpha_bar", [0.95, 0.5, 0.05])


def dim_of(density: GaussianMixture | FiniteData) -> int:
    return density.dim if isinstance(density, GaussianMixture) else density.points.shape[1]


def somewhere(density: GaussianMixture | FiniteData, n: int = 40, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(n, dim_of(density), generator=generator, dtype=torch.float64)


# ── log p and its score ───────────────────────────────────────────────────


@every_mixture
@every_level
def test_log_prob_agrees_with_torch_distributions(mixture: GaussianMixture, alpha_bar: float) -> None:
    eye = torch.eye(mixture.dim, dtype=torch.float64)
    components = torch.distributions.MultivariateNormal(
        math.sqrt(alpha_bar) * mixture.means, alpha_bar * mixture.covariances + (1 - alpha_bar) * eye
    )
    theirs = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(mixture.weights), components)
    x = somewhere(mixture)
    torch.testing.assert_close(mixture.log_prob(x, alpha_bar), theirs.log_prob(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixture.noised(alpha_bar).log_prob(x), theirs.log_prob(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixture.energy(x), -mixture.log_prob(x, 1.0), rtol=0, atol=0)


@every_density
@every_level
def test_score_is_the_gradient_of_log_prob(density: GaussianMixture | FiniteData, alpha_bar: float) -> None:
    x = somewhere(density).requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(x, alpha_bar).sum(), x)
    torch.testing.assert_close(density.score(x.detach(), alpha_bar), gradient, rtol=1e-9, atol=1e-9)


@every_density
@every_level
def test_score_agrees_with_finite_differences(density: GaussianMixture | FiniteData, alpha_bar: float) -> None:
    x, h = somewhere(density), 1e-5
    score = density.score(x, alpha_bar)
    for d in range(x.shape[1]):
        step = torch.zeros_like(x)
        step[:, d] = h
        slope = (density.log_prob(x + step, alpha_bar) - density.log_prob(x - step, alpha_bar)) / (2 * h)
        torch.testing.assert_close(score[:, d], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha_bar", [1.0, 0.6, 0.05])
@pytest.mark.parametrize("mixture", [eight_gaussians(), skewed()], ids=["eight", "skewed"])
def test_the_plane_holds_all_the_probability(mixture: GaussianMixture, alpha_bar: float) -> None:
    axis = torch.linspace(-8, 8, 161, dtype=torch.float64)  # the trapezoidal rule is exact to rounding for Gaussians
    grid = torch.cartesian_prod(axis, axis)
    area = float(axis[1] - axis[0]) ** 2
    assert float(mixture.log_prob(grid, alpha_bar).exp().sum()) * area == pytest.approx(1.0, abs=1e-9)


def test_the_line_holds_all_the_probability() -> None:
    axis = torch.linspace(-10, 10, 4001, dtype=torch.float64)[:, None]
    step = float(axis[1] - axis[0])
    for density in (two_gaussians(), points(1)):
        assert float(density.log_prob(axis, 0.5).exp().sum()) * step == pytest.approx(1.0, abs=1e-10)


def test_a_level_per_point_equals_one_level_at_a_time() -> None:
    levels = torch.tensor([0.9, 0.5, 0.1])
    for density in (skewed(), points()):
        x = somewhere(density, 3)
        for function in (density.log_prob, density.score, density.denoise):
            together = function(x, levels)
            for b in range(3):
                alone = function(x[b : b + 1], float(levels[b]))[0]
                torch.testing.assert_close(together[b], alone, rtol=1e-5, atol=1e-6)  # the levels are float32


# ── noising ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mixture", [skewed(), two_gaussians()], ids=["skewed", "two"])
@pytest.mark.parametrize("alpha_bar", [1.0, 0.7, 0.2])
def test_noised_mixture_has_the_moments_of_noised_samples(mixture: GaussianMixture, alpha_bar: float) -> None:
    """Mean and covariance of √ᾱ x_0 + √(1 − ᾱ) ε, sampled, within 5 standard errors of the noised mixture's."""
    n, generator = 200_000, torch.Generator().manual_seed(0)
    x_0 = mixture.sample(n, generator)
    eps = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
    x_t = math.sqrt(alpha_bar) * x_0 + math.sqrt(1 - alpha_bar) * eps
    noised = mixture.noised(alpha_bar)
    mean = noised.weights @ noised.means
    spread = noised.means - mean
    covariance = torch.einsum("k,kij->ij", noised.weights, noised.covariances)
    covariance = covariance + torch.einsum("k,ki,kj->ij", noised.weights, spread, spread)
    assert bool(((x_t.mean(0) - mean).abs() < 5 * (covariance.diagonal() / n).sqrt()).all())
    centred = x_t - mean
    products = centred[:, :, None] * centred[:, None, :]
    assert bool(((products.mean(0) - covariance).abs() < 5 * products.std(0) / math.sqrt(n)).all())


@every_level
def test_noised_mixture_gives_the_probability_of_regions(alpha_bar: float) -> None:
    """P(x_t < c) by sampling against quadrature: the shape, not only two moments."""
    mixture, n, generator = two_gaussians(weights=(0.3, 0.7)), 200_000, torch.Generator().manual_seed(1)
    x_0 = mixture.sample(n, generator)
    eps = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
    x_t = math.sqrt(alpha_bar) * x_0 + math.sqrt(1 - alpha_bar) * eps
    axis = torch.linspace(-8, 8, 16_001, dtype=torch.float64)
    cumulative = torch.cumulative_trapezoid(mixture.log_prob(axis[:, None], alpha_bar).exp(), axis)
    for c in (-1.0, 0.0, 0.5, 1.5):
        expected = float(cumulative[int((c + 8) * 1000) - 1])
        standard_error = math.sqrt(expected * (1 - expected) / n)
        assert abs(float((x_t < c).double().mean()) - expected) < 5 * standard_error


@every_density
def test_samples_are_repeatable_and_float64(density: GaussianMixture | FiniteData) -> None:
    draws = [density.sample(5, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].dtype == torch.float64
    assert draws[0].shape == (5, dim_of(density))


def test_finite_data_draws_every_point_alike() -> None:
    data, n = points(), 60_000
    drawn = data.sample(n, torch.Generator().manual_seed(0))
    counts = (drawn[:, None] == data.points).all(-1).sum(0)
    assert int(counts.sum()) == n
    assert bool(((counts / n - 1 / 6).abs() < 5 * math.sqrt(5 / 36 / n)).all())


# ── the best denoiser ─────────────────────────────────────────────────────


@every_density
@every_level
def test_denoiser_agrees_with_importance_weighting(density: GaussianMixture | FiniteData, alpha_bar: float) -> None:
    """E[x_0 | x_t] = E[x_0 q(x_t | x_0)] / E[q(x_t | x_0)] over draws of x_0, within 5 standard errors."""
    n = 400_000
    x_0 = density.sample(n, torch.Generator().manual_seed(2))
    x_t = somewhere(density, 3, seed=1)
    got = density.denoise(x_t, alpha_bar)
    for b in range(3):
        log_weight = -((x_t[b] - math.sqrt(alpha_bar) * x_0) ** 2).sum(1) / (2 * (1 - alpha_bar))
        weight = log_weight.softmax(0)
        estimate = weight @ x_0
        standard_error = ((weight[:, None] * (x_0 - estimate)) ** 2).sum(0).sqrt()
        assert bool(((got[b] - estimate).abs() < 5 * standard_error + 1e-12).all())


@every_density
@every_level
def test_denoiser_is_tweedies_formula(density: GaussianMixture | FiniteData, alpha_bar: float) -> None:
    x = somewhere(density).requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(x, alpha_bar).sum(), x)
    expected = (x.detach() + (1 - alpha_bar) * gradient) / math.sqrt(alpha_bar)
    torch.testing.assert_close(density.denoise(x.detach(), alpha_bar), expected, rtol=1e-9, atol=1e-9)


@every_level
def test_denoiser_of_one_gaussian_is_the_wiener_filter(alpha_bar: float) -> None:
    mean, variance = torch.tensor([[0.5, -1.0]]), 0.25
    x = somewhere(standard_gaussian())
    a = math.sqrt(alpha_bar)
    gain = a * variance / (alpha_bar * variance + 1 - alpha_bar)
    expected = mean + gain * (x - a * mean)
    torch.testing.assert_close(GaussianMixture(mean, variance).denoise(x, alpha_bar), expected.double())


@every_density
def test_no_change_of_the_denoiser_lowers_its_error(density: GaussianMixture | FiniteData) -> None:
    """The error of E[x_0 | x_t] is orthogonal to every function of x_t."""
    n, alpha_bar, generator = 50_000, 0.6, torch.Generator().manual_seed(0)
    x_0 = density.sample(n, generator)
    x_t = math.sqrt(alpha_bar) * x_0
    x_t = x_t + math.sqrt(1 - alpha_bar) * torch.randn(x_t.shape, generator=generator, dtype=torch.float64)
    error = x_0 - density.denoise(x_t, alpha_bar)
    for function in (torch.ones_like, lambda x: x, torch.sin, lambda x: x**2):
        products = (error * function(x_t)).flatten()
        assert abs(float(products.mean())) < 5 * float(products.std()) / math.sqrt(len(products))


def test_finite_data_is_the_limit_of_a_mixture_of_tiny_gaussians() -> None:
    data = points()
    mixture, x = GaussianMixture(data.points, 1e-12), somewhere(data)
    for alpha_bar in (0.9, 0.3):
        torch.testing.assert_close(data.log_prob(x, alpha_bar), mixture.log_prob(x, alpha_bar), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(data.score(x, alpha_bar), mixture.score(x, alpha_bar), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(data.denoise(x, alpha_bar), mixture.denoise(x, alpha_bar), rtol=1e-8, atol=1e-8)
        weights = mixture.responsibilities(x, alpha_bar)
        torch.testing.assert_close(data.posterior_weights(x, alpha_bar), weights, rtol=1e-8, atol=1e-8)


def test_finite_data_denoises_to_the_nearest_point_at_little_noise_and_to_the_mean_at_much() -> None:
    data = points()
    torch.testing.assert_close(data.denoise(data.points + 1e-3, 1 - 1e-9), data.points, rtol=0, atol=1e-9)
    mean = data.points.mean(0).expand(5, -1)
    torch.testing.assert_close(data.denoise(somewhere(data, 5), 1e-12), mean, rtol=0, atol=1e-4)


def test_finite_data_keeps_the_shape_of_images() -> None:
    images = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    data, flat = FiniteData(images), FiniteData(images.flatten(1))
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for function in ("denoise", "score"):
        shaped = getattr(data, function)(x, 0.5)
        assert shaped.shape == x.shape
        torch.testing.assert_close(shaped.flatten(1), getattr(flat, function)(x.flatten(1), 0.5), rtol=0, atol=0)
    assert data.posterior_weights(x, 0.5).shape == (3, 7)
    assert data.sample(2).shape == (2, 1, 4, 4)


@every_density
@every_level
def test_responsibilities_sum_to_one(density: GaussianMixture | FiniteData, alpha_bar: float) -> None:
    weights = density.responsibilities if isinstance(density, GaussianMixture) else density.posterior_weights
    rows = weights(somewhere(density), alpha_bar)
    assert bool((rows >= 0).all())
    torch.testing.assert_close(rows.sum(1), torch.ones(len(rows), dtype=torch.float64), rtol=1e-12, atol=0)


def test_responsibilities_average_to_the_weights() -> None:
    mixture, n = skewed(), 50_000
    rows = mixture.responsibilities(mixture.sample(n, torch.Generator().manual_seed(0)))
    assert bool(((rows.mean(0) - mixture.weights).abs() < 5 * rows.std(0) / math.sqrt(n)).all())


# ── the exact noise predictor and the ready-made mixtures ─────────────────


@every_density
def test_exact_eps_model_gives_the_mean_noise(density: GaussianMixture | FiniteData) -> None:
    """√ᾱ E[x_0 | x_t] + √(1 − ᾱ) E[ε | x_t] = x_t, at a t of its own for every point."""
    schedule, x = LinearSchedule(100, 1e-3, 0.1), somewhere(density)
    t = torch.arange(len(x)) * 2
    eps = exact_eps_model(density, schedule)(x, t)
    a = schedule.alpha_bar(t)
    rebuilt = a.sqrt()[:, None] * density.denoise(x, a) + (1 - a).sqrt()[:, None] * eps
    torch.testing.assert_close(rebuilt, x, rtol=1e-9, atol=1e-9)
    assert exact_eps_model(density, schedule)(x.float(), t).dtype == torch.float32


@every_density
@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_exact_denoiser_is_the_importance_weighted_mean(density: GaussianMixture | FiniteData, sigma: float) -> None:
    """E[x_0 | x_0 + σε = x], from true samples weighted by how well each explains x."""
    x_0 = (
        density.points if isinstance(density, FiniteData) else density.sample(200_000, torch.Generator().manual_seed(1))
    )
    if isinstance(density, FiniteData):
        x = (1 + sigma) * somewhere(density, 3) / 2
    else:  # where there are data, so that some of the samples explain it
        generator = torch.Generator().manual_seed(2)
        x = density.sample(3, generator)
        x = x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    guess = exact_denoiser(density)(x, torch.full((3,), sigma))
    for one, expected in zip(x, guess, strict=True):
        weights = (-((one - x_0) ** 2).sum(1) / (2 * sigma**2)).softmax(0)
        mean = weights @ x_0
        if isinstance(density, FiniteData):  # no sampling error: it is the whole sum
            torch.testing.assert_close(expected, mean, rtol=1e-6, atol=1e-6)
            continue
        effective = float(1 / (weights**2).sum())
        error = (weights @ (x_0 - mean) ** 2 / effective).sqrt()
        assert effective > 50  # otherwise the samples say nothing
        assert bool(((expected - mean).abs() < 5 * error + 1e-9).all())


def test_exact_denoiser_takes_one_sigma_for_each_point_and_keeps_the_dtype() -> None:
    x, sigma = somewhere(skewed(), 3), torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    together = exact_denoiser(skewed())(x, sigma)
    for k in range(3):
        torch.testing.assert_close(together[k : k + 1], exact_denoiser(skewed())(x[k : k + 1], sigma[k : k + 1]))
    assert exact_denoiser(skewed())(x.float(), sigma.float(), torch.zeros(3)).dtype == torch.float32


def test_ready_made_mixtures_are_as_described() -> None:
    ring = eight_gaussians(radius=3.0, std=0.2)
    torch.testing.assert_close(ring.means.norm(dim=1), torch.full((8,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(ring.covariances[5], 0.04 * torch.eye(2, dtype=torch.float64))
    gaps = (ring.means - ring.means.roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(gaps, torch.full((8,), 6.0 * math.sin(math.pi / 8), dtype=torch.float64))
    pair = two_gaussians(distance=3.0, std=0.5, weights=(1.0, 3.0))
    assert pair.means.flatten().tolist() == [-1.5, 1.5]
    assert pair.weights.tolist() == [0.25, 0.75]
    assert standard_gaussian(5).dim == 5


# ── errors ────────────────────────────────────────────────────────────────


def test_mixtures_refuse_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"means of shape \(K, D\)"):
        GaussianMixture(torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match=r"covariances of shape \(2, 3, 3\)"):
        GaussianMixture(torch.zeros(2, 3), torch.eye(3))
    for weights in (torch.ones(3), torch.tensor([1.0, 0.0]), torch.tensor([1.0, -1.0])):
        with pytest.raises(ValueError, match="2 positive weights"):
            GaussianMixture(torch.zeros(2, 3), 1.0, weights)


@pytest.mark.parametrize("covariance", [0.0, -1.0, [[[1.0, 2.0], [2.0, 1.0]]]])
def test_mixtures_refuse_covariances_that_are_not_positive_definite(covariance: object) -> None:
    with pytest.raises(ValueError, match="positive definite"):
        GaussianMixture(torch.zeros(1, 2), torch.tensor(covariance))


def test_mixtures_refuse_covariances_that_are_not_symmetric() -> None:
    with pytest.raises(ValueError, match="symmetric"):
        GaussianMixture(torch.zeros(1, 2), torch.tensor([[[1.0, 0.5], [0.0, 1.0]]]))


@every_density
@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 1, 5)])
def test_densities_refuse_points_of_another_dimension(
    density: GaussianMixture | FiniteData, shape: tuple[int, ...]
) -> None:
    for function in (density.log_prob, density.score, density.denoise):
        with pytest.raises(ValueError, match="points of shape"):
            function(torch.zeros(shape), 0.5)


@every_density
@pytest.mark.parametrize("alpha_bar", [-0.1, 1.1, float("nan")])
def test_densities_refuse_levels_outside_the_unit_interval(
    density: GaussianMixture | FiniteData, alpha_bar: float
) -> None:
    with pytest.raises(ValueError, match=r"alpha_bar in \[0, 1\]"):
        density.log_prob(somewhere(density, 2), alpha_bar)
    with pytest.raises(ValueError, match=r"alpha_bar in \[0, 1\]"):
        standard_gaussian().noised(alpha_bar)


@every_density
def test_densities_refuse_a_number_of_levels_that_does_not_fit(density: GaussianMixture | FiniteData) -> None:
    with pytest.raises(ValueError, match="one value per sample"):
        density.log_prob(somewhere(density, 3), torch.tensor([0.5, 0.5]))


def test_finite_data_has_no_density_without_noise() -> None:
    for function in (points().log_prob, points().denoise, points().posterior_weights, points().score):
        with pytest.raises(ValueError, match="alpha_bar below 1"):
            function(torch.zeros(2, 2), 1.0)


@pytest.mark.parametrize("shape", [(0, 2), (4,)])
def test_finite_data_needs_points(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="points of shape"):
        FiniteData(torch.zeros(shape))


def test_what_lost_its_signal_cannot_be_denoised() -> None:
    with pytest.raises(ValueError, match="expected alpha_bar above 0"):
        two_gaussians().denoise(torch.ones(2, 1), torch.tensor([0.5, 0.0]))
