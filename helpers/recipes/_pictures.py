"""What the recipes of pictures share: examples kept as bytes, the folder of a long training, previews, warm starts."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from .. import data, diffusion, samplers, schedules, training, zoo
from ..training.processes import SingleProcess, from_main
from ._recipe import Job, Outcome, Recipe

__all__ = [
    "DENOISER",
    "LIMITS",
    "LONG",
    "STAGE",
    "Examples",
    "cifar_words",
    "device_of",
    "examples_of",
    "run_of",
    "train_denoiser",
    "train_on",
]

PREVIEW_EVERY = 2000
OPEN_ENDED = ("n_steps", "decay", "decay_steps")
STAGE = ("images_seen", "minutes", "config", "command", "sha256")
"""What a card tells of the weights that a training went on from."""

LIMITS = "32×32 pixels and ten classes; trained for hours on a small CPU, so shapes are often wrong. For teaching only."

DENOISER: dict[str, Any] = {
    "name": "FastUNet",
    "arguments": {"n_classes": 10, "channels": [128, 256], "blocks": [1, 1, 2, 2], "time_scale": 16.0},
    "preconditioning": {"name": "EDM", "sigma_data": 0.5},
}
"""The course's fast U-Net as a denoiser of CIFAR-10."""

LONG: dict[str, Any] = {
    "ema_half_life": 500_000,
    "ema_rampup": 0.05,
    "ema_every": 8,
    "precision": "bfloat16",
    "channels_last": True,
    "fused": True,
}
"""What the long trainings share: the average of Karras et al. (2022), and the fast path of a CPU."""


SAME = ("images_seen", "config", "data", "architecture", "went_on_from")
"""Entries of cards by which raw weights and an average belong together."""


@dataclass(frozen=True)
class Examples:
    """Pictures as bytes (N, C, H, W), labels (N,) or None, in words, and a test set, which is the same for a folder.

    Batches lie in memory as the network wants them, channels last or not.
    """

    images: Tensor
    labels: Tensor | None
    n_classes: int
    words: str
    held_out: Tensor
    channels_last: bool = True

    def batch(self, index: Tensor, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Pictures in [−1, 1], half of them flipped, and labels, a tenth of them dropped; on ``device``."""
        images = data.from_uint8(self.images[index])
        flipped = torch.rand(len(index), generator=generator) < 0.5
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        images = images.to(device).contiguous(memory_format=layout)
        if self.labels is None:
            return images, None
        return images, diffusion.drop_labels(self.labels[index], self.n_classes, 0.1, generator).to(device)


def examples_of(job: Job, channels: int, config: training.TrainingConfig) -> Examples:
    if job.images is not None:
        pictures = data.folder_bytes(job.images, 32 if job.size is None else job.size, channels)
        digest = hashlib.sha256(pictures.numpy()).hexdigest()
        size = f"{pictures.shape[2]}×{pictures.shape[3]}"
        words = f"{len(pictures):,} pictures of a folder, at {size}; SHA-256 {digest}"
        return Examples(pictures, None, 0, words, pictures, config.channels_last)
    cifar = data.cifar10()
    words = cifar_words(cifar)
    return Examples(cifar.train, cifar.train_labels, len(cifar.classes), words, cifar.test, config.channels_last)


def cifar_words(cifar: data.CIFAR10) -> str:
    n, digest = len(cifar.train), cifar.sha256()["train"]
    return f"CIFAR-10 (Krizhevsky 2009), {n:,} training images; SHA-256 of the pixels {digest}"


def run_of(recipe: Recipe, job: Job, words: str, earlier: Mapping[str, Any] | None = None) -> training.Run:
    """The folder of a training; what must agree with a checkpoint in it is everything but the training's length.

    ``earlier`` is the card of the weights that it goes on from.
    """
    config = {key: value for key, value in asdict(recipe.config).items() if key not in OPEN_ENDED}
    identity = {"recipe": recipe.name, "architecture": recipe.architecture, "data": words, "config": config}
    if earlier is None:
        return training.Run(job.folder / recipe.name, identity)
    origin = {key: earlier[key] for key in (*STAGE, "went_on_from") if key in earlier}
    return training.Run(job.folder / recipe.name, {**identity, "start": earlier["sha256"]}, origin=origin)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def train_on(
    recipe: Recipe,
    model: nn.Module,
    job: Job,
    examples: Examples,
    loss: training.LossFunction,
    draw: Callable[[nn.Module, Tensor], Tensor],
    denoiser: Callable[[nn.Module], nn.Module] | None = None,
    through: Callable[[nn.Module], nn.Module] | None = None,
) -> Outcome:
    """The training that the recipes share: warm start, folder, previews.

    Args:
        recipe: With the settings of this job.
        model: To train, in place.
        job: Where, and from which weights on.
        examples: What to train on; the loss gets indices into them.
        loss: As :func:`helpers.training.train` takes it.
        draw: Pictures from a model and standard normal noise, for the previews.
        denoiser: Where in the model the denoiser is from whose weights it can start, for a model that is more than one.
        through: As :func:`helpers.training.train` takes it.
    """
    kept = _kept_origin(run_of(recipe, job, examples.words), job)
    start, earlier = (None, kept) if kept else warm_start(model, job, denoiser)
    run = run_of(recipe, job, examples.words, earlier)
    shape = (64, *examples.images.shape[1:])

    def preview(step: int, result: training.TrainingResult) -> None:
        if step % PREVIEW_EVERY or result.ema is None or (job.accelerator and not job.accelerator.is_main_process):
            return
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        grid = draw(result.ema, noise.to(device_of(result.ema))).cpu()
        save_image((grid.clamp(-1, 1) + 1) / 2, run.folder / f"samples-{step:07d}.png", nrow=8)

    result = training.train(
        model,
        loss,
        torch.arange(len(examples.images)),
        recipe.config,
        run=run,
        start=start,
        accelerator=job.accelerator,
        through=through,
        callback=preview,
        progress=job.progress,
    )
    last = result.losses[-500:]
    return Outcome(
        result, {"final_loss": round(sum(last) / len(last), 6)}, examples.words, shape[1:], earlier, half=True
    )


def train_denoiser(
    recipe: Recipe,
    model: nn.Module,
    job: Job,
    examples: Examples,
    denoiser_of: Callable[[nn.Module], nn.Module] | None = None,
    inside: Callable[[nn.Module], nn.Module] | None = None,
) -> Outcome:
    """Training by the EDM loss, of a denoiser or of a model that has one.

    ``inside`` is the argument ``denoiser`` of :func:`train_on`.
    """

    def loss(model: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        images, labels = examples.batch(index, generator, device_of(model))
        return diffusion.edm_loss(model, images, generator, label=labels)

    def draw(model: nn.Module, noise: Tensor) -> Tensor:
        labels = torch.arange(len(noise), device=noise.device) % examples.n_classes if examples.n_classes else None
        sigmas = schedules.append_zero(schedules.karras_sigmas(12))
        x_T = noise * sigmas[0].item()
        denoiser = denoiser_of(model) if denoiser_of else model
        return samplers.sample_ode(denoiser, samplers.DPMSolverPP2M(), x_T, sigmas, label=labels)

    return train_on(recipe, model, job, examples, loss, draw, inside, through=denoiser_of)


def _kept_origin(run: training.Run, job: Job) -> dict[str, Any] | None:
    """What the checkpoint in a folder says that it went on from: it no longer needs those weights.

    None where weights are to be loaded, or there is nothing to go by.
    """
    state = from_main(job.accelerator or SingleProcess(), run.state) if job.start else None
    digest = state["identity"].get("start") if state else None
    if digest is None:
        return None
    if (origin := state.get("origin")) is None:  # an old checkpoint, which knows the hash alone
        card = zoo.load_file(job.start, entries=STAGE)[1]
        stages = [*card.get("went_on_from", []), card]
        found = (k for k, stage in enumerate(stages) if stage["sha256"] == digest)
        origin = next(({**stages[k], "went_on_from": stages[:k]} for k in found), None)
    if origin and job.start.is_file() and training.sha256(job.start) != digest:
        warnings.warn(f"{job.start} is not what the checkpoint in {run.folder} went on from: not used", stacklevel=2)
    return origin


def warm_start(
    model: nn.Module, job: Job, denoiser: Callable[[nn.Module], nn.Module] | None = None
) -> tuple[training.Start | None, dict[str, Any] | None]:
    """Fill ``model`` with the raw weights that an earlier run left, and give the average to go on from.

    Raises:
        FileNotFoundError: If there are no such weights.
        ValueError: If they are damaged or do not fit, or the raw ones beside them are of another training.
    """
    if job.start is None:
        return None, None
    average = copy.deepcopy(model)
    _, card = zoo.load_file(job.start, entries=STAGE)  # refuses what is damaged, with a clear message
    inside = denoiser if denoiser and not card["architecture"].get("energy") else lambda whole: whole
    training.load_checkpoint(job.start, {"ema": inside(average)})
    raw = job.start.parent / "raw" / job.start.name
    if raw.exists():
        beside = training.load_checkpoint(raw, {"model": inside(model)})
        if differing := [key for key in SAME if beside.get(key) != card.get(key)]:
            raise ValueError(
                f"expected {raw} to be of the same training as {job.start}, got another {' and '.join(differing)}: "
                "remove it to start from the average alone"
            )
    else:
        model.load_state_dict(average.state_dict())
    return training.Start(average, card["images_seen"]), card
