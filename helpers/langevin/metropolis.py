r"""Samplers with an accept step: exact for every step size.

A proposal x' drawn from :math:`q(x'|x)` is accepted with probability :math:`\min(1, r)`,

.. math:: r = \frac{e^{-E(x')/T}\, q(x | x')}{e^{-E(x)/T}\, q(x' | x)},

and otherwise the chain stays where it is, which counts as a state too. The density :math:`e^{-E/T}/Z` is then left as
it is, whatever the step size (Hastings 1970); Z cancels.

MALA (Besag 1994; Roberts & Tweedie 1996) proposes a Langevin step: :math:`q(x'|x) = N(x - \frac\epsilon2\nabla E(x),
\epsilon T I)`. Its variance is εT in each direction, so its log divides a square by 2εT. HMC (Duane et al. 1987; Neal
2011, arXiv:1206.1901) gives x a random momentum p ~ N(0, T I) and follows :math:`H = E(x) + \frac12\|p\|^2` by the
leapfrog method, which is reversible and keeps volumes, so that :math:`r = e^{-(H' - H)/T}`. With one leapfrog step of
length δ it *is* MALA with ε = δ².
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..energy import Energy, NonFiniteEnergyError, energy_and_gradient, frozen
from .chains import Chains, ChainsDivergedError, check_run, check_temperature, standard_normal

__all__ = ["hmc", "log_proposal", "mala"]


class _State(NamedTuple):
    """Of all chains: what a next step needs, so that nothing is computed twice."""

    x: Tensor
    energy: Tensor
    gradient: Tensor


def _squared_norm(x: Tensor) -> Tensor:
    """‖x‖² of each sample: (B, …) → (B,)."""
    return x.flatten(1).square().sum(1)


def log_proposal(x_new: Tensor, x: Tensor, gradient: Tensor, step_size: float, temperature: float = 1.0) -> Tensor:
    r"""The log of a Langevin step's density q(x'|x), but for a constant.

    It is :math:`-\|x' - x + \frac\epsilon2\nabla E(x)\|^2/(2\epsilon T)`: the variance is εT in each direction.

    Args:
        x_new: x', shape (B, …).
        x: Where the step starts, same shape.
        gradient: ∇E at ``x``, same shape.
        step_size: ε.
        temperature: T > 0.

    Returns:
        Shape (B,).
    """
    mean = torch.add(x, gradient, alpha=-step_size / 2)
    return -_squared_norm(x_new - mean) / (2 * step_size * temperature)


def accepted(log_ratio: Tensor, generator: torch.Generator | None) -> Tensor:
    """Each chain's own decision: True with probability min(1, r); False where r is NaN or infinite. Shape (B,)."""
    device = "cpu" if generator is None else generator.device
    uniform = torch.rand(log_ratio.shape, generator=generator, dtype=log_ratio.dtype, device=device)
    return (uniform.to(log_ratio.device).log() < log_ratio) & (log_ratio < math.inf)


def _where(choice: Tensor, new: _State, old: _State) -> _State:
    wide = choice.reshape(-1, *[1] * (new.x.ndim - 1))
    return _State(
        torch.where(wide, new.x, old.x),
        torch.where(choice, new.energy, old.energy),
        torch.where(wide, new.gradient, old.gradient),
    )


def _run(
    energy: Energy,
    x: Tensor,
    n_steps: int,
    step_size: float,
    propose: Callable[[_State], tuple[_State, Tensor]],
    generator: torch.Generator | None,
    return_trajectory: bool,
) -> Chains:
    """Propose, accept, count. ``propose`` gives the new states and the log of each one's ratio r."""
    x = x.detach()
    trajectory = x.new_empty((n_steps + 1, *x.shape)) if return_trajectory else None
    with frozen(energy):
        try:
            state = _State(x, *energy_and_gradient(energy, x))
        except NonFiniteEnergyError as error:
            raise ChainsDivergedError(x, 0, error.bad, step_size) from error
        count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        undefined = torch.zeros((), dtype=torch.int64, device=x.device)
        if trajectory is not None:
            trajectory[0] = x
        for step in range(n_steps):
            new, log_ratio = propose(state)
            accept = accepted(log_ratio, generator)
            count += accept
            undefined += (~(new.energy > -math.inf)).sum()  # infinitely high is a wall, and no mistake
            state = _where(accept, new, state)
            if trajectory is not None:
                trajectory[step + 1] = state.x
    if undefined:
        warnings.warn(
            f"{int(undefined)} of {n_steps * len(x)} proposals have an energy of NaN or -inf, and were not accepted",
            RuntimeWarning,
            stacklevel=3,
        )
    return Chains(state.x if trajectory is None else trajectory, count.to(x.dtype) / n_steps)


def mala(
    energy: Energy,
    x: Tensor,
    n_steps: int,
    step_size: float,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    return_trajectory: bool = False,
) -> Chains:
    """Metropolis-adjusted Langevin: the step of :func:`langevin_dynamics`, accepted or not by each chain for itself.

    Equation ``eq-mala`` of ``book/notation.md``.

    Each step costs one gradient, at the proposal; an accepted one is the next step's start. An acceptance around 0.57
    is the most efficient in high dimensions (Roberts & Rosenthal 1998). Proposals where the energy is +∞ (walls) or not
    defined are not accepted. The energy is held still as in :func:`langevin_dynamics`.

    Args:
        energy: ``energy(x) -> (B,)``, low is likely.
        x: The chains' states (B, …), floating point; not changed.
        n_steps: Number of proposals, at least 1.
        step_size: ε > 0.
        temperature: T > 0.
        generator: Source of the noise and of the decisions.
        return_trajectory: Whether to return all states.

    Returns:
        ``Chains(x, acceptance)``: the last states, or the trajectory (n_steps + 1, B, …), and the share of accepted
        proposals of each chain (B,).

    Raises:
        TypeError: If ``x`` is not a floating-point tensor.
        ValueError: For arguments out of their ranges, an energy that is not of shape (B,) or does not depend on x.
        ChainsDivergedError: If an energy or its gradient is not finite at the states given.

    Warns:
        RuntimeWarning: If energies of proposals were NaN or −∞.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> energy = lambda x: x.square().sum(1) / 2
        >>> x, acceptance = mala(energy, torch.zeros(9000, 1), 60, 1.0, generator=generator)
        >>> abs(x.var().item() - 1) < 0.05
        True
    """
    check_run(x, n_steps, step_size)
    check_temperature(temperature)

    def propose(old: _State) -> tuple[_State, Tensor]:
        x_new = torch.add(old.x, old.gradient, alpha=-step_size / 2)
        x_new.add_(standard_normal(x_new, generator), alpha=math.sqrt(step_size * temperature))
        new = _State(x_new, *energy_and_gradient(energy, x_new, check_finite=False))
        there = log_proposal(new.x, old.x, old.gradient, step_size, temperature)
        back = log_proposal(old.x, new.x, new.gradient, step_size, temperature)
        return new, (old.energy - new.energy) / temperature + back - there

    return _run(energy, x, n_steps, step_size, propose, generator, return_trajectory)


def hmc(
    energy: Energy,
    x: Tensor,
    n_steps: int,
    step_size: float,
    n_leapfrog: int = 10,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    return_trajectory: bool = False,
) -> Chains:
    r"""Hamiltonian Monte Carlo with unit masses and a fresh momentum at every step.

    Each step costs ``n_leapfrog`` gradients. Beware of round trips: on N(0, σ²) a leapfrog step turns (x, p) by θ with
    cos θ = 1 − δ²/(2σ²), and n·θ near 180° comes back to −x, however many proposals are made. The leapfrog step δ is a
    *time*, in which a length grows like δ and not like √ε: ``hmc`` with one leapfrog step of δ is :func:`mala` with
    :math:`\epsilon = \delta^2`, and its stability limit, δ < 2σ on N(0, σ²), is the same ε < 4σ². An acceptance around
    0.65 is the most efficient (Beskos et al. 2013, arXiv:1001.4460). The energy is held still as in
    :func:`langevin_dynamics`.

    Args:
        energy: ``energy(x) -> (B,)``, low is likely.
        x: The chains' states (B, …), floating point; not changed.
        n_steps: Number of proposals, at least 1.
        step_size: δ > 0, the length of a leapfrog step.
        n_leapfrog: Leapfrog steps a proposal, at least 1.
        temperature: T > 0.
        generator: Source of the momenta and of the decisions.
        return_trajectory: Whether to return all states.

    Returns:
        As :func:`mala`.

    Raises:
        TypeError: If ``x`` is not a floating-point tensor.
        ValueError: For arguments out of their ranges, an energy that is not of shape (B,) or does not depend on x.
        ChainsDivergedError: If an energy or its gradient is not finite at the states given.

    Warns:
        RuntimeWarning: If energies of proposals were NaN or −∞.
    """
    check_run(x, n_steps, step_size)
    check_temperature(temperature)
    if n_leapfrog < 1:
        raise ValueError(f"expected n_leapfrog >= 1, got {n_leapfrog}")

    def propose(old: _State) -> tuple[_State, Tensor]:
        momentum = standard_normal(old.x, generator) * math.sqrt(temperature)
        before = old.energy + _squared_norm(momentum) / 2
        new = old
        for _ in range(n_leapfrog):
            momentum = torch.add(momentum, new.gradient, alpha=-step_size / 2)
            x_new = torch.add(new.x, momentum, alpha=step_size)
            new = _State(x_new, *energy_and_gradient(energy, x_new, check_finite=False))
            momentum = momentum.add_(new.gradient, alpha=-step_size / 2)
        after = new.energy + _squared_norm(momentum) / 2
        return new, (before - after) / temperature

    return _run(energy, x, n_steps, step_size, propose, generator, return_trajectory)
