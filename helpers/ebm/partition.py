r"""The partition function :math:`Z = \int e^{-E(x)/T}dx`, which training does without and densities need.

**Quadrature**, in one or two dimensions: exact to rounding (:class:`helpers.oracle.Grid`). With it come
log p(x) = −E(x)/T − log Z and, from the exact density of the data,

.. math:: KL(p_{data}\,\|\,p_{model}) = \int p_{data}\,(\log p_{data} - \log p_{model}) \ge 0:

the direction that maximum likelihood minimises, infinite where the model has none of what the data have. For more
dimensions see :mod:`helpers.ebm.importance`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..energy import Energy
from ..oracle import Grid

__all__ = ["QuadratureWarning", "kl_quadrature", "log_density_quadrature", "log_partition_quadrature", "parameter_like"]

_CHUNK = 65_536
_BORDER_SHARE = 1e-3


class QuadratureWarning(UserWarning):
    """A density has mass at the edge of the box over which it is integrated."""


def log_partition_quadrature(energy: Energy, grid: Grid | None = None, temperature: float = 1.0) -> float:
    r"""log ∫ exp(−E/T) over the box of the grid.

    Args:
        energy: ``energy(x) -> (B,)``. A module is asked in the type and on the device of its parameters, a function in
            float64 on the CPU.
        grid: Where; by default 101 × 101 points over [−5, 5]².
        temperature: T > 0.

    Returns:
        log Z.

    Raises:
        ValueError: If an energy is NaN or −∞, of another shape than (B,), or T is not positive.

    Warns:
        QuadratureWarning: If more than a thousandth of Z comes from the edge: the box is too small, or the energy has
            no finite Z at all.

    Example:
        >>> z = log_partition_quadrature(lambda x: x.square().sum(1) / 2, Grid(-9.0, 9.0))
        >>> round(z - math.log(2 * math.pi), 12) + 0.0
        0.0
    """
    grid = grid or Grid()
    return _log_z(-_on_grid(energy, grid, temperature), grid)


def log_density_quadrature(energy: Energy, x: Tensor, grid: Grid | None = None, temperature: float = 1.0) -> Tensor:
    """log p(x) = −E(x)/T − log Z, with Z by quadrature.

    Args:
        energy: As in :func:`log_partition_quadrature`.
        x: Where, shape (B, D).
        grid: For Z.
        temperature: T > 0.

    Returns:
        Shape (B,), float64.

    Raises:
        ValueError: As :func:`log_partition_quadrature`, or for points of another dimension than the grid's.
    """
    grid = grid or Grid()
    if x.ndim != 2 or x.shape[1] != grid.dim:
        raise ValueError(f"expected x of shape (B, {grid.dim}), as the grid's points, got {tuple(x.shape)}")
    return -_evaluate(energy, x) / temperature - log_partition_quadrature(energy, grid, temperature)


def kl_quadrature(
    log_prob: Callable[[Tensor], Tensor], energy: Energy, grid: Grid | None = None, temperature: float = 1.0
) -> float:
    r"""KL(p ‖ q) = ∫ p (log p − log q), with p the exact density of the data, and q ∝ exp(−E/T) the model.

    Equation ``eq-kl`` of ``book/notation.md``.

    Args:
        log_prob: log p, normalised: ``log_prob(x) -> (B,)``, for example of a :class:`helpers.oracle.GaussianMixture`.
        energy: As in :func:`log_partition_quadrature`.
        grid: It must cover p; q is normalised on it.
        temperature: T > 0.

    Returns:
        In nats, ≥ 0 up to rounding.

    Raises:
        ValueError: As :func:`log_partition_quadrature`; or if p does not integrate to 1 over the box within 1e-3.

    Warns:
        QuadratureWarning: As :func:`log_partition_quadrature`.

    Example:
        >>> from helpers.oracle import standard_gaussian
        >>> wide = lambda x: x.square().sum(1) / 8  # standard deviation 2 instead of 1: ln 4 − ¾
        >>> f"{kl_quadrature(standard_gaussian().log_prob, wide, Grid(-16.0, 16.0)) - math.log(4) + 0.75:.9f}"
        '0.000000000'
    """
    grid = grid or Grid()
    log_p = _evaluate(log_prob, grid.points)
    total = grid.log_integral(log_p).exp().item()
    if not abs(total - 1) < 1e-3:
        raise ValueError(f"expected a log_prob that integrates to 1 over the box, got {total:.6g}: choose another grid")
    scaled = _on_grid(energy, grid, temperature)
    log_q = -scaled - _log_z(-scaled, grid)
    p = log_p.exp()
    difference = torch.where(p > 0, p * (log_p - log_q), 0.0)  # 0 · ∞ far from the data
    return difference.sum().item() * grid.spacing**grid.dim


def _log_z(log_values: Tensor, grid: Grid) -> float:
    share = grid.border_share(log_values)
    if share > _BORDER_SHARE:
        warnings.warn(
            f"{share:.2%} of the integral lies on the edge of [{grid.low:g}, {grid.high:g}]^{grid.dim}: enlarge the "
            "box; if that does not help, exp(-E/T) may have no finite integral",
            QuadratureWarning,
            stacklevel=3,
        )
    return grid.log_integral(log_values).item()


def _on_grid(energy: Energy, grid: Grid, temperature: float) -> Tensor:
    """E/T at the points, float64."""
    if not temperature > 0:
        raise ValueError(f"expected temperature > 0, got {temperature}")
    values = _evaluate(energy, grid.points) / temperature
    if bool((values.isnan() | (values == -math.inf)).any()):
        raise ValueError("expected energies that are numbers and not -inf, got NaN or -inf on the grid")
    return values


@torch.no_grad()
def _evaluate(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)`` in pieces, asked in its own type; float64 on the CPU, shape (B,)."""
    like = parameter_like(function)
    values = []
    for piece in x.split(_CHUNK):
        values.append(function(piece.to(like)))
        if values[-1].shape != piece.shape[:1]:
            raise ValueError(f"expected values of shape ({len(piece)},), got {tuple(values[-1].shape)}")
    return torch.cat(values).double().cpu()


def parameter_like(function: object) -> Tensor:
    """A tensor of the type and on the device that a module works in; float64 on the CPU for anything else."""
    default = torch.empty(0, dtype=torch.float64)
    return next(function.parameters(), default).detach() if isinstance(function, nn.Module) else default
