r"""From noise to data: reverse-time steps, and the one loop that runs them.

A step goes from x_t to x_s, s < t, given the network's guess :math:`\hat x_0`. Both samplers of this module draw from

.. math:: x_s \sim N(\sqrt{\bar\alpha_s}\,\hat x_0 + \sqrt{1-\bar\alpha_s-\sigma^2}\,\hat\varepsilon,\ \sigma^2 I),
          \qquad \hat\varepsilon = (x_t - \sqrt{\bar\alpha_t}\,\hat x_0)/\sqrt{1-\bar\alpha_t}.

* DDPM (Ho et al. 2020, arXiv:2006.11239, algorithm 2) takes the mean of the posterior :math:`q(x_s|x_t,\hat x_0)`
  and its variance :math:`\tilde\beta`, or the larger :math:`1-\bar\alpha_t/\bar\alpha_s`, which is :math:`\beta_t` for
  s = t − 1.
* DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12 and 16) has :math:`\sigma = \eta\sqrt{\tilde\beta}`: η = 0 is
  deterministic, an Euler step of the probability-flow ODE; η = 1 is DDPM with the posterior variance.

Any decreasing sub-sequence of timesteps will do; the last step goes to t = −1, the clean image. Since DDIM with η = 0
draws nothing, it can be run backwards too (:func:`ddim_encode`): from an image to the noise that it comes from.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..diffusion import Model, Parametrization, convert, predict_x0, q_posterior, q_sample
from ..diffusion.discrete import check_pair
from ..schedules import NoiseSchedule, expand_like

__all__ = [
    "DDIMSampler",
    "DDPMSampler",
    "Sampler",
    "Trajectory",
    "ddim_encode",
    "ddim_step",
    "ddpm_step",
    "evaluating",
    "sample",
    "spaced_timesteps",
]

Variance = Literal["posterior", "beta"]


def spaced_timesteps(total: int, n_steps: int) -> tuple[int, ...]:
    """``n_steps`` timesteps from ``total`` − 1 downwards, evenly spaced so that one more step would reach −1.

    Args:
        total: T of the schedule.
        n_steps: How many, from 1 to T.

    Raises:
        ValueError: If ``n_steps`` is not in [1, T].

    Example:
        >>> spaced_timesteps(1000, 4)
        (999, 749, 499, 249)
    """
    if not 1 <= n_steps <= total:
        raise ValueError(f"expected n_steps from 1 to {total}, got {n_steps}")
    return tuple(round(total * (n_steps - k) / n_steps) - 1 for k in range(n_steps))


def _check_variance(variance: str) -> None:
    if variance not in get_args(Variance):
        raise ValueError(f"expected variance 'posterior' or 'beta', got {variance!r}")


def ddpm_step(
    x_0: Tensor,
    x_t: Tensor,
    t: int,
    t_prev: int,
    schedule: NoiseSchedule,
    noise: Tensor | None,
    variance: Variance = "posterior",
) -> Tensor:
    """One ancestral step: a draw around the posterior mean.

    Equation ``eq-ddpm`` of ``book/notation.md``.

    Args:
        x_0: The guess of the clean image (B, …).
        x_t: Noisy images (B, …).
        t: Timestep of ``x_t``.
        t_prev: Timestep to go to, in [−1, t).
        schedule: The noise schedule.
        noise: Standard normal, shape of ``x_t``; neither used nor needed when ``t_prev`` is −1.
        variance: ``"posterior"`` for β̃ or ``"beta"`` for 1 − ᾱ_t/ᾱ_s.

    Returns:
        Images at ``t_prev``, shape of ``x_t``.

    Raises:
        ValueError: For another ``variance``, ``t_prev`` not in [−1, t), noise that is missing, or other shapes.
    """
    _check_variance(variance)
    mean, sigma2 = q_posterior(x_0, x_t, t, schedule, t_prev)
    if t_prev == -1:
        return mean
    if noise is None:
        raise ValueError("expected noise for a step of DDPM, got None")
    check_pair(x_t, noise, "noise")
    if variance == "beta":
        sigma2 = expand_like(1 - schedule.alpha_bar(t) / schedule.alpha_bar(t_prev), x_t)
    return mean + sigma2.sqrt() * noise


def ddim_step(
    x_0: Tensor,
    x_t: Tensor,
    t: int,
    t_prev: int,
    schedule: NoiseSchedule,
    noise: Tensor | None = None,
    eta: float = 0.0,
) -> Tensor:
    """One DDIM step; without noise it also runs towards *more* noise (``t_prev > t``), which encodes an image.

    Equation ``eq-ddim`` of ``book/notation.md``.

    Args:
        x_0: The guess of the clean image (B, …).
        x_t: Noisy images (B, …).
        t: Timestep of ``x_t``, in [0, T − 1].
        t_prev: Timestep to go to.
        schedule: The noise schedule.
        noise: Standard normal, shape of ``x_t``; needed for ``eta`` > 0.
        eta: Share of the posterior's standard deviation, in [0, 1].

    Returns:
        Images at ``t_prev``, shape of ``x_t``.

    Raises:
        ValueError: If ``eta`` is outside [0, 1], or positive without noise or with ``t_prev`` >= t; or t is −1, where
            there is no noise to tell from the image; or for other shapes.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"expected eta in [0, 1], got {eta}")
    if t < 0:
        raise ValueError(f"expected a step from a noisy image, t >= 0, got t = {t}")
    check_pair(x_t, x_0, "x_0")
    alpha_bar, alpha_bar_prev = schedule.alpha_bar(t), schedule.alpha_bar(t_prev)
    eps = (x_t - expand_like(alpha_bar.sqrt(), x_t) * x_0) / expand_like((1 - alpha_bar).sqrt(), x_t)
    if eta == 0:
        return expand_like(alpha_bar_prev.sqrt(), x_t) * x_0 + expand_like((1 - alpha_bar_prev).sqrt(), x_t) * eps
    if noise is None:
        raise ValueError("expected noise for eta > 0")
    check_pair(x_t, noise, "noise")
    sigma2 = eta**2 * schedule.posterior_coefficients(t, t_prev).variance
    direction = expand_like((1 - alpha_bar_prev - sigma2).clamp_min(0).sqrt(), x_t)
    return expand_like(alpha_bar_prev.sqrt(), x_t) * x_0 + direction * eps + expand_like(sigma2.sqrt(), x_t) * noise


class Sampler(Protocol):
    """What :func:`sample` runs: a list of timesteps and a step between neighbours."""

    schedule: NoiseSchedule
    timesteps: tuple[int, ...]
    stochastic: bool

    def step(self, x_0: Tensor, x_t: Tensor, t: int, t_prev: int, noise: Tensor | None) -> Tensor:
        """From x_t and the guess x_0 to x at ``t_prev``."""


def _resolve_timesteps(schedule: NoiseSchedule, steps: int | Sequence[int] | None) -> tuple[int, ...]:
    if steps is None:
        steps = schedule.n_steps
    try:
        if not hasattr(steps, "__len__") or getattr(steps, "ndim", 1) == 0:
            return spaced_timesteps(schedule.n_steps, operator.index(steps))
        steps = tuple(operator.index(t) for t in steps)
    except TypeError as error:
        raise TypeError(f"expected a number of steps, or a sequence of integer timesteps, got {steps!r}") from error
    inside = bool(steps) and all(0 <= t < schedule.n_steps for t in steps)
    if not inside or any(b >= a for a, b in pairwise(steps)):
        raise ValueError(f"expected strictly decreasing timesteps in [0, {schedule.n_steps - 1}], got {steps}")
    return steps


@dataclass(frozen=True)
class DDPMSampler:
    """Ancestral sampling.

    Attributes:
        schedule: The noise schedule.
        steps: How many evenly spaced steps, or the timesteps themselves (decreasing); all T if None.
        variance: ``"posterior"`` or ``"beta"``.

    Raises:
        ValueError: For steps that do not fit the schedule, or another variance.
        TypeError: For steps that are no integers.
    """

    schedule: NoiseSchedule
    steps: int | Sequence[int] | None = None
    variance: Variance = "posterior"
    timesteps: tuple[int, ...] = field(init=False, repr=False)
    stochastic: bool = field(init=False, repr=False, default=True)

    def __post_init__(self) -> None:
        _check_variance(self.variance)
        object.__setattr__(self, "timesteps", _resolve_timesteps(self.schedule, self.steps))

    def step(self, x_0: Tensor, x_t: Tensor, t: int, t_prev: int, noise: Tensor | None) -> Tensor:
        """:func:`ddpm_step`."""
        return ddpm_step(x_0, x_t, t, t_prev, self.schedule, noise, self.variance)


@dataclass(frozen=True)
class DDIMSampler:
    """Deterministic (η = 0) to ancestral (η = 1) sampling.

    Attributes:
        schedule: The noise schedule.
        steps: How many evenly spaced steps, or the timesteps themselves (decreasing); all T if None.
        eta: η in [0, 1].

    Raises:
        ValueError: For steps that do not fit the schedule, or η outside [0, 1].
    """

    schedule: NoiseSchedule
    steps: int | Sequence[int] | None = 50
    eta: float = 0.0
    timesteps: tuple[int, ...] = field(init=False, repr=False)
    stochastic: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"expected eta in [0, 1], got {self.eta}")
        object.__setattr__(self, "timesteps", _resolve_timesteps(self.schedule, self.steps))
        object.__setattr__(self, "stochastic", self.eta > 0)

    def step(self, x_0: Tensor, x_t: Tensor, t: int, t_prev: int, noise: Tensor | None) -> Tensor:
        """:func:`ddim_step`."""
        return ddim_step(x_0, x_t, t, t_prev, self.schedule, noise, self.eta)


@dataclass(frozen=True)
class Trajectory:
    """The states of one run of :func:`sample`, S steps.

    Attributes:
        x: Shape (S + 1, B, …): x_T first, the samples last.
        x0: Shape (S, B, …): the guess of the clean image at each step.
        timesteps: S + 1 timesteps of ``x``, the last −1.
    """

    x: Tensor
    x0: Tensor
    timesteps: tuple[int, ...]

    @property
    def samples(self) -> Tensor:
        """The final state, shape (B, …)."""
        return self.x[-1]


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Put a module into evaluation mode (no dropout) and back afterwards, even on an error; leaves functions alone.

    Each of its parts goes back into the mode that it was in.
    """
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield
    finally:
        for part, was_training in modes:
            part.training = was_training


@torch.no_grad()
def sample(
    model: Model,
    sampler: Sampler,
    x_T: Tensor,
    generator: torch.Generator | None = None,
    *,
    parametrization: Parametrization = "eps",
    clip_x0: float | None = None,
    return_trajectory: bool = False,
    progress: bool = False,
) -> Tensor | Trajectory:
    """Run a sampler from noise to data.

    Args:
        model: Predicts what ``parametrization`` says; a module is put into evaluation mode meanwhile.
        sampler: For example ``DDIMSampler(schedule, steps=50)``.
        x_T: Where to start, usually standard normal noise (B, …).
        generator: Source of the noise of stochastic samplers, on the CPU.
        parametrization: What the model predicts.
        clip_x0: Clip the guess of the clean image to [−clip_x0, clip_x0]; 1.0 suits images, None 2-D points.
        return_trajectory: Whether to keep all states.
        progress: Whether to show a progress bar (the environment variable ``TQDM_DISABLE=1`` hides it).

    Returns:
        Samples of the shape of ``x_T``, or the whole :class:`Trajectory`.

    Raises:
        ValueError: If the model's output has another shape than ``x_T``, or ``clip_x0`` is not positive.
    """
    if clip_x0 is not None and not clip_x0 > 0:
        raise ValueError(f"expected clip_x0 > 0 or None, got {clip_x0}")
    x, states, guesses = x_T, [x_T], []
    pairs = list(pairwise((*sampler.timesteps, -1)))
    with evaluating(model):
        for t, t_prev in tqdm(pairs, desc="sampling") if progress else pairs:
            prediction = model(x, torch.full((len(x),), t, device=x.device))
            x_0 = predict_x0(prediction, x, t, sampler.schedule, parametrization)
            if clip_x0 is not None:
                x_0 = x_0.clamp(-clip_x0, clip_x0)
            noise = (
                torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) if sampler.stochastic else None
            )
            x = sampler.step(x_0, x, t, t_prev, noise)
            if return_trajectory:
                states.append(x)
                guesses.append(x_0)
    if return_trajectory:
        return Trajectory(torch.stack(states), torch.stack(guesses), (*sampler.timesteps, -1))
    return x


@torch.no_grad()
def ddim_encode(model: Model, sampler: DDIMSampler, x_0: Tensor, *, parametrization: Parametrization = "eps") -> Tensor:
    r"""Run DDIM backwards: from images to the noise from which the same sampler makes (nearly) these images.

    Each step uses the slope :math:`\hat\varepsilon` at the end that is known, the less noisy one, where :func:`sample`
    uses the noisier one. So the round trip is exact only in the limit of many steps; its error falls with their number.
    The first step starts without any noise, where no slope is defined, and takes the one of the first noisy timestep.

    Args:
        model: Predicts what ``parametrization`` says; a module is put into evaluation mode meanwhile.
        sampler: With η = 0.
        x_0: Clean images (B, …).
        parametrization: What the model predicts.

    Returns:
        x_T, shape of ``x_0``.

    Raises:
        ValueError: If the sampler draws noise (η > 0).
    """
    if sampler.stochastic:
        raise ValueError("expected a deterministic sampler, eta = 0: fresh noise cannot be run backwards")
    schedule, upwards = sampler.schedule, sampler.timesteps[::-1]

    def predict(x: Tensor, t: int) -> Tensor:
        return model(x, torch.full((len(x),), t, device=x.device))

    with evaluating(model):
        first = upwards[0]
        shrunk = q_sample(x_0, first, torch.zeros_like(x_0), schedule)
        eps = convert(predict(shrunk, first), shrunk, first, schedule, parametrization, "eps")
        x = q_sample(x_0, first, eps, schedule)
        for t, t_next in pairwise(upwards):
            x = ddim_step(predict_x0(predict(x, t), x, t, schedule, parametrization), x, t, t_next, schedule)
    return x
