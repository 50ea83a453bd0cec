r"""Energy Matching: one potential V(x), without time, that carries noise to the data and then keeps the density there.

Balcerak et al. (2025, "Energy Matching: Unifying flow matching and energy-based models for generative modeling",
arXiv:2504.10612). A sample moves by

.. math:: dx = -\nabla V(x)\,dt + \sqrt{2\,\epsilon(t)}\,dW,

where t runs as in that paper **from noise (0) to data (1), and on**: it is the time of a walk, not a noise level. Far
from the data the temperature ε(t) is 0, and the walk is a straight transport. From t = τ* it rises to ε_max at t = 1,
and then the walk is Langevin dynamics, at rest in the Boltzmann density :math:`p(x) \propto e^{-V(x)/\epsilon_{max}}`.
(In the convention of :mod:`helpers.langevin` a time step is ``step_size`` = 2 Δt at the temperature ε.) Two losses
share the potential:

*Transport.* With noise x_0 and data x_1 paired by optimal transport inside the batch (Tong et al. 2023,
arXiv:2302.00482) and :math:`x_t = (1-t)x_0 + t x_1`, the flow is a gradient:

.. math:: L_{OT} = E\,w(t)\,\|\nabla V(x_t) + x_1 - x_0\|^2 .

At each time there is one velocity at a place, since optimal paths do not cross at equal times. At different times it
may differ, and a potential without time fits the mean over them; so the weight w falls near the data, where paths
arrive that are still to stop.

*Density.* Contrastive divergence on :math:`V/\epsilon_{max}`. Half of the negatives start from the data, at ε_max, and
half from noise, along the whole walk.

First the transport alone (a warm-up), then both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..energy import Energy, energy_and_gradient, frozen
from ..energy import score as score_of
from ..schedules import expand_like
from .contrastive import contrastive_divergence_loss

__all__ = ["EnergyMatching", "pair_by_transport", "transport_loss", "transport_then_langevin", "walk_temperature"]


def pair_by_transport(noise: Tensor, data: Tensor) -> Tensor:
    """Which noise goes with which data: the pairing of a batch with the least sum of squared distances.

    Solved exactly, in O(B³): milliseconds for a few hundred.

    Args:
        noise: Shape (B, …).
        data: Shape (B, …).

    Returns:
        ``index`` (B,), int64: ``noise[index[i]]`` belongs to ``data[i]``.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> pair_by_transport(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0]]))
        tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and used here only

    if noise.shape != data.shape:
        raise ValueError(f"expected noise and data of one shape, got {tuple(noise.shape)} and {tuple(data.shape)}")
    cost = torch.cdist(data.detach().double().flatten(1), noise.detach().double().flatten(1)).square()
    return torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1], device=data.device)


def walk_temperature(time: Tensor, onset: float, maximum: float) -> Tensor:
    """ε(t): 0 before ``onset`` = τ*, then rising linearly to ``maximum`` at t = 1, and constant after that.

    Args:
        time: Any shape, ≥ 0.
        onset: τ* in [0, 1].
        maximum: ε_max.

    Returns:
        Shape of ``time``.

    Example:
        >>> walk_temperature(torch.tensor([0.5, 0.9, 2.0]), onset=0.8, maximum=0.1)
        tensor([0.0000, 0.0500, 0.1000])
    """
    return maximum * _ramp(time, onset)


def _ramp(time: Tensor, onset: float) -> Tensor:
    """From 0 at the onset to 1 at time 1; a step at time 1 if the onset is there."""
    return ((time - onset) / (1 - onset)).clamp(0, 1) if onset < 1 else (time >= 1).to(time.dtype)


def transport_loss(
    energy: Energy,
    x_data: Tensor,
    generator: torch.Generator | None = None,
    *,
    noise: Tensor | None = None,
    onset: float = 1.0,
) -> Tensor:
    r""":math:`E\,w(t)\|\nabla V(x_t) + x_1 - x_0\|^2`, with t uniform in [0, 1].

    Equation ``eq-transport`` of ``book/notation.md``.

    Args:
        energy: The potential V, ``energy(x) -> (B,)``.
        x_data: x_1, shape (B, …).
        generator: Source of times and noise, on the CPU.
        noise: x_0, shape of ``x_data``; standard Gaussian if not given.
        onset: τ*: the weight w is 1 until there, and falls linearly to 0 at t = 1. With 1 it is 1 everywhere.

    Returns:
        A scalar: squared norms, averaged over the batch.

    Raises:
        ValueError: For ``onset`` outside of [0, 1], or shapes that differ.
    """
    if not 0 <= onset <= 1:
        raise ValueError(f"expected onset in [0, 1], got {onset}")
    if noise is None:
        noise = torch.randn(x_data.shape, generator=generator, dtype=x_data.dtype).to(x_data.device)
    noise = noise[pair_by_transport(noise, x_data)]
    time = torch.rand(len(x_data), generator=generator, dtype=x_data.dtype).to(x_data.device)
    x = torch.lerp(noise, x_data, expand_like(time, x_data))
    error = score_of(energy, x, create_graph=True) - (x_data - noise)
    return ((1 - _ramp(time, onset)) * error.square().flatten(1).sum(1)).mean()


def transport_then_langevin(
    energy: Energy,
    x: Tensor,
    *,
    duration: float,
    time_step: float = 0.02,
    temperature: float = 0.1,
    onset: float = 0.8,
    start: Tensor | float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""The walk: :math:`x \leftarrow x - \Delta t\nabla V(x) + \sqrt{2\Delta t\,\epsilon(t)}\,\xi`.

    Args:
        energy: The potential V.
        x: Where it starts, (B, …): noise at t = 0.
        duration: Time to walk, rounded to whole steps; a sample from noise needs somewhat more than 1.
        time_step: Δt.
        temperature: ε_max.
        onset: τ*, when the temperature begins to rise.
        start: The time at the start, one for all or (B,); 1 for data, at the full temperature.
        generator: Source of the noise, on the CPU.

    Returns:
        Shape of ``x``, without a graph.

    Raises:
        ValueError: For a duration, time step or temperature that is negative or 0, a duration without a whole step, an
            onset outside of [0, 1], or a non-finite energy.
    """
    if not (duration > 0 and time_step > 0 and temperature > 0):
        raise ValueError(
            f"expected duration, time_step and temperature > 0, got {duration}, {time_step} and {temperature}"
        )
    if not 0 <= onset <= 1:
        raise ValueError(f"expected onset in [0, 1], got {onset}")
    n_steps = round(duration / time_step)
    if n_steps < 1:
        raise ValueError(f"expected a duration of at least one time_step, got {duration} and {time_step}")
    x = x.detach()
    begin = torch.as_tensor(start).cpu().double().expand(len(x))
    with frozen(energy):
        for k in range(n_steps):
            time = (begin + k * time_step).to(x)
            width = (2 * time_step * walk_temperature(time, onset, temperature)).sqrt()
            xi = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
            x = x - time_step * energy_and_gradient(energy, x)[1] + expand_like(width, x) * xi
    return x


@dataclass(frozen=True)
class EnergyMatching:
    """The loss ``loss(energy, batch, generator)`` of one phase of Energy Matching, for ``train``.

    Attributes:
        temperature: ε_max: the model's density is exp(−V/ε_max).
        onset: τ*, when the walk's temperature begins to rise and the weight of the transport to fall. For the warm-up
            1: transport all the way.
        contrastive_weight: Of the contrastive divergence beside the transport; 0, the warm-up, needs no sampling.
        duration: Length of the negatives' walks.
        time_step: Δt of the walks.

    Raises:
        ValueError: For numbers that make no sense.
    """

    temperature: float = 0.1
    onset: float = 1.0
    contrastive_weight: float = 0.0
    duration: float = 1.5
    time_step: float = 0.02

    def __post_init__(self) -> None:
        if not min(self.temperature, self.duration, self.time_step) > 0:
            raise ValueError("expected temperature, duration and time_step > 0")
        if not (0 <= self.onset <= 1 and 0 <= self.contrastive_weight < math.inf):
            raise ValueError(
                f"expected onset in [0, 1] and contrastive_weight >= 0, got {self.onset} and {self.contrastive_weight}"
            )

    def __call__(self, energy: Energy, x_data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Transport loss plus weighted contrastive divergence of V/ε_max, a scalar; x_data (B, …)."""
        loss = transport_loss(energy, x_data, generator, onset=self.onset)
        if not self.contrastive_weight:
            return loss
        negatives = self.negatives(energy, x_data, generator)
        divergence = contrastive_divergence_loss(energy, x_data, negatives) / self.temperature
        return loss + self.contrastive_weight * divergence

    def negatives(self, energy: Energy, x_data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Samples of the model, shape of ``x_data``: the first half walked from data, the others from noise."""
        half = len(x_data) // 2
        noise = torch.randn(x_data[half:].shape, generator=generator, dtype=x_data.dtype).to(x_data.device)
        start = torch.zeros(len(x_data), dtype=x_data.dtype, device=x_data.device)
        start[:half] = 1
        return self.walk(energy, torch.cat([x_data[:half], noise]), start=start, generator=generator)

    def walk(
        self,
        energy: Energy,
        x: Tensor,
        *,
        duration: float | None = None,
        start: Tensor | float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """:func:`transport_then_langevin` with these settings; from noise x (B, …) it is the model's sampler."""
        return transport_then_langevin(
            energy,
            x,
            duration=self.duration if duration is None else duration,
            time_step=self.time_step,
            temperature=self.temperature,
            onset=self.onset,
            start=start,
            generator=generator,
        )
