"""What a recipe is, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..training import TrainingConfig, TrainingResult

__all__ = ["Job", "Outcome", "Recipe"]


@dataclass(frozen=True)
class Job:
    """One run of a recipe.

    Attributes:
        folder: Where weights and cards go; long trainings keep their state in a folder of the recipe's name below it.
        images: A folder of pictures to train on instead of the recipe's own data.
        size: Height and width to which those pictures are brought.
        start: Weights to go on from: a ``.safetensors`` file that an earlier run wrote.
        accelerator: From :func:`helpers.training.accelerator`, or None for this process on the CPU.
        progress: Whether to show a progress bar.
    """

    folder: Path
    images: Path | None = None
    size: int | None = None
    start: Path | None = None
    accelerator: Any = None
    progress: bool = True


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        result: Of the training.
        metrics: Measured at its end.
        data: What it was trained on, in words.
        shape: Channels, height and width of its pictures.
        earlier: The card of the weights that it went on from, or as much of it as the next card tells, or None.
        entries: More entries of the card.
        half: Whether weights are stored as float16, and the raw ones beside the average, in a folder ``raw``.
    """

    result: TrainingResult
    metrics: dict[str, Any]
    data: str
    shape: tuple[int, ...]
    earlier: Mapping[str, Any] | None = None
    entries: Mapping[str, Any] = field(default_factory=dict)
    half: bool = False


@dataclass(frozen=True)
class Recipe:
    """A model, its data and how it is trained.

    Attributes:
        name: Name of the model, as in ``helpers/weights``.
        summary: One sentence for people.
        architecture: ``{"name": …, "arguments": {…}}``, see :func:`helpers.zoo.build`.
        schedule: The noise schedule in the same form, or None.
        config: How to train.
        expect: Time, memory and result to expect, in words.
        run: Trains and measures: ``(recipe, model, job) -> outcome``.
        limits: What the model is not good for.
        own_images: Whether it can be trained on a folder of pictures, and go on from weights.
    """

    name: str
    summary: str
    architecture: Mapping[str, Any]
    schedule: Mapping[str, Any] | None
    config: TrainingConfig
    expect: str
    run: Callable[[Recipe, nn.Module, Job], Outcome]
    limits: str = field(default="Toy data of 16×16 grey pixels; for teaching only.")
    own_images: bool = False
