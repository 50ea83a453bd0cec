"""helpers.oracle.grids: integrals, and the gradient of the likelihood where it can be summed exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from helpers.nn import EnergyMLP
from helpers.oracle import Grid, eight_gaussians, finite_differences, grid_nll, grid_nll_gradient

GRID = Grid(-2.5, 2.5, 15)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _network(seed: int = 0) -> EnergyMLP:
    model = EnergyMLP(2, 8, 2).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7, generator=_generator(seed))
    return model


def _data_weights() -> Tensor:
    return eight_gaussians(1.5, 0.4).log_prob(GRID.points).softmax(0)


# ── the grid ──────────────────────────────────────────────────────────────


def test_points_are_regular_and_include_the_edges() -> None:
    grid = Grid(-1.0, 3.0, n=5, dim=2)
    assert grid.spacing == 1.0
    assert grid.points.dtype == torch.float64
    assert grid.points.shape == (25, 2)
    assert grid.points[:6].tolist() == [[-1, -1], [-1, 0], [-1, 1], [-1, 2], [-1, 3], [0, -1]]
    assert grid.border.sum() == 16
    assert grid.points[~grid.border].abs().max() == 2
    assert Grid(-1.0, 1.0, n=3, dim=1).points.tolist() == [[-1], [0], [1]]
    assert Grid(-1.0, 1.0, n=4, dim=3).border.sum() == 4**3 - 2**3


def test_61_points_a_side_integrate_the_mixture_to_rounding() -> None:
    grid = Grid(-5, 5, 61)
    assert abs(grid.log_integral(eight_gaussians().log_prob(grid.points)).item()) < 1e-13


def test_a_coarse_grid_or_a_small_box_does_not() -> None:
    """The error is that of sampling below the width of a mode, and of what lies outside."""
    for grid in (Grid(-5, 5, 16), Grid(-2, 2, 61)):
        assert abs(grid.log_integral(eight_gaussians().log_prob(grid.points)).item()) > 1e-3


def test_border_share() -> None:
    grid = Grid(-1.0, 1.0, n=101)
    flat = torch.zeros(101**2, dtype=torch.float64)
    assert grid.border_share(flat) == pytest.approx(400 / 101**2)
    assert grid.border_share(-50 * grid.points.square().sum(1)) < 1e-15


@pytest.mark.parametrize("arguments", [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (0.0, 1.0, 1), (0.0, 1.0, 5, 0)])
def test_grids_that_make_no_sense(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="expected"):
        Grid(*arguments)


def test_values_must_be_those_of_the_points() -> None:
    for method in (GRID.log_integral, GRID.border_share):
        with pytest.raises(ValueError, match=r"\(225,\), got \(15, 15\)"):
            method(torch.zeros(15, 15))


# ── oracle 4: the gradient of the negative log-likelihood ─────────────────


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_data_minus_model_is_the_gradient_of_the_likelihood(seed: int, temperature: float) -> None:
    """Against finite differences, which know nothing of the identity; their error is 1e-10 of the likelihood."""
    model, points, weights = _network(seed), GRID.points, _data_weights()
    parameters = list(model.parameters())
    claimed = grid_nll_gradient(model, parameters, points, weights, temperature)
    measured = finite_differences(lambda: grid_nll(model, points, weights, temperature), parameters)
    torch.testing.assert_close(claimed, measured, rtol=1e-6, atol=1e-8)
    assert max(slope.abs().max().item() for slope in measured) > 1e-2  # there was something to compare


def test_the_identity_by_hand_and_its_mutants() -> None:
    """E = ½a‖x‖²: ∇_a E = ½‖x‖², summed here without autograd; a swapped sign or a missing half is far off."""
    a = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    points, p = GRID.points, _data_weights()
    half = points.square().sum(1) / 2
    q = (-a.detach() * half).exp()
    q = q / q.sum()
    data, model = (p * half).sum(), (q * half).sum()
    (measured,) = finite_differences(lambda: grid_nll(lambda x: a * half, points, p), [a])
    (claimed,) = grid_nll_gradient(lambda x: a * half, [a], points, p)
    torch.testing.assert_close(data - model, measured, rtol=1e-8, atol=0.0)
    torch.testing.assert_close(claimed, measured, rtol=1e-8, atol=0.0)
    for mutant in (model - data, data, data + model, -model):
        assert abs(mutant - measured) > 0.1


def test_the_likelihood_is_that_of_a_discrete_distribution() -> None:
    model, p = _network(), _data_weights()
    q = (-model(GRID.points).detach() / 0.7).softmax(0)
    torch.testing.assert_close(grid_nll(model, GRID.points, p, 0.7), -(p * q.log()).sum(), rtol=1e-12, atol=0.0)
    assert all(
        slope.abs().max() < 1e-12 for slope in grid_nll_gradient(model, list(model.parameters()), GRID.points, q, 0.7)
    )


def test_finite_differences_put_parameters_back() -> None:
    model = _network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    finite_differences(lambda: grid_nll(model, GRID.points, _data_weights()), list(model.parameters()))
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_finite_differences_of_a_polynomial() -> None:
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    (slope,) = finite_differences(lambda: (x**3).sum(), [x])
    torch.testing.assert_close(slope, 3 * x**2, rtol=1e-8, atol=1e-8)


def test_mistakes_are_named() -> None:
    model, p = _network(), _data_weights()
    with pytest.raises(ValueError, match="temperature > 0"):
        grid_nll(model, GRID.points, p, 0.0)
    with pytest.raises(ValueError, match="225 weights"):
        grid_nll(model, GRID.points, torch.full_like(p, math.nan))
    with pytest.raises(ValueError, match="225 weights"):
        grid_nll(model, GRID.points, 2 * p)
    with pytest.raises(ValueError, match="225 weights"):
        grid_nll(model, GRID.points, p[:-1])
    with pytest.raises(ValueError, match=r"energies of shape \(225,\), got \(225, 1\)"):
        grid_nll(lambda x: model(x)[:, None], GRID.points, p)
    with pytest.raises(ValueError, match="float64"):
        finite_differences(lambda: torch.zeros(()), [torch.zeros(1)])
    with pytest.raises(ValueError, match="step > 0"):
        finite_differences(lambda: torch.zeros(()), [], step=0.0)
