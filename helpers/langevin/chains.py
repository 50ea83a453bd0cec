"""What all samplers share: the states of many chains, their noise, and what is left of them when they diverge.

Chains stand side by side in one tensor (B, …) and know nothing of each other. A trajectory is (n + 1, B, …), time
first, with the states at the start as its first.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..energy import NonFiniteEnergyError

__all__ = ["Chains", "ChainsDivergedError", "check_run", "check_temperature", "standard_normal"]


class Chains(NamedTuple):
    """What a sampler with an accept step returns.

    Attributes:
        x: The last states (B, …), or all of them (n_steps + 1, B, …) if the trajectory was asked for.
        acceptance: The share of proposals that each chain accepted, shape (B,).
    """

    x: Tensor
    acceptance: Tensor


class ChainsDivergedError(NonFiniteEnergyError):
    """Chains came to where the energy, or its gradient, is NaN or infinite. What was reached before is not lost.

    Attributes:
        x: The states of all chains one step before, where energies and gradients were finite; at step 0 the states that
            were given.
        step: How many steps had been taken.
        bad: Which chains have diverged, shape (B,), boolean.
    """

    def __init__(self, x: Tensor, step: int, bad: Tensor, step_size: float) -> None:
        when = f"before the first step of size {step_size:g}" if step == 0 else f"at step {step} of size {step_size:g}"
        super().__init__(
            f"{int(bad.sum())} of {len(bad)} chains have an energy, a gradient or a state that is not finite, {when}; "
            "this error's .x holds the last finite states. Langevin dynamics is stable only for step sizes below "
            "4 / (the largest curvature of the energy): see largest_stable_step",
            bad,
        )
        self.x, self.step = x, step


def check_run(x: Tensor, n_steps: int, step_size: float) -> None:
    """What every sampler asks of its arguments.

    Raises:
        TypeError: If ``x`` is not a floating-point tensor.
        ValueError: If it is not of shape (B, …), or ``n_steps`` or ``step_size`` is not positive.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"expected chains as a floating-point tensor, got {kind}")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"expected chains of shape (B, ...) with B >= 1, got {tuple(x.shape)}")
    if n_steps < 1:
        raise ValueError(f"expected n_steps >= 1, got {n_steps}")
    if not 0 < step_size < math.inf:
        raise ValueError(f"expected a step size > 0 and finite, got {step_size}")


def check_temperature(temperature: float, *, lowest: str = "> 0") -> None:
    """Raise ``ValueError`` unless it is finite and ``> 0``, or ``>= 0``."""
    if not (0 < temperature < math.inf or (lowest == ">= 0" and temperature == 0)):
        raise ValueError(f"expected a temperature {lowest} and finite, got {temperature}")


def standard_normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Noise of the shape, dtype and device of ``like``, drawn where the generator lives."""
    device = "cpu" if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)
