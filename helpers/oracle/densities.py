r"""Densities whose noised versions, scores and best denoisers are known exactly.

Noising with :math:`x_t = \sqrt{\bar\alpha} x_0 + \sqrt{1-\bar\alpha}\,\varepsilon` turns a Gaussian mixture
:math:`\sum_k w_k N(\mu_k, \Sigma_k)` into the mixture
:math:`\sum_k w_k N(\sqrt{\bar\alpha}\mu_k,\ \bar\alpha\Sigma_k + (1-\bar\alpha) I)`. Its score follows by
differentiation, and the denoiser with the least squared error by Tweedie's formula (Robbins 1956; Efron 2011,
doi:10.1198/jasa.2011.tm11181):

.. math:: E[x_0 | x_t] = \frac{x_t + (1-\bar\alpha)\nabla \log p_t(x_t)}{\sqrt{\bar\alpha}}.

A finite data set is the mixture with all :math:`\Sigma_k = 0`: its best denoiser is a softmax-weighted mean of the
data. Everything is float64. Lessons and tests compare learned networks with these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..schedules import NoiseSchedule, alpha_bar_from_sigma, expand_like

__all__ = [
    "Density",
    "FiniteData",
    "GaussianMixture",
    "eight_gaussians",
    "exact_denoiser",
    "exact_eps_model",
    "standard_gaussian",
    "two_gaussians",
]


class Density(Protocol):
    """What can be noised and denoised exactly; `alpha_bar` is a number or shape (B,)."""

    def score(self, x_t: Tensor, alpha_bar: Tensor | float = 1.0) -> Tensor:
        """∇ log p_t at ``x_t``, shape (B, D)."""

    def denoise(self, x_t: Tensor, alpha_bar: Tensor | float) -> Tensor:
        """E[x_0 | x_t], shape (B, D)."""


def _columns(x: Tensor, alpha_bar: Tensor | float, dim: int) -> tuple[Tensor, Tensor]:
    """Check x of shape (B, dim) and spread alpha_bar over it as (B, 1), both float64."""
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"expected points of shape (B, {dim}), got {tuple(x.shape)}")
    x = x.double()
    alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float64)
    if not bool(((alpha_bar >= 0) & (alpha_bar <= 1)).all()):
        raise ValueError("expected alpha_bar in [0, 1]")
    return x, expand_like(alpha_bar.expand(len(x)) if alpha_bar.ndim == 0 else alpha_bar, x)


class GaussianMixture:
    r""":math:`p(x) = \sum_k w_k N(x; \mu_k, \Sigma_k)` in D dimensions.

    Args:
        means: Shape (K, D).
        covariances: Shape (K, D, D), symmetric positive definite; or a number s² for s² I everywhere.
        weights: Shape (K,), positive; normalised here. Equal if not given.

    Raises:
        ValueError: For shapes that do not fit, weights that are not positive, or a covariance that is not symmetric
            and positive definite.

    Example:
        >>> mixture = GaussianMixture(torch.tensor([[0.0]]), 1.0)
        >>> mixture.score(torch.tensor([[2.0]])).item()
        -2.0
    """

    def __init__(self, means: Tensor, covariances: Tensor | float, weights: Tensor | None = None) -> None:
        means = torch.as_tensor(means, dtype=torch.float64)
        if means.ndim != 2:
            raise ValueError(f"expected means of shape (K, D), got {tuple(means.shape)}")
        k, dim = means.shape
        covariances = torch.as_tensor(covariances, dtype=torch.float64)
        if covariances.ndim == 0:
            covariances = covariances * torch.eye(dim, dtype=torch.float64).expand(k, dim, dim)
        if covariances.shape != (k, dim, dim):
            raise ValueError(f"expected covariances of shape ({k}, {dim}, {dim}), got {tuple(covariances.shape)}")
        weights = torch.as_tensor(torch.ones(k) if weights is None else weights, dtype=torch.float64)
        if weights.shape != (k,) or not bool((weights > 0).all()):
            raise ValueError(f"expected {k} positive weights, got {weights.tolist()}")
        if not torch.allclose(covariances, covariances.mT):
            raise ValueError("expected symmetric covariances")
        # Noising keeps the axes of each component and changes the variances along them only.
        self._variances, self._axes = torch.linalg.eigh(covariances)  # (K, D) and (K, D, D)
        if bool((self._variances <= 0).any()):
            raise ValueError("expected positive definite covariances; use FiniteData for points")
        self.means, self.covariances = means, covariances
        self.weights = weights / weights.sum()

    @property
    def dim(self) -> int:
        """D."""
        return self.means.shape[1]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent draws, shape (n, D), float64."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        factor = torch.linalg.cholesky(self.covariances)[which]
        return self.means[which] + torch.einsum("bij,bj->bi", factor, noise)

    def noised(self, alpha_bar: float) -> GaussianMixture:
        """The density of x_t at one ᾱ in [0, 1]: again a mixture."""
        alpha_bar = float(alpha_bar)
        if not 0 <= alpha_bar <= 1:
            raise ValueError(f"expected alpha_bar in [0, 1], got {alpha_bar}")
        eye = torch.eye(self.dim, dtype=torch.float64)
        covariances = alpha_bar * self.covariances + (1 - alpha_bar) * eye
        return GaussianMixture(math.sqrt(alpha_bar) * self.means, covariances, self.weights)

    def _components(self, x_t: Tensor, alpha_bar: Tensor | float) -> tuple[Tensor, Tensor]:
        """log(w_k N_k(x_t)), shape (B, K), and each component's score, shape (B, K, D)."""
        x, a = _columns(x_t, alpha_bar, self.dim)
        variances = a[:, :, None] * self._variances + (1 - a)[:, :, None]  # (B, K, D)
        residual = torch.einsum("bkd,kde->bke", x[:, None] - a.sqrt()[:, :, None] * self.means, self._axes)
        log_normal = -0.5 * (residual**2 / variances + variances.log() + math.log(2 * math.pi)).sum(-1)
        scores = -torch.einsum("bke,kde->bkd", residual / variances, self._axes)
        return self.weights.log() + log_normal, scores

    def log_prob(self, x_t: Tensor, alpha_bar: Tensor | float = 1.0) -> Tensor:
        """log p_t(x_t). Args: x_t (B, D); alpha_bar, a number or (B,). Returns: (B,), float64; differentiable."""
        return torch.logsumexp(self._components(x_t, alpha_bar)[0], dim=1)

    def score(self, x_t: Tensor, alpha_bar: Tensor | float = 1.0) -> Tensor:
        """∇ log p_t(x_t), shape (B, D): the components' scores, weighted by their responsibilities."""
        log_weighted, scores = self._components(x_t, alpha_bar)
        return (log_weighted.softmax(dim=1)[..., None] * scores).sum(1)

    def responsibilities(self, x_t: Tensor, alpha_bar: Tensor | float = 1.0) -> Tensor:
        """p(component k | x_t), shape (B, K)."""
        return self._components(x_t, alpha_bar)[0].softmax(dim=1)

    def denoise(self, x_t: Tensor, alpha_bar: Tensor | float) -> Tensor:
        """E[x_0 | x_t] by Tweedie's formula, shape (B, D).

        Raises:
            ValueError: If an ``alpha_bar`` is 0: nothing of x_0 is left in x_t then.
        """
        x, a = _columns(x_t, alpha_bar, self.dim)
        if bool((a == 0).any()):
            raise ValueError("expected alpha_bar above 0: Tweedie's formula divides by it")
        return (x + (1 - a) * self.score(x, alpha_bar)) / a.sqrt()

    def energy(self, x: Tensor) -> Tensor:
        """E(x) = −log p(x), shape (B,): low is likely."""
        return -self.log_prob(x)


class FiniteData:
    r"""The empirical distribution of N points: what a network is shown in training.

    Its noised density is a mixture of N Gaussians of covariance :math:`(1-\bar\alpha) I` around
    :math:`\sqrt{\bar\alpha}\,x^{(i)}`. No network can have a smaller training loss than :meth:`denoise`.

    Args:
        points: Shape (N, …); points of any shape are flattened inside and given back in theirs.

    Raises:
        ValueError: If there is no point.
    """

    def __init__(self, points: Tensor) -> None:
        if points.ndim < 2 or len(points) == 0:
            raise ValueError(f"expected points of shape (N, ...) with N >= 1, got {tuple(points.shape)}")
        self.shape = points.shape[1:]
        self.points = points.double().flatten(1)

    def posterior_weights(self, x_t: Tensor, alpha_bar: Tensor | float) -> Tensor:
        """p(x_0 = point i | x_t). Args: x_t (B, …); alpha_bar in [0, 1). Returns: (B, N), rows sum to 1."""
        return self._log_joint(x_t, alpha_bar).softmax(dim=1)

    def _log_joint(self, x_t: Tensor, alpha_bar: Tensor | float) -> Tensor:
        if x_t.shape[1:] != self.shape or x_t.ndim < 2:
            raise ValueError(f"expected points of shape (B, {', '.join(map(str, self.shape))}), got {tuple(x_t.shape)}")
        x, a = _columns(x_t.flatten(1), alpha_bar, self.points.shape[1])
        if bool((a >= 1).any()):
            raise ValueError("expected alpha_bar below 1: without noise a finite data set has no density")
        squared = (x * x).sum(1, keepdim=True) - 2 * a.sqrt() * (x @ self.points.T) + a * (self.points**2).sum(1)
        variance = 1 - a
        return -0.5 * (squared / variance + x.shape[1] * torch.log(2 * math.pi * variance)) - math.log(len(self.points))

    def log_prob(self, x_t: Tensor, alpha_bar: Tensor | float) -> Tensor:
        """log p_t(x_t), shape (B,), float64."""
        return torch.logsumexp(self._log_joint(x_t, alpha_bar), dim=1)

    def denoise(self, x_t: Tensor, alpha_bar: Tensor | float) -> Tensor:
        """E[x_0 | x_t], the weighted mean of the data. Returns: shape of ``x_t``, float64."""
        return (self.posterior_weights(x_t, alpha_bar) @ self.points).reshape(len(x_t), *self.shape)

    def score(self, x_t: Tensor, alpha_bar: Tensor | float = 1.0) -> Tensor:
        """∇ log p_t(x_t) = (√ᾱ E[x_0|x_t] − x_t) / (1 − ᾱ), shape of ``x_t``."""
        x = x_t.double()
        mean = self.denoise(x, alpha_bar)
        alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float64)
        a = expand_like(alpha_bar, x)
        return (a.sqrt() * mean - x) / (1 - a)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n points drawn with replacement, shape (n, …), float64."""
        which = torch.randint(len(self.points), (n,), generator=generator)
        return self.points[which].reshape(n, *self.shape)


def exact_eps_model(density: Density, schedule: NoiseSchedule) -> Callable[[Tensor, Tensor], Tensor]:
    r"""The perfect noise predictor for a known density, callable like a network.

    :math:`\hat\varepsilon(x_t, t) = -\sqrt{1-\bar\alpha_t}\,\nabla\log p_t(x_t)`.

    Args:
        density: For example a :class:`GaussianMixture` or :class:`FiniteData`.
        schedule: Gives ᾱ_t.

    Returns:
        ``model(x_t, t) -> eps`` in the dtype of ``x_t``.
    """

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        alpha_bar = schedule.alpha_bar(t)
        eps = -expand_like((1 - alpha_bar).sqrt(), x_t.double()) * density.score(x_t, alpha_bar)
        return eps.to(x_t.dtype)

    return model


def exact_denoiser(density: Density) -> Callable[..., Tensor]:
    r"""The best denoiser in the convention of continuous noise:
    :math:`D(x;\sigma) = E[x_0 | x_0 + \sigma\varepsilon = x]`.

    Equation ``eq-tweedie`` of ``book/notation.md``.

    Args:
        density: For example a :class:`GaussianMixture` or :class:`FiniteData`.

    Returns:
        ``denoiser(x, sigma, label=None)`` for x of shape (B, …) and σ ≥ 0 (positive for finite data) of shape (B,), in
        the dtype of ``x``. It has no classes: the label is not used.

    Example:
        >>> D = exact_denoiser(standard_gaussian())
        >>> D(torch.tensor([[2.0, -4.0]]), torch.tensor([1.0]))
        tensor([[ 1., -2.]])
    """

    def denoiser(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        alpha_bar = alpha_bar_from_sigma(sigma)
        return density.denoise(expand_like(alpha_bar.sqrt(), x.double()) * x, alpha_bar).to(x.dtype)

    return denoiser


def standard_gaussian(dim: int = 2) -> GaussianMixture:
    """N(0, I) in ``dim`` dimensions."""
    return GaussianMixture(torch.zeros(1, dim), 1.0)


def two_gaussians(
    distance: float = 2.0, std: float = 0.5, weights: tuple[float, float] = (0.5, 0.5)
) -> GaussianMixture:
    """A 1-D mixture at ±distance/2: the smallest density with something to decide."""
    means = torch.tensor([[-distance / 2], [distance / 2]], dtype=torch.float64)
    return GaussianMixture(means, std**2, torch.tensor(weights))


def eight_gaussians(radius: float = 2.0, std: float = 0.3) -> GaussianMixture:
    """Eight equal round Gaussians on a circle, the classic 2-D test."""
    angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    return GaussianMixture(radius * torch.stack([angle.cos(), angle.sin()], dim=1), std**2)
