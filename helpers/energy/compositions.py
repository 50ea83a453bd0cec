r"""Energies made of energies: what is a product, a mixture or a flattening of densities is simple in energies.

=======================  =========================================  =========================================
class                    energy                                     density
=======================  =========================================  =========================================
:class:`Sum`             :math:`\sum_k w_k E_k`                     :math:`\propto \prod_k p_k^{w_k}`, "and"
:class:`Mixture`         :math:`-\log \sum_k e^{l_k - E_k}`         :math:`\propto \sum_k e^{l_k - E_k}`, "or"
:class:`Tempered`        :math:`E / T`                              :math:`\propto p^{1/T}`
=======================  =========================================  =========================================

(Hinton 2002, "Training products of experts by minimizing contrastive divergence"; Du et al. 2020, "Compositional
visual generation with energy based models", arXiv:2004.06030.) A negative weight is "not". Of noise-conditional
energies these are compositions *level by level*, and a product of smoothed densities is not the smoothed product (Du et
al. 2023, arXiv:2302.11552): two standard normal densities that are smoothed by σ = 1 and then multiplied
have variance 1; multiplied and then smoothed, 1.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .gradients import Energy

__all__ = ["AtLevel", "Mixture", "Sum", "Tempered"]


class _Composition(nn.Module):
    """Holds energies, functions as well as modules; the modules' parameters are its own."""

    def __init__(self, energies: Sequence[Energy]) -> None:
        super().__init__()
        if not energies:
            raise ValueError("expected at least one energy, got none")
        for energy in energies:
            if not callable(energy):
                raise TypeError(f"expected energies that can be called, got {type(energy).__name__}")
        self.parts = nn.ModuleList(energy for energy in energies if isinstance(energy, nn.Module))
        self.energies = tuple(energies)

    def _stack(self, x: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """All energies, shape (K, B)."""
        values = [energy(x, *conditions) for energy in self.energies]
        for k, value in enumerate(values):
            if value.shape != x.shape[:1]:
                raise ValueError(f"expected energies of shape ({len(x)},), got {tuple(value.shape)} from number {k}")
        return torch.stack(values)


def _one_number_each(name: str, numbers: Sequence[float] | Tensor, n: int) -> Tensor:
    numbers = torch.as_tensor(numbers, dtype=torch.float64)
    if numbers.shape != (n,) or not bool(numbers.isfinite().all()):
        raise ValueError(f"expected {n} finite {name}, one for each energy, got {numbers.tolist()}")
    return numbers


class Sum(_Composition):
    r""":math:`E(x) = \sum_k w_k E_k(x)`: samples must please all energies at once.

    Args:
        energies: ``energy(x, *conditions) -> (B,)`` each.
        weights: One number for each, 1 if not given; negative ones push away. With negative weights the sum may have no
            lowest value, and then is the energy of no density.

    Raises:
        ValueError: For no energies, or another number of weights.
        TypeError: For an energy that cannot be called.

    Example:
        >>> parabola = lambda x: x.square().sum(1) / 2
        >>> Sum([parabola, parabola], [1.0, 3.0])(torch.ones(1, 2))
        tensor([4.])
    """

    def __init__(self, energies: Sequence[Energy], weights: Sequence[float] | Tensor | None = None) -> None:
        super().__init__(energies)
        weights = [1.0] * len(self.energies) if weights is None else weights
        self.register_buffer("weights", _one_number_each("weights", weights, len(self.energies)), persistent=False)

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """x (B, …) → energies (B,)."""
        values = self._stack(x, conditions)
        return self.weights.to(values) @ values


class Mixture(_Composition):
    r""":math:`E(x) = -\log\sum_k e^{l_k - E_k(x)}`: samples must please one of the energies.

    The share of component k is :math:`\propto e^{l_k} Z_k`, with :math:`Z_k` the integral of :math:`e^{-E_k}`: the log
    weights are those of normalised densities only if the energies are −log p.

    Args:
        energies: ``energy(x, *conditions) -> (B,)`` each.
        log_weights: One number for each; equal, and summing to 1 as weights, if not given.

    Raises:
        ValueError: For no energies, or another number of weights.
        TypeError: For an energy that cannot be called.
    """

    def __init__(self, energies: Sequence[Energy], log_weights: Sequence[float] | Tensor | None = None) -> None:
        super().__init__(energies)
        n = len(self.energies)
        log_weights = [-math.log(n)] * n if log_weights is None else log_weights
        self.register_buffer("log_weights", _one_number_each("log_weights", log_weights, n), persistent=False)

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """x (B, …) → energies (B,)."""
        values = self._stack(x, conditions)
        return -torch.logsumexp(self.log_weights.to(values)[:, None] - values, dim=0)


class Tempered(_Composition):
    """E(x)/T: the density to the power of 1/T, flat for T > 1, and peaked for T < 1.

    Args:
        energy: ``energy(x, *conditions) -> (B,)``.
        temperature: T > 0.

    Raises:
        ValueError: For a temperature that is not positive and finite.
        TypeError: For an energy that cannot be called.
    """

    def __init__(self, energy: Energy, temperature: float) -> None:
        super().__init__([energy])
        if not 0 < temperature < math.inf:
            raise ValueError(f"expected a temperature > 0 and finite, got {temperature}")
        self.temperature = temperature

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """x (B, …) → energies (B,)."""
        return self.energies[0](x, *conditions) / self.temperature


class AtLevel(_Composition):
    """A noise-conditional energy at one noise level, x ↦ E(x, σ): an energy like any other, for any sampler.

    Args:
        energy: ``energy(x, sigma) -> (B,)``, or ``energy(x, sigma, label)``.
        sigma: σ > 0, for all samples.
        label: A class for all samples, or None.

    Raises:
        ValueError: For a noise level that is not positive and finite.
        TypeError: For an energy that cannot be called.
    """

    def __init__(self, energy: Energy, sigma: float, label: int | None = None) -> None:
        super().__init__([energy])
        if not 0 < sigma < math.inf:
            raise ValueError(f"expected a noise level > 0 and finite, got {sigma}")
        self.sigma, self.label = float(sigma), label

    def forward(self, x: Tensor) -> Tensor:
        """x (B, …) → energies (B,)."""
        conditions = [x.new_full(x.shape[:1], self.sigma)]
        if self.label is not None:
            conditions.append(torch.full(x.shape[:1], self.label, device=x.device))
        return self.energies[0](x, *conditions)
