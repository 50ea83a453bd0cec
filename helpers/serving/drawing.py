"""What a request for pictures does: the functions of :mod:`helpers.generation` and :mod:`helpers.langevin`, on a shared
network, watched on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import generation, langevin, samplers, schedules, zoo
from .engine import Shared
from .schemas import Wanted

__all__ = ["Watch", "calls", "draw", "evaluations"]

Watch = Callable[[float, Tensor], None]
"""Told how much of the way is done, in [0, 1], and the pictures (n, C, H, W) as they look then."""


def calls(wanted: Wanted) -> int:
    """How often a request asks the network."""
    if wanted.sampler in generation.SOLVERS:
        return samplers.evaluations(generation.solver_of(wanted.sampler), wanted.steps)
    return wanted.steps


def evaluations(wanted: Wanted) -> int:
    """About how many pictures in all; guidance asks about most of them twice."""
    return wanted.n * calls(wanted) * (2 if wanted.guidance != 1 else 1)


def draw(network: Shared, wanted: Wanted, watch: Watch | None = None) -> Tensor:
    """Pictures (n, C, H, W) in [−1, 1], the same as without a service.

    Args:
        network: What evaluates.
        wanted: What was asked for.
        watch: Called with every state on the way, before it is worked on.
    """
    if wanted.sampler == "langevin":
        return _draw_energy(network, wanted, watch)
    card = wanted.model.card
    continuous = generation.is_continuous(card)
    if watch is not None:
        network.watch = _watching_noise(wanted, watch, None if continuous else zoo.schedule_of(card))
    chosen: dict[str, Any] = {"guidance": wanted.guidance, "solver": wanted.sampler} if continuous else {}
    return generation.draw(
        network,
        card,
        wanted.n,
        seed=wanted.seed,
        steps=wanted.steps,
        label=wanted.labels(),
        batch_size=wanted.n,
        **chosen,
    ).images


def _watching_noise(wanted: Wanted, watch: Watch, schedule: schedules.NoiseSchedule | None) -> Callable[..., None]:
    """Shows the input of each evaluation, scaled as in a variance-preserving process.

    The way is measured by the share of noise in the picture: measured in steps, most of it would look like pure noise.
    """

    def see(x: Tensor, level: Tensor, label: Tensor | None = None) -> None:
        x = x[: wanted.n]  # guidance asks about the same pictures twice
        if schedule is None:
            sigma = float(level[0])
            x = x * (1 + sigma**2) ** -0.5
        else:
            sigma = float(schedules.sigma_from_alpha_bar(schedule.alpha_bar(level[:1].cpu())))
        share = sigma / math.sqrt(1 + sigma**2)
        watch(1 - share, x)

    return see


def _draw_energy(network: Shared, wanted: Wanted, watch: Watch | None) -> Tensor:
    """Langevin dynamics from noise, as the card says."""
    how = generation.LangevinSettings.of(wanted.model.card)
    generator = torch.Generator().manual_seed(wanted.seed)
    x = how.first((wanted.n, *wanted.model.shape), generator)
    if watch is not None:
        calls = iter(range(wanted.steps))
        network.watch = lambda state: watch(next(calls, wanted.steps) / wanted.steps, state)
    x = langevin.langevin_dynamics(
        network,
        x,
        wanted.steps,
        how.step_size,
        temperature=how.temperature,
        grad_clip=how.grad_clip,
        clamp=None if how.clamp is None else (-how.clamp, how.clamp),
        generator=generator,
    )
    return x.clamp(-1, 1)
