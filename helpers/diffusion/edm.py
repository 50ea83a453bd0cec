r"""Continuous noise levels (EDM; Karras et al. 2022, arXiv:2206.00364, section 5 and table 1).

Noise is added, and nothing is shrunk: :math:`x = x_0 + \sigma\varepsilon`. A denoiser :math:`D(x;\sigma)` guesses
x_0. It is built around a network F whose input and target both have variance 1 at every σ:

.. math:: D(x;\sigma) = c_{skip}\,x + c_{out}\,F(c_{in}\,x;\ c_{noise}),

.. math:: c_{skip} = \frac{\sigma_d^2}{\sigma^2+\sigma_d^2},\quad
          c_{out} = \frac{\sigma\,\sigma_d}{\sqrt{\sigma^2+\sigma_d^2}},\quad
          c_{in} = \frac{1}{\sqrt{\sigma^2+\sigma_d^2}},\quad c_{noise} = \tfrac14\ln\sigma,

with σ_d the standard deviation of the data. Weighted by :math:`1/c_{out}^2`, the squared error of D is that of F
against its target :math:`(x_0 - c_{skip}x)/c_{out}`, and the loss of a network that answers 0 is 1 at every σ.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..schedules import expand_like

__all__ = ["EDMPrecond", "drop_labels", "edm_loss", "stratified_sigmas"]

P_MEAN, P_STD = -1.2, 1.2


class Coefficients(NamedTuple):
    """Of x, of F, of F's input, and F's time, each of the shape of σ."""

    skip: Tensor
    out: Tensor
    input: Tensor
    noise: Tensor


class EDMPrecond(nn.Module):
    """A network F, made into a denoiser D(x; σ).

    Equations ``eq-preconditioning`` and ``eq-preconditioning-scales`` of ``book/notation.md``.

    Args:
        network: ``F(x, c_noise)``, or ``F(x, c_noise, label)`` for models with classes.
        sigma_data: σ_d, the standard deviation of the data; 0.5 suits images in [−1, 1].

    Raises:
        ValueError: If ``sigma_data`` is not positive.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__()
        if not sigma_data > 0:
            raise ValueError(f"expected sigma_data > 0, got {sigma_data}")
        self.network = network
        self.sigma_data = sigma_data

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """c_skip, c_out, c_in and c_noise at σ > 0 (table 1), shape and dtype of ``sigma``."""
        total = sigma**2 + self.sigma_data**2
        return Coefficients(
            self.sigma_data**2 / total, sigma * self.sigma_data * total.rsqrt(), total.rsqrt(), sigma.log() / 4
        )

    def raw(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """What the network itself says, F, for noisy images (B, …) and σ, a tensor (B,) > 0 in the dtype of ``x``.

        Returns:
            Shape and dtype of ``x``.
        """
        c = self.coefficients(sigma)
        scaled = expand_like(c.input, x) * x
        labels = () if label is None else (label,)
        return self.network(scaled, c.noise.to(x.dtype), *labels).to(x.dtype)

    def forward(self, x: Tensor, sigma: Tensor | float, label: Tensor | None = None) -> Tensor:
        """The guess of the clean images.

        Args:
            x: Noisy images (B, …).
            sigma: Noise levels > 0, shape (B,), or one for all.
            label: Classes (B,), the number of classes meaning "none"; or None.

        Returns:
            Shape and dtype of ``x``.

        Raises:
            ValueError: If there is not one noise level per image, or one is not positive and finite.
        """
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        sigma = sigma.expand(len(x)) if sigma.ndim == 0 else sigma
        if sigma.shape != x.shape[:1]:
            raise ValueError(f"expected one noise level per image, shape ({len(x)},), got {tuple(sigma.shape)}")
        if not ((sigma > 0) & (sigma < float("inf"))).all():
            raise ValueError(f"expected noise levels > 0 and finite, got {sigma.min():.3g} to {sigma.max():.3g}")
        c = self.coefficients(sigma)
        return expand_like(c.skip, x) * x + expand_like(c.out, x) * self.raw(x, sigma, label)


def stratified_sigmas(
    n: int, generator: torch.Generator | None = None, p_mean: float = P_MEAN, p_std: float = P_STD
) -> Tensor:
    """Noise levels of a training batch: ln σ ~ N(p_mean, p_std²), one draw from each n-th part of the distribution.

    Each level alone has exactly this distribution; a batch covers it more evenly than independent draws would, so that
    losses scatter less from batch to batch.

    Args:
        n: How many.
        generator: Source of the randomness, on the CPU.
        p_mean: Mean of ln σ.
        p_std: Standard deviation of ln σ.

    Returns:
        Shape (n,), float32, in random order.
    """
    place = torch.randperm(n, generator=generator)
    share = (place + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    normal = torch.special.ndtri(share.clamp(1e-9, 1 - 1e-9))
    return (p_mean + p_std * normal).exp().float()


def drop_labels(label: Tensor, n_classes: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Replace a random ``share`` of the labels (B,) by ``n_classes``, "no class".

    Ho & Salimans (2022, arXiv:2207.12598, algorithm 1): one network learns both, which guidance needs.

    Raises:
        ValueError: If ``share`` is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share in [0, 1], got {share}")
    dropped = torch.rand(label.shape, generator=generator).to(label.device) < share
    return torch.where(dropped, n_classes, label)


def edm_loss(
    denoiser: EDMPrecond,
    x_0: Tensor,
    generator: torch.Generator | None = None,
    *,
    label: Tensor | None = None,
    sigma: Tensor | None = None,
) -> Tensor:
    r"""The weighted denoising loss :math:`E\,\|D(x;\sigma) - x_0\|^2/c_{out}^2` (eq. 8, table 1), per element.

    Equation ``eq-edm-loss`` of ``book/notation.md``.

    The error of D is divided by c_out after it was rounded, which adds 1e-7/c_out in float32: below 1e-4 of the whole
    from σ = 0.002 on.

    Args:
        denoiser: A preconditioned network; its wrapper by :mod:`accelerate` will do too.
        x_0: Clean images (B, …).
        generator: Source of noise levels and noise, on the CPU.
        label: Classes (B,), or None.
        sigma: Noise levels (B,) instead of random ones.

    Returns:
        A scalar; about 1 for a network that answers 0.
    """
    if sigma is None:
        sigma = stratified_sigmas(len(x_0), generator)
    sigma = sigma.to(x_0.device, x_0.dtype)
    noise = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype).to(x_0.device)
    x = x_0 + expand_like(sigma, x_0) * noise
    guess = denoiser(x, sigma, label)
    weight = getattr(denoiser, "module", denoiser).coefficients(sigma).out.reciprocal()
    return (expand_like(weight, x_0) * (guess - x_0)).square().mean()
