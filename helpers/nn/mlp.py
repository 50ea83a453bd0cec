"""A network for points instead of pictures."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .embeddings import SinusoidalTimeEmbedding

__all__ = ["TimeMLP"]


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
