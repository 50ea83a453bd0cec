"""What is trained how: one dataclass a model, one command to run it.

``python -m helpers train NAME`` trains a recipe and writes weights and card; the results that ship in
``helpers/weights`` were made by exactly that command.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import __version__, data, diffusion, evaluation, samplers, training, zoo
from .training import TrainingConfig

__all__ = ["RECIPES", "Recipe", "digit_distance", "run"]


@dataclass(frozen=True)
class Recipe:
    """A model, its data and how it is trained.

    Attributes:
        name: Name of the model, as in ``helpers/weights``.
        summary: One sentence for people.
        architecture: ``{"name": …, "arguments": {…}}``, see :data:`helpers.zoo.ARCHITECTURES`.
        schedule: The noise schedule in the same form, or None.
        config: How to train.
        expect: Time and result to expect, in words.
        run: Trains and measures: ``(recipe, model) -> (result, metrics)``.
    """

    name: str
    summary: str
    architecture: Mapping[str, Any]
    schedule: Mapping[str, Any] | None
    config: TrainingConfig
    expect: str
    run: Callable[[Recipe, nn.Module], tuple[training.TrainingResult, dict[str, Any]]]


def digit_distance(samples: Tensor) -> float:
    """Fréchet distance of images to the 1,438 training digits, in the features of the shipped ``digits-classifier``.

    Args:
        samples: (N, 1, 16, 16) in [−1, 1]. Use N = 359, the number of held-out digits, to compare with their distance.

    Raises:
        ValueError: For images of another shape.
    """
    if samples.ndim != 4 or samples.shape[1:] != (1, 16, 16):
        raise ValueError(f"expected digits of shape (N, 1, 16, 16), got {tuple(samples.shape)}")
    features = zoo.load("digits-classifier").features
    reference, other = (
        evaluation.feature_statistics(evaluation.extract_features(features, images))
        for images in (data.digits(16).train, samples)
    )
    return evaluation.frechet_distance(reference, other)


def _train_digits_ddpm(recipe: Recipe, model: nn.Module) -> tuple[training.TrainingResult, dict[str, Any]]:
    digits = data.digits(16)
    schedule = zoo.schedule_of({"schedule": recipe.schedule})

    x_T = torch.randn(len(digits.test), 1, 16, 16, generator=torch.Generator().manual_seed(0))
    floor, noise = digit_distance(digits.test), digit_distance(x_T.clamp(-1, 1))  # first: what fails here costs nothing

    def loss(network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return diffusion.simple_loss(network, x, schedule, generator)

    result = training.train(model, loss, digits.train, recipe.config)
    samples = samplers.sample(result.ema, samplers.DDIMSampler(schedule, 50), x_T, clip_x0=1.0)
    return result, {
        "final_loss": sum(result.losses[-100:]) / len(result.losses[-100:]),
        "frechet_distance": digit_distance(samples),
        "frechet_distance_held_out": floor,
        "frechet_distance_noise": noise,
        "n_samples": len(samples),
        "sampler": "DDIM, 50 steps, eta 0, seed 0, clip_x0 1.0",
        "features": "digits-classifier",
    }


def _train_digits_classifier(recipe: Recipe, model: nn.Module) -> tuple[training.TrainingResult, dict[str, Any]]:
    digits = data.digits(16)

    def loss(network: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        x = digits.train[index]
        noisy = x + 0.1 * torch.randn(x.shape, generator=generator)
        return F.cross_entropy(network(noisy), digits.train_labels[index], label_smoothing=0.1)

    result = training.train(model, loss, torch.arange(len(digits.train)), recipe.config)
    with torch.no_grad():
        correct = result.ema(digits.test).argmax(1) == digits.test_labels
    return result, {"test_accuracy": correct.double().mean().item(), "n_test": len(correct)}


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="digits-classifier",
            summary="A small classifier of 16×16 digits; its 64 features measure distances between sets of digits.",
            architecture={"name": "SmallClassifier", "arguments": {"size": 16}},
            schedule=None,
            config=TrainingConfig(600, 128, 2e-3, warmup_steps=20, decay="cosine", weight_decay=0.05),
            expect="about 5 seconds on 2 cores",
            run=_train_digits_classifier,
        ),
        Recipe(
            name="digits-ddpm",
            summary="The assignment's U-Net at a quarter of its width, trained as a DDPM on 16×16 digits.",
            architecture={
                "name": "SimpleUNet",
                "arguments": {
                    "in_channels": 1,
                    "out_channels": 1,
                    "time_emb_dim": 32,
                    "base_channels": 16,
                    "dropout": 0.0,
                },
            },
            schedule={"name": "LinearSchedule", "arguments": {"n_steps": 1000}},
            config=TrainingConfig(3000, 64, 2e-3, warmup_steps=100, decay="cosine"),
            expect="about 3 minutes on 2 quiet cores",
            run=_train_digits_ddpm,
        ),
    )
}
"""Every recipe by its name."""


def run(name: str, folder: str | Path) -> Path:
    """Train a recipe and write ``folder/name.safetensors`` with its card beside it.

    Args:
        name: A key of :data:`RECIPES`.
        folder: Where to write; made if missing, and tried before the training begins.

    Returns:
        The path of the weights.

    Raises:
        ValueError: For an unknown name.
        OSError: If the folder cannot be written to.
        TrainingDiverged: If a loss is not finite; nothing is written.
    """
    if name not in RECIPES:
        raise ValueError(f"expected a recipe out of {', '.join(RECIPES)}, got {name!r}")
    recipe = RECIPES[name]
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.config.seed)
        model = zoo.build(recipe.architecture)
    start = time.perf_counter()
    result, metrics = recipe.run(recipe, model)
    info = {
        "name": name,
        "summary": recipe.summary,
        "architecture": recipe.architecture,
        "parameters": sum(p.numel() for p in model.parameters()),
        "schedule": recipe.schedule,
        "data": "scikit-learn's digits (UCI Optical Recognition of Handwritten Digits, CC BY 4.0), 1,438 for training",
        "config": asdict(recipe.config),
        "images_seen": recipe.config.n_steps * recipe.config.batch_size,
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "metrics": metrics,
        "command": f"python -m helpers train {name}",
        "limits": "Toy data of 16×16 grey pixels; for teaching only.",
        "versions": {
            "helpers": __version__,
            "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
        },
    }
    return training.save_checkpoint(Path(folder) / f"{name}.safetensors", {"ema": result.ema}, info)
