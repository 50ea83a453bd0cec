r"""Denoisers: what every solver in continuous noise asks of a model.

The image at noise level σ is :math:`x = x_0 + \sigma\varepsilon` (Karras et al. 2022, arXiv:2206.00364, section 2), its
signal never shrunk. A denoiser answers with the expected clean image :math:`D(x;\sigma) = E[x_0 | x]`.

A network that was trained on the discrete steps of a schedule knows :math:`x_t = \sqrt{\bar\alpha}\,x` instead, with
:math:`\bar\alpha = 1/(1+\sigma^2)`; :func:`as_denoiser` scales its input and finds its time. From a prediction ε̂ it
makes :math:`D(x;\sigma) = x - \sigma\,\hat\varepsilon(x/\sqrt{1+\sigma^2},\ t(\sigma))`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, get_args

import torch
from torch import Tensor, nn

from ..diffusion import Parametrization, predict_x0_at
from ..schedules import NoiseSchedule, alpha_bar_from_sigma, expand_like

__all__ = ["Denoiser", "DiscreteDenoiser", "as_denoiser"]


class Denoiser(Protocol):
    """``denoiser(x, sigma, label)``: noisy images (B, …), σ (B,) and class numbers (B,) to D(x; σ), shape of x.

    The label ``n_classes``, one past the last class, or None asks for the guess that knows no class. Solvers call a
    denoiser without a third argument where there are no labels, so that a function of x and σ is one too.
    """

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """D(x; σ)."""


class DiscreteDenoiser(nn.Module):
    """A model of discrete steps as a denoiser; see :func:`as_denoiser`, which makes it."""

    def __init__(
        self,
        model: Callable[..., Tensor],
        schedule: NoiseSchedule,
        parametrization: Parametrization,
        clip_x0: float | None,
        round_t: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule
        self.parametrization = parametrization
        self.clip_x0 = clip_x0
        self.round_t = round_t

    def time(self, sigma: Tensor) -> Tensor:
        """The model's t at σ, shape (B,): float64, or int64 with ``round_t``."""
        t = self.schedule.t_from_sigma(sigma.cpu())
        return t.round().long() if self.round_t else t

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """Noisy images (B, …) at σ (B,) → D(x; σ), shape of ``x``."""
        alpha_bar = alpha_bar_from_sigma(sigma.cpu())
        x_t = expand_like(alpha_bar.sqrt(), x) * x
        t = self.time(sigma).to(x.device) if self.round_t else self.time(sigma).to(x.device, _time_dtype(x))
        prediction = self.model(x_t, t) if label is None else self.model(x_t, t, label)
        guess = predict_x0_at(prediction, x_t, alpha_bar, self.parametrization)
        return guess if self.clip_x0 is None else guess.clamp(-self.clip_x0, self.clip_x0)


def _time_dtype(x: Tensor) -> torch.dtype:
    """float32 holds t to 1e-4 of a step; half precision would not tell neighbours apart."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def as_denoiser(
    model: Callable[..., Tensor],
    schedule: NoiseSchedule,
    parametrization: Parametrization = "eps",
    *,
    clip_x0: float | None = None,
    round_t: bool = False,
) -> DiscreteDenoiser:
    """Use a model of discrete steps where a denoiser D(x; σ) is wanted, for example a DDPM with the solvers for ODEs.

    Time is continuous: t(σ) is the inverse of ``schedule.sigma``, linear in log SNR between neighbouring steps
    (``NoiseSchedule.t_from_sigma``), so that D is continuous in σ, as a solver of high order needs, and exactly the
    trained model on the steps. A sinusoidal embedding takes t between integers. The schedule ends at
    ``schedule.sigma(T - 1)`` and begins at ``schedule.sigma(0)``; outside, the model is told the nearest end's time
    while x is still scaled by the true σ: start a grid inside.

    Args:
        model: ``model(x_t, t)`` or, where labels are used, ``model(x_t, t, label)``.
        schedule: What the model was trained with.
        parametrization: What the model predicts.
        clip_x0: Clip D to [−clip_x0, clip_x0], as in :func:`sample`; 1.0 suits images. At the start of a schedule of
            DDPM's kind σ is above 100, and so is the factor by which an error of ε̂ enters D.
        round_t: Give the model the nearest integer step, for one that accepts no other.

    Returns:
        A module that is a denoiser.

    Raises:
        ValueError: For an unknown parametrization, or ``clip_x0`` that is not positive.

    Example:
        >>> from helpers.schedules import LinearSchedule
        >>> denoiser = as_denoiser(lambda x, t: torch.zeros_like(x), LinearSchedule(1000))
        >>> denoiser(torch.ones(1, 2), torch.tensor([3.0]))  # a model that sees no noise
        tensor([[1., 1.]])
    """
    if parametrization not in get_args(Parametrization):
        raise ValueError(f"expected a parametrization out of {get_args(Parametrization)}, got {parametrization!r}")
    if clip_x0 is not None and not clip_x0 > 0:
        raise ValueError(f"expected clip_x0 > 0 or None, got {clip_x0}")
    return DiscreteDenoiser(model, schedule, parametrization, clip_x0, round_t)
