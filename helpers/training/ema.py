r"""The exponential moving average of the weights: what a diffusion model is sampled with."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__ = ["EMA"]


class EMA:
    """The exponential moving average of a model's weights.

    Equation ``eq-ema`` of ``book/notation.md``.

    Args:
        model: The model to follow; it is copied, not changed.
        half_life: In images.
        rampup: The half-life is at most this share of the images seen.

    Attributes:
        model: The averaged model, in evaluation mode, without gradients.
        images_seen: How many images the average has followed.
    """

    def __init__(self, model: nn.Module, half_life: float = 20_000, rampup: float = 0.1) -> None:
        if not (half_life > 0 and rampup > 0):
            raise ValueError(f"expected half_life and rampup > 0, got {half_life} and {rampup}")
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.half_life = half_life
        self.rampup = rampup
        self.images_seen = 0

    def decay(self, n_images: int) -> float:
        """The factor a of the old average for the next ``n_images`` images."""
        half_life = min(self.half_life, self.rampup * (self.images_seen + n_images))
        return 0.5 ** (n_images / half_life)

    @torch.no_grad()
    def update(self, model: nn.Module, n_images: int) -> None:
        """Move the average towards ``model`` after an update that saw ``n_images`` images; buffers are copied."""
        decay = self.decay(n_images)
        self.images_seen += n_images
        for average, current in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(current.detach(), 1 - decay)
        for average, current in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(current)
