"""Exact answers that everything else is tested and taught against."""

from .densities import (
    Density,
    FiniteData,
    GaussianMixture,
    eight_gaussians,
    exact_denoiser,
    exact_eps_model,
    standard_gaussian,
    two_gaussians,
)
from .grids import Grid, finite_differences, grid_nll, grid_nll_gradient
from .langevin import (
    decoupled_variance,
    mala_log_acceptance,
    persistent_fixed_point,
    short_run_fixed_point,
    short_run_variance,
    ula_autocorrelation,
    ula_stability_limit,
    ula_variance,
)

__all__ = [
    "Density",
    "FiniteData",
    "GaussianMixture",
    "Grid",
    "decoupled_variance",
    "eight_gaussians",
    "exact_denoiser",
    "exact_eps_model",
    "finite_differences",
    "grid_nll",
    "grid_nll_gradient",
    "mala_log_acceptance",
    "persistent_fixed_point",
    "short_run_fixed_point",
    "short_run_variance",
    "standard_gaussian",
    "two_gaussians",
    "ula_autocorrelation",
    "ula_stability_limit",
    "ula_variance",
]
