r"""Noise schedules: how much of the image is left at each step.

The forward process multiplies by :math:`\sqrt{1-\beta_t}` and adds Gaussian noise of
variance :math:`\beta_t` at each of the steps t = 0, …, T − 1. Written from the clean image
x_0 in one go (Ho et al. 2020, arXiv:2006.11239, eq. 4),

.. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \varepsilon,
          \qquad \bar\alpha_t = \prod_{s \le t} (1 - \beta_s).

Convention: time runs from data to noise and **t = 0 is the first noisy step**, so that the
clean image is t = −1 with :math:`\bar\alpha_{-1} = 1`. Three equivalent clocks are in use:
:math:`\bar\alpha_t`, the signal-to-noise ratio :math:`\mathrm{SNR}_t = \bar\alpha_t / (1 - \bar\alpha_t)`
(Kingma et al. 2021, arXiv:2107.00630) and the noise level
:math:`\sigma_t = \mathrm{SNR}_t^{-1/2}` of the rescaled image
:math:`x_t / \sqrt{\bar\alpha_t} = x_0 + \sigma_t\varepsilon` (Karras et al. 2022, arXiv:2206.00364).

Solvers in continuous time need no table of steps, only a decreasing grid of noise levels σ to stop at:
:func:`karras_sigmas`, :func:`log_snr_sigmas`, and :func:`append_zero` for the last step, to the clean image.

All values are float64 on the CPU; whoever uses them casts (:func:`expand_like`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "CosineSchedule",
    "LinearSchedule",
    "NoiseSchedule",
    "PosteriorCoefficients",
    "alpha_bar_from_sigma",
    "append_zero",
    "expand_like",
    "karras_sigmas",
    "log_snr_sigmas",
    "sigma_from_alpha_bar",
]


def expand_like(values: Tensor, x: Tensor) -> Tensor:
    """One value per sample, shaped to broadcast over that sample.

    Args:
        values: Shape (B,) or ().
        x: Shape (B, …), floating point.

    Returns:
        ``values`` with shape (B, 1, …, 1) (or ()), on the device and in the dtype of ``x``.

    Raises:
        ValueError: If ``values`` has neither B elements nor one.
        TypeError: If ``x`` holds integers, to which most values would round to 0.
    """
    if not x.is_floating_point():
        raise TypeError(f"expected floating-point x, got {x.dtype}")
    if values.ndim == 0:
        return values.to(x.device, x.dtype)
    if values.shape != x.shape[:1]:
        raise ValueError(f"expected one value per sample, shape ({x.shape[0]},), got {tuple(values.shape)}")
    return values.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def sigma_from_alpha_bar(alpha_bar: Tensor | float) -> Tensor:
    r""":math:`\sigma = \sqrt{(1-\bar\alpha)/\bar\alpha}`: the noise beside a unit signal.

    Args:
        alpha_bar: In (0, 1], any shape.

    Returns:
        float64 of that shape.

    Raises:
        ValueError: For a value outside (0, 1].
    """
    alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float64)
    if not bool(((alpha_bar > 0) & (alpha_bar <= 1)).all()):
        raise ValueError("expected alpha_bar in (0, 1]")
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def alpha_bar_from_sigma(sigma: Tensor | float) -> Tensor:
    r""":math:`\bar\alpha = 1/(1+\sigma^2)`, the inverse of :func:`sigma_from_alpha_bar`.

    The two worlds differ by a scale only: :math:`x_0 + \sigma\varepsilon` times :math:`\sqrt{\bar\alpha}` is x_t.

    Args:
        sigma: At least 0, any shape.

    Returns:
        float64 of that shape.

    Raises:
        ValueError: For a value below 0.
    """
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    if not bool((sigma >= 0).all()):
        raise ValueError("expected noise levels of at least 0")
    return 1 / (1 + sigma**2)


@dataclass(frozen=True)
class PosteriorCoefficients:
    r"""Coefficients of :math:`q(x_s | x_t, x_0) = N(c_0 x_0 + c_t x_t,\ \tilde\beta I)`, s < t.

    Attributes:
        x0: :math:`c_0`, shape of t.
        xt: :math:`c_t`, shape of t.
        variance: :math:`\tilde\beta`, shape of t; 0 where s = −1.
    """

    x0: Tensor
    xt: Tensor
    variance: Tensor


class NoiseSchedule:
    r"""A discrete variance-preserving schedule, given by its :math:`\beta_t`.

    Args:
        betas: Shape (T,), each in (0, 1).

    Raises:
        ValueError: If ``betas`` is not a non-empty vector of numbers inside (0, 1).

    Example:
        >>> schedule = LinearSchedule(1000)
        >>> round(float(schedule.alpha_bar(0)), 6)
        0.9999
        >>> float(schedule.alpha_bar(-1))
        1.0
    """

    def __init__(self, betas: Tensor) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64).cpu()
        if betas.ndim != 1 or len(betas) == 0:
            raise ValueError(f"expected betas of shape (T,) with T >= 1, got {tuple(betas.shape)}")
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(f"expected every beta in (0, 1), got values from {betas.min():.4g} to {betas.max():.4g}")
        self.betas = betas
        # Entry k holds step k − 1, so that t = −1 (clean data, alpha_bar = 1) has a place.
        self._alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, dim=0)])

    @property
    def n_steps(self) -> int:
        """T, the number of noisy steps."""
        return len(self.betas)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n_steps={self.n_steps})"

    def _check(self, t: Tensor | int, lowest: int = -1) -> Tensor:
        t = torch.as_tensor(t).cpu()
        if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
            raise TypeError(f"expected integer timesteps, got {t.dtype}")
        t = t.long()  # narrow types wrap around, and bytes would index as a mask
        if t.numel() and (t.min() < lowest or t.max() >= self.n_steps):
            low, high = int(t.min()), int(t.max())
            got = str(low) if low == high else f"{low} to {high}"
            raise ValueError(f"expected timesteps from {lowest} to {self.n_steps - 1}, got {got}")
        return t

    def beta(self, t: Tensor | int) -> Tensor:
        """β_t. Args: t, integers in [0, T − 1], any shape. Returns: float64 of that shape."""
        return self.betas[self._check(t, lowest=0)]

    def alpha_bar(self, t: Tensor | int) -> Tensor:
        """ᾱ_t, the share of the variance that is still signal. Args: t, integers in [−1, T − 1], any shape."""
        return self._alpha_bar[self._check(t) + 1]

    def snr(self, t: Tensor | int) -> Tensor:
        """ᾱ_t / (1 − ᾱ_t); infinite at t = −1. Args: t, integers in [−1, T − 1], any shape.

        Equation ``eq-snr`` of ``book/notation.md``.
        """
        alpha_bar = self.alpha_bar(t)
        return alpha_bar / (1 - alpha_bar)

    def sigma(self, t: Tensor | int) -> Tensor:
        """σ_t = √((1 − ᾱ_t)/ᾱ_t), the noise level beside a unit signal; 0 at t = −1.

        Equation ``eq-snr`` of ``book/notation.md``.
        """
        return sigma_from_alpha_bar(self.alpha_bar(t))

    def t_from_snr(self, snr: Tensor | float) -> Tensor:
        """The time at which the signal-to-noise ratio has this value: the inverse of :meth:`snr`.

        Linear in log SNR between neighbouring steps, and exact on them.

        Args:
            snr: Positive, any shape.

        Returns:
            float64 of the same shape, in [0, T − 1]; values outside the schedule's range are clamped to its ends.

        Raises:
            ValueError: If a value is not positive.
        """
        snr = torch.as_tensor(snr, dtype=torch.float64)
        if not bool((snr > 0).all()):
            raise ValueError(f"expected positive signal-to-noise ratios, got a minimum of {float(snr.min()):.4g}")
        wanted = -snr.log()
        grid = -self.snr(torch.arange(self.n_steps)).log()  # increasing in t
        right = torch.searchsorted(grid, wanted.contiguous()).clamp(1, max(self.n_steps - 1, 1))
        if self.n_steps == 1:
            return torch.zeros_like(snr)
        left = right - 1
        fraction = (wanted - grid[left]) / (grid[right] - grid[left])
        return left + fraction.clamp(0, 1)

    def t_from_sigma(self, sigma: Tensor | float) -> Tensor:
        """The time with this noise level σ: the inverse of :meth:`sigma`, as :meth:`t_from_snr`.

        Raises:
            ValueError: If a value is negative; 0 is clamped to the first step.
        """
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        if not bool((sigma >= 0).all()):
            raise ValueError(f"expected noise levels of at least 0, got a minimum of {float(sigma.min()):.4g}")
        return self.t_from_snr(sigma.clamp(max=1e150) ** -2)

    def posterior_coefficients(self, t: Tensor | int, t_prev: Tensor | int | None = None) -> PosteriorCoefficients:
        r"""Bayes' rule for the step back, :math:`q(x_s | x_t, x_0)`, s < t (Ho et al. 2020, eq. 6–7, for s = t − 1).

        Equation ``eq-posterior`` of ``book/notation.md``.

        With :math:`\alpha_{t|s} = \bar\alpha_t / \bar\alpha_s`:
        :math:`c_0 = \sqrt{\bar\alpha_s}(1-\alpha_{t|s})/(1-\bar\alpha_t)`,
        :math:`c_t = \sqrt{\alpha_{t|s}}(1-\bar\alpha_s)/(1-\bar\alpha_t)`,
        :math:`\tilde\beta = (1-\bar\alpha_s)(1-\alpha_{t|s})/(1-\bar\alpha_t)`.

        Args:
            t: Integers in [0, T − 1], any shape.
            t_prev: The step s to go back to, in [−1, t); t − 1 if not given.

        Raises:
            ValueError: If some ``t_prev`` is not below its ``t``.
        """
        t = self._check(t, lowest=0)
        s = t - 1 if t_prev is None else self._check(t_prev)
        if bool((s >= t).any()):
            raise ValueError("expected t_prev < t: a step back goes to a less noisy time")
        at, as_ = self.alpha_bar(t), self.alpha_bar(s)
        step = at / as_
        return PosteriorCoefficients(
            x0=as_.sqrt() * (1 - step) / (1 - at),
            xt=step.sqrt() * (1 - as_) / (1 - at),
            variance=(1 - as_) * (1 - step) / (1 - at),
        )


def _check_steps(n_steps: int) -> None:
    if not isinstance(n_steps, int) or isinstance(n_steps, bool) or n_steps < 1:
        raise ValueError(f"expected n_steps to be an integer of at least 1, got {n_steps!r}")


class LinearSchedule(NoiseSchedule):
    r"""β rises linearly (Ho et al. 2020, section 4; their setting is the default).

    Args:
        n_steps: T.
        beta_start: β_0.
        beta_end: β_{T−1}. For T ≠ 1000, both are usually scaled by 1000/T to end at the same noise.
    """

    def __init__(self, n_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        _check_steps(n_steps)
        super().__init__(torch.linspace(beta_start, beta_end, n_steps, dtype=torch.float64))


class CosineSchedule(NoiseSchedule):
    r"""ᾱ follows a squared cosine (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17).

    :math:`\bar\alpha = f(k/T)/f(0)` after k steps, with :math:`f(u) = \cos^2(\frac{u+s}{1+s}\frac\pi2)`, and β clipped.

    Args:
        n_steps: T.
        s: Offset that keeps the first steps from being too small.
        max_beta: Upper clip of β; without it the last β would be 1.
    """

    def __init__(self, n_steps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> None:
        _check_steps(n_steps)
        u = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
        f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
        super().__init__((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def _check_grid(n: int, sigma_min: float, sigma_max: float) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"expected n to be an integer of at least 1, got {n!r}")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")


def karras_sigmas(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    r"""Noise levels whose ρ-th roots are evenly spaced (Karras et al. 2022, arXiv:2206.00364, eq. 5).

    Equation ``eq-karras-grid`` of ``book/notation.md``.

    :math:`\sigma_i = \big(\sigma_{max}^{1/\rho} +
    \frac{i}{n-1}(\sigma_{min}^{1/\rho} - \sigma_{max}^{1/\rho})\big)^\rho`, i = 0, …, n − 1. ρ = 1 spaces σ evenly; the
    larger ρ, the shorter the steps near the data; ρ → ∞ gives :func:`log_snr_sigmas`.

    Args:
        n: How many.
        sigma_min: The last level, positive; :func:`append_zero` adds the step from it to the clean image.
        sigma_max: The first level; the only one if n is 1.
        rho: ρ, positive.

    Returns:
        Shape (n,), float64, strictly decreasing; both ends exactly as given.

    Raises:
        ValueError: For n below 1, levels that are not 0 < sigma_min < sigma_max, or ρ that is not positive, or so large
            or small that levels cannot be told apart.

    Example:
        >>> karras_sigmas(3, 1.0, 9.0, rho=2.0).tolist()
        [9.0, 4.0, 1.0]
    """
    _check_grid(n, sigma_min, sigma_max)
    if not 0 < rho < math.inf:
        raise ValueError(f"expected rho > 0, got {rho}")
    apart = f"expected a rho that keeps the levels apart, got {rho}"
    try:
        first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    except OverflowError as error:
        raise ValueError(apart) from error
    sigmas = _with_exact_ends(torch.linspace(first, last, n, dtype=torch.float64) ** rho, sigma_min, sigma_max)
    if not bool((sigmas.diff() < 0).all()):
        raise ValueError(apart)
    return sigmas


def log_snr_sigmas(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    r"""A geometric grid: even in log σ, and so in :math:`\log\mathrm{SNR} = -2\log\sigma` (Lu et al. 2022,
    arXiv:2206.00927).

    Args:
        n: How many.
        sigma_min: The last level, positive.
        sigma_max: The first level; the only one if n is 1.

    Returns:
        Shape (n,), float64, strictly decreasing; both ends exactly as given.

    Raises:
        ValueError: For n below 1, or levels that are not 0 < sigma_min < sigma_max.

    Example:
        >>> [round(sigma, 6) for sigma in log_snr_sigmas(3, 0.01, 100.0).tolist()]
        [100.0, 1.0, 0.01]
    """
    _check_grid(n, sigma_min, sigma_max)
    ramp = torch.linspace(math.log(sigma_max), math.log(sigma_min), n, dtype=torch.float64)
    return _with_exact_ends(ramp.exp(), sigma_min, sigma_max)


def _with_exact_ends(sigmas: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    """Roots and logarithms move the ends by a rounding error: put them back."""
    sigmas[-1] = sigma_min
    sigmas[0] = sigma_max
    return sigmas


def append_zero(sigmas: Tensor) -> Tensor:
    """The grid with σ = 0, the clean image, as its last stop. Args: sigmas (n,). Returns: (n + 1,).

    Raises:
        ValueError: If ``sigmas`` is not a non-empty vector of positive numbers (perhaps it ends in 0 already).
    """
    if sigmas.ndim != 1 or len(sigmas) == 0 or not bool((sigmas > 0).all()):
        raise ValueError(f"expected a non-empty vector of positive noise levels, got {sigmas.tolist()}")
    return torch.cat([sigmas, sigmas.new_zeros(1)])
