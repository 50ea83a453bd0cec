r"""Langevin dynamics on Gaussians, in closed form: what a step size does, and what training with it learns.

On :math:`E(x) = x^2/(2\sigma^2)` a step :math:`x' = x - \frac\epsilon2\nabla E + \sqrt{\epsilon T}\,\xi` is linear,

.. math:: x' = b x + \sqrt{\epsilon T}\,\xi, \qquad b = 1 - \frac{\epsilon}{2\sigma^2},

so that the chain is an autoregression of first order: its variance obeys :math:`v' = b^2 v + \epsilon T`, whose fixed
point, since :math:`1 - b^2 = \frac{\epsilon}{\sigma^2}(1 - \frac{\epsilon}{4\sigma^2})`, is

.. math:: v_\infty = \frac{\epsilon T}{1 - b^2} = \frac{T\sigma^2}{1 - \epsilon/(4\sigma^2)},

reached if :math:`|b| < 1`, that is :math:`\epsilon < 4\sigma^2`; states k steps apart are correlated by :math:`b^k`.

Contrastive divergence on :math:`E = \frac12 a x^2` compares :math:`E[x^2]` of the data with that of the chains, and
stops when they are equal. If the chains are biased, what stops is a biased a.
"""

from __future__ import annotations

import math

from torch import Tensor

__all__ = [
    "decoupled_variance",
    "mala_log_acceptance",
    "persistent_fixed_point",
    "short_run_fixed_point",
    "short_run_variance",
    "ula_autocorrelation",
    "ula_stability_limit",
    "ula_variance",
]


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"expected {name} > 0 and finite, got {number}")


def _contraction(std: float, step_size: float) -> float:
    """b = 1 − ε/(2σ²)."""
    return 1 - step_size / (2 * std**2)


def ula_stability_limit(std: float = 1.0) -> float:
    """4σ²: unadjusted Langevin dynamics on N(0, σ²) has a stationary density if and only if ε is below it."""
    _check_positive(std=std)
    return 4 * std**2


def _check_stable(std: float, step_size: float) -> None:
    _check_positive(std=std, step_size=step_size)
    if step_size >= ula_stability_limit(std):
        raise ValueError(f"expected a step size below 4σ² = {4 * std**2:g}, where chains settle, got {step_size}")


def ula_variance(std: float, step_size: float, temperature: float = 1.0) -> float:
    """Tσ²/(1 − ε/(4σ²)), the stationary variance of unadjusted Langevin dynamics on the energy x²/(2σ²).

    Args:
        std: σ.
        step_size: ε, below 4σ².
        temperature: T.

    Raises:
        ValueError: For numbers that are not positive, or a step size at which there is no stationary density.

    Example:
        >>> ula_variance(std=1.0, step_size=2.0)
        2.0
    """
    _check_stable(std, step_size)
    _check_positive(temperature=temperature)
    return temperature * std**2 / (1 - step_size / (4 * std**2))


def ula_autocorrelation(std: float, step_size: float, lag: int = 1) -> float:
    """(1 − ε/(2σ²))^lag, the correlation of stationary states ``lag`` steps apart; negative for ε > 2σ² and odd lags.

    Raises:
        ValueError: As :func:`ula_variance`, or for a lag that is no whole number of steps.
    """
    _check_stable(std, step_size)
    if lag < 0 or lag != int(lag):
        raise ValueError(f"expected a lag of whole steps >= 0, got {lag}")
    return _contraction(std, step_size) ** lag


def decoupled_variance(alpha: float, tau: float, std: float = 1.0) -> float:
    r"""Stationary variance of :math:`x' = x - \alpha\nabla E + \tau\xi` on N(0, σ²).

    It is :math:`\tau^2/(1-(1-\alpha/\sigma^2)^2)`. As α → 0 it is σ² times the temperature τ²/(2α).

    Args:
        alpha: α, below 2σ².
        tau: τ.
        std: σ.

    Raises:
        ValueError: For numbers that are not positive, or α ≥ 2σ².
    """
    _check_positive(tau=tau)
    _check_stable(std, 2 * alpha)
    return tau**2 / (1 - _contraction(std, 2 * alpha) ** 2)


def mala_log_acceptance(x: Tensor, x_new: Tensor, step_size: float) -> Tensor:
    r"""log r of a proposal of MALA on N(0, I) at T = 1: :math:`\frac{\epsilon}{8}(\|x\|^2 - \|x'\|^2)`.

    Of the difference of energies, ½(‖x‖² − ‖x'‖²), the proposal densities take back all but ε/4.

    Args:
        x: Where chains are (B, …).
        x_new: Proposals (B, …).
        step_size: ε.

    Returns:
        Shape (B,).

    Raises:
        ValueError: For batches of different shapes, or a step size that is not positive.
    """
    _check_positive(step_size=step_size)
    if x.ndim < 2 or x.shape != x_new.shape:
        raise ValueError(f"expected two batches (B, ...) of one shape, got {tuple(x.shape)} and {tuple(x_new.shape)}")
    return step_size / 8 * (x.flatten(1).square().sum(1) - x_new.flatten(1).square().sum(1))


def persistent_fixed_point(data_std: float, step_size: float) -> float:
    r"""The a that persistent contrastive divergence with Langevin dynamics learns from N(0, s²), for E = ½ax².

    Chains have the variance :math:`(1/a)/(1 - \epsilon a/4)`; where it equals s²,
    :math:`a = \frac{2}{\epsilon}(1 - \sqrt{1 - \epsilon/s^2})`: above 1/s², since the chains' excess variance has to be
    made up for, and twice that at the largest step.

    Args:
        data_std: s.
        step_size: ε ≤ s²; beyond, chains are wider than the data for every a.

    Raises:
        ValueError: For numbers that are not positive, or ε > s².

    Example:
        >>> persistent_fixed_point(data_std=1.0, step_size=1.0)
        2.0
    """
    _check_positive(data_std=data_std, step_size=step_size)
    if step_size > data_std**2:
        raise ValueError(f"expected a step size of at most s² = {data_std**2:g}, got {step_size}: no a fits the data")
    # The same without the difference of nearly equal numbers at small steps.
    return 2 / (data_std**2 * (1 + math.sqrt(1 - step_size / data_std**2)))


def short_run_variance(curvature: float, step_size: float, n_steps: int, initial_variance: float) -> float:
    r"""Variance after n steps from N(0, v₀) on E = ½ax²: :math:`b^{2n}v_0 + \epsilon\frac{1-b^{2n}}{1-b^2}`.

    Here b = 1 − εa/2.

    Args:
        curvature: a, of either sign.
        step_size: ε.
        n_steps: n ≥ 1.
        initial_variance: v₀ ≥ 0.

    Raises:
        ValueError: For a step size that is not positive, fewer than one step or a negative variance.
    """
    _check_positive(step_size=step_size)
    if n_steps < 1 or not initial_variance >= 0:
        raise ValueError(f"expected n_steps >= 1 and initial_variance >= 0, got {n_steps} and {initial_variance}")
    return _variance_at(1 - step_size * curvature / 2, step_size, n_steps, initial_variance)


def _variance_at(b: float, step_size: float, n_steps: int, initial_variance: float) -> float:
    """Σ instead of a quotient, which would be 0/0 at b = ±1."""
    return b ** (2 * n_steps) * initial_variance + step_size * sum(b ** (2 * k) for k in range(n_steps))


def short_run_fixed_point(data_std: float, step_size: float, n_steps: int, initial_variance: float) -> float:
    r"""The a that short-run training learns from N(0, s²): chains that start from N(0, v₀) anew, and take n steps.

    It solves :func:`short_run_variance` = s² for a, on the side where chains do not overshoot (b ≥ 0), where there is
    exactly one solution. The chains end with the data's variance whatever n is; the energy is right only as n → ∞ and ε
    → 0. With few steps from a narrow start, v₀ + nε < s², a is *negative*: the energy pushes chains out, and
    :math:`e^{-E}` is no density at all.

    Args:
        data_std: s.
        step_size: ε ≤ s².
        n_steps: n ≥ 1.
        initial_variance: v₀ ≥ 0.

    Raises:
        ValueError: For numbers out of their ranges; for ε > s², where the last step's noise alone is too much; for one
            step from v₀ = 0, where a does not matter.

    Example:
        >>> f"{short_run_fixed_point(data_std=1.0, step_size=0.1, n_steps=1000, initial_variance=4.0):.4f}"
        '1.0263'
        >>> short_run_fixed_point(data_std=1.0, step_size=0.01, n_steps=20, initial_variance=0.0) < 0
        True
    """
    _check_positive(data_std=data_std, step_size=step_size)
    if step_size > data_std**2:
        raise ValueError(f"expected a step size of at most s² = {data_std**2:g}, got {step_size}: no a fits the data")
    if n_steps == 1 and initial_variance == 0:
        raise ValueError("expected more than one step from a start without variance: the first is nothing but noise")
    target = data_std**2
    short_run_variance(0.0, step_size, n_steps, initial_variance)  # checks the others

    # The variance grows with b ≥ 0: bisection, from b = 0 to where one step alone is enough.
    low, high = 0.0, 1.0
    while _variance_at(high, step_size, n_steps, initial_variance) < target:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if _variance_at(middle, step_size, n_steps, initial_variance) < target:
            low = middle
        else:
            high = middle
    return 2 * (1 - (low + high) / 2) / step_size
