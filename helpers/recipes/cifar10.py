"""The models of colour photographs: CIFAR-10, or any folder of pictures.

All of them are trained on bytes kept in memory, flipped left to right at random, and go through
:func:`helpers.training.train` with a folder of their own, so that the same command goes on where the last one ended.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from .. import data, diffusion, evaluation, samplers, schedules, training, zoo
from ..training import TrainingConfig
from ._recipe import Job, Outcome, Recipe

__all__ = ["RECIPES"]

PREVIEW_EVERY = 2000
OPEN_ENDED = ("n_steps", "decay", "decay_steps")


@dataclass(frozen=True)
class Examples:
    """Pictures as bytes (N, C, H, W), labels (N,) or None, and what they are in words."""

    images: Tensor
    labels: Tensor | None
    n_classes: int
    words: str

    def batch(self, index: Tensor, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Pictures in [−1, 1], half of them flipped, and labels, a tenth of them dropped; on ``device``."""
        images = data.from_uint8(self.images[index])
        flipped = torch.rand(len(index), generator=generator) < 0.5
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        images = images.to(device, memory_format=torch.channels_last)
        if self.labels is None:
            return images, None
        return images, diffusion.drop_labels(self.labels[index], self.n_classes, 0.1, generator).to(device)


def _examples(job: Job, channels: int) -> Examples:
    if job.images is not None:
        pictures = data.to_uint8(data.image_folder(job.images, job.size or 32, channels))
        digest = hashlib.sha256(pictures.numpy().tobytes()).hexdigest()
        size = f"{pictures.shape[2]}×{pictures.shape[3]}"
        return Examples(pictures, None, 0, f"{len(pictures):,} pictures of a folder, at {size}; SHA-256 {digest}")
    cifar = data.cifar10()
    return Examples(cifar.train, cifar.train_labels, len(cifar.classes), _words(cifar))


def _words(cifar: data.CIFAR10) -> str:
    n, digest = len(cifar.train), cifar.sha256()["train"]
    return f"CIFAR-10 (Krizhevsky 2009), {n:,} training images; SHA-256 of the pixels {digest}"


def _run(recipe: Recipe, job: Job, words: str, **more: str) -> training.Run:
    """The folder of a training; what must agree with a checkpoint in it is everything but the training's length."""
    config = {key: value for key, value in asdict(recipe.config).items() if key not in OPEN_ENDED}
    identity = {"recipe": recipe.name, "architecture": recipe.architecture, "data": words, "config": config}
    return training.Run(job.folder / recipe.name, {**identity, **more})


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _train(
    recipe: Recipe,
    model: nn.Module,
    job: Job,
    examples: Examples,
    loss: training.LossFunction,
    draw: Callable[[nn.Module, Tensor], Tensor],
) -> Outcome:
    """The training that the recipes share: warm start, folder, previews."""
    start, earlier = _warm_start(model, job)
    run = _run(recipe, job, examples.words, **({"start": earlier["sha256"]} if earlier else {}))
    shape = (64, *examples.images.shape[1:])

    def preview(step: int, result: training.TrainingResult) -> None:
        if step % PREVIEW_EVERY or result.ema is None or (job.accelerator and not job.accelerator.is_main_process):
            return
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        grid = draw(result.ema, noise.to(_device(result.ema))).cpu()
        save_image((grid.clamp(-1, 1) + 1) / 2, run.folder / f"samples-{step:07d}.png", nrow=8)

    result = training.train(
        model,
        loss,
        torch.arange(len(examples.images)),
        recipe.config,
        run=run,
        start=start,
        accelerator=job.accelerator,
        callback=preview,
        progress=job.progress,
    )
    last = result.losses[-500:]
    return Outcome(
        result, {"final_loss": round(sum(last) / len(last), 6)}, examples.words, shape[1:], earlier, half=True
    )


def _warm_start(model: nn.Module, job: Job) -> tuple[training.Start | None, dict[str, Any] | None]:
    """Fill ``model`` with the raw weights that an earlier run left, and give the average to go on from."""
    if job.start is None:
        return None, None
    average = copy.deepcopy(model)
    card = training.load_checkpoint(job.start, {"ema": average})
    raw = job.start.parent / "raw" / job.start.name
    if raw.exists():
        training.load_checkpoint(raw, {"model": model})
    else:
        model.load_state_dict(average.state_dict())
    return training.Start(average, card["images_seen"]), card


def _train_edm(recipe: Recipe, model: nn.Module, job: Job) -> Outcome:
    examples = _examples(job, model.network.in_channels)

    def loss(denoiser: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        images, labels = examples.batch(index, generator, _device(denoiser))
        return diffusion.edm_loss(denoiser, images, generator, label=labels)

    def draw(denoiser: nn.Module, noise: Tensor) -> Tensor:
        labels = torch.arange(len(noise), device=noise.device) % examples.n_classes if examples.n_classes else None
        sigmas = schedules.append_zero(schedules.karras_sigmas(12))
        return samplers.sample_ode(denoiser, samplers.DPMSolverPP2M(), noise * sigmas[0].item(), sigmas, label=labels)

    return _train(recipe, model, job, examples, loss, draw)


def _train_ddpm(recipe: Recipe, model: nn.Module, job: Job) -> Outcome:
    examples, schedule = _examples(job, model.in_channels), zoo.schedule_of({"schedule": recipe.schedule})

    def loss(network: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        images, _ = examples.batch(index, generator, _device(network))
        return diffusion.simple_loss(network, images, schedule, generator)

    def draw(network: nn.Module, noise: Tensor) -> Tensor:
        return samplers.sample(network, samplers.DDIMSampler(schedule, 20), noise, clip_x0=1.0)

    return _train(recipe, model, job, examples, loss, draw)


def _train_cifarnet(recipe: Recipe, model: nn.Module, job: Job) -> Outcome:
    cifar = data.cifar10()
    prepared = evaluation.classifier_loss(cifar.train, cifar.train_labels)
    result = training.train(
        model,
        prepared,
        torch.arange(len(cifar.train)),
        recipe.config,
        run=_run(recipe, job, _words(cifar)),
        accelerator=job.accelerator,
        progress=job.progress,
    )
    accuracy = evaluation.class_accuracy(result.ema, cifar.test, cifar.test_labels)
    metrics = {"test_accuracy": accuracy, "n_test": len(cifar.test), "views": "an image and its mirror image"}
    return Outcome(result, metrics, _words(cifar), (3, 32, 32), half=True)


LIMITS = "32×32 pixels and ten classes; trained for hours on a small CPU, so shapes are often wrong. For teaching only."

LONG: dict[str, Any] = {
    "ema_half_life": 500_000,
    "ema_rampup": 0.05,
    "ema_every": 8,
    "precision": "bfloat16",
    "channels_last": True,
    "fused": True,
}
"""What the long trainings share: the average of Karras et al. (2022), and the fast path of a CPU."""

RECIPES = (
    Recipe(
        name="cifarnet",
        summary="A small classifier of CIFAR-10; its 256 features measure distances between sets of colour pictures.",
        architecture={"name": "CIFARNet", "arguments": {}},
        schedule=None,
        config=TrainingConfig(
            n_steps=3000,
            batch_size=256,
            learning_rate=3e-3,
            warmup_steps=300,
            decay="cosine",
            betas=(0.9, 0.99),
            weight_decay=0.05,
            grad_clip=None,
            ema_half_life=10_000,
            precision="bfloat16",
            channels_last=True,
            fused=True,
        ),
        expect="about 20 minutes and 2 GB on 2 cores; more than nine test images in ten right",
        run=_train_cifarnet,
        limits="Knows ten classes at 32×32 pixels, and has learned to forget the rest; for teaching only.",
    ),
    Recipe(
        name="cifar10-edm",
        summary="The course's fast U-Net with EDM preconditioning, conditioned on the class, on CIFAR-10.",
        architecture={
            "name": "FastUNet",
            "arguments": {"n_classes": 10, "channels": [128, 256], "blocks": [1, 1, 2, 2], "time_scale": 16.0},
            "preconditioning": {"name": "EDM", "sigma_data": 0.5},
        },
        schedule=None,
        config=TrainingConfig(
            n_steps=100_000,
            batch_size=128,
            learning_rate=1e-3,
            warmup_steps=1000,
            decay="cosine",
            decay_steps=10_000,
            betas=(0.9, 0.99),
            **LONG,
        ),
        expect="about 30 hours and 2 GB on 2 cores; recognisable pictures after one",
        run=_train_edm,
        limits=LIMITS,
        own_images=True,
    ),
    Recipe(
        name="cifar10-ddpm",
        summary="The assignment's U-Net as a DDPM on CIFAR-10, in bfloat16 and channels-last.",
        architecture={"name": "SimpleUNet", "arguments": {}},
        schedule={"name": "LinearSchedule", "arguments": {"n_steps": 1000}},
        config=TrainingConfig(
            n_steps=100_000,
            batch_size=128,
            learning_rate=2e-4,
            **LONG,
        ),
        expect="days on 2 cores, and 4 GB; blurred shapes after hours",
        run=_train_ddpm,
        limits=LIMITS,
        own_images=True,
    ),
)
