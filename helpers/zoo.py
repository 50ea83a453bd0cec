"""Shipped models by name: ``load("digits-ddpm")`` needs neither network nor training.

Each model is a ``.safetensors`` file with its card, a JSON file of the same name: architecture, recipe, data, metrics,
command, and the SHA-256 of the weights, which is verified before anything is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from . import nn as networks
from . import schedules, training
from .diffusion import EDMPrecond
from .energy import InnerProductEnergy
from .schedules import NoiseSchedule

__all__ = ["ARCHITECTURES", "available", "build", "card", "load", "load_file", "schedule_of"]

WEIGHTS = Path(__file__).parent / "weights"

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "CIFARNet": networks.CIFARNet,
    "EnergyCNN": networks.EnergyCNN,
    "EnergyMLP": networks.EnergyMLP,
    "FastUNet": networks.FastUNet,
    "ImageMLP": networks.ImageMLP,
    "SimpleUNet": networks.SimpleUNet,
    "SmallClassifier": networks.SmallClassifier,
    "TimeMLP": networks.TimeMLP,
}
"""The networks that a card may name; nothing else is ever constructed from a file."""

SCHEDULES: dict[str, Callable[..., NoiseSchedule]] = {
    "LinearSchedule": schedules.LinearSchedule,
    "CosineSchedule": schedules.CosineSchedule,
}


def available() -> list[str]:
    """Names of the shipped models, sorted."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def _path(name: str) -> Path:
    if name not in available():
        raise ValueError(f"expected one of {', '.join(available()) or '(none shipped)'}, got {name!r}")
    return WEIGHTS / f"{name}.safetensors"


def card(name: str) -> dict[str, Any]:
    """The model card.

    Raises:
        ValueError: For an unknown name (the message lists the known ones), or a card that is damaged.
        FileNotFoundError: If the card is missing.
    """
    path = _path(name).with_suffix(".json")
    try:
        info = json.loads(path.read_text("utf-8"))
        info["architecture"]["arguments"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the card {path.name} is damaged ({error!r}): get it and {name}.safetensors anew") from error
    return info


def build(architecture: Mapping[str, Any]) -> nn.Module:
    """An untrained network from a card's ``{"name": …, "arguments": {…}}``.

    With ``"preconditioning": {"name": "EDM", "sigma_data": …}`` it is the denoiser around the network,
    :class:`helpers.diffusion.EDMPrecond`. With ``"energy": "inner-product"`` beside it, it is the noise-conditional
    energy with such a denoiser, :class:`helpers.energy.InnerProductEnergy`.

    Raises:
        ValueError: If the name is not in :data:`ARCHITECTURES`, or preconditioning or energy are not known.
    """
    if architecture["name"] not in ARCHITECTURES:
        raise ValueError(f"expected one of {', '.join(ARCHITECTURES)}, got {architecture['name']!r}")
    network = ARCHITECTURES[architecture["name"]](**architecture["arguments"])
    around, energy = architecture.get("preconditioning"), architecture.get("energy")
    if energy not in (None, "inner-product") or (energy and not around):
        raise ValueError(f"expected the energy inner-product beside a preconditioning, got {energy!r}")
    if around is None:
        return network
    if around["name"] != "EDM":
        raise ValueError(f"expected the preconditioning EDM, got {around['name']!r}")
    return (InnerProductEnergy if energy else EDMPrecond)(network, around["sigma_data"])


def schedule_of(info: Mapping[str, Any]) -> NoiseSchedule:
    """The noise schedule that a card names.

    Raises:
        ValueError: If the model has none, or an unknown one.
    """
    schedule = info.get("schedule")
    if schedule is None:
        raise ValueError(f"expected a diffusion model, got {info.get('name', 'a model')}, which has no noise schedule")
    if schedule["name"] not in SCHEDULES:
        raise ValueError(f"expected a schedule out of {', '.join(SCHEDULES)}, got {schedule['name']!r}")
    return SCHEDULES[schedule["name"]](**schedule["arguments"])


def load(name: str, weights: str = "ema") -> nn.Module:
    """A trained model, in evaluation mode and without gradients for its parameters.

    Args:
        name: One of :func:`available`.
        weights: ``"ema"`` for the averaged weights; ``"model"`` for the raw ones, where they ship.

    Raises:
        ValueError: For an unknown name, weights that are not in the file, or a file that its card does not describe.

    Example:
        >>> load("digits-classifier").head.out_features
        10
    """
    path = _path(name)
    model = build(card(name)["architecture"])
    training.load_checkpoint(path, {weights: model})
    return model.eval().requires_grad_(False)


def load_file(
    path: str | Path, weights: str = "ema", entries: Sequence[str] = ("name", "shape")
) -> tuple[nn.Module, dict[str, Any]]:
    """A model of your own, as ``python -m helpers train`` wrote it, and its card.

    Only safetensors are read, only networks of :data:`ARCHITECTURES` are built: nothing in the files is ever executed.

    Args:
        path: The ``.safetensors`` file; its card lies beside it.
        weights: As in :func:`load`.
        entries: What the card must have beside the architecture: those that drawing pictures needs, or others.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If they do not belong together, or the card is damaged or lacks an entry; or for another suffix.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"expected a .safetensors file, got {path}")
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise FileNotFoundError(f"no model card at {beside}")
    try:
        info = json.loads(beside.read_text("utf-8"))
        model = build(info["architecture"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{beside.name} is no model card ({error!r}): get both files anew") from error
    if missing := [entry for entry in entries if entry not in info]:
        raise ValueError(f"expected {', '.join(missing)} in the card {beside.name}, got none: get both files anew")
    training.load_checkpoint(path, {weights: model})
    return model.eval().requires_grad_(False), info
