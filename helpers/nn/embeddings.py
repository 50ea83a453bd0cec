r"""Sinusoidal embeddings of time (Vaswani et al. 2017, arXiv:1706.03762, section 3.5; Ho et al. 2020 for diffusion).

With h = d/2 frequencies :math:`\omega_k = P^{-k/h}`, k = 0, …, h − 1, and P the maximal period parameter,
time t becomes the h pairs :math:`(\sin \omega_k t, \cos \omega_k t)`. Two layouts are in use:

* ``"halves"``: all sines, then all cosines; most diffusion code, and this course's networks.
* ``"interleaved"``: sin, cos, sin, cos, …; Transformers, and most formulas in papers:
  :math:`PE_{2i} = \sin(t / P^{2i/d}),\ PE_{2i+1} = \cos(t / P^{2i/d})`.

The two differ by a fixed permutation, which the next linear layer can absorb. Other code differs in more than
the layout: some have the cosines first, some divide by h − 1, so that the last frequency is exactly 1/P.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["SinusoidalTimeEmbedding", "sinusoidal_embedding"]

Layout = Literal["halves", "interleaved"]


def sinusoidal_embedding(
    t: Tensor, embedding_dim: int = 128, max_period: float = 10_000, layout: Layout = "halves"
) -> Tensor:
    r"""Embed times as sines and cosines of h = ``embedding_dim``/2 frequencies.

    Equation ``eq-embedding`` of ``book/notation.md``.

    Args:
        t: Times, shape (B,); integers or floats.
        embedding_dim: d, even and at least 2.
        max_period: P; the wavelengths run from 2π to nearly 2πP.
        layout: ``"halves"`` or ``"interleaved"``.

    Returns:
        Shape (B, d): float64 if ``t`` is, float32 otherwise.

    Raises:
        ValueError: For an odd or too small ``embedding_dim``, a ``t`` that is not a vector, a ``max_period`` that is
            not positive, or an unknown layout.

    Example:
        >>> sinusoidal_embedding(torch.tensor([0]), 4)
        tensor([[0., 0., 1., 1.]])
    """
    _check_dim(embedding_dim)
    if t.ndim != 1:
        raise ValueError(f"expected times of shape (B,), got {tuple(t.shape)}")
    if not max_period > 0:
        raise ValueError(f"expected max_period > 0, got {max_period}")
    half = embedding_dim // 2
    dtype = torch.float64 if t.dtype == torch.float64 else torch.float32
    k = torch.arange(half, dtype=dtype, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * k / half)
    angles = t.to(dtype)[:, None] * frequencies
    if layout == "halves":
        return torch.cat([angles.sin(), angles.cos()], dim=1)
    if layout == "interleaved":
        return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
    raise ValueError(f"expected layout 'halves' or 'interleaved', got {layout!r}")


def _check_dim(embedding_dim: int) -> None:
    if embedding_dim < 2 or embedding_dim % 2:
        raise ValueError(f"expected an even embedding_dim of at least 2 (sines and cosines), got {embedding_dim}")


class SinusoidalTimeEmbedding(nn.Module):
    """:func:`sinusoidal_embedding` as a module, sines first; without parameters.

    Args:
        embedding_dim: d, even.
        max_period: P.

    Raises:
        ValueError: For an odd or too small ``embedding_dim``.
    """

    def __init__(self, embedding_dim: int = 128, max_period: float = 10_000) -> None:
        super().__init__()
        _check_dim(embedding_dim)
        self.embedding_dim = embedding_dim
        self.max_period = max_period

    def forward(self, timesteps: Tensor) -> Tensor:
        """Times (B,) → embeddings (B, embedding_dim)."""
        return sinusoidal_embedding(timesteps, self.embedding_dim, self.max_period)

    def extra_repr(self) -> str:
        return f"embedding_dim={self.embedding_dim}, max_period={self.max_period}"
