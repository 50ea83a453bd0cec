"""The models of handwritten digits, trained in minutes from data that ships with scikit-learn."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import data, diffusion, evaluation, samplers, training, zoo
from ..energy import AtLevel, InnerProductEnergy
from ..training import TrainingConfig
from ._pictures import device_of
from ._recipe import Job, Outcome, Recipe

__all__ = ["RECIPES", "digit_distance"]

DATA = "scikit-learn's digits (UCI Optical Recognition of Handwritten Digits, CC BY 4.0), 1,438 for training"
SHAPE = (1, 16, 16)

ENERGY_LEVEL = 0.7
"""The noise level at which ``digits-energy`` compares pictures: low ones know nothing of pictures in negative."""


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


def _train_digits_ddpm(recipe: Recipe, model: nn.Module, job: Job) -> Outcome:
    digits = data.digits(16)
    schedule = zoo.schedule_of({"schedule": recipe.schedule})

    x_T = torch.randn(len(digits.test), 1, 16, 16, generator=torch.Generator().manual_seed(0))
    floor, noise = digit_distance(digits.test), digit_distance(x_T.clamp(-1, 1))  # first: what fails here costs nothing

    def loss(network: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return diffusion.simple_loss(network, x.to(device_of(network)), schedule, generator)

    result = training.train(
        model, loss, digits.train, recipe.config, accelerator=job.accelerator, progress=job.progress
    )
    x_T = x_T.to(device_of(result.average))
    samples = samplers.sample(result.average, samplers.DDIMSampler(schedule, 50), x_T, clip_x0=1.0).cpu()
    metrics = {
        "final_loss": sum(result.losses[-100:]) / len(result.losses[-100:]),
        "frechet_distance": digit_distance(samples),
        "frechet_distance_held_out": floor,
        "frechet_distance_noise": noise,
        "n_samples": len(samples),
        "sampler": "DDIM, 50 steps, eta 0, seed 0, clip_x0 1.0",
        "features": "digits-classifier",
    }
    return Outcome(result, metrics, DATA, SHAPE)


def _train_digits_classifier(recipe: Recipe, model: nn.Module, job: Job) -> Outcome:
    digits = data.digits(16)

    def loss(network: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        x, labels, device = digits.train[index], digits.train_labels[index], device_of(network)
        noisy = x + 0.1 * torch.randn(x.shape, generator=generator)
        return F.cross_entropy(network(noisy.to(device)), labels.to(device), label_smoothing=0.1)

    result = training.train(
        model, loss, torch.arange(len(digits.train)), recipe.config, accelerator=job.accelerator, progress=job.progress
    )
    network = result.average
    with torch.no_grad():
        correct = network(digits.test.to(device_of(network))).argmax(1).cpu() == digits.test_labels
    return Outcome(result, {"test_accuracy": correct.double().mean().item(), "n_test": len(correct)}, DATA, SHAPE)


def _share_above(reference: Tensor, other: Tensor) -> float:
    """The chance that one of ``other`` has a higher energy than one of ``reference`` (the AUROC)."""
    return (other[:, None] > reference).double().mean().item()


def _train_digits_energy(recipe: Recipe, model: InnerProductEnergy, job: Job) -> Outcome:
    digits = data.digits(8)

    def loss(denoiser: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
        return diffusion.edm_loss(denoiser, x.to(device_of(denoiser)), generator)

    result = training.train(
        model,
        loss,
        digits.train,
        recipe.config,
        accelerator=job.accelerator,
        through=lambda energy: energy.denoiser,
        progress=job.progress,
    )
    energy, test = AtLevel(result.average, ENERGY_LEVEL), digits.test
    device = device_of(result.average)
    strange = {
        "upside_down": test.flip(2),
        "mixed_halves": torch.cat([test[..., :4], test.roll(1, 0)[..., 4:]], dim=-1),
        "negative": -test,
        "noise": 2 * torch.rand(test.shape, generator=torch.Generator().manual_seed(0)) - 1,
    }
    with torch.no_grad():
        usual = energy(test.to(device)).cpu()
        others = {name: energy(images.to(device)).cpu() for name, images in strange.items()}
    metrics = {f"auroc_{name}": _share_above(usual, energies) for name, energies in others.items()}
    shares = torch.linspace(0, 1, 101, dtype=torch.float64)
    entries = {
        "sampling": {"sigma": ENERGY_LEVEL},
        "energy_quantiles": [round(value, 5) for value in usual.double().quantile(shares).tolist()],
    }
    metrics = {"final_loss": sum(result.losses[-100:]) / len(result.losses[-100:]), **metrics, "n_test": len(test)}
    return Outcome(result, metrics, DATA, (1, 8, 8), entries=entries)


RECIPES = (
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
    Recipe(
        name="digits-energy",
        summary="A noise-conditional energy of 8×8 digits, trained by denoising score matching as in lesson 9.",
        architecture={
            "name": "ImageMLP",
            "arguments": {"shape": [1, 8, 8], "hidden": 256, "time_scale": 4.0},
            "preconditioning": {"name": "EDM", "sigma_data": 0.75},
            "energy": "inner-product",
        },
        schedule=None,
        config=TrainingConfig(
            3000, 128, 2e-3, warmup_steps=50, decay="cosine", betas=(0.9, 0.99), ema_half_life=10_000
        ),
        expect="about half a minute on 2 cores",
        run=_train_digits_energy,
        limits="Toy data of 8×8 grey pixels; its slopes are trained near noised digits only. For teaching only.",
    ),
)
