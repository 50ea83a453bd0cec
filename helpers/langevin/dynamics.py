r"""Langevin dynamics: walk downhill in energy, and add noise.

.. math:: x' = x - \frac{\epsilon}{2}\nabla E(x) + \sqrt{\epsilon T}\,\xi, \qquad \xi \sim N(0, I).

It is the Euler–Maruyama step of length ε of :math:`dx = -\frac12\nabla E\,dt + \sqrt{T}\,dW`, whose stationary density
is :math:`\propto e^{-E/T}` (Roberts & Tweedie 1996, "Exponential convergence of Langevin distributions and their
discrete approximations"). A finite ε is wrong by O(ε): on N(0, σ²) at T = 1 the variance is
:math:`\sigma^2/(1-\epsilon/4\sigma^2)`, and for :math:`\epsilon \ge 4\sigma^2` the chain runs away
(:mod:`helpers.oracle.langevin`).

Papers also write :math:`x' = x - \alpha\nabla E + \tau\xi`: α = ε/2. Choosing α and τ freely is choosing the
temperature :math:`T = \tau^2/(2\alpha)`, often without saying so.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..energy import Energy, NonFiniteEnergyError, energy_and_gradient, frozen
from .chains import ChainsDivergedError, check_run, check_temperature, standard_normal

__all__ = ["TemperatureWarning", "annealed_langevin_dynamics", "implied_temperature", "langevin_dynamics"]


class TemperatureWarning(UserWarning):
    """The step and the noise imply another temperature than the one that was given."""


def implied_temperature(step_size: float, noise_scale: float) -> float:
    """T such that x − (ε/2)∇E + τξ samples exp(−E/T) as ε → 0: T = τ²/ε, with ``step_size`` ε, ``noise_scale`` τ.

    Example:
        >>> f"{implied_temperature(20.0, 0.005):.3g}"  # IGEBM on CIFAR-10: α = 10, τ = 0.005
        '1.25e-06'
    """
    return noise_scale**2 / step_size


def _factor_of_noise(step_size: float, temperature: float, noise_scale: float | None) -> float:
    """√(εT), or ``noise_scale`` with a warning if that is something else."""
    check_temperature(temperature, lowest=">= 0")
    if noise_scale is None:
        return math.sqrt(step_size * temperature)
    if not 0 <= noise_scale < math.inf:
        raise ValueError(f"expected a noise_scale >= 0 and finite, got {noise_scale}")
    implied = implied_temperature(step_size, noise_scale)
    if not math.isclose(implied, temperature, rel_tol=1e-6):
        warnings.warn(
            f"noise_scale {noise_scale:g} with step_size {step_size:g} samples exp(-E/T) at T = {implied:.3g}, not at "
            f"T = {temperature:g}: pass temperature={implied:.6g} if that is what you want, or leave noise_scale out",
            TemperatureWarning,
            stacklevel=3,
        )
    return noise_scale


def _finite(gradient: Callable[[Tensor], Tensor], x: Tensor, before: Tensor, step: int, step_size: float) -> Tensor:
    """The gradient at x; where it cannot be had, what was ``before`` is not lost."""
    try:
        return gradient(x)
    except NonFiniteEnergyError as error:
        raise ChainsDivergedError(before, step, error.bad, step_size) from error


def _walk(
    gradient: Callable[[Tensor], Tensor],
    x: Tensor,
    n_steps: int,
    step_size: float,
    noise_factor: float,
    generator: torch.Generator | None,
    *,
    clamp: tuple[float, float] | None = None,
    trajectory: Tensor | None = None,
) -> Tensor:
    """The loop: one gradient a step. Fills ``trajectory`` from its second entry on, where there is one."""
    before = x
    for step in range(n_steps):
        force = _finite(gradient, x, before, step, step_size)
        before, x = x, torch.add(x, force, alpha=-step_size / 2)
        if noise_factor:
            x.add_(standard_normal(x, generator), alpha=noise_factor)
        if clamp is not None:
            x.clamp_(*clamp)
        if trajectory is not None:
            trajectory[step + 1] = x
    finite = x.isfinite().flatten(1).all(1)
    if not finite.all():
        raise ChainsDivergedError(before, n_steps, ~finite, step_size)
    return x


def _clipped(gradient: Tensor, largest: float) -> Tensor:
    """Each chain's gradient (B, …), scaled to a Euclidean norm of at most ``largest``."""
    norm = gradient.flatten(1).norm(dim=1)
    return gradient * (largest / norm.clamp(min=largest)).reshape(-1, *[1] * (gradient.ndim - 1))


def langevin_dynamics(
    energy: Energy,
    x: Tensor,
    n_steps: int,
    step_size: float,
    temperature: float = 1.0,
    noise_scale: float | None = None,
    grad_clip: float | None = None,
    clamp: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
    return_trajectory: bool = False,
) -> Tensor:
    r"""Unadjusted Langevin dynamics (ULA): :math:`x' = x - \frac{\epsilon}{2}\nabla E(x) + \sqrt{\epsilon T}\,\xi`.

    Equation ``eq-langevin`` of ``book/notation.md``.

    Each step costs one gradient. While it runs, the parameters of the energy require no gradients and its modules are
    in evaluation mode; afterwards, even on an error, both are as before.

    Whether a step size is stable is known before the run only if the energy's curvature is: ε must stay below
    4/(its largest eigenvalue), which :func:`helpers.langevin.largest_stable_step` estimates at given points. Otherwise
    divergence shows when a number overflows, as :class:`ChainsDivergedError`.

    Args:
        energy: ``energy(x) -> (B,)``, low is likely; a module, a method of one, or a function.
        x: The chains' states (B, …), floating point; not changed.
        n_steps: Number of steps, at least 1.
        step_size: ε > 0.
        temperature: T ≥ 0; 0 is gradient descent with the step ε/2.
        noise_scale: Factor of ξ in place of √(εT): then the chains sample at T = noise_scale²/ε.
        grad_clip: Scale each chain's gradient down to at most this Euclidean norm. Where it acts, the density that is
            sampled is another one.
        clamp: (lowest, highest): values are cut to this range after every step. It, too, changes the density.
        generator: Source of the noise.
        return_trajectory: Whether to return all states.

    Returns:
        The states after the last step (B, …); with ``return_trajectory`` all of them, (n_steps + 1, B, …), the given
        ones first.

    Raises:
        TypeError: If ``x`` is not a floating-point tensor.
        ValueError: For arguments out of their ranges, an energy that is not of shape (B,) or does not depend on x.
        ChainsDivergedError: If an energy, a gradient or a state is not finite; it holds the last finite states.

    Warns:
        TemperatureWarning: If ``noise_scale`` and ``step_size`` imply another temperature than ``temperature``.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = langevin_dynamics(lambda x: x.square().sum(1) / 2, torch.zeros(9000, 1), 60, 0.2, generator=generator)
        >>> abs(x.var().item() - 1 / (1 - 0.2 / 4)) < 0.05
        True
    """
    check_run(x, n_steps, step_size)
    noise_factor = _factor_of_noise(step_size, temperature, noise_scale)
    if grad_clip is not None and not grad_clip > 0:
        raise ValueError(f"expected grad_clip > 0 or None, got {grad_clip}")
    if clamp is not None and not clamp[0] < clamp[1]:
        raise ValueError(f"expected clamp as (lowest, highest), got {clamp}")

    def gradient(x: Tensor) -> Tensor:
        force = energy_and_gradient(energy, x)[1]
        return force if grad_clip is None else _clipped(force, grad_clip)

    x = x.detach()
    trajectory = _started(x, n_steps) if return_trajectory else None
    with frozen(energy):
        x = _walk(gradient, x, n_steps, step_size, noise_factor, generator, clamp=clamp, trajectory=trajectory)
    return x if trajectory is None else trajectory


def _started(x: Tensor, n_steps: int) -> Tensor:
    """Room for a trajectory (n_steps + 1, B, …), with ``x`` as its first entry."""
    trajectory = x.new_empty((n_steps + 1, *x.shape))
    trajectory[0] = x
    return trajectory


def annealed_langevin_dynamics(
    energy_or_score: Callable[..., Tensor],
    x: Tensor,
    sigmas: Sequence[float] | Tensor,
    n_steps: int,
    relative_step: float = 0.2,
    temperature: float = 1.0,
    *,
    label: Tensor | None = None,
    denoise_last: bool = False,
    generator: torch.Generator | None = None,
    return_trajectory: bool = False,
) -> Tensor:
    r"""Langevin dynamics at one noise level after the other, the largest first.

    After Song & Ermon (2019, arXiv:1907.05600, algorithm 1). At level σ the step is :math:`\epsilon = r\sigma^2`, with
    r = ``relative_step``: lengths are then measured in σ, and every level looks alike. Here the stable range is known
    beforehand: for every density of the data the Hessian of :math:`E_\sigma = -\log p_\sigma` is at most
    :math:`I/\sigma^2`, and reached across the directions in which data do not vary, so that r must be below 4; there
    the variance at the end of a level is :math:`T\sigma^2/(1 - r/4)`.

    Args:
        energy_or_score: ``energy(x, sigma) -> (B,)`` or ``score(x, sigma) -> (B, …)`` (told apart by the shape of
            the first answer), or either with a third argument for labels.
        x: Where the chains start (B, …), as a rule σ_1 times standard normal noise.
        sigmas: Noise levels > 0, decreasing.
        n_steps: Steps at each level, at least 1.
        relative_step: r = ε/σ², below 4.
        temperature: T ≥ 0. Below 1 samples are tidier, and no longer those of the model.
        label: Classes (B,), or None.
        denoise_last: Whether to end with x + σ²·score, the mean of the clean data given x (Tweedie), which takes away
            the last level's noise (Jolicoeur-Martineau et al. 2021, arXiv:2009.05475). One more evaluation.
        generator: Source of the noise.
        return_trajectory: Whether to return the states after each level too.

    Returns:
        The states at the end (B, …); with ``return_trajectory`` the given ones and those after each level,
        (levels + 1, B, …). Denoised, where asked for, is the last entry only.

    Raises:
        TypeError: If ``x`` is not a floating-point tensor.
        ValueError: For arguments out of their ranges, or an answer that is neither energies nor scores.
        ChainsDivergedError: If a number is not finite; it holds the last finite states.
    """
    levels = [float(sigma) for sigma in sigmas]
    if not levels or any(not 0 < sigma < math.inf for sigma in levels) or sorted(levels, reverse=True) != levels:
        raise ValueError(f"expected decreasing noise levels > 0, got {levels}")
    check_run(x, n_steps, relative_step)
    check_temperature(temperature, lowest=">= 0")
    if relative_step >= 4:
        raise ValueError(f"expected relative_step below 4, where Langevin dynamics is unstable, got {relative_step}")
    x = x.detach()
    trajectory = _started(x, len(levels)) if return_trajectory else None
    with frozen(energy_or_score):
        is_energy = _answers_with_energies(energy_or_score, x, levels[0], label)
        for k, sigma in enumerate(levels):
            gradient = _gradient_at(energy_or_score, is_energy, sigma, label)
            step_size = relative_step * sigma**2
            x = _walk(gradient, x, n_steps, step_size, math.sqrt(step_size * temperature), generator)
            if trajectory is not None:
                trajectory[k + 1] = x
        if denoise_last:
            x = x - levels[-1] ** 2 * _finite(gradient, x, x, n_steps, step_size)
    if trajectory is None:
        return x
    trajectory[-1] = x
    return trajectory


def _conditions(x: Tensor, sigma: float, label: Tensor | None) -> tuple[Tensor, ...]:
    level = x.new_full(x.shape[:1], sigma)
    return (level,) if label is None else (level, label)


def _answers_with_energies(function: Callable[..., Tensor], x: Tensor, sigma: float, label: Tensor | None) -> bool:
    with torch.no_grad():
        shape = tuple(function(x, *_conditions(x, sigma, label)).shape)
    if shape not in (tuple(x.shape), tuple(x.shape[:1])):
        raise ValueError(f"expected energies of shape ({len(x)},) or scores of shape {tuple(x.shape)}, got {shape}")
    return shape != tuple(x.shape)


def _gradient_at(
    function: Callable[..., Tensor], is_energy: bool, sigma: float, label: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """∇E_σ, of an energy by autograd, or as minus a score."""

    def of_energy(x: Tensor) -> Tensor:
        return energy_and_gradient(function, x, *_conditions(x, sigma, label))[1]

    def of_score(x: Tensor) -> Tensor:
        with torch.no_grad():
            gradient = -function(x, *_conditions(x, sigma, label))
        finite = gradient.isfinite().flatten(1).all(1)
        if not finite.all():
            raise NonFiniteEnergyError(f"{int((~finite).sum())} of {len(x)} samples have a score not finite", ~finite)
        return gradient

    return of_energy if is_energy else of_score
