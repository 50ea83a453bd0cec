"""What is trained how: one dataclass a model, one command to run it.

``python -m helpers train NAME`` trains a recipe and writes weights and card; the results that ship in
``helpers/weights`` were made by exactly that command.
"""

from __future__ import annotations

import platform
import shlex
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__, training, zoo
from . import cifar10, digits, energies
from ._pictures import STAGE, Examples, warm_start
from ._recipe import Job, Outcome, Recipe
from .digits import digit_distance

__all__ = ["RECIPES", "Examples", "Job", "Outcome", "Recipe", "changed", "digit_distance", "run", "warm_start"]

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*digits.RECIPES, *cifar10.RECIPES, *energies.RECIPES)}
"""Every recipe by its name."""


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other settings of its :class:`helpers.training.TrainingConfig`.

    Raises:
        ValueError: For a setting that does not exist, or a value that makes no sense.
    """
    known = [field.name for field in fields(recipe.config)]
    for name in changes:
        if name not in known:
            raise ValueError(f"expected a setting out of {', '.join(known)}, got {name!r}")
    return replace(recipe, config=replace(recipe.config, **changes))


def _with_arguments(recipe: Recipe, arguments: Mapping[str, Any]) -> Recipe:
    """The recipe with another network of the same kind."""
    architecture = recipe.architecture
    return replace(recipe, architecture={**architecture, "arguments": {**architecture["arguments"], **arguments}})


def _for_job(recipe: Recipe, job: Job) -> Recipe:
    """The recipe as this job needs it: a folder of pictures has no classes."""
    if job.size is not None and job.images is None:
        raise ValueError(f"expected --images with --size {job.size}: data of the recipe's own keep their size")
    if not recipe.own_images and (job.images or job.start):
        raise ValueError(f"{recipe.name} has data of its own and no long training: it takes no pictures, nor weights")
    if job.images is None:
        return recipe
    arguments = {key: value for key, value in recipe.architecture["arguments"].items() if key != "n_classes"}
    return replace(recipe, architecture={**recipe.architecture, "arguments": arguments})


def _writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _card(recipe: Recipe, outcome: Outcome, minutes: float, command: str) -> dict[str, Any]:
    earlier = outcome.earlier or {"images_seen": 0, "minutes": 0.0}
    card = {
        "name": recipe.name,
        "summary": recipe.summary,
        "architecture": recipe.architecture,
        "shape": outcome.shape,
        "parameters": sum(p.numel() for p in outcome.result.model.parameters()),
        "schedule": recipe.schedule,
        "data": outcome.data,
        "config": asdict(recipe.config),
        "images_seen": earlier["images_seen"] + len(outcome.result.losses) * recipe.config.batch_size,
        "minutes": round(earlier["minutes"] + minutes, 2),
        "metrics": outcome.metrics,
        "command": command,
        "limits": recipe.limits,
        **outcome.entries,
        "versions": {
            "helpers": __version__,
            "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
        },
    }
    if outcome.earlier:
        before = outcome.earlier
        card["went_on_from"] = [*before.get("went_on_from", []), {key: before[key] for key in STAGE}]
    return card


def run(
    name: str,
    folder: str | Path,
    *,
    changes: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    command: str | None = None,
    **job: Any,
) -> Path:
    """Train a recipe and write ``folder/name.safetensors`` with its card beside it.

    Args:
        name: A key of :data:`RECIPES`.
        folder: Where to write; made if missing, and tried before the training begins.
        changes: Other settings of the recipe's :class:`helpers.training.TrainingConfig`.
        arguments: Other arguments of its network.
        command: What the card says about how the weights were made; the command with these changes if not given.
        **job: The other attributes of :class:`Job`.

    Returns:
        The path of the weights.

    Raises:
        ValueError: For an unknown name or setting, or options that the recipe has no use for; if another process trains
            the recipe in that folder.
        OSError: If the folder cannot be written to.
        TrainingDiverged: If a loss is not finite; nothing is written.
        KeyboardInterrupt: If it was asked to stop; long trainings have saved their state.
    """
    if name not in RECIPES:
        raise ValueError(f"expected a recipe out of {', '.join(RECIPES)}, got {name!r}")
    task = Job(Path(folder), **job)
    recipe = _for_job(_with_arguments(changed(RECIPES[name], changes or {}), arguments or {}), task)
    _writable(task.folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.config.seed)
        model = zoo.build(recipe.architecture)
    begin = time.perf_counter()
    outcome = recipe.run(recipe, model, task)
    minutes = (outcome.result.seconds or time.perf_counter() - begin) / 60
    path = task.folder / f"{name}.safetensors"
    if task.accelerator and not task.accelerator.is_main_process:
        return path
    card = _card(recipe, outcome, minutes, command or _command(name, changes or {}))
    dtype = torch.float16 if outcome.half and _fits_half(outcome.result) else None
    if outcome.half:
        training.save_checkpoint(task.folder / "raw" / path.name, {"model": outcome.result.model}, card, dtype)
    return training.save_checkpoint(path, {"ema": outcome.result.average}, card, dtype)


def _command(name: str, changes: Mapping[str, Any]) -> str:
    settings = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    return shlex.join(["python", "-m", "helpers", "train", name, *settings])


def _fits_half(result: training.TrainingResult) -> bool:
    """Whether all weights are within the range of float16."""
    values = [value for module in (result.model, result.average) for value in module.state_dict().values()]
    largest = torch.finfo(torch.float16).max
    return all(bool((value.abs() <= largest).all()) for value in values if value.is_floating_point())
