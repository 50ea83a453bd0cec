r"""Energies on a grid, where sums take the place of integrals and nothing is left to chance.

**Integrals.** The trapezoidal rule, :math:`\int f \approx h^D \sum_i f(x_i)`, converges faster than any power of the
spacing h for a smooth f that has decayed before the edge of the box (Trefethen & Weideman 2014,
doi:10.1137/130932132): 61 points a side give the partition function of a 2-D Gaussian mixture to machine precision.

**Likelihoods.** On the points themselves, an energy defines :math:`q_i = e^{-E_i/T}/\sum_j e^{-E_j/T}`. With data
that puts the share p_i on point i, the negative log-likelihood and its gradient are

.. math:: L(\theta) = \tfrac1T\sum_i p_i E_i + \log\sum_j e^{-E_j/T}, \qquad
          \nabla_\theta L = \tfrac1T\Big(E_p[\nabla_\theta E] - E_q[\nabla_\theta E]\Big):

data minus model, exactly, and no partition function in the gradient. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Grid", "finite_differences", "grid_nll", "grid_nll_gradient"]


@dataclass(frozen=True)
class Grid:
    """A regular grid over the box [low, high]^dim.

    Attributes:
        low: Lower edge, on every axis.
        high: Upper edge.
        n: Points a side, both edges included.
        dim: Dimensions D; n**dim points in all.

    Raises:
        ValueError: If ``low`` is not below ``high``, or n or dim is too small.

    Example:
        >>> grid = Grid(-8.0, 8.0, n=61, dim=1)
        >>> round(grid.log_integral(-grid.points[:, 0] ** 2 / 2).exp().item() ** 2 / math.pi, 12)
        2.0
    """

    low: float = -5.0
    high: float = 5.0
    n: int = 101
    dim: int = 2

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"expected finite low < high, got {self.low} and {self.high}")
        if self.n < 2 or self.dim < 1:
            raise ValueError(f"expected n >= 2 and dim >= 1, got {self.n} and {self.dim}")

    @property
    def spacing(self) -> float:
        """h, the distance between neighbours."""
        return (self.high - self.low) / (self.n - 1)

    @property
    def axis(self) -> Tensor:
        """The coordinates along one axis, shape (n,)."""
        return torch.linspace(self.low, self.high, self.n, dtype=torch.float64)

    @property
    def points(self) -> Tensor:
        """All points, shape (n**dim, dim); the last coordinate varies fastest."""
        return torch.cartesian_prod(*[self.axis] * self.dim).reshape(-1, self.dim)

    @property
    def border(self) -> Tensor:
        """Which points lie on the edge of the box, shape (n**dim,)."""
        index = torch.cartesian_prod(*[torch.arange(self.n)] * self.dim).reshape(-1, self.dim)
        return ((index == 0) | (index == self.n - 1)).any(1)

    def log_integral(self, log_values: Tensor) -> Tensor:
        """log ∫ f over the box, given log f at the points.

        Args:
            log_values: Shape (n**dim,), in the order of :attr:`points`.

        Returns:
            A scalar, float64.

        Raises:
            ValueError: For another shape.
        """
        self._check(log_values)
        return torch.logsumexp(log_values.double(), dim=0) + self.dim * math.log(self.spacing)

    def border_share(self, log_values: Tensor) -> float:
        """The share of the integral of f that its values on the edge of the box contribute.

        Small where f has decayed, and the box is large enough; a constant f has about 2·dim/n.
        """
        self._check(log_values)
        return log_values.double().softmax(dim=0)[self.border].sum().item()

    def _check(self, log_values: Tensor) -> None:
        if log_values.shape != (self.n**self.dim,):
            raise ValueError(f"expected values of shape ({self.n**self.dim},), got {tuple(log_values.shape)}")


def grid_nll(energy: Callable[[Tensor], Tensor], points: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    r"""L(θ) = Σ p_i E_i/T + log Σ_j exp(−E_j/T): the exact negative log-likelihood on finitely many points.

    Args:
        energy: ``energy(points) -> (N,)``.
        points: All that exist, shape (N, D).
        weights: p_i, the share of the data at each point, shape (N,), summing to 1.
        temperature: T.

    Returns:
        A scalar, differentiable in the parameters of the energy.

    Raises:
        ValueError: If the weights are no distribution over the points, or the energy has another shape.
    """
    scaled = _energies(energy, points, weights, temperature)
    return (weights * scaled).sum() + torch.logsumexp(-scaled, dim=0)


def grid_nll_gradient(
    energy: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    points: Tensor,
    weights: Tensor,
    temperature: float = 1.0,
) -> tuple[Tensor, ...]:
    r"""(E_p[∇E] − E_q[∇E])/T with both expectations summed exactly: the right-hand side of the identity.

    The model's probabilities q are held constant, as samples from the model are in training.

    Args:
        energy: As in :func:`grid_nll`.
        parameters: θ, tensors that the energy depends on.
        points: Shape (N, D).
        weights: p_i, shape (N,).
        temperature: T.

    Returns:
        One tensor for each parameter, of its shape.

    Raises:
        ValueError: As :func:`grid_nll`.
    """
    scaled = _energies(energy, points, weights, temperature)
    model = (-scaled.detach()).softmax(dim=0)
    return torch.autograd.grad(((weights - model) * scaled).sum(), list(parameters))


def finite_differences(
    function: Callable[[], Tensor], parameters: Sequence[Tensor], step: float = 1e-5
) -> tuple[Tensor, ...]:
    r"""Central differences :math:`(f(\theta + h) - f(\theta - h))/2h` of a function of tensors, one entry at a time.

    Its error is about h² in the formula and 1e-16/h in rounding (float64): 1e-10 of the size of f at the best h.

    Args:
        function: Takes nothing and gives a scalar; it reads the parameters.
        parameters: Tensors, changed entry by entry and put back.
        step: h.

    Returns:
        One tensor for each parameter, of its shape.

    Raises:
        ValueError: If ``step`` is not positive, or a parameter is not float64 or not contiguous in memory.

    Example:
        >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> [round(slope, 6) for slope in finite_differences(lambda: (x**2).sum(), [x])[0].tolist()]
        [2.0, 4.0]
    """
    if not step > 0:
        raise ValueError(f"expected step > 0, got {step}")
    slopes = []
    for parameter in parameters:
        if parameter.dtype != torch.float64 or not parameter.is_contiguous():
            raise ValueError(f"expected contiguous parameters in float64, got {parameter.dtype}")
        entries = parameter.detach().view(-1)  # shares its memory
        slope = torch.empty_like(entries)
        for i, value in enumerate(entries.tolist()):
            entries[i] = value + step
            above = function().item()
            entries[i] = value - step
            slope[i] = (above - function().item()) / (2 * step)
            entries[i] = value
        slopes.append(slope.reshape(parameter.shape))
    return tuple(slopes)


def _energies(energy: Callable[[Tensor], Tensor], points: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """E/T at the points, checked."""
    if not temperature > 0:
        raise ValueError(f"expected temperature > 0, got {temperature}")
    if weights.shape != points.shape[:1] or bool((weights < 0).any()) or not abs(weights.sum().item() - 1) <= 1e-6:
        raise ValueError(f"expected {len(points)} weights >= 0 that sum to 1, got shape {tuple(weights.shape)}")
    values = energy(points)
    if values.shape != points.shape[:1]:
        raise ValueError(f"expected energies of shape ({len(points)},), got {tuple(values.shape)}")
    return values / temperature
