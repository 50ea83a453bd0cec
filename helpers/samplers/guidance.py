r"""Guidance: push the denoised image away from what a second, less informed guess says.

.. math:: D_w(x;\sigma) = D_{weak} + w\,(D - D_{weak}),

w = 1 is the denoiser alone, w > 1 exaggerates what it knows better. In terms of densities the score becomes
:math:`\nabla\log p + (w-1)\nabla\log(p/p_{weak})`: at each noise level separately the density p is tilted by the
ratio's power. The tilted densities are not the noised versions of one another, so that samples do *not* follow
:math:`p\,(p/p_{weak})^{w-1}`.

* Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, who write 1 + w for our w): p knows the class, and
  :math:`p_{weak}` does not, so that the ratio is the class's posterior :math:`p(c|x)` up to a factor: :class:`Guided`.
* Autoguidance (Karras et al. 2024, arXiv:2406.02507): :math:`p_{weak}` is a worse model of the same data, a smaller or
  earlier one: :class:`Autoguided`.

Both help at middle noise levels. At high ones they drive samples together, at low ones they change little: an interval
of σ saves evaluations and improves samples (Kynkäänniemi et al. 2024, arXiv:2404.07724).

Each takes a denoiser and is one. They are modules, so that device and evaluation mode reach the networks inside.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..schedules import expand_like
from .denoisers import Denoiser

__all__ = ["Autoguided", "Guided"]


def _checked_interval(interval: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    if not 0 <= low < high:
        raise ValueError(f"expected an interval (sigma_lo, sigma_hi) with 0 <= sigma_lo < sigma_hi, got {interval}")
    return float(low), float(high)


def _checked_scale(scale: float) -> float:
    if not math.isfinite(scale):
        raise ValueError(f"expected a finite guidance scale, got {scale}")
    return float(scale)


def _inside(sigma: Tensor, interval: tuple[float, float], scale: float) -> Tensor:
    """Which images are guided, shape (B,), bool: σ in (lo, hi], and a scale that changes something."""
    low, high = interval
    return (sigma > low) & (sigma <= high) & (scale != 1)


class Guided(nn.Module):
    """Classifier-free guidance with a network that was trained with and without labels.

    Equation ``eq-guidance`` of ``book/notation.md``.

    Inside the interval both guesses come from one call with a batch of 2B; outside of it, and for scale 1, one call
    with B.

    Args:
        denoiser: ``denoiser(x, sigma, label)``.
        scale: w; 0 gives the guess without label, 1 the one with it.
        interval: (σ_lo, σ_hi): guided where σ_lo < σ <= σ_hi, conditional alone elsewhere.
        n_classes: How many classes there are; the label ``n_classes`` is the one that means "no class".

    Raises:
        ValueError: For an interval that is not 0 <= σ_lo < σ_hi, a scale that is not finite, or ``n_classes`` below 1.

    Example:
        >>> def denoiser(x, sigma, label):  # classes 0 and 1 at their own number, no class (2) at 0.5
        ...     return torch.tensor([0.0, 1.0, 0.5])[label][:, None].expand_as(x)
        >>> x, sigma, label = torch.zeros(2, 1), torch.ones(2), torch.tensor([0, 1])
        >>> Guided(denoiser, 2.0, n_classes=2)(x, sigma, label)
        tensor([[-0.5000],
                [ 1.5000]])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        interval: tuple[float, float] = (0.0, math.inf),
        *,
        n_classes: int,
    ) -> None:
        super().__init__()
        if n_classes < 1:
            raise ValueError(f"expected at least one class, got {n_classes}")
        self.denoiser = denoiser
        self.scale, self.interval, self.n_classes = _checked_scale(scale), _checked_interval(interval), n_classes

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """Noisy images (B, …), σ (B,) and class numbers (B,) → the guided D, shape of ``x``.

        Raises:
            ValueError: Without labels.
        """
        if label is None:
            raise ValueError("expected labels: classifier-free guidance needs a class to guide towards")
        inside = _inside(sigma, self.interval, self.scale)
        if not bool(inside.any()):
            return self.denoiser(x, sigma, label)
        nothing = torch.full_like(label[inside], self.n_classes)
        both = self.denoiser(torch.cat([x, x[inside]]), torch.cat([sigma, sigma[inside]]), torch.cat([label, nothing]))
        with_label, without = both[: len(x)], both[len(x) :]
        guided = without + self.scale * (with_label[inside] - without)
        return with_label.index_put((inside,), guided)


class Autoguided(nn.Module):
    """Guidance of a denoiser by a weaker one: an early snapshot, or a smaller network.

    Equation ``eq-guidance`` of ``book/notation.md``.

    Args:
        denoiser: The good denoiser.
        weak: The weak one; asked inside the interval only, with the same labels.
        scale: w; 0 gives the weak guess, 1 the good one.
        interval: (σ_lo, σ_hi): guided where σ_lo < σ <= σ_hi, the good denoiser alone elsewhere.

    Raises:
        ValueError: For an interval that is not 0 <= σ_lo < σ_hi, or a scale that is not finite.
    """

    def __init__(
        self, denoiser: Denoiser, weak: Denoiser, scale: float, interval: tuple[float, float] = (0.0, math.inf)
    ) -> None:
        super().__init__()
        self.denoiser, self.weak = denoiser, weak
        self.scale, self.interval = _checked_scale(scale), _checked_interval(interval)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """Noisy images (B, …), σ (B,) and class numbers (B,) or None → the guided D, shape of ``x``."""
        labels = () if label is None else (label,)
        good = self.denoiser(x, sigma, *labels)
        inside = _inside(sigma, self.interval, self.scale)
        if not bool(inside.any()):
            return good
        weak = self.weak(x, sigma, *labels)
        return torch.where(expand_like(inside, x).bool(), weak + self.scale * (good - weak), good)
