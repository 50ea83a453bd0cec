r"""Is the chain working? Numbers from trajectories of shape (n, B, …): time first, then chains, then coordinates.

They can say that chains have *not* converged. That they have, no number can say: chains that all sit in one of two
modes agree perfectly.

* Autocorrelation :math:`\rho_k`: how much a state still knows of the one k steps before.
* Effective sample size: the number of independent draws whose mean would be as precise,
  :math:`nB/(1 + 2\sum_k \rho_k)`, the sum cut where it is only noise (Geyer 1992).
* :math:`\hat R`: do different chains, and their first and second halves, look alike? 1 if they do (Gelman & Rubin 1992,
  split as in Gelman et al. 2013, section 11.4; Vehtari et al. 2021, arXiv:1903.08008, ask for less than 1.01).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..energy import Energy, energy_and_gradient, frozen
from ..energy.gradients import differentiable
from .chains import standard_normal

__all__ = ["acceptance", "autocorrelation", "effective_sample_size", "largest_stable_step", "r_hat"]


def _check_trajectory(trajectory: Tensor, shortest: int) -> Tensor:
    """In float64."""
    if trajectory.ndim < 2 or len(trajectory) < shortest:
        raise ValueError(f"expected a trajectory (n, B, ...) with n >= {shortest}, got {tuple(trajectory.shape)}")
    return trajectory.double()


def _autocovariance(series: Tensor) -> Tensor:
    """(1/n) Σ_i (x_i − x̄)(x_{i+k} − x̄) for k = 0, …, n − 1 along the first axis, by fast Fourier transform."""
    n = len(series)
    spectrum = torch.fft.rfft(series - series.mean(0), n=2 * n, dim=0)
    return torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)[:n] / n


def autocorrelation(trajectory: Tensor, max_lag: int | None = None) -> Tensor:
    """ρ_k of each chain and coordinate along the first axis.

    Each series is measured against its own mean, and each sum divided by n whatever the lag, so that the estimate is
    too low by about (1 + 2Σρ)/n, and never wild. NaN for a series that does not move.

    Args:
        trajectory: Shape (n, B, …), n ≥ 2; throw the first states away beforehand, which still know the start.
        max_lag: The largest k, below n; n − 1 if not given.

    Returns:
        Shape (max_lag + 1, B, …), float64; 1 at lag 0.

    Raises:
        ValueError: For another shape, or a lag that is not in 0, …, n − 1.
    """
    series = _check_trajectory(trajectory, shortest=2)
    max_lag = len(series) - 1 if max_lag is None else max_lag
    if not 0 <= max_lag < len(series):
        raise ValueError(f"expected max_lag from 0 to {len(series) - 1}, got {max_lag}")
    covariance = _autocovariance(series)
    # Where nothing moves, the mean's rounding would be divided by itself.
    return torch.where((series != series[:1]).any(0), covariance[: max_lag + 1] / covariance[0], math.nan)


def _pooled_variance(series: Tensor) -> tuple[Tensor, Tensor]:
    """Of (n, B, …): the mean variance within chains, and an estimate of the whole variance with that between them."""
    n, chains = series.shape[:2]
    within = series.var(0).mean(0)
    between = series.mean(0).var(0) if chains > 1 else torch.zeros_like(within)
    return within, (n - 1) / n * within + between


def effective_sample_size(trajectory: Tensor) -> Tensor:
    """How many independent draws all chains together are worth, for the mean of each coordinate.

    Autocorrelations of all chains, against the variance that includes the chains' differences, are summed in pairs as
    long as they are positive and made to decrease (Geyer 1992; Vehtari et al. 2021, section 3.2). At most
    n·B·log10(n·B), for chains whose states repel each other.

    Args:
        trajectory: Shape (n, B, …), n ≥ 4.

    Returns:
        One number a coordinate, the trajectory's shape without its first two axes, float64; NaN where nothing moves.

    Raises:
        ValueError: For another shape.
    """
    series = _check_trajectory(trajectory, shortest=4)
    n, chains = series.shape[:2]
    within, total = _pooled_variance(series)
    covariance = (_autocovariance(series) * (n / (n - 1))).mean(1)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    pairs = rho[: n // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    meaningful = (pairs > 0).cumprod(0)
    time = 2 * (pairs.cummin(0).values * meaningful).sum(0) - 1
    size = n * chains / time.clamp(min=1 / math.log10(n * chains))
    return torch.where(total > 0, size, math.nan)


def r_hat(trajectory: Tensor) -> Tensor:
    """Split R̂: √(variance of everything / variance within half chains); 1 for chains that agree.

    Args:
        trajectory: Shape (n, B, …), n ≥ 4; each chain is cut in two, so that one alone will do.

    Returns:
        One number a coordinate, the trajectory's shape without its first two axes, float64; NaN where nothing moves,
        infinite where chains do not move and are at different places.

    Raises:
        ValueError: For another shape.
    """
    series = _check_trajectory(trajectory, shortest=4)
    half = len(series) // 2
    within, total = _pooled_variance(torch.cat([series[:half], series[-half:]], dim=1))
    return (total / within).sqrt()


def acceptance(trajectory: Tensor) -> Tensor:
    """The share of steps in which each chain moved: for samplers that stay where they are, what they accepted.

    Args:
        trajectory: Shape (n, B, …), n ≥ 2.

    Returns:
        Shape (B,), float64.

    Raises:
        ValueError: For another shape.
    """
    if trajectory.ndim < 2 or len(trajectory) < 2:
        raise ValueError(f"expected a trajectory (n, B, ...) with n >= 2, got {tuple(trajectory.shape)}")
    moved = trajectory[1:] != trajectory[:-1]
    return moved.flatten(2).any(2).double().mean(0) if trajectory.ndim > 2 else moved.double().mean(0)


def largest_stable_step(
    energy: Energy, x: Tensor, n_iterations: int = 50, generator: torch.Generator | None = None
) -> Tensor:
    r"""4/|λ|, with λ the eigenvalue of the Hessian of E at x that is largest in size: Langevin's stability limit there.

    A step maps a small displacement along λ's direction to :math:`1 - \epsilon\lambda/2` times itself, which grows, in
    alternating directions, for ε > 4/λ. λ is found by power iteration with products of the Hessian and vectors, from
    below: the answer is too large until it has converged. It holds near x; elsewhere the energy may be steeper.

    Args:
        energy: ``energy(x) -> (B,)``, twice differentiable.
        x: Points (B, …), floating point.
        n_iterations: Steps of the power iteration, at least 1.
        generator: Source of the first vectors.

    Returns:
        Shape (B,); infinite where there is no curvature at all.

    Raises:
        ValueError: For ``n_iterations`` below 1, an energy that is not of shape (B,) or does not depend on x.
        TypeError: If x holds integers.

    Example:
        >>> steep = torch.tensor([1.0, 16.0])
        >>> largest_stable_step(lambda x: (steep * x**2).sum(1) / 2, torch.zeros(1, 2))
        tensor([0.2500])
    """
    if n_iterations < 1:
        raise ValueError(f"expected n_iterations >= 1, got {n_iterations}")
    with frozen(energy), torch.enable_grad():
        inside = differentiable(x)
        vector = standard_normal(x, generator)
        gradient = energy_and_gradient(energy, inside, create_graph=True)[1]
        if not gradient.requires_grad:  # a linear energy
            return x.new_full(x.shape[:1], math.inf)
        for _ in range(n_iterations):
            norm = vector.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
            vector = vector / norm.reshape(-1, *[1] * (x.ndim - 1))
            (vector,) = torch.autograd.grad(gradient, inside, vector, retain_graph=True, allow_unused=True)
            if vector is None:  # linear too: the gradient depends on parameters, not on x
                return x.new_full(x.shape[:1], math.inf)
    return 4 / vector.flatten(1).norm(dim=1)
