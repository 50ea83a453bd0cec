"""Two-dimensional toy densities, drawn on the spot."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..oracle import eight_gaussians

__all__ = ["TOY_2D", "toy_2d"]


def _chequerboard(n: int, generator: torch.Generator | None) -> Tensor:
    column = torch.randint(4, (n,), generator=generator)
    row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
    cell = torch.stack([column, row], dim=1).double()
    return cell + torch.rand(n, 2, generator=generator, dtype=torch.float64) - 2


def _moons(n: int, generator: torch.Generator | None) -> Tensor:
    angle = math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    upper = torch.randint(2, (n,), generator=generator).bool()
    x = torch.where(upper, angle.cos() - 0.5, 0.5 - angle.cos())
    y = torch.where(upper, angle.sin() - 0.25, 0.25 - angle.sin())
    noise = 0.08 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return 1.4 * (torch.stack([x, y], dim=1) + noise)


def _spiral(n: int, generator: torch.Generator | None, arms: int) -> Tensor:
    turn = torch.rand(n, generator=generator, dtype=torch.float64).sqrt()
    arm = torch.randint(arms, (n,), generator=generator) * (2 * math.pi / arms)
    angle = 3 * math.pi * turn + arm
    points = 2 * turn[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return points + 0.06 * torch.randn(n, 2, generator=generator, dtype=torch.float64)


TOY_2D: dict[str, Callable[[int, torch.Generator | None], Tensor]] = {
    "eight_gaussians": lambda n, generator: eight_gaussians().sample(n, generator),
    "chequerboard": _chequerboard,
    "two_moons": _moons,
    "spiral": lambda n, generator: _spiral(n, generator, arms=1),
    "two_spirals": lambda n, generator: _spiral(n, generator, arms=2),
}
"""Name → sampler ``(n, generator) -> (n, 2)`` of each 2-D toy distribution; all lie within about [−3, 3]²."""


def toy_2d(name: str, n: int, generator: torch.Generator | None = None) -> Tensor:
    """n points of a 2-D toy distribution.

    Args:
        name: A key of :data:`TOY_2D`.
        n: How many.
        generator: Source of randomness.

    Returns:
        Shape (n, 2), float32.

    Raises:
        ValueError: For an unknown name or n < 1.
    """
    if name not in TOY_2D:
        raise ValueError(f"expected one of {', '.join(TOY_2D)}, got {name!r}")
    if n < 1:
        raise ValueError(f"expected n >= 1, got {n}")
    return TOY_2D[name](n, generator).float()
