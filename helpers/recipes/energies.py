"""The energy-based models of colour photographs: CIFAR-10, or any folder of pictures.

``cifar10-energy`` is the fast U-Net as a noise-conditional energy, trained by denoising score matching; ``cifar10-ebm``
is a small convolutional network, trained by persistent contrastive divergence with a replay buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from .. import data, diffusion, ebm, langevin, training
from ..energy import AtLevel, InnerProductEnergy, NonFiniteEnergyError
from ..training import TrainingConfig
from ._pictures import DENOISER, LIMITS, LONG, Examples, device_of, examples_of, train_denoiser, train_on
from ._recipe import Job, Outcome, Recipe

__all__ = ["RECIPES", "ContrastiveOnPictures", "contrastive_loss"]

CAPACITY, RESTART, L2, DATA_NOISE = 10_000, 0.2, 0.01, 0.03
SAMPLER = ebm.LangevinSampler(n_steps=20, step_size=2.0, temperature=1.25e-5, grad_clip=None, clamp=(-1.0, 1.0))
"""The step of Grathwohl et al. (2020, arXiv:1912.03263, appendix), α = 1, with half their noise; far below T = 1.

What that noise, the restarts and the learning rate do to new chains: ``benchmarks/contrastive_settings.py``.
"""


ENERGY_LEVEL = 0.25
"""The noise level at which ``cifar10-energy`` compares pictures."""

SAMPLING = {
    "steps": 400,
    "step_size": SAMPLER.step_size,
    "temperature": SAMPLER.temperature,
    "clamp": 1.0,
    "start": "uniform",
}
"""How new pictures are drawn: the chains of the training, for longer, since each starts anew."""


@torch.no_grad()
def energy_quantiles(energy: nn.Module, images: Tensor, n: int = 100) -> list[float]:
    """Energies of pictures, uint8 (N, C, H, W), sorted, at ``n`` + 1 evenly spaced shares of them from 0 to 1."""
    device = device_of(energy)
    values = torch.cat([energy(data.from_uint8(part).to(device)).cpu().double() for part in images.split(200)])
    return [round(value, 5) for value in values.quantile(torch.linspace(0, 1, n + 1, dtype=torch.float64)).tolist()]


def _train_energy(recipe: Recipe, model: InnerProductEnergy, job: Job) -> Outcome:
    def inside(energy: InnerProductEnergy) -> nn.Module:
        return diffusion.EDMPrecond(energy.denoiser.network.network, energy.sigma_data)

    examples = examples_of(job, model.denoiser.network.network.in_channels, recipe.config)
    outcome = train_denoiser(recipe, model, job, examples, lambda energy: energy.denoiser, inside)
    level = AtLevel(outcome.result.average, ENERGY_LEVEL)
    outcome.entries = {"sampling": {"sigma": ENERGY_LEVEL}, **_energies_of(level, examples)}
    return outcome


def _energies_of(energy: nn.Module, examples: Examples) -> dict[str, list[float]]:
    """For the card: energies of the test set, and of as many of the first training pictures, 5,000 at most."""
    first = examples.images[: min(len(examples.held_out), 5_000)]
    return {
        "energy_quantiles": energy_quantiles(energy, examples.held_out),
        "energy_quantiles_train": energy_quantiles(energy, first),
    }


class ContrastiveOnPictures:
    """Contrastive divergence for batches of indices: fetches the pictures, and passes on what the chains remember.

    Args:
        examples: The pictures.
        loss: The loss of pictures in [−1, 1].
    """

    def __init__(self, examples: Examples, loss: ebm.ContrastiveDivergence) -> None:
        self.examples, self.loss = examples, loss

    def __call__(self, energy: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of the pictures with these indices (B,).

        Raises:
            TrainingDiverged: If the chains have, which see it first.
        """
        images, _ = self.examples.batch(index, generator, device_of(energy))
        try:
            return self.loss(energy, images, generator)
        except NonFiniteEnergyError as error:
            raise training.TrainingDiverged(f"lower the learning rate: {error}") from error

    def report(self) -> dict[str, float]:
        """Mean energies of data and of chains in the last step."""
        if self.loss.last_energies is None:
            return {}
        low, high = self.loss.last_energies
        return {"energy_data": round(low, 5), "energy_model": round(high, 5)}

    def state_dict(self) -> dict[str, Tensor]:
        """The chains, and the energies of the last step."""
        energies = self.loss.last_energies
        last = {} if energies is None else {"energies": torch.tensor(energies, dtype=torch.float64)}
        return {**self.loss.state_dict(), **last}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with them."""
        chains = dict(state)
        energies = chains.pop("energies", None)
        self.loss.load_state_dict(chains)
        self.loss.last_energies = None if energies is None else tuple(energies.tolist())

    @property
    def chains(self) -> Tensor:
        """The chains as they are, (capacity, C, H, W) in [−1, 1]."""
        return self.loss.negatives.buffer.chains


def contrastive_loss(
    examples: Examples, seed: int, capacity: int = CAPACITY, restart: float = RESTART, temperature: float | None = None
) -> ContrastiveOnPictures:
    """The loss of ``cifar10-ebm``, with chains that begin as noise.

    Args:
        examples: The pictures.
        seed: Of the first chains.
        capacity: How many chains there are.
        restart: Share of chains that start anew when they are drawn.
        temperature: Of the chains; the recipe's if not given.
    """
    sampler = SAMPLER if temperature is None else replace(SAMPLER, temperature=temperature)
    first = torch.Generator().manual_seed(seed)
    buffer = langevin.ReplayBuffer(capacity, tuple(examples.images.shape[1:]), restart, generator=first)
    divergence = ebm.ContrastiveDivergence(ebm.PersistentChains(buffer, sampler), l2=L2, data_noise=DATA_NOISE)
    return ContrastiveOnPictures(examples, divergence)


def _train_ebm(recipe: Recipe, model: nn.Module, job: Job) -> Outcome:
    examples = examples_of(job, model.shape[0], recipe.config)
    if tuple(examples.images.shape[1:]) != model.shape:
        raise ValueError(f"expected pictures of shape {model.shape}, got {tuple(examples.images.shape[1:])}")
    loss = contrastive_loss(examples, recipe.config.seed)
    outcome = train_on(recipe, model, job, examples, loss, lambda energy, noise: loss.chains[: len(noise)])
    outcome.metrics |= loss.report()
    outcome.entries = {"sampling": SAMPLING, **_energies_of(outcome.result.average, examples)}
    return outcome


RECIPES = (
    Recipe(
        name="cifar10-energy",
        summary="The fast U-Net as a noise-conditional energy, conditioned on the class, on CIFAR-10.",
        architecture={**DENOISER, "energy": "inner-product"},
        schedule=None,
        config=TrainingConfig(
            n_steps=20_000,
            batch_size=64,
            learning_rate=5e-4,
            warmup_steps=500,
            decay="cosine",
            decay_steps=4_000,
            betas=(0.9, 0.99),
            **LONG,
        ),
        expect="about 5 hours and 3 GB on 2 cores, from the weights of cifar10-edm (--start)",
        run=_train_energy,
        limits=LIMITS,
        own_images=True,
    ),
    Recipe(
        name="cifar10-ebm",
        summary="A small convolutional energy, trained by persistent contrastive divergence, on CIFAR-10.",
        architecture={"name": "EnergyCNN", "arguments": {}},
        schedule=None,
        config=TrainingConfig(
            n_steps=20_000,
            batch_size=64,
            learning_rate=1e-3,
            warmup_steps=500,
            betas=(0.0, 0.999),
            grad_clip=0.1,
            **LONG,
        ),
        expect="about 5 hours and 2 GB on 2 cores",
        run=_train_ebm,
        limits=f"{LIMITS} Its chains sample at a temperature far below 1: good pictures, not its density.",
        own_images=True,
    ),
)
