r"""The diffusion process: noising, its posterior, what a network may predict, and the losses that teach it.

Forward process (Ho et al. 2020, arXiv:2006.11239, eq. 4), with the schedule's convention that t = −1 is clean:

.. math:: q(x_t | x_0) = N(\sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I).

Given x_t, four quantities carry the same information; a network may predict any of them (`parametrization`):

=========  ======================================================================================
``eps``    the noise ε
``x0``     the clean image :math:`x_0 = (x_t - \sqrt{1-\bar\alpha_t}\,\varepsilon)/\sqrt{\bar\alpha_t}`
``v``      :math:`v = \sqrt{\bar\alpha_t}\,\varepsilon - \sqrt{1-\bar\alpha_t}\,x_0` (Salimans & Ho 2022,
           arXiv:2202.00512)
``score``  :math:`\nabla\log p_t = -\varepsilon/\sqrt{1-\bar\alpha_t}` (Song et al. 2021, arXiv:2011.13456)
=========  ======================================================================================

Losses are means over all elements: the expected squared norm of the literature divided by the number of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ..schedules import NoiseSchedule, expand_like

__all__ = [
    "Model",
    "Parametrization",
    "convert",
    "from_x0",
    "per_timestep_loss",
    "predict_x0",
    "predict_x0_at",
    "q_posterior",
    "q_sample",
    "q_step",
    "simple_loss",
    "vlb_weights",
]

Model = Callable[[Tensor, Tensor], Tensor]
"""``model(x_t, t)``: images (B, …) and integer timesteps (B,) to a prediction of the images' shape."""

Parametrization = Literal["eps", "x0", "v", "score"]


def check_pair(x: Tensor, other: Tensor, name: str) -> None:
    """Raise a ValueError if ``other``, which the message calls ``name``, has not the shape of ``x``."""
    if x.shape != other.shape:
        raise ValueError(f"expected {name} of shape {tuple(x.shape)}, as x, got {tuple(other.shape)}")


def q_sample(x_0: Tensor, t: Tensor | int, eps: Tensor, schedule: NoiseSchedule) -> Tensor:
    r"""Noise clean images in one go: :math:`x_t = \sqrt{\bar\alpha_t}x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon`.

    Equation ``eq-forward`` of ``book/notation.md``.

    Args:
        x_0: Clean images (B, …) in [−1, 1].
        t: Timesteps, shape (B,), or one for all; −1 gives ``x_0`` back.
        eps: Standard normal noise, shape of ``x_0``.
        schedule: Gives ᾱ.

    Returns:
        Shape and dtype of ``x_0``.

    Raises:
        ValueError: If shapes do not fit or t is outside the schedule.
    """
    check_pair(x_0, eps, "eps")
    alpha_bar = schedule.alpha_bar(t)
    return expand_like(alpha_bar.sqrt(), x_0) * x_0 + expand_like((1 - alpha_bar).sqrt(), x_0) * eps


def q_step(x_prev: Tensor, t: Tensor | int, eps: Tensor, schedule: NoiseSchedule) -> Tensor:
    r"""One step of the forward chain, :math:`x_t = \sqrt{1-\beta_t}\,x_{t-1} + \sqrt{\beta_t}\,\varepsilon` (eq. 2).

    Equation ``eq-forward-step`` of ``book/notation.md``.

    Args:
        x_prev: Images at t − 1, shape (B, …).
        t: Timesteps in [0, T − 1], shape (B,), or one for all.
        eps: Standard normal noise, shape of ``x_prev``.
        schedule: Gives β.
    """
    check_pair(x_prev, eps, "eps")
    beta = schedule.beta(t)
    return expand_like((1 - beta).sqrt(), x_prev) * x_prev + expand_like(beta.sqrt(), x_prev) * eps


def q_posterior(
    x_0: Tensor, x_t: Tensor, t: Tensor | int, schedule: NoiseSchedule, t_prev: Tensor | int | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_s | x_t, x_0), the step back when the clean image is known (Ho et al. 2020, eq. 7).

    Equation ``eq-posterior`` of ``book/notation.md``.

    Args:
        x_0: Clean images (B, …).
        x_t: Noisy images (B, …).
        t: Timesteps in [0, T − 1], shape (B,), or one for all.
        schedule: The noise schedule.
        t_prev: s, below t; t − 1 if not given.

    Returns:
        The mean (B, …) and the variance (B, 1, …, 1) or (); 0 where s = −1.
    """
    check_pair(x_t, x_0, "x_0")
    c = schedule.posterior_coefficients(t, t_prev)
    return expand_like(c.x0, x_t) * x_0 + expand_like(c.xt, x_t) * x_t, expand_like(c.variance, x_t)


def predict_x0(
    prediction: Tensor, x_t: Tensor, t: Tensor | int, schedule: NoiseSchedule, parametrization: Parametrization = "eps"
) -> Tensor:
    """The clean image that a prediction implies.

    Equation ``eq-conversions`` of ``book/notation.md``.

    Args:
        prediction: What the network gave, shape of ``x_t``.
        x_t: Noisy images (B, …).
        t: Timesteps in [0, T − 1], shape (B,), or one for all.
        schedule: The noise schedule.
        parametrization: What the prediction is: ``"eps"``, ``"x0"``, ``"v"`` or ``"score"``.

    Returns:
        Shape of ``x_t``. Where ᾱ_t is small, errors in ε grow by √(1 − ᾱ_t)/√ᾱ_t.

    Raises:
        ValueError: For an unknown parametrization or shapes that do not fit.
    """
    return predict_x0_at(prediction, x_t, schedule.alpha_bar(t), parametrization)


def predict_x0_at(
    prediction: Tensor, x_t: Tensor, alpha_bar: Tensor, parametrization: Parametrization = "eps"
) -> Tensor:
    """:func:`predict_x0` where ᾱ itself is known, as in continuous time.

    Args:
        prediction: What the network gave, shape of ``x_t``.
        x_t: Noisy images (B, …).
        alpha_bar: ᾱ in (0, 1], shape (B,) or ().
        parametrization: What the prediction is.

    Returns:
        Shape of ``x_t``.

    Raises:
        ValueError: For an unknown parametrization or shapes that do not fit.
    """
    check_pair(x_t, prediction, "prediction")
    signal, noise = expand_like(alpha_bar.sqrt(), x_t), expand_like((1 - alpha_bar).sqrt(), x_t)
    if parametrization == "x0":
        return prediction
    if parametrization == "eps":
        return (x_t - noise * prediction) / signal
    if parametrization == "v":
        return signal * x_t - noise * prediction
    if parametrization == "score":
        return (x_t + noise**2 * prediction) / signal
    raise ValueError(f"expected a parametrization out of {get_args(Parametrization)}, got {parametrization!r}")


def from_x0(
    x_0: Tensor, x_t: Tensor, t: Tensor | int, schedule: NoiseSchedule, parametrization: Parametrization
) -> Tensor:
    """The inverse of :func:`predict_x0`: what a network would have to predict for this clean image.

    Equation ``eq-targets`` of ``book/notation.md``.

    Raises:
        ValueError: For an unknown parametrization, shapes that do not fit, or t = −1 (no noise: ε is not determined).
    """
    check_pair(x_t, x_0, "x_0")
    if bool((torch.as_tensor(t) < 0).any()):
        raise ValueError("expected t >= 0: without noise neither eps, v nor the score can be told from x_0")
    alpha_bar = schedule.alpha_bar(t)
    signal, noise = expand_like(alpha_bar.sqrt(), x_t), expand_like((1 - alpha_bar).sqrt(), x_t)
    if parametrization == "x0":
        return x_0
    eps = (x_t - signal * x_0) / noise
    if parametrization == "eps":
        return eps
    if parametrization == "v":
        return signal * eps - noise * x_0
    if parametrization == "score":
        return -eps / noise
    raise ValueError(f"expected a parametrization out of {get_args(Parametrization)}, got {parametrization!r}")


def convert(
    prediction: Tensor,
    x_t: Tensor,
    t: Tensor | int,
    schedule: NoiseSchedule,
    source: Parametrization,
    target: Parametrization,
) -> Tensor:
    """Turn a prediction of one kind into another kind, e.g. ``source="eps", target="score"``.

    Equations ``eq-conversions`` and ``eq-targets`` of ``book/notation.md``.
    """
    return from_x0(predict_x0(prediction, x_t, t, schedule, source), x_t, t, schedule, target)


def simple_loss(
    model: Model,
    x_0: Tensor,
    schedule: NoiseSchedule,
    generator: torch.Generator | None = None,
    *,
    parametrization: Parametrization = "eps",
    weights: Tensor | None = None,
    t: Tensor | None = None,
    eps: Tensor | None = None,
) -> Tensor:
    r""":math:`L_{simple} = E\,\|\varepsilon - \hat\varepsilon_\theta(x_t, t)\|^2 / d` (Ho et al. 2020, eq. 14).

    Equation ``eq-simple-loss`` of ``book/notation.md``.

    A mean over elements, so that it is comparable between image sizes.

    Args:
        model: Predicts what ``parametrization`` says.
        x_0: Clean images (B, …).
        schedule: The noise schedule.
        generator: Source of t and ε, on the CPU.
        parametrization: The target of the regression.
        weights: One weight per timestep, shape (T,), for example :func:`vlb_weights`; all 1 if not given.
        t: Timesteps (B,) instead of uniformly drawn ones.
        eps: Noise instead of drawn noise, shape of ``x_0``.

    Returns:
        A scalar.

    Raises:
        ValueError: If the model's output or ``weights`` has a wrong shape (a silent broadcast is the classic bug).
    """
    n = len(x_0)
    if t is None:
        t = torch.randint(schedule.n_steps, (n,), generator=generator)
    if eps is None:
        eps = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
    t, eps = t.to(x_0.device), eps.to(x_0.device)
    x_t = q_sample(x_0, t, eps, schedule)
    target = eps if parametrization == "eps" else from_x0(x_0, x_t, t, schedule, parametrization)
    prediction = model(x_t, t)
    check_pair(x_0, prediction, "the model's output")
    squared = (prediction - target).square().flatten(1).mean(1)
    if weights is not None:
        if weights.shape != (schedule.n_steps,):
            raise ValueError(f"expected weights of shape ({schedule.n_steps},), got {tuple(weights.shape)}")
        squared = squared * expand_like(weights[t.cpu()], squared)
    return squared.mean()


def vlb_weights(schedule: NoiseSchedule, variance: Literal["posterior", "beta"] = "posterior") -> Tensor:
    r"""The weight of :math:`\|\varepsilon - \hat\varepsilon\|^2` in the variational bound (Ho et al. 2020, eq. 12).

    Equation ``eq-vlb`` of ``book/notation.md``.

    :math:`\lambda_t = \frac{\beta_t^2}{2 \sigma_t^2 (1-\beta_t)(1-\bar\alpha_t)}` in nats for the summed squared error,
    where :math:`\sigma_t^2` is the sampler's variance. With the posterior variance this is
    :math:`\tfrac12(\mathrm{SNR}_{t-1}/\mathrm{SNR}_t - 1)` (Kingma et al. 2021, eq. 13). At t = 0 the posterior
    variance is 0; its neighbour's is used instead (Nichol & Dhariwal 2021, section 3.1).

    Args:
        schedule: The noise schedule, with at least two steps.
        variance: σ_t²: the posterior's β̃_t or β_t.

    Returns:
        Shape (T,), float64.

    Raises:
        ValueError: For another ``variance``, or a schedule of one step.
    """
    t = torch.arange(schedule.n_steps)
    beta, alpha_bar = schedule.beta(t), schedule.alpha_bar(t)
    if schedule.n_steps < 2:
        raise ValueError("expected a schedule of at least 2 steps")
    if variance == "posterior":
        sigma2 = schedule.posterior_coefficients(t).variance
        sigma2[0] = sigma2[1]
    elif variance == "beta":
        sigma2 = beta
    else:
        raise ValueError(f"expected variance 'posterior' or 'beta', got {variance!r}")
    return beta**2 / (2 * sigma2 * (1 - beta) * (1 - alpha_bar))


@torch.no_grad()
def per_timestep_loss(
    model: Model,
    x_0: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    generator: torch.Generator | None = None,
    *,
    parametrization: Parametrization = "eps",
) -> Tensor:
    """The simple loss at each of the given timesteps, all images noised to the same t.

    Args:
        model: As in :func:`simple_loss`; put it in evaluation mode yourself.
        x_0: Clean images (B, …).
        schedule: The noise schedule.
        timesteps: Which t, each in [0, T − 1].
        generator: Source of ε.
        parametrization: What the model predicts.

    Returns:
        Shape (len(timesteps),), float64.
    """
    losses = [
        simple_loss(
            model, x_0, schedule, generator, parametrization=parametrization, t=torch.full((len(x_0),), int(t))
        ).double()
        for t in timesteps
    ]
    return torch.stack(losses).cpu()
