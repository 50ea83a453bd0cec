"""The models of colour photographs: CIFAR-10, or any folder of pictures.

All of them are trained on bytes kept in memory, flipped left to right at random, and go through
:func:`helpers.training.train` with a folder of their own, so that the same command goes on where the last one ended.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import data, diffusion, evaluation, samplers, training, zoo
from ..training import TrainingConfig
from ._pictures import DENOISER, LIMITS, LONG, cifar_words, device_of, examples_of, run_of, train_denoiser, train_on
from ._recipe import Job, Outcome, Recipe

__all__ = ["RECIPES"]


def _train_edm(recipe: Recipe, model: nn.Module, job: Job) -> Outcome:
    return train_denoiser(recipe, model, job, examples_of(job, model.network.in_channels, recipe.config))


def _train_ddpm(recipe: Recipe, model: nn.Module, job: Job) -> Outcome:
    examples = examples_of(job, model.in_channels, recipe.config)
    schedule = zoo.schedule_of({"schedule": recipe.schedule})

    def loss(network: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        images, _ = examples.batch(index, generator, device_of(network))
        return diffusion.simple_loss(network, images, schedule, generator)

    def draw(network: nn.Module, noise: Tensor) -> Tensor:
        return samplers.sample(network, samplers.DDIMSampler(schedule, 20), noise, clip_x0=1.0)

    return train_on(recipe, model, job, examples, loss, draw)


def _train_cifarnet(recipe: Recipe, model: nn.Module, job: Job) -> Outcome:
    cifar = data.cifar10()
    prepared = evaluation.classifier_loss(cifar.train, cifar.train_labels)
    result = training.train(
        model,
        prepared,
        torch.arange(len(cifar.train)),
        recipe.config,
        run=run_of(recipe, job, cifar_words(cifar)),
        accelerator=job.accelerator,
        progress=job.progress,
    )
    accuracy = evaluation.class_accuracy(result.average, cifar.test, cifar.test_labels)
    metrics = {"test_accuracy": accuracy, "n_test": len(cifar.test), "views": "an image and its mirror image"}
    return Outcome(result, metrics, cifar_words(cifar), (3, 32, 32), half=True)


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
        architecture=DENOISER,
        schedule=None,
        config=TrainingConfig(
            n_steps=100_000,
            batch_size=128,
            learning_rate=4e-3,
            warmup_steps=500,
            decay="cosine",
            decay_steps=10_000,
            betas=(0.9, 0.99),
            optimizer="muon",
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
