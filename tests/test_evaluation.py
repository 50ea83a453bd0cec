"""Tests of helpers.evaluation: the Fréchet distance against closed forms and an independent matrix root."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from helpers.evaluation import (
    FeatureStatistics,
    extract_features,
    feature_statistics,
    frechet_at_infinity,
    frechet_distance,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean: Tensor, covariance: Tensor) -> FeatureStatistics:
    return FeatureStatistics(mean, covariance, 1000)


def random_gaussian(dim: int, seed: int, rank: int | None = None) -> FeatureStatistics:
    factor = normal(dim, dim if rank is None else rank, seed=seed)
    return gaussian(normal(dim, seed=seed + 100), factor @ factor.T)


# ── features and their statistics ─────────────────────────────────────────


def test_statistics_are_mean_and_unbiased_covariance() -> None:
    features = normal(50, 3).float()
    stats = feature_statistics(features)
    x = features.double().numpy()
    torch.testing.assert_close(stats.mean, torch.from_numpy(x.mean(0)), rtol=1e-12, atol=0)
    torch.testing.assert_close(stats.covariance, torch.from_numpy(np.cov(x, rowvar=False)), rtol=1e-12, atol=1e-15)
    assert (stats.n, stats.mean.dtype, stats.covariance.dtype) == (50, torch.float64, torch.float64)


def test_one_feature_still_has_a_covariance_matrix() -> None:
    stats = feature_statistics(torch.tensor([[1.0], [3.0]]))
    assert stats.covariance.tolist() == [[2.0]]


@pytest.mark.parametrize("shape", [(1, 4), (0, 4), (4,), (2, 2, 2)])
def test_statistics_name_what_they_want(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(N, F\) with N >= 2"):
        feature_statistics(torch.zeros(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_statistics_refuse_what_is_not_finite(value: float) -> None:
    features = normal(5, 2)
    features[3, 1] = value
    with pytest.raises(ValueError, match="finite features"):
        feature_statistics(features)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 500])
def test_features_do_not_depend_on_the_batches(batch_size: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.SiLU()).eval()
    images = normal(7, 3, 2, 2).float()
    features = extract_features(network, images, batch_size)
    assert features.dtype == torch.float64
    assert not features.requires_grad
    torch.testing.assert_close(features, network(images).double().detach(), rtol=1e-5, atol=1e-6)


def test_feature_networks_must_not_be_in_training_mode() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    with pytest.raises(ValueError, match="evaluation mode"):
        extract_features(network, torch.zeros(2, 1, 2, 2))
    with pytest.raises(ValueError, match="at least one image"):
        extract_features(network.eval(), torch.zeros(0, 1, 2, 2))


# ── the distance ──────────────────────────────────────────────────────────


def test_diagonal_gaussians_in_closed_form() -> None:
    """Σ (μ_1 − μ_2)² + (σ_1 − σ_2)², axis by axis."""
    mean_a, mean_b, std_a, std_b = normal(4), normal(4, seed=1), normal(4, seed=2).exp(), normal(4, seed=3).exp()
    expected = (mean_a - mean_b).square().sum() + (std_a - std_b).square().sum()
    got = frechet_distance(gaussian(mean_a, std_a.square().diag()), gaussian(mean_b, std_b.square().diag()))
    assert math.isclose(got, float(expected), rel_tol=1e-10)


def test_commuting_covariances_in_closed_form() -> None:
    """The same axes, turned: the squared Frobenius norm of the difference of the roots."""
    axes = torch.linalg.qr(normal(5, 5)).Q
    std_a, std_b = normal(5, seed=1).exp(), normal(5, seed=2).exp()
    a, b = (gaussian(torch.zeros(5).double(), axes @ s.square().diag() @ axes.T) for s in (std_a, std_b))
    assert math.isclose(frechet_distance(a, b), float((std_a - std_b).square().sum()), rel_tol=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 6, 20])
def test_against_scipys_matrix_root(dim: int) -> None:
    """The textbook form tr(Σ_1 + Σ_2 − 2(Σ_1 Σ_2)^{1/2}), whose root is of a matrix that is not symmetric."""
    a, b = random_gaussian(dim, 1), random_gaussian(dim, 2)
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy()).real
    trace = a.covariance.trace() + b.covariance.trace() - 2 * np.trace(root)
    expected = float((a.mean - b.mean).square().sum() + trace)
    assert math.isclose(frechet_distance(a, b), expected, rel_tol=1e-7, abs_tol=1e-7)


@pytest.mark.parametrize("rank", [None, 2], ids=["regular", "singular"])
def test_it_is_zero_for_equals_symmetric_and_positive(rank: int | None) -> None:
    a, b = random_gaussian(6, 1, rank), random_gaussian(6, 2, rank)
    # The root of rounding errors: √1e-16 of a unit eigenvalue remains.
    assert 0 <= frechet_distance(a, a) < 1e-5
    assert math.isclose(frechet_distance(a, b), frechet_distance(b, a), rel_tol=1e-6)
    assert frechet_distance(a, b) > 0.1


def test_a_translation_adds_its_squared_length_and_a_rotation_changes_nothing() -> None:
    a, b = random_gaussian(5, 1), random_gaussian(5, 2)
    shift = normal(5, seed=3)
    moved = gaussian(a.mean + shift, a.covariance)
    assert math.isclose(frechet_distance(a, moved), float(shift.square().sum()), rel_tol=1e-7)
    turn = torch.linalg.qr(normal(5, 5, seed=4)).Q
    turned = [gaussian(turn @ g.mean, turn @ g.covariance @ turn.T) for g in (a, b)]
    assert math.isclose(frechet_distance(*turned), frechet_distance(a, b), rel_tol=1e-8)
    scaled = [gaussian(3 * g.mean, 9 * g.covariance) for g in (a, b)]
    assert math.isclose(frechet_distance(*scaled), 9 * frechet_distance(a, b), rel_tol=1e-8)


def test_its_root_is_a_distance() -> None:
    """Triangle inequality of the Wasserstein distance between Gaussians, over many triples."""
    for seed in range(20):
        ab, bc, ac = (
            math.sqrt(frechet_distance(random_gaussian(3, 3 * seed + i), random_gaussian(3, 3 * seed + j)))
            for i, j in ((0, 1), (1, 2), (0, 2))
        )
        assert ac <= ab + bc + 1e-9


def test_points_against_points() -> None:
    """Singular to the end: without any spread, the squared distance of the means."""
    zero = torch.zeros(3, 3, dtype=torch.float64)
    a, b = gaussian(torch.zeros(3).double(), zero), gaussian(torch.tensor([3.0, 4.0, 0.0]).double(), zero)
    assert frechet_distance(a, b) == 25.0


def test_singular_covariances_against_a_closed_form() -> None:
    """A line against a line at a right angle: nothing in common, so both traces remain."""
    a, b = (gaussian(torch.zeros(2).double(), torch.tensor(d).double().diag()) for d in ([4.0, 0.0], [0.0, 9.0]))
    assert math.isclose(frechet_distance(a, b), 13.0, rel_tol=1e-12)


def test_fewer_samples_look_farther_away() -> None:
    """Two sets from one density: the distance is a bias that falls as 1/N, so N belongs to every number."""
    distances = {n: [] for n in (50, 200, 800)}
    for n, values in distances.items():
        for seed in range(20):
            values.append(
                frechet_distance(
                    feature_statistics(normal(n, 8, seed=seed)), feature_statistics(normal(n, 8, seed=1000 + seed))
                )
            )
    mean = {n: float(np.mean(values)) for n, values in distances.items()}
    assert 2.5 < mean[50] / mean[200] < 6
    assert 2.5 < mean[200] / mean[800] < 6
    assert mean[800] > 0


def test_different_numbers_of_features_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many features, got 3 and 4"):
        frechet_distance(random_gaussian(3, 0), random_gaussian(4, 0))


# ── extrapolated to infinitely many ───────────────────────────────────────


def test_extrapolation_takes_the_bias_away() -> None:
    """Against the exact Gaussian, whose distance is 0: at N = 400 a bias remains, at infinity little of it."""
    exact = FeatureStatistics(torch.zeros(8).double(), torch.eye(8).double(), 10**9)
    plain, extrapolated = [], []
    for seed in range(20):
        features = normal(400, 8, seed=seed)
        plain.append(frechet_distance(feature_statistics(features), exact))
        extrapolated.append(frechet_at_infinity(features, exact, torch.Generator().manual_seed(seed)))
    assert np.mean(plain) > 0.03
    assert abs(np.mean(extrapolated)) < 0.25 * np.mean(plain)


def test_extrapolation_keeps_a_true_distance_and_is_repeatable() -> None:
    shift = torch.zeros(8).double()
    shift[0] = 2.0
    far = FeatureStatistics(shift, torch.eye(8).double(), 10**9)
    values = [frechet_at_infinity(normal(2000, 8), far, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert values[0] == values[1]
    assert abs(values[0] - 4.0) < 0.3


@pytest.mark.parametrize(("shape", "n_points"), [((7, 3), 6), ((20,), 6), ((20, 3), 1)])
def test_extrapolation_says_what_it_wants(shape: tuple[int, ...], n_points: int) -> None:
    with pytest.raises(ValueError, match="N >= 8 and n_points >= 2"):
        frechet_at_infinity(torch.zeros(shape), random_gaussian(3, 0), torch.Generator(), n_points)
