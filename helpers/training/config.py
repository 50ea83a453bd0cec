"""What can be chosen about a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["TrainingConfig"]

SEEDS = 2**63 - 2_000_000_000  # below what a generator takes, by room for a seed of each part


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        n_steps: Updates of the weights.
        batch_size: Images an update.
        learning_rate: Peak rate.
        warmup_steps: Steps over which the rate rises linearly from 0.
        decay: What the rate does afterwards: ``"constant"``, or ``"cosine"`` down to 0 at the end.
        decay_steps: Length of the cosine decay: the rate is constant until so many steps before the end; None for all
            steps after the warm-up.
        betas: AdamW's (β₁, β₂).
        weight_decay: Decoupled weight decay.
        grad_clip: Largest norm of the gradient, or None.
        ema_half_life: Half-life of the average in images, or None for no average.
        ema_rampup: The half-life is at most this share of the images seen so far.
        ema_every: Steps between updates of the average; with more than 1 it costs less time. Steps after the last
            multiple of it are not in the average.
        seed: Of batches, noise and dropout.
        n_parts: Each batch is computed in so many equal parts, whose gradients are averaged: less memory, or one part
            or more for each process. Each part has its own stream of random numbers, so that it does not matter which
            process computes it.
        precision: ``"bfloat16"`` runs matrix products in that type (autocast), with weights kept in float32.
        channels_last: Whether to keep images and the weights of convolutions in memory channel by channel of a pixel,
            which is the fast layout for them.
        fused: Whether to update all weights in one pass of a fused AdamW.
        optimizer: ``"adamw"``, or ``"muon"``: that for the matrices inside the network, AdamW for all other weights.

    Raises:
        ValueError: For a value that makes no sense (which one, and what was expected).
    """

    n_steps: int
    batch_size: int = 128
    learning_rate: float = 2e-4
    warmup_steps: int = 0
    decay: Literal["constant", "cosine"] = "constant"
    decay_steps: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    grad_clip: float | None = 1.0
    ema_half_life: float | None = 20_000
    ema_rampup: float = 0.1
    ema_every: int = 1
    seed: int = 42
    n_parts: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    fused: bool = False
    optimizer: Literal["adamw", "muon"] = "adamw"

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("n_steps", "batch_size", "warmup_steps", "ema_every", "n_parts", "decay_steps"):
            value, lowest = getattr(self, name), int(name != "warmup_steps")
            if name == "decay_steps" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise ValueError(f"expected {name} to be an integer >= {lowest}, got {value!r}")
        for name in ("learning_rate", "grad_clip", "ema_half_life", "ema_rampup"):
            value, optional = getattr(self, name), name in ("grad_clip", "ema_half_life")
            if not (optional if value is None else _is_number(value) and 0 < value < math.inf):
                raise ValueError(f"expected {name} > 0{' or None' if optional else ''}, got {value!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"expected weight_decay >= 0, got {self.weight_decay}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"expected betas in [0, 1), got {self.betas}")
        if self.warmup_steps > self.n_steps:
            raise ValueError(f"expected warmup_steps from 0 to n_steps = {self.n_steps}, got {self.warmup_steps}")
        choices = {
            "optimizer": ("adamw", "muon"),
            "decay": ("constant", "cosine"),
            "precision": ("float32", "bfloat16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"expected {name} {allowed[0]!r} or {allowed[1]!r}, got {getattr(self, name)!r}")
        if self.decay_steps is not None:
            longest = self.n_steps - self.warmup_steps
            if self.decay != "cosine":
                raise ValueError(f"expected decay 'cosine' with decay_steps = {self.decay_steps}, got {self.decay!r}")
            if self.decay_steps > longest:
                raise ValueError(
                    f"expected decay_steps up to n_steps - warmup_steps = {longest}, got {self.decay_steps}"
                )
        if self.batch_size % self.n_parts:
            raise ValueError(f"expected a batch_size that n_parts = {self.n_parts} divides, got {self.batch_size}")

    def _check_types(self) -> None:
        """Refuse what later comparisons would stumble over, or take for something else."""
        for name in ("channels_last", "fused"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"expected {name} to be True or False, got {value!r}")
        if not _is_number(self.weight_decay):
            raise ValueError(f"expected weight_decay >= 0, got {self.weight_decay!r}")
        betas = self.betas
        if not (isinstance(betas, (tuple, list)) and len(betas) == 2 and all(map(_is_number, betas))):
            raise ValueError(f"expected betas to be two numbers in [0, 1), got {betas!r}")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < SEEDS:
            raise ValueError(f"expected seed to be an integer from 0 to {SEEDS - 1}, got {self.seed!r}")

    def learning_rate_at(self, step: int) -> float:
        """The rate of update number ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.decay == "constant":
            return self.learning_rate
        length = self.decay_steps or max(self.n_steps - self.warmup_steps, 1)
        progress = max(0.0, (step - (self.n_steps - length)) / length)
        return self.learning_rate * (1 + math.cos(math.pi * progress)) / 2
