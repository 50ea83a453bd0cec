"""helpers.oracle.langevin: the closed forms against recursions, quadrature and root finding of their own."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import optimize

from helpers.oracle import (
    decoupled_variance,
    mala_log_acceptance,
    persistent_fixed_point,
    short_run_fixed_point,
    short_run_variance,
    ula_autocorrelation,
    ula_stability_limit,
    ula_variance,
)

RELATIVE_STEPS = [0.01, 0.5, 1.0, 2.0, 3.0, 3.9]  # ε/σ², stable below 4


def stepped_variance(
    curvature: float, step_size: float, n_steps: int, variance: float, temperature: float = 1.0
) -> float:
    """The variance of linear chains, step by step: x' = x − (ε/2) a x + √(εT) ξ."""
    for _ in range(n_steps):
        variance = (1 - step_size / 2 * curvature) ** 2 * variance + step_size * temperature
    return variance


@pytest.mark.parametrize("std", [0.5, 3.0])
@pytest.mark.parametrize("relative", RELATIVE_STEPS)
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_ula_variance_is_what_steps_come_to(std: float, relative: float, temperature: float) -> None:
    step_size = relative * std**2
    settled = stepped_variance(1 / std**2, step_size, 4000, 7.0, temperature)
    assert ula_variance(std, step_size, temperature) == pytest.approx(settled, rel=1e-10)


@pytest.mark.parametrize("relative", RELATIVE_STEPS)
@pytest.mark.parametrize("lag", [1, 2, 5])
def test_ula_autocorrelation_is_that_of_the_linear_recursion(relative: float, lag: int) -> None:
    """Cov(x_k, x_0) = b^k v and Var(x_k) = v: by carrying the response to x_0 along."""
    std, response = 1.3, 1.0
    for _ in range(lag):
        response -= relative * std**2 / 2 * response / std**2
    assert ula_autocorrelation(std, relative * std**2, lag) == pytest.approx(response, rel=1e-12)


def test_ula_settles_below_four_and_runs_away_above() -> None:
    limit = ula_stability_limit(1.5)
    assert limit == 9.0
    assert stepped_variance(1 / 1.5**2, 0.999 * limit, 20_000, 1.0) == pytest.approx(ula_variance(1.5, 0.999 * limit))
    assert stepped_variance(1 / 1.5**2, 1.001 * limit, 20_000, 1.0) > 1e6
    for function in (ula_variance, ula_autocorrelation):
        with pytest.raises(ValueError, match="below 4σ² = 9"):
            function(1.5, limit)


@pytest.mark.parametrize("alpha", [1e-4, 0.3, 1.0, 1.9])
@pytest.mark.parametrize("std", [1.0, 0.6])
def test_decoupled_noise_is_a_temperature(alpha: float, std: float) -> None:
    tau, alpha = 0.3, alpha * std**2
    implied = tau**2 / (2 * alpha)
    exact = decoupled_variance(alpha, tau, std)
    assert exact == pytest.approx(ula_variance(std, 2 * alpha, implied), rel=1e-10)
    assert exact == pytest.approx(
        stepped_variance(1 / std**2, 2 * alpha, 200_000 if alpha < 1e-3 else 999, 0.0, implied)
    )
    if alpha < 1e-3:
        assert exact == pytest.approx(implied * std**2, rel=1e-3)
    if std == 1:
        assert exact == pytest.approx(tau**2 / (1 - (1 - alpha) ** 2), rel=1e-10)


@pytest.mark.parametrize("step_size", [0.01, 0.5, 2.0, 7.0])
def test_mala_log_acceptance_against_densities_of_torch(step_size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, x_new = 2 * torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    target = torch.distributions.Normal(0.0, 1.0)

    def proposal(start: torch.Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(start - step_size / 2 * start, math.sqrt(step_size))

    log_ratio = target.log_prob(x_new) - target.log_prob(x) + proposal(x_new).log_prob(x) - proposal(x).log_prob(x_new)
    torch.testing.assert_close(mala_log_acceptance(x, x_new, step_size), log_ratio.sum(1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("data_std", [1.0, 0.4])
@pytest.mark.parametrize("share", [1e-9, 0.01, 0.3, 0.9, 1.0])
def test_persistent_training_stops_where_biased_chains_fit_the_data(data_std: float, share: float) -> None:
    step_size = share * data_std**2
    a = persistent_fixed_point(data_std, step_size)
    assert ula_variance(a**-0.5, step_size) == pytest.approx(data_std**2, rel=1e-12)
    assert 1 / data_std**2 <= a <= 2 / data_std**2
    if share > 1e-3:
        assert a == pytest.approx(2 / step_size * (1 - math.sqrt(1 - step_size / data_std**2)), rel=1e-10)
    else:
        assert a == pytest.approx(1 / data_std**2, rel=1e-8)


def test_no_energy_fits_when_the_step_is_wider_than_the_data() -> None:
    """A step's noise alone has the variance ε; the least variance of all a is ε, at b = 0."""
    for function, more in ((persistent_fixed_point, ()), (short_run_fixed_point, (10, 1.0))):
        with pytest.raises(ValueError, match="no a fits"):
            function(1.0, 1.01, *more)


@pytest.mark.parametrize("n_steps", [1, 7, 100])
@pytest.mark.parametrize("curvature", [-0.5, 0.0, 1.0, 30.0])
def test_short_run_variance_step_by_step(n_steps: int, curvature: float) -> None:
    exact = short_run_variance(curvature, 0.1, n_steps, 2.0)
    assert exact == pytest.approx(stepped_variance(curvature, 0.1, n_steps, 2.0), rel=1e-10)
    b = 1 - 0.05 * curvature
    if curvature:
        assert exact == pytest.approx(b ** (2 * n_steps) * 2 + 0.1 * (1 - b ** (2 * n_steps)) / (1 - b**2), rel=1e-10)


@pytest.mark.parametrize("step_size", [0.001, 0.1, 0.9])
@pytest.mark.parametrize(("n_steps", "initial"), [(1, 0.5), (1, 9.0), (20, 0.0), (20, 0.5), (20, 9.0), (500, 0.0)])
def test_short_run_fixed_point_by_another_root_finder(step_size: float, n_steps: int, initial: float) -> None:
    def excess(a: float) -> float:
        return stepped_variance(a, step_size, n_steps, initial) - 1

    lowest = -1.0
    while excess(lowest) < 0:
        lowest *= 2
    expected = optimize.brentq(excess, lowest, 2 / step_size, xtol=1e-13, rtol=1e-13)
    assert short_run_fixed_point(1.0, step_size, n_steps, initial) == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_short_run_training_learns_the_truth_only_in_the_limit() -> None:
    truth = 1 / 0.8**2
    assert short_run_fixed_point(0.8, 1e-3, 20_000, 4.0) == pytest.approx(truth, rel=1e-3)
    assert short_run_fixed_point(0.8, 0.2, 2000, 4.0) == pytest.approx(persistent_fixed_point(0.8, 0.2), rel=1e-9)
    assert short_run_fixed_point(0.8, 1e-3, 20, 4.0) > 50 * truth  # a short way from too wide a start: a steep energy
    assert short_run_fixed_point(0.8, 1e-3, 20, 0.1) < 0  # and from too narrow a start, one that pushes out
    assert short_run_fixed_point(0.8, 0.04, 16, 0.0) == pytest.approx(0.0, abs=1e-9)  # exactly enough noise: no force


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ula_variance(-1.0, 0.1),
        lambda: ula_stability_limit(0.0),
        lambda: ula_autocorrelation(1.0, 0.0),
        lambda: decoupled_variance(0.1, 0.0),
        lambda: decoupled_variance(2.0, 1.0),
        lambda: persistent_fixed_point(1.0, math.nan),
        lambda: short_run_variance(1.0, 0.1, 0, 1.0),
        lambda: short_run_variance(1.0, 0.1, 5, -1.0),
        lambda: short_run_fixed_point(0.0, 0.1, 5, 1.0),
        lambda: short_run_fixed_point(1.0, 0.1, 0, 1.0),
        lambda: short_run_fixed_point(1.0, 0.1, 1, 0.0),
        lambda: short_run_variance(1.0, 0.1, 5, math.nan),
        lambda: ula_variance(1.0, 1.0, -1.0),
        lambda: ula_variance(1.0, 1.0, math.nan),
        lambda: ula_autocorrelation(1.0, 1.0, -2),
        lambda: ula_autocorrelation(1.0, 1.0, 0.5),  # type: ignore[arg-type]
        lambda: mala_log_acceptance(torch.ones(1, 3), torch.ones(5, 3), 1.0),
        lambda: mala_log_acceptance(torch.ones(5), torch.ones(5), 1.0),
        lambda: mala_log_acceptance(torch.ones(5, 2), torch.ones(5, 2), -1.0),
    ],
)
def test_numbers_out_of_range_are_named(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        wrong()
