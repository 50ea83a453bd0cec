"""Pictures from a shipped model, whatever kind it is: one function for the command line, the lessons and the service.

A model of discrete time (its card names a noise schedule) is sampled by DDIM; a model of continuous noise (its card
names a preconditioning) by a few-step solver of the probability-flow ODE or by annealed Langevin dynamics, with
classifier-free guidance if it knows classes; an energy that knows no noise levels by Langevin dynamics, as its card
says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import langevin, samplers, schedules, zoo

__all__ = [
    "ANNEALED",
    "DEFAULT_STEPS",
    "Drawn",
    "LangevinSettings",
    "draw",
    "is_continuous",
    "is_energy",
    "n_classes",
    "n_states",
    "sampler_of",
    "solver_of",
]

DEFAULT_STEPS = {"discrete": 50, "continuous": 18}
"""Steps where nobody says how many."""

SOLVERS = {
    "euler": samplers.Euler,
    "heun": samplers.Heun,
    "dpmpp2m": samplers.DPMSolverPP2M,
    "ipndm": samplers.IPNDM,
    "unipc": samplers.UniPC,
}

DEFAULT_SOLVER = "ipndm"
"""Of a model of continuous noise where nobody says which."""

ANNEALED = "annealed-langevin"
"""The name, beside those of the solvers, of Langevin dynamics at one noise level after the other."""

STEPS_A_LEVEL, RELATIVE_STEP = 2, 0.7
"""Of annealed Langevin dynamics. Longer steps and more levels mix better; steps of 1 and more blur what σ means."""

GUIDANCE_INTERVAL = (0.2, 5.0)
"""Noise levels at which guidance acts: at high ones it costs variety, at low ones it does nothing of use
(Kynkäänniemi et al. 2024, arXiv:2404.07724)."""


@dataclass(frozen=True)
class Drawn:
    """What :func:`draw` gives back.

    Attributes:
        images: (N, C, H, W), clipped to [−1, 1].
        states: (S + 1, N, C, H, W): the noisy states, first to last, on one scale as in a variance-preserving process;
            or None.
        levels: (S + 1,): the noise level σ of each state, or None.
    """

    images: Tensor
    states: Tensor | None = None
    levels: Tensor | None = None


@dataclass(frozen=True)
class LangevinSettings:
    """How an energy is sampled that knows no noise levels: the entry ``"sampling"`` of its card.

    Attributes:
        steps: Steps where nobody says how many.
        step_size: ε of x′ = x − (ε/2)∇E + √(εT) ξ.
        temperature: T.
        grad_clip: Largest norm of a picture's gradient, or None.
        clamp: States are kept in [−clamp, clamp], or None.
        start: Chains start from ``"uniform"`` noise in [−1, 1], or from ``"normal"`` noise.
        sigma: For an energy that knows noise levels: the one at which pictures are compared; else None.
    """

    steps: int = 60
    step_size: float = 0.01
    temperature: float = 1.0
    grad_clip: float | None = None
    clamp: float | None = 1.0
    start: Literal["uniform", "normal"] = "uniform"
    sigma: float | None = None

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> LangevinSettings:
        """What a card says, the defaults elsewhere.

        Raises:
            ValueError: For an entry or a start that is not known.
        """
        given = card.get("sampling") or {}
        known = {field.name for field in fields(cls)}
        if unknown := set(given) - known:
            raise ValueError(f'expected in "sampling" only {", ".join(sorted(known))}, got {", ".join(unknown)}')
        settings = cls(**given)
        if settings.start not in ("uniform", "normal"):
            raise ValueError(f"expected start 'uniform' or 'normal' in \"sampling\", got {settings.start!r}")
        return settings

    def first(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Where chains start, of this shape."""
        if self.start == "uniform":
            return 2 * torch.rand(shape, generator=generator) - 1
        return torch.randn(shape, generator=generator)


def solver_of(name: str) -> samplers.Solver:
    """A solver by its short name.

    Raises:
        ValueError: For an unknown one.
    """
    if name not in SOLVERS:
        raise ValueError(f"expected a solver out of {', '.join(SOLVERS)}, got {name!r}")
    return SOLVERS[name]()


def is_energy(card: Mapping[str, Any]) -> bool:
    """Whether a card is that of an energy that knows no noise levels, which Langevin dynamics samples.

    Example:
        >>> is_energy({"architecture": {"name": "EnergyCNN"}}), is_energy({"architecture": {"name": "SimpleUNet"}})
        (True, False)
    """
    return card["architecture"]["name"].startswith("Energy")


def is_continuous(card: Mapping[str, Any]) -> bool:
    """Whether a card is that of a model of continuous noise.

    Raises:
        ValueError: If it is no diffusion model at all.
    """
    if "preconditioning" in card["architecture"]:
        return True
    zoo.schedule_of(card)
    return False


def sampler_of(card: Mapping[str, Any], solver: str | None = None) -> str:
    """What draws from a model, in one word: ``"langevin"``, ``"ddim"``, or, of continuous noise, the solver.

    Args:
        card: The model's.
        solver: The one that was asked for, or None: ipndm, where there is a choice.

    Raises:
        ValueError: If it is no diffusion model at all, or one that leaves no choice of a solver, or for an unknown one.

    Example:
        >>> sampler_of(zoo.card("digits-ddpm")), sampler_of(zoo.card("cifar10-edm"), "heun")
        ('ddim', 'heun')
    """
    only = "langevin" if is_energy(card) else None if is_continuous(card) else "ddim"
    if only is None:
        if solver not in (None, ANNEALED, *SOLVERS):
            raise ValueError(f"expected a solver out of {', '.join([*SOLVERS, ANNEALED])}, got {solver!r}")
        return DEFAULT_SOLVER if solver is None else solver
    if solver is not None:
        raise ValueError(f"expected no solver: {card['name']} is sampled by {only}, got {solver!r}")
    return only


def n_states(card: Mapping[str, Any], steps: int, solver: str | None = None) -> int:
    """How many states :func:`draw` can keep: the noise, and one after each step, or annealed Langevin's each level.

    Raises:
        ValueError: As :func:`sampler_of`, or for too few steps of annealed Langevin dynamics.
    """
    return 1 + (_n_levels(steps) if sampler_of(card, solver) == ANNEALED else steps)


def n_classes(card: Mapping[str, Any]) -> int:
    """How many classes a model can be asked for; 0 if it knows none."""
    return card["architecture"]["arguments"].get("n_classes", 0)


def _labels(card: Mapping[str, Any], label: int | Tensor | None, n: int) -> Tensor | None:
    classes = n_classes(card)
    if label is None:
        return torch.arange(n) % classes if classes else None
    labels = torch.as_tensor(label).expand(n) if torch.as_tensor(label).ndim == 0 else torch.as_tensor(label)
    if labels.shape != (n,) or bool((labels < 0).any()) or bool((labels > classes).any()):
        raise ValueError(f"expected {n} classes from 0 to {classes} ({classes} for none), got {label}")
    return labels


@torch.no_grad()
def draw(
    model: nn.Module,
    card: Mapping[str, Any],
    n: int,
    *,
    seed: int = 0,
    steps: int | None = None,
    label: int | Tensor | None = None,
    guidance: float = 1.0,
    solver: str | None = None,
    batch_size: int = 100,
    return_states: bool = False,
    progress: bool = False,
) -> Drawn:
    """Draw ``n`` pictures.

    Args:
        model: From :func:`helpers.zoo.load`.
        card: From :func:`helpers.zoo.card`.
        n: How many.
        seed: Of the noise from which they form; the first pictures are the same whatever ``n`` is, if a picture has a
            multiple of 16 values; but for Langevin dynamics, whose noise on the way is drawn for a whole batch.
        steps: Steps of the sampler; evaluations of the network for all solvers but Heun's, which needs two a step, and
            for Langevin dynamics, where a step is a gradient.
        label: One class for all, or a class for each (n,), or None: all classes in turn, if there are any.
        guidance: Scale of classifier-free guidance; 1 is none.
        solver: For models of continuous noise: one of euler, heun, dpmpp2m, ipndm (taken for None), unipc, which solve
            an ODE, or annealed-langevin, which walks at random, for two steps at each noise level; for a Gaussian of
            the spread of pictures, 300 steps leave the variance 16 % too large, 1000 steps 5 %.
        batch_size: Pictures at a time.
        return_states: Whether to keep the states on the way; it takes the memory of so many pictures more.
        progress: Whether to show a progress bar; Langevin dynamics has none.

    Raises:
        ValueError: For a model that is no diffusion model, a class or guidance for one that knows no classes, a solver
            for one that is sampled in one way only, or numbers that make no sense.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"expected n and batch_size >= 1, got {n} and {batch_size}")
    if steps is not None and steps < 1:
        raise ValueError(f"expected steps >= 1, got {steps}")
    sampler = sampler_of(card, solver)
    classes = 0 if sampler in ("langevin", "ddim") else n_classes(card)  # those two ask for none
    if label is not None and not classes:
        raise ValueError(f"expected no class: {card['name']} knows none")
    if guidance != 1 and not classes:
        raise ValueError(f"expected guidance 1: {card['name']} knows no classes to guide towards")
    if sampler == "langevin":
        return _langevin(model, card, n, seed, steps, batch_size, return_states)
    if steps is None:
        steps = DEFAULT_STEPS["discrete" if sampler == "ddim" else "continuous"]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, *card["shape"], generator=generator)
    labels = _labels(card, label, n)
    parts = []
    for part in torch.arange(n).split(batch_size):
        given = None if labels is None else labels[part]
        if sampler == "ddim":
            states, levels = _discrete(model, zoo.schedule_of(card), noise[part], steps, return_states, progress)
        elif sampler == ANNEALED:
            denoiser = _guided(model, card, guidance)
            states, levels = _annealed(denoiser, noise[part], steps, given, generator, return_states)
        else:
            denoiser = _guided(model, card, guidance)
            states, levels = _continuous(denoiser, noise[part], steps, given, sampler, return_states, progress)
        parts.append(states)
    states = torch.cat(parts, dim=1)
    # What follows rounds differently in another layout; a network's own must not show.
    images = states[-1].clamp(-1, 1).contiguous()
    return Drawn(images, states, levels) if return_states else Drawn(images)


def _langevin(
    model: nn.Module, card: Mapping[str, Any], n: int, seed: int, steps: int | None, batch_size: int, states: bool
) -> Drawn:
    """Chains from noise."""
    how, generator = LangevinSettings.of(card), torch.Generator().manual_seed(seed)
    parts = []
    for part in torch.arange(n).split(batch_size):
        run = langevin.langevin_dynamics(
            model,
            how.first((len(part), *card["shape"]), generator),
            how.steps if steps is None else steps,
            how.step_size,
            how.temperature,
            grad_clip=how.grad_clip,
            clamp=None if how.clamp is None else (-how.clamp, how.clamp),
            generator=generator,
            return_trajectory=states,
        )
        parts.append(run if states else run[None])
    found = torch.cat(parts, dim=1)
    return Drawn(found[-1].clamp(-1, 1).contiguous(), found if states else None)


def _guided(model: nn.Module, card: Mapping[str, Any], guidance: float) -> samplers.Denoiser:
    denoiser = getattr(model, "denoiser", model)  # an energy has one
    if guidance == 1:
        return denoiser
    return samplers.Guided(denoiser, guidance, GUIDANCE_INTERVAL, n_classes=n_classes(card))


def _discrete(
    model: nn.Module, schedule: schedules.NoiseSchedule, noise: Tensor, steps: int, keep: bool, progress: bool
) -> tuple[Tensor, Tensor | None]:
    """States (S + 1, B, …) and their σ; unless all are to be kept, the last one (1, B, …), and None."""
    sampler = samplers.DDIMSampler(schedule, steps)
    run = samplers.sample(model, sampler, noise, clip_x0=1.0, return_trajectory=keep, progress=progress)
    if not keep:
        return run[None], None
    return run.x, schedules.sigma_from_alpha_bar(schedule.alpha_bar(torch.tensor(run.timesteps)))


def _continuous(
    denoiser: samplers.Denoiser,
    noise: Tensor,
    steps: int,
    label: Tensor | None,
    solver: str,
    keep: bool,
    progress: bool,
) -> tuple[Tensor, Tensor | None]:
    """As :func:`_discrete`, the states on one scale."""
    sigmas = schedules.append_zero(schedules.karras_sigmas(steps))
    x_T = noise * sigmas[0].item()
    run = samplers.sample_ode(
        denoiser, solver_of(solver), x_T, sigmas, label=label, return_trajectory=keep, progress=progress
    )
    if not keep:
        return run[None], None
    return _on_one_scale(run.x, run.sigmas), run.sigmas


def _n_levels(steps: int) -> int:
    """Of annealed Langevin dynamics, whose last step only denoises."""
    n_levels = (steps - 1) // STEPS_A_LEVEL
    if n_levels < 2:
        raise ValueError(f"expected at least {2 * STEPS_A_LEVEL + 1} steps of annealed Langevin dynamics, got {steps}")
    return n_levels


def _annealed(
    denoiser: samplers.Denoiser, noise: Tensor, steps: int, label: Tensor | None, generator: torch.Generator, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """As :func:`_continuous`, but by a random walk."""
    sigmas = schedules.karras_sigmas(_n_levels(steps), sigma_min=0.01)

    def score(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return (denoiser(x, sigma, label) - x) / schedules.expand_like(sigma, x) ** 2

    x = langevin.annealed_langevin_dynamics(
        score,
        noise * sigmas[0].item(),
        sigmas,
        STEPS_A_LEVEL,
        relative_step=RELATIVE_STEP,
        label=label,
        denoise_last=True,
        generator=generator,
        return_trajectory=keep,
    )
    if not keep:
        return x[None], None
    levels = torch.cat([sigmas[:1], sigmas[:-1], sigmas.new_zeros(1)])
    return _on_one_scale(x, levels), levels


def _on_one_scale(states: Tensor, sigmas: Tensor) -> Tensor:
    """States (S + 1, B, …) divided by √(1 + σ²), as in a variance-preserving process."""
    scale = (sigmas**2 + 1).rsqrt().to(states.dtype)
    return states * scale.reshape(-1, *[1] * (states.ndim - 1))
