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

__all__ = [
    "Density",
    "FiniteData",
    "GaussianMixture",
    "eight_gaussians",
    "exact_denoiser",
    "exact_eps_model",
    "standard_gaussian",
    "two_gaussians",
]
