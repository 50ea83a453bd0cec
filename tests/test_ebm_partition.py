"""helpers.ebm.partition and .importance: log Z, log-densities and KL divergences against exact answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from helpers.ebm import (
    AISEstimate,
    AISSettings,
    QuadratureWarning,
    ais_log_z,
    ais_log_z_reverse,
    kl_quadrature,
    log_density_quadrature,
    log_partition_quadrature,
)
from helpers.energy import Tempered
from helpers.nn import EnergyMLP
from helpers.oracle import GaussianMixture, Grid, eight_gaussians, standard_gaussian

LOG_2PI = math.log(2 * math.pi)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _parabola(std: float, constant: float = 0.0) -> Callable[[Tensor], Tensor]:
    return lambda x: x.flatten(1).square().sum(1) / (2 * std**2) + constant


# ── quadrature ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("constant", [0.0, -700.0, 900.0])
def test_log_z_of_the_mixture_is_exact_on_61_points(constant: float) -> None:
    """Also where exp(−E) itself would overflow or vanish."""
    density = eight_gaussians()
    log_z = log_partition_quadrature(lambda x: density.energy(x) + constant, Grid(-5, 5, 61))
    assert abs(log_z + constant) < 1e-12


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("dim", [1, 2])
def test_log_z_of_gaussians_at_any_temperature(dim: int, temperature: float) -> None:
    grid = Grid(-15, 15, 301, dim)
    log_z = log_partition_quadrature(_parabola(0.8, 2.0), grid, temperature)
    assert log_z == pytest.approx(dim / 2 * (LOG_2PI + math.log(0.64 * temperature)) - 2.0 / temperature, abs=1e-11)
    assert log_z == pytest.approx(log_partition_quadrature(Tempered(_parabola(0.8, 2.0), temperature), grid), abs=1e-11)


def test_log_density_is_normalised() -> None:
    density, x = eight_gaussians(), torch.randn(50, 2, generator=_generator(), dtype=torch.float64)
    log_p = log_density_quadrature(lambda y: density.energy(y) + 3.0, x)
    torch.testing.assert_close(log_p, density.log_prob(x), rtol=1e-11, atol=1e-11)
    hot = log_density_quadrature(_parabola(1.0, 3.0), x, Grid(-20, 20, 201), temperature=4.0)
    wide = GaussianMixture(torch.zeros(1, 2), 4.0)
    torch.testing.assert_close(hot, wide.log_prob(x), rtol=1e-10, atol=1e-10)


def _kl_gaussians(p: float, q: float, dim: int = 2) -> float:
    return dim * (math.log(q / p) + (p / q) ** 2 / 2 - 0.5)


@pytest.mark.parametrize(("p", "q"), [(1.0, 2.0), (2.0, 1.0), (0.5, 0.6), (1.0, 1.0)])
def test_kl_of_gaussians_and_its_direction(p: float, q: float) -> None:
    """KL(data ‖ model), not the other way round, which is another number."""
    data = GaussianMixture(torch.zeros(1, 2), p**2)
    measured = kl_quadrature(data.log_prob, _parabola(q, 7.0), Grid(-20, 20, 201))
    assert measured == pytest.approx(_kl_gaussians(p, q), abs=1e-10)
    if p != q:
        for mutant in (_kl_gaussians(q, p), -_kl_gaussians(p, q)):
            assert abs(measured - mutant) > 1e-3


def test_kl_at_a_temperature() -> None:
    """Energy ½‖x‖² at T = 4 is the Gaussian of standard deviation 2."""
    measured = kl_quadrature(standard_gaussian().log_prob, _parabola(1.0), Grid(-20, 20, 201), temperature=4.0)
    assert measured == pytest.approx(_kl_gaussians(1.0, 2.0), abs=1e-10)


def test_kl_agrees_with_samples() -> None:
    """An independent estimate: the mean of log p − log q over draws of p, with its standard error."""
    density, model, n = eight_gaussians(), eight_gaussians(2.2, 0.4), 20_000
    x = density.sample(n, _generator())
    difference = density.log_prob(x) - model.log_prob(x)
    exact = kl_quadrature(density.log_prob, model.energy)
    assert abs(difference.mean().item() - exact) < 4 * difference.std().item() / math.sqrt(n)
    assert exact > 0.1


def test_kl_where_the_model_has_nothing_is_infinite() -> None:
    wall = lambda x: torch.where(x[:, 0] > 0, math.inf, x.square().sum(1) / 2)  # noqa: E731
    assert kl_quadrature(standard_gaussian().log_prob, wall, Grid(-8, 8)) == math.inf


def test_a_float32_network_is_asked_in_float32() -> None:
    model = EnergyMLP(2, 16, 2)
    grid = Grid(-1, 1, 21)
    with torch.no_grad():
        by_hand = grid.log_integral(-model(grid.points.float()).double()).item()
    with pytest.warns(QuadratureWarning):
        assert log_partition_quadrature(model, grid) == by_hand
    assert all(parameter.grad is None for parameter in model.parameters())


def test_mass_at_the_edge_is_a_warning() -> None:
    with pytest.warns(QuadratureWarning, match=r"\[-1, 1\]\^2: enlarge the box"):
        log_partition_quadrature(_parabola(1.0), Grid(-1, 1))
    with pytest.warns(QuadratureWarning, match="finite integral"):
        kl_quadrature(standard_gaussian().log_prob, lambda x: 0.01 * x.sum(1), Grid(-8, 8))


def test_quadrature_mistakes_are_named() -> None:
    for bad in (math.nan, -math.inf):
        with pytest.raises(ValueError, match="NaN or -inf"):
            log_partition_quadrature(lambda x, bad=bad: torch.full((len(x),), bad, dtype=torch.float64))
    with pytest.raises(ValueError, match="temperature > 0"):
        log_partition_quadrature(_parabola(1.0), temperature=0.0)
    with pytest.raises(ValueError, match=r"shape \(10201,\), got \(10201, 2\)"):
        log_partition_quadrature(lambda x: x)
    with pytest.raises(ValueError, match="integrates to 1"):
        kl_quadrature(lambda x: -x.square().sum(1) / 2, _parabola(1.0), Grid(-8, 8))
    with pytest.raises(ValueError, match="integrates to 1"):
        kl_quadrature(standard_gaussian().log_prob, _parabola(1.0), Grid(-1, 1))


# ── annealed importance sampling ──────────────────────────────────────────

DENSITY = eight_gaussians(2.0, 0.5)
LOG_Z = 1.7
TRANSITIONS = {
    "langevin": AISSettings(n_levels=60, step_size=0.06, transition="langevin", base_std=2.0),
    "mala": AISSettings(n_levels=40, step_size=0.2, transition="mala", base_std=2.0),
    "hmc": AISSettings(n_levels=25, step_size=0.3, transition="hmc", n_leapfrog=4, base_std=2.0),
}
each_transition = pytest.mark.parametrize("settings", TRANSITIONS.values(), ids=TRANSITIONS.keys())


def _target(x: Tensor) -> Tensor:
    return DENSITY.energy(x) - LOG_Z


def _both(settings: AISSettings, n: int = 1000) -> tuple[AISEstimate, AISEstimate]:
    lower = ais_log_z(_target, (2,), n, settings, generator=_generator())
    return lower, ais_log_z_reverse(_target, DENSITY.sample(n, _generator(1)), settings, generator=_generator(2))


@each_transition
def test_both_directions_enclose_and_find_log_z(settings: AISSettings) -> None:
    lower, upper = _both(settings)
    for estimate in (lower, upper):
        assert abs(estimate.log_z - LOG_Z) < 4 * estimate.standard_error
        assert estimate.standard_error < 0.05
        assert 1 < estimate.effective_sample_size < 1000
        assert 0.3 < estimate.acceptance < 1
    # The mean of log w is a bound too, visibly so, and its error is that of a plain mean.
    assert lower.mean_log_weight < LOG_Z - 4 * lower.mean_standard_error
    assert upper.mean_log_weight > LOG_Z + 4 * upper.mean_standard_error
    assert (lower.bound, upper.bound) == ("lower", "upper")


def test_weights_are_unbiased_however_rough_the_climb() -> None:
    """One level, two levels, a step far too large: E[w] = Z all the same, and only the scatter grows."""
    target = _parabola(0.7)
    exact = LOG_2PI + 2 * math.log(0.7)
    for settings in (
        AISSettings(n_levels=1),
        AISSettings(n_levels=2, step_size=0.5, transition="langevin"),
        AISSettings(n_levels=3, n_steps=3, step_size=1.0, transition="langevin"),
        AISSettings(n_levels=3, step_size=3.0, transition="mala"),
    ):
        estimate = ais_log_z(target, (2,), 20_000, settings, generator=_generator())
        assert abs(estimate.log_z - exact) < 4 * estimate.standard_error
        assert estimate.standard_error < 0.1


def test_more_levels_close_the_bounds() -> None:
    gaps = []
    for n_levels in (5, 40):
        lower, upper = _both(AISSettings(n_levels=n_levels, step_size=0.2, base_std=2.0), 400)
        gaps.append(upper.mean_log_weight - lower.mean_log_weight)
    assert 0 < gaps[1] < gaps[0] / 2


@each_transition
def test_the_base_itself_has_no_scatter(settings: AISSettings) -> None:
    """All weights are Z exactly if target and base agree, but for Langevin's correction, which has mean one."""
    target = _parabola(2.0, 5.0)
    estimate = ais_log_z(target, (3,), 500, settings, generator=_generator())
    exact = 1.5 * LOG_2PI + 3 * math.log(2.0) - 5.0
    if settings.transition == "langevin":
        assert abs(estimate.log_z - exact) < 4 * estimate.standard_error
    else:
        torch.testing.assert_close(estimate.log_weights, torch.full((500,), exact, dtype=torch.float64))


def test_a_temperature_is_a_division_of_the_energy() -> None:
    settings = AISSettings(n_levels=10, step_size=0.3)
    hot = ais_log_z(_parabola(0.7), (2,), 50, settings, temperature=2.0, generator=_generator())
    flat = ais_log_z(Tempered(_parabola(0.7), 2.0), (2,), 50, settings, generator=_generator())
    torch.testing.assert_close(hot.log_weights, flat.log_weights)
    x = torch.randn(50, 2, generator=_generator(), dtype=torch.float64)
    hot = ais_log_z_reverse(_parabola(0.7), x, settings, temperature=2.0, generator=_generator())
    flat = ais_log_z_reverse(Tempered(_parabola(0.7), 2.0), x, settings, generator=_generator())
    torch.testing.assert_close(hot.log_weights, flat.log_weights)


def test_after_a_climb_weighted_states_are_samples_of_the_target() -> None:
    estimate = ais_log_z(_parabola(0.5), (2,), 4000, AISSettings(n_levels=30, step_size=0.2), generator=_generator())
    shares = estimate.log_weights.softmax(0)
    second = (shares @ estimate.x.square()).mean().item()
    # Each coordinate's square has the standard deviation √2 s² over as many independent states as are effective.
    assert abs(second - 0.25) < 4 * math.sqrt(2) * 0.25 / math.sqrt(2 * estimate.effective_sample_size)


def test_networks_are_sampled_in_their_type_and_left_alone() -> None:
    class Confined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = EnergyMLP(2, 16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x) + x.square().sum(1) / 2

    model = Confined()
    for transition in ("langevin", "mala", "hmc"):
        settings = AISSettings(n_levels=10, step_size=0.2, transition=transition)
        estimate = ais_log_z(model, (2,), 500, settings, generator=_generator())
        assert estimate.x.dtype == torch.float32
        assert estimate.log_weights.dtype == torch.float64
        exact = log_partition_quadrature(model, Grid(-8, 8))
        assert abs(estimate.log_z - exact) < 4 * estimate.standard_error
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_errors_of_the_estimate_by_hand() -> None:
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    lower = AISEstimate(weights.log(), "lower", torch.zeros(2, 1), 1.0)
    assert lower.log_z == pytest.approx(math.log(2))
    assert lower.standard_error == pytest.approx(math.sqrt(2) / 2 / math.sqrt(2))
    assert lower.effective_sample_size == pytest.approx(16 / 10)
    upper = AISEstimate(-weights.log(), "upper", torch.zeros(2, 1), 1.0)
    assert upper.log_z == pytest.approx(-math.log(2))
    assert upper.standard_error == pytest.approx(lower.standard_error)


def test_ais_mistakes_are_named() -> None:
    for arguments in ({"n_levels": 0}, {"n_steps": 0}, {"step_size": 0.0}, {"base_std": -1.0}, {"transition": "gibbs"}):
        with pytest.raises(ValueError, match="expected"):
            AISSettings(**arguments)
    with pytest.raises(ValueError, match="at least two chains"):
        ais_log_z(_parabola(1.0), (2,), 1)
    with pytest.raises(ValueError, match="temperature > 0"):
        ais_log_z(_parabola(1.0), (2,), temperature=0.0)
    with pytest.raises(ValueError, match=r"energies of shape \(4,\)"):
        ais_log_z(lambda x: x, (2,), 4)
    wall = lambda x: torch.where(x[:, 0] > 0, math.inf, x.square().sum(1))  # noqa: E731
    with pytest.raises(ValueError, match="finite energies"):
        ais_log_z(wall, (2,), 64, generator=_generator())


def test_points_of_another_dimension_and_energies_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected x of shape \(B, 2\), as the grid's points, got \(2, 3\)"):
        log_density_quadrature(lambda x: x.square().sum(1), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"expected values of shape \(.*\), got \(\)"):
        log_density_quadrature(lambda x: x.square().sum(), torch.zeros(2, 2))
