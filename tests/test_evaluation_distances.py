"""Kernel distance, nearest neighbours and linear probe against closed forms and independent implementations."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from helpers.evaluation import (
    data_copying,
    kernel_distance,
    linear_probe,
    nearest_neighbours,
    polynomial_kernel,
    precision_recall,
    unbiased_mmd2,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ── kernel distance ───────────────────────────────────────────────────────


def test_the_kernel_by_hand() -> None:
    x, y = torch.tensor([[1.0, 2.0], [0.0, -2.0]]), torch.tensor([[3.0, 1.0]])
    assert polynomial_kernel(x, y).tolist() == [[3.5**3], [0.0]]
    assert polynomial_kernel(x, y, degree=2, offset=0.0).tolist() == [[6.25], [1.0]]


def test_the_estimate_by_hand() -> None:
    """Pairs summed one by one, in plain Python."""
    x, y = normal(5, 3).tolist(), normal(4, 3, seed=1).tolist()

    def k(a: list[float], b: list[float]) -> float:
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 3 + 1) ** 3

    within = [
        sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1))
        for z in (x, y)
    ]
    expected = sum(within) - 2 * sum(k(a, b) for a in x for b in y) / 20
    assert math.isclose(unbiased_mmd2(torch.tensor(x), torch.tensor(y)), expected, rel_tol=1e-5)


@pytest.mark.parametrize("dim", [2, 16])
def test_against_torchmetrics(dim: int) -> None:
    """One subset of all images: their random order changes nothing, so both must give the same number."""
    image = pytest.importorskip("torchmetrics.image.kid")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a note on memory
        metric = image.KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=60)
    x, y = normal(60, dim), 1.2 * normal(60, dim, seed=1) + 0.2
    metric.update(x, real=True)
    metric.update(y, real=False)
    torch.testing.assert_close(torch.tensor(unbiased_mmd2(x, y)), metric.compute()[0].float(), rtol=1e-5, atol=1e-6)


def test_equal_densities_are_zero_apart_within_the_standard_error() -> None:
    """The estimate over its standard error has mean 0 and, over many draws, about the scatter of Student's t."""
    scores = []
    for seed in range(40):
        distance = kernel_distance(normal(400, 6, seed=seed), normal(400, 6, seed=500 + seed))
        scores.append(distance.value / distance.standard_error)
    assert abs(np.mean(scores)) < 4 * np.std(scores) / math.sqrt(40)
    assert 0.7 < np.std(scores) < 1.7
    assert min(scores) < 0 < max(scores), "an unbiased estimate of zero is negative at times"


def test_the_number_of_images_does_not_matter_on_average() -> None:
    """A shift in closed form: for N(0, I) and N(m, I), the cubic kernel's moments up to the third."""
    dim, shift = 2, torch.tensor([1.0, 0.0], dtype=torch.float64)

    def k_mean(a: Tensor, b: Tensor) -> float:
        """E (x·y/F + 1)³ of x ~ N(a, I), y ~ N(b, I), independent: by the moments of the product."""
        s = float(a @ b)  # E x·y
        second = s**2 + float(a @ a) + float(b @ b) + dim  # E (x·y)²
        # E (x·y)³: Gaussian in x given y with mean a·y and variance |y|², then in y.
        third = s**3 + 3 * s * float(a @ a) + 3 * (s * (dim + float(b @ b)) + 2 * s)
        return third / dim**3 + 3 * second / dim**2 + 3 * s / dim + 1

    zero = torch.zeros(dim).double()
    exact = k_mean(zero, zero) + k_mean(shift, shift) - 2 * k_mean(zero, shift)
    for n in (4, 40):
        estimates = [
            unbiased_mmd2(normal(n, dim, seed=2 * s), normal(n, dim, seed=2 * s + 1) + shift) for s in range(8000 // n)
        ]
        error = np.std(estimates) / math.sqrt(len(estimates))
        assert abs(np.mean(estimates) - exact) < 4 * error
        assert 4 * error < 0.6 * exact


def test_blocks_are_disjoint_and_their_mean_and_scatter_are_given() -> None:
    x, y = normal(23, 4), normal(31, 4, seed=1)
    distance = kernel_distance(x, y, n_blocks=3)
    estimates = [unbiased_mmd2(x[i : i + 7], y[i : i + 7]) for i in (0, 7, 14)]
    assert (distance.n_blocks, distance.block_size) == (3, 7)
    assert math.isclose(distance.value, np.mean(estimates), rel_tol=1e-12)
    assert math.isclose(distance.standard_error, np.std(estimates, ddof=1) / math.sqrt(3), rel_tol=1e-12)


def test_a_rotation_changes_no_kernel_distance() -> None:
    x, y = normal(20, 5), normal(20, 5, seed=1) + 1
    turn = torch.linalg.qr(normal(5, 5, seed=2)).Q
    assert math.isclose(unbiased_mmd2(x @ turn, y @ turn), unbiased_mmd2(x, y), rel_tol=1e-10)
    assert math.isclose(unbiased_mmd2(x, y), unbiased_mmd2(y, x), rel_tol=1e-12)


def test_kernel_distances_name_what_they_want() -> None:
    with pytest.raises(ValueError, match="at least two images in each set, got 1 and 5"):
        unbiased_mmd2(normal(1, 3), normal(5, 3))
    with pytest.raises(ValueError, match=r"\(N, F\) and \(M, F\)"):
        polynomial_kernel(normal(2, 3), normal(2, 4))
    with pytest.raises(ValueError, match="10 blocks of 19 and 50"):
        kernel_distance(normal(19, 3), normal(50, 3))
    with pytest.raises(ValueError, match="at least 2 blocks"):
        kernel_distance(normal(19, 3), normal(50, 3), n_blocks=1)


# ── precision, recall, density, coverage ──────────────────────────────────


def by_definition(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """The four measures from their definitions, point by point."""

    def radius(x: np.ndarray) -> list[float]:
        return [sorted(np.linalg.norm(x - p, axis=1))[k] for p in x]  # [0] is the point itself

    real_radius, fake_radius = radius(real), radius(fake)
    cross = np.array([[np.linalg.norm(r - f) for f in fake] for r in real])
    inside = cross < np.array(real_radius)[:, None]
    return {
        "precision": float(np.mean(inside.any(0))),
        "recall": float(np.mean((cross < np.array(fake_radius)[None, :]).any(1))),
        "density": float(inside.sum() / (k * len(fake))),
        "coverage": float(np.mean(inside.any(1))),
    }


@pytest.mark.parametrize("k", [1, 3])
def test_against_the_definitions(k: int) -> None:
    real, fake = normal(40, 2), 0.7 * normal(30, 2, seed=1) + 0.5
    expected = by_definition(real.numpy(), fake.numpy(), k)
    assert precision_recall(real, fake, k) == pytest.approx(expected, rel=1e-9)


def test_against_the_package_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    real, fake = normal(50, 4), normal(50, 4, seed=1)
    got = precision_recall(real, fake)
    assert capsys.readouterr().out == ""
    from prdc import compute_prdc

    direct = compute_prdc(real.numpy(), fake.numpy(), 5)
    assert got == pytest.approx({name: float(value) for name, value in direct.items()}, rel=1e-12)
    assert all(type(value) is float for value in got.values())


def test_a_collapsed_model_has_precision_without_recall_and_a_wild_one_the_reverse() -> None:
    real = normal(200, 2)
    collapsed, wild = 0.01 * normal(200, 2, seed=1), 5 * normal(200, 2, seed=1)
    assert precision_recall(real, collapsed)["precision"] == 1.0
    assert precision_recall(real, collapsed)["recall"] < 0.1
    assert precision_recall(real, collapsed)["coverage"] < 0.2
    assert precision_recall(real, wild)["recall"] > 0.9
    assert precision_recall(real, wild)["precision"] < 0.4


def test_precision_and_recall_change_places_with_the_sets() -> None:
    real, fake = normal(60, 3), normal(60, 3, seed=1) + 0.5
    forward, backward = precision_recall(real, fake), precision_recall(fake, real)
    assert (forward["precision"], forward["recall"]) == (backward["recall"], backward["precision"])


@pytest.mark.parametrize(
    ("real", "fake", "k", "message"),
    [
        (normal(6, 2), normal(50, 2), 5, r"k \+ 2 images a set, got k = 5, 6 and 50"),
        (normal(50, 2), normal(50, 2), 0, "k >= 1"),
        (normal(50, 2), normal(50, 3), 5, "equally many features"),
        (normal(50), normal(50), 5, r"real of shape \(N, F\)"),
        (normal(50, 2), torch.full((50, 2), torch.nan), 5, "finite samples"),
    ],
)
def test_precision_and_recall_name_what_they_want(real: Tensor, fake: Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        precision_recall(real, fake, k)


def test_without_prdc_the_message_has_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prdc", None)
    with pytest.raises(ModuleNotFoundError, match="pip install prdc"):
        precision_recall(normal(9, 2), normal(9, 2))


# ── nearest neighbours and copies ─────────────────────────────────────────


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_nearest_neighbours_by_hand(chunk: int) -> None:
    pool = torch.tensor([[0.0, 0.0], [3.0, 4.0], [10.0, 0.0]])
    found = nearest_neighbours(
        torch.tensor([[0.0, 0.0], [9.0, 0.0], [3.0, 3.0], [4.0, 4.0], [0.0, 1.0]]), pool, 2, chunk
    )
    assert found.index.tolist() == [[0, 1], [2, 1], [1, 0], [1, 0], [0, 1]]
    torch.testing.assert_close(found.distance[:2, 0], torch.tensor([0.0, 1.0]))


def test_a_copy_far_from_the_origin_is_at_distance_zero() -> None:
    pool = normal(500, 64).float() + 100
    assert nearest_neighbours(pool, pool).distance.max() == 0


def test_copies_are_found_and_fresh_samples_are_not_accused() -> None:
    train, held_out, fresh = normal(500, 8), normal(300, 8, seed=1), normal(300, 8, seed=2)
    copies = train[:300] + 0.01 * normal(300, 8, seed=3)
    assert data_copying(copies, train, held_out) == 1.0
    assert abs(data_copying(fresh, train, held_out) - 0.5) < 0.1
    assert data_copying(10 * fresh, train, held_out) < 0.05
    half = torch.cat([copies[:150], fresh[:150]])
    assert 0.7 < data_copying(half, train, held_out) < 0.8


def test_ties_count_a_half() -> None:
    train, points = torch.zeros(1, 1), torch.tensor([[1.0], [2.0]])
    assert data_copying(points, train, points) == 0.5
    assert data_copying(points[:1], train, points) == 0.75


def test_neighbours_name_what_they_want() -> None:
    with pytest.raises(ValueError, match="k from 1 to 3, the size of the pool, got 4"):
        nearest_neighbours(normal(2, 2), normal(3, 2), k=4)
    with pytest.raises(ValueError, match="equally many features"):
        nearest_neighbours(normal(2, 2), normal(3, 3))


# ── linear probe ──────────────────────────────────────────────────────────


def test_probe_against_scikit_learn() -> None:
    x, z = normal(200, 6), normal(150, 6, seed=1)
    weight = normal(6, 3, seed=2)
    y, w = ((a @ weight + 2 * normal(len(a), 3, seed=s)).argmax(1) for a, s in ((x, 3), (z, 4)))
    mean, std = x.mean(0), x.std(0)
    ridge = Ridge(alpha=0.1 * 200).fit(((x - mean) / std).numpy(), np.eye(3)[y.numpy()])
    expected = np.mean(ridge.predict(((z - mean) / std).numpy()).argmax(1) == w.numpy())
    assert linear_probe(x, y, z, w) == pytest.approx(expected)


def test_probe_sees_what_is_linear_and_not_what_is_noise() -> None:
    labels = torch.arange(400) % 4
    good = nn.functional.one_hot(labels, 4).double() + 0.1 * normal(400, 4)
    assert linear_probe(good[:200], labels[:200], good[200:], labels[200:]) == 1.0
    noise = normal(400, 4)
    assert linear_probe(noise[:200], labels[:200], noise[200:], labels[200:]) < 0.45
    scaled = good * torch.tensor([1e-3, 1.0, 1e3, 5.0]).double() - 7  # features have no units
    assert linear_probe(scaled[:200], labels[:200], scaled[200:], labels[200:]) == 1.0


def test_probe_names_what_it_wants() -> None:
    x, y = normal(6, 2), torch.arange(6) % 2
    for arguments, message in (
        ((x, y, normal(4, 3), y[:4]), "features"),
        ((x, y[:3], x, y), "label for each image"),
        ((x, y, x * torch.nan, y), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            linear_probe(*arguments)
    with pytest.raises(ValueError, match="ridge > 0"):
        linear_probe(x, y, x, y, ridge=0)


def test_features_that_are_not_finite_are_refused() -> None:
    x, y = normal(100, 3), normal(100, 3, seed=1)
    x[3, 0] = math.nan
    for estimate in (unbiased_mmd2, kernel_distance):
        with pytest.raises(ValueError, match="expected finite features"):
            estimate(x, y)
