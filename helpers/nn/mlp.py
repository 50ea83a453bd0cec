"""Networks without convolutions: for points, and for pictures so small that all pixels can be looked at at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .embeddings import SinusoidalTimeEmbedding

__all__ = ["ImageMLP", "TimeMLP"]


class TimeMLP(nn.Module):
    """``(x_t, t) → prediction`` for points in D dimensions: a plain MLP over [x, embedding of t], with SiLU.

    Args:
        dim: D.
        hidden: Width of the hidden layers.
        depth: Number of hidden layers.
        time_emb_dim: Length of the sinusoidal time embedding, even.

    Raises:
        ValueError: For ``dim``, ``hidden`` or ``depth`` below 1, or an odd ``time_emb_dim``.
    """

    def __init__(self, dim: int = 2, hidden: int = 128, depth: int = 3, time_emb_dim: int = 32) -> None:
        super().__init__()
        if min(dim, hidden, depth) < 1:
            raise ValueError(f"expected dim, hidden and depth >= 1, got {dim}, {hidden}, {depth}")
        self.dim = dim
        self.time_embed = SinusoidalTimeEmbedding(time_emb_dim)
        widths = [dim + time_emb_dim] + [hidden] * depth
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.net = nn.Sequential(*layers, nn.Linear(hidden, dim))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Points (B, D) and times (B,) → (B, D).

        Raises:
            ValueError: For other shapes.
        """
        if x.ndim != 2 or x.shape[1] != self.dim or t.shape != x.shape[:1]:
            raise ValueError(f"expected x (B, {self.dim}) and t (B,), got {tuple(x.shape)} and {tuple(t.shape)}")
        return self.net(torch.cat([x, self.time_embed(t).to(x.dtype)], dim=1))


class ImageMLP(nn.Module):
    """``(x, time) → prediction`` for small pictures: every pixel sees every other, through a plain MLP with SiLU.

    The last layer starts at zero, so that an untrained network answers 0.

    Args:
        shape: Channels, height and width of the pictures.
        hidden: Width of the hidden layers.
        depth: Number of hidden layers.
        time_emb_dim: Length of the sinusoidal time embedding, even.
        time_scale: The time is multiplied by this before it is embedded.

    Raises:
        ValueError: For a shape that is not three numbers >= 1, ``hidden`` or ``depth`` below 1, or an odd
            ``time_emb_dim``.

    Example:
        >>> ImageMLP((1, 8, 8))(torch.ones(2, 1, 8, 8), torch.zeros(2)).abs().max().item()
        0.0
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 8, 8),
        hidden: int = 384,
        depth: int = 3,
        time_emb_dim: int = 16,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"expected a shape (channels, height, width) of numbers >= 1, got {tuple(shape)}")
        self.shape, self.time_scale = tuple(shape), time_scale
        self.net = TimeMLP(math.prod(shape), hidden, depth, time_emb_dim)
        nn.init.zeros_(self.net.net[-1].weight)
        nn.init.zeros_(self.net.net[-1].bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Pictures (B, C, H, W) and times (B,) → the shape of ``x``.

        Raises:
            ValueError: For other shapes.
        """
        if tuple(x.shape[1:]) != self.shape or t.shape != x.shape[:1]:
            expected = f"x (B, {', '.join(map(str, self.shape))}) and t (B,)"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)} and {tuple(t.shape)}")
        return self.net(x.flatten(1), self.time_scale * t).reshape(x.shape)
